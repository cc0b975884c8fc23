//! From the ready list into outboxes: a pull that stops when credit does.
//!
//! Reserve, take and push happen under the consumer's outbox lock, inside the queue's: two dispatchers cannot
//! swap runs, and a queue that finds no credit is remembered where the credit will come back.

use std::sync::Arc;

use crate::broker::consumer::Consumer;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::run::Run;
use crate::queue::classic::Classic;

impl Queue {
    /// Delivers what may be delivered to whoever may have it.
    pub(super) fn dispatch(self: &Arc<Self>, state: &mut Classic<Arc<Consumer>>, wakes: &mut Wakes) {
        state.on_durable(self.node.log.durable());
        while self.serve_next(state, wakes) {}
        self.index_bytes.set(state.index_bytes());
    }

    /// Serves the consumer whose turn it is, until it is another's. `false` when nothing more can be done.
    fn serve_next(self: &Arc<Self>, state: &mut Classic<Arc<Consumer>>, wakes: &mut Wakes) -> bool {
        let deliverable = state.deliverable();
        let Some(turn) = state.consumers.next() else { return false };
        if deliverable == 0 {
            return false;
        }
        let consumer = Arc::clone(turn.handle);
        let wanted = deliverable.min(if turn.is_alone { turn.credit } else { 1 });
        let mut slot = consumer.outbox.lock();
        let window = slot.window(consumer.channel);
        let count = match state.front() {
            // A consumer without acknowledgements waits for the window but does not use it up.
            Some(front) if window > 0 => {
                slot.fitting(front, if consumer.no_ack { wanted } else { wanted.min(window) })
            }
            _ => 0,
        };
        if count == 0 {
            slot.stall(self);
            state.consumers.stall();
            return true;
        }
        if let Some(run) = state.take(count) {
            state.consumers.took(if consumer.no_ack { 0 } else { run.count() });
            slot.push(&consumer, run, wakes);
        }
        true
    }

    /// Tries again for consumers that had no room or window: there is some now, or more is durable.
    pub fn resume(self: &Arc<Self>, wakes: &mut Wakes) {
        let mut state = self.lock();
        state.consumers.resume();
        self.dispatch(&mut state, wakes);
    }

    /// Takes the head for basic.get, which needs no credit. Also how many messages remain ready.
    pub fn take_one(&self) -> Option<(Run, u64)> {
        let mut state = self.lock();
        state.on_durable(self.node.log.durable());
        if state.deliverable() == 0 {
            return None;
        }
        let run = state.take(1)?;
        self.index_bytes.set(state.index_bytes());
        Some((run, state.ready_messages()))
    }
}
