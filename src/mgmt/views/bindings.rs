//! /api/bindings, from either end and by virtual host; also those that every queue has with the default exchange.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::broker::error::ResourceKind;
use crate::broker::exchange::Destination;
use crate::broker::vhost::listing::{ListedBinding, Wanted};
use crate::broker::vhost::{Actor, BindingRequest, Vhost};
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::views::exchanges::name_of;
use crate::mgmt::views::queues::is_made_up;
use crate::mgmt::{json, listing};
use crate::protocol::table::{Table, TableBuf};
use crate::routing::canonical;

/// So much of the hash of arguments tells bindings apart, in bytes.
const HASH_BYTES: usize = 4;

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, vhosts.iter().flat_map(|vhost| all_of(vhost)).collect())
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, all_of(&*call.vhost()?))
}

/// Those from an exchange.
pub(crate) fn list_from(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    list_these(
        call,
        match vhost.exchange(name_of(call.part("name"))) {
            Some(source) if source.is_default() => of_default(&vhost),
            Some(source) => shown_all(&vhost, &Wanted::From(source)),
            None => Vec::new(),
        },
    )
}

/// Those to an exchange.
pub(crate) fn list_to_exchange(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let exchange = vhost.exchange(name_of(call.part("name"))).map(Destination::Exchange);
    let bindings = exchange.map(|exchange| shown_all(&vhost, &Wanted::To(exchange)));
    list_these(call, bindings.unwrap_or_default())
}

/// Those to a queue.
pub(crate) fn list_to_queue(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let queue = vhost.queue(call.part("name")).ok_or_else(Refusal::not_found)?;
    let mut bindings = vec![default_of(vhost.name(), &queue.properties.name)];
    bindings.extend(shown_all(&vhost, &Wanted::To(Destination::Queue(queue))));
    list_these(call, bindings)
}

/// Those between two.
pub(crate) fn list_between(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, between(call)?)
}

/// The one between two that has these properties.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let found = between(call)?.into_iter().find(|binding| binding["properties_key"] == call.part("props"));
    Ok(listing::one(call, &found.ok_or_else(Refusal::not_found)?))
}

fn between(call: &Call<'_>) -> Result<Vec<Value>, Refusal> {
    let vhost = call.vhost()?;
    let (source, kind, destination) = ends(call)?;
    if source.is_empty() {
        let queue = vhost.queue(&destination).filter(|_| kind == ResourceKind::Queue);
        return Ok(queue.iter().map(|queue| default_of(vhost.name(), &queue.properties.name)).collect());
    }
    Ok(listed_between(call, &vhost)?.iter().map(|binding| shown(vhost.name(), binding)).collect())
}

/// The bindings between the two that the path names.
fn listed_between(call: &Call<'_>, vhost: &Vhost) -> Result<Vec<ListedBinding>, Refusal> {
    let (source, kind, destination) = ends(call)?;
    let destination = match kind {
        ResourceKind::Queue => vhost.queue(&destination).map(Destination::Queue),
        ResourceKind::Exchange => vhost.exchange(&destination).map(Destination::Exchange),
    };
    let mut bindings = destination.map(|to| vhost.bindings(&Wanted::To(to))).unwrap_or_default();
    bindings.retain(|binding| *binding.source.properties.name == *source);
    Ok(bindings)
}

fn list_these(call: &Call<'_>, mut bindings: Vec<Value>) -> Result<Answer, Refusal> {
    let key = |binding: &Value| {
        let text = |name: &str| binding[name].as_str().unwrap_or_default().to_owned();
        [text("vhost"), text("source"), text("destination_type"), text("destination"), text("properties_key")]
    };
    bindings.sort_by_cached_key(key);
    listing::list(call, bindings, |binding| binding["source"].to_string(), Value::clone)
}

fn all_of(vhost: &Vhost) -> Vec<Value> {
    let mut bindings = of_default(vhost);
    bindings.extend(shown_all(vhost, &Wanted::All));
    bindings
}

fn of_default(vhost: &Vhost) -> Vec<Value> {
    vhost.queues().iter().map(|queue| default_of(vhost.name(), &queue.properties.name)).collect()
}

fn shown_all(vhost: &Vhost, wanted: &Wanted) -> Vec<Value> {
    vhost.bindings(wanted).iter().map(|binding| shown(vhost.name(), binding)).collect()
}

/// What every queue has.
fn default_of(vhost: &Arc<str>, queue: &str) -> Value {
    json!({
        "source": "",
        "vhost": &**vhost,
        "destination": queue,
        "destination_type": "queue",
        "routing_key": queue,
        "arguments": {},
        "properties_key": properties_key(queue, &[]),
    })
}

fn shown(vhost: &Arc<str>, binding: &ListedBinding) -> Value {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(queue) => ("queue", &queue.properties.name),
        Destination::Exchange(exchange) => ("exchange", &exchange.properties.name),
    };
    json!({
        "source": &*binding.source.properties.name,
        "vhost": &**vhost,
        "destination": &**destination,
        "destination_type": kind,
        "routing_key": &*binding.key,
        "arguments": json::table(&binding.arguments),
        "properties_key": properties_key(&binding.key, &binding.arguments),
    })
}

/// What names a binding between two ends: its key, and where there are arguments a hash of them. (RabbitMQ's is another
/// one; nobody makes one up.)
fn properties_key(key: &str, arguments: &[u8]) -> String {
    let quoted: String = form_urlencoded::byte_serialize(key.as_bytes()).collect();
    if arguments.is_empty() {
        return if quoted.is_empty() { "~".to_owned() } else { quoted };
    }
    let hash = Sha256::digest(arguments);
    let hash = URL_SAFE_NO_PAD.encode(hash.get(..HASH_BYTES).unwrap_or_default());
    format!("{quoted}~{hash}")
}

/// What a body says of a binding.
#[derive(Debug)]
pub(crate) struct BindingBody {
    source: String,
    kind: ResourceKind,
    destination: String,
    key: String,
    arguments: TableBuf,
}

/// Reads one of definitions, which says both ends.
///
/// # Errors
/// An end that is missing, or arguments that are no object, or cannot be arguments.
pub(crate) fn read(body: &Map<String, Value>) -> Result<BindingBody, Refusal> {
    let kind = match change::text(body, "destination_type")? {
        "queue" => ResourceKind::Queue,
        "exchange" => ResourceKind::Exchange,
        other => {
            return Err(Refusal::bad_request(format!(
                "destination_type {other:?} is neither queue nor exchange"
            )));
        }
    };
    let (source, destination) = (change::text(body, "source")?, change::text(body, "destination")?);
    let ends = (source.to_owned(), kind, destination.to_owned());
    read_between(ends, body)
}

fn read_between(
    (source, kind, destination): (String, ResourceKind, String),
    body: &Map<String, Value>,
) -> Result<BindingBody, Refusal> {
    let key = body.get("routing_key").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(BindingBody { source, kind, destination, key, arguments: json::arguments(body)? })
}

/// Binds as this object says, which says both ends.
pub(crate) fn put_this(
    call: &Call<'_>,
    actor: &Actor,
    vhost: &str,
    body: &Map<String, Value>,
) -> Result<Answer, Refusal> {
    let vhost = call.mgmt.broker.vhost(vhost).ok_or_else(Refusal::not_found)?;
    let after = bind(actor, &vhost, &read(body)?)?;
    Ok(Answer::changed(StatusCode::CREATED, after))
}

/// Binds the two ends of the path, and tells what names the binding.
pub(crate) fn post(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let binding = read_between(ends(call)?, &call.object()?)?;
    let after = bind(&change::actor(call)?, &vhost, &binding)?;
    let arguments = canonical(binding.arguments.as_table().as_bytes());
    let key = properties_key(&binding.key, arguments.as_table().as_bytes());
    Ok(Answer::changed(StatusCode::CREATED, after).at(&key))
}

fn bind(actor: &Actor, vhost: &Arc<Vhost>, binding: &BindingBody) -> Result<Lsn, Refusal> {
    change::check_length(&binding.key)?;
    Ok(vhost.bind(actor, &binding.request())?.after)
}

/// Takes the binding away that the path names.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (vhost, (source, kind, destination)) = (call.vhost()?, ends(call)?);
    let found = listed_between(call, &vhost)?;
    let binding =
        found.iter().find(|binding| properties_key(&binding.key, &binding.arguments) == call.part("props"));
    let binding = binding.ok_or_else(Refusal::not_found)?;
    let request = BindingRequest {
        source: &source,
        kind,
        destination: &destination,
        key: &binding.key,
        arguments: Table::unchecked(&binding.arguments),
    };
    let removal = vhost.unbind(&change::actor(call)?, &request)?;
    Ok(Answer::done(change::finish(&vhost, removal)))
}

fn ends(call: &Call<'_>) -> Result<(String, ResourceKind, String), Refusal> {
    let (source, destination) = (name_of(call.part("source")), call.part("destination"));
    match call.part("kind") {
        "q" => Ok((source.to_owned(), ResourceKind::Queue, destination.to_owned())),
        "e" => Ok((source.to_owned(), ResourceKind::Exchange, name_of(destination).to_owned())),
        _ => Err(Refusal::not_found()),
    }
}

impl BindingBody {
    fn request(&self) -> BindingRequest<'_> {
        let Self { source, kind, destination, key, arguments } = self;
        BindingRequest { source, kind: *kind, destination, key, arguments: arguments.as_table() }
    }
}

/// Bindings as definitions have them: not those to queues that die with a connection.
pub(crate) fn defined(vhost: &Arc<Vhost>) -> Vec<Value> {
    let mut all = vhost.bindings(&Wanted::All);
    all.retain(|binding| match &binding.destination {
        Destination::Queue(queue) => {
            queue.properties.exclusive_to.is_none() && !is_made_up(&queue.properties.name)
        }
        Destination::Exchange(_) => true,
    });
    let cut = |mut shown: Value| {
        if let Value::Object(entries) = &mut shown {
            entries.remove("properties_key");
        }
        shown
    };
    all.iter().map(|binding| cut(shown(vhost.name(), binding))).collect()
}

#[cfg(test)]
mod tests {
    use super::properties_key;

    #[test]
    fn a_binding_is_named_by_its_key_and_a_hash_of_its_arguments() {
        for (key, expected) in [("", "~"), ("a.b", "a.b"), ("a b", "a+b"), ("~", "%7E"), ("é", "%C3%A9")] {
            assert_eq!(properties_key(key, &[]), expected);
        }
        let (one, two) = (properties_key("k", &[1]), properties_key("k", &[2]));
        assert!(one.starts_with("k~") && one != two);
    }
}
