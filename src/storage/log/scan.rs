//! Reading a slot as the device has it, batch by batch, past the page cache and in chunks.

use bytes::Bytes;

use crate::storage::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::storage::disk::{DiskFile, PAGE_BYTES};
use crate::storage::error::StoreError;

const CHUNK_BYTES: u64 = 1 << 20;

/// A file and the chunk of it read last.
#[derive(Debug)]
pub(in crate::storage) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    chunk_offset: u64,
    chunk: Bytes,
}

/// A batch whose header and payload have the right checksums.
#[derive(Debug)]
pub(in crate::storage) struct FoundBatch {
    pub(in crate::storage) header: BatchHeader,
    pub(in crate::storage) payload: Bytes,
}

impl<'a> Scanner<'a> {
    pub(in crate::storage) fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self { file, len, chunk_offset: 0, chunk: Bytes::new() }
    }

    /// `len` bytes at `offset`; fewer when the file ends before.
    pub(in crate::storage) fn bytes(&mut self, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let len = len.min(self.len.saturating_sub(offset));
        if let Some(skip) = offset.checked_sub(self.chunk_offset)
            && skip + len <= self.chunk.len() as u64
        {
            return Ok(self.chunk.slice(skip as usize..(skip + len) as usize));
        }
        let wanted = len.max(CHUNK_BYTES).min(self.len.saturating_sub(offset));
        let mut buffer = vec![0; wanted as usize];
        let read = self.file.read_uncached_at(&mut buffer, offset);
        buffer.truncate(read.map_err(StoreError::io("read", self.file.name()))?);
        self.chunk_offset = offset;
        self.chunk = buffer.into();
        Ok(self.chunk.slice(..(len as usize).min(self.chunk.len())))
    }

    /// The batch at `offset` that ends before `limit`, if there is a whole one; of any epoch unless one is given.
    pub(in crate::storage) fn batch(
        &mut self,
        offset: u64,
        limit: u64,
        epoch: Option<u64>,
    ) -> Result<Option<FoundBatch>, StoreError> {
        let header = BatchHeader::decode(&self.bytes(offset, BATCH_HEADER_BYTES)?);
        let fits = |header: &BatchHeader| {
            epoch.is_none_or(|epoch| header.epoch == epoch)
                && header.records > 0
                && offset + header.padded_bytes() <= limit.min(self.len)
        };
        let Some(header) = header.filter(fits) else { return Ok(None) };
        let whole = self.bytes(offset, BATCH_HEADER_BYTES + u64::from(header.payload_bytes))?;
        let payload = whole.slice(whole.len().min(BATCH_HEADER_BYTES as usize)..);
        let whole = payload.len() as u64 == u64::from(header.payload_bytes)
            && crc32c::crc32c(&payload) == header.payload_crc;
        Ok(whole.then_some(FoundBatch { header, payload }))
    }

    /// Whether at `offset` or a later page there is a batch at or past the position, which was written when everything
    /// before it had been synced. Of any epoch unless one is given.
    pub(in crate::storage) fn proves_more(
        &mut self,
        offset: u64,
        lsn: u64,
        epoch: Option<u64>,
    ) -> Result<bool, StoreError> {
        let mut offset = offset;
        while offset < self.len {
            let found = self.batch(offset, self.len, epoch)?;
            if found.is_some_and(|batch| batch.header.first_lsn >= lsn && !batch.header.relaxed) {
                return Ok(true);
            }
            offset += PAGE_BYTES;
        }
        Ok(false)
    }
}
