//! /api/shovels, and links of federation, of which there are none.

use serde_json::{Map, Value, json};

use crate::broker::admin::Undertaking;
use crate::broker::admin::parameters::SHOVEL;
use crate::clock::Now;
use crate::message::place::Lsn;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::{self, entries};
use crate::mgmt::{change, listing};
use crate::transfer::board::Running;
use crate::transfer::job::State;
use crate::transfer::shovel::{self, Shovel};

/// Shovels of the virtual hosts that the user may see.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, |running| vhosts.iter().any(|vhost| **vhost.name() == *running.kept.vhost))
}

/// Those of a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, |running| *running.kept.vhost == *call.part("vhost"))
}

fn list_these(call: &Call<'_>, is_meant: impl Fn(&Running) -> bool) -> Result<Answer, Refusal> {
    let mut all = call.mgmt.transfers.shovels(Now::read());
    all.retain(is_meant);
    listing::list(call, all, |running| running.kept.name.to_string(), |running| shown(call, running))
}

/// One of them.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(listing::one(call, &shown(call, &find(call)?)))
}

/// Deletes one.
pub(crate) fn delete(call: &Call<'_>) -> Result<Answer, Refusal> {
    let cleared = call.mgmt.broker.clear_parameter(call.part("vhost"), SHOVEL, call.part("name"));
    change::done(call, cleared)
}

/// Begins one anew.
pub(crate) fn restart(call: &Call<'_>) -> Result<Answer, Refusal> {
    find(call)?.told.restart();
    call.mgmt.transfers.look();
    Ok(Answer::done(Lsn::default()))
}

/// None.
pub(crate) fn no_links(_: &Call<'_>) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!([])))
}

fn find(call: &Call<'_>) -> Result<Running, Refusal> {
    let (vhost, name) = (call.part("vhost"), call.part("name"));
    let all = call.mgmt.transfers.shovels(Now::read());
    let found = all.into_iter().find(|running| *running.kept.vhost == *vhost && *running.kept.name == *name);
    found.ok_or_else(Refusal::not_found)
}

fn shown(call: &Call<'_>, running: &Running) -> Value {
    let (stand, told) = (running.told.stand(), &running.told);
    let (state, reason) = match stand.state {
        State::Starting => ("starting", None),
        State::Running => ("running", stand.complaint),
        State::Completed | State::Cancelled => ("terminated", None),
        State::Terminated(reason) | State::Failed(reason) => ("terminated", Some(reason)),
    };
    let mut shown = entries(json!({
        "node": call.mgmt.node,
        "timestamp": date(stand.since),
        "name": &*running.kept.name,
        "vhost": &*running.kept.vhost,
        "type": "dynamic",
        "state": state,
        "reason": reason,
        "src_protocol": "amqp091",
        "dest_protocol": "amqp091",
        "forwarded": told.moved.read(),
        "pending": told.looked.read().saturating_sub(told.moved.read()),
    }));
    if let Ok(shovel) = &running.shovel {
        shown.extend(shovel.shown.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
    }
    shown.retain(|_, value| !value.is_null());
    Value::Object(shown)
}

/// A time as RabbitMQ tells it here.
fn date(now: Now) -> String {
    let date = i64::try_from(now.unix_ms / 1000)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    date.map(|date| {
        let (month, day) = (u8::from(date.month()), date.day());
        format!(
            "{}-{month:02}-{day:02} {}:{:02}:{:02}",
            date.year(),
            date.hour(),
            date.minute(),
            date.second()
        )
    })
    .unwrap_or_default()
}

/// Whether a shovel of this name may say this.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(
    call: &Call<'_>,
    vhost: &str,
    name: &str,
    value: &Map<String, Value>,
) -> Result<Shovel, Refusal> {
    let said = json::to_table(value)?;
    let (names, broker) = (&call.mgmt.transfers.names, &call.mgmt.broker);
    let read = Shovel::read((vhost, name), said.as_table(), &call.user()?.name, names, broker);
    read.map_err(Refusal::bad_request)
}

/// Whether there is a place for one beside so many that come with it.
///
/// # Errors
/// There is none.
pub(crate) fn check_room(call: &Call<'_>, vhost: &str, name: &str, others: usize) -> Result<(), Refusal> {
    let room = call.mgmt.transfers.check_room_for_shovel(vhost, name, others);
    room.map_err(|full| Refusal::bad_request(full.to_string()))
}

/// Sets one: whoever does is kept with it, for it is they who move messages where it names nobody else.
pub(crate) fn set(
    call: &Call<'_>,
    vhost: &str,
    name: &str,
    value: &Map<String, Value>,
) -> Result<Undertaking, Refusal> {
    let user = call.user()?;
    check(call, vhost, name, value)?;
    check_room(call, vhost, name, 0)?;
    let kept = shovel::set_by(json::to_table(value)?.as_table(), &user.name);
    Ok(call.mgmt.broker.set_parameter(vhost, SHOVEL, name, kept.as_table())?)
}
