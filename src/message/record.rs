//! One small message inside a block, and the view of a message that readers get.
//!
//! ```text
//! u8 flags | [names] | varint body bytes | varint property bytes | properties | body
//!            '- only when they differ from the record before
//! ```
//!
//! Properties are kept as they came, from the flags word on: what the broker does not understand it relays.

use bytes::Bytes;

use crate::message::names::Names;

const HAS_NAMES: u8 = 1;

/// What a publisher hands over: names, raw properties, body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The exchange published to, and the routing key.
    pub names: Names<'a>,
    /// The content header's payload from the property flags on (AMQP 0-9-1 §4.2.6.1).
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

/// A body as it lies: in one piece, or in the pieces it arrived in.
#[derive(Clone, Copy, Debug)]
pub enum BodyView<'a> {
    /// Inside a block.
    Slice(&'a [u8]),
    /// The body of a large message.
    Chunks(&'a [Bytes]),
}

impl BodyView<'_> {
    /// The body's length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(slice) => slice.len(),
            Self::Chunks(chunks) => chunks.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One message as a reader of a run sees it.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// The exchange it was published to, and its routing key.
    pub names: Names<'a>,
    /// Its raw properties.
    pub properties: &'a [u8],
    /// Its body.
    pub body: BodyView<'a>,
}

/// A record taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) names: Names<'a>,
    /// Whether the record itself carries its names.
    pub(super) has_names: bool,
    pub(super) properties: &'a [u8],
    pub(super) body: &'a [u8],
    /// The whole record's length.
    pub(super) wire_bytes: usize,
}

/// A record's part before its body, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub(super) names: Names<'a>,
    pub(super) has_names: bool,
    pub(super) properties: &'a [u8],
    pub(super) body_bytes: usize,
}

/// Appends a record; the names are left out when `with_names` is false.
pub(super) fn write(out: &mut Vec<u8>, content: &Content<'_>, with_names: bool) {
    write_head(out, with_names.then_some(content.names), content.properties, content.body.len());
    out.extend_from_slice(content.body);
}

/// Appends what stands before a body.
pub(super) fn write_head(out: &mut Vec<u8>, names: Option<Names<'_>>, properties: &[u8], body_bytes: usize) {
    if names.is_none() && (body_bytes | properties.len()) < 0x80 {
        out.extend_from_slice(&[0, body_bytes as u8, properties.len() as u8]);
        return out.extend_from_slice(properties);
    }
    out.push(if names.is_some() { HAS_NAMES } else { 0 });
    out.extend_from_slice(names.map_or(&[], Names::as_bytes));
    write_varint(out, body_bytes);
    write_varint(out, properties.len());
    out.extend_from_slice(properties);
}

/// Reads the record at the head of `bytes`. `None` when the bytes are not a record, which a block of our own
/// making never is.
pub(super) fn read<'a>(bytes: &'a [u8], before: Names<'a>) -> Option<Record<'a>> {
    let (Head { names, has_names, properties, body_bytes }, rest) = read_head(bytes, before)?;
    let (body, rest) = rest.split_at_checked(body_bytes)?;
    Some(Record { names, has_names, properties, body, wire_bytes: bytes.len() - rest.len() })
}

/// Reads what stands before a body, and returns what follows it.
#[inline]
pub(super) fn read_head<'a>(bytes: &'a [u8], before: Names<'a>) -> Option<(Head<'a>, &'a [u8])> {
    if let &[0, body_bytes @ 0..0x80, property_bytes @ 0..0x80, ref rest @ ..] = bytes {
        let (properties, rest) = rest.split_at_checked(property_bytes.into())?;
        return Some((
            Head { names: before, has_names: false, properties, body_bytes: body_bytes.into() },
            rest,
        ));
    }
    let (&flags, mut rest) = bytes.split_first()?;
    if flags & !HAS_NAMES != 0 {
        return None;
    }
    let has_names = flags & HAS_NAMES != 0;
    let mut names = before;
    if has_names {
        (names, rest) = Names::split_from(rest)?;
    }
    let body_bytes = read_varint(&mut rest)?;
    let property_bytes = read_varint(&mut rest)?;
    let (properties, rest) = rest.split_at_checked(property_bytes)?;
    Some((Head { names, has_names, properties, body_bytes }, rest))
}

/// Cuts the flags off a record that carries no names, so that a writer can put names before what is left.
pub(super) fn after_flags(record: &[u8]) -> &[u8] {
    record.get(1..).unwrap_or_default()
}

/// What a record with names starts with, up to the lengths.
pub(super) fn start_with(names: Names<'_>) -> Vec<u8> {
    [&[HAS_NAMES], names.as_bytes()].concat()
}

/// Seven bits an octet, lowest first: one octet for what is below 128, as most lengths here are.
fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..35).step_by(7) {
        let (&octet, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
