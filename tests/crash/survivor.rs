//! A broker after a crash, and a client that looks at everything in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use sluicemq::broker::exchange;
use sluicemq::clock::Now;
use sluicemq::protocol::properties::Properties;
use sluicemq::routing::MatchBudget;
use sluicemq::storage::disk::Disk;

use crate::client::{Client, Delivery, Heard};
use crate::draw::{EXCHANGES, KEYS, QUEUES, is_durable};
use crate::life::{Life, Sizes};
use crate::message::Message;
use crate::op::{Op, Verdict};
use crate::shadow::Shadow;
use crate::state::{Binding, DIRECT, Destination, State};

/// Where the client looks, and where it publishes.
const LOOKING: u16 = 1;
const PUBLISHING: u16 = 2;

pub(crate) struct Survivor {
    pub(crate) life: Life,
    client: Client,
    /// The last message that was received, by its tag.
    last_tag: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// The messages, by number, that were said to be new.
    pub(crate) new: BTreeSet<(String, u32)>,
}

impl Survivor {
    /// Starts a broker on what the disk holds.
    pub(crate) fn start(disk: Arc<dyn Disk>, sizes: Sizes, epoch_seed: u64) -> Result<Self, String> {
        let life = Life::start(disk, sizes, epoch_seed)
            .map_err(|error| format!("the broker does not start: {error}"))?;
        let client = Client::connect(&life.broker, Now::read());
        Ok(Self { life, client, last_tag: 0 })
    }

    /// Receives every message, and acknowledges none.
    pub(crate) fn look(&mut self, shadow: &Shadow, by_get: bool) -> Result<Found, String> {
        let mut found = Found::default();
        let vhost = self.life.broker.vhost("/").ok_or("there is no virtual host")?;
        for (name, kind) in EXCHANGES {
            let Some(exchange) = vhost.exchange(name) else { continue };
            if !is_durable(name) || exchange.properties.kind.name() != kind {
                return Err(format!("exchange {name} should not be there, or not be so"));
            }
            found.state.exchanges.insert(name.to_owned(), kind);
            // A fanout exchange has only one key in the workload.
            for key in if kind == DIRECT { &KEYS[..] } else { &KEYS[..1] } {
                let budget = &mut MatchBudget::default();
                let routed = exchange.bindings.load().route(
                    key.as_bytes(),
                    Properties::EMPTY,
                    budget,
                    &mut |destination| {
                        let to = match destination {
                            exchange::Destination::Queue(queue) => {
                                Destination::Queue(queue.properties.name.to_string())
                            }
                            exchange::Destination::Exchange(next) => {
                                Destination::Exchange(next.properties.name.to_string())
                            }
                        };
                        let binding = Binding { source: name.to_owned(), key: key.to_string(), to };
                        found.state.bindings.insert(binding);
                    },
                );
                routed.map_err(|refused| refused.to_string())?;
            }
        }
        for name in QUEUES.into_iter().filter(|name| vhost.queue(name).is_some()) {
            if !is_durable(name) {
                return Err(format!("queue {name} should not have survived"));
            }
            let count = self.count(name)?;
            let deliveries = if by_get { self.get_all(name)? } else { self.consume_all(name)? };
            if count != deliveries.len() {
                return Err(format!("queue {name} counts {count} messages and has {}", deliveries.len()));
            }
            let mut messages = Vec::new();
            for delivery in deliveries {
                let id = delivery.content.id().ok_or("a message without a number")?;
                let message = shadow.messages.get(id as usize).ok_or("a message that was never published")?;
                let differences = message.differences(&delivery.content);
                if !differences.is_empty() {
                    return Err(format!("queue {name}: message {id} was altered: {differences:?}"));
                }
                if !delivery.redelivered {
                    found.new.insert((name.to_owned(), id));
                }
                messages.push(id);
            }
            found.state.queues.insert(name.to_owned(), messages);
        }
        Ok(found)
    }

    /// Makes a durable queue.
    pub(crate) fn declare(&mut self, queue: &str) -> Result<(), String> {
        let heard = self.ask(&Op::Declare { queue: queue.to_owned(), durable: true, passive: false })?;
        match heard {
            Heard::Answered { name: "queue.declare-ok", .. } => Ok(()),
            other => Err(format!("a declare is answered with {other:?}")),
        }
    }

    /// Receives everything of a queue, settles all but some, and goes.
    pub(crate) fn settle_all_but(&mut self, queue: &str, kept: &[u32]) -> Result<(), String> {
        for delivery in self.consume_all(queue)? {
            if delivery.content.id().is_some_and(|id| !kept.contains(&id)) {
                let (tag, multiple) = (delivery.tag, false);
                self.say(LOOKING, &Op::Settle { tag, multiple, verdict: Verdict::Ack });
            }
        }
        while self.work()? {}
        self.reconnect();
        Ok(())
    }

    /// The client goes, and another one comes.
    pub(crate) fn reconnect(&mut self) {
        self.client = Client::connect(&self.life.broker, Now::read());
        self.last_tag = 0;
    }

    fn count(&mut self, queue: &str) -> Result<usize, String> {
        let heard = self.ask(&Op::Declare { queue: queue.to_owned(), durable: true, passive: true })?;
        match heard {
            Heard::Answered { messages: Some(messages), .. } => Ok(messages as usize),
            other => Err(format!("queue {queue} cannot be declared: {other:?}")),
        }
    }

    /// Says something that has an answer.
    fn ask(&mut self, op: &Op) -> Result<Heard, String> {
        self.say(LOOKING, op);
        while self.work()? {}
        self.client.hear().map(|(_, heard)| heard).ok_or_else(|| format!("no answer to {op:?}"))
    }

    fn say(&mut self, channel: u16, op: &Op) {
        let mut bytes = BytesMut::new();
        op.encode(channel, &mut bytes);
        self.client.feed(bytes);
    }

    fn get_all(&mut self, queue: &str) -> Result<Vec<Delivery>, String> {
        let mut deliveries = Vec::new();
        loop {
            match self.ask(&Op::Get { queue: queue.to_owned(), no_ack: false })? {
                Heard::Delivered(delivery) => {
                    self.last_tag = delivery.tag;
                    deliveries.push(delivery);
                }
                Heard::Answered { name: "basic.get-empty", .. } => return Ok(deliveries),
                other => return Err(format!("a basic.get is answered with {other:?}")),
            }
        }
    }

    fn consume_all(&mut self, queue: &str) -> Result<Vec<Delivery>, String> {
        let op = Op::Consume { queue: queue.to_owned(), tag: format!("consumer of {queue}"), no_ack: false };
        self.say(LOOKING, &op);
        while self.work()? {}
        let mut deliveries = Vec::new();
        while let Some((_, heard)) = self.client.hear() {
            match heard {
                Heard::Delivered(delivery) => {
                    self.last_tag = delivery.tag;
                    deliveries.push(delivery);
                }
                Heard::Answered { name: "basic.consume-ok", .. } => {}
                other => return Err(format!("a consumer hears {other:?}")),
            }
        }
        Ok(deliveries)
    }

    /// Settles what was received, in a transaction or without, and waits until it is durable.
    pub(crate) fn acknowledge_all(&mut self, in_transaction: bool) -> Result<(), String> {
        if in_transaction {
            self.ask(&Op::TxSelect)?;
        }
        if self.last_tag > 0 {
            let (tag, multiple) = (self.last_tag, true);
            self.say(LOOKING, &Op::Settle { tag, multiple, verdict: Verdict::Ack });
        }
        if in_transaction {
            self.ask(&Op::Commit)?;
        }
        while self.work()? {}
        match self.client.hear() {
            None => Ok(()),
            Some((_, heard)) => Err(format!("an acknowledgement is answered with {heard:?}")),
        }
    }

    /// Publishes messages, and waits until they are confirmed.
    pub(crate) fn publish(&mut self, messages: &[Message]) -> Result<(), String> {
        self.reconnect();
        self.say(PUBLISHING, &Op::ConfirmSelect);
        self.say(PUBLISHING, &Op::Publish(messages.to_vec()));
        while self.work()? {}
        let mut confirmed = 0;
        while let Some((channel, heard)) = self.client.hear() {
            match heard {
                Heard::Confirmed { tag, .. } if channel == PUBLISHING => confirmed = confirmed.max(tag),
                Heard::Answered { name: "confirm.select-ok", .. } | Heard::Delivered(_) => {}
                other => return Err(format!("a publisher hears {other:?}")),
            }
        }
        if confirmed == messages.len() as u64 { Ok(()) } else { Err("a publish is not confirmed".to_owned()) }
    }

    /// Lets everything happen that has a reason to.
    fn work(&mut self) -> Result<bool, String> {
        let failed = |error| format!("the survivor fails: {error}");
        let life = &self.life;
        let stored = life.commit().map_err(failed)? | life.read_ahead().map_err(failed)?;
        Ok(self.client.work() | stored)
    }

    /// Lets checkpoints take everything; the packs that are left.
    pub(crate) fn checkpoint_all(&mut self) -> Result<Vec<String>, String> {
        let failed = |error| format!("a checkpoint fails: {error}");
        for _ in 0..3 {
            self.life.broker.node.log.seal_open_slot().map_err(failed)?;
            while self.life.commit().map_err(failed)? | self.life.checkpoint().map_err(failed)? {}
        }
        let disk = &self.life.broker.node.disk;
        let left = ["pack", "spill"].into_iter().flat_map(|dir| disk.list(dir).unwrap_or_default());
        Ok(left.collect())
    }
}
