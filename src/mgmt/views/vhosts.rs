//! /api/vhosts.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::broker::admin::VhostRequest;
use crate::broker::admin::parameters::{Kept, VHOST};
use crate::broker::vhost::Vhost;
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::json::entries;
use crate::mgmt::rates::Subject;
use crate::mgmt::views::counts::{LENGTHS, MESSAGE_STATS};
use crate::mgmt::{json, listing};

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    listing::list(call, call.visible_vhosts(), |vhost| vhost.name().to_string(), |vhost| shown(call, vhost))
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(call, &call.vhost()?)))
}

fn shown(call: &Call<'_>, vhost: &Arc<Vhost>) -> Value {
    let kept = call.mgmt.broker.parameters.get("", VHOST, vhost.name());
    let mut shown = kept.as_ref().map(|kept| entries(defined(kept))).unwrap_or_default();
    shown.extend(entries(json!({
        "name": &**vhost.name(),
        "default_queue_type": vhost.limits().default_queue_kind.name(),
        "tracing": vhost.is_traced(),
        "cluster_state": {call.mgmt.node.as_str(): "running"},
    })));
    let rated = call.mgmt.rates.of(Subject::Vhost(Arc::downgrade(vhost)), Now::read().instant);
    rated.put(&LENGTHS, &mut shown);
    let mut stats = Map::new();
    rated.put(&MESSAGE_STATS, &mut stats);
    shown.insert("message_stats".to_owned(), Value::Object(stats));
    Value::Object(shown)
}

/// Makes a virtual host, or changes what is said about it. A user who makes one may do everything in it; who comes by
/// this machine's socket is none.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    let name = call.part("vhost");
    let is_new = call.mgmt.broker.vhost(name).is_none();
    let mut answer = put_this(call, name, &call.object()?)?;
    let (broker, user) = (&call.mgmt.broker, &call.user()?.name);
    if is_new && broker.users.get(user).is_some() {
        let permitted = broker.set_permissions(user, name, [".*"; 3]);
        answer.after = change::done(call, permitted)?.after;
    }
    Ok(answer)
}

/// Makes or changes a virtual host as this object says. One that is there stays as it is when nothing is said.
pub(crate) fn put_this(call: &Call<'_>, name: &str, body: &Map<String, Value>) -> Result<Answer, Refusal> {
    let is_silent = ["description", "tags", "default_queue_type"].iter().all(|key| said(body, key).is_none());
    let is_traced = body.get("tracing").map(|_| change::flag(body, "tracing", false)).transpose()?;
    let is_there = call.mgmt.broker.vhost(name).is_some_and(|vhost| !vhost.is_closing());
    let answer = match is_silent && is_there {
        true => Answer::done(Lsn::default()),
        false => change::done(call, call.mgmt.broker.put_vhost(name, &read(body)))?,
    };
    if let (Some(vhost), Some(is_traced)) = (call.mgmt.broker.vhost(name), is_traced) {
        vhost.trace(is_traced);
    }
    Ok(answer)
}

/// What an object says of a virtual host; definitions say it twice.
fn said<'a>(body: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let of_metadata = || body.get("metadata").and_then(|metadata| metadata.get(key));
    body.get(key).or_else(of_metadata)
}

/// The virtual host that an object describes.
pub(crate) fn read(body: &Map<String, Value>) -> VhostRequest<'_> {
    let tags = match said(body, "tags") {
        Some(Value::String(text)) => {
            text.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
        }
        Some(Value::Array(tags)) => tags.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let description = said(body, "description").and_then(Value::as_str).unwrap_or_default();
    let default_queue_type = said(body, "default_queue_type").and_then(Value::as_str);
    VhostRequest { description, tags, default_queue_type }
}

/// Deletes a virtual host with all that is in it, and closes its connections.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let name = call.part("vhost");
    let begun = call.mgmt.broker.delete_vhost(name);
    if begun.is_ok() {
        change::close_connections(
            call,
            |opened| *opened.vhost == *name,
            &format!("vhost '{name}' is deleted"),
        );
    }
    change::done(call, begun)
}

/// A virtual host as definitions have it.
pub(crate) fn defined(kept: &Kept) -> Value {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), json!(&*kept.name));
    let said = entries(json::table(kept.value().as_bytes()));
    let is_said = |(key, value): &(String, Value)| key != "default_queue_type" || *value != json!("");
    let metadata: Map<_, _> = said.into_iter().filter(is_said).collect();
    shown.insert("metadata".to_owned(), Value::Object(metadata.clone()));
    shown.extend(metadata);
    Value::Object(shown)
}

/// It runs already.
pub(crate) fn start(call: &Call<'_>) -> Result<Answer, Refusal> {
    call.vhost().map(|_| Answer::done(Lsn::default()))
}
