//! Frames: cutting them off a byte stream, and writing them to one.
//!
//! [`peek`] judges a frame by its seven octets of head before anything is waited for, so a peer can neither
//! claim memory nor stall the reader with a length it never meant. What a payload says is for
//! [`super::methods`] and [`super::header`]; which frame may come when is for the session.
// AMQP 0-9-1 §4.2.2, §4.2.3

use std::fmt::{self, Display, Formatter};

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::erlang::Pretty;
use super::methods::Method;

/// Octets of a frame around its payload: kind, channel, length, end.
pub const FRAME_OVERHEAD: usize = HEAD_BYTES + 1;

/// The octet after every payload.
pub const FRAME_END: u8 = 0xCE;

/// The least `frame_max` peers may agree on, and the one in force until they have.
pub const FRAME_MAX_FLOOR: u32 = 4096;

/// What a client of AMQP 0-9-1 begins with, and what we answer when one begins otherwise.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// What stands before the payload of a frame, in bytes.
pub const HEAD_BYTES: usize = 7;

/// Octets of a payload shown in an error text.
const SHOWN_OCTETS: usize = 16;

/// The only class with content.
const CLASS_BASIC: u16 = 60;

/// The kinds of frames; the number is the first octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A method with its arguments.
    Method = 1,
    /// The header of a content.
    Header = 2,
    /// A part of a content's body.
    Body = 3,
    /// A sign of life.
    Heartbeat = 8,
}

impl FrameKind {
    /// Whether what begins with this octet is a part of a content.
    pub fn is_content_octet(octet: Option<&u8>) -> bool {
        octet
            .and_then(|&octet| Self::from_octet(octet))
            .is_some_and(|kind| matches!(kind, Self::Header | Self::Body))
    }

    fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }

    /// Whether a payload of this length can be of this kind at all.
    fn fits(self, payload_bytes: usize) -> bool {
        match self {
            Self::Method => payload_bytes >= 4,
            Self::Header => payload_bytes >= 12,
            Self::Body => true,
            Self::Heartbeat => payload_bytes == 0,
        }
    }
}

/// A whole frame, where it lies in the input.
///
/// Displays as RabbitMQ shows a frame it did not expect: `type 8, all octets = <<>>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameView<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// The channel it belongs to, 0 for the connection.
    pub channel: u16,
    /// What is between head and end octet.
    pub payload: &'a [u8],
}

impl FrameView<'_> {
    /// Octets of input the frame takes up.
    pub fn wire_bytes(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

impl Display for FrameView<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Snippet::new(self.kind as u8, self.payload).fmt(f)
    }
}

/// Why the stream cannot be read further; the text is RabbitMQ's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The declared length is over what was agreed.
    #[error("type {kind}, all octets = <<>>: {{frame_too_large,{payload_bytes},{payload_bytes_max}}}")]
    TooLarge {
        /// The kind octet.
        kind: u8,
        /// The declared length.
        payload_bytes: u32,
        /// The length agreed on.
        payload_bytes_max: u32,
    },
    /// The octet after the payload is not [`FRAME_END`].
    #[error("{frame}: {{invalid_frame_end_marker,{end}}}")]
    BadEnd {
        /// The frame it ended.
        frame: Snippet,
        /// The octet found.
        end: u8,
    },
    /// No frame has this kind, or none of this kind has this length.
    #[error("{0}: unknown_frame")]
    Unknown(Snippet),
}

/// The kind and first octets of a frame, for an error text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    kind: u8,
    whole: bool,
    octets: Vec<u8>,
}

impl Snippet {
    fn new(kind: u8, payload: &[u8]) -> Self {
        let octets = payload.iter().take(SHOWN_OCTETS).copied().collect();
        Self { kind, whole: payload.len() <= SHOWN_OCTETS, octets }
    }
}

impl Display for Snippet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let extent = if self.whole { "all" } else { "first 16" };
        write!(f, "type {}, {extent} octets = {}", self.kind, Pretty(&self.octets))
    }
}

/// The first frame of `input`, which stays where it is; `None` while it is incomplete.
///
/// A payload may be `frame_max` octets long, 8 more than the specification says, because RabbitMQ's may.
#[inline]
pub fn peek(input: &[u8], frame_max: u32) -> Result<Option<FrameView<'_>>, FrameError> {
    let Some((&[octet, c1, c0, l3, l2, l1, l0], rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let payload_bytes = u32::from_be_bytes([l3, l2, l1, l0]);
    if payload_bytes > frame_max {
        return Err(too_large(octet, payload_bytes, frame_max));
    }
    let Some(kind) = FrameKind::from_octet(octet) else {
        return Err(unknown(octet, rest.get(..payload_bytes as usize).unwrap_or(rest)));
    };
    let Some((payload, &[end, ..])) = rest.split_at_checked(payload_bytes as usize) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(bad_end(octet, payload, end));
    }
    if !kind.fits(payload.len()) {
        return Err(unknown(octet, payload));
    }
    Ok(Some(FrameView { kind, channel: u16::from_be_bytes([c1, c0]), payload }))
}

/// The body frame that `input` begins with, if its payload has at least `payload_bytes_min`, whether or not it is whole:
/// its channel, the length of its payload, and what is there after its head.
pub fn peek_large_body(
    input: &[u8],
    frame_max: u32,
    payload_bytes_min: usize,
) -> Option<(u16, usize, &[u8])> {
    let (&[octet, c1, c0, l3, l2, l1, l0], rest) = input.split_first_chunk::<HEAD_BYTES>()?;
    let payload_bytes = u32::from_be_bytes([l3, l2, l1, l0]);
    let is_one = octet == FrameKind::Body as u8 && payload_bytes <= frame_max;
    (is_one && payload_bytes as usize >= payload_bytes_min).then_some((
        u16::from_be_bytes([c1, c0]),
        payload_bytes as usize,
        rest,
    ))
}

/// Judges the octet after the payload of a body frame that was taken in parts and began with `first_octets`.
///
/// # Errors
/// [`FrameError::BadEnd`].
pub fn check_body_end(first_octets: &[u8], end: u8) -> Result<(), FrameError> {
    if end == FRAME_END { Ok(()) } else { Err(bad_end(FrameKind::Body as u8, first_octets, end)) }
}

#[cold]
fn too_large(kind: u8, payload_bytes: u32, frame_max: u32) -> FrameError {
    let payload_bytes_max = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
    FrameError::TooLarge { kind, payload_bytes, payload_bytes_max }
}

#[cold]
fn bad_end(kind: u8, payload: &[u8], end: u8) -> FrameError {
    FrameError::BadEnd { frame: Snippet::new(kind, payload), end }
}

#[cold]
fn unknown(kind: u8, payload: &[u8]) -> FrameError {
    FrameError::Unknown(Snippet::new(kind, payload))
}

/// What became of a client's first octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolHeader {
    /// A version we speak; its 8 octets are to be skipped.
    Accepted,
    /// Another version, or not AMQP at all.
    Refused,
}

/// Judges the first octets of a connection; `None` while they may still become a header.
pub fn check_protocol_header(input: &[u8]) -> Option<ProtocolHeader> {
    const NAME: &[u8] = b"AMQP";
    if input.iter().zip(NAME).any(|(octet, expected)| octet != expected) {
        return Some(ProtocolHeader::Refused);
    }
    let (_, version) = input.first_chunk::<8>()?.split_at(NAME.len());
    // The norm, then the spellings of 0-9 and 0-8 that RabbitMQ up to 3.13 takes for the same methods.
    match version {
        [0, 0, 9, 1] | [1, 1, 0, 9] | [1, 1, 8, 0] | [1, 1, 9, 1] => Some(ProtocolHeader::Accepted),
        _ => Some(ProtocolHeader::Refused),
    }
}

/// Appends a method frame.
pub fn put_method(out: &mut BytesMut, channel: u16, method: &Method<'_>) {
    let start = out.len();
    put_head(out, FrameKind::Method, channel, 0);
    method.encode(out);
    let payload_bytes = (out.len() - start - HEAD_BYTES) as u32;
    out.get_mut(start + 3..start + HEAD_BYTES)
        .expect("the head was just written")
        .copy_from_slice(&payload_bytes.to_be_bytes());
    out.put_u8(FRAME_END);
}

/// Appends a heartbeat frame.
pub fn put_heartbeat(out: &mut BytesMut) {
    put_head(out, FrameKind::Heartbeat, 0, 0);
    out.put_u8(FRAME_END);
}

/// Appends the content header frame of a basic method; `properties` begin with their flags word.
pub fn put_header(out: &mut BytesMut, channel: u16, body_bytes: u64, properties: &[u8]) {
    let (head, [k1, k0]) =
        (head(FrameKind::Header, channel, 12 + properties.len() as u32), CLASS_BASIC.to_be_bytes());
    let ([h0, h1, h2, h3, h4, h5, h6], [b0, b1, b2, b3, b4, b5, b6, b7]) = (head, body_bytes.to_be_bytes());
    // In one piece: each one that is appended is looked at for room. The weight between class and length is 0.
    out.put_slice(&[h0, h1, h2, h3, h4, h5, h6, k1, k0, 0, 0, b0, b1, b2, b3, b4, b5, b6, b7]);
    out.put_slice(properties);
    out.put_u8(FRAME_END);
}

/// Appends the head of a body frame; `len` octets of body and [`FRAME_END`] are the caller's to add.
pub fn put_body_head(out: &mut BytesMut, channel: u16, len: u32) {
    put_head(out, FrameKind::Body, channel, len);
}

#[inline]
fn put_head(out: &mut BytesMut, kind: FrameKind, channel: u16, payload_bytes: u32) {
    out.put_slice(&head(kind, channel, payload_bytes));
}

#[inline]
fn head(kind: FrameKind, channel: u16, payload_bytes: u32) -> [u8; HEAD_BYTES] {
    let [c1, c0] = channel.to_be_bytes();
    let [l3, l2, l1, l0] = payload_bytes.to_be_bytes();
    [kind as u8, c1, c0, l3, l2, l1, l0]
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{
        FRAME_MAX_FLOOR, FrameKind, FrameView, PROTOCOL_HEADER, ProtocolHeader, check_protocol_header, peek,
        put_body_head, put_header, put_heartbeat, put_method,
    };
    use crate::protocol::methods::{BasicAck, Method};

    const ACK: &[u8] =
        b"\x01\x00\x05\x00\x00\x00\x0d\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x00\xce";

    fn frame(kind: u8, payload: &[u8], end: u8) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], length.as_slice(), payload, &[end]].concat()
    }

    fn error(input: &[u8]) -> String {
        peek(input, FRAME_MAX_FLOOR).unwrap_err().to_string()
    }

    #[test]
    fn frames_are_cut_one_after_the_other() {
        let input = [ACK, b"\x08\x00\x00\x00\x00\x00\x00\xce\x03"].concat();
        let ack = peek(&input, FRAME_MAX_FLOOR).unwrap().unwrap();
        assert_eq!(ack, FrameView { kind: FrameKind::Method, channel: 5, payload: &ACK[7..20] });
        assert_eq!(ack.wire_bytes(), ACK.len());
        let rest = &input[ack.wire_bytes()..];
        let heartbeat = peek(rest, FRAME_MAX_FLOOR).unwrap().unwrap();
        assert_eq!(heartbeat, FrameView { kind: FrameKind::Heartbeat, channel: 0, payload: b"" });
        assert_eq!(heartbeat.to_string(), "type 8, all octets = <<>>");
        assert_eq!(peek(&rest[heartbeat.wire_bytes()..], FRAME_MAX_FLOOR), Ok(None));
    }

    #[test]
    fn every_part_of_a_frame_asks_for_more() {
        for cut in 0..ACK.len() {
            assert_eq!(peek(&ACK[..cut], FRAME_MAX_FLOOR), Ok(None), "after {cut} octets");
        }
    }

    #[test]
    fn writers_write_what_peek_reads() {
        let mut out = BytesMut::from(b"before".as_slice());
        put_method(&mut out, 5, &Method::BasicAck(BasicAck { delivery_tag: 7, multiple: false }));
        assert_eq!(&out[6..], ACK);

        let mut out = BytesMut::new();
        put_heartbeat(&mut out);
        assert_eq!(out, b"\x08\x00\x00\x00\x00\x00\x00\xce".as_slice());

        let mut out = BytesMut::new();
        put_header(&mut out, 1, 3, &[0x10, 0, 2]);
        let header =
            b"\x02\x00\x01\x00\x00\x00\x0f\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x10\x00\x02\xce";
        assert_eq!(out, header.as_slice());

        let mut out = BytesMut::new();
        put_body_head(&mut out, 1, 3);
        assert_eq!(out, b"\x03\x00\x01\x00\x00\x00\x03".as_slice());
    }

    #[test]
    fn a_length_over_the_limit_is_refused_by_its_head_alone() {
        let over = "type 3, all octets = <<>>: {frame_too_large,4097,4088}";
        assert_eq!(error(b"\x03\x00\x01\x00\x00\x10\x01"), over);
        assert!(error(b"\x01\x00\x00\xff\xff\xff\xff").ends_with("{frame_too_large,4294967295,4088}"));
        let tolerated = frame(3, &[0; 4096], 0xce);
        assert_eq!(peek(&tolerated, FRAME_MAX_FLOOR).unwrap().unwrap().payload.len(), 4096);
    }

    #[test]
    fn a_wrong_end_is_named() {
        let end = error(&frame(1, &[0, 60, 0, 80], 0x0a));
        assert_eq!(end, "type 1, all octets = <<0,60,0,80>>: {invalid_frame_end_marker,10}");
        let long = error(&frame(3, b"a body of twenty and", 0));
        assert_eq!(long, r#"type 3, first 16 octets = <<"a body of twenty">>: {invalid_frame_end_marker,0}"#);
    }

    #[test]
    fn a_frame_no_kind_fits_is_unknown() {
        for kind in [0, 4, 9, 255] {
            let whole = error(&frame(kind, &[1, 2], 0xce));
            assert_eq!(whole, format!("type {kind}, all octets = <<1,2>>: unknown_frame"));
            let head = error(&frame(kind, &[1, 2], 0xce)[..7]);
            assert_eq!(head, format!("type {kind}, all octets = <<>>: unknown_frame"));
        }
        assert_eq!(error(&frame(1, &[0, 60, 0], 0xce)), "type 1, all octets = <<0,60,0>>: unknown_frame");
        assert_eq!(error(&frame(2, &[], 0xce)), "type 2, all octets = <<>>: unknown_frame");
        assert_eq!(error(&frame(8, b"!", 0xce)), r#"type 8, all octets = <<"!">>: unknown_frame"#);
    }

    #[test]
    fn protocol_headers() {
        let accepted =
            [b"AMQP\0\0\x09\x01", b"AMQP\x01\x01\0\x09", b"AMQP\x01\x01\x08\0", b"AMQP\x01\x01\x09\x01"];
        for header in accepted {
            assert_eq!(check_protocol_header(header), Some(ProtocolHeader::Accepted));
        }
        for header in [b"AMQP\0\x01\0\0".as_slice(), b"AMQP\x03\x01\0\0", b"GET ", b"\x16\x03\x01", b"AMQp"] {
            assert_eq!(check_protocol_header(header), Some(ProtocolHeader::Refused), "{header:?}");
        }
        for cut in 0..PROTOCOL_HEADER.len() {
            assert_eq!(check_protocol_header(&PROTOCOL_HEADER[..cut]), None);
        }
        assert_eq!(check_protocol_header(b"AMQP\0\0\x09\x01\x01\0"), Some(ProtocolHeader::Accepted));
    }
}
