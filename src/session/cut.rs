//! Large bodies are not copied: they are cut out of the read buffer, and taken as they arrive.
//!
//! What is cut out keeps the whole buffer in memory, however little it is of it. So bodies are cut only where they
//! are most of what arrives; between many small frames they are copied.

use bytes::{Buf, Bytes, BytesMut};

use crate::clock::Now;
use crate::protocol::frame::{self, FRAME_OVERHEAD, FrameKind, FrameView};
use crate::session::refuse::Refusal;
use crate::session::running::Failure;
use crate::session::{Phase, Session};

/// Smaller payloads, and smaller parts of payloads, are copied.
const CUT_BYTES_MIN: usize = 32 * 1024;

/// What a connection's input consists of, and the body frame that is being taken.
#[derive(Debug, Default)]
pub(super) struct Cut {
    partial: Option<Partial>,
    /// Whether large payloads were at least half of what was taken last.
    is_bulk: bool,
    chunk_bytes: usize,
    large_bytes: usize,
}

/// A large body frame that is taken as it arrives, and not collected first.
#[derive(Clone, Copy, Debug)]
struct Partial {
    channel: u16,
    /// Octets of its payload to come.
    left: usize,
    /// More than an error text shows of it.
    first_octets: [u8; 32],
}

impl Cut {
    /// So much has been read and is looked at now.
    pub(super) fn begin_chunk(&mut self, bytes: usize) {
        self.chunk_bytes = bytes;
        self.large_bytes = 0;
    }

    /// So much of it was understood.
    pub(super) fn end_chunk(&mut self, taken: usize) {
        if taken > 0 {
            self.is_bulk = 2 * self.large_bytes >= taken;
        }
    }

    /// Whether this is a body frame to be cut out of the read buffer.
    pub(super) fn takes(&mut self, frame: &FrameView<'_>) -> bool {
        let bytes = frame.payload.len();
        if frame.kind != FrameKind::Body || bytes < CUT_BYTES_MIN {
            return false;
        }
        self.large_bytes += bytes;
        self.is_worth(bytes)
    }

    /// Whether a body frame is being taken.
    pub(super) fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether so many large octets are worth the buffer that they lie in.
    fn is_worth(&self, bytes: usize) -> bool {
        self.is_bulk || 2 * bytes >= self.chunk_bytes
    }
}

impl Session {
    /// Cuts out the body frame at `at`, which is whole.
    pub(super) fn take_whole(
        &mut self,
        channel: u16,
        payload_bytes: usize,
        input: &mut BytesMut,
        at: &mut usize,
        now: Now,
    ) {
        input.advance(std::mem::take(at));
        let mut payload = input.split_to(FRAME_OVERHEAD + payload_bytes).freeze();
        payload.advance(FRAME_OVERHEAD - 1);
        payload.truncate(payload_bytes);
        self.on_cut_out(channel, payload, now);
    }

    /// Begins to take a large body frame of which much has arrived.
    pub(super) fn begin_part(&mut self, input: &[u8], at: &mut usize) -> bool {
        let rest = input.get(*at..).unwrap_or_default();
        let found = frame::peek_large_body(rest, self.frame_max, 2 * CUT_BYTES_MIN);
        let Some((channel, left, arrived)) = found.filter(|_| self.is_running()) else { return false };
        let is_worth = arrived.len() >= CUT_BYTES_MIN && self.cut.is_worth(arrived.len());
        let Some(&first_octets) = arrived.first_chunk().filter(|_| is_worth) else { return false };
        *at += rest.len() - arrived.len();
        self.cut.partial = Some(Partial { channel, left, first_octets });
        true
    }

    /// Takes the next part. The last one waits for the octet that ends the frame: what it ends is whole then.
    pub(super) fn take_part(&mut self, input: &mut BytesMut, at: &mut usize, now: Now) -> bool {
        let Some(partial) = self.cut.partial.take() else { return false };
        let Partial { channel, left, first_octets } = partial;
        input.advance(std::mem::take(at));
        let end = input.get(left).copied();
        let take = left.min(input.len());
        let waits = matches!(&self.phase, Phase::Running(running) if !running.takes_frames());
        if waits || (end.is_none() && (take == left || take < CUT_BYTES_MIN)) {
            self.cut.partial = Some(partial);
            return false;
        }
        if let Some(Err(error)) = end.map(|end| frame::check_body_end(&first_octets, end)) {
            self.fail(&Failure::from(Refusal::from(error)), true, now);
            return true;
        }
        let payload = input.split_to(take).freeze();
        self.cut.large_bytes += take;
        match end {
            Some(_) => *at = 1,
            None => self.cut.partial = Some(Partial { left: left - take, ..partial }),
        }
        if take >= CUT_BYTES_MIN {
            self.on_cut_out(channel, payload, now);
        } else {
            self.on_frame(&FrameView { kind: FrameKind::Body, channel, payload: &payload }, now);
        }
        true
    }

    fn on_cut_out(&mut self, channel: u16, payload: Bytes, now: Now) {
        if let Phase::Running(running) = &mut self.phase {
            let step = running.on_shared_body(channel, payload);
            self.on_running_step(step, now);
        }
    }
}
