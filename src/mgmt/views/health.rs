//! GET /api/health/checks: 200 when all is well, and 503 with a reason otherwise.

use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::broker::alarms::Shortage;
use crate::clock::Now;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::insider::Insider;
use crate::mgmt::views::connections::iso_time;
use crate::mgmt::views::node::sockets_max;
use crate::mgmt::views::{messages, queues};
use crate::mgmt::{change, json};
use crate::protocol::methods::{BasicGet, Method};

/// The queue of the test, as RabbitMQ calls it.
const ALIVENESS: &str = "aliveness-test";
/// The flags of properties of which there are none.
const NO_PROPERTIES: &[u8] = &[0, 0];

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// Whoever answers this is well.
pub(crate) fn healthy(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(well(json!({})))
}

/// A message is published to a queue of its own and got again, as RabbitMQ does it. Whoever asks at the same time may get
/// it instead.
pub(crate) fn aliveness(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (vhost, body) = (call.part("vhost"), json::entries(json!({"durable": false})));
    queues::put_this(call, &change::actor(call)?, vhost, ALIVENESS, &body)?;
    let mut insider = Insider::connect(&call.mgmt.broker, call.user()?, vhost)?;
    let to = (b"".as_slice(), ALIVENESS.as_bytes());
    if !messages::confirmed(&mut insider, to, NO_PROPERTIES, Bytes::from_static(b"test_message"))? {
        return Err(Refusal::unavailable());
    }
    let is_answer = |method: &Method<'_>| matches!(method, Method::BasicGetOk(_) | Method::BasicGetEmpty(_));
    insider.ask(&Method::BasicGet(BasicGet { queue: ALIVENESS, no_ack: true }), is_answer)?;
    Ok(well(json!({})))
}

/// What concerns several nodes.
pub(crate) fn single_node(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(well(json!({"reason": "single node cluster"})))
}

/// Units of time, and the days of one, as RabbitMQ counts them.
const UNITS: [(&str, u64); 4] = [("day", 1), ("week", 7), ("month", 30), ("year", 365)];

/// Whether a certificate that clients are shown expires so soon.
pub(crate) fn certificates(call: &Call<'_>) -> Result<Answer, Refusal> {
    let asked = call.part("unit");
    let asked = asked.strip_suffix('s').unwrap_or(asked);
    let unit = UNITS.iter().find(|(name, _)| *name == asked).map(|(_, days)| *days);
    let within = call.part("within").parse::<u32>().ok().map(u64::from);
    let (Some(unit), Some(within)) = (unit, within) else {
        return Err(Refusal::bad_request("Invalid expiration unit or value"));
    };
    let until_ms = Now::read().unix_ms.saturating_add(within * unit * DAY_MS);
    let shown = call.mgmt.tls.as_ref().map(|tls| tls.shown()).unwrap_or_default();
    let expired: Vec<_> = shown
        .into_iter()
        .filter(|certificate| certificate.until_ms <= until_ms)
        .map(|certificate| {
            json!({
                "certfile": certificate.path.display().to_string(),
                "subject": certificate.subject,
                "certfile_expires_on": [iso_time(certificate.until_ms).replace('T', " ").trim_end_matches('Z')],
                "node": call.mgmt.node,
            })
        })
        .collect();
    if expired.is_empty() {
        return Ok(well(json!({})));
    }
    Ok(ill("Certificates expiring", json!({"expired": expired})))
}

/// Whether an alarm is raised.
pub(crate) fn alarms(call: &Call<'_>) -> Result<Answer, Refusal> {
    let alarms = &call.mgmt.broker.node.alarms;
    let named = [(Shortage::Memory, "memory"), (Shortage::Disk, "disk")];
    let raised: Vec<_> = named
        .into_iter()
        .filter(|(shortage, _)| alarms.is_raised(*shortage))
        .map(|(_, resource)| json!({"node": call.mgmt.node, "resource": resource}))
        .collect();
    if raised.is_empty() {
        return Ok(well(json!({})));
    }
    Ok(ill("There are alarms in effect in the cluster", json!({"alarms": raised})))
}

/// Whether this port is listened on.
pub(crate) fn port(call: &Call<'_>) -> Result<Answer, Refusal> {
    let port: u16 = call.part("port").parse().map_err(|_| Refusal::bad_request("Invalid port"))?;
    let ports: Vec<_> = call.mgmt.listening.all().map(|(_, address)| address.port()).collect();
    if ports.contains(&port) {
        return Ok(well(json!({"port": port})));
    }
    Ok(ill("No active listener", json!({"missing": port, "ports": ports})))
}

/// Whether this protocol is served.
pub(crate) fn protocol(call: &Call<'_>) -> Result<Answer, Refusal> {
    let asked = call.part("protocol").to_lowercase();
    let wanted = match asked.as_str() {
        "amqp091" | "amqp0.9.1" | "amqp-0-9-1" => "amqp",
        other => other,
    };
    let mut protocols: Vec<_> = call.mgmt.listening.all().map(|(protocol, _)| protocol).collect();
    protocols.dedup();
    if protocols.contains(&wanted) {
        return Ok(well(json!({"protocol": asked})));
    }
    Ok(ill("No active listener", json!({"missing": asked, "protocols": protocols})))
}

/// Whether there is room for another connection.
pub(crate) fn connection_limit(call: &Call<'_>) -> Result<Answer, Refusal> {
    let broker = &call.mgmt.broker;
    let (current, limit) = (broker.connections() as u64, sockets_max(broker.node.limits().connections_max));
    if current < limit {
        return Ok(well(json!({"current": current, "limit": limit})));
    }
    let reason = "There are as many connections as there may be";
    Ok(ill(reason, json!({"current": current, "limit": limit})))
}

fn well(more: Value) -> Answer {
    Answer::json(&with(json!({"status": "ok"}), more))
}

fn ill(reason: &str, more: Value) -> Answer {
    let value = with(json!({"status": "failed", "reason": reason}), more);
    Answer::with_status(StatusCode::SERVICE_UNAVAILABLE, &value)
}

fn with(value: Value, more: Value) -> Value {
    let mut whole = Map::new();
    for part in [value, more] {
        if let Value::Object(part) = part {
            whole.extend(part);
        }
    }
    Value::Object(whole)
}
