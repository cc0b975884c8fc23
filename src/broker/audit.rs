//! Who did what to the broker, and who was not let in: lines of the log whose target is `audit`.
//!
//! Names are told, and never what a password, a hash or a key is. Where somebody comes from is told by what the line is
//! written within: a connection, or a request. Lines are rationed, and the next one says how many were left out.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::users::User;
use crate::broker::complaints::Complaints;

/// What the lines are found by.
pub const TARGET: &str = "audit";

/// Failed logins of one peer that are told of in a second.
const FAILURES_MAX: u32 = 5;
/// Rations for them. A peer that fails without end uses up its own, and hardly anybody else has the same.
const RATIONS: usize = 64;
/// What is done to the broker that is told of in a second.
const DEEDS_MAX: u32 = 500;
/// What is told of a request's body, in characters.
const BODY_MAX: usize = 500;

/// The rations of these lines.
#[derive(Debug)]
pub struct Audit {
    /// By a hash of the address.
    failures: Vec<Complaints>,
    hasher: RandomState,
    deeds: Complaints,
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
        let failures = std::iter::repeat_with(|| Complaints::of(FAILURES_MAX)).take(RATIONS).collect();
        Self { failures, hasher: RandomState::new(), deeds: Complaints::of(DEEDS_MAX) }
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
        let place = self.hasher.hash_one(from.to_canonical()) as usize % RATIONS;
        if let Some(left_out) = self.failures.get(place).and_then(|ration| ration.allow(now)) {
            let left_out = told(left_out);
            tracing::warn!(target: TARGET, ?user, wait = wait.map(tracing::field::debug), left_out, "login refused: {reason}");
        }
    }

    /// A client has done this to an object of this name.
    pub fn deed(&self, user: &User, vhost: &str, does: &str, name: &str, now: Instant) {
        if let Some(left_out) = self.deeds.allow(now) {
            let (user, left_out) = (&user.name, told(left_out));
            tracing::info!(target: TARGET, ?user, ?vhost, ?name, left_out, "{does}");
        }
    }

    /// Somebody has asked the management API to change something.
    pub fn request(&self, request: Request<'_>, now: Instant) {
        if let Some(left_out) = self.deeds.allow(now) {
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
