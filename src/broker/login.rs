//! Logging in: the password, where the peer comes from, and how often it has failed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::permissions::Permissions;
use crate::auth::sasl::{self, AuthError, Credentials, Proof};
use crate::auth::users::{Profile, User};
use crate::broker::Broker;

/// Who comes by the socket of this machine's administrator: nobody has made them, and nobody can be made of this name. It
/// is what RabbitMQ calls who comes from its command line.
pub const LOCAL_ADMINISTRATOR: &str = "rmq-cli";

impl Broker {
    /// A user by name, who may be this machine's administrator.
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        match name {
            LOCAL_ADMINISTRATOR => Some(self.local_administrator()),
            _ => self.users.get(name),
        }
    }

    /// This machine's administrator: one with every permission in every virtual host that there is now.
    pub fn local_administrator(&self) -> Arc<User> {
        let vhosts = self.vhosts();
        let profile = Profile {
            tags: vec!["administrator".to_owned()],
            permissions: vhosts.iter().map(|vhost| (vhost.name().to_string(), Permissions::all())).collect(),
            ..Profile::default()
        };
        Arc::new(User::new(LOCAL_ADMINISTRATOR, profile))
    }

    /// The user these credentials belong to. Takes as long as hashing a password does: not for the core.
    ///
    /// The refusal is logged here and told to nobody: a client learns only that it was refused.
    pub fn login(&self, credentials: &Credentials, from: IpAddr, now: Instant) -> Option<Arc<User>> {
        let name = &credentials.user;
        let wait = self.backoff.lock().wait(name, from, now);
        if !wait.is_zero() {
            self.audit.login_refused(name, "too many failures", Some(wait), from, now);
            return None;
        }
        let is_loopback = from.to_canonical().is_loopback();
        let authenticated = sasl::authenticate(&self.users, credentials, is_loopback);
        let is_by_password = matches!(credentials.proof, Proof::Password(_));
        let is_weak = |user: &User| {
            is_by_password && user.profile().password.as_ref().is_some_and(|hash| !self.takes_hash(hash))
        };
        let reason = match authenticated {
            Ok(user) if !is_weak(&user) => {
                self.backoff.lock().on_success(name, from);
                return Some(user);
            }
            Ok(_) => "an MD5 hash, and md5_passwords is not set",
            Err(AuthError::UnknownUser { .. }) => "unknown user",
            Err(AuthError::BadPassword { .. }) => "wrong password",
            Err(AuthError::LoopbackOnly { .. }) => "can only connect via localhost",
        };
        self.backoff.lock().on_failure(name, from, now);
        self.audit.login_refused(name, reason, None, from, now);
        None
    }
}
