//! Who asks, and who may: nothing is answered that the table of routes does not allow.
//!
//! Tags open more, each what the one before does: management (what is one's own), policymaker, monitoring (what others
//! have), administrator.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::auth::sasl::Credentials;
use crate::auth::users::User;
use crate::broker::Broker;
use crate::config::Secret;
use crate::mgmt::answer::Refusal;

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Anybody, without a password.
    Everyone,
    /// Users with any of the tags.
    Management,
    /// Users with the tag policymaker, and administrators.
    Policymaker,
    /// Users with the tag monitoring, and administrators.
    Monitoring,
    /// Administrators.
    Administrator,
}

/// What a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// The node, or what the handler itself bounds to what the user may see.
    Node,
    /// The virtual host in its path, which the user must be allowed to open, or administers as everything.
    Vhost,
}

/// The credentials of a request.
pub(crate) fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::by_password(user, Secret::new(password)))
}

/// The user of a request, if the route is for them. Takes as long as a password's hash does.
///
/// # Errors
/// Nobody logs in like that, or they lack the tag.
pub(crate) fn check_user(
    broker: &Broker,
    who: Who,
    credentials: Option<&Credentials>,
    from: IpAddr,
    now: Instant,
) -> Result<Option<Arc<User>>, Refusal> {
    if who == Who::Everyone {
        return Ok(None);
    }
    let user = credentials.and_then(|credentials| broker.login(credentials, from, now));
    let churn = &broker.node.churn;
    let Some(user) = user else {
        churn.http_logins_refused.add(1);
        return Err(Refusal::login_failed());
    };
    churn.http_logins.add(1);
    check_tag(who, &user)
        .inspect_err(|refusal| broker.audit.login_refused(&user.name, refusal.reason(), None, from, now))?;
    Ok(Some(user))
}

/// Whether a user who logged in a while ago is there still, and the route for them.
///
/// # Errors
/// They were deleted, or lack the tag.
pub(crate) fn check_still(broker: &Broker, who: Who, user: Option<&Arc<User>>) -> Result<(), Refusal> {
    let Some(user) = user else { return Ok(()) };
    match broker.users.get(&user.name) {
        Some(known) if Arc::ptr_eq(&known, user) => check_tag(who, user),
        _ => Err(Refusal::login_failed()),
    }
}

fn check_tag(who: Who, user: &User) -> Result<(), Refusal> {
    let refused = match who {
        Who::Everyone => None,
        Who::Management => (!has_any_tag(user)).then_some("Not management user"),
        Who::Policymaker => (!is_policymaker(user)).then_some("Not policymaker user"),
        Who::Monitoring => (!is_monitor(user)).then_some("Not monitor user"),
        Who::Administrator => (!is_administrator(user)).then_some("Not administrator user"),
    };
    refused.map_or(Ok(()), |reason| Err(Refusal::not_authorised(reason)))
}

/// Whether the user may have what the route is about.
///
/// # Errors
/// They may not, or there is no such virtual host.
pub(crate) fn check_vhost(
    broker: &Broker,
    user: Option<&User>,
    within: Within,
    vhost: &str,
) -> Result<(), Refusal> {
    if within == Within::Node {
        return Ok(());
    }
    if broker.vhost(vhost).is_none() {
        return Err(Refusal::not_found());
    }
    match user {
        Some(user) if user.may_open(vhost) => Ok(()),
        // What administrators do with messages and objects there is for their permissions to say.
        Some(user) if is_administrator(user) => Ok(()),
        _ => Err(Refusal::not_authorised("User not authorised to access virtual host")),
    }
}

fn has_any_tag(user: &User) -> bool {
    ["management", "policymaker", "monitoring", "administrator"].iter().any(|tag| user.has_tag(tag))
}

fn is_policymaker(user: &User) -> bool {
    user.has_tag("policymaker") || is_administrator(user)
}

/// Whether the user sees what others have.
pub(crate) fn is_monitor(user: &User) -> bool {
    user.has_tag("monitoring") || is_administrator(user)
}

/// Whether the user administers the node.
pub(crate) fn is_administrator(user: &User) -> bool {
    user.has_tag("administrator")
}
