//! What comes on a channel that the broker has closed and whose client has not said that it knows: nothing of it is kept,
//! and contents must be whole all the same, or the connection has lost its place.

use crate::protocol::methods::Method;
use crate::session::channel::Part;
use crate::session::channel::assembly::Stage;
use crate::session::refuse::Refusal;

/// Where a client is in what is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    stage: Stage,
    /// Of a body, once its header has come.
    missing_bytes: u64,
    /// The method that began the content.
    begun_by: (u16, u16),
}

impl Discard {
    /// A content may have begun when the channel was closed, by this method.
    pub(super) fn new(stage: Stage, missing_bytes: u64, begun_by: (u16, u16)) -> Self {
        Self { stage, missing_bytes, begun_by }
    }

    /// The method whose content is missing.
    pub fn begun_by(&self) -> (u16, u16) {
        if self.stage == Stage::Idle { (0, 0) } else { self.begun_by }
    }

    /// Whether a method may come.
    ///
    /// # Errors
    /// It would be in the middle of a content.
    pub fn check_method(&self) -> Result<(), Refusal> {
        self.stage.check_method()
    }

    /// A method, which may begin a content.
    ///
    /// # Errors
    /// It comes in the middle of one.
    pub fn on_method(&mut self, method: &Method<'_>) -> Result<(), Refusal> {
        self.check_method()?;
        if method.has_content() {
            (self.stage, self.begun_by) = (Stage::Header, method.id());
        }
        Ok(())
    }

    /// A part of a content.
    ///
    /// # Errors
    /// It comes out of turn, or brings more than there was to be.
    pub fn on_part(&mut self, part: &Part<'_>) -> Result<(), Refusal> {
        self.missing_bytes = match part {
            Part::Header(header) => {
                self.stage.check_header(header)?;
                header.body_bytes
            }
            Part::Body(piece) => {
                self.stage.check_body(piece.len(), self.missing_bytes)?;
                self.missing_bytes - piece.len()
            }
        };
        self.stage = if self.missing_bytes > 0 { Stage::Body } else { Stage::Idle };
        Ok(())
    }
}
