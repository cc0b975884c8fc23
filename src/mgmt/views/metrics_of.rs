//! What metrics there are, of what.

use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::alarms::Shortage;
use crate::broker::dead_counts::Strategy;
use crate::broker::presence::ChannelTally;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::tally::Tally;
use crate::clock::Now;
use crate::mgmt::views::channels::{Listed, of_connections};
use crate::mgmt::views::counts::all_channels;
use crate::mgmt::views::metrics::{Labels, OBJECTS_MAX, Scrape};
use crate::mgmt::views::node;
use crate::mgmt::views::node::sockets_max;
use crate::mgmt::{Mgmt, process};
use crate::queue::dying::Reason;
use crate::queue::settings::QueueKind;

/// What RabbitMQ calls the protocol.
const PROTOCOL: (&str, &str) = ("protocol", "amqp091");
/// Milliseconds in a second.
const MS: f64 = 1000.0;

/// The age of a queue's oldest message that is ready; of all queues it is the oldest.
const OLDEST: &str = "queue_oldest_message_age_seconds";
const OLDEST_HELP: &str = "Age of the first message that is ready";

/// A value of a queue.
type OfQueue = fn(&Queue) -> u64;
/// A value of a channel.
type OfChannel = fn(&ChannelTally) -> u64;
/// A value of queues of a kind.
type OfTally = fn(&Tally) -> u64;
/// A name behind the prefix, what it is, whether it only rises, and the value.
type Row<F> = (&'static str, &'static str, bool, F);

#[rustfmt::skip]
const OF_QUEUES: [Row<OfQueue>; 11] = [
    ("queue_messages_ready", "Messages ready to be delivered to consumers", false, |queue| queue.tally.ready.read()),
    ("queue_messages_unacked", "Messages delivered to consumers but not yet acknowledged", false, |queue| queue.tally.unacked.read()),
    ("queue_messages", "Sum of ready and unacknowledged messages, and of dead letters that wait for a place", false, |queue| queue.tally.messages()),
    ("queue_consumers", "Consumers on a queue", false, |queue| queue.tally.consumers.read()),
    ("queue_consumer_utilisation", "Whether consumers take what comes", false, |queue| u64::from(queue.tally.consumers.read() > 0 && queue.flows())),
    ("queue_consumer_capacity", "Whether consumers take what comes", false, |queue| u64::from(queue.tally.consumers.read() > 0 && queue.flows())),
    ("queue_process_memory_bytes", "Memory in bytes used by the queue", false, |queue| queue.index_bytes() + queue.here_bytes.read()),
    ("queue_messages_ready_bytes", "Size in bytes of ready messages", false, |queue| queue.tally.ready_bytes.read()),
    ("queue_messages_ram_bytes", "Size of ready messages in memory", false, |queue| queue.here_bytes.read()),
    ("queue_messages_paged_out_bytes", "Size of ready messages that are on the disk only", false, |queue| queue.tally.ready_bytes.read().saturating_sub(queue.here_bytes.read())),
    ("queue_messages_published", "Total number of messages published to queues", true, |queue| queue.tally.published.read()),
];

#[rustfmt::skip]
const OF_CHANNELS: [Row<OfChannel>; 15] = [
    ("channel_consumers", "Consumers on a channel", false, |channel| channel.consumer_count() as u64),
    ("channel_messages_unacked", "Delivered but not yet acknowledged messages", false, ChannelTally::unacked),
    ("channel_messages_unconfirmed", "Published but not yet confirmed messages", false, ChannelTally::unconfirmed),
    ("consumer_prefetch", "Limit of unacknowledged messages for each consumer", false, |channel| channel.prefetch.read()),
    ("channel_prefetch", "Total limit of unacknowledged messages for all consumers on a channel", false, |channel| channel.shared_prefetch.read()),
    ("channel_messages_published", "Total number of messages published into an exchange on a channel", true, |channel| channel.published.read()),
    ("channel_messages_confirmed", "Total number of messages published into an exchange and confirmed on the channel", true, |channel| channel.confirmed.read()),
    ("channel_messages_unroutable_returned", "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable", true, |channel| channel.returned.read()),
    ("channel_messages_unroutable_dropped", "Total number of messages published as non-mandatory into an exchange and dropped as unroutable", true, |channel| channel.dropped.read()),
    ("channel_get_ack", "Total number of messages fetched with basic.get in manual acknowledgement mode", true, |channel| channel.got.read()),
    ("channel_get", "Total number of messages fetched with basic.get in automatic acknowledgement mode", true, |channel| channel.got_no_ack.read()),
    ("channel_messages_delivered_ack", "Total number of messages delivered to consumers in manual acknowledgement mode", true, |channel| channel.delivered.read()),
    ("channel_messages_delivered", "Total number of messages delivered to consumers in automatic acknowledgement mode", true, |channel| channel.delivered_no_ack.read()),
    ("channel_messages_redelivered", "Total number of messages redelivered to consumers", true, |channel| channel.redelivered.read()),
    ("channel_messages_acked", "Total number of messages acknowledged by consumers", true, |channel| channel.acked.read()),
];

fn one(value: u64) -> Vec<(Labels, f64)> {
    vec![(Labels::new(), value as f64)]
}

fn label(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.to_owned())
}

/// The process, its limits and its store.
pub(crate) fn process(mgmt: &Mgmt, scrape: &mut Scrape) {
    let broker = &mgmt.broker;
    let identity = &broker.config.identity;
    let identified = vec![
        label("rabbitmq_node", &mgmt.node),
        label("rabbitmq_cluster", &identity.cluster_name),
        label("rabbitmq_cluster_permanent_id", &identity.cluster_name),
    ];
    scrape.gauge("rabbitmq_identity_info", "Node and cluster identity information", vec![(identified, 1.0)]);
    let built = vec![
        label("rabbitmq_version", &identity.version),
        label("sluicemq_version", env!("CARGO_PKG_VERSION")),
        label("erlang_version", "none"),
        label("product_name", &identity.product),
        label("product_version", &identity.version),
    ];
    scrape.gauge("rabbitmq_build_info", "Version of the broker", vec![(built, 1.0)]);
    let started = broker.started.unix_ms as f64 / MS;
    scrape.gauge("process_start_time_seconds", "Start time of the process", vec![(Labels::new(), started)]);
    let alarms = &broker.node.alarms;
    for (name, shortage) in [("memory_used", Shortage::Memory), ("free_disk_space", Shortage::Disk)] {
        let name = format!("rabbitmq_alarms_{name}_watermark");
        scrape.gauge(name, "Is 1 if the alarm is in effect", one(u64::from(alarms.is_raised(shortage))));
    }
    let now = Now::read().instant;
    let lasted = [("memory", Shortage::Memory), ("disk", Shortage::Disk)]
        .map(|(name, shortage)| (vec![label("alarm", name)], alarms.lasted_ms(shortage, now) as f64 / MS));
    let help = "Seconds during which publishers were blocked by an alarm";
    scrape.counter("sluicemq_alarm_seconds", help, lasted.into());
    let help = "Connections that publish nothing until an alarm ends";
    scrape.gauge("sluicemq_connections_blocked", help, one(alarms.blocked.len() as u64));
    scrape.gauge("rabbitmq_alarms_file_descriptor_limit", "Is 1 if the alarm is in effect", one(0));
    let limits = broker.node.limits();
    for (name, help, value) in [
        ("process_open_fds", "Open file descriptors", process::open_files()),
        ("process_max_fds", "Open file descriptors limit", process::files_max()),
        ("process_open_tcp_sockets", "Open TCP sockets", broker.connections() as u64),
        ("process_max_tcp_sockets", "Open TCP sockets limit", sockets_max(limits.connections_max)),
        ("process_resident_memory_bytes", "Memory used in bytes", process::resident_bytes()),
        (
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            broker.node.memory.watermark_bytes(),
        ),
        ("disk_space_available_bytes", "Disk space available in bytes", broker.disk_free_bytes.read()),
        (
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            broker.disk_free_limit_bytes.read(),
        ),
    ] {
        scrape.gauge(format!("rabbitmq_{name}"), help, one(value));
    }
    churn(broker, scrape);
    store(broker, scrape);
}

fn churn(broker: &Broker, scrape: &mut Scrape) {
    let churn = &broker.node.churn;
    for (name, help, count) in [
        ("connections_opened", "Total number of connections opened", &churn.connections_opened),
        ("connections_closed", "Total number of connections closed or terminated", &churn.connections_closed),
        ("channels_opened", "Total number of channels opened", &churn.channels_opened),
        ("channels_closed", "Total number of channels closed", &churn.channels_closed),
        ("queues_declared", "Total number of queues declared", &churn.queues_declared),
        ("queues_created", "Total number of queues created", &churn.queues_created),
        ("queues_deleted", "Total number of queues deleted", &churn.queues_deleted),
    ] {
        scrape.counter(format!("rabbitmq_{name}"), help, one(count.read()));
    }
    let logins = [
        ("amqp091", &churn.logins, &churn.logins_refused),
        ("http", &churn.http_logins, &churn.http_logins_refused),
    ];
    let by = |of: fn(u64, u64) -> u64| {
        let sample =
            |(protocol, succeeded, failed): &(&str, &crate::stats::Counter, &crate::stats::Counter)| {
                (vec![label("protocol", protocol)], of(succeeded.read(), failed.read()) as f64)
            };
        logins.iter().map(sample).collect::<Vec<_>>()
    };
    let help = "Total number of authentication attempts";
    scrape.counter("rabbitmq_auth_attempts", help, by(|succeeded, failed| succeeded + failed));
    let help = "Total number of successful authentication attempts";
    scrape.counter("rabbitmq_auth_attempts_succeeded", help, by(|succeeded, _| succeeded));
    let help = "Total number of failed authentication attempts";
    scrape.counter("rabbitmq_auth_attempts_failed", help, by(|_, failed| failed));
}

fn store(broker: &Broker, scrape: &mut Scrape) {
    let (log, store) = (&broker.node.log.counters, &broker.node.counters);
    for (name, help, value) in [
        ("rabbitmq_io_sync_ops", "Total number of I/O sync operations", log.syncs.read()),
        ("rabbitmq_io_write_ops", "Total number of I/O write operations", log.batches.read()),
        ("rabbitmq_io_write_bytes", "Total number of I/O bytes written", log.bytes.read()),
        ("sluicemq_packed_messages", "Messages copied from the log to packs", store.packed_messages.read()),
        (
            "sluicemq_evicted_messages",
            "Messages whose bytes left memory for the disk",
            store.evicted_messages.read(),
        ),
        (
            "sluicemq_spilled_bytes",
            "Bodies written to the disk only to leave memory",
            store.spilled_bytes.read(),
        ),
        ("sluicemq_damaged_messages", "Messages found damaged on the disk", store.damaged_messages.read()),
    ] {
        scrape.counter(name, help, one(value));
    }
    let micros = store.commit_micros.read() as f64 / 1e6;
    let help = "Total time of log batches from their write to the end of their sync";
    scrape.counter("rabbitmq_io_sync_time_seconds", help, vec![(Labels::new(), micros)]);
    scrape.gauge(
        "sluicemq_log_pending_bytes",
        "Bytes that wait to be written to the log",
        one(log.pending_bytes.read()),
    );
}

/// The node's messages, by protocol and kind of queue.
pub(crate) fn messages(mgmt: &Mgmt, scrape: &mut Scrape) {
    let broker = &mgmt.broker;
    let channels = all_channels(broker);
    let kinds = [QueueKind::Classic, QueueKind::Quorum];
    let tallies = kinds.map(|kind| (kind, Tally::default()));
    for (kind, sum) in &tallies {
        sum.absorb(broker.node.tallies.of(*kind));
    }
    for vhost in broker.vhosts() {
        for queue in vhost.queues() {
            let own = tallies.iter().find(|(kind, _)| *kind == queue.kind);
            own.into_iter().for_each(|(_, sum)| sum.absorb(&queue.tally));
        }
    }
    let protocol = || vec![label(PROTOCOL.0, PROTOCOL.1)];
    let routed: u64 = tallies.iter().map(|(_, sum)| sum.published.read()).sum();
    for (name, help, value) in [
        ("received", "Total number of messages received from publishers", channels.published.read()),
        (
            "received_confirm",
            "Total number of messages received from publishers expecting confirmations",
            channels.to_confirm.read(),
        ),
        ("confirmed", "Total number of messages confirmed to publishers", channels.confirmed.read()),
        ("routed", "Total number of messages routed to queues or streams", routed),
        (
            "unroutable_dropped",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            channels.dropped.read(),
        ),
        (
            "unroutable_returned",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable",
            channels.returned.read(),
        ),
    ] {
        scrape.counter(format!("rabbitmq_global_messages_{name}"), help, vec![(protocol(), value as f64)]);
    }
    let by_kind = |of: fn(&Tally) -> u64| {
        let sample = |(kind, sum): &(QueueKind, Tally)| {
            (vec![label(PROTOCOL.0, PROTOCOL.1), label("queue_type", kind.module())], of(sum) as f64)
        };
        tallies.iter().map(sample).collect::<Vec<_>>()
    };
    let rows: [(&str, &'static str, OfTally); 8] = [
        ("delivered", "Total number of messages delivered to consumers", |sum| {
            sum.delivered.read() + sum.delivered_no_ack.read() + sum.got.read() + sum.got_no_ack.read()
        }),
        (
            "delivered_consume_manual_ack",
            "Total number of messages delivered to consumers using basic.consume with manual acknowledgment",
            |sum| sum.delivered.read(),
        ),
        (
            "delivered_consume_auto_ack",
            "Total number of messages delivered to consumers using basic.consume with automatic acknowledgment",
            |sum| sum.delivered_no_ack.read(),
        ),
        (
            "delivered_get_manual_ack",
            "Total number of messages delivered to consumers using basic.get with manual acknowledgment",
            |sum| sum.got.read(),
        ),
        (
            "delivered_get_auto_ack",
            "Total number of messages delivered to consumers using basic.get with automatic acknowledgment",
            |sum| sum.got_no_ack.read(),
        ),
        ("get_empty", "Total number of times basic.get operations fetched no message", |sum| {
            sum.got_empty.read()
        }),
        ("redelivered", "Total number of messages redelivered to consumers", |sum| sum.redelivered.read()),
        ("acknowledged", "Total number of message acknowledgements received from consumers", |sum| {
            sum.acked.read()
        }),
    ];
    for (name, help, of) in rows {
        scrape.counter(format!("rabbitmq_global_messages_{name}"), help, by_kind(of));
    }
}

/// What memory is held for.
pub(crate) fn memory(mgmt: &Mgmt, scrape: &mut Scrape) {
    let parts = node::breakdown(mgmt);
    for (name, bytes) in parts.as_object().into_iter().flatten() {
        if let Some(bytes) = bytes.as_u64() {
            let name = format!("rabbitmq_memory_{name}_bytes");
            scrape.gauge(name, "Memory used, by what holds it", one(bytes));
        }
    }
}

/// What died of what, by kind of queue and by what becomes of it.
pub(crate) fn dead(mgmt: &Mgmt, scrape: &mut Scrape) {
    let dead = &mgmt.broker.node.dead;
    let labels = |kind: QueueKind, strategy: Strategy| {
        vec![label("queue_type", kind.module()), label("dead_letter_strategy", strategy.name())]
    };
    let kinds = [QueueKind::Classic, QueueKind::Quorum];
    for (name, help, reason) in [
        (
            "maxlen",
            "Total number of messages dead-lettered due to overflow drop-head or reject-publish-dlx",
            Reason::MaxLen,
        ),
        ("expired", "Total number of messages dead-lettered due to message TTL exceeded", Reason::Expired),
        (
            "rejected",
            "Total number of messages dead-lettered due to basic.reject or basic.nack",
            Reason::Rejected,
        ),
        (
            "delivery_limit",
            "Total number of messages dead-lettered due to delivery-limit exceeded",
            Reason::DeliveryLimit,
        ),
    ] {
        let of_kind = |kind| {
            let sample = move |strategy| (labels(kind, strategy), dead.read(kind, strategy, reason) as f64);
            Strategy::ALL.into_iter().map(sample)
        };
        let samples = kinds.into_iter().flat_map(of_kind).collect();
        scrape.counter(format!("rabbitmq_global_messages_dead_lettered_{name}"), help, samples);
    }
    let confirmed = vec![(labels(QueueKind::Quorum, Strategy::AtLeastOnce), dead.confirmed.read() as f64)];
    let help = "Total number of messages dead-lettered and confirmed by target queues";
    scrape.counter("rabbitmq_global_messages_dead_lettered_confirmed", help, confirmed);
}

/// Sums of what channels hold and have done, and how many connections, channels and consumers there are.
pub(crate) fn channels(mgmt: &Mgmt, scrape: &mut Scrape) {
    let broker = &mgmt.broker;
    // First those that are gone: one that goes meanwhile is counted once or, until the next scrape, not at all.
    let gone = ChannelTally::default();
    gone.absorb(&broker.node.channels);
    let connections = broker.open_connections();
    let listed = of_connections(&connections);
    for (name, help, is_counter, of) in OF_CHANNELS {
        let now: u64 = listed.iter().map(|channel| of(&channel.tally)).sum();
        let value = if is_counter { now + of(&gone) } else { now };
        add(scrape, format!("rabbitmq_{name}"), help, is_counter, one(value));
    }
    let received: u64 = connections.iter().map(|outbox| outbox.presence.received_bytes.read()).sum();
    let sent: u64 = connections.iter().map(|outbox| outbox.presence.sent_bytes.read()).sum();
    scrape.gauge("sluicemq_connections_incoming_bytes", "Bytes read from open connections", one(received));
    scrape.gauge("sluicemq_connections_outgoing_bytes", "Bytes written to open connections", one(sent));
    let consumers: usize = listed.iter().map(|channel| channel.tally.consumer_count()).sum();
    scrape.gauge("rabbitmq_connections", "Connections currently open", one(connections.len() as u64));
    scrape.gauge("rabbitmq_channels", "Channels currently open", one(listed.len() as u64));
    scrape.gauge("rabbitmq_consumers", "Consumers currently connected", one(consumers as u64));
    let protocol = vec![label(PROTOCOL.0, PROTOCOL.1)];
    scrape.gauge(
        "rabbitmq_global_consumers",
        "The current number of consumers",
        vec![(protocol, consumers as f64)],
    );
}

/// Sums of what queues hold.
pub(crate) fn queues(mgmt: &Mgmt, scrape: &mut Scrape) {
    let queues = all_queues(mgmt, &[]);
    for (name, help, is_counter, of) in OF_QUEUES {
        let sum = queues.iter().map(|queue| of(queue)).sum();
        // Of queues that are gone nothing is left here: as a counter it would fall.
        if !is_counter {
            add(scrape, format!("rabbitmq_{name}"), help, false, one(sum));
        }
    }
    let now_ms = Now::read().steady_ms;
    let oldest = queues.iter().filter_map(|queue| queue.tally.oldest_ms(now_ms)).max().unwrap_or(0);
    scrape.gauge(format!("rabbitmq_{OLDEST}"), OLDEST_HELP, vec![(Labels::new(), oldest as f64 / MS)]);
    scrape.gauge("rabbitmq_queues", "Queues available", one(queues.len() as u64));
}

/// What each queue holds and has done, as far as it is of these families.
pub(crate) fn each_queue(mgmt: &Mgmt, prefix: &str, families: &[&str], vhosts: &[&str], scrape: &mut Scrape) {
    let mut queues = all_queues(mgmt, vhosts);
    leave_out(scrape, prefix, "queues", &mut queues, |queue| queue.id);
    let labels =
        |queue: &Queue| vec![label("vhost", &queue.properties.vhost), label("queue", &queue.properties.name)];
    let now_ms = Now::read().steady_ms;
    let ages =
        queues.iter().filter_map(|queue| Some((labels(queue), queue.tally.oldest_ms(now_ms)? as f64 / MS)));
    let is_asked = |name: &str| families_of(name).iter().any(|family| families.contains(family));
    if is_asked(OLDEST) {
        scrape.gauge(format!("{prefix}{OLDEST}"), OLDEST_HELP, ages.collect());
    }
    for (name, help, is_counter, of) in OF_QUEUES.into_iter().filter(|(name, ..)| is_asked(name)) {
        let samples = queues.iter().map(|queue| (labels(queue), of(queue) as f64)).collect();
        add(scrape, format!("{prefix}{name}"), help, is_counter, samples);
    }
}

/// By which families a metric of queues is asked for.
fn families_of(name: &str) -> &'static [&'static str] {
    match name {
        "queue_messages_ready" | "queue_messages_unacked" | "queue_messages" => &["queue_coarse_metrics"],
        "queue_consumers" => &["queue_metrics", "queue_consumer_count"],
        "queue_messages_published" => &["queue_metrics", "queue_delivery_metrics"],
        _ => &["queue_metrics"],
    }
}

/// What each channel holds and has done.
pub(crate) fn each_channel(mgmt: &Mgmt, prefix: &str, vhosts: &[&str], scrape: &mut Scrape) {
    let mut channels = of_connections(&mgmt.broker.open_connections());
    channels.retain(|channel: &Listed| {
        let vhost = channel.outbox.presence.opened().map_or("", |opened| &opened.vhost);
        vhosts.is_empty() || vhosts.contains(&vhost)
    });
    leave_out(scrape, prefix, "channels", &mut channels, |channel| {
        (channel.outbox.connection(), channel.number)
    });
    for (name, help, is_counter, of) in OF_CHANNELS {
        let sample = |channel: &Listed| (vec![label("channel", &channel.name())], of(&channel.tally) as f64);
        add(scrape, format!("{prefix}{name}"), help, is_counter, channels.iter().map(sample).collect());
    }
}

/// What each connection has moved.
pub(crate) fn each_connection(mgmt: &Mgmt, prefix: &str, scrape: &mut Scrape) {
    let mut connections = mgmt.broker.open_connections();
    leave_out(scrape, prefix, "connections", &mut connections, |outbox| outbox.connection());
    let mut told =
        |name: &str, help: &'static str, is_counter: bool, of: fn(&crate::broker::outbox::Outbox) -> u64| {
            let samples = connections
                .iter()
                .map(|outbox| (vec![label("connection", &outbox.name())], of(outbox) as f64));
            add(scrape, format!("{prefix}{name}"), help, is_counter, samples.collect());
        };
    let help = "Total number of bytes received on a connection";
    told("connection_incoming_bytes", help, true, |outbox| outbox.presence.received_bytes.read());
    let help = "Total number of bytes sent on a connection";
    told("connection_outgoing_bytes", help, true, |outbox| outbox.presence.sent_bytes.read());
    told("connection_channels", "Channels on a connection", false, |outbox| {
        outbox.presence.channel_count() as u64
    });
}

fn add(scrape: &mut Scrape, name: String, help: &'static str, is_counter: bool, samples: Vec<(Labels, f64)>) {
    match is_counter {
        true => scrape.counter(name, help, samples),
        false => scrape.gauge(name, help, samples),
    }
}

fn all_queues(mgmt: &Mgmt, vhosts: &[&str]) -> Vec<Arc<Queue>> {
    let mut all = mgmt.broker.vhosts();
    all.retain(|vhost| vhosts.is_empty() || vhosts.contains(&&**vhost.name()));
    all.iter().flat_map(|vhost| vhost.queues()).collect()
}

/// Who scrapes is not drowned, and told how much is missing: what has the smaller number is told, so that it is the same
/// the next time.
fn leave_out<T, K: Ord>(
    scrape: &mut Scrape,
    prefix: &str,
    what: &str,
    objects: &mut Vec<T>,
    number: impl Fn(&T) -> K,
) {
    let left_out = objects.len().saturating_sub(OBJECTS_MAX);
    if left_out > 0 {
        objects.select_nth_unstable_by_key(OBJECTS_MAX, number);
        objects.truncate(OBJECTS_MAX);
    }
    let name = format!("{prefix}{what}_left_out");
    scrape.gauge(name, "Objects without metrics of their own, for there are too many", one(left_out as u64));
}
