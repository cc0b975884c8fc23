//! Frames that are read in one go, because nearly all traffic is made of them: a publish with its header and its
//! body, and acknowledgements in a row.
//!
//! Nothing is judged here. What is incomplete, unusual or wrong in any way is not recognised, and is left to
//! [`frame::peek`] and the parsers of the single frames, which say what is wrong with it.
// AMQP 0-9-1 §4.2.6, §1.8.3.7, §1.8.3.13

use std::ops::Range;

use crate::protocol::frame::{self, FRAME_OVERHEAD, FrameKind, FrameView};

/// basic.publish, and the class's number of the content header behind it.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];
const BASIC: [u8; 2] = [0, 60];
/// The class, the weight and the body's length.
const HEADER_BYTES: usize = 12;
const TICKET_BYTES: usize = 2;
const MANDATORY: u8 = 1;

/// A message whose frames are all there, with its body in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholePublish<'a> {
    /// The channel of its frames.
    pub channel: u16,
    /// The exchange and the routing key as they came, each with its length before it.
    pub names: &'a [u8],
    /// It comes back when nobody takes it.
    pub mandatory: bool,
    /// The raw properties, from the flags word on, which were not looked at.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
    /// Octets of input it takes up.
    pub wire_bytes: usize,
}

impl<'a> WholePublish<'a> {
    /// The publish that `input` begins with, if it is whole and its body has at most `body_bytes_max`.
    fn peek(input: &'a [u8], frame_max: u32, body_bytes_max: usize) -> Option<Self> {
        let method = next(input, frame_max, FrameKind::Method)?;
        let arguments = method.payload.strip_prefix(&PUBLISH)?;
        let (_ticket, arguments) = arguments.split_at_checked(TICKET_BYTES)?;
        let (names, &[bits]) = split_names(arguments)? else { return None };
        if bits & !MANDATORY != 0 {
            return None;
        }
        let after_method = input.get(method.wire_bytes()..)?;
        let header = next(after_method, frame_max, FrameKind::Header)?;
        let (fixed, properties) = header.payload.split_first_chunk::<HEADER_BYTES>()?;
        let &[c1, c0, 0, 0, b7, b6, b5, b4, b3, b2, b1, b0] = fixed else { return None };
        let body_bytes = u64::from_be_bytes([b7, b6, b5, b4, b3, b2, b1, b0]);
        if [c1, c0] != BASIC || header.channel != method.channel || body_bytes > body_bytes_max as u64 {
            return None;
        }
        let mut wire_bytes = method.wire_bytes() + header.wire_bytes();
        let mut body: &[u8] = &[];
        if body_bytes > 0 {
            let frame = next(input.get(wire_bytes..)?, frame_max, FrameKind::Body)?;
            if frame.channel != method.channel || frame.payload.len() as u64 != body_bytes {
                return None;
            }
            wire_bytes += frame.wire_bytes();
            body = frame.payload;
        }
        let mandatory = bits == MANDATORY;
        Some(Self { channel: method.channel, names, mandatory, properties, body, wire_bytes })
    }
}

/// Reads whole publishes, most of which begin with the very octets that the one before began with: these are
/// compared, and not parsed again.
#[derive(Debug, Default)]
pub struct PublishReader {
    /// The last publish up to its body.
    head: Vec<u8>,
    channel: u16,
    names: Range<usize>,
    mandatory: bool,
    properties: Range<usize>,
    body_bytes: usize,
}

impl PublishReader {
    /// The publish that `input` begins with, if it is whole and its body has at most `body_bytes_max`. The two bounds
    /// are the same in every call.
    #[inline]
    pub fn read<'a>(
        &mut self,
        input: &'a [u8],
        frame_max: u32,
        body_bytes_max: usize,
    ) -> Option<WholePublish<'a>> {
        match input.split_at_checked(self.head.len()) {
            Some((head, rest)) if !head.is_empty() && head == self.head => self.read_body(head, rest),
            _ => self.read_all(input, frame_max, body_bytes_max),
        }
    }

    /// The bodies of the publishes at `at` in `input` that begin like the last one read; `at` rises with each.
    pub fn alike<'a>(&'a self, input: &'a [u8], at: &'a mut usize) -> Alike<'a> {
        Alike { reader: self, input, at }
    }

    fn read_body<'a>(&self, head: &'a [u8], rest: &'a [u8]) -> Option<WholePublish<'a>> {
        let body = self.split_body(rest)?;
        Some(WholePublish {
            channel: self.channel,
            names: head.get(self.names.clone())?,
            mandatory: self.mandatory,
            properties: head.get(self.properties.clone())?,
            body,
            wire_bytes: self.wire_bytes(),
        })
    }

    #[inline]
    fn split_body<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let (body, rest) = rest.split_at_checked(self.body_bytes)?;
        (self.body_bytes == 0 || rest.first() == Some(&frame::FRAME_END)).then_some(body)
    }

    fn wire_bytes(&self) -> usize {
        self.head.len() + self.body_bytes + usize::from(self.body_bytes > 0)
    }

    fn read_all<'a>(
        &mut self,
        input: &'a [u8],
        frame_max: u32,
        body_bytes_max: usize,
    ) -> Option<WholePublish<'a>> {
        let publish = WholePublish::peek(input, frame_max, body_bytes_max)?;
        let end_bytes = usize::from(!publish.body.is_empty());
        let head_bytes = publish.wire_bytes - publish.body.len() - end_bytes;
        self.head.clear();
        self.head.extend_from_slice(input.get(..head_bytes)?);
        let names_at = FRAME_OVERHEAD - 1 + PUBLISH.len() + TICKET_BYTES;
        self.names = names_at..names_at + publish.names.len();
        // The bits and the frame's end, then the header frame's head.
        let properties_at = self.names.end + 2 + FRAME_OVERHEAD - 1 + HEADER_BYTES;
        self.properties = properties_at..properties_at + publish.properties.len();
        (self.channel, self.mandatory, self.body_bytes) =
            (publish.channel, publish.mandatory, publish.body.len());
        Some(publish)
    }
}

/// The bodies of publishes that begin alike.
#[derive(Debug)]
pub struct Alike<'a> {
    reader: &'a PublishReader,
    input: &'a [u8],
    at: &'a mut usize,
}

impl<'a> Iterator for Alike<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, rest) = self.input.get(*self.at..)?.split_at_checked(self.reader.head.len())?;
        let body = (head == self.reader.head).then(|| self.reader.split_body(rest)).flatten()?;
        *self.at += self.reader.wire_bytes();
        Some(body)
    }
}

/// The next frame, if it is whole and of this kind.
#[inline]
fn next(input: &[u8], frame_max: u32, kind: FrameKind) -> Option<FrameView<'_>> {
    if *input.first()? != kind as u8 {
        return None;
    }
    frame::peek(input, frame_max).ok().flatten()
}

/// Two short strings behind each other, and what follows them.
#[inline]
fn split_names(arguments: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = usize::from(*arguments.first()?) + 1;
    let second = usize::from(*arguments.get(first)?) + 1;
    arguments.split_at_checked(first + second)
}

/// Acknowledgements of single deliveries on one channel, each of the tag after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckRow {
    /// The channel.
    pub channel: u16,
    /// The first tag.
    pub first: u64,
    /// The last tag, which may be the first.
    pub last: u64,
    /// Octets of input they take up.
    pub wire_bytes: usize,
}

impl AckRow {
    const ACK_BYTES: usize = FRAME_OVERHEAD + 13;

    /// The acknowledgements that `input` begins with.
    #[inline]
    pub fn peek(input: &[u8]) -> Option<Self> {
        let (channel, first) = ack(input)?;
        let mut row = Self { channel, first, last: first, wire_bytes: Self::ACK_BYTES };
        while let Some(rest) = input.get(row.wire_bytes..)
            && let Some(next) = row.last.checked_add(1)
            && ack(rest) == Some((channel, next))
        {
            row.last = next;
            row.wire_bytes += Self::ACK_BYTES;
        }
        Some(row)
    }
}

/// Channel and tag of a basic.ack without `multiple`.
#[inline]
fn ack(input: &[u8]) -> Option<(u16, u64)> {
    let &[1, c1, c0, 0, 0, 0, 13, 0, 60, 0, 80, t7, t6, t5, t4, t3, t2, t1, t0, 0, frame::FRAME_END] =
        input.first_chunk::<{ AckRow::ACK_BYTES }>()?
    else {
        return None;
    };
    Some((u16::from_be_bytes([c1, c0]), u64::from_be_bytes([t7, t6, t5, t4, t3, t2, t1, t0])))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{AckRow, PublishReader, WholePublish};
    use crate::protocol::frame::{self, FRAME_END, FRAME_MAX_FLOOR};
    use crate::protocol::methods::{BasicAck, BasicPublish, Method};

    fn publish(
        exchange: &[u8],
        routing_key: &[u8],
        mandatory: bool,
        immediate: bool,
        body: &[u8],
    ) -> BytesMut {
        let publish = BasicPublish { exchange, routing_key, mandatory, immediate };
        let mut out = BytesMut::new();
        frame::put_method(&mut out, 7, &Method::BasicPublish(publish));
        frame::put_header(&mut out, 7, body.len() as u64, &[0x10, 0, 2]);
        if !body.is_empty() {
            frame::put_body_head(&mut out, 7, body.len() as u32);
            out.extend_from_slice(body);
            out.extend_from_slice(&[FRAME_END]);
        }
        out
    }

    fn peek(input: &[u8]) -> Option<WholePublish<'_>> {
        WholePublish::peek(input, FRAME_MAX_FLOOR, 2048)
    }

    fn acks(acks: &[(u16, u64, bool)]) -> BytesMut {
        let mut out = BytesMut::new();
        for &(channel, delivery_tag, multiple) in acks {
            frame::put_method(&mut out, channel, &Method::BasicAck(BasicAck { delivery_tag, multiple }));
        }
        out
    }

    proptest! {
        #[test]
        fn a_whole_publish_is_read_and_no_part_of_one(
            exchange in "[a-z]{0,20}", key in "[a-z.]{0,255}", mandatory: bool,
            body in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            let mut input = publish(exchange.as_bytes(), key.as_bytes(), mandatory, false, &body);
            for cut in 0..input.len() {
                prop_assert_eq!(peek(&input[..cut]), None);
            }
            let whole_bytes = input.len();
            input.extend_from_slice(b"rest");
            let read = peek(&input).unwrap();
            let names = [&[exchange.len() as u8], exchange.as_bytes(), &[key.len() as u8], key.as_bytes()].concat();
            prop_assert_eq!(read, WholePublish {
                channel: 7,
                names: &names,
                mandatory,
                properties: &[0x10, 0, 2],
                body: &body,
                wire_bytes: whole_bytes,
            });
        }

        #[test]
        fn what_differs_in_any_octet_is_the_same_or_left_to_others(at in 0usize..60, octet: u8) {
            let input = publish(b"x", b"k", false, false, b"0123456789");
            let mut other = input.clone();
            let at = at % other.len();
            other[at] = octet;
            let (whole, read) = (peek(&input).unwrap(), peek(&other));
            // Ticket, names, properties and body are free; everything else is structure.
            let free = [11, 12, 14, 16, 17, 38, 39, 40].contains(&at) || (49..59).contains(&at);
            if free {
                prop_assert_eq!(read.map(|read| read.wire_bytes), (at != 17 || octet < 2).then_some(whole.wire_bytes));
            } else {
                prop_assert!(octet == input[at] || read.is_none() || read.unwrap() != whole);
            }
        }
    }

    #[test]
    fn a_publish_like_the_one_before_is_read_like_any_other() {
        let mut reader = PublishReader::default();
        let keys: [&[u8]; 5] = [b"k", b"k", b"k", b"other", b"k"];
        let bodies: [&[u8]; 5] = [b"0123456789", b"9876543210", b"", b"", b"x"];
        for (key, body) in keys.into_iter().zip(bodies).flat_map(|pair| [pair, pair]) {
            let mut input = publish(b"x", key, false, false, body);
            for cut in 0..input.len() {
                assert_eq!(reader.read(&input[..cut], FRAME_MAX_FLOOR, 2048), None);
            }
            let whole = peek(&input);
            assert!(whole.is_some());
            assert_eq!(reader.read(&input, FRAME_MAX_FLOOR, 2048), whole);
            if !body.is_empty() {
                *input.last_mut().unwrap() = 0;
                assert_eq!(reader.read(&input, FRAME_MAX_FLOOR, 2048), None);
            }
        }
    }

    #[test]
    fn publishes_that_begin_alike_are_read_until_one_does_not() {
        let one = |body: &[u8]| publish(b"x", b"k", false, false, body);
        let mut input = [one(b"a"), one(b"b"), one(b"c"), one(b"dd")].concat();
        let mut reader = PublishReader::default();
        let mut at = reader.read(&input, FRAME_MAX_FLOOR, 2048).unwrap().wire_bytes;
        assert_eq!(reader.alike(&input, &mut at).collect::<Vec<_>>(), [b"b", b"c"]);
        assert_eq!(reader.read(&input[at..], FRAME_MAX_FLOOR, 2048).unwrap().body, b"dd");
        input.truncate(at - 1);
        at = one(b"a").len();
        assert_eq!(reader.alike(&input, &mut at).count(), 0, "the last one read was another");
    }

    #[test]
    fn what_is_large_or_unusual_is_left_to_others() {
        assert_eq!(peek(&publish(b"", b"", false, true, b"x")), None, "immediate");
        assert_eq!(peek(&publish(b"", b"", false, false, &[0; 2049])), None, "too large");
        let mut two_frames = publish(b"", b"", false, false, b"");
        two_frames.truncate(two_frames.len() - 4 - 8);
        assert_eq!(peek(&two_frames), None);
    }

    #[test]
    fn acknowledgements_are_read_as_long_as_each_follows_the_one_before() {
        let row = |acks: &BytesMut| {
            AckRow::peek(acks).map(|row| (row.channel, row.first, row.last, row.wire_bytes))
        };
        assert_eq!(row(&acks(&[(3, 5, false), (3, 6, false), (3, 7, false)])), Some((3, 5, 7, 63)));
        assert_eq!(row(&acks(&[(3, 5, false), (3, 7, false)])), Some((3, 5, 5, 21)));
        assert_eq!(row(&acks(&[(3, 5, false), (4, 6, false)])), Some((3, 5, 5, 21)));
        assert_eq!(row(&acks(&[(3, 5, false), (3, 6, true)])), Some((3, 5, 5, 21)));
        assert_eq!(row(&acks(&[(3, u64::MAX, false), (3, 0, false)])), Some((3, u64::MAX, u64::MAX, 21)));
        assert_eq!(row(&acks(&[(3, 5, true)])), None);
        assert_eq!(AckRow::peek(&acks(&[(3, 5, false)])[..20]), None);
    }
}
