//! GET /api/channels.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use crate::broker::outbox::Outbox;
use crate::broker::presence::{ChannelTally, Condition};
use crate::clock::Now;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::{entries, put};
use crate::mgmt::listing;
use crate::mgmt::rates::Subject;
use crate::mgmt::views::connections;
use crate::mgmt::views::consumers;
use crate::mgmt::views::counts::MESSAGE_STATS;

/// A channel of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) number: u16,
    pub(crate) tally: Arc<ChannelTally>,
}

/// One's own, or all for those who monitor.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    list_these(call, &connections::visible(call)?)
}

/// Those in a virtual host.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut connections = connections::visible(call)?;
    connections
        .retain(|outbox| outbox.presence.opened().is_some_and(|opened| *opened.vhost == *call.part("vhost")));
    list_these(call, &connections)
}

/// One of them, with its consumers.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let all = of_connections(&call.mgmt.broker.open_connections());
    let found = all.into_iter().find(|channel| channel.name() == call.part("name"));
    let found = found.ok_or_else(Refusal::not_found)?;
    let user = call.user()?;
    let is_own = found.outbox.presence.opened().is_some_and(|opened| opened.user == user.name);
    if !is_own && !call.sees_all() {
        return Err(Refusal::not_authorised("User not authorised to access object"));
    }
    let mut shown = shown(call, &found);
    put(&mut shown, "consumer_details", consumers::of_channel(call, &found));
    put(&mut shown, "publishes", json!([]));
    put(&mut shown, "deliveries", json!([]));
    Ok(listing::one(call, &shown))
}

/// Those of these connections.
pub(crate) fn list_these(call: &Call<'_>, connections: &[Arc<Outbox>]) -> Result<Answer, Refusal> {
    listing::list(call, of_connections(connections), Listed::name, |channel| shown(call, channel))
}

/// All channels of these connections.
pub(crate) fn of_connections(connections: &[Arc<Outbox>]) -> Vec<Listed> {
    let channels = connections.iter().flat_map(|outbox| {
        let listed = |(number, tally)| Listed { outbox: Arc::clone(outbox), number, tally };
        outbox.presence.channels().into_iter().map(listed)
    });
    channels.collect()
}

impl Listed {
    /// What a channel is called.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.outbox.name(), self.number)
    }
}

fn shown(call: &Call<'_>, channel: &Listed) -> Value {
    let Listed { outbox, number, tally } = channel;
    let opened = outbox.presence.opened();
    let user = opened.map_or("", |opened| &opened.user);
    let state = if outbox.presence.condition() == Condition::Flow { "flow" } else { "running" };
    let mut shown = entries(json!({
        "name": channel.name(),
        "pid": connections::pid(call, outbox, *number),
        "node": call.mgmt.node,
        "number": number,
        "user": user,
        "user_who_performed_action": user,
        "vhost": opened.map(|opened| &*opened.vhost),
        "state": state,
        "connection_details": connections::ends(outbox),
        "prefetch_count": tally.prefetch.read(),
        "global_prefetch_count": tally.shared_prefetch.read(),
        "consumer_count": tally.consumer_count(),
        "confirm": tally.confirms.load(Ordering::Relaxed),
        "transactional": tally.is_transactional.load(Ordering::Relaxed),
        "messages_unacknowledged": tally.unacked(),
        "messages_unconfirmed": tally.unconfirmed(),
        "pending_raft_commands": 0,
    }));
    let rated = call.mgmt.rates.of(Subject::Channel(Arc::downgrade(tally)), Now::read().instant);
    let mut stats = Map::new();
    rated.put(&MESSAGE_STATS, &mut stats);
    shown.insert("message_stats".to_owned(), Value::Object(stats));
    Value::Object(shown)
}
