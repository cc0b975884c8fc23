//! Who did what to the broker, and who was not let in: lines of the log whose target is `audit`.
//!
//! Names are told, and never what a password, a hash or a key is. Where somebody comes from is told by what the line is
//! written within: a connection, or a request. Lines are rationed, and the next one says how many were left out.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::backoff::household;
use crate::auth::users::User;
use crate::broker::complaints::Complaints;

/// What the lines are found by.
pub const TARGET: &str = "audit";

/// Failed logins of one peer that are told of in a second.
const FAILURES_MAX: u32 = 5;
/// What one user's clients do that is told of in a second, and what is asked of the management API.
const DEEDS_MAX: u32 = 50;
const REQUESTS_MAX: u32 = 500;
/// Rations by peer or by user. Who goes on without end uses up their own, and hardly anybody else has the same.
const RATIONS: usize = 64;
/// What is told of a request's body, in characters.
const BODY_MAX: usize = 500;

/// The rations of these lines.
#[derive(Debug)]
pub struct Audit {
    /// By a hash of the address's network.
    failures: Vec<Complaints>,
    /// By a hash of the user's name.
    deeds: Vec<Complaints>,
    hasher: RandomState,
    requests: Complaints,
}

/// A request that has changed something, or was refused.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who has asked.
    pub user: &'a str,
    /// Its method.
    pub verb: &'static str,
    /// Its path, as it came.
    pub path: &'a str,
    /// Its body, where there is never a secret in it.
    pub body: Option<&'a str>,
    /// What it was answered.
    pub status: u16,
}

impl Default for Audit {
    fn default() -> Self {
        let rations = |of: u32| std::iter::repeat_with(|| Complaints::of(of)).take(RATIONS).collect();
        Self {
            failures: rations(FAILURES_MAX),
            deeds: rations(DEEDS_MAX),
            hasher: RandomState::new(),
            requests: Complaints::of(REQUESTS_MAX),
        }
    }
}

impl Audit {
    /// Somebody was not let in; how long they must wait before they may try again, where that is why.
    pub fn login_refused(
        &self,
        user: &str,
        reason: &str,
        wait: Option<Duration>,
        from: IpAddr,
        now: Instant,
    ) {
        if let Some(left_out) = self.allow(&self.failures, household(from), now) {
            let left_out = told(left_out);
            tracing::warn!(target: TARGET, ?user, wait = wait.map(tracing::field::debug), left_out, "login refused: {reason}");
        }
    }

    fn allow(&self, rations: &[Complaints], whose: impl Hash, now: Instant) -> Option<u64> {
        let place = self.hasher.hash_one(whose) as usize % RATIONS;
        rations.get(place)?.allow(now)
    }

    /// A client has done this to an object of this name.
    pub fn deed(&self, user: &User, vhost: &str, does: &str, name: &str, now: Instant) {
        if let Some(left_out) = self.allow(&self.deeds, &user.name, now) {
            let (user, left_out) = (&user.name, told(left_out));
            tracing::info!(target: TARGET, ?user, ?vhost, ?name, left_out, "{does}");
        }
    }

    /// Somebody has asked the management API to change something.
    pub fn request(&self, request: Request<'_>, now: Instant) {
        if let Some(left_out) = self.requests.allow(now) {
            let Request { user, verb, path, body, status } = request;
            let body = body.map(|body| body.chars().take(BODY_MAX).collect::<String>());
            let (body, left_out) = (body.as_deref().map(tracing::field::debug), told(left_out));
            match status {
                ..400 => tracing::info!(target: TARGET, ?user, status, body, left_out, "{verb} {path}"),
                _ => tracing::warn!(target: TARGET, ?user, status, body, left_out, "refused: {verb} {path}"),
            }
        }
    }
}

/// Seldom are there any.
fn told(left_out: u64) -> Option<u64> {
    (left_out > 0).then_some(left_out)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Audit, DEEDS_MAX};

    #[test]
    fn who_goes_on_without_end_leaves_room_for_what_others_do() {
        let (audit, now) = (Audit::default(), Instant::now());
        let told = |user: &str| audit.allow(&audit.deeds, user, now).is_some();
        assert!((0..DEEDS_MAX).all(|_| told("flood")) && !told("flood"));
        assert!((0..100).any(|number| told(&format!("user {number}"))));
        assert!(audit.requests.allow(now).is_some());
    }
}
