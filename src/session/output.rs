//! Bytes on their way to the socket: small frames behind each other in one buffer, large bodies by reference.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::message::record::{BodyView, MessageView};
use crate::protocol::frame::{self, FRAME_END, FRAME_OVERHEAD};
use crate::protocol::methods::Method;
use crate::stats::{Charge, Gauge};

/// Pieces of a body from this size on are written from where they lie.
const SHARED_BYTES_MIN: usize = 8 * 1024;
/// Likewise those of a body of this size, however small the client's frames make them: copied it would take its size
/// again for each client.
const LARGE_BODY_BYTES: usize = 256 * 1024;
/// Small frames are gathered in buffers of this size; one that a larger frame made grow is given back once written.
const BUFFER_BYTES: usize = 64 * 1024;

/// What is to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    segments: VecDeque<Bytes>,
    segment_bytes: usize,
    tail: BytesMut,
    written_bytes: u64,
    replies: Tally,
    returns: Tally,
    /// What the returns take, on the node's gauge.
    returns_charge: Option<Charge>,
}

/// How much of what waits is of one kind: replies, which are what the client's own input has brought about, or returns. Not
/// where it lies, only how many bytes came before a mark and behind it; when all before the mark is written, it moves to
/// the end. So what is counted too much is no more than what came while as much as lay before the mark was written.
#[derive(Debug, Default)]
struct Tally {
    /// So much will have been written when the older ones are.
    mark: u64,
    older_bytes: usize,
    newer_bytes: usize,
}

impl Tally {
    fn bytes(&self) -> usize {
        self.older_bytes + self.newer_bytes
    }

    /// So much is written in all, and so much waits.
    fn advance(&mut self, written_bytes: u64, unwritten_bytes: usize) {
        if written_bytes >= self.mark {
            self.older_bytes = std::mem::take(&mut self.newer_bytes).min(unwritten_bytes);
            self.mark = written_bytes + unwritten_bytes as u64;
        }
    }
}

impl Output {
    /// Adds a method frame.
    pub fn method(&mut self, channel: u16, method: &Method<'_>) {
        frame::put_method(&mut self.tail, channel, method);
    }

    /// Adds a heartbeat frame.
    pub fn heartbeat(&mut self) {
        frame::put_heartbeat(&mut self.tail);
    }

    /// Adds bytes that are no frame: the protocol header.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Adds a delivery: what stands before its body, and the body that is in one frame, if it is not empty.
    #[inline]
    pub fn delivery(&mut self, head: &[u8], body: &[u8]) {
        self.reserve(head.len() + body.len() + 1);
        self.tail.extend_from_slice(head);
        if !body.is_empty() {
            self.tail.extend_from_slice(body);
            self.tail.put_u8(FRAME_END);
        }
    }

    /// Makes room in the tail; when that is full, a new one follows it, so that nothing is copied twice.
    #[inline]
    fn reserve(&mut self, bytes: usize) {
        if self.tail.capacity() - self.tail.len() < bytes {
            self.grow(bytes);
        }
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        if self.tail.len() + bytes <= BUFFER_BYTES {
            return self.tail.reserve(bytes);
        }
        self.close_tail();
        self.tail = BytesMut::with_capacity(bytes.max(BUFFER_BYTES));
    }

    /// What comes next does not lie in the tail.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let before = self.tail.split().freeze();
            self.segment_bytes += before.len();
            self.segments.push_back(before);
        }
    }

    /// Adds a content header and body frames, none larger than `frame_max` allows (AMQP 0-9-1 §4.2.6).
    pub fn content(&mut self, channel: u16, message: &MessageView<'_>, frame_max: u32) {
        let payload_max = frame_max as usize - FRAME_OVERHEAD;
        frame::put_header(&mut self.tail, channel, message.body.len() as u64, message.properties);
        match message.body {
            BodyView::Slice(body) => {
                for payload in body.chunks(payload_max) {
                    self.reserve(FRAME_OVERHEAD + payload.len());
                    frame::put_body_head(&mut self.tail, channel, payload.len() as u32);
                    self.tail.extend_from_slice(payload);
                    self.tail.put_u8(FRAME_END);
                }
            }
            BodyView::Chunks(pieces) => self.pieces(channel, pieces, payload_max),
        }
    }

    /// Body frames as large as they may be, whatever pieces the body is in.
    fn pieces(&mut self, channel: u16, pieces: &[Bytes], payload_max: usize) {
        let mut left: usize = pieces.iter().map(Bytes::len).sum();
        let shared_min = if left >= LARGE_BODY_BYTES { SHARED_BYTES_MIN / 8 } else { SHARED_BYTES_MIN };
        let mut left_in_frame = 0;
        for piece in pieces {
            let mut rest = piece.clone();
            while !rest.is_empty() {
                if left_in_frame == 0 {
                    left_in_frame = left.min(payload_max);
                    frame::put_body_head(&mut self.tail, channel, left_in_frame as u32);
                }
                let part = rest.split_to(left_in_frame.min(rest.len()));
                left -= part.len();
                left_in_frame -= part.len();
                self.share(part, shared_min);
                if left_in_frame == 0 {
                    self.tail.put_u8(FRAME_END);
                }
            }
        }
    }

    /// Adds bytes, by reference if they are `shared_min` or more.
    fn share(&mut self, bytes: Bytes, shared_min: usize) {
        if bytes.len() < shared_min {
            return self.tail.extend_from_slice(&bytes);
        }
        self.close_tail();
        self.segment_bytes += bytes.len();
        self.segments.push_back(bytes);
    }

    /// Adds what another output holds, which is empty then.
    pub fn append(&mut self, other: &mut Self) {
        if !other.segments.is_empty() {
            self.close_tail();
            self.segment_bytes += std::mem::take(&mut other.segment_bytes);
            self.segments.append(&mut other.segments);
        }
        self.reserve(other.tail.len());
        self.tail.extend_from_slice(&other.tail);
        self.count_reply(other.reply_bytes());
        self.returns.newer_bytes += other.return_bytes();
        match (&mut self.returns_charge, other.returns_charge.take()) {
            (Some(charge), Some(more)) => charge.grow(more.bytes()),
            (none @ None, more) => *none = more,
            (Some(_), None) => {}
        }
        other.clear();
    }

    /// The last `bytes` that were added are a reply: the client's own input has brought them about.
    #[inline]
    pub fn count_reply(&mut self, bytes: usize) {
        self.replies.newer_bytes += bytes;
    }

    /// How many of the bytes that wait are replies, or a few more.
    pub fn reply_bytes(&self) -> usize {
        self.replies.bytes()
    }

    /// The last `bytes` that were added are messages that go back to the client, which may be in the middle of publishing
    /// more and read them only then: they are no replies, and are counted on the node's gauge.
    pub fn count_return(&mut self, bytes: usize, gauge: &Arc<Gauge>) {
        self.returns.newer_bytes += bytes;
        self.returns_charge.get_or_insert_with(|| Charge::new(gauge, 0)).grow(bytes as u64);
    }

    /// How many of the bytes that wait are messages that go back, or a few more.
    pub fn return_bytes(&self) -> usize {
        self.returns.bytes()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.segment_bytes + self.tail.len()
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with what is to be written next; how many were filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let waiting = self.segments.iter().map(Bytes::as_ref).chain(std::iter::once(self.tail.as_ref()));
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(waiting.filter(|bytes: &&[u8]| !bytes.is_empty())) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// `count` bytes were written.
    pub fn advance(&mut self, mut count: usize) {
        self.written_bytes += count as u64;
        let unwritten_bytes = self.len().saturating_sub(count);
        self.replies.advance(self.written_bytes, unwritten_bytes);
        if let Some(charge) = &mut self.returns_charge {
            self.returns.advance(self.written_bytes, unwritten_bytes);
            match self.returns.bytes() {
                0 => self.returns_charge = None,
                bytes => charge.set(bytes as u64),
            }
        }
        while let Some(segment) = self.segments.front_mut() {
            let step = count.min(segment.len());
            segment.advance(step);
            self.segment_bytes -= step;
            count -= step;
            if !segment.is_empty() {
                return;
            }
            self.segments.pop_front();
        }
        self.tail.advance(count.min(self.tail.len()));
        if self.tail.is_empty() {
            if self.tail.capacity() > 2 * BUFFER_BYTES {
                self.tail = BytesMut::new();
            } else {
                self.tail.clear();
            }
        }
    }

    /// Gives the buffer back: the connection is idle.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.tail = BytesMut::new();
        }
    }

    /// Forgets what was not written: nobody reads any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bytes::Bytes;

    use super::{BUFFER_BYTES, FRAME_OVERHEAD, Output};
    use crate::message::names::Names;
    use crate::message::record::{BodyView, MessageView};

    #[test]
    fn a_large_body_is_not_copied_for_a_client_with_small_frames() {
        const BODY_BYTES: usize = 4 << 20;
        let body = Bytes::from(vec![7; BODY_BYTES]);
        let message = MessageView {
            names: Names::EMPTY,
            properties: &[0, 0],
            body: BodyView::Chunks(std::slice::from_ref(&body)),
        };
        let mut out = Output::default();
        out.content(1, &message, 4096);
        assert_eq!(
            out.len(),
            BODY_BYTES + FRAME_OVERHEAD * BODY_BYTES.div_ceil(4096 - FRAME_OVERHEAD) + FRAME_OVERHEAD + 14
        );
        let shared = out.segments.iter().filter(|segment| body.as_ptr_range().contains(&segment.as_ptr()));
        assert!(shared.map(Bytes::len).sum::<usize>() > BODY_BYTES - 4096);
    }

    /// Writes all, at most `step` bytes at once; what was written.
    fn write(out: &mut Output, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = out.fill(&mut slices);
            let waiting: Vec<u8> =
                slices.iter().take(filled).flat_map(|slice| slice.iter().copied()).take(step).collect();
            out.advance(waiting.len());
            written.extend(waiting);
        }
        written
    }

    #[test]
    fn deliveries_are_gathered_in_order_in_buffers_that_do_not_grow() {
        let mut out = Output::default();
        for step in [1_000, 100_000] {
            let mut expected = Vec::new();
            for number in 0..500_u32 {
                let (head, body) = (number.to_be_bytes(), vec![number as u8; 3 * number as usize]);
                out.delivery(&head, &body);
                expected.extend_from_slice(&head);
                if !body.is_empty() {
                    expected.extend_from_slice(&body);
                    expected.push(0xce);
                }
            }
            assert_eq!(out.len(), expected.len());
            assert!(out.segments.iter().all(|segment| segment.len() <= BUFFER_BYTES));
            assert!(out.segments.len() > expected.len() / BUFFER_BYTES / 2);
            assert_eq!(write(&mut out, step), expected);
        }
    }

    #[test]
    fn replies_count_until_they_are_written_also_when_the_output_is_never_empty() {
        let (mut out, mut parked) = (Output::default(), Output::default());
        out.raw(&[0; 10]);
        out.count_reply(10);
        assert_eq!((out.reply_bytes(), out.len()), (10, 10));
        out.advance(10);
        assert_eq!(out.reply_bytes(), 0);
        out.delivery(&[0; 1000], b"");
        for _ in 0..100 {
            // There is always a delivery behind the replies, and the next one comes before it is written.
            out.raw(&[0; 100]);
            out.count_reply(100);
            out.delivery(&[0; 1000], b"");
            out.advance(1100);
            assert!((100..=200).contains(&out.reply_bytes()) && out.len() == 1000, "{}", out.reply_bytes());
        }
        parked.raw(&[0; 50]);
        parked.count_reply(50);
        let before = out.reply_bytes();
        out.append(&mut parked);
        assert_eq!((out.reply_bytes(), parked.reply_bytes()), (before + 50, 0));
        out.advance(out.len());
        assert_eq!(out.reply_bytes(), 0);
    }

    #[test]
    fn what_another_output_holds_comes_behind() {
        let (mut out, mut other) = (Output::default(), Output::default());
        out.delivery(b"1", &[b'2'; BUFFER_BYTES]);
        other.delivery(&[b'3'; 2 * BUFFER_BYTES], b"");
        other.raw(b"4");
        out.append(&mut other);
        assert!(other.is_empty());
        let end = [vec![0xce], vec![b'3'; 2 * BUFFER_BYTES], vec![b'4']].concat();
        let expected = [vec![b'1'], vec![b'2'; BUFFER_BYTES], end].concat();
        assert_eq!(write(&mut out, 1_000_000), expected);
    }
}
