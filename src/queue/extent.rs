//! A part of a pack as its queue sees it: which of its messages still live.
//!
//! What is settled is a bitmap, about a bit a message. It is saved by checkpoints only, and is dirty by version: the
//! version that was captured is marked saved after the commit, so that what was settled meanwhile stays dirty.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::message::place::{Extent, Seq};
use crate::stats::Gauge;

/// An extent that a checkpoint has written and committed.
#[derive(Debug)]
pub struct NewExtent {
    /// Where it is.
    pub at: Extent,
    /// Numbers, from its first on, that were not written to it.
    pub gaps: RoaringBitmap,
    /// The live messages of its pack.
    pub pack_live: Arc<Gauge>,
}

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

    /// An extent to which messages are on their way: none is there yet.
    pub(super) fn awaiting(at: Extent, pack_live: Arc<Gauge>) -> Self {
        let mut settled = RoaringBitmap::new();
        settled.insert_range(0..=span(&at));
        Self { at, settled, live: 0, version: 0, saved: 0, pack_live }
    }

    /// The numbers `first..end` were moved here.
    pub(super) fn take_in(&mut self, first: Seq, end: Seq) {
        let Some((low, high)) = self.relative(first, end) else { return };
        let came = self.settled.remove_range(low..=high);
        self.live += came;
        self.pack_live.add(came);
    }

    /// All that was to come is here. What was settled on the way is not known to the checkpoint.
    pub(super) fn complete(&mut self) {
        if self.live < u64::from(self.at.count) {
            self.version += 1;
        }
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

/// Extents of one queue that do not overlap.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// By the first number.
    by_first: BTreeMap<Seq, ExtentState>,
}

impl Extents {
    pub(super) fn insert(&mut self, extent: ExtentState) {
        self.by_first.insert(extent.at.first, extent);
    }

    pub(super) fn remove(&mut self, first: Seq) -> Option<ExtentState> {
        self.by_first.remove(&first)
    }

    pub(super) fn pop_first(&mut self) -> Option<ExtentState> {
        self.by_first.pop_first().map(|(_, extent)| extent)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut ExtentState> {
        self.by_first.values_mut().next_back()
    }

    pub(super) fn get_mut(&mut self, first: Seq) -> Option<&mut ExtentState> {
        self.by_first.get_mut(&first)
    }

    pub(super) fn len(&self) -> usize {
        self.by_first.len()
    }

    /// The extent whose numbers reach over `seq`.
    pub(super) fn at(&self, seq: Seq) -> Option<&ExtentState> {
        let (_, extent) = self.by_first.range(..=seq).next_back()?;
        (extent.at.last >= seq).then_some(extent)
    }

    /// The extent in which the message lives.
    pub(super) fn with_live(&self, seq: Seq) -> Option<&ExtentState> {
        self.at(seq).filter(|extent| extent.live_in(seq, seq.after(1)) > 0)
    }

    /// Those whose first numbers are `from` and above.
    pub(super) fn starting_at(&self, from: Seq) -> impl DoubleEndedIterator<Item = &ExtentState> {
        self.by_first.range(from..).map(|(_, extent)| extent)
    }

    /// Those that have numbers of `first..end`.
    pub(super) fn within(&self, first: Seq, end: Seq) -> impl Iterator<Item = &ExtentState> {
        let from = self.at(first).map_or(first, |extent| extent.at.first);
        self.by_first.range(from..end.max(from)).map(|(_, extent)| extent)
    }

    /// The numbers `first..end` are done with; how many of them lived.
    pub(super) fn settle(&mut self, first: Seq, end: Seq) -> u64 {
        let from = self.at(first).map_or(first, |extent| extent.at.first);
        self.by_first.range_mut(from..end.max(from)).map(|(_, extent)| extent.settle(first, end)).sum()
    }

    /// How many of the numbers `first..end` live.
    pub(super) fn live_in(&self, first: Seq, end: Seq) -> u64 {
        self.within(first, end).map(|extent| extent.live_in(first, end)).sum()
    }

    /// The first live numbers within `first..end` that follow each other.
    pub(super) fn next_live(&self, first: Seq, end: Seq) -> Option<(Seq, Seq)> {
        self.within(first, end).find_map(|extent| extent.next_live(first, end))
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&ExtentState) -> bool) {
        self.by_first.retain(|_, extent| keeps(extent));
    }
}

/// The distance of its last number from its first: writers cut extents long before it passes 32 bits.
fn span(at: &Extent) -> u32 {
    u32::try_from(at.last.0.saturating_sub(at.first.0)).unwrap_or(u32::MAX)
}
