//! Messages that nobody took go where their queue says: to an exchange, and from there as if published.
//!
//! ```text
//! queue, under its lock: [dying] --ask--> here: take some -> headers, route -> one hold of the log: Published + Settled
//!                           ^                    |                                  |
//!                           '-- read back first -'                                  '-> target queues, then gone here
//! ```
//!
//! A hop of a message is one hold of the log: after a crash it is in the queue it left or in those it went to, and never
//! in both or neither. No client stands behind it: a task of `net` steps, and a simulation does. Each step is one turn,
//! whatever died at once, and queues take turns.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::broker::copies;
use crate::broker::death::{self, Death};
use crate::broker::exchange::Exchange;
use crate::broker::history::Remembered;
use crate::broker::node::Node;
use crate::broker::publish::{Burst, Receipt};
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::Settlements;
use crate::broker::room;
use crate::broker::route::{self, Routed, Targets};
use crate::broker::vhost::Vhost;
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::clock::Now;
use crate::message::block::{Big, Pieces};
use crate::message::block_header::Marks;
use crate::message::names::NamesBuf;
use crate::message::place::Lsn;
use crate::message::record::{BodyView, Content, MessageView};
use crate::message::run::Run;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::queue::dying::Reason;
use crate::queue::lane::Piece;
use crate::queue::settings::DeadLetterTo;

/// So many messages of a run are taken before the next queue's turn.
const MESSAGES_AT_ONCE: u32 = 20;
/// A turn takes no more bytes, one message apart: all of it is one hold of the log, which must find room as a whole.
const TURN_BYTES_MAX: u64 = 4 << 20;
/// What could not go and must not be lost is tried again after so many milliseconds.
const RETRY_MS: u64 = 1000;
/// So many queues that wait for room are tried after a look at the disk, those first that have waited longest.
const TRIED_PER_LOOK: usize = 1000;

/// Queues with dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    /// A leaf: nothing is locked under it.
    state: Mutex<State>,
    /// So many bytes of those that the log must know of may go on before the disk is looked at again.
    allowed_bytes: AtomicU64,
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self { state: Mutex::default(), allowed_bytes: AtomicU64::new(u64::MAX) }
    }
}

#[derive(Debug, Default)]
struct State {
    queues: VecDeque<Arc<Queue>>,
    /// Messages that a queue had no place for.
    refused: VecDeque<Refused>,
    /// Those for whose next one there was no room on the disk: others go before them until it is looked at again.
    held_queues: VecDeque<Arc<Queue>>,
    held_refused: VecDeque<Refused>,
    waker: Option<Waker>,
}

/// A message, and the queue that had no place for it.
type Refused = (Arc<Queue>, Run);

impl State {
    fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.refused.is_empty()
    }

    /// Some of those that wait for room are tried again.
    fn try_held(&mut self) {
        let some = TRIED_PER_LOOK.min(self.held_queues.len());
        self.queues.extend(self.held_queues.drain(..some));
        let some = TRIED_PER_LOOK.min(self.held_refused.len());
        self.refused.extend(self.held_refused.drain(..some));
    }
}

impl DeadLetters {
    /// A queue has dead letters. It asks once, under its lock.
    pub(super) fn ask(&self, queue: &Arc<Queue>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.queues.push_back(Arc::clone(queue));
        if let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    /// A queue has no place for a message that is not in it yet.
    pub(super) fn ask_for_refused(&self, queue: &Arc<Queue>, run: Run, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.refused.push_back((Arc::clone(queue), run));
        if let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    fn take_refused(&self) -> Option<Refused> {
        self.state.lock().refused.pop_front()
    }

    /// So much room is theirs until the disk is looked at again: [`u64::MAX`] where there is plenty.
    pub(super) fn allow(&self, bytes: u64) {
        self.allowed_bytes.store(bytes, Ordering::Relaxed);
        self.state.lock().try_held();
        self.go_on();
    }

    fn has_plenty(&self) -> bool {
        self.allowed_bytes.load(Ordering::Relaxed) == u64::MAX
    }

    fn lets(&self, bytes: u64) -> bool {
        room::lets_dead_letter(bytes, self.allowed_bytes.load(Ordering::Relaxed))
    }

    fn spend(&self, bytes: u64) {
        let less = |allowed: u64| (allowed != u64::MAX).then(|| allowed.saturating_sub(bytes));
        // Where there is plenty nothing is counted.
        let _ = self.allowed_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The log may take more again.
    pub(super) fn go_on(&self) {
        let waker = self.state.lock().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn put_back_refused(&self, queue: Arc<Queue>, run: Run) {
        self.state.lock().refused.push_front((queue, run));
    }

    fn hold_refused(&self, queue: Arc<Queue>, run: Run) {
        self.state.lock().held_refused.push_back((queue, run));
    }

    fn hold(&self, queue: Arc<Queue>) {
        self.state.lock().held_queues.push_back(queue);
    }

    fn take(&self) -> Option<Arc<Queue>> {
        self.state.lock().queues.pop_front()
    }

    fn put_back(&self, queue: Arc<Queue>) {
        self.state.lock().queues.push_back(queue);
    }
}

/// Dead letters on their way, between one step and the next.
#[derive(Debug, Default)]
pub struct Burials {
    burst: Burst,
    settlements: Settlements,
    /// Bytes that this turn has taken.
    turn_bytes: u64,
    /// There was no room on the disk for the last one: it is where it was.
    is_held: bool,
}

/// What is taken of a queue at once.
struct Taken {
    reason: Reason,
    run: Run,
    /// Where they go; `None` when the queue no longer says.
    to: Option<DeadLetterTo>,
    /// It is one message, which stays until all queues that it is for have a place for it.
    is_kept: bool,
}

impl Burials {
    /// Ready when [`Burials::step`] has something to do; otherwise the task will be woken. While the log takes no more
    /// from publishers it takes nothing from here either: more is durable then, or a checkpoint gives slots back
    /// (`DeadLetters::go_on`). A queue for whose next one an alarm of the disk leaves no room waits for the next look.
    pub fn poll(&mut self, node: &Node, context: &mut Context<'_>) -> Poll<()> {
        let mut state = node.dead_letters.state.lock();
        state.waker = Some(context.waker().clone());
        if self.burst.is_handing_over() {
            return Poll::Ready(());
        }
        // One that was held all the same is larger than what there is: the next look tells.
        if node.dead_letters.has_plenty() && state.is_empty() && !self.is_held {
            state.try_held();
        }
        if state.is_empty() {
            return Poll::Pending;
        }
        drop(state);
        if node.log.is_congested() {
            node.log.wake_when_durable(Lsn::default(), context.waker());
            // It may have caught up before anybody could be woken.
            return if node.log.is_congested() { Poll::Pending } else { Poll::Ready(()) };
        }
        Poll::Ready(())
    }

    /// One turn. What was collected in one turn and is for very many queues is handed over in several.
    pub fn step(&mut self, broker: &Broker, now: Now) {
        let mut wakes = Wakes::with_turns_of(broker.config.limits.turn_steps);
        wakes.begin_turn(now.steady_ms);
        if !self.burst.is_handing_over() {
            self.burst.received_at(now.steady_ms);
            self.collect(broker, now, &mut wakes);
        }
        if self.burst.hand_over(&broker.node, &mut self.settlements, &mut wakes).is_some() {
            // No publisher waits where it is crowded: what is dead is in memory or on the disk already.
            self.burst.take_crowded();
            // Nor is anybody told that a dead letter was refused: it is gone.
            self.burst.take_refused();
            broker.releases.adopt(self.burst.take_undelivered());
        }
        broker.releases.take_over(&mut wakes);
    }

    /// Takes what died, of one queue after the other, and what some refused. A hold of the log is of one virtual host.
    fn collect(&mut self, broker: &Broker, now: Now, wakes: &mut Wakes) {
        let letters = &broker.node.dead_letters;
        let mut vhost: Option<Arc<str>> = None;
        let mut is_other = |queue: &Queue| {
            let own = &queue.properties.vhost;
            *vhost.get_or_insert_with(|| Arc::clone(own)) != *own
        };
        self.turn_bytes = 0;
        while wakes.steps() < wakes.turn_steps() / 2
            && self.turn_bytes < TURN_BYTES_MAX
            && let Some((queue, run)) = letters.take_refused()
        {
            if is_other(&queue) {
                letters.put_back_refused(queue, run);
                break;
            }
            let settings = Arc::clone(&queue.lock().settings);
            let to = settings.dead_letter.clone();
            // A single message, which goes or is held.
            let taken = Taken { reason: Reason::MaxLen, run, to, is_kept: false };
            self.publish_some(broker, &queue, &taken, now, wakes);
            if self.is_held {
                letters.hold_refused(queue, taken.run);
                continue;
            }
            broker.node.dead.count(&settings, Reason::MaxLen, taken.run.count().into());
        }
        while !wakes.is_turn_over()
            && self.turn_bytes < TURN_BYTES_MAX
            && let Some(queue) = letters.take()
        {
            wakes.count(1);
            if is_other(&queue) {
                letters.put_back(queue);
                break;
            }
            if let Some(taken) = queue.take_dying(wakes) {
                let gone = self.publish_some(broker, &queue, &taken, now, wakes);
                let (first, end) = (taken.run.first_seq(), taken.run.end_seq());
                if taken.is_kept {
                    broker.node.dead.confirmed.add(gone.into());
                }
                if let Some(gone) = taken.run.part(first, first.after(gone)) {
                    self.settlements.of(&queue).buried(&gone);
                }
                if let Some(rest) = taken.run.part(first.after(gone), end) {
                    if taken.is_kept {
                        self.complain(broker, &queue, now);
                    }
                    queue.put_back_dying(Taken { run: rest, ..taken }, wakes);
                }
                if self.is_held { letters.hold(queue) } else { letters.put_back(queue) }
            }
        }
    }

    /// Dead letters of a queue wait: somebody should know.
    fn complain(&self, broker: &Broker, queue: &Queue, now: Now) {
        if let Some(left_out) = broker.complaints.allow(now.instant) {
            let name = &queue.properties.name;
            tracing::warn!(queue = ?name, left_out, "dead letters wait for a queue with a place for them");
        }
    }

    /// Publishes what was taken, as far as this turn goes; how many messages are gone. What stays though it is its turn
    /// cannot go.
    fn publish_some(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        taken: &Taken,
        now: Now,
        wakes: &mut Wakes,
    ) -> u32 {
        let Taken { reason, run, to, is_kept } = taken;
        self.is_held = false;
        wakes.count(1);
        let Some(vhost) = broker.vhost(&queue.properties.vhost) else { return run.count() };
        let (name, time_s) = (&*queue.properties.name, now.unix_ms / 1000);
        let death = to.as_ref().map(|to| Death { queue: name, reason: *reason, time_s, to });
        let mut gone = 0;
        for message in run.messages() {
            wakes.count(1);
            if let Some(exchange) = queue.delays_for() {
                self.publish_delayed(broker, &vhost, exchange, &message, run, wakes);
            } else if let Some(death) = &death {
                let has_gone = self.publish(broker, &vhost, death, &message, (run.marks(), *is_kept), wakes);
                if *is_kept && !has_gone {
                    // It waits for its place, or for room on the disk.
                    break;
                }
            }
            if self.is_held {
                break;
            }
            gone += 1;
            if wakes.is_turn_over() || self.turn_bytes >= TURN_BYTES_MAX {
                break;
            }
        }
        gone
    }

    /// The delay of a message is over: the exchange that kept it back routes it now. Its header says so by its sign.
    fn publish_delayed(
        &mut self,
        broker: &Broker,
        vhost: &Arc<Vhost>,
        exchange: &str,
        message: &MessageView<'_>,
        run: &Run,
        wakes: &mut Wakes,
    ) {
        let properties = death::without_delay(message.properties);
        let content =
            Content { names: message.names, properties: properties.as_properties().as_bytes(), body: &[] };
        let headers = properties.as_properties().headers().unwrap_or(Table::EMPTY);
        let keys: Vec<_> =
            std::iter::once(message.names.routing_key()).chain(copies::keys(headers)).collect();
        let Some(exchange) = vhost.exchange(exchange) else { return };
        let Some(routed) = route_on(broker, vhost, &exchange, &keys, &content, message.body, wakes) else {
            return;
        };
        self.hand_to_burst(broker, &routed.targets, &content, (run.marks(), false), message.body, wakes);
    }

    /// One message goes on. Whether it is on its way: not where there is no exchange, or it would go round for ever, or, if
    /// it is kept otherwise, a queue that it is for has no place for it.
    fn publish(
        &mut self,
        broker: &Broker,
        vhost: &Arc<Vhost>,
        death: &Death<'_>,
        message: &MessageView<'_>,
        (marks, is_kept): (Marks, bool),
        wakes: &mut Wakes,
    ) -> bool {
        let properties = death.properties(message.names, message.properties);
        let headers = properties.as_properties().headers().unwrap_or(Table::EMPTY);
        let keys = death.keys(message.names, headers);
        let Some(exchange) = vhost.exchange(&death.to.exchange) else { return false };
        let mut names = NamesBuf::default();
        let key = keys.first().copied().unwrap_or_default();
        names.set(death.to.exchange.as_bytes(), key);
        let properties = properties.as_properties();
        let content = Content { names: names.view(), properties: properties.as_bytes(), body: &[] };
        let Some(routed) = route_on(broker, vhost, &exchange, &keys, &content, message.body, wakes) else {
            return false;
        };
        let goes_round =
            |queue: &Arc<Queue>| death::is_in_cycle(headers, death.reason, &queue.properties.name);
        let targets: Targets = match routed.targets.iter().any(goes_round) {
            true => routed.targets.iter().filter(|queue| !goes_round(queue)).cloned().collect(),
            false => routed.targets,
        };
        let marks = death.marks(marks);
        let mut has_gone =
            self.hand_to_burst(broker, &targets, &content, (marks, is_kept), message.body, wakes);
        if exchange.is_default() && (has_gone || targets.is_empty()) {
            let shown = marks.blind.then(|| copies::without_blind(content.properties));
            let properties = shown.as_deref().unwrap_or(content.properties);
            let message = MessageView { names: content.names, properties, ..*message };
            // At most once: nobody is told of a reply that is not taken.
            let replies = &broker.replies;
            has_gone |= replies.deliver(&message, keys.iter().copied(), &broker.node.memory, wakes).is_taken;
        }
        has_gone
    }

    fn hand_to_burst(
        &mut self,
        broker: &Broker,
        targets: &Targets,
        content: &Content<'_>,
        (marks, is_kept): (Marks, bool),
        body: BodyView<'_>,
        wakes: &mut Wakes,
    ) -> bool {
        if targets.is_empty() {
            return false;
        }
        let letters = &broker.node.dead_letters;
        let is_logged = targets.iter().any(|queue| queue.logs(marks.persistent));
        let bytes = (content.properties.len() + content.names.as_bytes().len() + body.len()) as u64;
        self.is_held = is_logged && !(letters.lets(bytes) && broker.node.room.lets_hold(bytes));
        if self.is_held {
            return false;
        }
        self.turn_bytes += bytes;
        let may_be_refused = is_kept || targets.iter().any(|queue| queue.rejects());
        if may_be_refused {
            self.burst.open(targets, Some(Receipt { channel: 0, publish: 0 }), &[]);
        }
        self.add(&broker.node, targets, content, marks, body);
        let is_taken = !is_kept || self.burst.close_if_taken(&broker.node);
        if may_be_refused {
            self.burst.close();
        }
        wakes.count(self.burst.take_steps());
        if is_taken && is_logged {
            letters.spend(bytes);
        }
        is_taken
    }

    fn add(
        &mut self,
        node: &Node,
        targets: &Targets,
        content: &Content<'_>,
        marks: Marks,
        body: BodyView<'_>,
    ) {
        match body {
            BodyView::Slice(body) => self.burst.publish(node, targets, &Content { body, ..*content }, marks),
            BodyView::Chunks(pieces) => {
                let pieces = pieces.iter().cloned().collect();
                let stamp = self.burst.stamp(marks);
                let big = Big::new(content.names, content.properties, pieces, stamp, &node.memory.messages);
                self.burst.publish_big(node, targets, big);
            }
        }
    }
}

/// Where a message goes from an exchange; exchanges on the way may remember it. `None` when its patterns are too many.
fn route_on(
    broker: &Broker,
    vhost: &Arc<Vhost>,
    exchange: &Arc<Exchange>,
    keys: &[&[u8]],
    content: &Content<'_>,
    body: BodyView<'_>,
    wakes: &mut Wakes,
) -> Option<Routed> {
    let properties = Properties::unchecked(content.properties);
    let remembered =
        || Remembered::new(content.names, content.properties, pieces_of(body), &broker.node.memory);
    let routed = route::route_message(vhost, exchange, keys, properties, &remembered, wakes);
    routed.inspect_err(|error| tracing::warn!(%error, "a dead letter cannot be routed")).ok()
}

/// A body to be kept apart from the queue it was in.
fn pieces_of(body: BodyView<'_>) -> Pieces {
    match body {
        BodyView::Slice(body) => Pieces::from_iter([Bytes::copy_from_slice(body)]),
        BodyView::Chunks(pieces) => pieces.iter().cloned().collect(),
    }
}

impl Queue {
    /// The next dead letters. `None` when there is none, or none before they were read back, which is asked for; the queue
    /// asks again then.
    fn take_dying(self: &Arc<Self>, wakes: &mut Wakes) -> Option<Taken> {
        let state = &mut *self.lock();
        // What is left of a queue that is gone goes where it can, if it is in memory: nobody knows where on the disk it is.
        let is_kept = state.settings.keeps_dead_letters && !self.is_deleted();
        let mut dropped = 0;
        while self.is_deleted() && dropped < HOLD_STEPS && state.classic.drop_dying_away() {
            dropped += 1;
        }
        wakes.count(dropped);
        match state.classic.take_dying(if is_kept { 1 } else { MESSAGES_AT_ONCE }) {
            Some((reason, Piece::Here(run))) => {
                Some(Taken { reason, run, to: state.settings.dead_letter.clone(), is_kept })
            }
            Some((_, Piece::Away(_))) => {
                state.is_burying = false;
                if !std::mem::replace(&mut state.is_reading, true) {
                    self.node.reads.ask(self, wakes);
                }
                None
            }
            None => {
                state.is_burying = false;
                None
            }
        }
    }

    /// Dead letters could not go, and are tried again a little later, or it was not their turn any more.
    fn put_back_dying(self: &Arc<Self>, taken: Taken, wakes: &mut Wakes) {
        let state = &mut *self.lock();
        if taken.is_kept {
            state.classic.keep_dying(taken.reason, taken.run);
            self.note_dying(&state.classic);
            state.retry_ms.get_or_insert(wakes.now_ms() + RETRY_MS);
            self.note_deadline(state, wakes);
        } else {
            state.classic.put_back_dying(taken.reason, taken.run);
        }
    }
}
