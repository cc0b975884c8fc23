//! Messages over HTTP: published to an exchange, and got from a queue.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change::text;
use crate::mgmt::insider::{Heard, Insider};
use crate::mgmt::json::{self, entries};
use crate::mgmt::views::exchanges::name_of;
use crate::protocol::methods::{BasicAck, BasicGet, BasicNack, BasicPublish, ConfirmSelect, Method};
use crate::protocol::properties::{Properties, PropertiesBuf};

/// So many messages are got at once, and bodies of so many bytes.
const GET_MESSAGES_MAX: u64 = 10_000;
const GET_BYTES_MAX: usize = 64 << 20;

/// Publishes a message, and tells whether any queue took it.
pub(crate) fn publish(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let payload = text(&body, "payload")?;
    let payload = match text(&body, "payload_encoding")? {
        "string" => payload.as_bytes().to_vec(),
        "base64" => STANDARD.decode(payload).map_err(|_| Refusal::bad_request("payload is not base64"))?,
        other => return Err(Refusal::bad_request(format!("Unsupported encoding: {other}"))),
    };
    let properties = match body.get("properties") {
        Some(Value::Object(properties)) => read(properties)?,
        None | Some(Value::Null | Value::Array(_)) => PropertiesBuf::new(),
        Some(_) => return Err(Refusal::bad_request("properties are no object")),
    };
    check_alarms(call)?;
    let mut insider = Insider::connect(&call.mgmt.broker, call.user()?, call.part("vhost"))?;
    let (exchange, routing_key) =
        (name_of(call.part("name")).as_bytes(), text(&body, "routing_key")?.as_bytes());
    let routed = confirmed(&mut insider, (exchange, routing_key), &properties.encode(), payload.into())?;
    Ok(Answer::json(&json!({"routed": routed})))
}

/// Whether messages may come. A client that has published is not read during an alarm; here each would be a new one.
///
/// # Errors
/// An alarm is raised.
pub(crate) fn check_alarms(call: &Call<'_>) -> Result<(), Refusal> {
    call.mgmt.broker.node.alarms.reason().map_or(Ok(()), |reason| Err(Refusal::blocked(reason)))
}

/// Publishes by the exchange and key `to`, and waits until the broker is responsible. Whether any queue took it.
///
/// # Errors
/// The broker's refusals; a queue rejects it.
pub(crate) fn confirmed(
    insider: &mut Insider,
    (exchange, routing_key): (&[u8], &[u8]),
    properties: &[u8],
    body: Bytes,
) -> Result<bool, Refusal> {
    let is_selected = |method: &Method<'_>| matches!(method, Method::ConfirmSelectOk(_));
    insider.ask(&Method::ConfirmSelect(ConfirmSelect { nowait: false }), is_selected)?;
    let publish = BasicPublish { exchange, routing_key, mandatory: true, immediate: false };
    insider.tell_content(&Method::BasicPublish(publish), properties, body);
    let mut is_routed = true;
    loop {
        let heard = insider.hear()?;
        match heard.method() {
            Some(Method::BasicReturn(_)) => is_routed = false,
            Some(Method::BasicAck(_)) => return Ok(is_routed),
            Some(Method::BasicNack(_)) => return Err(Refusal::bad_request("rejected")),
            _ => {}
        }
    }
}

/// Gets messages from a queue. They go back, or are gone, as the body says.
pub(crate) fn get(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let (keeps, requeues) = match text(&body, "ackmode")? {
        "ack_requeue_true" | "reject_requeue_true" => (false, true),
        "ack_requeue_false" => (true, false),
        "reject_requeue_false" => (false, false),
        other => return Err(Refusal::bad_request(format!("ackmode {other:?} is unknown"))),
    };
    let count = body.get("count").and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok()));
    let count = count.ok_or_else(|| Refusal::bad_request("[{key_missing,count}]"))?.min(GET_MESSAGES_MAX);
    let as_base64 = is_base64(text(&body, "encoding")?)?;
    let truncate =
        body.get("truncate").and_then(|bytes| bytes.as_u64().or_else(|| bytes.as_str()?.parse().ok()));
    let mut insider = Insider::connect(&call.mgmt.broker, call.user()?, call.part("vhost"))?;
    let (queue, is_answer) = (call.part("name"), |method: &Method<'_>| {
        matches!(method, Method::BasicGetOk(_) | Method::BasicGetEmpty(_))
    });
    let (mut shown, mut taken, mut bytes, mut room) = (Vec::new(), 0, 0, call.places.room());
    while taken < count && bytes < GET_BYTES_MAX && shown.len() < GET_BYTES_MAX {
        let heard = insider.ask(&Method::BasicGet(BasicGet { queue, no_ack: false }), is_answer)?;
        bytes += heard.body.len();
        let Some(message) = show(&heard, as_base64, truncate) else { break };
        let message = message.to_string();
        // What is acknowledged must be told: its room is had before.
        if let Err(full) = room.grow(message.len() + 1) {
            if taken == 0 {
                // It goes back when the insider leaves.
                return Err(full);
            }
            give_back(&mut insider, &heard);
            break;
        }
        shown.push(if taken == 0 { b'[' } else { b',' });
        shown.extend_from_slice(message.as_bytes());
        taken += 1;
    }
    if taken == 0 {
        shown.push(b'[');
    }
    shown.push(b']');
    let (delivery_tag, multiple) = (0, true);
    if taken > 0 {
        insider.tell(&match keeps {
            true => Method::BasicAck(BasicAck { delivery_tag, multiple }),
            false => Method::BasicNack(BasicNack { delivery_tag, multiple, requeue: requeues }),
        });
    }
    Ok(room.hold(Answer::json_bytes(shown)))
}

/// A message that there is no room for is for others.
fn give_back(insider: &mut Insider, heard: &Heard) {
    if let Some(Method::BasicGetOk(ok)) = heard.method() {
        let (delivery_tag, multiple, requeue) = (ok.delivery_tag, false, true);
        insider.tell(&Method::BasicNack(BasicNack { delivery_tag, multiple, requeue }));
    }
}

/// Whether a body is always to be shown in base64, and not only where it is no text.
///
/// # Errors
/// Another word.
pub(crate) fn is_base64(encoding: &str) -> Result<bool, Refusal> {
    match encoding {
        "auto" => Ok(false),
        "base64" => Ok(true),
        other => Err(Refusal::bad_request(format!("Unsupported encoding: {other}"))),
    }
}

/// A body as it is shown, and how it is encoded.
pub(crate) fn payload(body: &[u8], as_base64: bool) -> (String, &'static str) {
    match std::str::from_utf8(body) {
        Ok(text) if !as_base64 => (text.to_owned(), "string"),
        _ => (STANDARD.encode(body), "base64"),
    }
}

fn show(heard: &Heard, as_base64: bool, truncate: Option<u64>) -> Option<Value> {
    let Some(Method::BasicGetOk(ok)) = heard.method() else { return None };
    let length = truncate.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    let shown_part = heard.body.get(..length.min(heard.body.len())).unwrap_or_default();
    let (payload, encoding) = payload(shown_part, as_base64);
    Some(json!({
        "payload_bytes": heard.body.len(),
        "redelivered": ok.redelivered,
        "exchange": String::from_utf8_lossy(ok.exchange),
        "routing_key": String::from_utf8_lossy(ok.routing_key),
        "message_count": ok.message_count,
        "properties": shown(&Properties::unchecked(&heard.properties)),
        "payload": payload,
        "payload_encoding": encoding,
    }))
}

/// Properties as RabbitMQ shows them; those that a message has not are left out.
pub(crate) fn shown(properties: &Properties<'_>) -> Value {
    let mut shown = entries(json!({
        "headers": properties.headers().map(|headers| json::table(headers.as_bytes())),
        "delivery_mode": properties.delivery_mode(),
        "priority": properties.priority(),
        "timestamp": properties.timestamp(),
    }));
    for (name, value) in properties.texts() {
        shown.insert(name.to_owned(), json!(value.map(String::from_utf8_lossy)));
    }
    shown.retain(|_, value| !value.is_null());
    Value::Object(shown)
}

fn read(properties: &Map<String, Value>) -> Result<PropertiesBuf, Refusal> {
    let mut read = PropertiesBuf::new();
    for (name, value) in properties {
        let wrong = || Refusal::bad_request(format!("property {name} cannot be {value}"));
        let number = || value.as_u64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(wrong);
        let octet = || u8::try_from(number()?).map_err(|_| wrong());
        let text = || value.as_str().filter(|text| text.len() <= 255).ok_or_else(wrong);
        match name.as_str() {
            "headers" => {
                let headers = json::to_table(value.as_object().ok_or_else(wrong)?)?;
                read.headers(headers.as_table())
            }
            "delivery_mode" => read.delivery_mode(octet()?),
            "priority" => read.priority(octet()?),
            "timestamp" => read.timestamp(number()?),
            "content_type" => read.content_type(text()?),
            "content_encoding" => read.content_encoding(text()?),
            "correlation_id" => read.correlation_id(text()?),
            "reply_to" => read.reply_to(text()?),
            "expiration" => read.expiration(text()?),
            "message_id" => read.message_id(text()?),
            "type" => read.kind(text()?),
            "user_id" => read.user_id(text()?),
            "app_id" => read.app_id(text()?),
            "cluster_id" => read.cluster_id(text()?),
            _ => return Err(Refusal::bad_request(format!("property {name} is unknown"))),
        };
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::HeaderMap;
    use serde_json::{Value, json};

    use super::{confirmed, get};
    use crate::broker::Broker;
    use crate::broker::vhost::{Actor, QueueRequest};
    use crate::config::Config;
    use crate::mgmt::call::Call;
    use crate::mgmt::insider::Insider;
    use crate::mgmt::places::Places;
    use crate::mgmt::{Listening, Mgmt};
    use crate::protocol::properties::PropertiesBuf;
    use crate::protocol::table::Table;
    use crate::transfer::board::Board;
    use crate::transfer::uri::Names;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_there_is_no_room_to_tell_of_is_not_taken() {
        let broker = Arc::new(Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap());
        let (user, vhost) = (broker.users.get("guest").unwrap(), broker.vhost("/").unwrap());
        let actor = Actor { user: Arc::clone(&user), connection: broker.connect().connection() };
        let arguments = Table::EMPTY;
        let request =
            QueueRequest { name: "q", durable: false, exclusive: false, auto_delete: false, arguments };
        vhost.declare_queue(&actor, &request).unwrap();
        let mut insider = Insider::connect(&broker, &user, "/").unwrap();
        for _ in 0..3 {
            confirmed(&mut insider, (b"", b"q"), &PropertiesBuf::new().encode(), vec![b'x'; MIB].into())
                .unwrap();
        }
        drop(insider);
        let mgmt = Mgmt::new(Board::new(Arc::clone(&broker), Names::default()), Listening::default(), None);
        let places = Places::new();
        let ask = || {
            let body = json!({"count": 3, "ackmode": "ack_requeue_false", "encoding": "auto"}).to_string();
            let parts =
                [("vhost", "/"), ("name", "q")].map(|(key, value)| (key.to_owned(), value.to_owned()));
            let call = Call {
                mgmt: &mgmt,
                places: &places,
                user: Some(Arc::clone(&user)),
                parts: parts.into(),
                query: Vec::new(),
                headers: HeaderMap::new(),
                body: body.into(),
            };
            let answer = get(&call).ok()?;
            let shown: Value = serde_json::from_slice(answer.body()).unwrap();
            Some((shown.as_array().unwrap().len(), answer))
        };
        let left = || vhost.queue("q").unwrap().tally.ready.read();
        let mut others = places.room();
        others.grow(254 * MIB + MIB / 2).unwrap();
        let (shown, answer) = ask().unwrap();
        assert_eq!((shown, left()), (1, 2), "there is room for one");
        assert!(ask().is_none(), "the answer before has not been read");
        assert_eq!(left(), 2, "nothing is lost");
        drop(answer);
        assert_eq!(ask().map(|(shown, _)| shown), Some(1));
        drop(others);
        assert_eq!((ask().map(|(shown, _)| shown), left()), (Some(1), 0));
    }
}
