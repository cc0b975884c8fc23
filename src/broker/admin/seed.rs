//! The users and virtual hosts of the configuration: an empty data directory begins with them, and from then on what is
//! there counts.

use thiserror::Error;

use crate::auth::password::PasswordHash;
use crate::broker::Broker;
use crate::broker::admin::{AdminError, PasswordChange, VhostRequest};
use crate::config::{Config, UserConfig};

/// Why a user or a virtual host of the configuration could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} '{name}': {reason}")]
pub struct SeedError {
    /// `user` or `vhost`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// What went wrong.
    pub reason: AdminError,
}

impl Broker {
    /// Makes the users and virtual hosts of the configuration. Virtual hosts that are there already, by what was durable in
    /// them before there was administration, stay.
    ///
    /// # Errors
    /// The first that cannot be made.
    pub(in crate::broker) fn seed(&self) -> Result<(), SeedError> {
        let there = self.vhosts();
        let there = there.iter().map(|vhost| vhost.name().to_string());
        for name in self.config.vhosts.iter().cloned().chain(there) {
            let description = if name == "/" { "Default virtual host" } else { "" };
            let request = VhostRequest { description, ..VhostRequest::default() };
            self.put_vhost(&name, &request).map_err(|reason| SeedError { what: "vhost", name, reason })?;
        }
        for user in &self.config.users {
            self.seed_user(user).map_err(|reason| SeedError {
                what: "user",
                name: user.name.clone(),
                reason,
            })?;
        }
        Ok(())
    }

    fn seed_user(&self, user: &UserConfig) -> Result<(), AdminError> {
        let password = PasswordHash::hash(user.password.expose())?;
        self.put_user(&user.name, &PasswordChange::Set(password), &user.tags)?;
        for vhost in &user.vhosts {
            self.set_permissions(&user.name, vhost, [".*"; 3])?;
        }
        Ok(())
    }

    /// Says in a line where the configuration speaks of other users and virtual hosts than there are. The defaults are
    /// nobody's wish: a broker whose guest is gone is as it should be.
    pub(in crate::broker) fn compare_with_seed(&self) {
        let usual = Config::default();
        let mut differing = Vec::new();
        let vhosts = self.config.vhosts.iter().filter(|name| !usual.vhosts.contains(name));
        for name in vhosts.filter(|name| self.vhost(name).is_none()) {
            differing.push(format!("vhost '{name}' is not there"));
        }
        let is_usual = |user: &UserConfig| {
            let one = usual.users.iter().find(|one| one.name == user.name);
            one.is_some_and(|one| one.password.expose() == user.password.expose() && one.tags == user.tags)
        };
        for user in self.config.users.iter().filter(|user| !is_usual(user)) {
            match self.users.get(&user.name) {
                None => differing.push(format!("user '{}' is not there", user.name)),
                Some(known) => {
                    let profile = known.profile();
                    if !profile.password.as_ref().is_some_and(|hash| hash.verify(user.password.expose())) {
                        differing.push(format!("user '{}' has another password", user.name));
                    } else if profile.tags != user.tags {
                        differing.push(format!("user '{}' has other tags", user.name));
                    }
                }
            }
        }
        if !differing.is_empty() {
            let differs = differing.join(", ");
            tracing::warn!(
                differs,
                "users and vhosts are those of the data directory, not of the configuration"
            );
        }
    }
}
