//! /api/queues: what queues are, hold and have done.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::broker::arguments::check_queue_arguments;
use crate::broker::error::{Resource, ResourceKind};
use crate::broker::policy::{Applied, Policy};
use crate::broker::presence::Opened;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::letters::LettersDue;
use crate::broker::vhost::{Actor, QueueRequest, Vhost};
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change;
use crate::mgmt::json::{self, entries};
use crate::mgmt::listing;
use crate::mgmt::rates::Subject;
use crate::mgmt::views::connections;
use crate::mgmt::views::consumers;
use crate::mgmt::views::counts::{self, LENGTHS, MESSAGE_STATS};
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::queue::settings::QueueKind;

/// Who deletes a queue waits for its dead letters no longer: others want the place.
const LETTERS_PATIENCE_MS: u64 = 2000;

/// All that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, vhosts.iter().flat_map(|vhost| vhost.queues()).collect())
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, call.vhost()?.queues())
}

fn list_these(call: &Call<'_>, mut queues: Vec<Arc<Queue>>) -> Result<Answer, Refusal> {
    queues.sort_by(|one, two| {
        let (one, two) = (&one.properties, &two.properties);
        (&one.vhost, &one.name).cmp(&(&two.vhost, &two.name))
    });
    listing::list(call, queues, |queue| queue.properties.name.to_string(), |queue| shown(call, queue))
}

/// One queue, with its consumers.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let queue = call.vhost()?.queue(call.part("name"));
    let queue = queue.filter(|queue| !is_hidden(queue)).ok_or_else(Refusal::not_found)?;
    let mut shown = shown(call, &queue);
    let consumers = consumers::of_queue(call, &queue);
    let tag = |is: &dyn Fn(&Value) -> bool| {
        let found = consumers.as_array().and_then(|all| all.iter().find(|consumer| is(consumer)));
        found.map_or(Value::Null, |consumer| consumer["consumer_tag"].clone())
    };
    let exclusive = tag(&|consumer| consumer["exclusive"] == true);
    let is_single = queue.is_single_active();
    let single = tag(&|consumer| is_single && consumer["active"] == true);
    json::put(&mut shown, "exclusive_consumer_tag", exclusive);
    json::put(&mut shown, "single_active_consumer_tag", single);
    json::put(&mut shown, "head_message_timestamp", json!(queue.head_timestamp()));
    json::put(&mut shown, "consumer_details", consumers);
    json::put(&mut shown, "incoming", json!([]));
    json::put(&mut shown, "deliveries", json!([]));
    if let Some(owner) = queue.properties.exclusive_to {
        let connections = call.mgmt.broker.open_connections();
        if let Some(outbox) = connections.iter().find(|outbox| outbox.connection() == owner) {
            json::put(&mut shown, "owner_pid_details", connections::ends(outbox));
        }
    }
    Ok(listing::one(call, &shown))
}

/// Whether it holds an exchange's delayed messages: no client knows of it.
pub(crate) fn is_hidden(queue: &Queue) -> bool {
    queue.holds_delays()
}

fn shown(call: &Call<'_>, queue: &Arc<Queue>) -> Value {
    let mut shown = definition(call, queue);
    if call.wants("disable_stats") {
        if call.wants("enable_queue_totals") {
            let lengths = LENGTHS.into_iter().zip(counts::lengths(&queue.tally));
            shown.extend(lengths.map(|(name, length)| (name.to_owned(), json!(length))));
        }
        return Value::Object(shown);
    }
    shown.extend(state(queue));
    let rated = call.mgmt.rates.of(Subject::Queue(Arc::downgrade(queue)), Now::read().instant);
    rated.put(&LENGTHS, &mut shown);
    let mut stats = Map::new();
    rated.put(&MESSAGE_STATS, &mut stats);
    shown.insert("message_stats".to_owned(), Value::Object(stats));
    Value::Object(shown)
}

/// What does not change while it is there.
fn definition(call: &Call<'_>, queue: &Queue) -> Map<String, Value> {
    let properties = &queue.properties;
    let policies = queue.policies().map(|applied| Applied::clone(&applied)).unwrap_or_default();
    let name_of = |policy: &Option<Arc<Policy>>| policy.as_ref().map(|policy| policy.name.to_string());
    let mut shown = entries(json!({
        "name": &*properties.name,
        "vhost": &*properties.vhost,
        "type": queue.kind.name(),
        "durable": properties.durable,
        "auto_delete": properties.auto_delete,
        "exclusive": properties.exclusive_to.is_some(),
        "arguments": json::table(&properties.arguments),
        "node": call.mgmt.node,
        "state": "running",
        "policy": name_of(&policies.user),
        "operator_policy": name_of(&policies.operator),
        "effective_policy_definition": json::table(policies.definition().as_table().as_bytes()),
    }));
    if queue.kind == QueueKind::Quorum {
        let node = &call.mgmt.node;
        shown.extend(entries(json!({"leader": node, "members": [node], "online": [node]})));
        let limit = Table::unchecked(&properties.arguments).get("x-delivery-limit");
        let limit = limit.and_then(|limit: Field<'_>| limit.as_int());
        shown.insert("delivery_limit".to_owned(), limit.map_or(json!("unlimited"), |limit| json!(limit)));
    }
    shown
}

/// What it holds now.
fn state(queue: &Queue) -> Map<String, Value> {
    let tally = &queue.tally;
    let consumers = tally.consumers.read();
    // There is nothing between taking all that comes and not doing so.
    let capacity = if consumers > 0 && queue.flows() { 1.0 } else { 0.0 };
    let (ready_bytes, here_bytes) = (tally.ready_bytes.read(), queue.here_bytes.read());
    let dying_bytes = tally.dying_bytes.read();
    let mut state = entries(json!({
        "consumers": consumers,
        "consumer_capacity": capacity,
        "consumer_utilisation": capacity,
        "memory": queue.index_bytes() + here_bytes,
        "message_bytes": ready_bytes + dying_bytes,
        "message_bytes_ready": ready_bytes,
        "message_bytes_ram": here_bytes,
        "message_bytes_paged_out": ready_bytes.saturating_sub(here_bytes),
        "exclusive_consumer_tag": null,
        "single_active_consumer_tag": null,
        "head_message_timestamp": null,
        "oldest_message_age": tally.oldest_ms(Now::read().steady_ms).map(|ms| ms as f64 / 1000.0),
        "recoverable_slaves": null,
    }));
    if queue.kind == QueueKind::Quorum {
        state.insert("messages_dlx".to_owned(), json!(tally.dying.read()));
        state.insert("message_bytes_dlx".to_owned(), json!(dying_bytes));
    }
    let idle_since_ms = tally.idle_since_ms.read();
    if consumers == 0 && idle_since_ms > 0 {
        state.insert("idle_since".to_owned(), json!(connections::iso_time(idle_since_ms)));
    }
    state
}

/// Who a queue's owner, or a consumer, is.
pub(crate) fn user_of(opened: Option<&Opened>) -> &str {
    opened.map_or("", |opened| &opened.user)
}

/// What a body says of a queue.
#[derive(Debug)]
pub(crate) struct QueueBody {
    durable: bool,
    auto_delete: bool,
    arguments: TableBuf,
}

/// Reads it.
///
/// # Errors
/// Arguments that are no object, or cannot be arguments.
pub(crate) fn read(body: &Map<String, Value>) -> Result<QueueBody, Refusal> {
    let mut arguments = json::arguments(body)?;
    // Definitions say the kind beside the arguments.
    if let Some(kind) =
        body.get("type").and_then(Value::as_str).filter(|kind| !["classic", "default"].contains(kind))
        && arguments.as_table().get("x-queue-type").is_none()
    {
        arguments.insert("x-queue-type", Field::LongStr(kind.as_bytes()));
    }
    let (durable, auto_delete) =
        (change::flag(body, "durable", false)?, change::flag(body, "auto_delete", false)?);
    Ok(QueueBody { durable, auto_delete, arguments })
}

/// Whether a body says a queue that can be declared.
///
/// # Errors
/// What cannot be about it.
pub(crate) fn check(vhost: &str, name: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
    change::check_length(name)?;
    let resource = Resource { kind: ResourceKind::Queue, name: name.to_owned(), vhost: vhost.into() };
    check_queue_arguments(read(body)?.arguments.as_table(), &resource)?;
    Ok(())
}

/// Declares a queue.
pub(crate) fn put(call: &Call<'_>) -> Result<Answer, Refusal> {
    put_this(call, &change::actor(call)?, call.part("vhost"), call.part("name"), &call.object()?)
}

/// Declares a queue as this object says.
pub(crate) fn put_this(
    call: &Call<'_>,
    actor: &Actor,
    vhost: &str,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Answer, Refusal> {
    let QueueBody { durable, auto_delete, arguments } = read(body)?;
    let vhost = call.mgmt.broker.vhost(vhost).ok_or_else(Refusal::not_found)?;
    change::check_length(name)?;
    let is_new = vhost.queue(name).is_none();
    let arguments = with_kind(&vhost, body, arguments);
    let arguments = arguments.as_table();
    let request = QueueRequest { name, durable, exclusive: false, auto_delete, arguments };
    let declared = vhost.declare_queue(actor, &request)?;
    call.mgmt.broker.node.churn.queues_declared.add(u64::from(is_new));
    if let Some(queue) = vhost.queue(name) {
        change::in_turns(|wakes| {
            queue.renew_lease(wakes);
            true
        });
    }
    Ok(Answer::changed(change::status(is_new), declared.after))
}

/// A classic queue is said to be one where the virtual host would make another kind of it.
fn with_kind(vhost: &Vhost, body: &Map<String, Value>, mut arguments: TableBuf) -> TableBuf {
    let is_told = arguments.as_table().get("x-queue-type").is_some();
    let is_default = vhost.limits().default_queue_kind == QueueKind::Classic;
    if !is_told && !is_default && body.get("type").is_some_and(|kind| kind == "classic") {
        arguments.insert("x-queue-type", Field::LongStr(b"classic"));
    }
    arguments
}

/// Deletes a queue.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (vhost, name) = (call.vhost()?, call.part("name"));
    vhost.queue(name).ok_or_else(Refusal::not_found)?;
    let (if_unused, if_empty) = (call.wants("if-unused"), call.wants("if-empty"));
    let (actor, mut due) = (change::actor(call)?, LettersDue::within(LETTERS_PATIENCE_MS));
    change::once(|wakes| {
        vhost.find_owing_letters(&actor, name, (if_unused, if_empty), &mut due, None, wakes).is_none()
    });
    let (_, removal) = vhost.delete_queue(&actor, name, if_unused, if_empty)?;
    Ok(Answer::done(change::finish(&vhost, removal)))
}

/// Removes the messages that are ready.
pub(crate) fn purge(call: &Call<'_>) -> Result<Answer, Refusal> {
    let queue = call.vhost()?.find_to_read(&change::actor(call)?, call.part("name"))?;
    let mut left = queue.depth().0;
    change::in_turns(|wakes| {
        let purged = queue.purge_some(left.min(u64::from(wakes.turn_steps())), wakes);
        left -= purged.min(left);
        purged == 0 || left == 0
    });
    Ok(Answer::done(Lsn::default()))
}

/// Queues as definitions have them: not those that die with a connection.
pub(crate) fn defined(vhost: &Arc<Vhost>) -> Vec<Value> {
    let mut queues = vhost.queues();
    // One whose name the broker made up is its client's, who will declare another one.
    queues.retain(|queue| queue.properties.exclusive_to.is_none() && !is_made_up(&queue.properties.name));
    queues.sort_by(|one, two| one.properties.name.cmp(&two.properties.name));
    queues.iter().map(|queue| defined_one(queue)).collect()
}

/// Whether the broker has made up this name.
pub(crate) fn is_made_up(name: &str) -> bool {
    name.starts_with("amq.")
}

fn defined_one(queue: &Queue) -> Value {
    let properties = &queue.properties;
    json!({
        "name": &*properties.name,
        "vhost": &*properties.vhost,
        "type": queue.kind.name(),
        "durable": properties.durable,
        "auto_delete": properties.auto_delete,
        "arguments": json::table(&properties.arguments),
    })
}
