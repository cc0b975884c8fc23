//! Large bodies are not copied: they are cut out of the read buffer, and taken as they arrive.
//!
//! What is cut out keeps the whole buffer in memory, however little it is of it. So bodies are cut only where they
//! are most of what arrives; between many small frames they are copied. Those that share it with others are copied
//! later, where they may rest: most are with their consumers before the buffer is filled again.

use bytes::{Buf, Bytes, BytesMut};

use crate::message::block::Pieces;
use crate::protocol::frame::{self, FRAME_OVERHEAD, FrameError, FrameKind, FrameView};

/// Smaller payloads are copied.
const CUT_BYTES_MIN: usize = 16 * 1024;
/// A payload is begun before it is whole in parts that are no smaller.
const PART_BYTES_MIN: usize = 32 * 1024;
/// What is smaller and may rest is copied: this is half of a read buffer.
const RESTING_BYTES_MIN: usize = 64 * 1024;

/// What a connection's input consists of, and the body frame that is being taken.
#[derive(Debug, Default)]
pub(super) struct Cut {
    partial: Option<Partial>,
    /// Whether large payloads were at least half of what was taken last.
    is_bulk: bool,
    /// What has been read and is looked at now.
    chunk_bytes: usize,
    /// What of it were large payloads, so far.
    large_bytes: usize,
}

/// A large body frame that is taken as it arrives, and not collected first.
#[derive(Debug)]
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
        if frame.kind != FrameKind::Body || !Self::is_large(frame.payload) {
            return false;
        }
        self.large_bytes += frame.payload.len();
        self.is_worth(frame.payload.len())
    }

    /// Cuts out the body frame at `at`, which is whole: its payload.
    pub(super) fn take_whole(payload_bytes: usize, input: &mut BytesMut, at: &mut usize) -> Bytes {
        input.advance(std::mem::take(at));
        let mut payload = input.split_to(FRAME_OVERHEAD + payload_bytes).freeze();
        payload.advance(FRAME_OVERHEAD - 1);
        payload.truncate(payload_bytes);
        payload
    }

    /// The channel of the body frame that is being taken.
    pub(super) fn partial_channel(&self) -> Option<u16> {
        self.partial.as_ref().map(|partial| partial.channel)
    }

    /// Begins to take the large body frame at `at` if much of it has arrived, and whether it does.
    pub(super) fn begin_part(&mut self, input: &[u8], at: &mut usize, frame_max: u32) -> bool {
        let rest = input.get(*at..).unwrap_or_default();
        let found = frame::peek_large_body(rest, frame_max, 2 * PART_BYTES_MIN);
        let Some((channel, left, arrived)) = found else { return false };
        let is_worth = arrived.len() >= PART_BYTES_MIN && self.is_worth(arrived.len());
        let Some(&first_octets) = arrived.first_chunk().filter(|_| is_worth) else { return false };
        *at += rest.len() - arrived.len();
        self.partial = Some(Partial { channel, left, first_octets });
        true
    }

    /// Takes the next part of the payload, if enough of it has arrived, and the channel it is for. The last one waits
    /// for the octet that ends the frame: what it ends is whole then.
    ///
    /// # Errors
    /// The frame ends with another octet.
    pub(super) fn take_part(
        &mut self,
        input: &mut BytesMut,
        at: &mut usize,
    ) -> Result<Option<(u16, Bytes)>, FrameError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let channel = partial.channel;
        input.advance(std::mem::take(at));
        let end = input.get(partial.left).copied();
        let take = partial.left.min(input.len());
        if let Some(end) = end {
            frame::check_body_end(&partial.first_octets, end)?;
            *at = 1;
            self.partial = None;
        } else if take == partial.left || take < PART_BYTES_MIN {
            return Ok(None);
        } else {
            partial.left -= take;
        }
        self.large_bytes += take;
        Ok(Some((channel, input.split_to(take).freeze())))
    }

    /// Whether a part of a payload is to be kept as it is.
    pub(super) fn is_large(payload: &[u8]) -> bool {
        payload.len() >= CUT_BYTES_MIN
    }

    /// The same pieces, to be kept for long: small ones no longer share a buffer with others.
    pub(super) fn detach(pieces: Pieces) -> Pieces {
        let is_kept = |piece: &Bytes| piece.len() >= RESTING_BYTES_MIN || piece.is_unique();
        let detach = |piece: Bytes| if is_kept(&piece) { piece } else { Bytes::copy_from_slice(&piece) };
        pieces.into_iter().map(detach).collect()
    }

    /// Whether so many large octets are worth the buffer that they lie in.
    fn is_worth(&self, bytes: usize) -> bool {
        self.is_bulk || 2 * bytes >= self.chunk_bytes
    }
}
