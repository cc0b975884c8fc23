//! /api/exchanges.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::broker::exchange::Exchange;
use crate::broker::vhost::{Actor, ExchangeRequest, Vhost};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::{json, listing};
use crate::protocol::table::TableBuf;

/// What the default exchange is called where a name is needed.
const DEFAULT: &str = "amq.default";

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, vhosts.iter().flat_map(|vhost| vhost.exchanges()).collect())
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, call.vhost()?.exchanges())
}

fn list_these(call: &Call<'_>, mut exchanges: Vec<Arc<Exchange>>) -> Result<Answer, Refusal> {
    exchanges.sort_by(|one, two| {
        let (one, two) = (&one.properties, &two.properties);
        (&one.vhost, &one.name).cmp(&(&two.vhost, &two.name))
    });
    listing::list(
        call,
        exchanges,
        |exchange| exchange.properties.name.to_string(),
        |exchange| shown(exchange),
    )
}

/// One exchange.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let exchange = call.vhost()?.exchange(name_of(call.part("name"))).ok_or_else(Refusal::not_found)?;
    let mut shown = shown(&exchange);
    json::put(&mut shown, "incoming", json!([]));
    json::put(&mut shown, "outgoing", json!([]));
    Ok(listing::one(call, &shown))
}

/// The name that stands for an exchange in a path.
pub(crate) fn name_of(part: &str) -> &str {
    if part == DEFAULT { "" } else { part }
}

fn shown(exchange: &Exchange) -> Value {
    let mut shown = defined_one(exchange);
    let policy = exchange.policies().and_then(|applied| applied.user);
    json::put(&mut shown, "policy", json!(policy.map(|policy| policy.name.to_string())));
    shown
}

/// What a body says of an exchange.
#[derive(Debug)]
pub(crate) struct ExchangeBody {
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: TableBuf,
}

impl ExchangeBody {
    fn request<'a>(&'a self, name: &'a str) -> ExchangeRequest<'a> {
        ExchangeRequest {
            name,
            kind: &self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.as_table(),
        }
    }
}

/// Reads it.
///
/// # Errors
/// No type, or arguments that are no object, or cannot be arguments.
pub(crate) fn read(body: &Map<String, Value>) -> Result<ExchangeBody, Refusal> {
    Ok(ExchangeBody {
        kind: change::text(body, "type")?.to_owned(),
        durable: change::flag(body, "durable", false)?,
        auto_delete: change::flag(body, "auto_delete", false)?,
        internal: change::flag(body, "internal", false)?,
        arguments: json::arguments(body)?,
    })
}

/// Whether an object describes an exchange of this name that there can be.
///
/// # Errors
/// What is missing or wrong.
pub(crate) fn check(vhost: &str, name: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
    change::check_length(name)?;
    let body = read(body)?;
    Ok(body.request(name).check(&vhost.into())?)
}

/// Declares an exchange.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    put_this(call, &change::actor(call)?, call.part("vhost"), call.part("name"), &call.object()?)
}

/// Declares an exchange as this object says.
pub(crate) fn put_this(
    call: &Call<'_>,
    actor: &Actor,
    vhost: &str,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Answer, Refusal> {
    let body = read(body)?;
    let vhost = call.mgmt.broker.vhost(vhost).ok_or_else(Refusal::not_found)?;
    change::check_length(name)?;
    let is_new = vhost.exchange(name).is_none();
    let after = vhost.declare_exchange(actor, &body.request(name))?;
    Ok(Answer::changed(change::status(is_new), after))
}

/// Deletes an exchange.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (vhost, name) = (call.vhost()?, call.part("name"));
    vhost.exchange(name).ok_or_else(Refusal::not_found)?;
    let removal = vhost.delete_exchange(&change::actor(call)?, name, call.wants("if-unused"))?;
    Ok(Answer::done(change::finish(&vhost, removal)))
}

/// Exchanges as definitions have them: those that were not there from the start.
pub(crate) fn defined(vhost: &Arc<Vhost>) -> Vec<Value> {
    let mut exchanges = vhost.exchanges();
    let is_own = |name: &str| name.is_empty() || name.starts_with("amq.");
    exchanges.retain(|exchange| !is_own(&exchange.properties.name));
    exchanges.sort_by(|one, two| one.properties.name.cmp(&two.properties.name));
    exchanges.iter().map(|exchange| defined_one(exchange)).collect()
}

fn defined_one(exchange: &Exchange) -> Value {
    let properties = &exchange.properties;
    json!({
        "name": &*properties.name,
        "vhost": &*properties.vhost,
        "type": properties.kind.name(),
        "durable": properties.durable,
        "auto_delete": properties.auto_delete,
        "internal": properties.internal,
        "arguments": json::table(&properties.arguments),
    })
}
