//! What a run declares and deletes: queues, and an exchange with its bindings; and which keys lead where.

use std::process;

use anyhow::Context;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::bench::args::{Args, Kind};
use crate::bench::client::Client;
use crate::protocol::field::Field;
use crate::protocol::methods::{
    ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare, QueueDelete,
};
use crate::protocol::table::{Table, TableBuf};

/// A queue: its number in the run, and its name.
pub(super) type NamedQueue = (u16, String);

/// Where a producer publishes to.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The exchange, empty for the default one.
    pub(super) exchange: String,
    /// The keys, in the order in which they are used.
    pub(super) keys: Vec<String>,
    /// The queues that get messages.
    pub(super) queues: Vec<u16>,
    /// Each message goes to one of the queues, in turn, and not to all.
    pub(super) in_turn: bool,
}

/// Everything a run declares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Topology {
    pub(super) queues: Vec<NamedQueue>,
    durable: bool,
    /// Of the queues.
    arguments: Vec<(String, String)>,
    /// Each queue has another one for its dead letters.
    has_dead_letters: bool,
    exchange: Option<(Kind, String)>,
    bindings: u32,
}

impl Topology {
    /// What these arguments ask for.
    pub(super) fn new(args: &Args) -> Self {
        let name = |part: &str| format!("sluicemq-bench-{}-{part}", process::id());
        Self {
            queues: (0..args.queues).map(|queue| (queue, name(&queue.to_string()))).collect(),
            durable: args.persistent,
            arguments: args.queue_arg.clone(),
            has_dead_letters: args.dead_letters,
            exchange: args.exchange.map(|kind| (kind, name(kind.name()))),
            bindings: args.bindings,
        }
    }

    /// Declares all of it.
    pub(super) async fn declare(&self, control: &mut Client) -> anyhow::Result<()> {
        for (_, queue) in &self.queues {
            let mut arguments = TableBuf::new();
            for (key, value) in &self.arguments {
                let number = value.parse().map(Field::I64);
                arguments.insert(key, number.unwrap_or(Field::LongStr(value.as_bytes())));
            }
            let dead = dead_letters_of(queue);
            if self.has_dead_letters {
                arguments
                    .insert("x-dead-letter-exchange", Field::LongStr(b""))
                    .insert("x-dead-letter-routing-key", Field::LongStr(dead.as_bytes()));
                self.declare_queue(control, &dead, Table::EMPTY).await?;
            }
            self.declare_queue(control, queue, arguments.as_table()).await?;
        }
        let Some((kind, exchange)) = &self.exchange else { return Ok(()) };
        let declare = ExchangeDeclare {
            exchange,
            kind: kind.name(),
            passive: false,
            durable: self.durable,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        let declare = Method::ExchangeDeclare(declare);
        control.ask(&declare, |method| matches!(method, Method::ExchangeDeclareOk(_))).await?;
        for (_, queue) in &self.queues {
            self.bind(control, *kind, exchange, queue).await?;
        }
        Ok(())
    }

    async fn declare_queue(
        &self,
        control: &mut Client,
        queue: &str,
        arguments: Table<'_>,
    ) -> anyhow::Result<()> {
        let declare = QueueDeclare {
            queue,
            passive: false,
            durable: self.durable,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments,
        };
        let declare = Method::QueueDeclare(declare);
        control.ask(&declare, |method| matches!(method, Method::QueueDeclareOk(_))).await?;
        Ok(())
    }

    async fn bind(
        &self,
        control: &mut Client,
        kind: Kind,
        exchange: &str,
        queue: &str,
    ) -> anyhow::Result<()> {
        for at in 0..self.bindings {
            let routing_key = &pattern(kind, at);
            let bind = QueueBind { queue, exchange, routing_key, nowait: false, arguments: Table::EMPTY };
            control.ask(&Method::QueueBind(bind), |method| matches!(method, Method::QueueBindOk(_))).await?;
        }
        Ok(())
    }

    /// Deletes all of it; what was never declared is no error.
    pub(super) async fn delete(&self, control: &mut Client) -> anyhow::Result<()> {
        let own = self.queues.iter().map(|(_, queue)| queue.clone());
        let dead =
            self.queues.iter().filter(|_| self.has_dead_letters).map(|(_, queue)| dead_letters_of(queue));
        for queue in &own.chain(dead).collect::<Vec<_>>() {
            let delete = QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
            let delete = Method::QueueDelete(delete);
            control.ask(&delete, |method| matches!(method, Method::QueueDeleteOk(_))).await?;
        }
        if let Some((_, exchange)) = &self.exchange {
            let delete = Method::ExchangeDelete(ExchangeDelete { exchange, if_unused: false, nowait: false });
            let deleted = control.ask(&delete, |method| matches!(method, Method::ExchangeDeleteOk(_))).await;
            deleted.context("the exchange")?;
        }
        Ok(())
    }

    /// Where one of so many producers publishes to: its share of the queues in turn, or the exchange with keys by
    /// chance.
    pub(super) fn route(&self, place: u16, producers: u16) -> Route {
        let Some((kind, exchange)) = &self.exchange else {
            let (queues, keys) = share(&self.queues, place, producers).into_iter().unzip();
            return Route { exchange: String::new(), keys, queues, in_turn: true };
        };
        let mut keys: Vec<_> = (0..self.bindings).map(|at| key(*kind, at)).collect();
        keys.shuffle(&mut rand::rng());
        let queues = self.queues.iter().map(|(queue, _)| *queue).collect();
        Route { exchange: exchange.clone(), keys, queues, in_turn: false }
    }
}

/// The queue where dead letters of another one go.
pub(super) fn dead_letters_of(queue: &str) -> String {
    format!("{queue}-dead")
}

/// The pattern of a binding.
fn pattern(kind: Kind, at: u32) -> String {
    match (kind, at % 3) {
        (Kind::Topic, 1) => format!("*.k{at}.*"),
        (Kind::Topic, 2) => format!("a.k{at}.#"),
        _ => key(kind, at),
    }
}

/// A key that this binding alone fits.
fn key(kind: Kind, at: u32) -> String {
    match kind {
        Kind::Topic => format!("a.k{at}.z"),
        Kind::Direct | Kind::Fanout => format!("k{at}"),
    }
}

/// The queues of one of so many connections: one of them, or its share where queues are more.
pub(super) fn share(queues: &[NamedQueue], place: u16, connections: u16) -> Vec<NamedQueue> {
    let (place, connections) = (usize::from(place), usize::from(connections));
    match connections < queues.len() {
        true => queues.iter().skip(place).step_by(connections).cloned().collect(),
        false => queues.iter().cycle().skip(place % queues.len().max(1)).take(1).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn every_queue_has_a_connection_and_every_connection_a_queue() {
        for (queues, connections) in [(1, 1), (1, 5), (5, 1), (5, 3), (3, 5), (4, 4)] {
            let all: Vec<(u16, String)> = (0..queues).map(|queue| (queue, queue.to_string())).collect();
            let mut taken: Vec<u16> = Vec::new();
            for place in 0..connections {
                let share = share(&all, place, connections);
                assert!(!share.is_empty());
                taken.extend(share.iter().map(|(queue, _)| queue));
            }
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), usize::from(queues), "{queues} queues, {connections} connections");
        }
    }
}
