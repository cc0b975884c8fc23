//! Where a refusal becomes a reply code: the one place that knows both the broker's errors and the protocol's.
//!
//! Hard codes close the connection, soft ones the channel (AMQP 0-9-1 §1.1 and §4.10).

use crate::broker::error::BrokerError;
use crate::protocol::frame::FrameError;
use crate::protocol::methods::MethodError;
use crate::protocol::reply::{self, ReplyCode};

/// Of what the log would have to take as a whole.
pub const NO_ROOM: &str = "the disk has not so much room now";

/// What a client is told when it is told no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code; it decides what is closed.
    pub code: ReplyCode,
    /// The explanation, without the code's name.
    pub explanation: String,
}

impl Refusal {
    /// A refusal in its own words.
    pub fn new(code: ReplyCode, explanation: impl Into<String>) -> Self {
        Self { code, explanation: explanation.into() }
    }

    /// 406: what was asked does not fit the state of things.
    pub fn precondition(explanation: impl Into<String>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, explanation)
    }

    /// 540: valid, and not done.
    pub fn not_implemented(explanation: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotImplemented, explanation)
    }

    /// 505: a frame of the wrong kind.
    pub fn unexpected_frame(explanation: impl Into<String>) -> Self {
        Self::new(ReplyCode::UnexpectedFrame, explanation)
    }

    /// 505: a part of a content that no basic.publish has begun.
    pub fn unexpected_content() -> Self {
        Self::unexpected_frame("expected method frame, got non method frame instead")
    }

    /// 503: a method that only the server sends, or an answer that nobody waits for.
    pub fn unimplemented_method() -> Self {
        Self::new(ReplyCode::CommandInvalid, "unimplemented method")
    }

    /// 504: the channel or connection is not in a state for this method.
    pub fn channel_error(explanation: impl Into<String>) -> Self {
        Self::new(ReplyCode::ChannelError, explanation)
    }

    /// 530: not allowed.
    pub fn not_allowed(explanation: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotAllowed, explanation)
    }

    /// The reply text of a close: `NAME - explanation`.
    pub fn text(&self) -> String {
        reply::reply_text(self.code, &self.explanation)
    }
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        let code = match &error {
            BrokerError::NotFound(_) | BrokerError::NoPreviousQueue => ReplyCode::NotFound,
            BrokerError::Locked(_) | BrokerError::SingleActive(_) => ReplyCode::ResourceLocked,
            BrokerError::AccessRefused { .. }
            | BrokerError::TopicRefused { .. }
            | BrokerError::InternalExchange(_)
            | BrokerError::DefaultExchange
            | BrokerError::ReservedPrefix(..)
            | BrokerError::SystemExchange(_)
            | BrokerError::InExclusiveUse(_) => ReplyCode::AccessRefused,
            BrokerError::TagInUse(_) | BrokerError::TooManyConsumers(_) => ReplyCode::NotAllowed,
            BrokerError::NotImplemented(_) => ReplyCode::NotImplemented,
            BrokerError::Inequivalent { .. }
            | BrokerError::InvalidName(..)
            | BrokerError::InUse(_)
            | BrokerError::NotEmpty(_)
            | BrokerError::UnknownExchangeType(_)
            | BrokerError::InvalidArgument { .. }
            | BrokerError::ExchangeLimit(..)
            | BrokerError::TooManyPatterns { .. }
            | BrokerError::Precondition(_) => ReplyCode::PreconditionFailed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::new(ReplyCode::FrameError, error.to_string())
    }
}

impl From<MethodError> for Refusal {
    fn from(error: MethodError) -> Self {
        let code = match &error {
            MethodError::Unknown { .. } => ReplyCode::CommandInvalid,
            MethodError::Table(_) => ReplyCode::SyntaxError,
            _ => ReplyCode::FrameError,
        };
        Self::new(code, error.to_string())
    }
}
