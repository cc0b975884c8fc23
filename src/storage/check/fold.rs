//! The fold of facts ([`crate::storage::fold`]) as far as a check must know it: which numbers of which queue live; and what
//! is wrong with what it reads.
//!
//! Numbers rise and are never used twice, so that what a hole of the log took shows as numbers that nobody names.
//! Those may have been transient messages, which are never in the log: a hole tells which numbers may be gone, and
//! what can still be made out of the damaged bytes which ones were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::message::fact_codec::{self, DecodedFact, Published, Target};
use crate::message::place::{Extent, Lsn, QueueId, Returned, Seq};
use crate::message::run::Run;
use crate::stats::Gauge;
use crate::storage::batch::{BATCH_HEADER_BYTES, CUT, LOST, records};
use crate::storage::check::log::{Hole, Reader};
use crate::storage::error::StoreError;
use crate::storage::fold::{Fold, Messages};
use crate::storage::log::Replayed;
use crate::storage::log::recover::corrupt;
use crate::storage::meta::QueueRow;

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Folding {
    pub(super) fold: Fold<Folded>,
    /// Messages of queues whose declaration a hole took.
    pub(super) orphans: BTreeMap<QueueId, RoaringTreemap>,
    /// Blocks in whole batches that are damaged: written so.
    pub(super) broken: Vec<StoreError>,
    pub(super) holes: usize,
    pub(super) records: u64,
    gauge: Arc<Gauge>,
}

/// One queue.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) vhost: String,
    pub(super) name: String,
    is_declared: bool,
    pub(super) extents: Vec<FoldedExtent>,
    /// Live numbers in the log.
    pub(super) live: RoaringTreemap,
    /// Numbers whose blocks in the log are damaged.
    pub(super) broken: RoaringTreemap,
    /// Numbers that a hole of the log may have taken.
    pub(super) lost: Vec<Lost>,
    /// What was published: first number, count, bytes of the bodies.
    published: Vec<(Seq, u32, u64)>,
    next: Seq,
    /// The first number that nobody has named since a hole.
    gap: Option<Gap>,
}

#[derive(Debug)]
struct Gap {
    hole: usize,
    from: Seq,
    /// What the damaged bytes seem to name.
    named: Vec<Range<u64>>,
}

/// Numbers that a hole took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) hole: usize,
    pub(super) numbers: Range<u64>,
}

/// A part of a pack, and what is settled in it.
#[derive(Clone, Debug)]
pub(super) struct FoldedExtent {
    pub(super) lane: u32,
    pub(super) at: Extent,
    pub(super) settled: RoaringBitmap,
}

impl FoldedExtent {
    /// The numbers that live, from the first on.
    pub(super) fn live(&self) -> RoaringBitmap {
        let mut live = RoaringBitmap::new();
        live.insert_range(0..=self.span());
        live - &self.settled
    }

    /// The same in ranges of the queue's numbers.
    pub(super) fn live_ranges(&self) -> Vec<Range<u64>> {
        let first = self.at.first.0;
        let live = self.live();
        let mut ranges = Vec::new();
        let mut each = live.iter();
        while let Some(range) = each.next_range() {
            ranges.push(first + u64::from(*range.start())..first + u64::from(*range.end()) + 1);
        }
        ranges
    }

    fn span(&self) -> u32 {
        u32::try_from(self.at.last.0.saturating_sub(self.at.first.0)).unwrap_or(u32::MAX)
    }

    fn settle(&mut self, first: Seq, end: Seq) {
        let low = first.0.saturating_sub(self.at.first.0);
        let high = end.0.saturating_sub(self.at.first.0).min(u64::from(self.span()) + 1);
        if let (Ok(low), Some(high)) = (u32::try_from(low), high.checked_sub(1))
            && let Ok(high) = u32::try_from(high)
            && low <= high
        {
            self.settled.insert_range(low..=high);
        }
    }
}

impl Folded {
    /// The live messages, and their bodies' bytes as the average of what was told of them.
    pub(super) fn size(&self) -> (u64, u64) {
        let mut bytes = 0;
        for &(first, count, body_bytes) in &self.published {
            let live = self.live.range_cardinality(first.0..first.after(count).0);
            bytes += body_bytes / u64::from(count.max(1)) * live;
        }
        let mut messages = self.live.len();
        for extent in &self.extents {
            let live = extent.live().len();
            messages += live;
            bytes += extent.at.body_bytes / u64::from(extent.at.count.max(1)) * live;
        }
        (messages, bytes)
    }

    /// The log has ended: of what came after a hole nothing more is known.
    fn close(&mut self) {
        if let Some(Gap { hole, named, .. }) = self.gap.take() {
            self.lost.extend(named.into_iter().map(|numbers| Lost { hole, numbers }));
        }
    }
}

impl Messages for Folded {
    type Shared = ();

    fn declare(&mut self, vhost: &str, name: &str) {
        (self.vhost, self.name) = (vhost.to_owned(), name.to_owned());
        self.is_declared = true;
        self.next = self.next.max(Seq(1));
    }

    fn restore(&mut self, row: &QueueRow) {
        self.next = row.next_seq;
    }

    fn add_extent(&mut self, (): &mut (), lane: u32, at: Extent, settled: RoaringBitmap) {
        self.next = self.next.max(Seq(at.last.0.saturating_add(1)).counted());
        self.extents.push(FoldedExtent { lane, at, settled });
    }

    fn publish(&mut self, target: &Target, _record: Lsn, body_bytes: u64) {
        let (first, end) = (target.first, target.first.after(target.count));
        if let Some(gap) = self.gap.take()
            && first > gap.from
        {
            self.lost.push(Lost { hole: gap.hole, numbers: gap.from.0..first.0 });
        }
        self.next = self.next.max(end.counted());
        let in_extent = self.extents.iter().any(|extent| extent.at.first < end && first <= extent.at.last);
        if !in_extent {
            self.live.insert_range(first.0..end.0);
            self.published.push((first, target.count, body_bytes));
        }
    }

    fn settle(&mut self, first: Seq, end: Seq) {
        self.live.remove_range(first.0..end.0);
        self.extents.iter_mut().for_each(|extent| extent.settle(first, end));
    }

    // A wrong count loses no message: it is not checked.
    fn restore_returns(&mut self, _returned: Returned) {}

    fn note_returns(&mut self, _returned: Returned) {}
}

impl Folding {
    /// Looks at the block of messages that came: those of queues that a hole took are nobody's, and those whose bytes are
    /// damaged are counted so.
    fn look_at(&mut self, published: &Published<'_>, body: &Bytes) -> Result<(), String> {
        let block = body.slice(published.block_range.clone());
        let whole = Run::from_disk(&block, &self.gauge);
        for target in published.targets() {
            let numbers = target.first.0..target.first.after(target.count).0;
            match self.fold.queues.get_mut(&target.queue) {
                Some(queue) if whole.is_err() => drop(queue.broken.insert_range(numbers)),
                None if self.holes > 0 && target.queue.0 >= self.fold.next_queue => {
                    self.orphans.entry(target.queue).or_default().insert_range(numbers);
                }
                _ => {}
            }
        }
        whole.map(drop).map_err(|error| error.to_string())
    }

    /// All of the log was read.
    pub(super) fn close(&mut self) {
        // Of some the tables have a row, and nothing defines them any more.
        self.fold.queues.retain(|_, queue| queue.is_declared);
        for queue in self.fold.queues.values_mut() {
            queue.close();
            queue.broken &= &queue.live;
        }
    }

    /// What the damaged bytes seem to say; nothing of it is believed but the numbers of queues that are known, in the
    /// place where numbers are missing.
    fn name_lost(&mut self, damaged: &[u8]) {
        let payload = damaged.get(BATCH_HEADER_BYTES as usize..).unwrap_or_default();
        for record in records(Bytes::copy_from_slice(payload)).map_while(Result::ok) {
            let Ok(DecodedFact::Published(published)) = fact_codec::decode(record.kind, &record.body) else {
                continue;
            };
            for Target { queue, first, count } in published.targets() {
                let gap = self.fold.queues.get_mut(&queue).and_then(|queue| queue.gap.as_mut());
                if let Some(gap) = gap.filter(|gap| gap.from <= first) {
                    gap.named.push(first.0..first.after(count).0);
                }
            }
        }
    }
}

impl Reader for Folding {
    fn record(&mut self, record: &Replayed, file: &str, offset: u64) -> Result<(), StoreError> {
        self.records += 1;
        if [CUT, LOST].contains(&record.kind) {
            return Ok(());
        }
        let fact = fact_codec::decode(record.kind, &record.body);
        let fact = fact.map_err(|error| corrupt(file, offset, error.to_string()))?;
        self.fold.apply(record.start, &fact);
        if let DecodedFact::Published(published) = &fact
            && let Err(problem) = self.look_at(published, &record.body)
        {
            let queues: Vec<_> = published.targets().map(|target| target.queue.0).collect();
            let problem = format!("{problem}: messages of the queues numbered {queues:?}");
            self.broken.push(corrupt(file, offset, problem));
        }
        Ok(())
    }

    fn hole(&mut self, _hole: &Hole, damaged: &[Vec<u8>]) {
        let hole = self.holes;
        self.holes += 1;
        for queue in self.fold.queues.values_mut() {
            queue.gap.get_or_insert(Gap { hole, from: queue.next, named: Vec::new() });
        }
        damaged.iter().for_each(|bytes| self.name_lost(bytes));
    }
}
