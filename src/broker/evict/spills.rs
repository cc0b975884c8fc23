//! Spill packs: the bytes of messages that no restart needs, written so that they can leave memory.
//!
//! A pack holds messages of one queue. It is never synced, no start looks at it, and it goes when nothing in it is needed
//! any more. What may go into one is said where all evictions are ([`crate::broker::evict`]).

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::Broker;
use crate::broker::evict::LOOKS_IN_VAIN_MAX;
use crate::broker::queue::handle::Queue;
use crate::message::place::{Place, Seq};
use crate::message::run::Run;
use crate::queue::lane::Evicted;
use crate::storage::error::StoreError;
use crate::storage::pack::Kind;
use crate::storage::pack::writer::{PackSummary, PackWriter, PackedBlock};

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
    pub(in crate::broker) fn number_from(&self, next: u64) {
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
    pub(super) fn drop_unneeded_spills(&self) {
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
    /// Writes bodies that no disk has yet to a spill pack; how many bytes could then be let go of.
    pub(super) fn spill(self: &Arc<Self>, wanted: u64, pause: &dyn Fn()) -> Result<u64, StoreError> {
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
            self.node.counters.spilled_bytes.add(run.body_bytes());
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
        // Somebody may wait for the head that did not when it was written.
        let spares_head = state.is_head_awaited();
        let mut all = Evicted::default();
        while all.runs.len() < RUNS_PER_HOLD
            && let Some(block) = blocks.next()
        {
            let place = Place::Pack { number, offset: block.offset };
            let evicted = state.classic.on_spilled(block.first, block.end, place, spares_head);
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
            let allowance = state.may_leave(wanted.min(SPILL_BYTES));
            let found = state.classic.tail_to_spill(allowance);
            MutexGuard::unlock_fair(state);
            if !found.is_cut_short || !found.runs.is_empty() {
                return found.runs;
            }
            pause();
        }
        Vec::new()
    }
}
