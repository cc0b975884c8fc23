//! One attempt, from two sessions that open to two that have left: a state machine that is given turns, with the time.
//!
//! ```text
//!   Opening -> Moving -> Draining -> Leaving -> ended
//! ```
//!
//! What is taken and not answered by the destination is bounded, in messages and in bytes: beyond it nothing is heard of the
//! source, which then holds back. During an alarm what was taken arrives, and nothing more is taken. What is refused, or
//! goes nowhere, is tried again after a pause, or stays at the source where each message has one chance.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::node::Node;
use crate::clock::Now;
use crate::protocol::methods::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, BasicQos, ConfirmSelect, ExchangeDeclare, Method,
    QueueBind, QueueDeclare,
};
use crate::protocol::table::{Table, TableBuf};
use crate::transfer::flight::{Flight, Flights};
use crate::transfer::insider::{Heard, Insider, Purpose};
use crate::transfer::job::Told;
use crate::transfer::message::Message;
use crate::transfer::plan::{AckMode, From, Intake, Plan, To};
use crate::transfer::redrive::{Choice, Rate, Seen};

/// What is on its way takes no more, one message apart.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// So much is told to a session before its turn.
const TOLD_BYTES_MAX: usize = 256 * 1024;
/// So many messages are handled in one turn.
const TURN_MESSAGES: usize = 256;
/// What was refused is tried again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// Who is to stop waits so long for what is on its way.
const DRAIN: Duration = Duration::from_secs(5);
/// While all transfers together take too much of memory, or the log is behind, each looks again after this.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// A session that is left and has not taken all it was told is looked at again after this.
const LEAVING_PAUSE: Duration = Duration::from_millis(10);

/// One attempt.
#[derive(Debug)]
pub(super) struct Mover {
    plan: Arc<Plan>,
    told: Arc<Told>,
    source: Insider,
    sink: Insider,
    stage: Stage,
    flights: Flights,
    node: Arc<Node>,
    /// How many more are taken, where that is known.
    left: Option<u64>,
    /// How many more may be moved, likewise.
    limit: Option<u64>,
    rate: Option<Rate>,
    /// A basic.get is not answered.
    awaits_get: bool,
    /// When to publish once more what was refused.
    retry_at: Option<Instant>,
    /// When the next message may be taken.
    wait_until: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    Opening {
        is_source_ready: bool,
        is_sink_ready: bool,
    },
    Moving,
    /// Nothing more is taken; what is on its way is waited for.
    Draining(End, Instant),
    Leaving(End),
}

/// How an attempt ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All is moved.
    Done,
    /// Somebody wanted it to.
    Stopped,
    /// Why it cannot go on.
    Failed(String),
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to do.
    Again,
    /// Nothing before something happens, or this time comes.
    Wait(Option<Instant>),
    /// It is over.
    Ended(End),
}

impl Mover {
    /// Two sessions, each of its user.
    pub(super) fn open(
        broker: &Arc<Broker>,
        plan: &Arc<Plan>,
        told: &Arc<Told>,
        [source_user, sink_user]: [&Arc<User>; 2],
        now: Now,
    ) -> Self {
        let connect = |user, vhost| Insider::connect(broker, user, vhost, &plan.name, Purpose::Move, now);
        let (mut source, mut sink) =
            (connect(source_user, &plan.source.vhost), connect(sink_user, &plan.sink.vhost));
        let exists =
            |vhost: &str, queue: &str| broker.vhost(vhost).is_some_and(|vhost| vhost.queue(queue).is_some());
        match &plan.from {
            From::Queue { name, declared, .. } => {
                let declared = declared.as_ref().filter(|_| !exists(&plan.source.vhost, name));
                source.tell(&declare(name, declared.map(TableBuf::as_table)));
            }
            From::Exchange { name, key } => {
                let (passive, durable, auto_delete, nowait) = (false, false, false, false);
                let (queue, exclusive, arguments) = ("", true, Table::EMPTY);
                let own = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
                source.tell(&Method::QueueDeclare(own));
                let bind = QueueBind { queue, exchange: name, routing_key: key, nowait, arguments };
                source.tell(&Method::QueueBind(bind));
            }
        }
        match &plan.to {
            To::Queue { name, declared } => {
                let declared = declared.as_ref().filter(|_| !exists(&plan.sink.vhost, name));
                sink.tell(&declare(name, declared.map(TableBuf::as_table)));
            }
            To::Exchange { name: Some(name), .. } if !name.is_empty() => sink.tell(&look_for(name)),
            To::Exchange { .. } | To::Origin => {}
        }
        sink.tell(&Method::ConfirmSelect(ConfirmSelect { nowait: false }));
        Self {
            flights: Flights::new(&broker.node.memory.transfers),
            node: Arc::clone(&broker.node),
            plan: Arc::clone(plan),
            told: Arc::clone(told),
            source,
            sink,
            stage: Stage::Opening { is_source_ready: false, is_sink_ready: false },
            left: None,
            limit: None,
            rate: None,
            awaits_get: false,
            retry_at: None,
            wait_until: None,
        }
    }

    fn choice(&self) -> Option<&Choice> {
        match &self.plan.intake {
            Intake::Chosen(choice) => Some(choice),
            _ => None,
        }
    }

    /// Nothing more is to be taken; what is on its way is waited for, for a while.
    pub(super) fn stop(&mut self, now: Now) {
        match self.stage {
            Stage::Opening { .. } => self.stage = Stage::Leaving(End::Stopped),
            Stage::Moving => self.stage = Stage::Draining(End::Stopped, now.instant + DRAIN),
            Stage::Draining(..) | Stage::Leaving(_) => {}
        }
    }

    /// Whether messages are being moved.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.stage, Stage::Moving)
    }

    /// Whether it takes nothing more.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Draining(..) | Stage::Leaving(_))
    }

    /// One turn.
    pub(super) fn step(&mut self, now: Now) -> Turn {
        self.wait_until = None;
        self.sink.turn(now);
        self.source.turn(now);
        if !matches!(self.stage, Stage::Leaving(_)) {
            self.hear_sink(now);
        }
        match &self.stage {
            Stage::Opening { .. } => self.hear_source(now),
            Stage::Moving => self.go_on(now),
            Stage::Draining(..) | Stage::Leaving(_) => {}
        }
        if let Stage::Draining(end, until) = &self.stage
            && (self.flights.unanswered() == 0 || *until <= now.instant)
        {
            self.stage = Stage::Leaving(end.clone());
        }
        if let Stage::Leaving(end) = &self.stage {
            let end = end.clone();
            return self.leave(end, now);
        }
        self.sink.turn(now);
        self.source.turn(now);
        self.tell(now)
    }

    /// What was acknowledged is told to the source before it is left.
    fn leave(&mut self, end: End, now: Now) -> Turn {
        self.source.turn(now);
        if self.source.untold_bytes() > 0 {
            // Who does not listen is not listened to: what comes yet is not wanted, and goes back with the rest.
            (0..TURN_MESSAGES).take_while(|_| self.source.hear(now).is_some()).for_each(drop);
            if self.source.has_news() {
                return Turn::Again;
            }
            return Turn::Wait(Some(now.instant + LEAVING_PAUSE));
        }
        match self.source.leave(now) & self.sink.leave(now) {
            true => Turn::Ended(end),
            false => Turn::Again,
        }
    }

    fn tell(&mut self, now: Now) -> Turn {
        let takes = self.wants_source() && (self.is_to_get() || self.source.has_news());
        let says = self.sink.has_more_to_say() || self.source.has_more_to_say();
        if takes || says || self.sink.has_news() || self.is_done() {
            return Turn::Again;
        }
        let (drained, retry_at) = match &self.stage {
            // What was refused is not published once more.
            Stage::Draining(_, until) => (Some(*until), None),
            _ => (None, self.retry_at),
        };
        // Who else gives memory back tells nobody.
        let is_short = self.is_moving() && self.is_to_hold_back();
        let room_at = is_short.then(|| now.instant + ROOM_PAUSE);
        let times =
            [self.source.deadline(), self.sink.deadline(), retry_at, self.wait_until, drained, room_at];
        match times.into_iter().flatten().min() {
            Some(due) if due <= now.instant => Turn::Again,
            due => Turn::Wait(due),
        }
    }

    /// Ready when there is something to do in a turn; otherwise the task will be woken.
    pub(super) fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let polled = [self.source.poll_work(context), self.sink.poll_work(context)];
        if polled.iter().any(Poll::is_ready) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether what the source says is to be heard now.
    fn wants_source(&self) -> bool {
        match &self.stage {
            Stage::Opening { .. } => true,
            Stage::Moving => self.has_room() && self.left != Some(0) && self.wait_until.is_none(),
            Stage::Draining(..) | Stage::Leaving(_) => false,
        }
    }

    /// Whether the next message is to be asked for.
    fn is_to_get(&self) -> bool {
        self.is_moving() && self.choice().is_some() && !self.awaits_get && self.limit != Some(0)
    }

    fn has_room(&self) -> bool {
        self.flights.len() < usize::from(self.plan.prefetch.max(1))
            && self.flights.bytes() < BYTES_MAX
            && self.sink.untold_bytes() < TOLD_BYTES_MAX
            && !self.sink.is_blocked()
            && !self.is_to_hold_back()
    }

    /// Whether all transfers together take too much of memory, or the log cannot keep up: publishers are first then.
    fn is_to_hold_back(&self) -> bool {
        self.node.memory.refuses_transfers() || self.node.log.is_congested()
    }

    /// Whether all is moved that was to be.
    fn is_done(&self) -> bool {
        let is_last = self.left == Some(0) || self.limit == Some(0);
        self.is_moving() && is_last && !self.awaits_get && self.flights.len() == 0
    }

    fn fail(&mut self, reason: impl Into<String>) {
        if !matches!(self.stage, Stage::Leaving(_)) {
            self.stage = Stage::Leaving(End::Failed(reason.into()));
        }
    }

    fn hear_sink(&mut self, now: Now) {
        for _ in 0..TURN_MESSAGES {
            let Some(heard) = self.sink.hear(now) else { return };
            match heard.method() {
                Some(Method::ConfirmSelectOk(_)) => {
                    if let Stage::Opening { is_sink_ready, .. } = &mut self.stage {
                        *is_sink_ready = true;
                    }
                }
                Some(Method::BasicAck(ack)) => self.confirmed(ack.delivery_tag, ack.multiple),
                Some(Method::BasicNack(nack)) => {
                    for flight in self.flights.answered(nack.delivery_tag, nack.multiple) {
                        let reason = format!("{} has refused a message", destination(&flight.message));
                        self.refused(flight, &reason, now);
                    }
                }
                Some(Method::BasicReturn(back)) => {
                    let (exchange, key) = (back.exchange, back.routing_key);
                    if let Some(flight) = self.flights.returned(exchange, key, &heard.properties, &heard.body)
                    {
                        let reason =
                            format!("no queue takes what is sent to {}", destination(&flight.message));
                        self.refused(flight, &reason, now);
                    }
                }
                Some(Method::ChannelClose(close)) => return self.fail(close.reply_text),
                Some(Method::ConnectionClose(close)) => return self.fail(close.reply_text),
                _ => {}
            }
        }
    }

    fn confirmed(&mut self, number: u64, multiple: bool) {
        for flight in self.flights.answered(number, multiple) {
            self.told.moved.bump(1);
            if let Some(delivery_tag) = flight.tag {
                self.source.tell(&Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
            }
        }
        if self.choice().is_none() && self.flights.len() == 0 {
            self.told.be_content();
        }
    }

    /// The destination does not take a message now.
    fn refused(&mut self, flight: Flight, reason: &str, now: Now) {
        self.told.complain(reason);
        if self.choice().is_some() {
            // It has had its chance: it goes back with all that was not chosen.
            self.told.failed.bump(1);
            self.limit = self.limit.map(|limit| limit.saturating_add(1));
            return;
        }
        self.flights.keep(flight);
        self.retry_at.get_or_insert(now.instant + PAUSE);
    }

    fn hear_source(&mut self, now: Now) {
        while matches!(self.stage, Stage::Opening { .. })
            && let Some(heard) = self.source.hear(now)
        {
            self.on_source(heard, now);
        }
        if matches!(self.stage, Stage::Opening { is_source_ready: true, is_sink_ready: true }) {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Now) {
        self.stage = Stage::Moving;
        if let Some(left) = self.left {
            self.told.total.set(left);
        }
        if let Intake::Chosen(choice) = &self.plan.intake {
            self.limit = choice.limit;
            self.rate = choice.rate.filter(|_| !choice.is_dry).map(|rate| Rate::new(rate, now.instant));
            return;
        }
        if self.left == Some(0) {
            return;
        }
        let (queue, arguments) = match &self.plan.from {
            From::Queue { name, consumer, .. } => (name.as_str(), consumer.as_table()),
            From::Exchange { .. } => ("", Table::EMPTY),
        };
        let (prefetch_size, prefetch_count, global) = (0, self.plan.prefetch, false);
        self.source.tell(&Method::BasicQos(BasicQos { prefetch_size, prefetch_count, global }));
        self.source.tell(&Method::BasicConsume(BasicConsume {
            queue,
            consumer_tag: "",
            no_local: false,
            no_ack: self.plan.ack_mode == AckMode::NoAck,
            exclusive: false,
            nowait: false,
            arguments,
        }));
        self.source.turn(now);
    }

    /// Publishes what was refused once more, and takes what there is room for.
    fn go_on(&mut self, now: Now) {
        if self.retry_at.take_if(|at| *at <= now.instant).is_some() {
            for _ in 0..self.flights.len() {
                match self.flights.take_refused() {
                    Some(flight) => self.publish(flight),
                    None => break,
                }
            }
            self.sink.turn(now);
        }
        for _ in 0..TURN_MESSAGES {
            let is_done = self.left == Some(0) || self.limit == Some(0);
            if is_done && !self.awaits_get {
                if self.flights.len() == 0 {
                    self.stage = Stage::Leaving(End::Done);
                }
                return;
            }
            if !self.has_room() {
                return;
            }
            if self.choice().is_some() && !self.awaits_get && !self.get(now) {
                return;
            }
            let Some(heard) = self.source.hear(now) else { return };
            self.on_source(heard, now);
            if !matches!(self.stage, Stage::Moving) {
                return;
            }
        }
    }

    /// Asks for the next message, if its time has come.
    fn get(&mut self, now: Now) -> bool {
        self.wait_until = self.rate.as_ref().and_then(|rate| rate.wait(now.instant));
        let From::Queue { name, .. } = &self.plan.from else { return false };
        if self.wait_until.is_some() {
            return false;
        }
        self.source.tell(&Method::BasicGet(BasicGet { queue: name, no_ack: false }));
        self.source.turn(now);
        self.awaits_get = true;
        true
    }

    fn on_source(&mut self, heard: Heard, now: Now) {
        match heard.method() {
            Some(Method::QueueDeclareOk(ok)) => {
                let there = u64::from(ok.message_count);
                self.left = match &self.plan.intake {
                    Intake::All => None,
                    Intake::Count(count) => Some(*count),
                    Intake::Present | Intake::Chosen(_) => Some(there),
                };
                self.source_is_ready(matches!(self.plan.from, From::Queue { .. }));
            }
            Some(Method::QueueBindOk(_)) => self.source_is_ready(true),
            Some(Method::BasicDeliver(deliver)) => {
                let tag = (self.plan.ack_mode != AckMode::NoAck).then_some(deliver.delivery_tag);
                let (exchange, key) = (deliver.exchange.to_vec(), deliver.routing_key.to_vec());
                self.take(tag, (exchange, key), heard, now);
            }
            Some(Method::BasicGetOk(ok)) => {
                self.awaits_get = false;
                let (exchange, key) = (ok.exchange.to_vec(), ok.routing_key.to_vec());
                self.take(Some(ok.delivery_tag), (exchange, key), heard, now);
            }
            Some(Method::BasicGetEmpty(_)) => {
                self.awaits_get = false;
                self.left = Some(0);
            }
            Some(Method::BasicCancel(_)) => self.fail("the queue was deleted"),
            Some(Method::ChannelClose(close)) => self.fail(close.reply_text),
            Some(Method::ConnectionClose(close)) => self.fail(close.reply_text),
            _ => {}
        }
    }

    fn source_is_ready(&mut self, is_ready: bool) {
        if let Stage::Opening { is_source_ready, .. } = &mut self.stage {
            *is_source_ready |= is_ready;
        }
    }

    /// A message of the source's.
    fn take(&mut self, tag: Option<u64>, (exchange, key): (Vec<u8>, Vec<u8>), heard: Heard, now: Now) {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.told.looked.bump(1);
        let seen = Seen { exchange: &exchange, key: &key, properties: &heard.properties };
        let destination = match &self.plan.to {
            To::Queue { name, .. } => Some((Vec::new(), name.clone().into_bytes())),
            To::Exchange { name, key: to_key } => Some((
                name.as_ref().map_or_else(|| exchange.clone(), |name| name.clone().into_bytes()),
                to_key.as_ref().map_or_else(|| key.clone(), |key| key.clone().into_bytes()),
            )),
            To::Origin => seen.origin(self.here()).map(|queue| (Vec::new(), queue)),
        };
        let is_chosen = self.choice().is_none_or(|choice| choice.filter.matches(&seen, self.here()));
        let Some((exchange, key)) = destination.filter(|_| is_chosen) else {
            return self.told.skipped.bump(1);
        };
        self.limit = self.limit.map(|limit| limit.saturating_sub(1));
        if let Some(choice) = self.choice() {
            let is_dry = choice.is_dry;
            self.told.count(&exchange, &key);
            if is_dry {
                return;
            }
        }
        if let Some(rate) = &mut self.rate {
            rate.take(now.instant);
        }
        let properties = self.plan.stamp.apply(&heard.properties, now);
        let tag = match self.plan.ack_mode {
            AckMode::OnPublish => {
                let tag = tag.unwrap_or_default();
                self.source.tell(&Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
                None
            }
            AckMode::OnConfirm | AckMode::NoAck => tag,
        };
        self.publish(Flight { tag, message: Message { exchange, key, properties, body: heard.body.into() } });
    }

    fn here(&self) -> &str {
        match &self.plan.from {
            From::Queue { name, .. } => name,
            From::Exchange { .. } => "",
        }
    }

    /// All are mandatory: what no queue takes comes back, and is not lost.
    fn publish(&mut self, flight: Flight) {
        let Message { exchange, key, properties, body } = &flight.message;
        let publish = BasicPublish { exchange, routing_key: key, mandatory: true, immediate: false };
        self.sink.tell_content(&Method::BasicPublish(publish), properties, body.clone());
        self.flights.publish(flight);
    }
}

/// Declares a durable queue with these arguments, or only looks for it.
fn declare<'a>(queue: &'a str, arguments: Option<Table<'a>>) -> Method<'a> {
    let (passive, arguments) = (arguments.is_none(), arguments.unwrap_or(Table::EMPTY));
    let (durable, exclusive, auto_delete, nowait) = (!passive, false, false, false);
    Method::QueueDeclare(QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments })
}

fn look_for(exchange: &str) -> Method<'_> {
    let (passive, durable, auto_delete, internal, nowait) = (true, false, false, false, false);
    let (kind, arguments) = ("direct", Table::EMPTY);
    Method::ExchangeDeclare(ExchangeDeclare {
        exchange,
        kind,
        passive,
        durable,
        auto_delete,
        internal,
        nowait,
        arguments,
    })
}

fn destination(message: &Message) -> String {
    let text = String::from_utf8_lossy;
    match message.exchange.is_empty() {
        true => format!("queue '{}'", text(&message.key)),
        false => format!("exchange '{}' with key '{}'", text(&message.exchange), text(&message.key)),
    }
}
