//! Frames that their channel's number does not allow.

use crate::protocol::frame::{FrameKind, FrameView};
use crate::protocol::methods::Method;
use crate::session::refuse::Refusal;
use crate::session::running::Failure;

/// A frame for a channel that is not open.
pub(super) fn expected_open(frame: &FrameView<'_>) -> Failure {
    match frame.kind {
        FrameKind::Method => {
            let id = Method::peek_id(frame.payload).unwrap_or_default();
            Failure::new(Refusal::channel_error("expected 'channel.open'"), id)
        }
        _ => Refusal::unexpected_content().into(),
    }
}

/// A frame that its channel's number does not allow.
pub(super) fn out_of_place(frame: &FrameView<'_>) -> Failure {
    Refusal::unexpected_frame(frame.to_string()).into()
}
