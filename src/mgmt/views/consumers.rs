//! GET /api/consumers.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::broker::consumer::Consumer;
use crate::broker::presence::Subscribed;
use crate::broker::queue::handle::Queue;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::put;
use crate::mgmt::views::channels::{Listed, of_connections};
use crate::mgmt::views::{connections, queues};
use crate::mgmt::{json, listing};

/// A consumer, and its channel.
struct Found {
    channel: Listed,
    subscribed: Subscribed,
    consumer: Arc<Consumer>,
}

/// Those in virtual hosts that the user may see; of others' connections only whoever monitors sees them.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhosts = call.visible_vhosts();
    list_these(call, |vhost| vhosts.iter().any(|visible| **visible.name() == *vhost))
}

/// Those in a virtual host, if the user may see them: otherwise there are none, as in RabbitMQ.
pub(crate) fn list_of_vhost(call: &Call<'_>) -> Result<Answer, Refusal> {
    let vhost = call.vhost()?;
    let is_visible = call.sees(&vhost);
    list_these(call, |other| is_visible && *other == **vhost.name())
}

fn list_these(call: &Call<'_>, is_wanted: impl Fn(&str) -> bool) -> Result<Answer, Refusal> {
    let mut found = of_channels(of_connections(&connections::visible(call)?));
    found.retain(|found| found.queue().is_some_and(|queue| is_wanted(&queue.properties.vhost)));
    listing::list(call, found, |found| found.consumer.tag.to_string(), |found| shown(call, found))
}

/// Those of a queue.
pub(crate) fn of_queue(call: &Call<'_>, queue: &Arc<Queue>) -> Value {
    let found = all(call).into_iter();
    let own = found.filter(|found| found.queue().is_some_and(|other| Arc::ptr_eq(other, queue)));
    own.map(|found| shown(call, &found)).collect()
}

/// Those of a channel.
pub(crate) fn of_channel(call: &Call<'_>, channel: &Listed) -> Value {
    of_channels(vec![channel.clone()]).iter().map(|found| shown(call, found)).collect()
}

fn all(call: &Call<'_>) -> Vec<Found> {
    of_channels(of_connections(&call.mgmt.broker.open_connections()))
}

fn of_channels(channels: Vec<Listed>) -> Vec<Found> {
    let found = channels.into_iter().flat_map(|channel| {
        let subscribed = channel.tally.consumers().into_iter();
        subscribed.filter_map(move |subscribed| {
            let consumer = subscribed.consumer.upgrade()?;
            Some(Found { channel: channel.clone(), subscribed, consumer })
        })
    });
    found.collect()
}

impl Found {
    fn queue(&self) -> Option<&Arc<Queue>> {
        self.consumer.source.as_ref().map(|source| &source.queue)
    }
}

fn shown(call: &Call<'_>, found: &Found) -> Value {
    let Found { channel, subscribed, consumer } = found;
    let mut of_channel = connections::ends(&channel.outbox);
    put(&mut of_channel, "connection_name", json!(channel.outbox.name()));
    put(&mut of_channel, "name", json!(channel.name()));
    put(&mut of_channel, "pid", json!(connections::pid(call, &channel.outbox, channel.number)));
    put(&mut of_channel, "number", json!(channel.number));
    put(&mut of_channel, "node", json!(call.mgmt.node));
    put(&mut of_channel, "user", json!(queues::user_of(channel.outbox.presence.opened())));
    let is_active = consumer.source.as_ref().is_none_or(|source| source.queue.is_served(source.key));
    let queue = found.queue().map(|queue| &queue.properties);
    json!({
        "consumer_tag": &*consumer.tag,
        "queue": {"name": queue.map(|queue| &*queue.name), "vhost": queue.map(|queue| &*queue.vhost)},
        "ack_required": !consumer.no_ack,
        "exclusive": subscribed.exclusive,
        "prefetch_count": subscribed.prefetch,
        "arguments": json::table(&subscribed.arguments),
        "active": is_active,
        "activity_status": if is_active { "up" } else { "waiting" },
        "consumer_timeout": if consumer.timeout.ms == u64::MAX { 0 } else { consumer.timeout.ms },
        "channel_details": of_channel,
    })
}
