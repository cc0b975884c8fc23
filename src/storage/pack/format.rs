//! What the bytes of a pack are. Little endian.
//!
//! ```text
//! header, 4 KiB   u64 magic | u32 version | u64 number | u32 crc32c of these; zeros
//! blocks          { prefix, block }, by queue, lane and number
//! index           one record for each extent, in the order of the blocks
//! footer, 64 B    u64 magic | u32 version | u64 number | u64 index offset | u32 extents | u32 crc32c of the index;
//!                 zeros | u32 crc32c of these
//!
//! prefix, 32 B    u64 queue | u64 first number | u32 messages | u32 smallest expiry | u32 flags
//!                 | u32 crc32c of these, going on over the checksum of the block
//! ```
//!
//! That the prefix's checksum goes on over the block's makes a block under another's prefix detectable. A block that
//! several queues have may be written once: the others' prefixes are followed by `u64 offset | u32 bytes | u32 crc32c`
//! of that block. Expiry is not known yet: its fields are zero.

use bytes::BufMut;

use crate::message::little_endian::Reader;
use crate::message::place::{Extent, QueueId, Seq};
use crate::storage::error::StoreError;

/// The header's length; the first block starts behind it.
pub const HEADER_BYTES: usize = 4096;
/// A block's prefix's length.
pub const PREFIX_BYTES: usize = 32;
/// The length of what stands in a shared block's place.
pub const POINTER_BYTES: usize = 16;
/// The footer's length.
pub const FOOTER_BYTES: usize = 64;
/// An extent's record's length in the index.
pub const RECORD_BYTES: usize = 76;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"SLPACK\r\n");
const FOOTER_MAGIC: u64 = u64::from_le_bytes(*b"SLPACEND");
const VERSION: u32 = 1;
/// A pointer stands in the block's place.
const SHARED: u32 = 1;

/// An extent as the index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRecord {
    /// Whose messages.
    pub queue: QueueId,
    /// Of which of its lanes.
    pub lane: u32,
    /// Where, and which numbers.
    pub at: Extent,
    /// When the earliest was received, in milliseconds since 1970.
    pub received_min_ms: u64,
    /// When the latest was received.
    pub received_max_ms: u64,
}

/// What stands before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) queue: QueueId,
    pub(super) first: Seq,
    pub(super) count: u32,
    /// The block is elsewhere in the pack.
    pub(super) shared: bool,
}

/// Where a shared block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// Where the index is and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) number: u64,
    pub(super) index_offset: u64,
    pub(super) extents: u32,
    pub(super) index_crc: u32,
}

impl Prefix {
    /// The prefix of a block with this checksum.
    pub(super) fn encode(&self, block_crc: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_BYTES);
        out.put_u64_le(self.queue.0);
        out.put_u64_le(self.first.0);
        out.put_u32_le(self.count);
        out.put_u32_le(0);
        out.put_u32_le(if self.shared { SHARED } else { 0 });
        out.put_u32_le(chained(&out, block_crc));
        out
    }

    /// Reads a prefix; whether its checksum is right can be told only with the block's, by [`Prefix::is_before`].
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (queue, first, count) = (QueueId(reader.u64()?), Seq(reader.u64()?), reader.u32()?);
        let (_expiry, flags) = (reader.u32()?, reader.u32()?);
        first.0.checked_add(u64::from(count))?;
        (flags & !SHARED == 0 && count > 0).then_some(Self {
            queue,
            first,
            count,
            shared: flags & SHARED != 0,
        })
    }

    /// Whether these bytes are the prefix of a block with this checksum.
    pub(super) fn is_before(bytes: &[u8], block_crc: u32) -> bool {
        bytes
            .split_last_chunk::<4>()
            .is_some_and(|(covered, crc)| chained(covered, block_crc).to_le_bytes() == *crc)
    }
}

fn chained(covered: &[u8], block_crc: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(covered), &block_crc.to_le_bytes())
}

impl Pointer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(POINTER_BYTES);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.crc);
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(Self { offset: reader.u64()?, bytes: reader.u32()?, crc: reader.u32()? })
    }
}

/// The header's page.
pub(super) fn encode_header(number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put_u64_le(HEADER_MAGIC);
    out.put_u32_le(VERSION);
    out.put_u64_le(number);
    out.put_u32_le(crc32c::crc32c(&out));
    out.resize(HEADER_BYTES, 0);
    out
}

/// Whether `bytes` are the header of pack `number`.
pub(super) fn check_header(bytes: &[u8], number: u64, file: &str) -> Result<(), StoreError> {
    check_start(bytes, HEADER_MAGIC, number, file, 0)?;
    if bytes == encode_header(number) { Ok(()) } else { Err(corrupt(file, 0, "the header is damaged")) }
}

fn check_start(bytes: &[u8], magic: u64, number: u64, file: &str, offset: u64) -> Result<(), StoreError> {
    let mut reader = Reader::new(bytes);
    match (reader.u64(), reader.u32(), reader.u64()) {
        (Some(found), Some(version), Some(_)) if found == magic && version > VERSION => {
            Err(StoreError::Newer { file: file.to_owned(), found: version, known: VERSION })
        }
        (Some(found), Some(VERSION), Some(owner)) if found == magic && owner == number => Ok(()),
        _ => Err(corrupt(file, offset, "this is not where this pack starts or ends")),
    }
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.put_u64_le(FOOTER_MAGIC);
        out.put_u32_le(VERSION);
        out.put_u64_le(self.number);
        out.put_u64_le(self.index_offset);
        out.put_u32_le(self.extents);
        out.put_u32_le(self.index_crc);
        out.resize(FOOTER_BYTES - 4, 0);
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    pub(super) fn read(bytes: &[u8], number: u64, file: &str, offset: u64) -> Result<Self, StoreError> {
        check_start(bytes, FOOTER_MAGIC, number, file, offset)?;
        let mut reader = Reader::new(bytes.get(20..).unwrap_or_default());
        let fields = (reader.u64(), reader.u32(), reader.u32());
        let (Some(index_offset), Some(extents), Some(index_crc)) = fields else {
            return Err(corrupt(file, offset, "the footer is cut off"));
        };
        let footer = Self { number, index_offset, extents, index_crc };
        if bytes == footer.encode() {
            Ok(footer)
        } else {
            Err(corrupt(file, offset, "the footer is damaged"))
        }
    }
}

impl ExtentRecord {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.queue.0);
        out.put_u32_le(self.lane);
        out.put_u64_le(self.at.first.0);
        out.put_u64_le(self.at.last.0);
        out.put_u64_le(self.at.offset);
        out.put_u32_le(self.at.bytes);
        out.put_u32_le(self.at.count);
        out.put_u64_le(self.at.body_bytes);
        out.put_u64_le(self.received_min_ms);
        out.put_u64_le(self.received_max_ms);
        out.put_u64_le(0);
    }

    pub(super) fn read(bytes: &[u8], pack: u64) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (queue, lane) = (QueueId(reader.u64()?), reader.u32()?);
        let (first, last, offset) = (Seq(reader.u64()?), Seq(reader.u64()?), reader.u64()?);
        let (bytes, count, body_bytes) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let at = Extent { first, last, pack, offset, bytes, count, body_bytes };
        Some(Self { queue, lane, at, received_min_ms: reader.u64()?, received_max_ms: reader.u64()? })
    }
}

pub(super) fn corrupt(file: &str, offset: u64, problem: impl Into<String>) -> StoreError {
    StoreError::Corrupt { file: file.to_owned(), offset, problem: problem.into() }
}
