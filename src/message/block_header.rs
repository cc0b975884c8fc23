//! What stands before a block's records, in memory and on disk alike.
//!
//! ```text
//! u32 bytes of the whole block | u32 crc32c of all that follows | u8 version | u8 flags | u16 records | u64 received at
//! ```
//!
//! Little endian. The checksum is made once, when persistent messages are sealed, away from every lock; that of
//! transient ones is zero until they are spilled. What differs from queue to queue (numbers, redelivery) is never here.

use bytes::{Buf, BufMut};

/// The header's length in bytes.
pub const HEADER_BYTES: usize = 20;
/// Where what the checksum covers starts.
const CHECKED_FROM: usize = 8;
const VERSION: u8 = 1;
pub(super) const PERSISTENT: u8 = 1;
pub(super) const EXPIRES: u8 = 2;
pub(super) const PRIORITIZED: u8 = 4;
pub(super) const BLIND: u8 = 8;

/// What queues want to know of a message's properties before they look at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It is to survive a restart if its queue does.
    pub persistent: bool,
    /// It has an `expiration`; of a block: one of them has.
    pub expires: bool,
    /// It has a `priority`; of a block: one of them has.
    pub prioritized: bool,
    /// It has a BCC header, which is for routing and for nobody to see; of a block: all of them have.
    pub blind: bool,
}

impl Marks {
    /// Of a message that says nothing but whether it is persistent.
    pub const fn of(persistent: bool) -> Self {
        Self { persistent, expires: false, prioritized: false, blind: false }
    }

    /// Those of unknown meaning are `None`.
    pub(super) const fn from_flags(flags: u8) -> Option<Self> {
        if flags & !(PERSISTENT | EXPIRES | PRIORITIZED | BLIND) != 0 {
            return None;
        }
        Some(Self {
            persistent: flags & PERSISTENT != 0,
            expires: flags & EXPIRES != 0,
            prioritized: flags & PRIORITIZED != 0,
            blind: flags & BLIND != 0,
        })
    }

    pub(super) const fn to_flags(self) -> u8 {
        self.persistent as u8 * PERSISTENT
            + self.expires as u8 * EXPIRES
            + self.prioritized as u8 * PRIORITIZED
            + self.blind as u8 * BLIND
    }
}

/// What all messages of a block have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// What their properties say.
    pub marks: Marks,
    /// When they were received, in milliseconds since 1970 ([`steady_ms`](crate::clock::Now::steady_ms)); 0 when nobody
    /// knows.
    pub received_ms: u64,
}

/// Why bytes are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Its length is not that of the bytes.
    #[error("a block's length is not that of its bytes")]
    Length,
    /// A newer version wrote it, or nobody.
    #[error("a block of the unknown version {0} or with unknown flags")]
    Version(u8),
    /// It is not what was written.
    #[error("a block's checksum is wrong")]
    Checksum,
    /// Its records are not as many as it says, or none.
    #[error("a block's records are not what its header says")]
    Records,
}

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The whole block's length in bytes, this header's included.
    pub bytes: u32,
    /// The checksum of all that follows it; 0 when none was made.
    pub crc: u32,
    /// How many records follow.
    pub count: u16,
    /// What they have in common.
    pub stamp: Stamp,
}

impl BlockHeader {
    /// The header of `count` records that are `record_bytes` long, without a checksum.
    pub(super) fn new(stamp: Stamp, count: u32, record_bytes: usize) -> Self {
        let bytes = u32::try_from(HEADER_BYTES + record_bytes).expect("bodies are limited far below 4 GiB");
        let count = u16::try_from(count).expect("a block is sealed long before 65,536 records");
        Self { bytes, crc: 0, count, stamp }
    }

    /// Reads the header at the head of a block and compares its length with that of `block`; the checksum is not
    /// looked at.
    ///
    /// # Errors
    /// [`BlockError::Length`] and [`BlockError::Version`].
    pub fn read(block: &[u8]) -> Result<Self, BlockError> {
        let header = Self::from_bytes(block.first_chunk().ok_or(BlockError::Length)?)?;
        if header.bytes as usize != block.len() {
            return Err(BlockError::Length);
        }
        Ok(header)
    }

    /// Reads a header; how long its block really is is not known here.
    ///
    /// # Errors
    /// [`BlockError::Version`].
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BlockError> {
        let mut bytes = bytes.as_slice();
        let (len, crc) = (bytes.get_u32_le(), bytes.get_u32_le());
        let (version, flags) = (bytes.get_u8(), bytes.get_u8());
        let (count, received_ms) = (bytes.get_u16_le(), bytes.get_u64_le());
        let marks = Marks::from_flags(flags).filter(|_| version == VERSION);
        let marks = marks.ok_or(BlockError::Version(version))?;
        Ok(Self { bytes: len, crc, count, stamp: Stamp { marks, received_ms } })
    }

    /// The header's bytes as it is.
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.crc);
        out.put_u8(VERSION);
        out.put_u8(self.stamp.marks.to_flags());
        out.put_u16_le(self.count);
        out.put_u64_le(self.stamp.received_ms);
        bytes
    }

    /// The header with the checksum it must have before these records, if they are to survive a restart: otherwise it is
    /// made when they go to the disk after all.
    #[must_use]
    pub(super) fn sealed<'a>(self, records: impl Iterator<Item = &'a [u8]>) -> Self {
        if self.stamp.marks.persistent { self.checked(records) } else { self }
    }

    /// The header of the same records, received at this time, in milliseconds since 1970.
    #[must_use]
    pub(super) fn received_at<'a>(self, received_ms: u64, records: impl Iterator<Item = &'a [u8]>) -> Self {
        Self { crc: 0, stamp: Stamp { received_ms, ..self.stamp }, ..self }.sealed(records)
    }

    /// The header with the checksum it must have before these records.
    #[must_use]
    pub(super) fn checked<'a>(self, records: impl Iterator<Item = &'a [u8]>) -> Self {
        let bytes = self.to_bytes();
        let covered = bytes.get(CHECKED_FROM..).unwrap_or_default();
        let crc = records.fold(crc32c::crc32c(covered), crc32c::crc32c_append);
        Self { crc, ..self }
    }
}

/// Verifies that a block is what was written: length, version, checksum. Its records are not looked at.
///
/// # Errors
/// All of [`BlockError`] but [`BlockError::Records`].
pub fn verify(block: &[u8]) -> Result<BlockHeader, BlockError> {
    let header = BlockHeader::read(block)?;
    let covered = block.get(CHECKED_FROM..).ok_or(BlockError::Length)?;
    if crc32c::crc32c(covered) != header.crc {
        return Err(BlockError::Checksum);
    }
    Ok(header)
}
