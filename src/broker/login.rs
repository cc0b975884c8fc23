//! Logging in: the password, where the peer comes from, and how often it has failed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::sasl::{self, AuthError, Credentials};
use crate::auth::users::User;
use crate::broker::Broker;

impl Broker {
    /// The user these credentials belong to. Takes as long as hashing a password does: not for the core.
    ///
    /// The refusal is logged here and told to nobody: a client learns only that it was refused.
    pub fn login(&self, credentials: &Credentials, from: IpAddr, now: Instant) -> Option<Arc<User>> {
        let name = &credentials.user;
        let wait = self.backoff.lock().wait(name, from, now);
        if !wait.is_zero() {
            if let Some(left_out) = self.complaints.allow(now) {
                tracing::warn!(user = ?name, ?wait, left_out, "login refused: too many failures");
            }
            return None;
        }
        let is_loopback = from.to_canonical().is_loopback();
        match sasl::authenticate(&self.users, credentials, is_loopback) {
            Ok(user) => {
                self.backoff.lock().on_success(name, from);
                Some(user)
            }
            Err(error) => {
                self.backoff.lock().on_failure(name, from, now);
                let reason = match error {
                    AuthError::UnknownUser { .. } => "unknown user",
                    AuthError::BadPassword { .. } => "wrong password",
                    AuthError::LoopbackOnly { .. } => "can only connect via localhost",
                };
                if let Some(left_out) = self.complaints.allow(now) {
                    tracing::warn!(user = ?name, reason, left_out, "login refused");
                }
                None
            }
        }
    }
}
