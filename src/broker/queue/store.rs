//! What a checkpoint asks of a queue and tells it: places and what is settled, under the queue's lock in bounded steps.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::MutexGuard;
use roaring::RoaringBitmap;

use crate::broker::queue::handle::Queue;
use crate::message::place::{Extent, Lsn, Seq};
use crate::queue::extent::{ExtentState, NewExtent};
use crate::queue::ledger::{PlacedBefore, UnsavedReturns};

/// Ranges and extents that are looked at in one hold of the lock.
const RANGES_PER_HOLD: usize = 1000;
/// Bitmaps that are copied in one hold of it.
const BITMAPS_PER_HOLD: usize = 100;

/// What is settled in an extent and not saved.
#[derive(Debug)]
pub(in crate::broker) struct DirtyExtent {
    /// Its first number.
    pub(in crate::broker) first: Seq,
    /// The version of what is settled.
    pub(in crate::broker) version: u64,
    /// None when nothing lives.
    pub(in crate::broker) settled: Option<RoaringBitmap>,
}

impl Queue {
    /// The next number; it is not drawn.
    pub(in crate::broker) fn peek_seq(&self) -> Seq {
        Seq(self.next_seq.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// The number after the highest that was ever handed out.
    pub(in crate::broker) fn delivered_hi(&self) -> Seq {
        self.lock().classic.delivered_hi()
    }

    /// Live messages whose records start before `lsn`, from `from` on, at most `max` ranges of them.
    pub(in crate::broker) fn placed_before(&self, lsn: Lsn, from: Seq, max: usize) -> PlacedBefore {
        self.lock().classic.ledger.placed_before(lsn, from, max)
    }

    /// Its extents in these packs.
    pub(in crate::broker) fn extents_of(&self, packs: &BTreeSet<u64>) -> Vec<Extent> {
        let mut found = Vec::new();
        if packs.is_empty() {
            return found;
        }
        let is_within = |at: &Extent| packs.contains(&at.pack);
        self.look_at_extents(RANGES_PER_HOLD, |extent| found.extend(Some(extent.at).filter(is_within)));
        found
    }

    /// What lives between these numbers. What is settled meanwhile may be among it.
    pub(in crate::broker) fn live_ranges(&self, first: Seq, end: Seq) -> Vec<(Seq, Seq)> {
        let mut found = Vec::new();
        let mut from = first;
        loop {
            let known = found.len();
            let state = self.lock();
            found.extend(state.classic.ledger.live_ranges(from, end).take(RANGES_PER_HOLD));
            MutexGuard::unlock_fair(state);
            match found.last() {
                Some(&(_, stop)) if found.len() == known + RANGES_PER_HOLD => from = stop,
                _ => return found,
            }
        }
    }

    /// Looks at all extents, at so many in one hold of the lock.
    fn look_at_extents(&self, per_hold: usize, mut look: impl FnMut(&ExtentState)) {
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let state = self.lock();
            let mut extents = state.classic.ledger.extents_from(seq);
            extents.by_ref().take(per_hold).for_each(&mut look);
            from = extents.next().map(|extent| extent.at.first);
            drop(extents);
            // Those who wait come before the next part.
            MutexGuard::unlock_fair(state);
        }
    }

    /// Whether an extent that stays lies between these numbers.
    pub(in crate::broker) fn has_extent_between(
        &self,
        after: Seq,
        before: Seq,
        merged: &BTreeSet<u64>,
    ) -> bool {
        self.lock().classic.ledger.has_extent_between(after, before, |pack| merged.contains(&pack))
    }

    /// What is settled in extents and not saved, but for those of merged packs, which are about to be replaced.
    pub(in crate::broker) fn dirty_extents(&self, merged: &BTreeSet<u64>) -> Vec<DirtyExtent> {
        let mut dirty = Vec::new();
        self.look_at_extents(BITMAPS_PER_HOLD, |extent| {
            if extent.is_dirty() && !merged.contains(&extent.at.pack) {
                let settled = (extent.live() > 0).then(|| extent.settled().clone());
                dirty.push(DirtyExtent { first: extent.at.first, version: extent.version(), settled });
            }
        });
        dirty
    }

    /// How often messages came back, as far as it is not saved, from `from` on: as much as one hold of the lock allows.
    pub(in crate::broker) fn unsaved_returns(&self, from: Seq) -> UnsavedReturns {
        let mut state = self.lock();
        let unsaved = state.classic.ledger.unsaved_returns(from, RANGES_PER_HOLD);
        MutexGuard::unlock_fair(state);
        unsaved
    }

    /// The checkpoint has saved how often the messages from this number on came back, as it was at this version.
    pub(in crate::broker) fn mark_returns_saved(&self, first: Seq, version: u64) {
        self.lock().classic.ledger.mark_returns_saved(first, version);
    }

    /// The checkpoint has forgotten how often the messages from this number on came back.
    pub(in crate::broker) fn mark_returns_gone(&self, first: Seq) {
        self.lock().classic.ledger.mark_returns_gone(first);
    }

    /// The checkpoint has saved an extent's bitmap as it was at this version.
    pub(in crate::broker) fn mark_saved(&self, first: Seq, version: u64) {
        self.lock().classic.ledger.mark_saved(first, version);
    }

    /// The checkpoint has written messages to these extents: [`Queue::move_some`] moves them.
    pub(in crate::broker) fn begin_move(&self, extents: VecDeque<NewExtent>) {
        let mut state = self.lock();
        if !self.is_deleted() {
            state.classic.ledger.begin_move(extents);
        }
    }

    /// Moves some messages to the extents that the checkpoint has written. `true` when all have moved.
    pub(in crate::broker) fn move_some(&self) -> bool {
        let mut state = self.lock();
        if self.is_deleted() {
            return true;
        }
        let is_done = state.classic.ledger.move_some(RANGES_PER_HOLD);
        self.note_index(state.classic.index_bytes());
        MutexGuard::unlock_fair(state);
        is_done
    }
}
