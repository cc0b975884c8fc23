//! What a burst owes to others, paid after it and outside every lock; and how many steps it has taken.
//!
//! A step is a message or a run handed to a queue or given back, a consumer served, a binding looked at. Whoever works
//! in turns asks after each part whether its turn is over, and lets others go first. A turn also knows when it began:
//! that is the time by which messages expire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::thread;

use smallvec::SmallVec;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::Queue;
use crate::message::run::Run;

/// Steps of a turn where nothing else is said.
const TURN_STEPS: u32 = 1000;
/// So many settlements are collected, and so many messages come back, before others have their turn or the lock: parts
/// of them would be seen out of order.
pub const HOLD_STEPS: u32 = 1000;

/// What is owed, and what it has taken.
#[derive(Debug)]
pub struct Wakes {
    wakers: SmallVec<[Waker; 4]>,
    /// Connections that are to look around.
    signals: Vec<Arc<Outbox>>,
    /// Queues that may deliver more than one hold of their lock allows.
    unfinished: VecDeque<Arc<Queue>>,
    /// Messages whose memory is not freed under a lock.
    dropped: Vec<Run>,
    steps: u32,
    turn_steps: u32,
    now_ms: u64,
}

impl Default for Wakes {
    fn default() -> Self {
        Self::with_turns_of(TURN_STEPS)
    }
}

impl Wakes {
    /// Nothing owed. After so many steps others have their turn; what is begun then is bounded by as many again.
    pub fn with_turns_of(turn_steps: u32) -> Self {
        Self {
            wakers: SmallVec::new(),
            signals: Vec::new(),
            unfinished: VecDeque::new(),
            dropped: Vec::new(),
            steps: 0,
            turn_steps,
            now_ms: 0,
        }
    }

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
        self.unfinished.push_back(Arc::clone(queue));
    }

    /// Messages that memory need not hold any more: they are dropped when no lock is held.
    pub(in crate::broker) fn drop_later(&mut self, mut runs: Vec<Run>) {
        self.dropped.append(&mut runs);
    }

    /// Whether anybody is to be woken, or memory to be freed: who sleeps or goes owes nothing.
    pub fn owes(&self) -> bool {
        !self.wakers.is_empty() || !self.signals.is_empty() || !self.dropped.is_empty()
    }

    /// Whether a queue has more to deliver.
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Goes on with one queue that has more to deliver. `false` when there is none.
    pub fn deliver_more(&mut self) -> bool {
        let Some(queue) = self.take_unfinished() else { return false };
        queue.go_on(self);
        true
    }

    /// The queue that has waited longest to go on; whoever takes it goes on with it.
    pub(in crate::broker) fn take_unfinished(&mut self) -> Option<Arc<Queue>> {
        self.unfinished.pop_front()
    }

    /// So many steps more.
    pub fn count(&mut self, steps: u32) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// How many steps one turn may take.
    pub fn turn_steps(&self) -> u32 {
        self.turn_steps
    }

    /// How many steps this turn has taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Whether others should have their turn.
    pub fn is_turn_over(&self) -> bool {
        self.steps >= self.turn_steps
    }

    /// The next turn, which begins at this time ([`steady_ms`](crate::clock::Now::steady_ms)).
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.steps = 0;
        self.now_ms = now_ms;
    }

    /// When the turn began.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Pays everything: goes on with every queue that has more to deliver, however long that takes, and wakes.
    pub fn fire(&mut self) {
        while self.deliver_more() {}
        self.wake();
    }

    /// Wakes whoever is to be woken. Queues that have more to deliver wait for the next turn.
    pub fn wake(&mut self) {
        self.dropped.clear();
        if !self.signals.is_empty() {
            for outbox in std::mem::take(&mut self.signals) {
                outbox.signal_into(self);
            }
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

/// A wake that was taken and is not passed on is silent for ever: nobody would tell who waits for it again.
impl Drop for Wakes {
    fn drop(&mut self) {
        self.dropped.clear();
        let is_paid = !self.owes() && !self.has_unfinished();
        debug_assert!(is_paid || thread::panicking(), "what is owed to others is never paid: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::Wakes;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "what is owed to others is never paid")]
    fn a_wake_that_is_forgotten_is_told() {
        let mut wakes = Wakes::default();
        wakes.owe(Waker::noop().clone());
        drop(wakes);
    }

    #[test]
    fn a_wake_that_is_paid_is_owed_no_more() {
        let mut wakes = Wakes::default();
        wakes.owe(Waker::noop().clone());
        assert!(wakes.owes());
        wakes.fire();
        assert!(!wakes.owes());
    }
}
