//! A slot: one file of the log, used again and again. Its first page says which part of the log it holds.
//!
//! ```text
//! u64 magic | u32 version | u64 sequence | u64 epoch | u64 epoch before | u64 created (unix ms) | u32 crc32c
//! ```
//!
//! Little endian, zeros up to 4 KiB; the checksum is of all that stands before it. The epoch is drawn at random for
//! each use of the file, so that batches of an earlier use are not taken for its own and none can be forged in a
//! message's body. The epoch before is the one of the slot with the number before: a chain.

use crate::storage::disk::PAGE_BYTES;
use crate::storage::error::StoreError;

/// Where the first batch of a slot starts.
pub const SLOT_HEADER_BYTES: u64 = PAGE_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"SLUICE-L");
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 44;

/// What the first page of a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHeader {
    /// The slot's number in the log: one more for each slot begun.
    pub sequence: u64,
    /// This use of the file.
    pub epoch: u64,
    /// The epoch of the slot numbered one less, 0 for the first.
    pub epoch_before: u64,
    /// When it was begun: for people.
    pub created_ms: u64,
}

impl SlotHeader {
    /// The page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SLOT_HEADER_BYTES as usize);
        page.extend_from_slice(&MAGIC.to_le_bytes());
        page.extend_from_slice(&VERSION.to_le_bytes());
        for field in [self.sequence, self.epoch, self.epoch_before, self.created_ms] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        page.extend_from_slice(&crc32c::crc32c(&page).to_le_bytes());
        page.resize(SLOT_HEADER_BYTES as usize, 0);
        page
    }

    /// Reads a page; `None` when it is no header.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when it is one of a version that is not known here.
    pub fn decode(page: &[u8], file: &str) -> Result<Option<Self>, StoreError> {
        let Some((checked, rest)) = page.split_at_checked(CHECKED_BYTES) else { return Ok(None) };
        let mut crc = rest;
        let mut fields = checked;
        if take_u32(&mut crc) != Some(crc32c::crc32c(checked)) || take_u64(&mut fields) != Some(MAGIC) {
            return Ok(None);
        }
        let found = take_u32(&mut fields).unwrap_or_default();
        if found != VERSION {
            return Err(StoreError::Newer { file: file.to_owned(), found, known: VERSION });
        }
        let mut next = || take_u64(&mut fields);
        let (Some(sequence), Some(epoch), Some(epoch_before), Some(created_ms)) =
            (next(), next(), next(), next())
        else {
            return Ok(None);
        };
        Ok(Some(Self { sequence, epoch, epoch_before, created_ms }))
    }
}

/// Takes a number off the front.
pub(super) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

/// Takes a number off the front.
pub(super) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::{SLOT_HEADER_BYTES, SlotHeader};
    use crate::storage::error::StoreError;

    const HEADER: SlotHeader = SlotHeader { sequence: 7, epoch: 8, epoch_before: 9, created_ms: 10 };

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let page = HEADER.encode();
        assert_eq!(page.len() as u64, SLOT_HEADER_BYTES);
        assert_eq!(SlotHeader::decode(&page, "slot").unwrap(), Some(HEADER));
        assert_eq!(&page[..20], b"SLUICE-L\x01\0\0\0\x07\0\0\0\0\0\0\0");
    }

    #[test]
    fn no_damaged_header_is_read() {
        let page = HEADER.encode();
        for at in 0..48 {
            let mut damaged = page.clone();
            damaged[at] ^= 0x10;
            assert_eq!(SlotHeader::decode(&damaged, "slot").unwrap(), None, "byte {at}");
        }
        assert_eq!(SlotHeader::decode(&[0; 4096], "slot").unwrap(), None);
        assert_eq!(SlotHeader::decode(&page[..40], "slot").unwrap(), None);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut page = HEADER.encode();
        page[8] = 2;
        let crc = crc32c::crc32c(&page[..44]).to_le_bytes();
        page[44..48].copy_from_slice(&crc);
        assert!(matches!(SlotHeader::decode(&page, "slot"), Err(StoreError::Newer { found: 2, .. })));
    }
}
