//! A run as bytes on a disk, and back.
//!
//! On disk a run is always one whole block: a part of a block is written as a block of its own, a large message as a
//! block of one record. What comes back is verified to the last byte before anyone sees it.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::block::{Big, Block, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::{self, BlockError, BlockHeader, HEADER_BYTES, Stamp};
use crate::message::fact_codec::Sink;
use crate::message::names::Names;
use crate::message::place::Seq;
use crate::message::record;
use crate::message::run::{Body, Run};
use crate::stats::Gauge;

/// Bytes from this length on are handed to a sink by reference, not copied.
const SHARE_BYTES_MIN: usize = 8 * 1024;
/// A body that is read back keeps what it was read into alive from this length on; a shorter one is copied.
const PIN_BYTES_MIN: usize = 256 * 1024;
/// Runs received within this time share a block, which says when its last was received.
const JOINED_APART_MS_MAX: u64 = 100;
/// The two names of a record and their lengths.
const NAMES_BYTES_MAX: usize = 512;

/// Small runs that follow each other, becoming one block.
#[derive(Debug)]
pub struct Joined {
    first: Seq,
    count: u32,
    body_bytes: u64,
    stamp: Stamp,
    records: Vec<u8>,
}

impl Joined {
    /// Begins with a run.
    pub fn new(run: &Run) -> Self {
        let mut joined = Self {
            first: run.first_seq(),
            count: 0,
            body_bytes: 0,
            stamp: run.header().stamp,
            records: Vec::new(),
        };
        joined.add(run);
        joined
    }

    /// Takes a run in, if it follows, is of the same kind and time, and the block stays within `bytes_max`.
    pub fn push(&mut self, run: &Run, bytes_max: usize) -> bool {
        let stamp = run.header().stamp;
        // What expires must not do so early, and not be delivered late.
        let apart_ms_max = if stamp.marks.expires { 0 } else { JOINED_APART_MS_MAX };
        let joins = run.first_seq() == self.first.after(self.count)
            && stamp.marks == self.stamp.marks
            && stamp.received_ms.abs_diff(self.stamp.received_ms) <= apart_ms_max
            && self.records.len() + run.stored_bytes() <= bytes_max
            && self.count + run.count() <= u32::from(u16::MAX);
        if joins {
            self.add(run);
        }
        joins
    }

    fn add(&mut self, run: &Run) {
        self.stamp.received_ms = self.stamp.received_ms.max(run.header().stamp.received_ms);
        let mut block = Vec::new();
        run.encode(&mut block);
        self.records.extend_from_slice(block.get(HEADER_BYTES..).unwrap_or_default());
        self.count += run.count();
        self.body_bytes += run.body_bytes();
    }

    /// The first message's number.
    pub fn first(&self) -> Seq {
        self.first
    }

    /// The sum of the bodies, in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The block, with its checksum.
    pub fn finish(self) -> Vec<u8> {
        let header = BlockHeader::new(self.stamp, self.count, self.records.len());
        let header = header.checked(std::iter::once(&self.records[..]));
        [&header.to_bytes()[..], &self.records].concat()
    }
}

impl Run {
    /// The header of the block that the run is of.
    pub fn header(&self) -> BlockHeader {
        match &self.body {
            Body::Block(block) => block.header(),
            Body::Big(big) => big.header(),
        }
    }

    /// Whether the run is all of its block.
    pub fn is_whole(&self) -> bool {
        u32::from(self.header().count) == self.count()
    }

    /// How many bytes [`Run::encode`] writes, or a few more.
    pub fn stored_bytes(&self) -> usize {
        match &self.body {
            Body::Block(_) if !self.is_whole() => {
                let ((end, _), _) = self.walk();
                HEADER_BYTES + NAMES_BYTES_MAX + (end - self.offset) as usize
            }
            _ => self.header().bytes as usize,
        }
    }

    /// Writes the run as one block with its checksum. Numbers and the redelivered flag are not in it.
    pub fn encode(&self, sink: &mut impl Sink) {
        match &self.body {
            Body::Block(block) => self.encode_block(block, sink),
            Body::Big(big) => encode_big(big, sink),
        }
    }

    fn encode_block(&self, block: &Block, sink: &mut impl Sink) {
        let header = block.header();
        if self.is_whole() && header.stamp.marks.persistent {
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
        let own = Block::of_verified(block.to_vec(), gauge);
        Ok(Self::of_block(own, u32::from(header.count), body_bytes))
    }
}

fn encode_big(big: &Big, sink: &mut impl Sink) {
    let mut header = big.header();
    let (head, _) = big.record_head();
    if !header.stamp.marks.persistent {
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
