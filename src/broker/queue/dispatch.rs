//! From the ready list into outboxes: a pull that stops when credit does.
//!
//! Reserve, take and push happen under the consumer's outbox lock, inside the queue's: two dispatchers cannot
//! swap runs, and a queue that finds no credit is remembered where the credit will come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::Wakes;
use crate::message::run::Run;
use crate::queue::classic::Head;

/// What basic.get finds.
#[derive(Debug)]
pub enum Taken {
    /// The head, and how many messages remain ready.
    Message(Run, u64),
    /// No message.
    Empty,
    /// Messages that cannot be had yet, because the head is not durable. The outbox is signalled when that has
    /// changed.
    NotYet,
}

impl Queue {
    /// Delivers what may be delivered to whoever may have it.
    pub(in crate::broker) fn dispatch(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        state.classic.on_durable(self.node.log.durable());
        while self.serve_next(state, wakes) {}
        self.let_go(state);
        self.index_bytes.set(state.classic.index_bytes());
        self.here_bytes.set(state.classic.here_bytes());
        if !state.is_reading && self.wants_reading(state) {
            state.is_reading = true;
            self.node.reads.ask(self, wakes);
        }
        self.ease_crowd(state, wakes);
        self.flows.store(state.flows(), Ordering::Relaxed);
        let classic = &state.classic;
        if !state.getters.is_empty() && (classic.deliverable() > 0 || classic.ready_messages() == 0) {
            state.wake_getters(wakes);
        }
    }

    /// Whether somebody waits for messages that must be read back first.
    fn wants_reading(&self, state: &mut State) -> bool {
        let is_wanted = !state.getters.is_empty() || state.classic.consumers.next().is_some();
        is_wanted && matches!(state.classic.head(), Head::Away(_))
    }

    /// Serves the consumer whose turn it is, until it is another's. `false` when nothing more can be done.
    fn serve_next(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) -> bool {
        let State { classic, crowd, .. } = state;
        let deliverable = classic.deliverable();
        let Some(turn) = classic.consumers.next() else { return false };
        if deliverable == 0 {
            return false;
        }
        let consumer = Arc::clone(turn.handle);
        let wanted = deliverable.min(if turn.is_alone { turn.credit } else { 1 });
        let mut slot = consumer.outbox.lock();
        let window = slot.window(consumer.channel);
        let count = match classic.front() {
            // A consumer without acknowledgements waits for the window but does not use it up.
            Some(front) if window > 0 => {
                slot.fitting(front, if consumer.no_ack { wanted } else { wanted.min(window) })
            }
            _ => 0,
        };
        if count == 0 {
            slot.stall(self);
            classic.consumers.stall();
            crowd.lacks_room |= window > 0;
            return true;
        }
        if let Some(run) = classic.take(count) {
            classic.consumers.took(if consumer.no_ack { 0 } else { run.count() });
            slot.push(&consumer, run, wakes);
        }
        true
    }

    /// Tries again for consumers that had no room or window: there is some now, or more is durable.
    pub fn resume(self: &Arc<Self>, wakes: &mut Wakes) {
        let mut state = self.lock();
        state.classic.consumers.resume();
        state.crowd.lacks_room = false;
        self.dispatch(&mut state, wakes);
    }

    /// Takes the head for basic.get, which needs no credit.
    pub fn take_one(self: &Arc<Self>, getter: &Arc<Outbox>, wakes: &mut Wakes) -> Taken {
        let mut state = self.lock();
        let State { classic, getters, .. } = &mut *state;
        classic.on_durable(self.node.log.durable());
        if classic.deliverable() > 0
            && let Some(run) = classic.take(1)
        {
            self.index_bytes.set(classic.index_bytes());
            self.here_bytes.set(classic.here_bytes());
            return Taken::Message(run, classic.ready_messages());
        }
        if classic.ready_messages() == 0 {
            return Taken::Empty;
        }
        if !getters.iter().any(|other| Arc::ptr_eq(other, getter)) {
            getters.push(Arc::clone(getter));
        }
        self.dispatch(&mut state, wakes);
        Taken::NotYet
    }

    /// The connection no longer waits for the head.
    pub fn forget_getter(&self, getter: &Arc<Outbox>) {
        self.lock().getters.retain(|other| !Arc::ptr_eq(other, getter));
    }
}
