//! A part of a pack as its queue sees it: which of its messages still live.
//!
//! What is settled is a bitmap, about a bit a message. It is saved by checkpoints only, and is dirty by version: the
//! version that was captured is marked saved after the commit, so that what was settled meanwhile stays dirty.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::message::place::{Extent, Seq};
use crate::stats::Gauge;

/// An extent and what became of its messages.
#[derive(Debug)]
pub struct ExtentState {
    /// Where it is.
    pub at: Extent,
    /// Numbers, from the extent's first on, that are done with or never were messages of it.
    settled: RoaringBitmap,
    live: u64,
    version: u64,
    saved: u64,
    /// The live messages of the whole pack, over all its queues: raised and lowered as this extent's are.
    pack_live: Arc<Gauge>,
}

impl ExtentState {
    /// An extent with what is settled in it, as the checkpoint knows it.
    pub fn new(at: Extent, settled: RoaringBitmap, pack_live: Arc<Gauge>) -> Self {
        let live = (u64::from(span(&at)) + 1).saturating_sub(settled.len());
        pack_live.add(live);
        Self { at, settled, live, version: 0, saved: 0, pack_live }
    }

    /// How many of its messages live.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Which version of the bitmap this is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the checkpoint does not know all of it.
    pub fn is_dirty(&self) -> bool {
        self.version != self.saved
    }

    /// What is settled, as a checkpoint keeps it.
    pub fn settled(&self) -> &RoaringBitmap {
        &self.settled
    }

    /// The checkpoint knows the bitmap up to this version.
    pub(super) fn mark_saved(&mut self, version: u64) {
        self.saved = self.saved.max(version);
    }

    /// The numbers `first..end` are done with; how many of them lived.
    pub(super) fn settle(&mut self, first: Seq, end: Seq) -> u64 {
        let Some((low, high)) = self.relative(first, end) else { return 0 };
        let died = self.settled.insert_range(low..=high);
        if died > 0 {
            self.version += 1;
            self.live -= died;
            self.pack_live.sub(died);
        }
        died
    }

    /// How many of the numbers `first..end` live.
    pub(super) fn live_in(&self, first: Seq, end: Seq) -> u64 {
        let Some((low, high)) = self.relative(first, end) else { return 0 };
        u64::from(high - low) + 1 - self.settled.range_cardinality(low..=high)
    }

    /// The first live numbers within `first..end` that follow each other.
    pub(super) fn next_live(&self, first: Seq, end: Seq) -> Option<(Seq, Seq)> {
        let (low, high) = self.relative(first, end)?;
        let mut settled = self.settled.range(low..=high);
        let mut from = low;
        while let Some(gone) = settled.next_range() {
            if *gone.start() > from {
                return Some((self.seq(from), self.seq(*gone.start())));
            }
            from = gone.end().checked_add(1)?;
        }
        (from <= high).then(|| (self.seq(from), Seq(self.seq(high).0 + 1)))
    }

    fn seq(&self, relative: u32) -> Seq {
        self.at.first.after(relative)
    }

    /// The part of `first..end` that lies in the extent, both ends included.
    fn relative(&self, first: Seq, end: Seq) -> Option<(u32, u32)> {
        let low = first.0.saturating_sub(self.at.first.0);
        let high = end.0.checked_sub(1)?.checked_sub(self.at.first.0)?.min(u64::from(span(&self.at)));
        let (low, high) = (u32::try_from(low).ok()?, u32::try_from(high).ok()?);
        (low <= high).then_some((low, high))
    }
}

impl Drop for ExtentState {
    fn drop(&mut self) {
        self.pack_live.sub(self.live);
    }
}

/// The distance of its last number from its first: writers cut extents long before it passes 32 bits.
fn span(at: &Extent) -> u32 {
    u32::try_from(at.last.0.saturating_sub(at.first.0)).unwrap_or(u32::MAX)
}
