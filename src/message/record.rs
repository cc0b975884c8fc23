//! One small message inside a block, and the view of a message that readers get.
//!
//! ```text
//! u8 flags | [names] | varint body bytes | varint property bytes | properties | body
//!            '- only when they differ from the record before
//! ```
//!
//! Properties are kept as they came, from the flags word on: what the broker does not understand it relays.
//! Flag bits 1 and 2 are kept for a priority and an expiry, decoded, so that no later reader parses properties.

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
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// Its routing key.
    pub routing_key: &'a [u8],
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

/// Appends a record; the names are left out when `with_names` is false.
pub(super) fn write(out: &mut Vec<u8>, content: &Content<'_>, with_names: bool) {
    out.push(if with_names { HAS_NAMES } else { 0 });
    if with_names {
        out.extend_from_slice(content.names.as_bytes());
    }
    write_varint(out, content.body.len());
    write_varint(out, content.properties.len());
    out.extend_from_slice(content.properties);
    out.extend_from_slice(content.body);
}

/// Reads the record at the head of `bytes`. `None` when the bytes are not a record, which a block of our own
/// making never is.
pub(super) fn read<'a>(bytes: &'a [u8], before: Names<'a>) -> Option<Record<'a>> {
    let (&flags, mut rest) = bytes.split_first()?;
    let has_names = flags & HAS_NAMES != 0;
    let mut names = before;
    if has_names {
        (names, rest) = Names::split_from(rest)?;
    }
    let body_bytes = read_varint(&mut rest)?;
    let property_bytes = read_varint(&mut rest)?;
    let (properties, rest) = rest.split_at_checked(property_bytes)?;
    let (body, rest) = rest.split_at_checked(body_bytes)?;
    Some(Record { names, has_names, properties, body, wire_bytes: bytes.len() - rest.len() })
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
