//! Messages that are moved once: dead letters back to where they died, or from a queue to another place; and how far they
//! have got.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use axum::http::StatusCode;

use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::change::{check_length, flag};
use crate::mgmt::views::exchanges::name_of;
use crate::mgmt::{json, listing};
use crate::protocol::table::TableBuf;
use crate::transfer::board::Transfer;
use crate::transfer::job::State;
use crate::transfer::message::Stamp;
use crate::transfer::plan::{AckMode, End, From, Intake, Plan, To};
use crate::transfer::redrive::{Choice, Filter};

/// So many messages are on their way at a time.
const PREFETCH: u16 = 1000;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e6;

/// Begins one.
pub(crate) fn redrive(call: &Call<'_>) -> Result<Answer, Refusal> {
    let body = call.object()?;
    let (vhost, queue) = (call.vhost()?, call.part("name"));
    vhost.queue(queue).ok_or_else(Refusal::not_found)?;
    let known = ["to", "filter", "rate", "limit", "dry_run", "keep_deaths"];
    refuse_unknown(&body, &known, "a redrive")?;
    let to = to(&body)?;
    let keeps_deaths = flag(&body, "keep_deaths", true)?;
    let choice = Choice {
        filter: filter(&body)?,
        limit: number(&body, "limit")?,
        rate: rate(&body)?,
        is_dry: flag(&body, "dry_run", false)?,
    };
    let stamp = Stamp {
        drops_deaths: !keeps_deaths,
        drops_copies: !matches!(to, To::Exchange { key: None, .. }),
        ..Stamp::default()
    };
    let user = call.user()?;
    let end = || End { vhost: vhost.name().to_string(), login: None };
    let plan = Plan {
        name: format!("Redrive {queue}"),
        user: user.name.as_str().into(),
        source: end(),
        sink: end(),
        from: From::Queue { name: queue.to_owned(), declared: None, consumer: TableBuf::new() },
        to,
        intake: Intake::Chosen(choice),
        prefetch: PREFETCH,
        ack_mode: AckMode::OnConfirm,
        stamp,
    };
    let began = call.mgmt.transfers.begin(user, (vhost.name(), queue), plan, Now::read());
    let transfer = began.map_err(|full| Refusal::bad_request(full.to_string()))?;
    let answer = Answer::with_status(StatusCode::ACCEPTED, &shown(&transfer, Now::read()));
    Ok(answer.at(&format!("/api/transfers/{}", transfer.id)))
}

fn refuse_unknown(object: &Map<String, Value>, known: &[&str], what: &str) -> Result<(), Refusal> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Refusal::bad_request(format!("{what} has no {key:?}: it has {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn to(body: &Map<String, Value>) -> Result<To, Refusal> {
    let to = match body.get("to") {
        None | Some(Value::Null) => return Ok(To::Origin),
        Some(Value::Object(to)) => to,
        Some(_) => return Err(Refusal::bad_request("to is no object")),
    };
    refuse_unknown(to, &["queue", "exchange", "routing_key"], "to")?;
    match (text(to, "queue")?, text(to, "exchange")?, text(to, "routing_key")?) {
        (Some(name), None, None) => Ok(To::Queue { name, declared: None }),
        (None, Some(exchange), key) => Ok(To::Exchange { name: Some(name_of(&exchange).to_owned()), key }),
        _ => Err(Refusal::bad_request("to names a queue, or an exchange and perhaps a routing_key")),
    }
}

fn text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => check_length(text).map(|()| Some(text.clone())),
        Some(other) => Err(Refusal::bad_request(format!("{name} is no text: {other}"))),
    }
}

fn number(body: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().or_else(|| value.as_str()?.parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::bad_request(format!("{name} is no number: {value}"))),
        },
    }
}

fn rate(body: &Map<String, Value>) -> Result<Option<f64>, Refusal> {
    match body.get("rate") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().or_else(|| value.as_str()?.parse().ok()) {
            Some(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(Some(rate)),
            _ => {
                Err(Refusal::bad_request(format!("rate is no number from {RATE_MIN} to {RATE_MAX}: {value}")))
            }
        },
    }
}

fn filter(body: &Map<String, Value>) -> Result<Filter, Refusal> {
    let filter = match body.get("filter") {
        None | Some(Value::Null) => return Ok(Filter::default()),
        Some(Value::Object(filter)) => filter,
        Some(_) => return Err(Refusal::bad_request("filter is no object")),
    };
    refuse_unknown(filter, &["header", "routing_key", "exchange", "reason", "queue"], "filter")?;
    let headers = match filter.get("header") {
        None | Some(Value::Null) => TableBuf::new(),
        Some(Value::Object(headers)) => json::to_table(headers)?,
        Some(_) => return Err(Refusal::bad_request("filter's header is no object of names and values")),
    };
    Ok(Filter {
        exchange: text(filter, "exchange")?.map(|name| name_of(&name).to_owned()),
        routing_key: text(filter, "routing_key")?,
        reason: text(filter, "reason")?,
        queue: text(filter, "queue")?,
        headers,
    })
}

/// Those in virtual hosts that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (vhosts, now) = (call.visible_vhosts(), Now::read());
    let mut all = call.mgmt.transfers.transfers(now);
    all.retain(|transfer| vhosts.iter().any(|vhost| **vhost.name() == *transfer.vhost));
    listing::list(call, all, |transfer| transfer.id.clone(), |transfer| shown(transfer, now))
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(&*find(call)?, Now::read())))
}

/// Ends one: what is moved is moved, and the rest stays.
pub(crate) fn cancel(call: &Call<'_>) -> Result<Answer, Refusal> {
    let transfer = find(call)?;
    if *transfer.plan.user != *call.user()?.name && !call.is_administrator() {
        return Err(Refusal::not_authorised("User not authorised to access object"));
    }
    transfer.told.stop();
    Ok(Answer::done(Lsn::default()))
}

fn find(call: &Call<'_>) -> Result<Arc<Transfer>, Refusal> {
    let vhosts = call.visible_vhosts();
    let all = call.mgmt.transfers.transfers(Now::read());
    let is_it = |transfer: &Arc<Transfer>| {
        transfer.id == call.part("id") && vhosts.iter().any(|vhost| **vhost.name() == *transfer.vhost)
    };
    all.into_iter().find(is_it).ok_or_else(Refusal::not_found)
}

fn shown(transfer: &Transfer, now: Now) -> Value {
    let (told, stand) = (&transfer.told, transfer.told.stand());
    let (state, error) = match &stand.state {
        State::Starting => ("starting", None),
        State::Running | State::Terminated(_) => ("running", None),
        State::Completed => ("completed", None),
        State::Cancelled => ("cancelled", None),
        State::Failed(reason) => ("failed", Some(reason.clone())),
    };
    let is_over = stand.state.is_over();
    let until = if is_over { stand.since } else { now };
    let seconds = until.instant.saturating_duration_since(transfer.began.instant).as_secs_f64();
    let (moved, limits) = (told.moved.read(), choice(&transfer.plan));
    let destinations: Map<String, Value> =
        stand.destinations.iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    json!({
        "id": transfer.id,
        "vhost": transfer.vhost,
        "queue": transfer.queue,
        "user": &*transfer.plan.user,
        "state": state,
        "error": error.or(stand.complaint),
        "dry_run": limits.is_some_and(|choice| choice.is_dry),
        "rate_limit": limits.and_then(|choice| choice.rate),
        "limit": limits.and_then(|choice| choice.limit),
        "total": told.total.read(),
        "looked_at": told.looked.read(),
        "moved": moved,
        "skipped": told.skipped.read(),
        "failed": told.failed.read(),
        "rate": if seconds > 0.0 { moved as f64 / seconds } else { 0.0 },
        "destinations": destinations,
        "began_at": transfer.began.unix_ms,
        "ended_at": is_over.then_some(stand.since.unix_ms),
    })
}

fn choice(plan: &Plan) -> Option<&Choice> {
    match &plan.intake {
        Intake::Chosen(choice) => Some(choice),
        _ => None,
    }
}
