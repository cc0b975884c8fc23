//! Reading a record back: where it starts says which slot, the slot's index which batch.
//!
//! What is checked is the structure, that the record lies inside its batch. That its body is what was written is
//! checked by whoever knows the body's own checksum.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::place::Lsn;
use crate::storage::batch::{RECORD_HEADER_BYTES, RecordHeader};
use crate::storage::disk::DiskFile;
use crate::storage::error::StoreError;
use crate::storage::log::Log;
use crate::storage::log::slots::{Location, SlotUse};

/// What one read of a slot fetches, so that neighbouring records cost one.
const CHUNK_BYTES: u64 = 256 * 1024;

/// The same where records are read that lie apart: enough to know how long one is, and to have a short one.
const SCATTERED_BYTES: u64 = 4 * 1024;

/// Keeps a slot from being written over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SlotLease(Arc<SlotUse>);

impl SlotLease {
    /// Whether the record that starts here is in the slot.
    pub fn covers(&self, lsn: Lsn) -> bool {
        self.0.locate(lsn).is_some()
    }
}

/// Reads records, and remembers the last chunk. One for each task that reads.
#[derive(Debug)]
pub struct LogReader {
    chunk: Option<Chunk>,
    chunk_bytes: u64,
}

impl Default for LogReader {
    fn default() -> Self {
        Self { chunk: None, chunk_bytes: CHUNK_BYTES }
    }
}

#[derive(Debug)]
struct Chunk {
    epoch: u64,
    offset: u64,
    bytes: Bytes,
}

impl Log {
    /// Leases the slot that has the record starting at `lsn`; `None` when it is not written yet, or the slot is
    /// retired: then the record's place has changed.
    pub fn lease(&self, lsn: Lsn) -> Option<SlotLease> {
        self.slots.lock().find(lsn).map(|slot| SlotLease(Arc::clone(slot)))
    }
}

impl LogReader {
    /// For records that lie apart.
    pub fn of_scattered() -> Self {
        Self { chunk: None, chunk_bytes: SCATTERED_BYTES }
    }

    /// The kind and the body of the record that starts at `start`.
    ///
    /// # Errors
    /// When the file cannot be read, or there is no whole record at this position.
    pub fn read(&mut self, lease: &SlotLease, start: Lsn) -> Result<(u8, Bytes), StoreError> {
        let slot = &lease.0;
        let file = &slot.file.file;
        let bad = |offset, problem: &str| StoreError::Corrupt {
            file: file.name().to_owned(),
            offset,
            problem: problem.to_owned(),
        };
        let at = slot.locate(start).ok_or_else(|| bad(0, &format!("no record starts at {}", start.0)))?;
        let head = self.fetch(slot, at, RECORD_HEADER_BYTES)?;
        let header = RecordHeader::decode(&head).ok_or_else(|| bad(at.offset, "no record starts here"))?;
        if at.offset + header.record_bytes() > at.batch_end {
            return Err(bad(at.offset, "the record is longer than its batch"));
        }
        let mut record = self.fetch(slot, at, header.record_bytes())?;
        if (record.len() as u64) < header.record_bytes() {
            return Err(bad(at.offset, "the file ends in the record"));
        }
        Ok((header.kind, record.split_off(RECORD_HEADER_BYTES as usize)))
    }

    /// `len` bytes of the slot from the location on, fewer only at the end of the file.
    fn fetch(&mut self, slot: &SlotUse, at: Location, len: u64) -> Result<Bytes, StoreError> {
        if let Some(chunk) = self.chunk.as_ref().filter(|chunk| chunk.epoch == slot.epoch)
            && let Some(skip) = at.offset.checked_sub(chunk.offset)
            && skip + len <= chunk.bytes.len() as u64
        {
            return Ok(chunk.bytes.slice(skip as usize..(skip + len) as usize));
        }
        if len > self.chunk_bytes {
            return read(&*slot.file.file, at.offset, len);
        }
        // What is beyond the last batch may be written in a moment, and must not be remembered as it is now.
        let known = at.written_end.saturating_sub(at.offset);
        let bytes = read(&*slot.file.file, at.offset, known.min(self.chunk_bytes))?;
        let fetched = bytes.slice(..(len as usize).min(bytes.len()));
        self.chunk = Some(Chunk { epoch: slot.epoch, offset: at.offset, bytes });
        Ok(fetched)
    }
}

fn read(file: &dyn DiskFile, offset: u64, len: u64) -> Result<Bytes, StoreError> {
    let mut buffer = vec![0; len as usize];
    let count = file.read_at(&mut buffer, offset).map_err(StoreError::io("read", file.name()))?;
    buffer.truncate(count);
    Ok(buffer.into())
}
