//! /api/users: users, their permissions and their limits.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use crate::auth::password::{Hashing, PasswordHash};
use crate::auth::sasl::Credentials;
use crate::broker::admin::parameters::{Kept, PERMISSION, TOPIC_PERMISSION, USER, USER_LIMITS};
use crate::broker::admin::{AdminError, PasswordChange, check_user, check_user_limits};
use crate::clock::Now;
use crate::config::Secret;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::{json, listing};
use crate::protocol::table::TableBuf;

/// All users.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let users = call.mgmt.broker.parameters.of("", USER, "");
    listing::list(call, users, |user| user.name.to_string(), |user| shown(call, user))
}

/// Those who may do nothing anywhere.
pub(crate) fn list_without_permissions(call: &Call<'_>) -> Result<Answer, Refusal> {
    let parameters = &call.mgmt.broker.parameters;
    let mut users = parameters.of("", USER, "");
    users.retain(|user| parameters.of("", PERMISSION, &format!("{}\0", user.name)).is_empty());
    listing::list(call, users, |user| user.name.to_string(), |user| shown(call, user))
}

/// One user.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(call, &find(call)?)))
}

fn find(call: &Call<'_>) -> Result<Kept, Refusal> {
    call.mgmt.broker.parameters.get("", USER, call.part("user")).ok_or_else(Refusal::not_found)
}

/// A user as definitions have them, with their limits.
pub(crate) fn shown(call: &Call<'_>, user: &Kept) -> Value {
    let limits = call.mgmt.broker.parameters.get("", USER_LIMITS, &user.name);
    let mut shown = json::entries(json::table(user.value().as_bytes()));
    shown.insert("name".to_owned(), json!(&*user.name));
    shown.insert(
        "limits".to_owned(),
        limits.map_or_else(|| json!({}), |kept| json::table(kept.value().as_bytes())),
    );
    Value::Object(shown)
}

/// Makes or changes a user.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    put_this(call, call.part("user"), &body)
}

/// Makes or changes a user as this object says.
pub(crate) fn put_this(call: &Call<'_>, name: &str, body: &Map<String, Value>) -> Result<Answer, Refusal> {
    let (password, tags) = read(body)?;
    let limits = limits(body)?;
    let mut answer = change::done(call, call.mgmt.broker.put_user(name, &password, &tags))?;
    if !limits.as_table().is_empty() {
        answer.after = change::done(call, call.mgmt.broker.set_user_limits(name, limits.as_table()))?.after;
    }
    Ok(answer)
}

/// Whether an object describes a user of this name whom there can be.
///
/// # Errors
/// What is missing or wrong.
pub(crate) fn check(call: &Call<'_>, name: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
    let (password, tags) = read(body)?;
    check_user(name, &tags)?;
    if let PasswordChange::Set(hash) = &password {
        call.mgmt.broker.check_hash(hash)?;
    }
    Ok(check_user_limits(limits(body)?.as_table())?)
}

fn limits(body: &Map<String, Value>) -> Result<TableBuf, Refusal> {
    match body.get("limits") {
        Some(Value::Object(limits)) => json::to_table(limits),
        _ => Ok(TableBuf::new()),
    }
}

/// What an object says about a user.
///
/// # Errors
/// What is missing or cannot be.
pub(crate) fn read(body: &Map<String, Value>) -> Result<(PasswordChange, Vec<String>), Refusal> {
    let tags = tags(body)?;
    Ok((password(body)?, tags))
}

fn tags(body: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    match body.get("tags").or_else(|| body.get("administrator").filter(|value| value == &&json!(true))) {
        Some(Value::Bool(_)) => Ok(vec!["administrator".to_owned()]),
        Some(Value::String(text)) => {
            Ok(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
        }
        Some(Value::Array(tags)) => Ok(tags.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => Err(Refusal::bad_request("tags_not_present")),
    }
}

fn password(body: &Map<String, Value>) -> Result<PasswordChange, Refusal> {
    let password = match (
        body.get("password").and_then(Value::as_str),
        body.get("password_hash").and_then(Value::as_str),
    ) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad_request("both_password_and_password_hash_are_provided"));
        }
        (Some(""), None) => return Err(Refusal::bad_request("password cannot be empty")),
        (Some(password), None) => {
            PasswordChange::Set(PasswordHash::hash(password.as_bytes()).map_err(AdminError::from)?)
        }
        (None, Some("") | None) => PasswordChange::None,
        (None, Some(hash)) => {
            let hashing = body.get("hashing_algorithm").and_then(Value::as_str).unwrap_or_default();
            let hashing = Hashing::from_name(hashing).map_err(AdminError::from)?;
            PasswordChange::Set(PasswordHash::from_base64(hashing, hash).map_err(AdminError::from)?)
        }
    };
    Ok(password)
}

/// Changes the tags of a user who is there, whatever becomes of their password meanwhile.
pub(crate) fn put_tags(call: &Call<'_>) -> Result<Answer, Refusal> {
    let tags = tags(&call.object()?)?;
    let broker = &call.mgmt.broker;
    change::done(call, broker.change_user(call.part("user"), &PasswordChange::Keep, Some(&tags)))
        .map(Answer::into_change)
}

/// Changes the password of a user who is there, or takes it away, whatever becomes of their tags meanwhile.
pub(crate) fn put_password(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    if body.get("password").or(body.get("password_hash")).is_none() {
        return Err(Refusal::bad_request("[{key_missing,password}]"));
    }
    let password = password(&body)?;
    let changed = call.mgmt.broker.change_user(call.part("user"), &password, None);
    change::done(call, changed).map(Answer::into_change)
}

/// Whether this is the user's password, as if they came from this machine: those who may only come from there may, and none
/// has to wait after failures.
pub(crate) fn authenticate(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let password = Secret::new(change::text(&body, "password")?);
    let credentials = Credentials::by_password(call.part("user"), password);
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let user = call.mgmt.broker.login(&credentials, from, Now::read().instant);
    Ok(Answer::json(&json!({"authenticated": user.is_some()})))
}

/// Deletes a user, and closes their connections.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let name = call.part("user");
    let deleted = change::done(call, call.mgmt.broker.delete_user(name))?;
    change::close_connections(call, |opened| opened.user == name, &format!("user '{name}' is deleted"));
    Ok(deleted)
}

/// Deletes several.
pub(crate) fn bulk_delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let names = body
        .get("users")
        .and_then(Value::as_array)
        .ok_or_else(|| Refusal::bad_request("users is missing"))?;
    let mut last = Answer::done(Lsn::default());
    for name in names.iter().filter_map(Value::as_str) {
        match change::done(call, call.mgmt.broker.delete_user(name)) {
            Ok(deleted) => last = deleted,
            // One that is gone already is what was wanted.
            Err(refusal) if refusal.is_not_found() => continue,
            Err(refusal) => return Err(refusal),
        }
        change::close_connections(call, |opened| opened.user == name, &format!("user '{name}' is deleted"));
    }
    Ok(last)
}

/// What a user may do, by virtual host.
pub(crate) fn permissions(call: &Call<'_>) -> Result<Answer, Refusal> {
    of_user(call, PERMISSION)
}

/// With which keys.
pub(crate) fn topic_permissions(call: &Call<'_>) -> Result<Answer, Refusal> {
    of_user(call, TOPIC_PERMISSION)
}

fn of_user(call: &Call<'_>, component: &str) -> Result<Answer, Refusal> {
    let user = find(call)?;
    let kept = call.mgmt.broker.parameters.of("", component, &format!("{}\0", user.name));
    listing::list(call, kept, |kept| kept.name.to_string(), super::permissions::shown)
}

/// Limits of all users.
pub(crate) fn list_limits(call: &Call<'_>) -> Result<Answer, Refusal> {
    let limits = call.mgmt.broker.parameters.of("", USER_LIMITS, "");
    listing::list(call, limits, |kept| kept.name.to_string(), shown_limits)
}

/// Limits of one.
pub(crate) fn show_limits(call: &Call<'_>) -> Result<Answer, Refusal> {
    let user = find(call)?;
    let limits = call.mgmt.broker.parameters.get("", USER_LIMITS, &user.name);
    listing::list(call, limits.into_iter().collect(), |kept| kept.name.to_string(), shown_limits)
}

fn shown_limits(kept: &Kept) -> Value {
    json!({"user": &*kept.name, "value": json::table(kept.value().as_bytes())})
}

/// Sets one limit of a user.
pub(crate) fn put_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let value = change::limit(call)?;
    let set = call.mgmt.broker.set_user_limit(call.part("user"), call.part("name"), Some(value));
    change::done(call, set).map(Answer::into_change)
}

/// Clears one limit of a user.
pub(crate) fn delete_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let cleared = call.mgmt.broker.set_user_limit(call.part("user"), call.part("name"), None);
    change::done(call, cleared).map(Answer::into_change)
}
