//! Letting go of message bytes that the disk has, when memory holds more than its share of them.
//!
//! A durable queue that nobody consumes keeps only its head. When that is not enough, what goes is the far tail of the
//! largest queues: the messages that are needed last. Persistent ones of durable
//! queues lie in the log or in a pack already; the bytes of others are first written to a pack that is never synced and
//! that no start looks at. A task does that, in bounded steps.

use std::cmp::Reverse;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::Broker;
use crate::broker::queue;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::place::{Place, Seq};
use crate::message::run::Run;
use crate::queue::lane::Evicted;
use crate::storage::error::StoreError;
use crate::storage::pack::Kind;
use crate::storage::pack::writer::{PackSummary, PackWriter, PackedBlock};

/// Of a queue's head so much stays in memory, or a quarter of what there is.
const KEPT_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// A queue without consumers lets go of what it has beyond the head when it has more than this.
const UNCONSUMED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// So much of it each time that something is published to it: more than that was.
const LET_GO_BYTES: u64 = 1024 * 1024;
/// After so many looks at a thousand runs in a row that found nothing, a queue is left alone until the next time: others
/// may put in its way what was searched before.
const LOOKS_IN_VAIN_MAX: u32 = 1000;
/// Queues with less in memory are let alone.
const QUEUE_BYTES_MIN: u64 = 16 * 1024;
/// The largest queues of a look at all of them.
const QUEUES_PER_LOOK: usize = 32;
/// One spill pack takes about this much.
const SPILL_BYTES: u64 = 16 * 1024 * 1024;
/// After so many bytes written to a spill pack others have their turn.
const SPILL_TURN_BYTES: u64 = 2 * 1024 * 1024;
/// Runs of a spill pack that leave memory in one hold of the lock.
const RUNS_PER_HOLD: usize = 1000;
/// Spill packs that one step looks at, to see whether anything in them is still needed.
const SPILLS_PER_STEP: usize = 32;

/// The packs of messages that no restart needs.
#[derive(Debug, Default)]
pub struct Spills {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    packs: Vec<Spill>,
    /// The largest queues when all were last looked at: with a million of them that is not done for each step.
    largest: Vec<Weak<Queue>>,
}

/// A spill pack holds messages of one queue.
#[derive(Debug)]
struct Spill {
    queue: Weak<Queue>,
    number: u64,
    first: Seq,
    end: Seq,
}

impl Spills {
    /// Packs are numbered from here on: files of an earlier process may not be gone yet.
    pub(super) fn number_from(&self, next: u64) {
        self.state.lock().next = next;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.state.lock().packs.is_empty()
    }
}

impl Spill {
    fn is_needed(&self) -> bool {
        let queue = self.queue.upgrade().filter(|queue| !queue.is_deleted());
        queue.is_some_and(|queue| {
            queue.lock().classic.ledger.live_ranges(self.first, self.end).next().is_some()
        })
    }
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
        let mut freed = 0;
        for queue in self.largest_queues(wanted) {
            if freed >= wanted {
                break;
            }
            freed += queue.evict(wanted - freed, pause)?;
        }
        if freed < wanted {
            self.ask_holders();
        }
        Ok(freed > 0)
    }

    /// Queues to take `wanted` bytes from, the largest first. All are looked at when the largest of last time do not
    /// have them.
    fn largest_queues(&self, wanted: u64) -> Vec<Arc<Queue>> {
        let known = std::mem::take(&mut self.node.spills.state.lock().largest);
        let mut queues: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        let spare = queues.iter().map(|queue| queue.here_bytes.read() * 3 / 4).sum::<u64>();
        if spare < wanted {
            queues.clear();
            for vhost in &self.vhosts {
                vhost.each_queue(|queue| {
                    if queue.here_bytes.read() >= QUEUE_BYTES_MIN {
                        queues.push(Arc::clone(queue));
                    }
                });
            }
        }
        queues.sort_by_cached_key(|queue| (Reverse(queue.here_bytes.read()), queue.id));
        queues.truncate(QUEUES_PER_LOOK);
        self.node.spills.state.lock().largest = queues.iter().map(Arc::downgrade).collect();
        queues
    }

    fn drop_unneeded_spills(&self) {
        let mut state = self.node.spills.state.lock();
        let looked_at = SPILLS_PER_STEP.min(state.packs.len());
        let spills: Vec<Spill> = state.packs.drain(..looked_at).collect();
        // A queue's lock is not taken under this one.
        drop(state);
        let (needed, unneeded): (Vec<_>, Vec<_>) = spills.into_iter().partition(Spill::is_needed);
        for spill in unneeded {
            self.node.shelf.doom(Kind::Spill, spill.number);
        }
        self.node.spills.state.lock().packs.extend(needed);
    }
}

impl Queue {
    /// Of a durable queue that nobody consumes only the head stays in memory: what is behind it is on the disk, and in
    /// the system's cache, for when somebody comes. Done by whoever fills the queue, a little each time.
    pub(super) fn let_go(&self, state: &mut queue::handle::State, wakes: &mut Wakes) {
        let classic = &mut state.classic;
        if !self.properties.durable
            || classic.here_bytes() < UNCONSUMED_BYTES_MAX
            || !classic.consumers.is_empty()
        {
            return;
        }
        // What was read back for a basic.get is not let go of before that has taken it.
        let evicted = classic.evict_tail(LET_GO_BYTES, KEPT_BYTES_MAX, true);
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
            let here_bytes = state.classic.here_bytes();
            let kept_bytes = KEPT_BYTES_MAX.min(here_bytes / 4);
            let is_awaited = !state.getters.is_empty();
            let evicted = state.classic.evict_tail(wanted - freed, kept_bytes, is_awaited);
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
    fn note_evicted(&self, state: MutexGuard<'_, queue::handle::State>, evicted: &Evicted) {
        self.here_bytes.set(state.classic.here_bytes());
        self.note_index(state.classic.index_bytes());
        MutexGuard::unlock_fair(state);
        self.node.counters.evicted_messages.add(evicted.messages);
    }

    /// Writes bodies that no disk has yet to a spill pack; how many bytes could then be let go of.
    fn spill(self: &Arc<Self>, wanted: u64, pause: &dyn Fn()) -> Result<u64, StoreError> {
        if !self.node.room.look(&self.node.alarms)?.lets_spill() {
            return Ok(0);
        }
        let mut runs = self.runs_to_spill(wanted, pause);
        runs.sort_by_key(|run| run.first_seq());
        let (Some(first), Some(end)) =
            (runs.first().map(|run| run.first_seq()), runs.last().map(|run| run.end_seq()))
        else {
            return Ok(0);
        };
        let number = {
            let mut spills = self.node.spills.state.lock();
            spills.next += 1;
            spills.next
        };
        let pack = match self.write_spill(number, &runs, pause) {
            Ok(pack) => pack,
            Err(error) => {
                // Nothing is in it for anybody.
                self.node.shelf.doom(Kind::Spill, number);
                return Err(error);
            }
        };
        let spill = Spill { queue: Arc::downgrade(self), number, first, end };
        self.node.spills.state.lock().packs.push(spill);
        let mut freed = 0;
        let mut blocks = pack.blocks.into_iter().peekable();
        while blocks.peek().is_some() {
            freed += self.let_go_of_spilled(number, &mut blocks);
            pause();
        }
        Ok(freed)
    }

    fn write_spill(&self, number: u64, runs: &[Run], pause: &dyn Fn()) -> Result<PackSummary, StoreError> {
        let mut writer = PackWriter::create(&*self.node.disk, Kind::Spill, number)?;
        let mut written = 0;
        for run in runs {
            writer.push(self.id, run)?;
            written += run.body_bytes();
            if written >= SPILL_TURN_BYTES {
                written = 0;
                pause();
            }
        }
        writer.finish(&*self.node.disk)
    }

    /// Lets go of what lies in the next blocks of a spill pack, as much as one hold of the lock allows; how many bytes.
    fn let_go_of_spilled(&self, number: u64, blocks: &mut impl Iterator<Item = PackedBlock>) -> u64 {
        let mut state = self.lock();
        let mut all = Evicted::default();
        while all.runs.len() < RUNS_PER_HOLD
            && let Some(block) = blocks.next()
        {
            let place = Place::Pack { number, offset: block.offset };
            let evicted = state.classic.on_spilled(block.first, block.end, place);
            all.body_bytes += evicted.body_bytes;
            all.messages += evicted.messages;
            all.runs.extend(evicted.runs);
        }
        self.note_evicted(state, &all);
        all.body_bytes
    }

    /// As many runs as go into a spill pack, or none when no more need to.
    fn runs_to_spill(&self, wanted: u64, pause: &dyn Fn()) -> Vec<Run> {
        for _ in 0..LOOKS_IN_VAIN_MAX {
            let mut state = self.lock();
            let here_bytes = state.classic.here_bytes();
            let spare_bytes = here_bytes - KEPT_BYTES_MAX.min(here_bytes / 4);
            let found = state.classic.tail_to_spill(wanted.min(SPILL_BYTES).min(spare_bytes));
            MutexGuard::unlock_fair(state);
            if !found.is_cut_short || !found.runs.is_empty() {
                return found.runs;
            }
            pause();
        }
        Vec::new()
    }
}
