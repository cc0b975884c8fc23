//! Which slots there are: those in use, with what the log remembers of each, and those that are free.
//!
//! The index of a slot has a line per batch, `(first lsn, offset)`: enough to find any record by its start.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use roaring::RoaringTreemap;

use crate::message::fact_codec;
use crate::message::place::{Lsn, QueueId};
use crate::storage::batch::BATCH_HEADER_BYTES;
use crate::storage::disk::DiskFile;

/// A definition as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedDefinition {
    /// Where its record starts.
    pub lsn: Lsn,
    /// Its record's kind.
    pub kind: u8,
    /// Its record's body.
    pub body: Bytes,
}

/// What a checkpoint must know of a slot without reading it.
#[derive(Clone, Debug, Default)]
pub struct SlotFacts {
    queues: RoaringTreemap,
    definitions: Vec<LoggedDefinition>,
}

impl SlotFacts {
    /// Adds what a record says that was found in the slot.
    pub(super) fn note(&mut self, lsn: Lsn, kind: u8, body: &[u8]) {
        fact_codec::queues_named(kind, body).for_each(|queue| self.name_queue(queue));
        if fact_codec::is_definition(kind) {
            self.define(LoggedDefinition { lsn, kind, body: Bytes::copy_from_slice(body) });
        }
    }

    /// Messages or settles of the queue are in the slot.
    pub(super) fn name_queue(&mut self, queue: QueueId) {
        self.queues.insert(queue.0);
    }

    /// The definition is in the slot.
    pub(super) fn define(&mut self, definition: LoggedDefinition) {
        self.definitions.push(definition);
    }

    /// The queues that anything in the slot names, by number.
    pub fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.queues.iter().map(QueueId)
    }

    /// The definitions, in the log's order.
    pub fn definitions(&self) -> &[LoggedDefinition] {
        &self.definitions
    }

    /// Adds those of the next slot.
    pub(super) fn append(&mut self, next: &Self) {
        self.queues |= &next.queues;
        self.definitions.extend_from_slice(&next.definitions);
    }
}

/// A slot's file.
#[derive(Clone, Debug)]
pub(in crate::storage) struct SlotFile {
    pub(in crate::storage) number: u32,
    pub(in crate::storage) file: Arc<dyn DiskFile>,
    pub(in crate::storage) len: u64,
}

/// One use of a slot's file: from the header that begins it to its retirement.
#[derive(Debug)]
pub(super) struct SlotUse {
    pub(super) file: SlotFile,
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    /// Whoever looks for a record takes this lock, under that of a queue: it is held for moments.
    pub(super) contents: Mutex<SlotContents>,
    /// A lock of its own, because a batch may name very many queues. Only a commit takes it, and whoever retires the slot.
    pub(super) facts: Mutex<SlotFacts>,
}

#[derive(Debug)]
pub(super) struct SlotContents {
    /// For each batch the position of its first record and its offset in the file; rising.
    batches: Vec<(u64, u64)>,
    pub(super) end_lsn: u64,
    /// For each batch that had facts not applied when it was written.
    applying: Vec<Arc<()>>,
}

/// Where a record lies in its slot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) offset: u64,
    /// Where its batch ends.
    pub(super) batch_end: u64,
    /// Where the last batch ends: beyond it the file says nothing yet.
    pub(super) written_end: u64,
}

impl SlotUse {
    pub(super) fn new(file: SlotFile, sequence: u64, epoch: u64, end_lsn: u64, facts: SlotFacts) -> Self {
        let contents = SlotContents { batches: Vec::new(), end_lsn, applying: Vec::new() };
        Self { file, sequence, epoch, contents: Mutex::new(contents), facts: Mutex::new(facts) }
    }

    pub(super) fn locate(&self, lsn: Lsn) -> Option<Location> {
        let contents = self.contents.lock();
        let after = contents.batches.partition_point(|(first, _)| *first <= lsn.0);
        let &(first, offset) = contents.batches.get(after.checked_sub(1)?)?;
        let end = contents.batches.get(after).map_or(contents.end_lsn, |(next, _)| *next);
        let &(last, last_offset) = contents.batches.last()?;
        (lsn.0 < end).then_some(Location {
            offset: offset + BATCH_HEADER_BYTES + (lsn.0 - first),
            batch_end: offset + BATCH_HEADER_BYTES + (end - first),
            written_end: last_offset + BATCH_HEADER_BYTES + (contents.end_lsn - last),
        })
    }

    /// Whether all its facts are applied to the state in memory.
    fn is_applied(&self) -> bool {
        self.contents.lock().is_applied()
    }
}

impl SlotContents {
    pub(super) fn add_batch(&mut self, first_lsn: u64, offset: u64, end_lsn: u64) {
        self.batches.push((first_lsn, offset));
        self.end_lsn = end_lsn;
    }

    /// Keeps the slot from a checkpoint for as long as the token has other owners.
    pub(super) fn pin(&mut self, mut token: Arc<()>) {
        // `get_mut` orders what the owners did before they let go; a count alone would not.
        if Arc::get_mut(&mut token).is_none() {
            self.applying.push(token);
        }
    }

    fn is_applied(&mut self) -> bool {
        self.applying.retain_mut(|token| Arc::get_mut(token).is_none());
        self.applying.is_empty()
    }

    /// Bytes of records in a batch, on the average.
    pub(super) fn mean_batch_bytes(&self) -> u64 {
        let first = self.batches.first().map_or(self.end_lsn, |(first, _)| *first);
        (self.end_lsn - first).checked_div(self.batches.len() as u64).unwrap_or_default()
    }

    pub(super) fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By sequence; the last one is open.
    pub(super) used: VecDeque<Arc<SlotUse>>,
    /// The last one is taken first: it may have a header that was begun with and not synced, whose sequence no other
    /// file may get.
    pub(super) free: VecDeque<SlotFile>,
    /// Those that nobody needs and the disk did not let go of: see [`Log::sweep`](crate::storage::log::Log::sweep).
    pub(super) refused: VecDeque<SlotFile>,
    /// Those of all files there are.
    pub(super) numbers: BTreeSet<u32>,
}

impl Slots {
    /// A number that no file has, taken from now on.
    pub(super) fn take_number(&mut self) -> u32 {
        let number = (0..).find(|number| !self.numbers.contains(number)).unwrap_or_default();
        self.numbers.insert(number);
        number
    }

    pub(super) fn find(&self, lsn: Lsn) -> Option<&Arc<SlotUse>> {
        let after = self.used.partition_point(|slot| slot.contents.lock().end_lsn <= lsn.0);
        self.used.get(after).filter(|slot| slot.locate(lsn).is_some())
    }

    /// The oldest sealed slots that are applied, at most `max`.
    pub(super) fn applied(&self, max: usize) -> impl Iterator<Item = &Arc<SlotUse>> {
        let sealed = self.used.len().saturating_sub(1);
        self.used.iter().take(sealed.min(max)).take_while(|slot| slot.is_applied())
    }
}
