//! The reply codes of connection.close, channel.close and basic.return, and the text beside them.
//!
//! Knows nothing of which condition earns which code: that is the session's and the broker's business.
// AMQP 0-9-1 §1.2 (constants)

/// Bytes of a reply text that fit its shortstr.
const REPLY_TEXT_BYTES_MAX: usize = 255;

/// What a cut text ends in, as in RabbitMQ.
const ELLIPSIS: &str = "...";

/// A reply code of AMQP 0-9-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ReplyCode {
    /// All went well.
    Success = 200,
    /// The content is larger than the receiver takes now.
    ContentTooLarge = 311,
    /// A mandatory message met no queue.
    NoRoute = 312,
    /// An immediate message met no ready consumer.
    NoConsumers = 313,
    /// An operator closed the connection.
    ConnectionForced = 320,
    /// The virtual host is unknown.
    InvalidPath = 402,
    /// The user may not do this.
    AccessRefused = 403,
    /// The queue or exchange does not exist.
    NotFound = 404,
    /// The queue belongs to another connection.
    ResourceLocked = 405,
    /// A condition the method relies on does not hold.
    PreconditionFailed = 406,
    /// A frame could not be decoded.
    FrameError = 501,
    /// A frame held illegal values.
    SyntaxError = 502,
    /// The method may not come at this point.
    CommandInvalid = 503,
    /// The channel is not in a state for this method.
    ChannelError = 504,
    /// The frame may not come at this point.
    UnexpectedFrame = 505,
    /// The server lacks the resources.
    ResourceError = 506,
    /// The method is prohibited as it was asked.
    NotAllowed = 530,
    /// The server does not implement this.
    NotImplemented = 540,
    /// The server failed.
    InternalError = 541,
}

impl ReplyCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The name as reply texts begin with it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether the code closes the connection; a soft one closes the channel only.
    pub const fn is_hard(self) -> bool {
        matches!(self.code(), 320 | 402 | 500..)
    }
}

/// `NAME - explanation`, cut to 255 bytes as RabbitMQ cuts it: the last three become dots.
pub fn reply_text(code: ReplyCode, explanation: &str) -> String {
    let mut text = format!("{} - {explanation}", code.name());
    if text.len() > REPLY_TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REPLY_TEXT_BYTES_MAX - ELLIPSIS.len()));
        text.push_str(ELLIPSIS);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ReplyCode, reply_text};

    #[test]
    fn a_text_begins_with_the_name() {
        let text = reply_text(ReplyCode::NotFound, "no queue 'q' in vhost '/'");
        assert_eq!(text, "NOT_FOUND - no queue 'q' in vhost '/'");
    }

    #[test]
    fn a_long_text_is_cut_on_a_char_boundary() {
        let exact = reply_text(ReplyCode::NotFound, &"x".repeat(243));
        assert_eq!(exact.len(), 255);
        assert!(exact.ends_with('x'));
        let cut = reply_text(ReplyCode::NotFound, &"x".repeat(244));
        assert_eq!((cut.len(), &cut[250..]), (255, "xx..."));
        // 12 bytes of name, then two-byte letters: byte 252 is between letters, 253 would be inside one.
        let wide = reply_text(ReplyCode::NotFound, &"é".repeat(200));
        assert_eq!(wide.len(), 255);
        let odd = reply_text(ReplyCode::NotFound, &format!("x{}", "é".repeat(200)));
        assert_eq!(odd.len(), 254);
    }

    #[test]
    fn hard_codes_are_those_of_the_spec() {
        use ReplyCode::{AccessRefused, ConnectionForced, FrameError, InternalError, InvalidPath, NoRoute};
        assert!([ConnectionForced, InvalidPath, FrameError, InternalError].iter().all(|code| code.is_hard()));
        assert!(![NoRoute, AccessRefused, ReplyCode::PreconditionFailed].iter().any(|code| code.is_hard()));
    }
}
