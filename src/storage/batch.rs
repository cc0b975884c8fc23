//! A batch: what one sync makes durable, whole or not at all. It starts at a multiple of 4 KiB in its slot, and zeros
//! follow it up to the next one.
//!
//! ```text
//! header   u32 magic 'SLB1' | u32 payload bytes | u64 epoch | u64 first lsn | u32 records | u32 flags
//!          | u32 crc32c(payload) | u32 crc32c(header up to here)
//! payload  records, each  u32 body bytes | u8 kind | u8 flags | u16 reserved | body
//! ```
//!
//! Little endian. A record's position in the log, its LSN, is the first lsn plus its offset in the payload. Flag bit 0
//! of a batch: the batches before it may not have been synced when it was written, so that it proves nothing about
//! them. Flags of records are none yet; one that is not known stops the start, and so does an unknown kind, which
//! whoever reads the records finds.

use bytes::Bytes;

use crate::storage::disk::PAGE_BYTES;
use crate::storage::slot::{take_u32, take_u64};

/// Bytes of a batch before its payload.
pub const BATCH_HEADER_BYTES: u64 = 40;
/// Bytes of a record before its body.
pub const RECORD_HEADER_BYTES: u64 = 8;
/// The kind of the record that says where the log was cut: `u64 slot sequence | u64 offset | u64 lsn`.
pub const CUT: u8 = 32;
/// The kind of a record that stands where the log was damaged and repaired: what its body was is not known any more.
pub const LOST: u8 = 33;

const MAGIC: u32 = u32::from_le_bytes(*b"SLB1");
const RELAXED: u32 = 1;
const CHECKED_BYTES: usize = BATCH_HEADER_BYTES as usize - 4;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The payload's length.
    pub payload_bytes: u32,
    /// The epoch of the slot's present use.
    pub epoch: u64,
    /// The position of the payload's first byte.
    pub first_lsn: u64,
    /// How many records the payload has.
    pub records: u32,
    /// Whether the batches before it may not have been synced.
    pub relaxed: bool,
    /// The payload's checksum.
    pub payload_crc: u32,
}

impl BatchHeader {
    /// The bytes.
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES as usize] {
        let mut header = Vec::with_capacity(BATCH_HEADER_BYTES as usize);
        header.extend_from_slice(&MAGIC.to_le_bytes());
        header.extend_from_slice(&self.payload_bytes.to_le_bytes());
        header.extend_from_slice(&self.epoch.to_le_bytes());
        header.extend_from_slice(&self.first_lsn.to_le_bytes());
        header.extend_from_slice(&self.records.to_le_bytes());
        header.extend_from_slice(&(if self.relaxed { RELAXED } else { 0 }).to_le_bytes());
        header.extend_from_slice(&self.payload_crc.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        let mut bytes = [0; BATCH_HEADER_BYTES as usize];
        bytes.iter_mut().zip(header).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads a header; `None` when the bytes are not a whole and undamaged one of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut checked, mut crc) = bytes.split_at_checked(CHECKED_BYTES)?;
        // Looked for at every page of a slot: the cheap test comes first.
        if !checked.starts_with(&MAGIC.to_le_bytes()) || take_u32(&mut crc)? != crc32c::crc32c(checked) {
            return None;
        }
        let fields = &mut checked;
        take_u32(fields)?;
        let payload_bytes = take_u32(fields)?;
        let epoch = take_u64(fields)?;
        let first_lsn = take_u64(fields)?;
        let records = take_u32(fields)?;
        let flags = take_u32(fields)?;
        let payload_crc = take_u32(fields)?;
        let known = flags & !RELAXED == 0 && first_lsn.checked_add(payload_bytes.into()).is_some();
        known.then_some(Self {
            payload_bytes,
            epoch,
            first_lsn,
            records,
            relaxed: flags & RELAXED != 0,
            payload_crc,
        })
    }

    /// The position after its last record.
    pub fn end_lsn(&self) -> u64 {
        self.first_lsn + u64::from(self.payload_bytes)
    }

    /// What it takes in its slot.
    pub fn padded_bytes(&self) -> u64 {
        padded_bytes(self.payload_bytes.into())
    }
}

/// What a batch of this payload takes in its slot.
pub fn padded_bytes(payload_bytes: u64) -> u64 {
    (BATCH_HEADER_BYTES + payload_bytes).next_multiple_of(PAGE_BYTES)
}

/// What stands before a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The body's length.
    pub body_bytes: u32,
    /// What the body is.
    pub kind: u8,
}

impl RecordHeader {
    /// The bytes.
    pub fn encode(self) -> [u8; RECORD_HEADER_BYTES as usize] {
        let [a, b, c, d] = self.body_bytes.to_le_bytes();
        [a, b, c, d, self.kind, 0, 0, 0]
    }

    /// Reads a header; `None` when there is none, or it has flags that are not known here.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, kind, flags, low, high] = bytes.first_chunk()?;
        let known = (flags, low, high) == (0, 0, 0);
        known.then_some(Self { body_bytes: u32::from_le_bytes([a, b, c, d]), kind })
    }

    /// The whole record's length.
    pub fn record_bytes(self) -> u64 {
        RECORD_HEADER_BYTES + u64::from(self.body_bytes)
    }
}

/// A record in a payload.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its offset in the payload.
    pub offset: u64,
    /// What its body is.
    pub kind: u8,
    /// A view into the payload.
    pub body: Bytes,
}

/// Takes a payload apart. The payload's checksum was right, so a record that does not fit (the `Err`, its offset) is
/// one of a newer version or our own mistake.
pub fn records(payload: Bytes) -> impl Iterator<Item = Result<Record, u64>> {
    let mut rest = payload;
    let mut offset = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let header = RecordHeader::decode(&rest).filter(|header| header.record_bytes() <= rest.len() as u64);
        let Some(header) = header else {
            rest.clear();
            return Some(Err(offset));
        };
        let body = rest.split_to(header.record_bytes() as usize).slice(RECORD_HEADER_BYTES as usize..);
        let record = Record { offset, kind: header.kind, body };
        offset += header.record_bytes();
        Some(Ok(record))
    })
}

/// Where the log was cut: the body of a [`CUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The slot that holds the last batch that counts, or the slot of the replay position if there is none.
    pub sequence: u64,
    /// The offset in that slot from which on nothing counts, up to the slot of the cut.
    pub offset: u64,
    /// Where the log ends before the cut; it goes on with the cut itself.
    pub lsn: u64,
}

impl Cut {
    /// The body.
    pub fn encode(self) -> [u8; 24] {
        let mut body = [0; 24];
        let fields = [self.sequence, self.offset, self.lsn].map(u64::to_le_bytes);
        body.iter_mut().zip(fields.as_flattened()).for_each(|(to, from)| *to = *from);
        body
    }

    /// Reads a body; `None` when it has another length.
    pub fn decode(mut body: &[u8]) -> Option<Self> {
        let fields = &mut body;
        let cut = Self { sequence: take_u64(fields)?, offset: take_u64(fields)?, lsn: take_u64(fields)? };
        body.is_empty().then_some(cut)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{BatchHeader, Cut, RecordHeader, padded_bytes, records};

    const HEADER: BatchHeader =
        BatchHeader { payload_bytes: 9, epoch: 1, first_lsn: 2, records: 3, relaxed: true, payload_crc: 4 };

    #[test]
    fn headers_are_read_as_they_were_written_and_never_damaged() {
        let bytes = HEADER.encode();
        assert_eq!(BatchHeader::decode(&bytes), Some(HEADER));
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 4;
            assert_eq!(BatchHeader::decode(&damaged), None, "byte {at}");
        }
        let cut = Cut { sequence: 1, offset: 2, lsn: 3 };
        assert_eq!(Cut::decode(&cut.encode()), Some(cut));
        assert_eq!(Cut::decode(&[0; 25]), None);
    }

    #[test]
    fn a_batch_takes_whole_pages() {
        assert_eq!([0, 4056, 4057].map(padded_bytes), [4096, 4096, 8192]);
    }

    #[test]
    fn an_unknown_flag_of_a_record_is_no_record() {
        let mut bytes = RecordHeader { body_bytes: 0, kind: 1 }.encode();
        bytes[5] = 1;
        assert_eq!(records(Bytes::copy_from_slice(&bytes)).next().unwrap().unwrap_err(), 0);
    }

    proptest! {
        #[test]
        fn records_cover_what_was_written(bodies in proptest::collection::vec((any::<u8>(), 0usize..50), 0..20)) {
            let mut payload = Vec::new();
            for (kind, len) in &bodies {
                payload.extend_from_slice(&RecordHeader { body_bytes: *len as u32, kind: *kind }.encode());
                payload.resize(payload.len() + len, *kind);
            }
            let read: Vec<_> = records(payload.into()).map(|record| record.unwrap()).collect();
            let seen: Vec<_> = read.iter().map(|record| (record.kind, record.body.len())).collect();
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn arbitrary_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BatchHeader::decode(&bytes);
            assert!(records(bytes.into()).count() <= 26);
        }
    }
}
