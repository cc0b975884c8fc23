//! What a burst owes to others, paid after it and outside every lock; and how many steps it has taken.
//!
//! A step is a message or a run handed to a queue or given back, a consumer served, a binding looked at. Whoever works
//! in turns asks after each part whether its turn is over, and lets others go first.

use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;

/// After so many steps others have their turn. What is begun is bounded by as many again.
pub const TURN_STEPS: u32 = 1000;

/// What is owed, and what it has taken.
#[derive(Debug, Default)]
pub struct Wakes {
    wakers: SmallVec<[Waker; 4]>,
    /// Connections that are to look around.
    signals: Vec<Arc<Outbox>>,
    /// Queues that may deliver more than one hold of their lock allows.
    unfinished: Vec<Arc<Queue>>,
    steps: u32,
}

impl Wakes {
    /// One more task that must learn of something.
    pub fn owe(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// More connections that are to look around.
    pub fn owe_signals(&mut self, outboxes: impl IntoIterator<Item = Arc<Outbox>>) {
        self.signals.extend(outboxes);
    }

    /// A queue that has to go on delivering.
    pub(in crate::broker) fn owe_deliveries(&mut self, queue: &Arc<Queue>) {
        self.unfinished.push(Arc::clone(queue));
    }

    /// Whether a queue has more to deliver.
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Goes on with one queue that has more to deliver. `false` when there is none.
    pub fn deliver_more(&mut self) -> bool {
        let Some(queue) = self.unfinished.pop() else { return false };
        queue.go_on(self);
        true
    }

    /// So many steps more.
    pub fn count(&mut self, steps: u32) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// How many steps this turn has taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Whether others should have their turn.
    pub fn is_turn_over(&self) -> bool {
        self.steps >= TURN_STEPS
    }

    /// The next turn.
    pub fn begin_turn(&mut self) {
        self.steps = 0;
    }

    /// Pays everything: goes on with every queue that has more to deliver, however long that takes, and wakes.
    pub fn fire(&mut self) {
        while self.deliver_more() {}
        self.wake();
    }

    /// Wakes whoever is to be woken. Queues that have more to deliver wait for the next turn.
    pub fn wake(&mut self) {
        for outbox in std::mem::take(&mut self.signals) {
            outbox.signal_into(self);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}
