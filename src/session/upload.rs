//! Messages that are not whole yet, and wait for room: the client is read no further than to the next part of one.
//!
//! Who goes on when there is none, [`crate::broker::uploads`] says.

use crate::protocol::frame::{FrameKind, FrameView};
use crate::session::running::{Running, Slot};
use crate::session::{Phase, Session};

/// What of the connection's messages waits, and what goes on.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// The next part of a message waits, and the client's socket is not read.
    is_in_line: bool,
    /// The channel of the message that has the connection's turn.
    granted: Option<u16>,
}

impl Session {
    /// Whether this frame, of a body, must wait for room.
    pub(super) fn waits_for_room_for(&mut self, frame: &FrameView<'_>) -> bool {
        frame.kind == FrameKind::Body && self.waits_for_room(frame.channel, frame.payload.len())
    }

    /// Whether so many bytes of a body must wait for room.
    pub(super) fn waits_for_room(&mut self, channel: u16, bytes: usize) -> bool {
        match &mut self.phase {
            Phase::Running(running) => running.waits_for_room(channel, bytes as u64),
            _ => false,
        }
    }
}

impl Running {
    /// Whether a part of a message waits for room: its task is signalled when it is to be looked at again.
    pub(super) fn is_in_line(&self) -> bool {
        self.upload.is_in_line
    }

    fn waits_for_room(&mut self, number: u16, bytes: u64) -> bool {
        let was_in_line = std::mem::take(&mut self.upload.is_in_line);
        if !was_in_line && !self.link.node().memory.is_short_of_parts() {
            return false;
        }
        self.upload.is_in_line = self.must_stand_in_line(number, bytes);
        if was_in_line && !self.upload.is_in_line && self.upload.granted.is_none() {
            // There is room again, and it needs no turn.
            self.link.node().uploads.leave(self.link.outbox.connection());
        }
        self.upload.is_in_line
    }

    fn must_stand_in_line(&mut self, number: u16, bytes: u64) -> bool {
        let at = self.find(number).ok();
        let Some((_, Slot::Open(channel))) = at.and_then(|at| self.channels.get_mut(at)) else {
            return false;
        };
        let node = &self.link.broker.node;
        if !channel.keeps_waiting(&node.memory, bytes) {
            return false;
        }
        let is_its_turn = node.uploads.take_turn(&self.link.outbox);
        if is_its_turn {
            channel.grant(&node.memory);
            self.upload.granted = Some(number);
        }
        !is_its_turn
    }

    /// The channel has taken a part of a message: when that made it whole, others have their turn.
    pub(super) fn end_upload_if_whole(&mut self, number: u16) {
        if self.upload.granted != Some(number) {
            return;
        }
        let at = self.find(number).ok();
        let slot = at.and_then(|at| self.channels.get(at));
        if !matches!(slot, Some((_, Slot::Open(channel))) if channel.awaits_content()) {
            self.end_upload_of(number);
        }
    }

    /// The channel's message is whole, or given up.
    pub(super) fn end_upload_of(&mut self, number: u16) {
        if self.upload.granted.take_if(|granted| *granted == number).is_some() {
            self.link.node().uploads.leave(self.link.outbox.connection());
        }
    }
}
