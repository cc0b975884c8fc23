//! A run as bytes on a disk, and back.
//!
//! On disk a run is always one whole block: a part of a block is written as a block of its own, a large message as a
//! block of one record. What comes back is verified to the last byte before anyone sees it.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::block::{Big, Block, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::{self, BlockError, BlockHeader, HEADER_BYTES};
use crate::message::fact_codec::Sink;
use crate::message::names::Names;
use crate::message::record;
use crate::message::run::{Body, Run};
use crate::stats::Gauge;

/// Bytes from this length on are handed to a sink by reference, not copied.
const SHARE_BYTES_MIN: usize = 64 * 1024;
/// A body that is read back keeps what it was read into alive from this length on; a shorter one is copied.
const PIN_BYTES_MIN: usize = 256 * 1024;

impl Run {
    /// Writes the run as one block with its checksum. Numbers and the redelivered flag are not in it.
    pub fn encode(&self, sink: &mut impl Sink) {
        match &self.body {
            Body::Block(block) => self.encode_block(block, sink),
            Body::Big(big) => encode_big(big, sink),
        }
    }

    fn encode_block(&self, block: &Block, sink: &mut impl Sink) {
        let header = block.header();
        if u32::from(header.count) == self.count() && header.stamp.persistent {
            return share(block.bytes().clone(), sink);
        }
        let ((end, _), _) = self.walk();
        let mut records = block.bytes().slice(self.offset as usize..end as usize);
        let has_names = record::read(&records, Names::EMPTY).is_some_and(|record| record.has_names);
        let mut start = Vec::new();
        if !has_names {
            start = record::start_with(self.names_in(block));
            records = records.slice_ref(record::after_flags(&records));
        }
        let header = BlockHeader::new(header.stamp, self.count(), start.len() + records.len());
        sink.put(&header.checked([&start[..], &records].into_iter()).to_bytes());
        sink.put(&start);
        share(records, sink);
    }

    /// The run that `block` is, numbered from zero.
    ///
    /// # Errors
    /// [`BlockError`] when the bytes are not exactly one block as it was written.
    pub fn from_disk(block: &Bytes, gauge: &Arc<Gauge>) -> Result<Self, BlockError> {
        let header = block_header::verify(block)?;
        let records = block.slice(HEADER_BYTES..);
        let body_bytes = verify_records(&records, header.count)?;
        if header.count == 1 && body_bytes > SMALL_BODY_BYTES_MAX as u64 {
            let (head, body) = record::read_head(&records, Names::EMPTY).ok_or(BlockError::Records)?;
            let body = if body.len() < PIN_BYTES_MIN {
                Bytes::copy_from_slice(body)
            } else {
                records.slice_ref(body)
            };
            let pieces = [body].into_iter().collect();
            return Ok(Self::of_big(Big::new(head.names, head.properties, pieces, header.stamp, gauge)));
        }
        let own = Block::of_verified(Box::from(&block[..]), gauge);
        Ok(Self::of_block(own, u32::from(header.count), body_bytes))
    }
}

fn encode_big(big: &Big, sink: &mut impl Sink) {
    let mut header = big.header();
    let (head, _) = big.record_head();
    if !header.stamp.persistent {
        header = header.checked(std::iter::once(head).chain(big.pieces().iter().map(|piece| &piece[..])));
    }
    sink.put(&header.to_bytes());
    sink.put(head);
    for piece in big.pieces() {
        share(piece.clone(), sink);
    }
}

fn share(bytes: Bytes, sink: &mut impl Sink) {
    if bytes.len() < SHARE_BYTES_MIN { sink.put(&bytes) } else { sink.share(bytes) }
}

/// Walks `count` records that must fill `records` exactly; the sum of the bodies.
fn verify_records(records: &[u8], count: u16) -> Result<u64, BlockError> {
    let mut rest = records;
    let mut body_bytes = 0;
    for at in 0..count {
        let record = record::read(rest, Names::EMPTY).ok_or(BlockError::Records)?;
        if at == 0 && !record.has_names {
            return Err(BlockError::Records);
        }
        body_bytes += record.body.len() as u64;
        rest = rest.get(record.wire_bytes..).ok_or(BlockError::Records)?;
    }
    if count == 0 || !rest.is_empty() { Err(BlockError::Records) } else { Ok(body_bytes) }
}
