//! The bytes of messages: a [`Block`] of small ones, or one [`Big`] message.
//!
//! Both are immutable, shared by handle (ten thousand queues share one body) and charged to the node's
//! memory gauge from the moment they are made until the last handle drops.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::message::block_header::{BlockHeader, HEADER_BYTES, Stamp};
use crate::message::names::{Names, NamesBuf};
use crate::message::record::{self, Content, Head};
use crate::stats::{Charge, Gauge};

/// Bodies up to this size are copied into blocks; larger ones become a [`Big`] (copying wins at 1 KiB,
/// referencing at 4 KiB).
pub const SMALL_BODY_BYTES_MAX: usize = 2048;
/// A block is sealed once it has this many bytes and [`BLOCK_MESSAGES_MIN`] messages.
const BLOCK_BYTES_MIN: usize = 4096;
const BLOCK_MESSAGES_MIN: u32 = 16;
/// A block never grows past this.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// A block may have this share of its bytes as room that it does not use.
const SLACK: usize = 32;
/// What a block or a large message costs beside its bytes: the owner, its counters, the handle in a queue.
const OVERHEAD_BYTES: u64 = 160;

/// A header and its records behind each other, in one allocation of hardly more than their size.
#[derive(Clone, Debug)]
pub struct Block(Bytes);

impl Block {
    /// A block of bytes that were verified, charged to the gauge.
    pub(super) fn of_verified(block: Vec<u8>, gauge: &Arc<Gauge>) -> Self {
        let charge = Charge::new(gauge, block.capacity() as u64 + OVERHEAD_BYTES);
        Self(Bytes::from_owner(Charged { block, _charge: charge }))
    }

    /// All of it, the header included.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// What it takes in memory, in bytes.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.0.len() as u64 + OVERHEAD_BYTES
    }

    /// Whether it is the same block, and not only an equal one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.as_ptr(), other.0.as_ptr())
    }

    pub(super) fn header(&self) -> BlockHeader {
        BlockHeader::read(&self.0).expect("every block is sealed with its header")
    }

    /// A copy that says it was received at this time, in milliseconds since 1970.
    pub(super) fn received_at(&self, received_ms: u64, gauge: &Arc<Gauge>) -> Self {
        let header = self.header();
        let mut block = self.0.to_vec();
        if let Some((head, records)) = block.split_first_chunk_mut::<HEADER_BYTES>() {
            *head = header.received_at(received_ms, std::iter::once(&*records)).to_bytes();
        }
        Self::of_verified(block, gauge)
    }
}

/// One message whose body is too large to copy: the pieces the body came in, behind what a block of this one
/// message has before it.
#[derive(Debug)]
pub struct Big {
    /// A block's header, then the record's own head.
    head: Box<[u8]>,
    pieces: Pieces,
    _charge: Charge,
}

/// The pieces of a large body, in order.
pub type Pieces = SmallVec<[Bytes; 1]>;

impl Big {
    /// Makes a large message of its parts. Pieces should not pin much more than themselves.
    pub fn new(
        names: Names<'_>,
        properties: &[u8],
        pieces: Pieces,
        stamp: Stamp,
        gauge: &Arc<Gauge>,
    ) -> Arc<Self> {
        let body_bytes: usize = pieces.iter().map(Bytes::len).sum();
        let mut record = Vec::new();
        record::write_head(&mut record, Some(names), properties, body_bytes);
        let header = BlockHeader::new(stamp, 1, record.len() + body_bytes).sealed(parts(&record, &pieces));
        Self::of_parts(header, &record, pieces, gauge)
    }

    fn of_parts(header: BlockHeader, record: &[u8], pieces: Pieces, gauge: &Arc<Gauge>) -> Arc<Self> {
        let head = [&header.to_bytes()[..], record].concat();
        let charge = Charge::new(gauge, u64::from(header.bytes) + OVERHEAD_BYTES);
        Arc::new(Self { head: head.into(), pieces, _charge: charge })
    }

    /// The same message, received at this time, in milliseconds since 1970.
    pub(super) fn received_at(&self, received_ms: u64, gauge: &Arc<Gauge>) -> Arc<Self> {
        let (record, _) = self.record_head();
        let header = self.header().received_at(received_ms, parts(record, &self.pieces));
        Self::of_parts(header, record, self.pieces.clone(), gauge)
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub(super) fn header(&self) -> BlockHeader {
        let bytes = self.head.first_chunk().expect("a large message starts with a header");
        BlockHeader::from_bytes(bytes).expect("the header is our own")
    }

    /// The record's part before the body, as bytes and taken apart.
    pub(super) fn record_head(&self) -> (&[u8], Head<'_>) {
        let bytes = self.head.get(HEADER_BYTES..).unwrap_or_default();
        let (head, _) = record::read_head(bytes, Names::EMPTY).expect("the head is our own");
        (bytes, head)
    }
}

fn parts<'a>(head: &'a [u8], pieces: &'a [Bytes]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::once(head).chain(pieces.iter().map(|piece| &piece[..]))
}

/// Collects the records of one burst until they are sealed into a [`Block`].
#[derive(Debug, Default)]
pub struct BlockBuilder {
    /// Room for the header, then the records.
    block: Vec<u8>,
    /// As many bytes as the last block had: the next one often has as many.
    expected_bytes: usize,
    count: u32,
    body_bytes: u64,
    names: NamesBuf,
}

impl BlockBuilder {
    /// Whether `content` belongs into the next block: this one is full enough, or would grow too large.
    pub fn is_full_for(&self, content: &Content<'_>) -> bool {
        let bytes = self.block.len();
        let enough = bytes >= BLOCK_BYTES_MIN && self.count >= BLOCK_MESSAGES_MIN;
        enough || (self.count > 0 && bytes + content.body.len() + content.properties.len() > BLOCK_BYTES_MAX)
    }

    /// Adds a message whose body is at most [`SMALL_BODY_BYTES_MAX`].
    pub fn push(&mut self, content: &Content<'_>) {
        let same_names = !self.needs_names(content.names);
        if self.count == 0 {
            self.block.reserve_exact(self.expected_bytes + self.expected_bytes / SLACK);
            self.block.extend_from_slice(&[0; HEADER_BYTES]);
        }
        record::write(&mut self.block, content, !same_names);
        if !same_names {
            self.names.copy(content.names);
        }
        self.count += 1;
        self.body_bytes += content.body.len() as u64;
    }

    /// Adds a message with the names of the one before.
    pub fn push_like_last(&mut self, content: &Content<'_>) {
        debug_assert!(self.count > 0 && self.names.view() == content.names, "the names are in force");
        record::write(&mut self.block, content, false);
        self.count += 1;
        self.body_bytes += content.body.len() as u64;
    }

    /// Where the next record will start.
    pub(super) fn next_offset(&self) -> u32 {
        self.block.len().max(HEADER_BYTES) as u32
    }

    /// Whether the next record will have to carry these names.
    pub(super) fn needs_names(&self, names: Names<'_>) -> bool {
        self.count == 0 || self.names.view() != names
    }

    /// What it takes in memory, in bytes.
    pub fn room(&self) -> usize {
        self.block.capacity() + size_of::<Self>()
    }

    /// Whether nothing was added since the last seal.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Closes the block: its handle, the number of messages, the sum of their bodies. The builder is empty
    /// again, and keeps its room if the block would have left much of it unused.
    pub fn seal(&mut self, stamp: Stamp, gauge: &Arc<Gauge>) -> (Block, u32, u64) {
        debug_assert!(self.count > 0, "a block holds at least one message");
        if let Some((head, records)) = self.block.split_first_chunk_mut::<HEADER_BYTES>() {
            let header = BlockHeader::new(stamp, self.count, records.len());
            *head = header.sealed(std::iter::once(&*records)).to_bytes();
        }
        let block = Block::of_verified(self.take_bytes(), gauge);
        (block, std::mem::take(&mut self.count), std::mem::take(&mut self.body_bytes))
    }

    /// The bytes with little room beside them: those that fill theirs need not be copied.
    fn take_bytes(&mut self) -> Vec<u8> {
        self.expected_bytes = self.block.len();
        if self.block.capacity() - self.block.len() <= self.block.len() / SLACK {
            return std::mem::take(&mut self.block);
        }
        let bytes = self.block.as_slice().to_vec();
        self.block.clear();
        bytes
    }
}

struct Charged {
    block: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}
