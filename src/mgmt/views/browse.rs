//! Messages that wait, one by one: looked at and left alone, deleted, moved; and those that an exchange delays, which can be
//! cancelled. Each is named by its number in its queue, which no other ever gets.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::permissions::Access;
use crate::broker::copies;
use crate::broker::error::ResourceKind;
use crate::broker::queue::browse::Browser;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::message::place::Seq;
use crate::message::record::{BodyView, MessageView};
use crate::message::run::Run;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change::{actor, text};
use crate::mgmt::insider::{Insider, Purpose};
use crate::mgmt::json;
use crate::mgmt::listing;
use crate::mgmt::views::exchanges::name_of;
use crate::mgmt::views::messages;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::routing::delayed::delay_ms;
use crate::storage::error::StoreError;

/// So many messages are shown when nobody says how many, and at most.
const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 1000;
/// So much of a body is shown when nobody says how much, in bytes.
const SHOWN_BYTES_DEFAULT: u64 = 50_000;
/// With so many bytes on it a page is full.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// So many messages are looked at for one answer, and no more with so many bytes, which the disk may have to read: whoever
/// searches for more goes on from there.
const LOOKED_AT_MAX: u64 = 100_000;
const LOOKED_AT_BYTES_MAX: u64 = 64 << 20;

/// Who wants to see what is further behind goes on by numbers.
const OFFSET_MAX: u64 = 10_000;

/// Headers by which messages are searched are asked for with this before their names.
const HEADER_PREFIX: &str = "header.";

/// Where messages are looked at.
struct Waiting {
    queue: Arc<Queue>,
    is_delayed: bool,
}

/// Which messages are asked for.
struct Wanted<'a> {
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
    message_id: Option<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
}

/// How bodies are shown.
struct Shape {
    bytes_max: usize,
    as_base64: bool,
}

/// Lists messages of a queue.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    page(call, &of_queue(call)?)
}

/// Shows one.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    one(call, &of_queue(call)?)
}

/// Deletes one.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    remove(call, &of_queue(call)?)
}

/// Lists messages that an exchange delays.
pub(crate) fn list_delayed(call: &Call<'_>) -> Result<Answer, Refusal> {
    page(call, &of_exchange(call)?)
}

/// Shows one.
pub(crate) fn show_delayed(call: &Call<'_>) -> Result<Answer, Refusal> {
    one(call, &of_exchange(call)?)
}

/// Cancels one.
pub(crate) fn cancel_delayed(call: &Call<'_>) -> Result<Answer, Refusal> {
    remove(call, &of_exchange(call)?)
}

/// Moves a message to a queue, or by an exchange and a key. It leaves its queue when others are responsible for it, and
/// stays where none is. As with dead letters whose key is given, other keys that it came with count no more.
pub(crate) fn put_elsewhere(call: &Call<'_>) -> Result<Answer, Refusal> {
    let waiting = of_queue(call)?;
    let body = call.object()?;
    let (exchange, key) = match body.get("queue") {
        Some(Value::String(queue)) => ("", queue.as_str()),
        _ => (name_of(text(&body, "exchange")?), text(&body, "routing_key")?),
    };
    let seq = number(call)?;
    let run = find(&waiting.queue, seq)?;
    let message = run.messages().next().ok_or_else(Refusal::not_found)?;
    messages::check_alarms(call)?;
    let (broker, vhost) = (&call.mgmt.broker, call.part("vhost"));
    let mut insider = Insider::connect_for(Purpose::Move, broker, call.user()?, vhost)?;
    let mut wakes = Wakes::default();
    wakes.begin_turn(Now::read().steady_ms);
    let picked = waiting.queue.pick(seq, &wakes).ok_or_else(Refusal::not_found)?;
    let properties = copies::without_keys(message.properties);
    let to = (exchange.as_bytes(), key.as_bytes());
    if !messages::confirmed(&mut insider, to, &properties, whole(message.body, usize::MAX).into())? {
        return Err(Refusal::bad_request("no queue takes it there"));
    }
    wakes.begin_turn(Now::read().steady_ms);
    let after = picked.settle(&mut wakes);
    wakes.fire();
    Ok(Answer::done(after))
}

fn of_queue(call: &Call<'_>) -> Result<Waiting, Refusal> {
    let queue = call.vhost()?.find_to_read(&actor(call)?, call.part("name"))?;
    Ok(Waiting { queue, is_delayed: false })
}

fn of_exchange(call: &Call<'_>) -> Result<Waiting, Refusal> {
    let (vhost, name) = (call.vhost()?, name_of(call.part("exchange")));
    vhost.check_access(&actor(call)?, Access::Read, ResourceKind::Exchange, name)?;
    let exchange = vhost.find_exchange(name)?;
    let no_delays = || Refusal::bad_request(format!("exchange '{name}' delays no messages"));
    Ok(Waiting { queue: Arc::clone(exchange.delays().ok_or_else(no_delays)?), is_delayed: true })
}

fn page(call: &Call<'_>, waiting: &Waiting) -> Result<Answer, Refusal> {
    let (wanted, shape) = (Wanted::of(call), Shape::of(call)?);
    let limit = numeral(call, "limit")?.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX) as usize;
    let mut skipped = numeral(call, "offset")?.unwrap_or(0);
    if skipped > OFFSET_MAX {
        return Err(Refusal::bad_request(format!("offset is more than {OFFSET_MAX}: go on by after")));
    }
    let mut next = numeral(call, "after")?.map_or(Seq(0), |after| Seq(after.saturating_add(1)));
    let mut browser = Browser::new(Arc::clone(&waiting.queue), next);
    let (mut items, mut bytes, mut looked_at, mut looked_at_bytes) = (Vec::new(), 0, 0, 0);
    let mut is_full = limit == 0;
    'looking: while !is_full && let Some(runs) = browser.look()? {
        for (seq, run, message) in runs.iter().flat_map(numbered) {
            looked_at += 1;
            looked_at_bytes += message.body.len() as u64;
            next = seq.after(1);
            if wanted.has(&message) {
                match skipped {
                    0 => {
                        bytes += message.body.len().min(shape.bytes_max) + message.properties.len();
                        items.push(item(waiting, seq, run, &message, &shape));
                    }
                    _ => skipped -= 1,
                }
            }
            let has_looked_enough = looked_at >= LOOKED_AT_MAX || looked_at_bytes >= LOOKED_AT_BYTES_MAX;
            is_full = items.len() >= limit || bytes >= PAGE_BYTES_MAX || has_looked_enough;
            if is_full {
                break 'looking;
            }
        }
    }
    let next = is_full.then(|| next.0.saturating_sub(1).to_string());
    Ok(Answer::json(&json!({"items": items, "looked_at": looked_at, "next": next})))
}

fn one(call: &Call<'_>, waiting: &Waiting) -> Result<Answer, Refusal> {
    let seq = number(call)?;
    let run = find(&waiting.queue, seq)?;
    let message = run.messages().next().ok_or_else(Refusal::not_found)?;
    Ok(listing::one(call, &item(waiting, seq, &run, &message, &Shape::of(call)?)))
}

fn remove(call: &Call<'_>, waiting: &Waiting) -> Result<Answer, Refusal> {
    let mut wakes = Wakes::default();
    wakes.begin_turn(Now::read().steady_ms);
    let picked = waiting.queue.pick(number(call)?, &wakes).ok_or_else(Refusal::not_found)?;
    let after = picked.settle(&mut wakes);
    wakes.fire();
    Ok(Answer::done(after))
}

/// The message of this number, as a run of it alone.
fn find(queue: &Arc<Queue>, seq: Seq) -> Result<Run, Refusal> {
    let found = Browser::new(Arc::clone(queue), seq).look()?;
    let first = found.and_then(|runs| runs.first()?.part(seq, seq.after(1)));
    first.ok_or_else(Refusal::not_found)
}

/// The messages of a run with their numbers.
fn numbered(run: &Run) -> impl Iterator<Item = (Seq, &Run, MessageView<'_>)> {
    (run.first_seq().0..).zip(run.messages()).map(move |(seq, message)| (Seq(seq), run, message))
}

fn item(waiting: &Waiting, seq: Seq, run: &Run, message: &MessageView<'_>, shape: &Shape) -> Value {
    let shown = match run.is_blind() {
        true => copies::without_blind(message.properties),
        false => message.properties.to_vec(),
    };
    let properties = Properties::unchecked(&shown);
    let (payload, encoding) = messages::payload(&whole(message.body, shape.bytes_max), shape.as_base64);
    let received_ms = run.header().stamp.received_ms;
    let mut item = json!({
        "id": seq.0.to_string(),
        "exchange": String::from_utf8_lossy(message.names.exchange()),
        "routing_key": String::from_utf8_lossy(message.names.routing_key()),
        "redelivered": run.is_redelivered(),
        "received": received_ms,
        "properties": messages::shown(&properties),
        "payload_bytes": message.body.len(),
        "payload": payload,
        "payload_encoding": encoding,
    });
    if waiting.is_delayed {
        let delay_ms = delay_ms(properties).unwrap_or(0);
        json::put(&mut item, "delay", json!(delay_ms));
        json::put(&mut item, "due", json!(received_ms.saturating_add(delay_ms)));
    }
    item
}

/// The first bytes of a body.
fn whole(body: BodyView<'_>, bytes_max: usize) -> Vec<u8> {
    let pieces = match &body {
        BodyView::Slice(slice) => {
            return slice.get(..bytes_max.min(slice.len())).unwrap_or_default().to_vec();
        }
        BodyView::Chunks(pieces) => pieces.iter(),
    };
    let mut whole = Vec::new();
    for piece in pieces {
        let left = bytes_max.saturating_sub(whole.len());
        whole.extend_from_slice(piece.get(..left.min(piece.len())).unwrap_or_default());
    }
    whole
}

fn number(call: &Call<'_>) -> Result<Seq, Refusal> {
    call.part("id").parse().map(Seq).map_err(|_| Refusal::bad_request("the id is no number"))
}

fn numeral(call: &Call<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = call.asked(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Refusal::bad_request(format!("{name} is no number")))
}

impl<'a> Wanted<'a> {
    fn of(call: &'a Call<'_>) -> Self {
        let headers =
            call.query.iter().filter_map(|(name, value)| Some((name.strip_prefix(HEADER_PREFIX)?, &**value)));
        Self {
            exchange: call.asked("exchange"),
            routing_key: call.asked("routing_key"),
            message_id: call.asked("message_id"),
            headers: headers.collect(),
        }
    }

    fn has(&self, message: &MessageView<'_>) -> bool {
        let is = |asked: Option<&str>, own: &[u8]| asked.is_none_or(|asked| asked.as_bytes() == own);
        let properties = Properties::unchecked(message.properties);
        is(self.exchange, message.names.exchange())
            && is(self.routing_key, message.names.routing_key())
            && is(self.message_id, properties.message_id().unwrap_or_default())
            && self.headers.iter().all(|(name, value)| has_header(properties.headers(), name, value))
    }
}

/// Whether a header has this value, as it is written in JSON, or without quotes where it is a text.
fn has_header(headers: Option<Table<'_>>, name: &str, value: &str) -> bool {
    let field = headers.and_then(|headers| headers.get(name));
    field.is_some_and(|field| match json::value(field) {
        Value::String(text) => text == value,
        other => serde_json::from_str::<Value>(value).is_ok_and(|value| value == other),
    })
}

impl Shape {
    fn of(call: &Call<'_>) -> Result<Self, Refusal> {
        let bytes_max = numeral(call, "truncate")?.unwrap_or(SHOWN_BYTES_DEFAULT);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Ok(Self { bytes_max, as_base64: messages::is_base64(call.asked("encoding").unwrap_or("auto"))? })
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "messages that were asked for could not be read");
        Self::unavailable()
    }
}
