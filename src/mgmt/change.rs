//! What handlers share that change something: the answers, and what bodies say.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::auth::permissions::Permissions;
use crate::auth::users::{Profile, User};
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

/// What others do is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Short strings have no more, in bytes.
const SHORT_BYTES_MAX: usize = 255;
/// Connections have numbers from one on: this is nobody's.
const NO_CONNECTION: ConnectionId = ConnectionId(0);

/// Does all that is left of a change, a turn after the other, and tells what became of it.
///
/// # Errors
/// What the broker has refused.
pub(crate) fn done(call: &Call<'_>, begun: Result<Undertaking, AdminError>) -> Result<Answer, Refusal> {
    let mut undertaking = begun?;
    in_turns(|wakes| undertaking.step(&call.mgmt.broker, wakes));
    // It may have been a shovel's, or a virtual host's that has some.
    call.mgmt.transfers.look();
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

/// Looks now and then until it is so.
pub(crate) fn once(mut is_so: impl FnMut(&mut Wakes) -> bool) {
    loop {
        let mut wakes = Wakes::default();
        wakes.begin_turn(Now::read().steady_ms);
        let is_so = is_so(&mut wakes);
        wakes.fire();
        if is_so {
            return;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Who asks, as one who has no connection.
///
/// # Errors
/// Nobody does.
pub(crate) fn actor(call: &Call<'_>) -> Result<Actor, Refusal> {
    Ok(Actor { user: Arc::clone(call.user()?), connection: NO_CONNECTION })
}

/// Who brings definitions in: an administrator, who need not have permissions in the virtual hosts that come with them.
///
/// # Errors
/// Nobody does.
pub(crate) fn importer(call: &Call<'_>, vhost: &str) -> Result<Actor, Refusal> {
    let permissions = [(vhost.to_owned(), Permissions::all())].into();
    let user = User::new(&call.user()?.name, Profile { permissions, ..Profile::default() });
    Ok(Actor { user: Arc::new(user), connection: NO_CONNECTION })
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
///
/// # Errors
/// It is something else.
pub(crate) fn flag(body: &Map<String, Value>, name: &str, usual: bool) -> Result<bool, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(usual),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
        Some(other) => Err(Refusal::bad_request(format!("{name} is no boolean: {other}"))),
    }
}

/// The number that a body sets a limit to.
///
/// # Errors
/// A body without a number.
pub(crate) fn limit(call: &Call<'_>) -> Result<i64, Refusal> {
    let body = call.object()?;
    let value = body.get("value").ok_or_else(|| Refusal::bad_request("[{key_missing,value}]"))?;
    let value = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    value.ok_or_else(|| Refusal::bad_request("the value is no number"))
}

/// Whether this can be a name, or a key: both are short strings for clients.
///
/// # Errors
/// It is too long.
pub(crate) fn check_length(name: &str) -> Result<(), Refusal> {
    match name.len() {
        ..=SHORT_BYTES_MAX => Ok(()),
        bytes => Err(Refusal::bad_request(format!(
            "a name or key of {bytes} bytes is longer than {SHORT_BYTES_MAX}"
        ))),
    }
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
