//! The users of the node: looked up by every login, changed seldom.
//!
//! Knows nothing of connections. A session keeps the `Arc<User>` it logged in with, and sees at its next question what
//! was changed since: what a user is and may do is one value that is swapped as a whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;

use crate::auth::password::PasswordHash;
use crate::auth::permissions::{Access, Permissions};
use crate::auth::topics::TopicPermissions;
use crate::stats::Gauge;

/// A user.
#[derive(Debug)]
pub struct User {
    /// The name they log in with.
    pub name: String,
    /// How many connections they have open.
    pub connections: Arc<Gauge>,
    /// How many channels they have open, in all of those.
    pub channels: Arc<Gauge>,
    profile: ArcSwap<Profile>,
    /// Whether there is a topic permission at all, for most users have none.
    has_topics: AtomicBool,
}

/// What a user is and may do at one moment.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// What their password is checked against; without one they cannot log in by password.
    pub password: Option<PasswordHash>,
    /// Tags such as `administrator`, `monitoring` or `impersonator`.
    pub tags: Vec<String>,
    /// Whether they may connect from this machine only.
    pub loopback_only: bool,
    /// How many connections they may have; no limit without one.
    pub connections_max: Option<u64>,
    /// How many channels they may have in all of those.
    pub channels_max: Option<u64>,
    /// What they may do, by vhost; a vhost that is missing is closed to them.
    pub permissions: HashMap<String, Permissions>,
    /// With which keys they may do it, by vhost; where nothing is said with all.
    pub topics: HashMap<String, TopicPermissions>,
}

impl Profile {
    /// Whether the user has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl User {
    /// A user with this profile.
    pub fn new(name: impl Into<String>, profile: Profile) -> Self {
        let has_topics = !profile.topics.is_empty();
        Self {
            name: name.into(),
            connections: Arc::default(),
            channels: Arc::default(),
            profile: ArcSwap::from_pointee(profile),
            has_topics: AtomicBool::new(has_topics),
        }
    }

    /// What they are and may do now.
    pub fn profile(&self) -> Guard<Arc<Profile>> {
        self.profile.load()
    }

    /// Whether the user may open this vhost at all.
    pub fn may_open(&self, vhost: &str) -> bool {
        self.profile().permissions.contains_key(vhost)
    }

    /// Whether the access to a resource of this name in this vhost is allowed.
    pub fn allows(&self, vhost: &str, access: Access, resource_name: &str) -> bool {
        let profile = self.profile();
        profile.permissions.get(vhost).is_some_and(|permissions| permissions.allows(access, resource_name))
    }

    /// Whether anything is said about topics at all: where not, every key may be used.
    #[inline]
    pub fn has_topic_permissions(&self) -> bool {
        self.has_topics.load(Ordering::Acquire)
    }

    /// Whether the user may write to, or read from, this topic exchange with this key.
    pub fn allows_topic(&self, vhost: &str, access: Access, exchange: &str, key: &str) -> bool {
        self.profile().topics.get(vhost).is_none_or(|topics| topics.allows(access, exchange, key))
    }

    /// Whether the user has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.profile().has_tag(tag)
    }

    /// Changes what they are and may do, for those as well who are logged in. Changes come one at a time: administrators
    /// hold a lock.
    pub fn change(&self, change: impl Fn(&mut Profile)) {
        self.profile.rcu(|profile| {
            let mut profile = Profile::clone(profile);
            change(&mut profile);
            profile
        });
        self.has_topics.store(!self.profile().topics.is_empty(), Ordering::Release);
    }
}

/// All users by name.
#[derive(Debug, Default)]
pub struct Users {
    by_name: DashMap<Box<str>, Arc<User>>,
}

impl Users {
    /// The user of this name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.by_name.get(name).map(|user| Arc::clone(&user))
    }

    /// Every user, in no order.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.by_name.iter().map(|user| Arc::clone(&user)).collect()
    }

    /// Adds a user, or takes the place of the one of that name.
    pub fn put(&self, user: User) {
        self.by_name.insert(user.name.as_str().into(), Arc::new(user));
    }

    /// Removes a user: those logged in as them may do nothing any more.
    pub fn remove(&self, name: &str) -> Option<Arc<User>> {
        let (_, user) = self.by_name.remove(name)?;
        user.change(|profile| *profile = Profile::default());
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use crate::auth::permissions::{Access, Permissions};
    use crate::auth::users::{Profile, User, Users};

    fn guest() -> User {
        let permissions = [("/".to_owned(), Permissions::all())].into();
        User::new(
            "guest",
            Profile { tags: vec!["administrator".to_owned()], permissions, ..Profile::default() },
        )
    }

    #[test]
    fn a_user_may_do_what_is_said_for_the_virtual_host() {
        let guest = guest();
        assert!(guest.has_tag("administrator") && !guest.has_tag("admin"));
        assert!(guest.may_open("/") && !guest.may_open("other"));
        assert!(guest.allows("/", Access::Configure, "q") && !guest.allows("other", Access::Configure, "q"));
    }

    #[test]
    fn a_change_is_seen_by_those_who_are_logged_in() {
        let users = Users::default();
        users.put(guest());
        let guest = users.get("guest").unwrap();
        let reader = Permissions::new("", "", ".*").unwrap();
        guest.change(|profile| drop(profile.permissions.insert("/".to_owned(), reader.clone())));
        assert!(!guest.allows("/", Access::Write, "q") && guest.allows("/", Access::Read, "q"));
        assert_eq!(users.all().len(), 1);
        assert!(users.remove("guest").is_some() && users.get("guest").is_none());
        assert!(!guest.may_open("/") && !guest.has_tag("administrator"));
        assert!(users.remove("guest").is_none());
    }
}
