//! What a checkpoint takes over: what lives in the log's oldest slots, or in packs that are merged, written to a new pack
//! queue by queue, and what is settled in other packs.

use std::collections::BTreeSet;

use crate::broker::Broker;
use crate::broker::checkpoint::packs::Merge;
use crate::broker::checkpoint::records::{Found, Records};
use crate::broker::node::Node;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::store::DirtyExtent;
use crate::message::place::{Lsn, QueueId, Seq};
use crate::storage::error::StoreError;
use crate::storage::log::Retiring;
use crate::storage::meta::{Changes, QueueRow};
use crate::storage::pack::Kind;
use crate::storage::pack::writer::{PackSummary, PackWriter};

/// The one lane of a queue: tables have room for more, which nothing needs so far.
const LANE: u32 = 0;
/// Ranges that are captured in one hold of a queue's lock.
const RANGES_PER_HOLD: usize = 1000;

/// A capture on its way.
#[derive(Debug)]
pub(super) struct Capture {
    /// The slots that are taken over, if any.
    retiring: Option<Retiring>,
    /// Queues to visit, the next one last.
    queues: Vec<QueueId>,
    /// Packs that are merged, if any.
    merged: BTreeSet<u64>,
    /// What may be written of it.
    bytes_max: Option<u64>,
    writer: Option<PackWriter>,
    records: Records,
    changes: Changes,
    /// Bitmaps that were captured: queue, first number of the extent, version.
    versions: Vec<(QueueId, Seq, u64)>,
    /// Counts of returns that were captured: queue, first number, version.
    returns: Vec<(QueueId, Seq, u64)>,
}

/// All that a checkpoint commits.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) retiring: Option<Retiring>,
    pub(super) pack: Option<PackSummary>,
    pub(super) changes: Changes,
    pub(super) versions: Vec<(QueueId, Seq, u64)>,
    pub(super) returns: Vec<(QueueId, Seq, u64)>,
    /// The log's end when the last queue had been captured.
    pub(super) seen: Lsn,
}

/// What a step of a capture came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A queue is captured.
    Captured,
    /// There is no queue left.
    Last,
    /// More would be written than may be.
    TooMuch,
    /// This pack, which is to be merged, cannot be read.
    Unreadable(u64, StoreError),
}

impl Capture {
    /// Of what lives in slots of the log.
    pub(super) fn of_slots(retiring: Retiring, bytes_max: Option<u64>) -> Self {
        let changes = Changes {
            definitions: retiring.facts().definitions().to_vec(),
            replay: Some(retiring.replay()),
            ..Changes::default()
        };
        let queues = retiring.facts().queues().collect();
        Self::new(Some(retiring), queues, BTreeSet::new(), bytes_max, changes)
    }

    /// Of what lives in packs.
    pub(super) fn of_packs(merge: Merge, bytes_max: Option<u64>) -> Self {
        Self::new(None, merge.queues, merge.packs, bytes_max, Changes::default())
    }

    fn new(
        retiring: Option<Retiring>,
        queues: BTreeSet<QueueId>,
        merged: BTreeSet<u64>,
        bytes_max: Option<u64>,
        changes: Changes,
    ) -> Self {
        Self {
            retiring,
            queues: queues.into_iter().rev().collect(),
            merged,
            bytes_max,
            writer: None,
            records: Records::default(),
            changes,
            versions: Vec::new(),
            returns: Vec::new(),
        }
    }

    /// Captures the next queue; what lives of it goes to the pack of this number.
    pub(super) fn next_queue(&mut self, broker: &Broker, pack: u64) -> Result<Outcome, StoreError> {
        let Some(id) = self.queues.pop() else { return Ok(Outcome::Last) };
        let Some(queue) = broker.node.durable_queue(id) else { return Ok(Outcome::Captured) };
        if let Some(ended) = self.copy_packs(broker, &queue, pack)? {
            return Ok(ended);
        }
        if let Some(ended) = self.copy_slots(broker, &queue, pack)? {
            return Ok(ended);
        }
        for DirtyExtent { first, version, settled } in queue.dirty_extents(&self.merged) {
            self.versions.push((queue.id, first, version));
            match settled {
                Some(settled) => self.changes.settled.push((queue.id, LANE, first, settled)),
                None => self.changes.extents_forgotten.push((queue.id, LANE, first)),
            }
        }
        self.capture_returns(&queue);
        self.changes.queues.push(row_of(&queue));
        Ok(Outcome::Captured)
    }

    /// How often messages came back: of few queues anything.
    fn capture_returns(&mut self, queue: &Queue) {
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let unsaved = queue.unsaved_returns(seq);
            from = unsaved.next;
            self.changes.returns_forgotten.extend(unsaved.gone.into_iter().map(|first| (queue.id, first)));
            for (returned, version) in unsaved.changed {
                self.returns.push((queue.id, returned.first, version));
                self.changes.returns.push((queue.id, returned));
            }
        }
    }

    /// What lives in packs that are merged. How it ended, if not well.
    fn copy_packs(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        pack: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        let node = &broker.node;
        let mut last = None;
        for at in queue.extents_of(&self.merged) {
            let live = queue.live_ranges(at.first, at.last.after(1));
            if live.is_empty() {
                continue;
            }
            let old = node.shelf.lease(Kind::Durable, at.pack);
            let read = match old.and_then(|old| old.read_extent(queue.id, &at, &node.memory.messages)) {
                Ok(mut read) => read.damaged.pop().map_or(Ok(read), Err),
                Err(error) => Err(error),
            };
            let read = match read {
                Ok(read) => read,
                Err(error) => return Ok(Some(Outcome::Unreadable(at.pack, error))),
            };
            let merged = &self.merged;
            writer(&mut self.writer, broker, pack)?.copy(queue.id, at.pack, &read, live, |first, end| {
                let last = last.replace(Seq(end.0 - 1));
                // An extent that stays must not lie within a new one.
                last.is_some_and(|last| queue.has_extent_between(last, first, merged))
            })?;
            if self.is_above_limit() {
                return Ok(Some(Outcome::TooMuch));
            }
        }
        Ok(None)
    }

    /// What lives in slots that are taken over. How it ended, if not well.
    fn copy_slots(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        pack: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        let Some(retiring) = &self.retiring else { return Ok(None) };
        let before = retiring.replay().lsn;
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let held = queue.placed_before(before, seq, RANGES_PER_HOLD);
            from = held.next;
            for of_record in held.ranges.chunk_by(|(.., one), (.., next)| one == next) {
                match self.copy_record(broker, queue, pack, of_record) {
                    Err(damage @ StoreError::Corrupt { .. }) => {
                        tracing::error!(%damage, "messages are damaged and left out of the checkpoint");
                    }
                    copied => copied?,
                }
            }
            if self.is_above_limit() {
                return Ok(Some(Outcome::TooMuch));
            }
        }
        Ok(None)
    }

    fn copy_record(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        pack: u64,
        live: &[(Seq, Seq, Lsn)],
    ) -> Result<(), StoreError> {
        let node = &broker.node;
        let Some(&(.., start)) = live.first() else { return Ok(()) };
        let mut live = live.iter().map(|&(first, end, _)| (first, end));
        let Some(found) = self.records.find(node, queue.id, start)? else { return Ok(()) };
        let writer = writer(&mut self.writer, broker, pack)?;
        match found {
            Found::Own(run) => live.try_for_each(|(first, end)| {
                run.part(first, end).map_or(Ok(()), |part| writer.push(queue.id, &part))
            }),
            Found::Shared(shared) => {
                let live: Vec<_> = live.collect();
                writer.push_shared(queue.id, shared, &live, || self.records.block(node, start))
            }
        }
    }

    fn is_above_limit(&self) -> bool {
        let written = self.writer.as_ref().map_or(0, PackWriter::bytes);
        self.bytes_max.is_some_and(|max| written > max)
    }

    /// All is captured; of `dead` packs nothing lives.
    pub(super) fn finish(self, broker: &Broker, dead: Vec<u64>) -> Result<Captured, StoreError> {
        let Self { retiring, merged, writer, mut changes, versions, returns, .. } = self;
        let node = &broker.node;
        let pack = writer.map(|writer| writer.finish(&*node.disk)).transpose()?;
        if let Some(pack) = &pack {
            changes.extents = pack.extents.clone();
        }
        changes.packs_forgotten = dead.into_iter().chain(merged).collect();
        changes.next_queue_id = Some(node.peek_queue_id());
        Ok(Captured { retiring, pack, changes, versions, returns, seen: node.log.end() })
    }
}

impl Captured {
    /// All is committed: the queues need not tell it again.
    pub(super) fn tell_queues(&self, node: &Node) {
        let tell = |id: QueueId, tell: &dyn Fn(&Queue)| {
            if let Some(queue) = node.durable_queue(id) {
                tell(&queue);
            }
        };
        for &(id, first, version) in &self.versions {
            tell(id, &|queue| queue.mark_saved(first, version));
        }
        for &(id, first, version) in &self.returns {
            tell(id, &|queue| queue.mark_returns_saved(first, version));
        }
        for &(id, first) in &self.changes.returns_forgotten {
            tell(id, &|queue| queue.mark_returns_gone(first));
        }
    }
}

/// The pack that is written, made when something lives.
fn writer<'a>(
    writer: &'a mut Option<PackWriter>,
    broker: &Broker,
    pack: u64,
) -> Result<&'a mut PackWriter, StoreError> {
    match writer {
        Some(writer) => Ok(writer),
        none => Ok(none.insert(PackWriter::create(&*broker.node.disk, Kind::Durable, pack)?)),
    }
}

pub(super) fn row_of(queue: &Queue) -> QueueRow {
    QueueRow { queue: queue.id, next_seq: queue.peek_seq(), delivered_hi: queue.delivered_hi() }
}
