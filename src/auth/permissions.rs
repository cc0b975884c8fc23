//! What a user may do in one vhost: three regular expressions over resource names, as in RabbitMQ.
//!
//! The expressions ([`crate::auth::pattern`]) are searched for, not anchored; an empty one matches the empty name alone.
//! Knows nothing of resources beyond their names.

use std::fmt;

use thiserror::Error;

use crate::auth::pattern::{Pattern, PatternError};

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
pub struct PermissionError {
    /// The pattern, cut where it is very long.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: PatternError,
}

/// The permissions of one user in one vhost.
#[derive(Clone, Debug)]
pub struct Permissions {
    configure: Allowed,
    write: Allowed,
    read: Allowed,
}

impl Permissions {
    /// Compiles the three expressions.
    ///
    /// # Errors
    /// The first one that cannot be compiled within the bounds.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, PermissionError> {
        Ok(Self {
            configure: Allowed::new(configure)?,
            write: Allowed::new(write)?,
            read: Allowed::new(read)?,
        })
    }

    /// Everything is allowed.
    pub fn all() -> Self {
        Self { configure: Allowed::Anything, write: Allowed::Anything, read: Allowed::Anything }
    }

    /// Whether the access to a resource of this name is allowed. The default exchange is `amq.default`.
    pub fn allows(&self, access: Access, resource_name: &str) -> bool {
        self.allowed(access).has(resource_name)
    }

    /// Whether the access is allowed whatever the name, so that the caller need not ask again.
    pub fn allows_all(&self, access: Access) -> bool {
        matches!(self.allowed(access), Allowed::Anything)
    }

    /// The expression as it was given.
    pub fn source(&self, access: Access) -> &str {
        match self.allowed(access) {
            Allowed::Anything => ".*",
            Allowed::Nothing => "",
            Allowed::Search(pattern) => pattern.as_str(),
        }
    }

    fn allowed(&self, access: Access) -> &Allowed {
        match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        }
    }
}

/// What names, or keys, are allowed.
#[derive(Clone, Debug)]
pub(super) enum Allowed {
    /// `.*`, by far the most common.
    Anything,
    /// The empty text, which RabbitMQ reads as `^$`.
    Nothing,
    Search(Pattern),
}

impl Allowed {
    pub(super) fn new(pattern: &str) -> Result<Self, PermissionError> {
        let refused = |reason| PermissionError { pattern: pattern.chars().take(100).collect(), reason };
        match pattern {
            ".*" => Ok(Self::Anything),
            "" => Ok(Self::Nothing),
            _ => Pattern::new(pattern).map(Self::Search).map_err(refused),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Nothing => name.is_empty(),
            Self::Search(pattern) => pattern.is_match(name),
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
