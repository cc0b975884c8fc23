//! Letting the log's oldest slots be used again: what still lives in them moves to a pack, definitions and what is
//! settled to the tables.
//!
//! ```text
//! Idle -> Capturing -> Waiting -> (commit) -> Moving -> Retiring -> Idle
//!           |            |          |           |          '- until nobody reads the slots
//!           |            |          |           '- places in the ledgers, queue by queue, under its lock in bounded steps
//!           |            |          '- one transaction of the tables
//!           |            '- until the log is durable past everything the capture may have seen
//!           '- queue by queue, under its lock in bounded steps; bodies are copied outside of it
//! ```
//!
//! The order is the rule: pack durable, tables durable, places moved, leases drained, slots reused. Definitions are not
//! captured from memory: the log remembers those of each slot, and the tables take them in its order. Only queues that
//! a slot names are visited.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::alarms::Shortage;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::store::DirtyExtent;
use crate::broker::read_ahead::read_record;
use crate::message::place::{Extent, Lsn, QueueId, Seq};
use crate::message::run::Run;
use crate::queue::extent::NewExtent;
use crate::stats::Gauge;
use crate::storage::ballast::Ballast;
use crate::storage::error::StoreError;
use crate::storage::log::{LogReader, Retiring};
use crate::storage::meta::{Changes, Meta, QueueRow};
use crate::storage::pack::Kind;
use crate::storage::pack::reader::ExtentRead;
use crate::storage::pack::writer::{PackSummary, PackWriter};

/// Priorities will have lanes of their own.
const LANE: u32 = 0;
/// Ranges that are captured in one hold of a queue's lock.
const RANGES_PER_HOLD: usize = 1000;
/// A pack with less than this share of its messages alive is merged into the next one.
const LIVE_SHARE_MIN: u64 = 4;

/// The checkpoints of one broker: where the present one stands.
#[derive(Debug)]
pub struct Checkpoint {
    meta: Meta,
    stage: Stage,
    packs: BTreeMap<u64, PackUse>,
    /// Packs that cannot be read as a whole: they stay for whoever repairs them, however little of them lives.
    unreadable: BTreeSet<u64>,
    next_pack: u64,
    /// Room for a checkpoint on a full disk.
    ballast: Ballast,
}

/// What is known of a pack.
#[derive(Debug, Default)]
pub(super) struct PackUse {
    /// Messages of it that live.
    pub(super) live: Arc<Gauge>,
    /// Messages it was written with.
    pub(super) count: u64,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Capturing(Box<Capture>),
    Waiting(Box<Captured>),
    Moving(Moving),
    Retiring(Retiring),
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: no checkpoint is due.
    Idle,
    /// Something; there is more.
    Working,
    /// Nothing: the log is not durable so far yet.
    WaitsForLog(Lsn),
    /// Nothing: somebody still reads the slots.
    WaitsForReaders,
}

#[derive(Debug)]
struct Capture {
    retiring: Retiring,
    /// Queues to visit, the next one last.
    queues: Vec<QueueId>,
    merged: BTreeSet<u64>,
    writer: Option<PackWriter>,
    reader: LogReader,
    changes: Changes,
    /// Bitmaps that were captured: queue, first number of the extent, version.
    versions: Vec<(QueueId, Seq, u64)>,
}

#[derive(Debug)]
struct Captured {
    retiring: Retiring,
    pack: Option<PackSummary>,
    changes: Changes,
    versions: Vec<(QueueId, Seq, u64)>,
    /// The log's end when the last queue had been captured.
    seen: Lsn,
}

#[derive(Debug)]
struct Moving {
    retiring: Retiring,
    /// The queue whose messages are moving.
    present: Option<Arc<Queue>>,
    /// What is to move for the others.
    queues: BTreeMap<QueueId, VecDeque<NewExtent>>,
    /// Packs that go when all has moved.
    forgotten: Vec<u64>,
}

impl Checkpoint {
    /// None yet, on these tables and packs.
    pub(super) fn new(meta: Meta, packs: BTreeMap<u64, PackUse>, next_pack: u64, ballast: Ballast) -> Self {
        Self { meta, stage: Stage::Idle, packs, unreadable: BTreeSet::new(), next_pack, ballast }
    }

    /// Goes one step further. Only whoever owns the checkpoint writes packs and tables.
    ///
    /// # Errors
    /// What the disk says. When it is full ([`StoreError::is_full`]) the checkpoint is given up and can be tried again;
    /// nothing was recycled.
    pub fn step(&mut self, broker: &Broker) -> Result<Progress, StoreError> {
        let stepped = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => self.begin(broker),
            Stage::Capturing(capture) => self.capture(broker, *capture),
            Stage::Waiting(captured) => self.commit(broker, *captured),
            Stage::Moving(moving) => Ok(self.move_some(broker, moving)),
            Stage::Retiring(retiring) => self.retire(broker, retiring),
        };
        match &stepped {
            Err(error) if error.is_full() => {
                self.give_up_pack(broker);
                if self.ballast.release()? {
                    tracing::warn!("the disk is full: the reserve is used up for a checkpoint");
                    return Ok(Progress::Working);
                }
            }
            // The tables may have been written, and then they name the pack.
            Err(_) => self.next_pack += 1,
            Ok(_) => {}
        }
        stepped
    }

    /// What was written of a pack is known to nobody.
    fn give_up_pack(&mut self, broker: &Broker) {
        broker.node.shelf.doom(Kind::Durable, self.next_pack);
        self.next_pack += 1;
    }

    fn begin(&mut self, broker: &Broker) -> Result<Progress, StoreError> {
        let log = &broker.node.log;
        if !log.is_checkpoint_due() {
            if !self.has_room_to_give(broker) {
                self.ballast.restore()?;
                return Ok(Progress::Idle);
            }
            // What acknowledged the messages is often less than a slot.
            log.seal_open_slot()?;
        }
        let window = log.window_slots();
        // In portions: publishers that are held back get some slots soon, and not all of them late.
        let wanted = log.slots_in_use().saturating_sub(window / 2).clamp(1, window.div_ceil(2));
        let Some(retiring) = log.retirable(wanted) else { return Ok(Progress::Idle) };
        self.start(broker, retiring).map(|()| Progress::Working)
    }

    /// Whether publishers wait for room on the disk that packs without messages take: nobody publishes then, and no
    /// window of the log fills that would make a checkpoint due.
    fn has_room_to_give(&self, broker: &Broker) -> bool {
        broker.node.alarms.is_raised(Shortage::Disk) && self.packs.values().any(|pack| pack.live.read() == 0)
    }

    fn start(&mut self, broker: &Broker, retiring: Retiring) -> Result<(), StoreError> {
        let mut queues: BTreeSet<QueueId> = retiring.facts().queues().collect();
        let sparse = |pack: &PackUse| {
            let live = pack.live.read();
            live > 0 && live * LIVE_SHARE_MIN < pack.count
        };
        let mut merged = BTreeSet::new();
        for (&number, _) in self.packs.iter().filter(|(_, pack)| sparse(pack)) {
            if self.unreadable.contains(&number) {
                continue;
            }
            let pack = broker.node.shelf.lease(Kind::Durable, number);
            match pack.and_then(|pack| pack.index()) {
                Ok(index) => {
                    queues.extend(index.iter().map(|record| record.queue));
                    merged.insert(number);
                }
                Err(damage) => {
                    tracing::error!(%damage, "a pack cannot be read, and stays as it is");
                    self.unreadable.insert(number);
                }
            }
        }
        let changes = Changes {
            definitions: retiring.facts().definitions().to_vec(),
            replay: Some(retiring.replay()),
            ..Changes::default()
        };
        self.stage = Stage::Capturing(Box::new(Capture {
            retiring,
            queues: queues.into_iter().rev().collect(),
            merged,
            writer: None,
            reader: LogReader::default(),
            changes,
            versions: Vec::new(),
        }));
        Ok(())
    }

    /// Captures the next queue, or closes the capture after the last.
    fn capture(&mut self, broker: &Broker, mut capture: Capture) -> Result<Progress, StoreError> {
        if let Some(id) = capture.queues.pop() {
            let queue = broker.node.durable_queue(id);
            if let Some(unreadable) =
                queue.map(|queue| self.capture_queue(broker, &mut capture, &queue)).transpose()?.flatten()
            {
                // Begins again without it.
                self.unreadable.insert(unreadable);
                self.give_up_pack(broker);
                return Ok(Progress::Working);
            }
            self.stage = Stage::Capturing(Box::new(capture));
            return Ok(Progress::Working);
        }
        let Capture { retiring, merged, writer, mut changes, versions, .. } = capture;
        let pack = writer.map(|writer| writer.finish(&*broker.node.disk)).transpose()?;
        if let Some(pack) = &pack {
            changes.extents = pack.extents.clone();
        }
        let dead = self.packs.iter().filter(|(_, pack)| pack.live.read() == 0).map(|(number, _)| *number);
        changes.packs_forgotten = dead.chain(merged).collect();
        changes.next_queue_id = Some(broker.node.peek_queue_id());
        let seen = broker.node.log.end();
        self.stage = Stage::Waiting(Box::new(Captured { retiring, pack, changes, versions, seen }));
        Ok(Progress::Working)
    }

    /// Captures a queue; the number of a pack that was to be merged and cannot be read, if there is one.
    fn capture_queue(
        &self,
        broker: &Broker,
        capture: &mut Capture,
        queue: &Arc<Queue>,
    ) -> Result<Option<u64>, StoreError> {
        let mut last = None;
        for at in queue.extents_of(&capture.merged) {
            let live = queue.live_ranges(at.first, at.last.after(1));
            if !self.copy_extent(broker, capture, queue, &at, live, &mut last)? {
                return Ok(Some(at.pack));
            }
        }
        let before = capture.retiring.replay().lsn;
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let held = queue.placed_before(before, seq, RANGES_PER_HOLD);
            from = held.next;
            for (first, end, start) in held.ranges {
                let node = &broker.node;
                // The slots cannot be retired while they are being so.
                let Some(lease) = node.log.lease(start) else { continue };
                let run = match read_record(&mut capture.reader, &lease, start, queue.id, node) {
                    Ok(run) => run,
                    Err(damage @ StoreError::Corrupt { .. }) => {
                        tracing::error!(%damage, "messages are damaged and left out of the checkpoint");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if let Some(run) = run.part(first, end) {
                    self.push(broker, capture, queue, &run, Some(start), &mut last)?;
                }
            }
        }
        for DirtyExtent { first, version, settled } in queue.dirty_extents(&capture.merged) {
            capture.versions.push((queue.id, first, version));
            match settled {
                Some(settled) => capture.changes.settled.push((queue.id, LANE, first, settled)),
                None => capture.changes.extents_forgotten.push((queue.id, LANE, first)),
            }
        }
        capture.changes.queues.push(row_of(queue));
        Ok(None)
    }

    /// Whether it could be read.
    fn copy_extent(
        &self,
        broker: &Broker,
        capture: &mut Capture,
        queue: &Arc<Queue>,
        at: &Extent,
        live: Vec<(Seq, Seq)>,
        last: &mut Option<Seq>,
    ) -> Result<bool, StoreError> {
        let pack = broker.node.shelf.lease(Kind::Durable, at.pack);
        let read = pack.and_then(|pack| pack.read_extent(queue.id, at, &broker.node.memory.messages));
        let (read, damage) = match read {
            Ok(mut read) => {
                let damage = read.damaged.pop();
                (read, damage)
            }
            Err(error) => (ExtentRead::default(), Some(error)),
        };
        if let Some(damage) = damage {
            tracing::error!(%damage, "a pack cannot be read, and stays as it is");
            return Ok(false);
        }
        for part in parts_within(read.runs, live) {
            self.push(broker, capture, queue, &part, None, last)?;
        }
        Ok(true)
    }

    fn push(
        &self,
        broker: &Broker,
        capture: &mut Capture,
        queue: &Arc<Queue>,
        run: &Run,
        origin: Option<Lsn>,
        last: &mut Option<Seq>,
    ) -> Result<(), StoreError> {
        let writer = match &mut capture.writer {
            Some(writer) => writer,
            none => none.insert(PackWriter::create(&*broker.node.disk, Kind::Durable, self.next_pack)?),
        };
        if let Some(last) = *last
            && !capture.merged.is_empty()
            && queue.has_extent_between(last, run.first_seq(), &capture.merged)
        {
            writer.cut_extent()?;
        }
        *last = Some(Seq(run.end_seq().0 - 1));
        writer.push(queue.id, run, origin)
    }

    /// Once the log is durable past all that was seen: the tables; the places are next.
    fn commit(&mut self, broker: &Broker, captured: Captured) -> Result<Progress, StoreError> {
        let seen = captured.seen;
        if broker.node.log.durable() < seen {
            self.stage = Stage::Waiting(Box::new(captured));
            return Ok(Progress::WaitsForLog(seen));
        }
        let Captured { retiring, pack, changes, versions, .. } = captured;
        // Where batches are not synced one by one, the tables must not be ahead of them.
        broker.node.log.sync()?;
        self.meta.commit(&changes)?;
        for (id, first, version) in versions {
            if let Some(queue) = broker.node.durable_queue(id) {
                queue.mark_saved(first, version);
            }
        }
        let queues = pack.map(|pack| self.places_in(broker, pack)).unwrap_or_default();
        let forgotten = changes.packs_forgotten;
        self.stage = Stage::Moving(Moving { retiring, present: None, queues, forgotten });
        Ok(Progress::Working)
    }

    /// The places in a new pack, by queue.
    fn places_in(&mut self, broker: &Broker, pack: PackSummary) -> BTreeMap<QueueId, VecDeque<NewExtent>> {
        self.next_pack = pack.number + 1;
        let live = Arc::new(Gauge::default());
        let mut by_queue: BTreeMap<QueueId, VecDeque<NewExtent>> = BTreeMap::new();
        let mut count = 0;
        for extent in pack.extents {
            count += u64::from(extent.record.at.count);
            by_queue.entry(extent.record.queue).or_default().push_back(NewExtent {
                at: extent.record.at,
                gaps: extent.gaps,
                pack_live: Arc::clone(&live),
            });
        }
        broker.node.counters.packed_messages.add(count);
        self.packs.insert(pack.number, PackUse { live, count });
        by_queue
    }

    /// Moves places, as many as one hold of a queue's lock allows. When all have moved the packs go that they were in.
    fn move_some(&mut self, broker: &Broker, mut moving: Moving) -> Progress {
        if let Some(queue) = &moving.present {
            if queue.move_some() {
                moving.present = None;
            }
        } else if let Some((id, extents)) = moving.queues.pop_first() {
            moving.present = broker.node.durable_queue(id);
            if let Some(queue) = &moving.present {
                queue.begin_move(extents);
            }
        } else {
            for number in moving.forgotten {
                self.packs.remove(&number);
                broker.node.shelf.doom(Kind::Durable, number);
            }
            self.stage = Stage::Retiring(moving.retiring);
            return Progress::Working;
        }
        self.stage = Stage::Moving(moving);
        Progress::Working
    }

    fn retire(&mut self, broker: &Broker, retiring: Retiring) -> Result<Progress, StoreError> {
        match broker.node.log.try_retire(retiring)? {
            None => {
                // Publishers that were held back for want of slots look again.
                while broker.node.alarms.held_back.wake_some() {}
                Ok(Progress::Working)
            }
            Some(leased) => {
                self.stage = Stage::Retiring(leased);
                Ok(Progress::WaitsForReaders)
            }
        }
    }

    /// The last word before a clean stop, when nothing changes any more: what was handed out once, so that the next
    /// start need not call every message redelivered.
    ///
    /// # Errors
    /// What the disk says.
    pub fn close(&mut self, broker: &Broker) -> Result<(), StoreError> {
        while !matches!(self.stage, Stage::Idle) && self.step(broker)? == Progress::Working {}
        let changes = Changes {
            queues: broker.node.durable_queues().iter().map(|queue| row_of(queue)).collect(),
            next_queue_id: Some(broker.node.peek_queue_id()),
            clean: Some(broker.node.log.durable()),
            ..Changes::default()
        };
        self.meta.commit(&changes)
    }
}

/// What of the runs lies in the ranges. Both ascend, and so each is looked at once.
fn parts_within(
    runs: impl IntoIterator<Item = Run>,
    ranges: impl IntoIterator<Item = (Seq, Seq)>,
) -> impl Iterator<Item = Run> {
    let mut ranges = ranges.into_iter().peekable();
    let parts_of = move |run: Run| {
        let mut parts = Vec::new();
        while let Some(&(first, end)) = ranges.peek()
            && first < run.end_seq()
        {
            parts.extend(run.part(first, end));
            if end > run.end_seq() {
                // The next run may have more of it.
                break;
            }
            ranges.next();
        }
        parts
    };
    runs.into_iter().flat_map(parts_of)
}

fn row_of(queue: &Queue) -> QueueRow {
    QueueRow { queue: queue.id, next_seq: queue.peek_seq(), delivered_hi: queue.delivered_hi() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::parts_within;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::Seq;
    use crate::message::record::Content;
    use crate::message::run::Run;

    fn run(first: u64, end: u64) -> Run {
        let mut builder = BlockBuilder::default();
        for _ in first..end {
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        }
        let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
        let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
    }

    /// Ascending ranges with gaps between some of them.
    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let lengths = proptest::collection::vec((0u64..4, 1u64..6), 0..20);
        lengths.prop_map(|lengths| {
            let mut end = 1;
            let mut range = |(gap, len)| {
                let first = end + gap;
                end = first + len;
                (first, end)
            };
            lengths.into_iter().map(&mut range).collect()
        })
    }

    proptest! {
        #[test]
        fn what_lives_of_runs_is_found_in_one_walk(runs in ranges(), live in ranges()) {
            let looked_at = Cell::new(0);
            let ranges = live.iter().map(|&(first, end)| (Seq(first), Seq(end)));
            let ranges = ranges.inspect(|_| looked_at.set(looked_at.get() + 1));
            let parts = parts_within(runs.iter().map(|&(first, end)| run(first, end)), ranges);
            let found: Vec<u64> = parts.flat_map(|part| part.first_seq().0..part.end_seq().0).collect();
            let is_in = |ranges: &[(u64, u64)], seq| ranges.iter().any(|&(first, end)| (first..end).contains(&seq));
            let expected: Vec<u64> = (0..200).filter(|seq| is_in(&runs, *seq) && is_in(&live, *seq)).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(looked_at.get() <= live.len());
        }
    }
}
