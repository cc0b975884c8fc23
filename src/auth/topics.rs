//! With which keys a user may publish to, and be bound from, topic exchanges of one vhost.

use std::collections::HashMap;

use regex::escape;

use crate::auth::permissions::{Access, Allowed, PermissionError};

/// The topic permissions of one user in one vhost, by exchange. An exchange that is missing takes every key.
#[derive(Clone, Debug, Default)]
pub struct TopicPermissions {
    by_exchange: HashMap<Box<str>, TopicPermission>,
}

/// What is allowed at one exchange.
#[derive(Clone, Debug)]
pub struct TopicPermission {
    write: Allowed,
    read: Allowed,
}

impl TopicPermission {
    /// Compiles the two expressions for this user and vhost, whose names stand where they say `{username}` and `{vhost}`:
    /// as they are, whatever they would mean in an expression.
    ///
    /// # Errors
    /// The first one that cannot be compiled within the bounds.
    pub fn new(user: &str, vhost: &str, write: &str, read: &str) -> Result<Self, PermissionError> {
        let named =
            |pattern: &str| pattern.replace("{username}", &escape(user)).replace("{vhost}", &escape(vhost));
        Ok(Self { write: Allowed::new(&named(write))?, read: Allowed::new(&named(read))? })
    }
}

impl TopicPermissions {
    /// What is allowed at an exchange is this from now on.
    pub fn set(&mut self, exchange: &str, permission: TopicPermission) {
        self.by_exchange.insert(exchange.into(), permission);
    }

    /// Every key is allowed at an exchange again.
    pub fn clear(&mut self, exchange: &str) {
        self.by_exchange.remove(exchange);
    }

    /// Whether this key may be used for this access.
    pub fn allows(&self, access: Access, exchange: &str, key: &str) -> bool {
        self.by_exchange.get(exchange).is_none_or(|permission| match access {
            Access::Write => permission.write.has(key),
            Access::Read => permission.read.has(key),
            Access::Configure => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{TopicPermission, TopicPermissions};
    use crate::auth::permissions::Access;

    #[test]
    fn a_key_is_searched_for_with_the_users_own_name() {
        let mut topics = TopicPermissions::default();
        topics.set("x", TopicPermission::new("a.b", "/", "^{username}\\.", "^{vhost}$").unwrap());
        let writes = |key| topics.allows(Access::Write, "x", key);
        assert!(writes("a.b.c") && !writes("aXb.c"), "a name is no expression");
        assert!(topics.allows(Access::Read, "x", "/") && !topics.allows(Access::Read, "x", "v"));
        assert!(topics.allows(Access::Write, "other", "anything"));
        topics.clear("x");
        assert!(topics.allows(Access::Write, "x", "aXb.c"));
    }
}
