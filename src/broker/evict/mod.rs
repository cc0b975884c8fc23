//! Letting go of message bytes that the disk has, when memory holds more than its share of them.
//!
//! A durable queue that nobody consumes keeps only its head. When that is not enough, what goes is the far tail of the
//! largest queues: the messages that are needed last. Persistent ones of durable queues lie in the log or in a pack
//! already; the bytes of others are first written to a pack that no restart needs (`spills`). A task does that, in
//! bounded steps.
//!
//! What of a queue may go, and what stays, is said in one place (`State::may_leave`): to whoever fills the queue, to the
//! task, and to what that writes. Read-ahead counts on it: what one read has brought is less than what stays at the head of
//! a queue that memory does not lack, and somebody who waits for the very head finds it whatever memory lacks.

mod spills;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

pub use self::spills::Spills;
use crate::broker::Broker;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::read_ahead::READ_BYTES;
use crate::broker::wakes::Wakes;
use crate::queue::lane::{Allowance, Evicted};
use crate::storage::error::StoreError;

/// Of a queue's head so much stays in memory, or a quarter of what there is.
const HEAD_BYTES_MAX: u64 = 2 * READ_BYTES;
/// A queue without consumers lets go of what the disk has beyond the head when it has more than this in memory: a quarter
/// of it is what one read brings.
const UNCONSUMED_BYTES_MAX: u64 = 4 * READ_BYTES;
/// So much of it each time that something is published to it: more than that was.
const LET_GO_BYTES: u64 = 1024 * 1024;
/// After so many looks at a thousand runs in a row that found nothing, a queue is left alone until the next time: others
/// may put in its way what was searched before.
const LOOKS_IN_VAIN_MAX: u32 = 1000;
/// Queues with less in memory are let alone.
const QUEUE_BYTES_MIN: u64 = 16 * 1024;
/// The largest queues of a look at all of them, and no more are asked in one step.
const QUEUES_PER_LOOK: usize = 1000;

/// Who is asked for what may go.
#[derive(Debug, Default)]
pub struct Largest(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The largest queues when all were last looked at: with a million of them that is not done for each step.
    queues: Vec<Weak<Queue>>,
    /// In a round nobody is asked again who had less than was wanted, until everybody was: how much a queue has in memory
    /// does not tell how much of it may go.
    round: u64,
}

impl Broker {
    /// Evicts some of what is too much. Whether there may be more to do at once. Calls `pause`, under no lock, whenever
    /// others that want the processor should have it.
    ///
    /// # Errors
    /// What the disk says. When it is full ([`StoreError::is_full`]) messages stay in memory.
    pub fn evict(&self, pause: &dyn Fn()) -> Result<bool, StoreError> {
        self.drop_unneeded_spills();
        let memory = &self.node.memory;
        let excess = memory.messages.read().saturating_sub(memory.cache_bytes());
        if excess == 0 {
            return Ok(false);
        }
        // A tenth more, so that the next publish does not ask again.
        let wanted = excess + memory.cache_bytes() / 10;
        let (mut freed, mut no_room) = (0, None);
        let (queues, round) = self.largest_queues(wanted);
        for queue in queues {
            if freed >= wanted {
                break;
            }
            let asked = wanted - freed;
            let gave = match queue.evict(asked, pause) {
                Err(error) if error.is_full() => {
                    no_room = Some(error);
                    0
                }
                gave => gave?,
            };
            if gave < asked {
                queue.asked_in.set(round);
            }
            freed += gave;
        }
        if freed < wanted {
            self.ask_holders();
        }
        no_room.map_or(Ok(freed > 0), Err)
    }

    /// Queues to take `wanted` bytes from, the largest first, and the round. All are looked at when the largest of last
    /// time do not have them.
    fn largest_queues(&self, wanted: u64) -> (Vec<Arc<Queue>>, u64) {
        let Known { queues: known, mut round } = std::mem::take(&mut *self.node.largest.0.lock());
        let mut queues: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        queues.retain(|queue| queue.asked_in.read() != round);
        let spare = queues.iter().map(|queue| queue.here_bytes.read() * 3 / 4).sum::<u64>();
        if spare < wanted {
            let large = self.large_queues();
            queues = large.iter().filter(|queue| queue.asked_in.read() != round).cloned().collect();
            if queues.is_empty() {
                (queues, round) = (large, round + 1);
            }
        }
        queues.sort_by_cached_key(|queue| (Reverse(queue.here_bytes.read()), queue.id));
        queues.truncate(QUEUES_PER_LOOK);
        let known = queues.iter().map(Arc::downgrade).collect();
        *self.node.largest.0.lock() = Known { queues: known, round };
        (queues, round)
    }

    fn large_queues(&self) -> Vec<Arc<Queue>> {
        let mut queues = Vec::new();
        for vhost in &self.vhosts {
            vhost.each_queue(|queue| {
                if queue.here_bytes.read() >= QUEUE_BYTES_MIN {
                    queues.push(Arc::clone(queue));
                }
            });
        }
        queues
    }
}

impl State {
    /// What of the queue may leave memory now when so many bytes are wanted.
    fn may_leave(&self, wanted_bytes: u64) -> Allowance {
        let head_bytes = HEAD_BYTES_MAX.min(self.classic.here_bytes() / 4);
        Allowance { wanted_bytes, head_bytes, spares_head: self.is_head_awaited() }
    }
}

impl Queue {
    /// Of a durable queue that nobody consumes only the head stays in memory: what is behind it is on the disk, and in
    /// the system's cache, for when somebody comes. Done by whoever fills the queue, a little each time.
    pub(super) fn let_go(&self, state: &mut State, wakes: &mut Wakes) {
        if state.classic.kept_bytes() < UNCONSUMED_BYTES_MAX || !state.classic.consumers.is_empty() {
            return;
        }
        let allowance = state.may_leave(LET_GO_BYTES);
        let evicted = state.classic.evict_tail(allowance);
        wakes.count(evicted.steps);
        self.node.counters.evicted_messages.add(evicted.messages);
        wakes.drop_later(evicted.runs);
    }

    /// Lets go of about `wanted` bytes of bodies; how many went.
    fn evict(self: &Arc<Self>, wanted: u64, pause: &dyn Fn()) -> Result<u64, StoreError> {
        let (mut freed, mut in_vain) = (0, 0);
        while freed < wanted && in_vain < LOOKS_IN_VAIN_MAX {
            let mut state = self.lock();
            state.classic.on_durable(self.node.log.durable());
            let allowance = state.may_leave(wanted - freed);
            let evicted = state.classic.evict_tail(allowance);
            self.note_evicted(state, &evicted);
            freed += evicted.body_bytes;
            in_vain = if evicted.body_bytes > 0 { 0 } else { in_vain + 1 };
            let is_all = !evicted.is_cut_short;
            drop(evicted);
            pause();
            if is_all {
                break;
            }
        }
        if freed < wanted {
            freed += self.spill(wanted - freed, pause)?;
        }
        Ok(freed)
    }

    /// Counts what went, and lets others at the queue: first those who wait.
    fn note_evicted(&self, state: MutexGuard<'_, State>, evicted: &Evicted) {
        self.here_bytes.set(state.classic.here_bytes());
        self.note_index(state.classic.index_bytes());
        MutexGuard::unlock_fair(state);
        self.node.counters.evicted_messages.add(evicted.messages);
    }
}
