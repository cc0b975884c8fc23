//! What objects have counted, by RabbitMQ's names: sums are made when somebody asks.

use crate::broker::Broker;
use crate::broker::presence::{ChannelTally, Presence};
use crate::broker::queue::handle::Queue;
use crate::broker::queue::tally::Tally;
use crate::broker::vhost::Vhost;
use crate::mgmt::rates::Counts;

/// Names of what queues and channels have in common.
pub(crate) const MESSAGE_STATS: [&str; 12] = [
    "ack",
    "confirm",
    "deliver",
    "deliver_get",
    "deliver_no_ack",
    "drop_unroutable",
    "get",
    "get_empty",
    "get_no_ack",
    "publish",
    "redeliver",
    "return_unroutable",
];

/// Names of what waits.
pub(crate) const LENGTHS: [&str; 3] = ["messages", "messages_ready", "messages_unacknowledged"];

/// Names of what comes and goes.
pub(crate) const CHURN: [&str; 7] = [
    "channel_closed",
    "channel_created",
    "connection_closed",
    "connection_created",
    "queue_created",
    "queue_declared",
    "queue_deleted",
];

/// Names of bytes of a connection.
pub(crate) const OCTETS: [&str; 2] = ["recv_oct", "send_oct"];

/// What all channels that there are, or were, have done.
pub(crate) fn all_channels(broker: &Broker) -> ChannelTally {
    let sum = ChannelTally::default();
    sum.absorb(&broker.node.channels);
    for outbox in broker.open_connections() {
        outbox.presence.channels().iter().for_each(|(_, tally)| sum.absorb(tally));
    }
    sum
}

/// The node's.
pub(crate) fn of_node(broker: &Broker) -> Counts {
    let mut counts = of_channel(&all_channels(broker));
    let mut lengths = [0; 3];
    for vhost in broker.vhosts() {
        vhost.queues().iter().for_each(|queue| add_lengths(&mut lengths, &queue.tally));
    }
    counts.extend(LENGTHS.into_iter().zip(lengths));
    let churn = &broker.node.churn;
    counts.extend([
        ("connection_created", churn.connections_opened.read()),
        ("connection_closed", churn.connections_closed.read()),
        ("channel_created", churn.channels_opened.read()),
        ("channel_closed", churn.channels_closed.read()),
        ("queue_declared", churn.queues_declared.read()),
        ("queue_created", churn.queues_created.read()),
        ("queue_deleted", churn.queues_deleted.read()),
    ]);
    counts
}

/// A virtual host's: those of the queues that it has.
pub(crate) fn of_vhost(vhost: &Vhost) -> Counts {
    let (sum, mut lengths) = (Tally::default(), [0; 3]);
    for queue in vhost.queues() {
        sum.absorb(&queue.tally);
        add_lengths(&mut lengths, &queue.tally);
    }
    let mut counts = of_tally(&sum);
    counts.extend(LENGTHS.into_iter().zip(lengths));
    counts
}

/// A queue's.
pub(crate) fn of_queue(queue: &Queue) -> Counts {
    let tally = &queue.tally;
    let mut counts = of_tally(tally);
    counts.extend(LENGTHS.into_iter().zip(lengths(tally)));
    counts
}

fn of_tally(tally: &Tally) -> Counts {
    let (deliver, no_ack) = (tally.delivered.read(), tally.delivered_no_ack.read());
    let (get, get_no_ack) = (tally.got.read(), tally.got_no_ack.read());
    vec![
        ("ack", tally.acked.read()),
        ("deliver", deliver),
        ("deliver_get", deliver + no_ack + get + get_no_ack),
        ("deliver_no_ack", no_ack),
        ("get", get),
        ("get_empty", tally.got_empty.read()),
        ("get_no_ack", get_no_ack),
        ("publish", tally.published.read()),
        ("redeliver", tally.redelivered.read()),
    ]
}

/// What waits in a queue, in the order of [`LENGTHS`].
pub(crate) fn lengths(tally: &Tally) -> [u64; 3] {
    [tally.messages(), tally.ready.read(), tally.unacked.read()]
}

fn add_lengths(sums: &mut [u64; 3], tally: &Tally) {
    sums.iter_mut().zip(lengths(tally)).for_each(|(sum, length)| *sum += length);
}

/// A channel's.
pub(crate) fn of_channel(tally: &ChannelTally) -> Counts {
    let (deliver, no_ack) = (tally.delivered.read(), tally.delivered_no_ack.read());
    let (get, get_no_ack) = (tally.got.read(), tally.got_no_ack.read());
    vec![
        ("ack", tally.acked.read()),
        ("confirm", tally.confirmed.read()),
        ("deliver", deliver),
        ("deliver_get", deliver + no_ack + get + get_no_ack),
        ("deliver_no_ack", no_ack),
        ("drop_unroutable", tally.dropped.read()),
        ("get", get),
        ("get_empty", tally.got_empty.read()),
        ("get_no_ack", get_no_ack),
        ("publish", tally.published.read()),
        ("redeliver", tally.redelivered.read()),
        ("return_unroutable", tally.returned.read()),
    ]
}

/// A connection's.
pub(crate) fn of_connection(presence: &Presence) -> Counts {
    vec![("recv_oct", presence.received_bytes.read()), ("send_oct", presence.sent_bytes.read())]
}
