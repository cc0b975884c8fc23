//! What administrators say of a running broker: users and what they may do, virtual hosts, limits, policies, parameters.
//!
//! All of it is *parameters*: a virtual host (or the whole broker), a component, a name, and a table of values. Each change
//! is a fact of the log, and answered when that is durable, like a declaration. [`parameters`] keeps them as they were
//! said, for those who list and export; what they mean is applied at once, to those as well who are logged in.
//!
//! ```text
//! broker's    user, permission, topic_permission, user-limits, vhost, global
//! a vhost's   policy, operator_policy, vhost-limits, and shovel, on which `transfer` acts
//! ```
//!
//! Locks: the administrators' first, then those of `broker`. What takes long is left to be done in turns
//! ([`Undertaking`]).

pub mod parameters;
mod permissions;
mod policies;
mod restore;
mod seed;
mod users;
mod vhosts;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::parameters::Parameters;
pub use self::policies::{PolicyRequest, check_policy};
pub use self::seed::SeedError;
pub use self::users::{PasswordChange, check_user, check_user_limits};
pub use self::vhosts::VhostRequest;
use crate::auth::password::PasswordError;
use crate::broker::Broker;
use crate::broker::admin::vhosts::Leaving;
use crate::broker::vhost::Following;
use crate::broker::wakes::Wakes;
use crate::message::place::Lsn;

/// A refusal, in RabbitMQ's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// What it is about is not there.
    #[error("Not Found")]
    NotFound,
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A name that is refused.
    #[error("invalid name: {0}")]
    Name(String),
    /// A password, or a hash of one, that cannot be.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// What was done, and what is left.
#[derive(Debug, Default)]
pub struct Undertaking {
    /// It was not there before.
    pub is_new: bool,
    /// What the answer waits for, when all is done.
    pub after: Lsn,
    rest: Option<Rest>,
}

#[derive(Debug)]
enum Rest {
    Following(Following),
    Leaving(Box<Leaving>),
}

impl Undertaking {
    fn done(is_new: bool, after: Lsn) -> Self {
        Self { is_new, after, rest: None }
    }

    /// Does some of what is left, as much as a turn allows. Whether all is done. Whoever began it goes on until then, also
    /// when nobody waits for the answer any more.
    pub fn step(&mut self, broker: &Broker, wakes: &mut Wakes) -> bool {
        let is_done = match &mut self.rest {
            None => true,
            Some(Rest::Following(following)) => following.step(wakes),
            Some(Rest::Leaving(leaving)) => leaving.step(broker, wakes, &mut self.after),
        };
        if is_done {
            self.rest = None;
        }
        is_done
    }
}

/// Names travel as short strings and are shown in logs; a pair of them is one key, with a zero between.
fn check_name(name: &str) -> Result<(), AdminError> {
    match name.len() {
        1..=255 if name.chars().any(char::is_control) => {
            Err(AdminError::Name("control characters are not allowed".to_owned()))
        }
        1..=255 => Ok(()),
        bytes => Err(AdminError::Name(format!("1 to 255 bytes are expected, found {bytes}"))),
    }
}
