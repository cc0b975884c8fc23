//! How a fact is written down. Little endian, every length before what it measures.
//!
//! ```text
//! Published  u64 bytes of the bodies | u32 n | n x { u64 queue, u64 first number, u32 count } | block
//! Settled    u64 queue | u32 n | n x { u64 first number, u64 the number after the last }
//! Returned   u64 queue | u32 n | n x { u64 first number, u64 the number after the last, u16 how often }
//! Defined    numbers as they are, flags in one octet, texts and arguments behind their length in four
//! ```
//!
//! The kind of a fact stands beside it in its record and belongs to the log's format: a number is never used again
//! for something else. Decoding believes nothing and verifies everything but the block, which has a checksum and a
//! reader of its own. What a record, a slot or a batch is is not known here.

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

use crate::message::block_header::{BlockError, BlockHeader};
use crate::message::fact::{Binding, Definition, Destination, Fact, Parameter};
use crate::message::little_endian::Reader;
use crate::message::place::{QueueId, Returned, Seq};

const PUBLISHED: u8 = 1;
const SETTLED: u8 = 2;
const EXCHANGE_DECLARED: u8 = 3;
const EXCHANGE_DELETED: u8 = 4;
const QUEUE_DECLARED: u8 = 5;
const QUEUE_DELETED: u8 = 6;
const BOUND: u8 = 7;
const UNBOUND: u8 = 8;
const RETURNED: u8 = 9;
const PARAMETER_SET: u8 = 10;
const PARAMETER_CLEARED: u8 = 11;

const AUTO_DELETE: u8 = 1;
const INTERNAL: u8 = 2;

const TO_QUEUE: u8 = 0;
const TO_EXCHANGE: u8 = 1;

const TARGET_BYTES: usize = 20;
const RANGE_BYTES: usize = 16;
const RETURNED_BYTES: usize = 18;

/// Where an encoder writes: bytes follow each other in the order of the calls.
pub trait Sink {
    /// Copies `bytes`.
    fn put(&mut self, bytes: &[u8]);
    /// Takes large bytes by reference.
    fn share(&mut self, bytes: Bytes);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn share(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}

/// Why bytes are not a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// A newer version wrote it, or nobody.
    #[error("a fact of the unknown kind {0}")]
    UnknownKind(u8),
    /// It is cut off, goes on after its end, or says what cannot be.
    #[error("a fact of kind {0} is malformed")]
    Malformed(u8),
    /// What it says was published is no block.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// A fact as it was read: views of the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodedFact<'a> {
    /// Messages came.
    Published(Published<'a>),
    /// Messages went.
    Settled(Settled<'a>),
    /// Messages came back.
    Returned(CameBack<'a>),
    /// A definition came, changed or went.
    Defined(Definition<'a>),
}

/// Messages that came, as read. Of the block only its length was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published<'a> {
    /// The sum of the bodies, in bytes.
    pub body_bytes: u64,
    targets: &'a [u8],
    /// The block as it was sealed.
    pub block: &'a [u8],
    /// Where in the fact's bytes the block lies.
    pub block_range: Range<usize>,
}

/// A queue that has published messages, and their numbers in it: the block's first `count` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue.
    pub queue: QueueId,
    /// The first message's number in it.
    pub first: Seq,
    /// How many messages.
    pub count: u32,
}

/// Messages that went, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<'a> {
    /// The queue.
    pub queue: QueueId,
    ranges: &'a [u8],
}

/// Messages that came back, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameBack<'a> {
    /// The queue.
    pub queue: QueueId,
    ranges: &'a [u8],
}

impl<'a> Published<'a> {
    /// The queues that have the messages.
    pub fn targets(&self) -> impl Iterator<Item = Target> + use<'a> {
        self.targets.chunks_exact(TARGET_BYTES).filter_map(|bytes| Target::read(&mut Reader::new(bytes)))
    }
}

impl<'a> Settled<'a> {
    /// The numbers that are done with, `first..end` each.
    pub fn ranges(&self) -> impl Iterator<Item = (Seq, Seq)> + use<'a> {
        self.ranges.chunks_exact(RANGE_BYTES).filter_map(|bytes| read_range(&mut Reader::new(bytes)))
    }
}

impl<'a> CameBack<'a> {
    /// How often which numbers did.
    pub fn ranges(&self) -> impl Iterator<Item = Returned> + use<'a> {
        self.ranges.chunks_exact(RETURNED_BYTES).filter_map(|bytes| read_returned(&mut Reader::new(bytes)))
    }
}

impl Target {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (queue, first, count) = (QueueId(reader.u64()?), Seq(reader.u64()?), reader.u32()?);
        first.0.checked_add(u64::from(count))?;
        (count > 0).then_some(Self { queue, first, count })
    }
}

fn read_range(reader: &mut Reader<'_>) -> Option<(Seq, Seq)> {
    let (first, end) = (Seq(reader.u64()?), Seq(reader.u64()?));
    (first < end).then_some((first, end))
}

fn read_returned(reader: &mut Reader<'_>) -> Option<Returned> {
    let (first, end) = read_range(reader)?;
    Some(Returned { first, end, returns: reader.u16()? })
}

/// The number of the fact's kind.
pub fn kind(fact: &Fact<'_>) -> u8 {
    match fact {
        Fact::Published { .. } => PUBLISHED,
        Fact::Settled { .. } => SETTLED,
        Fact::Returned { .. } => RETURNED,
        Fact::Defined(definition) => match definition {
            Definition::ExchangeDeclared { .. } => EXCHANGE_DECLARED,
            Definition::ExchangeDeleted { .. } => EXCHANGE_DELETED,
            Definition::QueueDeclared { .. } => QUEUE_DECLARED,
            Definition::QueueDeleted { .. } => QUEUE_DELETED,
            Definition::Bound(_) => BOUND,
            Definition::Unbound(_) => UNBOUND,
            Definition::ParameterSet { .. } => PARAMETER_SET,
            Definition::ParameterCleared { .. } => PARAMETER_CLEARED,
        },
    }
}

/// Whether facts of this kind are definitions.
pub fn is_definition(kind: u8) -> bool {
    matches!(kind, EXCHANGE_DECLARED..=UNBOUND | PARAMETER_SET | PARAMETER_CLEARED)
}

/// Writes a fact, without its kind.
pub fn encode(fact: &Fact<'_>, sink: &mut impl Sink) {
    match fact {
        Fact::Published { run, targets } => {
            put_u64(sink, run.body_bytes());
            put_count(sink, targets.len());
            for (queue, first) in *targets {
                put_u64(sink, queue.0);
                put_u64(sink, first.0);
                sink.put(&run.count().to_le_bytes());
            }
            run.encode(sink);
        }
        Fact::Settled { queue, ranges } => {
            put_u64(sink, queue.0);
            put_count(sink, ranges.len());
            for (first, end) in *ranges {
                put_u64(sink, first.0);
                put_u64(sink, end.0);
            }
        }
        Fact::Returned { queue, ranges } => {
            put_u64(sink, queue.0);
            put_count(sink, ranges.len());
            for Returned { first, end, returns } in *ranges {
                put_u64(sink, first.0);
                put_u64(sink, end.0);
                sink.put(&returns.to_le_bytes());
            }
        }
        Fact::Defined(definition) => encode_definition(definition, sink),
    }
}

fn encode_definition(definition: &Definition<'_>, sink: &mut impl Sink) {
    match *definition {
        Definition::ExchangeDeclared { vhost, name, kind, auto_delete, internal, arguments } => {
            sink.put(&[flag(auto_delete, AUTO_DELETE) | flag(internal, INTERNAL)]);
            for part in [vhost.as_bytes(), name.as_bytes(), kind.as_bytes(), arguments] {
                put_long(sink, part);
            }
        }
        Definition::ExchangeDeleted { vhost, name } => {
            put_long(sink, vhost.as_bytes());
            put_long(sink, name.as_bytes());
        }
        Definition::QueueDeclared { queue, vhost, name, auto_delete, arguments } => {
            put_u64(sink, queue.0);
            sink.put(&[flag(auto_delete, AUTO_DELETE)]);
            for part in [vhost.as_bytes(), name.as_bytes(), arguments] {
                put_long(sink, part);
            }
        }
        Definition::QueueDeleted { queue } => put_u64(sink, queue.0),
        Definition::Bound(binding) | Definition::Unbound(binding) => encode_binding(&binding, sink),
        Definition::ParameterSet { parameter, value } => {
            encode_parameter(parameter, sink);
            put_long(sink, value);
        }
        Definition::ParameterCleared { parameter } => encode_parameter(parameter, sink),
    }
}

/// Writes a binding's far end: what the body of a binding starts with.
pub fn encode_destination(destination: Destination<'_>, sink: &mut impl Sink) {
    match destination {
        Destination::Queue(queue) => {
            sink.put(&[TO_QUEUE]);
            put_u64(sink, queue.0);
        }
        Destination::Exchange(name) => {
            sink.put(&[TO_EXCHANGE]);
            put_long(sink, name.as_bytes());
        }
    }
}

fn encode_binding(binding: &Binding<'_>, sink: &mut impl Sink) {
    encode_destination(binding.destination, sink);
    for part in
        [binding.vhost.as_bytes(), binding.source.as_bytes(), binding.key.as_bytes(), binding.arguments]
    {
        put_long(sink, part);
    }
}

fn encode_parameter(Parameter { vhost, component, name }: Parameter<'_>, sink: &mut impl Sink) {
    for part in [vhost, component, name] {
        put_long(sink, part.as_bytes());
    }
}

/// Reads a fact of this kind, which must be all of `body`.
///
/// # Errors
/// [`FactError`] when it is not one.
pub fn decode(kind: u8, body: &[u8]) -> Result<DecodedFact<'_>, FactError> {
    let mut reader = Reader::new(body);
    let malformed = FactError::Malformed(kind);
    match kind {
        PUBLISHED => return decode_published(body),
        SETTLED => {
            let settled = decode_settled(&mut reader).ok_or(malformed)?;
            return Ok(DecodedFact::Settled(settled));
        }
        RETURNED => {
            let returned = decode_returned(&mut reader).ok_or(malformed)?;
            return Ok(DecodedFact::Returned(returned));
        }
        _ if is_definition(kind) => {}
        _ => return Err(FactError::UnknownKind(kind)),
    }
    let definition = decode_definition(kind, &mut reader).ok_or(malformed)?;
    if reader.is_empty() { Ok(DecodedFact::Defined(definition)) } else { Err(malformed) }
}

/// The queues that a fact speaks of as holding messages: those it gives some, takes some from, or deletes. None for
/// bytes that are not a fact.
pub fn queues_named(kind: u8, body: &[u8]) -> impl Iterator<Item = QueueId> {
    let fact = decode(kind, body).ok();
    let (targets, queue) = match fact {
        Some(DecodedFact::Published(published)) => (Some(published.targets()), None),
        Some(DecodedFact::Settled(settled)) => (None, Some(settled.queue)),
        Some(DecodedFact::Returned(returned)) => (None, Some(returned.queue)),
        Some(DecodedFact::Defined(Definition::QueueDeleted { queue })) => (None, Some(queue)),
        _ => (None, None),
    };
    targets.into_iter().flatten().map(|target| target.queue).chain(queue)
}

fn decode_published(body: &[u8]) -> Result<DecodedFact<'_>, FactError> {
    let mut reader = Reader::new(body);
    let published = split_published(&mut reader, body.len()).ok_or(FactError::Malformed(PUBLISHED))?;
    let header = BlockHeader::read(published.block)?;
    let fits = |target: Target| target.count <= u32::from(header.count);
    let all_read = published.targets().count() == published.targets.len() / TARGET_BYTES;
    if !all_read || !published.targets().all(fits) {
        return Err(FactError::Malformed(PUBLISHED));
    }
    Ok(DecodedFact::Published(published))
}

fn split_published<'a>(reader: &mut Reader<'a>, len: usize) -> Option<Published<'a>> {
    let (body_bytes, count) = (reader.u64()?, reader.u32()?);
    let targets = reader.bytes(usize::try_from(count).ok()?.checked_mul(TARGET_BYTES)?)?;
    let block = reader.rest();
    Some(Published { body_bytes, targets, block, block_range: len - block.len()..len })
}

fn decode_settled<'a>(reader: &mut Reader<'a>) -> Option<Settled<'a>> {
    let (queue, count) = (QueueId(reader.u64()?), usize::try_from(reader.u32()?).ok()?);
    let settled = Settled { queue, ranges: reader.bytes(count.checked_mul(RANGE_BYTES)?)? };
    (reader.is_empty() && settled.ranges().count() == count).then_some(settled)
}

fn decode_returned<'a>(reader: &mut Reader<'a>) -> Option<CameBack<'a>> {
    let (queue, count) = (QueueId(reader.u64()?), usize::try_from(reader.u32()?).ok()?);
    let returned = CameBack { queue, ranges: reader.bytes(count.checked_mul(RETURNED_BYTES)?)? };
    (reader.is_empty() && returned.ranges().count() == count).then_some(returned)
}

fn decode_definition<'a>(kind: u8, reader: &mut Reader<'a>) -> Option<Definition<'a>> {
    Some(match kind {
        EXCHANGE_DECLARED => {
            let flags = read_flags(reader, AUTO_DELETE | INTERNAL)?;
            Definition::ExchangeDeclared {
                vhost: reader.text()?,
                name: reader.text()?,
                kind: reader.text()?,
                auto_delete: flags & AUTO_DELETE != 0,
                internal: flags & INTERNAL != 0,
                arguments: reader.long_bytes()?,
            }
        }
        EXCHANGE_DELETED => Definition::ExchangeDeleted { vhost: reader.text()?, name: reader.text()? },
        QUEUE_DECLARED => {
            let queue = QueueId(reader.u64()?);
            let flags = read_flags(reader, AUTO_DELETE)?;
            Definition::QueueDeclared {
                queue,
                vhost: reader.text()?,
                name: reader.text()?,
                auto_delete: flags & AUTO_DELETE != 0,
                arguments: reader.long_bytes()?,
            }
        }
        QUEUE_DELETED => Definition::QueueDeleted { queue: QueueId(reader.u64()?) },
        BOUND => Definition::Bound(decode_binding(reader)?),
        UNBOUND => Definition::Unbound(decode_binding(reader)?),
        PARAMETER_SET => {
            Definition::ParameterSet { parameter: decode_parameter(reader)?, value: reader.long_bytes()? }
        }
        PARAMETER_CLEARED => Definition::ParameterCleared { parameter: decode_parameter(reader)? },
        _ => return None,
    })
}

fn decode_parameter<'a>(reader: &mut Reader<'a>) -> Option<Parameter<'a>> {
    Some(Parameter { vhost: reader.text()?, component: reader.text()?, name: reader.text()? })
}

fn decode_binding<'a>(reader: &mut Reader<'a>) -> Option<Binding<'a>> {
    let destination = match reader.u8()? {
        TO_QUEUE => Destination::Queue(QueueId(reader.u64()?)),
        TO_EXCHANGE => Destination::Exchange(reader.text()?),
        _ => return None,
    };
    Some(Binding {
        destination,
        vhost: reader.text()?,
        source: reader.text()?,
        key: reader.text()?,
        arguments: reader.long_bytes()?,
    })
}

fn read_flags(reader: &mut Reader<'_>, known: u8) -> Option<u8> {
    reader.u8().filter(|flags| flags & !known == 0)
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn put_u64(sink: &mut impl Sink, number: u64) {
    sink.put(&number.to_le_bytes());
}

fn put_count(sink: &mut impl Sink, count: usize) {
    let count = u32::try_from(count).expect("a fact's lists are bounded by what is in memory");
    sink.put(&count.to_le_bytes());
}

fn put_long(sink: &mut impl Sink, bytes: &[u8]) {
    put_count(sink, bytes.len());
    sink.put(bytes);
}
