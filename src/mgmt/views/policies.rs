//! /api/policies and /api/operator-policies.

use serde_json::{Map, Value, json};

use crate::broker::Broker;
use crate::broker::admin::{AdminError, PolicyRequest, Undertaking, check_policy};
use crate::broker::policy::{Author, Policy};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::{json, listing};

/// Defines the handlers of one author's policies.
macro_rules! handlers {
    ($author:expr, $list:ident, $list_of_vhost:ident, $show:ident, $put:ident, $delete:ident) => {
        /// All that the user may see.
        pub(crate) fn $list(call: &Call<'_>) -> Result<Answer, Refusal> {
            list_these(call, $author)
        }

        /// Those of a virtual host.
        pub(crate) fn $list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
            let vhost = call.vhost()?;
            let all = of_vhost(call, $author, vhost.name());
            listing::list(call, all, |(name, _)| name.clone(), |(_, shown)| shown.clone())
        }

        /// One of them.
        pub(crate) fn $show(call: &Call<'_>) -> Result<Answer, Refusal> {
            let vhost = call.vhost()?;
            let all = of_vhost(call, $author, vhost.name());
            let found =
                all.into_iter().find(|(name, _)| name == call.part("name")).ok_or_else(Refusal::not_found)?;
            Ok(listing::one(call, &found.1))
        }

        /// Makes or changes one.
        pub(crate) fn $put(call: &Call<'_>) -> Result<Answer, Refusal> {
            let body = call.object()?;
            change::done(call, set(&call.mgmt.broker, $author, call.part("vhost"), call.part("name"), &body)?)
        }

        /// Takes one away.
        pub(crate) fn $delete(call: &Call<'_>) -> Result<Answer, Refusal> {
            change::done(call, call.mgmt.broker.clear_policy($author, call.part("vhost"), call.part("name")))
        }
    };
}

handlers!(Author::User, list, list_of_vhost, show, put, delete);
handlers!(
    Author::Operator,
    list_operators,
    list_operators_of_vhost,
    show_operator,
    put_operator,
    delete_operator
);

fn list_these(call: &Call<'_>, author: Author) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    let all = vhosts.iter().flat_map(|vhost| of_vhost(call, author, vhost.name())).collect();
    listing::list(call, all, |(name, _)| name.clone(), |(_, shown): &(String, Value)| shown.clone())
}

fn of_vhost(call: &Call<'_>, author: Author, vhost: &str) -> Vec<(String, Value)> {
    let Some(vhost) = call.mgmt.broker.vhost(vhost) else { return Vec::new() };
    let policies = vhost.policies();
    let mut all: Vec<_> = policies
        .of(author)
        .iter()
        .map(|policy| (policy.name.to_string(), shown(vhost.name(), policy)))
        .collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// A policy as definitions have it.
pub(crate) fn shown(vhost: &str, policy: &Policy) -> Value {
    json!({
        "vhost": vhost,
        "name": &*policy.name,
        "pattern": policy.pattern.as_str(),
        "apply-to": policy.apply_to.name(),
        "definition": json::table(policy.definition.as_table().as_bytes()),
        "priority": policy.priority,
    })
}

/// Sets a policy as an object says it.
///
/// # Errors
/// What is missing; what the broker refuses is in the value.
pub(crate) fn set(
    broker: &Broker,
    author: Author,
    vhost: &str,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Result<Undertaking, AdminError>, Refusal> {
    with_request(name, body, |request| broker.set_policy(author, vhost, request))
}

/// Whether an object says a policy that can be set.
///
/// # Errors
/// What is missing or wrong.
pub(crate) fn check(author: Author, name: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
    Ok(with_request(name, body, |request| check_policy(author, request))??)
}

fn with_request<T>(
    name: &str,
    body: &Map<String, Value>,
    show: impl FnOnce(&PolicyRequest<'_>) -> T,
) -> Result<T, Refusal> {
    let pattern = change::text(body, "pattern")?;
    let definition = match body.get("definition") {
        Some(Value::Object(definition)) => json::to_table(definition)?,
        Some(_) => return Err(Refusal::bad_request("the definition is no object")),
        None => return Err(Refusal::bad_request("[{key_missing,definition}]")),
    };
    let priority = match body.get("priority") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(|| {
            let text = "Validation failed\n\npriority should be a number, actually was";
            Refusal::bad_request(format!("{text} {value}\n"))
        })?,
    };
    let apply_to = body.get("apply-to").and_then(Value::as_str).unwrap_or("all");
    let definition = definition.as_table();
    Ok(show(&PolicyRequest { name, pattern, apply_to, priority, definition }))
}
