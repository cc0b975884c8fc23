//! The users of the node: read by every login, changed seldom, so one snapshot is swapped for the next.
//!
//! Knows nothing of connections. A session keeps the `Arc<User>` it logged in with.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::auth::password::{PasswordError, PasswordHash};
use crate::auth::permissions::{Access, Permissions};
use crate::config::{Config, UserConfig};

/// A user, as they are at one moment.
#[derive(Clone, Debug)]
pub struct User {
    /// The name they log in with.
    pub name: String,
    /// What their password is checked against; without one they cannot log in by password.
    pub password: Option<PasswordHash>,
    /// Tags such as `administrator`, `monitoring` or `impersonator`.
    pub tags: Vec<String>,
    /// Whether they may connect from this machine only.
    pub loopback_only: bool,
    /// What they may do, by vhost; a vhost that is missing is closed to them.
    pub permissions: HashMap<String, Permissions>,
}

impl User {
    /// Whether the user may open this vhost at all.
    pub fn may_open(&self, vhost: &str) -> bool {
        self.permissions.contains_key(vhost)
    }

    /// What the user may do in this vhost.
    pub fn permissions(&self, vhost: &str) -> Option<&Permissions> {
        self.permissions.get(vhost)
    }

    /// Whether the access to a resource of this name in this vhost is allowed.
    pub fn allows(&self, vhost: &str, access: Access, resource_name: &str) -> bool {
        self.permissions(vhost).is_some_and(|permissions| permissions.allows(access, resource_name))
    }

    /// Whether the user has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

/// Why the users of the configuration could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("user '{name}': {reason}")]
pub struct UserError {
    /// The user.
    pub name: String,
    /// What went wrong.
    pub reason: PasswordError,
}

type ByName = HashMap<String, Arc<User>>;

/// All users by name.
#[derive(Debug, Default)]
pub struct Users {
    snapshot: ArcSwap<ByName>,
}

impl Users {
    /// The users of the configuration, each with every permission in their vhosts.
    ///
    /// # Errors
    /// A password that cannot be hashed.
    pub fn from_config(config: &Config) -> Result<Self, UserError> {
        let users = Self::default();
        for user in &config.users {
            users.put(User::from_config(user, &config.loopback_users)?);
        }
        Ok(users)
    }

    /// The user of this name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.snapshot.load().get(name).cloned()
    }

    /// Every user, in no order.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.snapshot.load().values().cloned().collect()
    }

    /// Adds a user, or takes the place of the one of that name.
    pub fn put(&self, user: User) {
        let user = Arc::new(user);
        self.change(|users| {
            users.insert(user.name.clone(), Arc::clone(&user));
        });
    }

    /// Removes a user; those logged in as them stay until they are closed.
    pub fn remove(&self, name: &str) -> Option<Arc<User>> {
        let user = self.get(name);
        self.change(|users| {
            users.remove(name);
        });
        user
    }

    fn change(&self, change: impl Fn(&mut ByName)) {
        self.snapshot.rcu(|users| {
            let mut users = ByName::clone(users);
            change(&mut users);
            users
        });
    }
}

impl User {
    fn from_config(user: &UserConfig, loopback_users: &[String]) -> Result<Self, UserError> {
        let refused = |reason| UserError { name: user.name.clone(), reason };
        Ok(Self {
            name: user.name.clone(),
            password: Some(PasswordHash::hash(user.password.expose()).map_err(refused)?),
            tags: user.tags.clone(),
            loopback_only: loopback_users.contains(&user.name),
            permissions: user.vhosts.iter().map(|vhost| (vhost.clone(), Permissions::all())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::auth::permissions::{Access, Permissions};
    use crate::auth::users::{User, Users};
    use crate::config::Config;

    #[test]
    fn the_default_user_is_guest_on_the_default_vhost() {
        let users = Users::from_config(&Config::default()).unwrap();
        let guest = users.get("guest").unwrap();
        assert!(guest.loopback_only && guest.has_tag("administrator"));
        assert!(guest.may_open("/") && !guest.may_open("other"));
        assert!(guest.allows("/", Access::Configure, "q") && !guest.allows("other", Access::Configure, "q"));
        assert!(users.get("alice").is_none());
    }

    #[test]
    fn a_change_is_seen_by_the_next_login_only() {
        let users = Users::from_config(&Config::default()).unwrap();
        let before = users.get("guest").unwrap();
        let reader = Permissions::new("", "", ".*").unwrap();
        users.put(User { permissions: [("/".to_owned(), reader)].into(), ..User::clone(&before) });
        assert!(!users.get("guest").unwrap().allows("/", Access::Write, "q"));
        assert!(before.allows("/", Access::Write, "q"));
        assert_eq!(users.all().len(), 1);
        assert!(users.remove("guest").is_some() && users.get("guest").is_none());
        assert!(users.remove("guest").is_none());
    }
}
