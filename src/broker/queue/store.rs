//! What a checkpoint asks of a queue and tells it: places and what is settled, under the queue's lock in bounded steps.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use crate::broker::queue::handle::Queue;
use crate::message::place::{Extent, Lsn, Seq};
use crate::queue::ledger::{NewExtent, PlacedBefore};

/// An extent and the ranges of it that live.
pub(in crate::broker) type LiveExtent = (Extent, Vec<(Seq, Seq)>);

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

    /// Its extents in these packs, with what lives of each.
    pub(in crate::broker) fn extents_of(&self, packs: &BTreeSet<u64>) -> Vec<LiveExtent> {
        if packs.is_empty() {
            return Vec::new();
        }
        let state = self.lock();
        let ledger = &state.classic.ledger;
        let within = ledger.extents().filter(|extent| packs.contains(&extent.at.pack));
        let live = |at: &Extent| ledger.live_ranges(at.first, at.last.after(1)).collect();
        within.map(|extent| (extent.at, live(&extent.at))).collect()
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

    /// What is settled in extents and not saved, but for those of merged packs, which are about to be replaced: first
    /// number, version, and the bitmap, or none when nothing lives.
    pub(in crate::broker) fn dirty_extents(
        &self,
        merged: &BTreeSet<u64>,
    ) -> Vec<(Seq, u64, Option<RoaringBitmap>)> {
        let state = self.lock();
        let dirty = state.classic.ledger.dirty_extents().filter(|extent| !merged.contains(&extent.at.pack));
        let dirty = dirty.map(|extent| {
            let settled = (extent.live() > 0).then(|| extent.settled().clone());
            (extent.at.first, extent.version(), settled)
        });
        dirty.collect()
    }

    /// The checkpoint has saved an extent's bitmap as it was at this version.
    pub(in crate::broker) fn mark_saved(&self, first: Seq, version: u64) {
        self.lock().classic.ledger.mark_saved(first, version);
    }

    /// The checkpoint has moved messages to these extents.
    pub(in crate::broker) fn move_to_extents(&self, extents: Vec<NewExtent>) {
        self.lock().classic.ledger.move_to_extents(extents);
    }
}
