//! Retiring slots: what a checkpoint has taken from the log may be written over.
//!
//! ```text
//! retirable -> (the caller saves what is live, commits, moves places) -> try_retire -> free
//! ```
//!
//! A slot is retired when it is sealed, when all its facts are applied, and when nobody reads it any more; the last is
//! only tried and never waited for.

use std::sync::Arc;

use crate::message::place::Lsn;
use crate::storage::log::Log;
use crate::storage::log::recover::ReplayFrom;
use crate::storage::log::slots::{SlotFacts, SlotUse};

/// The oldest slots of the log, for a checkpoint to take over.
#[derive(Debug)]
pub struct Retiring {
    slots: Vec<Arc<SlotUse>>,
    facts: SlotFacts,
    replay: ReplayFrom,
}

impl Retiring {
    /// What the slots hold.
    pub fn facts(&self) -> &SlotFacts {
        &self.facts
    }

    /// Where a replay starts once they are retired: places before its position move.
    pub fn replay(&self) -> ReplayFrom {
        self.replay
    }
}

impl Log {
    /// The oldest slots that a checkpoint may take, at most `max`. They stay as they are until [`Log::try_retire`].
    pub fn retirable(&self, max: usize) -> Option<Retiring> {
        let taken: Vec<_> = self.slots.lock().applied(max).map(Arc::clone).collect();
        let last = taken.last()?;
        let lsn = Lsn(last.contents.lock().end_lsn);
        let replay = ReplayFrom { sequence: last.sequence + 1, lsn };
        let mut facts = SlotFacts::default();
        taken.iter().for_each(|slot| facts.append(&slot.facts.lock()));
        Some(Retiring { slots: taken, facts, replay })
    }

    /// Frees the slots. To be called when the replay position after them is durable and no place names them any more:
    /// from here on nobody can lease them. Those still leased come back, and are tried again later. Files that are too many
    /// and cannot be removed are [`Log::sweep`]'s.
    pub fn try_retire(&self, retiring: Retiring) -> Option<Retiring> {
        let Retiring { slots: retired, facts, replay } = retiring;
        let in_use = {
            let mut slots = self.slots.lock();
            slots.used.retain(|slot| slot.sequence >= replay.sequence);
            slots.used.len()
        };
        self.counters.slots.set(in_use as u64);
        let mut leased = Vec::new();
        for slot in retired {
            match Arc::try_unwrap(slot) {
                Ok(slot) => self.release_file(slot.file),
                Err(slot) => leased.push(slot),
            }
        }
        self.tell_of_room();
        (!leased.is_empty()).then_some(Retiring { slots: leased, facts, replay })
    }

    /// Where nobody keeps what is in the slots, they are free as soon as they are applied.
    pub(super) fn forget(&self) {
        if self.options.forgets
            && let Some(retiring) = self.retirable(usize::MAX)
        {
            // Who reads one keeps its file alive, and a disk in memory has room for another.
            let _leased = self.try_retire(retiring);
        }
    }
}
