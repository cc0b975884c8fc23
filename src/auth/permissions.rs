//! What a user may do in one vhost: three regular expressions over resource names, as in RabbitMQ.
//!
//! The expressions are searched for, not anchored; an empty one matches the empty name alone. They run in
//! linear time and are bounded in size. Knows nothing of resources beyond their names.

use std::fmt;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

/// The most bytes one compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// The longest expression that is compiled at all.
const PATTERN_BYTES_MAX: usize = 4096;

/// One of the three things a permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Declare and delete.
    Configure,
    /// Publish, and be bound to.
    Write,
    /// Consume, get, purge, and be bound from.
    Read,
}

impl Access {
    /// The word RabbitMQ's error texts use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("permission pattern {pattern:?} is no regular expression we can run: {reason}")]
pub struct PatternError {
    /// The pattern, cut where it is very long.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The permissions of one user in one vhost.
#[derive(Clone, Debug)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Permissions {
    /// Compiles the three expressions.
    ///
    /// # Errors
    /// The first one that cannot be compiled within the bounds.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, PatternError> {
        Ok(Self {
            configure: Pattern::new(configure)?,
            write: Pattern::new(write)?,
            read: Pattern::new(read)?,
        })
    }

    /// Everything is allowed.
    pub fn all() -> Self {
        Self { configure: Pattern::Anything, write: Pattern::Anything, read: Pattern::Anything }
    }

    /// Whether the access to a resource of this name is allowed. The default exchange is `amq.default`.
    pub fn allows(&self, access: Access, resource_name: &str) -> bool {
        self.pattern(access).matches(resource_name)
    }

    /// Whether the access is allowed whatever the name, so that the caller need not ask again.
    pub fn allows_all(&self, access: Access) -> bool {
        matches!(self.pattern(access), Pattern::Anything)
    }

    /// The expression as it was given.
    pub fn source(&self, access: Access) -> &str {
        match self.pattern(access) {
            Pattern::Anything => ".*",
            Pattern::Nothing => "",
            Pattern::Search(regex) => regex.as_str(),
        }
    }

    fn pattern(&self, access: Access) -> &Pattern {
        match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        }
    }
}

/// An expression that names are searched for with.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// `.*`, by far the most common.
    Anything,
    /// The empty text, which RabbitMQ reads as `^$`.
    Nothing,
    Search(Regex),
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        let refused = |reason: String| PatternError { pattern: pattern.chars().take(100).collect(), reason };
        match pattern {
            ".*" => return Ok(Self::Anything),
            "" => return Ok(Self::Nothing),
            _ if pattern.len() > PATTERN_BYTES_MAX => {
                return Err(refused(format!("longer than {PATTERN_BYTES_MAX} bytes")));
            }
            _ => {}
        }
        let built = RegexBuilder::new(pattern)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .build();
        built.map(Self::Search).map_err(|error| {
            // The parser draws its errors over several lines; the last one says it.
            let text = error.to_string();
            let line = text.lines().next_back().unwrap_or_default();
            refused(line.trim_start_matches("error: ").to_owned())
        })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Nothing => name.is_empty(),
            Self::Search(regex) => regex.is_match(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Permissions};

    fn writes(pattern: &str, name: &str) -> bool {
        Permissions::new("", pattern, "").unwrap().allows(Access::Write, name)
    }

    #[test]
    fn patterns_search_and_are_not_anchored() {
        assert!(writes("orders", "all-orders-eu"));
        assert!(!writes("^orders", "all-orders-eu"));
        assert!(writes("^(amq\\.gen.*|amq\\.default)$", "amq.default"));
        assert!(writes(".*", ""));
    }

    #[test]
    fn an_empty_pattern_allows_nothing_but_the_empty_name() {
        assert!(!writes("", "q"));
        assert!(writes("", ""));
    }

    #[test]
    fn each_access_has_its_own_pattern() {
        let permissions = Permissions::new("^c", ".*", "^r").unwrap();
        assert!(permissions.allows(Access::Configure, "c1") && !permissions.allows(Access::Configure, "r1"));
        assert!(permissions.allows(Access::Read, "r1") && !permissions.allows(Access::Read, "c1"));
        assert!(permissions.allows_all(Access::Write) && !permissions.allows_all(Access::Read));
        assert_eq!(permissions.source(Access::Configure), "^c");
        assert_eq!(Access::Configure.to_string(), "configure");
    }

    #[test]
    fn a_pattern_is_bounded_and_its_error_is_one_line() {
        let refused = Permissions::new("(", "", "").unwrap_err().to_string();
        assert_eq!(refused, "permission pattern \"(\" is no regular expression we can run: unclosed group");
        assert!(Permissions::new("((a{1000}){1000}){1000}", "", "").is_err());
        assert!(Permissions::new(&"a".repeat(5_000), "", "").is_err());
        // Would take 2^40 steps where the engine backtracks.
        assert!(!writes("^(a+)+$", &format!("{}b", "a".repeat(40))));
    }
}
