//! Why a verb did not do what it was asked for: RabbitMQ's words and exit codes, which scripts look at.

use std::fmt::Display;

/// What the exit codes of sysexits.h mean to RabbitMQ's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// It was called wrongly.
    Usage = 64,
    /// An argument, or what it names, cannot be.
    Data = 65,
    /// There is no such user.
    NoUser = 67,
    /// The broker cannot be reached, or has refused.
    Unavailable = 69,
    /// Something went wrong in between.
    Software = 70,
    /// It took too long.
    TemporaryFailure = 75,
    /// The configuration of this machine is wrong.
    Configuration = 78,
}

/// A failure.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) text: String,
    /// Whether the verb's usage is told below it.
    pub(super) with_usage: bool,
}

impl Failure {
    /// What is told as it is.
    pub(super) fn plain(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), with_usage: false }
    }

    /// What is told on a line of its own.
    pub(super) fn told(code: Code, text: impl Display) -> Self {
        Self::plain(code, format!("Error:\n{text}"))
    }

    /// What the broker has refused.
    pub(super) fn refused(text: impl Display) -> Self {
        Self::told(Code::Unavailable, text)
    }

    /// The verb was called wrongly.
    pub(super) fn usage(text: impl Display) -> Self {
        let text = format!("Error (argument validation): {text}");
        Self { code: Code::Usage, text, with_usage: true }
    }

    /// An argument cannot be what it is.
    pub(super) fn bad_argument(text: impl Display) -> Self {
        let text = format!("Error (argument validation): Bad argument{text}");
        Self { code: Code::Data, text, with_usage: true }
    }

    /// The broker is not in the state that the verb needs.
    pub(super) fn state(text: impl Display) -> Self {
        Self { code: Code::Usage, text: format!("Error: {text}"), with_usage: true }
    }

    /// What RabbitMQ does by being an Erlang program, or by having many nodes.
    pub(super) fn absent(text: impl Display) -> Self {
        Self::plain(Code::Unavailable, format!("Error: {text}"))
    }

    /// There is no such virtual host.
    pub(super) fn no_vhost(name: &str) -> Self {
        Self::plain(Code::Data, format!("Virtual host '{name}' does not exist"))
    }
}
