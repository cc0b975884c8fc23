//! GET and DELETE /api/connections: who is connected, and sending them away.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::broker::outbox::Outbox;
use crate::broker::presence::{Condition, Encryption, Ends, Opened};
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::{self, entries};
use crate::mgmt::listing;
use crate::mgmt::rates::Subject;
use crate::mgmt::views::channels;
use crate::mgmt::views::counts::OCTETS;
use crate::protocol::field::Field;
use crate::protocol::table::Table;

/// Why a connection is closed when nobody says.
const REASON_DEFAULT: &str = "Closed via management plugin";
/// What is told of a reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// One's own, or all for those who monitor.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, visible(call)?)
}

/// Those in a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut connections = visible(call)?;
    connections.retain(|outbox| opened(outbox).is_some_and(|opened| *opened.vhost == *call.part("vhost")));
    list_these(call, connections)
}

/// Those of a user.
pub(crate) fn list_of_user(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut connections = visible(call)?;
    connections.retain(|outbox| opened(outbox).is_some_and(|opened| opened.user == call.part("user")));
    list_these(call, connections)
}

fn list_these(call: &Call<'_>, connections: Vec<Arc<Outbox>>) -> Result<Answer, Refusal> {
    listing::list(call, connections, |outbox| outbox.name(), |outbox| shown(call, outbox))
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(call, &find(call)?)))
}

/// The channels of one.
pub(crate) fn channels(call: &Call<'_>) -> Result<Answer, Refusal> {
    channels::list_these(call, &[find(call)?])
}

/// Closes one; its client is told why.
pub(crate) fn close(call: &Call<'_>) -> Result<Answer, Refusal> {
    let outbox = find_own(call, call.is_administrator())?;
    call.mgmt.broker.close_connection(&outbox, &reason(call));
    Ok(Answer::done(Lsn::default()))
}

/// Closes all of a user.
pub(crate) fn close_of_user(call: &Call<'_>) -> Result<Answer, Refusal> {
    let reason = reason(call);
    for outbox in call.mgmt.broker.open_connections() {
        if opened(&outbox).is_some_and(|opened| opened.user == call.part("user")) {
            call.mgmt.broker.close_connection(&outbox, &reason);
        }
    }
    Ok(Answer::done(Lsn::default()))
}

fn reason(call: &Call<'_>) -> String {
    let given = call.headers.get("x-reason").and_then(|reason| reason.to_str().ok());
    let given = given.filter(|reason| !reason.is_empty()).unwrap_or(REASON_DEFAULT);
    given.chars().take(REASON_CHARS_MAX).collect()
}

/// What the user may see, in order of names.
pub(crate) fn visible(call: &Call<'_>) -> Result<Vec<Arc<Outbox>>, Refusal> {
    let user = call.user()?;
    let mut connections = call.mgmt.broker.open_connections();
    if !call.sees_all() {
        connections.retain(|outbox| opened(outbox).is_some_and(|opened| opened.user == user.name));
    }
    connections.sort_by_cached_key(|outbox| (outbox.name(), outbox.connection()));
    Ok(connections)
}

fn find(call: &Call<'_>) -> Result<Arc<Outbox>, Refusal> {
    find_own(call, call.sees_all())
}

/// The one that the path names, if it is the user's or `is_any` says that it may be another's.
fn find_own(call: &Call<'_>, is_any: bool) -> Result<Arc<Outbox>, Refusal> {
    let connections = call.mgmt.broker.open_connections();
    let found = connections.into_iter().find(|outbox| outbox.name() == call.part("name"));
    let found = found.ok_or_else(Refusal::not_found)?;
    let user = call.user()?;
    match opened(&found) {
        Some(opened) if is_any || opened.user == user.name => Ok(found),
        _ => Err(Refusal::not_authorised("User not authorised to access object")),
    }
}

fn opened(outbox: &Outbox) -> Option<&Opened> {
    outbox.presence.opened()
}

/// A name that cannot be mistaken, in the form of RabbitMQ's process identifiers: scripts close connections by it.
pub(crate) fn pid(call: &Call<'_>, outbox: &Outbox, channel: u16) -> String {
    format!("<{}.1.{}.{channel}>", call.mgmt.node, outbox.connection().0)
}

/// What others are told of one.
pub(crate) fn ends(outbox: &Outbox) -> Value {
    let peer = sides(outbox).peer;
    json!({"name": outbox.name(), "peer_host": peer.ip().to_string(), "peer_port": peer.port()})
}

/// Its two ends. What the broker opens itself has no socket, and is told as one of this machine's without a port, as those
/// who read an address expect one.
fn sides(outbox: &Outbox) -> Ends {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    outbox.presence.ends().unwrap_or(Ends { peer: here, local: here })
}

fn shown(call: &Call<'_>, outbox: &Arc<Outbox>) -> Value {
    let presence = &outbox.presence;
    let (Ends { peer, local }, condition) = (sides(outbox), presence.condition());
    let (kind, protocol) = match presence.ends() {
        Some(_) => ("network", "AMQP 0-9-1"),
        None => ("direct", "Direct 0-9-1"),
    };
    let alarms = &call.mgmt.broker.node.alarms;
    let state = match condition {
        Condition::Blocked => "blocked",
        // It will be blocked with the next message.
        _ if alarms.reason().is_some() => "blocking",
        Condition::Flow => "flow",
        Condition::Running => "running",
    };
    let mut shown = entries(json!({
        "name": outbox.name(),
        "pid": pid(call, outbox, 0),
        "node": call.mgmt.node,
        "type": kind,
        "protocol": protocol,
        "state": state,
        "channels": presence.channel_count(),
        "host": local.ip().to_string(),
        "port": local.port(),
        "peer_host": peer.ip().to_string(),
        "peer_port": peer.port(),
        "recv_cnt": presence.reads.read(),
        "send_cnt": presence.writes.read(),
        "send_pend": 0,
    }));
    shown.extend(encrypted(presence.encryption()));
    if let Some(opened) = presence.opened() {
        shown.extend(agreed(opened));
    }
    let rated = call.mgmt.rates.of(Subject::Connection(Arc::downgrade(outbox)), Now::read().instant);
    rated.put(&OCTETS, &mut shown);
    Value::Object(shown)
}

fn encrypted(encryption: Option<&Encryption>) -> Map<String, Value> {
    let certificate = encryption.and_then(|encryption| encryption.certificate.as_ref());
    entries(json!({
        "ssl": encryption.is_some(),
        "ssl_cipher": encryption.map(|encryption| encryption.cipher),
        "ssl_hash": encryption.map(|encryption| encryption.hash),
        "ssl_key_exchange": encryption.map(|encryption| encryption.key_exchange),
        "ssl_protocol": encryption.map(|encryption| encryption.protocol),
        "peer_cert_issuer": certificate.map(|certificate| &certificate.issuer),
        "peer_cert_subject": certificate.map(|certificate| &certificate.subject),
        "peer_cert_validity": certificate.map(|certificate| &certificate.validity),
    }))
}

fn agreed(opened: &Opened) -> Map<String, Value> {
    let properties = Table::unchecked(&opened.properties);
    let mut shown = entries(json!({
        "user": opened.user,
        "user_who_performed_action": opened.user,
        "vhost": &*opened.vhost,
        "auth_mechanism": opened.mechanism,
        "connected_at": opened.since_ms,
        "frame_max": opened.frame_max,
        "channel_max": opened.channel_max,
        "timeout": opened.heartbeat,
        "client_properties": json::table(&opened.properties),
    }));
    if let Some(Field::LongStr(given)) = properties.get("connection_name") {
        shown.insert("user_provided_name".to_owned(), json!(String::from_utf8_lossy(given)));
    }
    shown
}

/// A time as RabbitMQ writes it.
pub(crate) fn iso_time(unix_ms: u64) -> String {
    let nanos = i128::from(unix_ms) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
