//! What handlers share that change something: the answers, and what bodies say.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::broker::admin::parameters::Kept;
use crate::broker::admin::{AdminError, Undertaking};
use crate::broker::error::BrokerError;
use crate::broker::node::ConnectionId;
use crate::broker::presence::Opened;
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{Actor, Vhost};
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::protocol::field::Field;
use crate::protocol::table::TableBuf;

/// Connections have numbers from one on: this is nobody's.
const NO_CONNECTION: ConnectionId = ConnectionId(0);

/// Does all that is left of a change, a turn after the other, and tells what became of it.
///
/// # Errors
/// What the broker has refused.
pub(crate) fn done(call: &Call<'_>, begun: Result<Undertaking, AdminError>) -> Result<Answer, Refusal> {
    let mut undertaking = begun?;
    in_turns(|wakes| undertaking.step(&call.mgmt.broker, wakes));
    Ok(Answer::changed(status(undertaking.is_new), undertaking.after))
}

/// What tells something new from what was there.
pub(crate) fn status(is_new: bool) -> StatusCode {
    if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }
}

/// Does all that is left of a deletion; what the answer waits for.
pub(crate) fn finish(vhost: &Vhost, mut removal: Removal) -> Lsn {
    in_turns(|wakes| {
        let mut steps = wakes.turn_steps();
        removal.step(vhost, wakes, &mut steps)
    });
    removal.after()
}

/// Takes turns until `step` says that all is done. Others run in between: no lock is held.
pub(crate) fn in_turns(mut step: impl FnMut(&mut Wakes) -> bool) {
    loop {
        let mut wakes = Wakes::default();
        wakes.begin_turn(Now::read().steady_ms);
        let is_done = step(&mut wakes);
        wakes.fire();
        if is_done {
            return;
        }
    }
}

/// Who asks, as one who has no connection.
///
/// # Errors
/// Nobody does.
pub(crate) fn actor(call: &Call<'_>) -> Result<Actor, Refusal> {
    Ok(Actor { user: Arc::clone(call.user()?), connection: NO_CONNECTION })
}

/// Closes the connections of which this is true.
pub(crate) fn close_connections(call: &Call<'_>, is_meant: impl Fn(&Opened) -> bool, reason: &str) {
    let broker = &call.mgmt.broker;
    for outbox in broker.open_connections() {
        if outbox.presence.opened().is_some_and(&is_meant) {
            broker.close_connection(&outbox, reason);
        }
    }
}

/// A text that a body must have.
///
/// # Errors
/// It has none.
pub(crate) fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    let missing = || Refusal::bad_request(format!("[{{key_missing,{name}}}]"));
    body.get(name).and_then(Value::as_str).ok_or_else(missing)
}

/// A flag that a body may have.
pub(crate) fn flag(body: &Map<String, Value>, name: &str, usual: bool) -> bool {
    match body.get(name) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text == "true",
        _ => usual,
    }
}

/// Limits with the one more that the path and the body say.
///
/// # Errors
/// A body without a number.
pub(crate) fn with_limit(call: &Call<'_>, before: Option<&Kept>) -> Result<TableBuf, Refusal> {
    let body = call.object()?;
    let value = body.get("value").ok_or_else(|| Refusal::bad_request("[{key_missing,value}]"))?;
    let value = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let value = value.ok_or_else(|| Refusal::bad_request("the value is no number"))?;
    let mut limits = without(call.part("name"), before);
    limits.insert(call.part("name"), Field::I64(value));
    Ok(limits)
}

/// Limits without the one that the path names; nothing when none is left.
pub(crate) fn without_limit(call: &Call<'_>, before: Option<&Kept>) -> Option<TableBuf> {
    Some(without(call.part("name"), before)).filter(|limits| !limits.as_table().is_empty())
}

fn without(name: &str, before: Option<&Kept>) -> TableBuf {
    let mut limits = TableBuf::new();
    for (key, value) in before.iter().flat_map(|kept| kept.value().iter()) {
        if key != name.as_bytes() {
            limits.insert_bytes(key, value);
        }
    }
    limits
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NotFound => Self::not_found(),
            other => Self::bad_request(other.to_string()),
        }
    }
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::NotFound(_) => Self::not_found(),
            BrokerError::AccessRefused { .. } | BrokerError::TopicRefused { .. } => {
                Self::not_authorised(&error.to_string())
            }
            other => Self::bad_request(other.to_string()),
        }
    }
}
