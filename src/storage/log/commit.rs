//! Committing: the pending batch goes to the open slot in one write and one sync, or to the next slot.
//!
//! ```text
//! take -> (no room in the slot: sync it, begin the next) -> write -> sync -> index -> durable rises -> wake
//! ```
//!
//! A slot is begun with its header, synced, before a batch may follow. No room for a new slot is the one failure that
//! leaves everything as it was: the batch is kept and the next call tries again.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::storage::batch::{BATCH_HEADER_BYTES, BatchHeader, padded_bytes};
use crate::storage::disk::PAGE_BYTES;
use crate::storage::error::StoreError;
use crate::storage::log::append::Batch;
use crate::storage::log::options::Epochs;
use crate::storage::log::slots::{SlotFacts, SlotUse};
use crate::storage::log::waiting::Waiter;
use crate::storage::log::{Log, SyncMode};
use crate::storage::slot::{SLOT_HEADER_BYTES, SlotHeader};

const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// There was nothing to do.
    Nothing,
    /// One batch is durable; there may be more.
    Batch,
}

/// What only a commit touches.
#[derive(Debug)]
pub(super) struct Committer {
    /// `None` until the first slot of this run is begun.
    open: Option<OpenSlot>,
    /// Of the slot before the next one.
    sequence: u64,
    epoch: u64,
    /// The end of what is written.
    end_lsn: u64,
    epochs: Epochs,
    /// A batch for which there was no room.
    kept: Option<Batch>,
}

#[derive(Debug)]
struct OpenSlot {
    slot: Arc<SlotUse>,
    /// Where the next batch goes.
    offset: u64,
    /// Whether a batch is written and not synced.
    unsynced: bool,
}

impl Committer {
    /// Goes on behind the slot `sequence`, of this epoch, with the position `end_lsn`.
    pub(super) fn new(sequence: u64, epoch: u64, end_lsn: u64, epochs: Epochs) -> Self {
        Self { open: None, sequence, epoch, end_lsn, epochs, kept: None }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.open.as_ref().is_some_and(|open| open.offset + bytes <= open.slot.file.len)
    }
}

impl Log {
    /// Makes the oldest pending batch durable.
    ///
    /// # Errors
    /// [`StoreError::is_full`] when a new slot is needed and the disk has no room for it: nothing is lost, and the
    /// call may be repeated when there may be room. Any other error is final, and so is every later call.
    pub fn commit_once(&self) -> Result<Committed, StoreError> {
        let mut committer = self.committer.lock();
        self.check_poison()?;
        let Some(mut batch) = committer.kept.take().or_else(|| self.take_pending()) else {
            return Ok(Committed::Nothing);
        };
        let bytes = padded_bytes(batch.payload_bytes);
        if !committer.has_room(bytes)
            && let Err(error) = self.begin_slot(&mut committer, bytes)
        {
            committer.kept = Some(batch);
            self.lacks_room.store(error.is_full(), Ordering::Relaxed);
            return Err(error);
        }
        self.lacks_room.store(false, Ordering::Relaxed);
        self.write(&mut committer, &mut batch).map_err(|error| self.poison(&error))?;
        self.durable.store(batch.end_lsn(), Ordering::Release);
        self.counters.pending_bytes.sub(batch.payload_bytes);
        drop(committer);
        self.wake_waiting();
        self.give_back(batch);
        Ok(Committed::Batch)
    }

    /// Makes everything written survive a power cut, where batches are not synced one by one.
    ///
    /// # Errors
    /// Final, as that of [`Log::commit_once`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut committer = self.committer.lock();
        self.check_poison()?;
        self.sync_open(&mut committer).map_err(|error| self.poison(&error))
    }

    /// Begins the next slot, so that a checkpoint may take all that is written. Does nothing while the open slot is
    /// empty.
    ///
    /// # Errors
    /// As [`Log::commit_once`].
    pub fn seal_open_slot(&self) -> Result<(), StoreError> {
        let mut committer = self.committer.lock();
        self.check_poison()?;
        if committer.open.as_ref().is_some_and(|open| !open.slot.contents.lock().has_batches()) {
            return Ok(());
        }
        self.begin_slot(&mut committer, 0)
    }

    /// Seals the open slot and begins the next one, with room for a batch of `bytes`.
    fn begin_slot(&self, committer: &mut Committer, bytes: u64) -> Result<(), StoreError> {
        self.sync_open(committer).map_err(|error| self.poison(&error))?;
        let final_unless_full = |error: StoreError| if error.is_full() { error } else { self.poison(&error) };
        let file = self.take_file(bytes).map_err(final_unless_full)?;
        let header = SlotHeader {
            sequence: committer.sequence + 1,
            epoch: committer.epochs.draw(),
            epoch_before: committer.epoch,
            created_ms: self.options.created_ms,
        };
        let name = file.file.name();
        if let Err(error) = file.file.write_at(&[IoSlice::new(&header.encode())], 0) {
            let error = StoreError::io("write", name)(error);
            self.slots.lock().free.push_back(file);
            return Err(final_unless_full(error));
        }
        let synced = file.file.sync_data().map_err(StoreError::io("sync", name));
        synced.map_err(|error| self.poison(&error))?;
        self.counters.syncs.add(1);
        let end_lsn = committer.end_lsn;
        let slot = Arc::new(SlotUse::new(file, header.sequence, header.epoch, end_lsn, SlotFacts::default()));
        let in_use = {
            let mut slots = self.slots.lock();
            slots.used.push_back(Arc::clone(&slot));
            slots.used.len()
        };
        self.counters.slots.set(in_use as u64);
        committer.open = Some(OpenSlot { slot, offset: SLOT_HEADER_BYTES, unsynced: false });
        committer.sequence = header.sequence;
        committer.epoch = header.epoch;
        self.forget();
        Ok(())
    }

    fn sync_open(&self, committer: &mut Committer) -> Result<(), StoreError> {
        let Some(open) = committer.open.as_mut().filter(|open| open.unsynced) else { return Ok(()) };
        let file = &open.slot.file.file;
        file.sync_data().map_err(StoreError::io("sync", file.name()))?;
        open.unsynced = false;
        self.counters.syncs.add(1);
        Ok(())
    }

    /// Writes a batch that fits and, where that is asked for, syncs it.
    fn write(&self, committer: &mut Committer, batch: &mut Batch) -> Result<(), StoreError> {
        let end_lsn = batch.end_lsn();
        debug_assert_eq!(batch.first_lsn, committer.end_lsn);
        let open = committer.open.as_mut().expect("a slot with room was found before");
        let file = &open.slot.file.file;
        let mut pieces = vec![IoSlice::new(&[])];
        batch.pieces(&mut pieces);
        let header = BatchHeader {
            payload_bytes: u32::try_from(batch.payload_bytes).expect("a batch is closed before 4 GiB"),
            epoch: open.slot.epoch,
            first_lsn: batch.first_lsn,
            records: batch.records,
            relaxed: open.unsynced,
            payload_crc: pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece)),
        };
        let encoded = header.encode();
        if let Some(first) = pieces.first_mut() {
            *first = IoSlice::new(&encoded);
        }
        let padding = header.padded_bytes() - BATCH_HEADER_BYTES - batch.payload_bytes;
        pieces.push(IoSlice::new(ZEROS.get(..padding as usize).unwrap_or_default()));
        file.write_at(&pieces, open.offset).map_err(StoreError::io("write", file.name()))?;
        open.unsynced = true;
        {
            let mut facts = open.slot.facts.lock();
            batch.queues.iter().for_each(|queue| facts.name_queue(*queue));
            batch.definitions.iter().for_each(|definition| facts.define(definition.clone()));
        }
        {
            let mut contents = open.slot.contents.lock();
            contents.add_batch(batch.first_lsn, open.offset, end_lsn);
            contents.pin(std::mem::take(&mut batch.applying));
        }
        open.offset += header.padded_bytes();
        committer.end_lsn = end_lsn;
        self.counters.batches.add(1);
        self.counters.bytes.add(batch.payload_bytes);
        if self.options.sync == SyncMode::EachBatch {
            self.sync_open(committer)?;
        }
        Ok(())
    }

    /// Wakes those who wait, under no lock: there may be very many.
    fn wake_waiting(&self) {
        let mut woken = self.waiting.lock().take();
        if !woken.is_empty() {
            woken.drain(..).for_each(Waiter::wake);
            self.waiting.lock().give_back(woken);
        }
    }
}
