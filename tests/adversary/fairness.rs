//! Who waits in line is served in order, each with its share, and no credit costs more than it gives.

use std::collections::BTreeMap;

use sluicemq::protocol::methods::{BasicCancel, BasicQos, Method};

use crate::broker;
use crate::client::{Client, Delivery, publish};

/// Acknowledges deliveries one by one; how many each consumer had.
fn serve(client: &mut Client, messages: usize) -> BTreeMap<String, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..messages {
        let delivery = client.deliveries.pop_front().expect("the prefetch is used");
        client.ack(&delivery);
        *served.entry(delivery.consumer).or_default() += 1;
    }
    served
}

fn is_fair(served: &BTreeMap<String, usize>, consumers: usize, messages: usize) -> bool {
    let share = messages / consumers;
    served.len() == consumers && served.values().all(|&count| count.abs_diff(share) <= 1)
}

#[test]
fn queues_under_one_shared_prefetch_are_served_in_turn() {
    for prefetch in [1, 5] {
        let broker = broker(1 << 20);
        let mut client = Client::log_in(&broker);
        client.qos(1, prefetch, true);
        for queue in ["a", "b", "c"] {
            client.declare(queue);
            for _ in 0..1_000 {
                client.feed(&publish(b"", queue.as_bytes(), b"m"));
            }
            client.consume(1, queue, queue, false);
        }
        // What the first consumer was given before there were others.
        serve(&mut client, usize::from(prefetch));
        let served = serve(&mut client, 900);
        assert!(is_fair(&served, 3, 900), "prefetch {prefetch}: {served:?}");
    }
}

#[test]
fn consumers_of_one_queue_under_one_shared_prefetch_take_turns() {
    let broker = broker(1 << 20);
    let mut client = Client::log_in(&broker);
    client.qos(1, 1, true);
    client.declare("q");
    client.consume(1, "q", "a", false);
    client.consume(1, "q", "b", false);
    for _ in 0..1_000 {
        client.feed(&publish(b"", b"q", b"m"));
    }
    let served = serve(&mut client, 900);
    assert!(is_fair(&served, 2, 900), "{served:?}");
}

/// A client with a shared prefetch, and queues with a thousand messages each.
fn with_shared_prefetch(prefetch: u16, queues: &[&str]) -> Client {
    let mut client = Client::log_in(&broker(1 << 20));
    client.qos(1, prefetch, true);
    for queue in queues {
        client.declare(queue);
        for _ in 0..1_000 {
            client.feed(&publish(b"", queue.as_bytes(), b"m"));
        }
    }
    client
}

#[test]
fn the_highest_priority_that_waits_for_a_shared_prefetch_is_served_first() {
    for prefetch in [1, 3] {
        let mut client = with_shared_prefetch(prefetch, &["q"]);
        client.consume(1, "q", "low", false);
        client.consume_at(5, 1, "q", "high", false);
        // What the first consumer was given before there were others.
        let served = serve(&mut client, usize::from(prefetch));
        assert_eq!(served.keys().collect::<Vec<_>>(), ["low"]);
        let served = serve(&mut client, 900);
        assert_eq!(served.keys().collect::<Vec<_>>(), ["high"], "prefetch {prefetch}: {served:?}");
    }
}

#[test]
fn consumers_of_one_priority_take_turns_before_a_lower_one() {
    for prefetch in [1, 3] {
        let mut client = with_shared_prefetch(prefetch, &["q"]);
        for (priority, tag) in [(-1, "low"), (5, "a"), (5, "b")] {
            client.consume_at(priority, 1, "q", tag, false);
        }
        serve(&mut client, usize::from(prefetch));
        let served = serve(&mut client, 900);
        assert!(is_fair(&served, 2, 900), "prefetch {prefetch}: {served:?}");
        client.say(1, &Method::BasicCancel(BasicCancel { consumer_tag: "a", nowait: true }));
        client.say(1, &Method::BasicCancel(BasicCancel { consumer_tag: "b", nowait: true }));
        serve(&mut client, usize::from(prefetch));
        assert_eq!(serve(&mut client, 10).keys().collect::<Vec<_>>(), ["low"], "nobody else is left");
    }
}

#[test]
fn a_priority_and_many_consumers_take_nothing_from_another_queue() {
    for prefetch in [1, 2] {
        let mut client = with_shared_prefetch(prefetch, &["many", "one"]);
        client.consume_at(5, 1, "many", "high", false);
        for number in 0..10 {
            client.consume(1, "many", &format!("low {number}"), false);
        }
        client.consume(1, "one", "one", false);
        serve(&mut client, usize::from(prefetch));
        let served = serve(&mut client, 900);
        assert!(is_fair(&served, 2, 900), "prefetch {prefetch}: {served:?}");
    }
}

#[test]
fn the_highest_priority_that_waits_for_room_is_served_first() {
    const OUTBOX_BYTES: usize = 64 * 1024;
    let mut client = Client::log_in(&broker(OUTBOX_BYTES));
    client.declare("q");
    for _ in 0..1_000 {
        client.feed(&publish(b"", b"q", &[0; 1_000]));
    }
    client.reads = false;
    client.consume(1, "q", "low", true);
    client.consume_at(5, 1, "q", "high", true);
    while client.deliveries.len() < 1_000 {
        client.read(OUTBOX_BYTES / 4);
        client.finish();
    }
    let low = client.deliveries.iter().filter(|delivery| delivery.consumer == "low").count();
    assert!((1..=OUTBOX_BYTES / 1_000).contains(&low), "{low} messages found room before there was another");
}

#[test]
fn a_backlog_does_not_starve_another_queue_of_its_connection() {
    const OUTBOX_BYTES: usize = 64 * 1024;
    let broker = broker(OUTBOX_BYTES);
    let (mut client, mut publisher) = (Client::log_in(&broker), Client::log_in(&broker));
    publisher.declare("busy");
    publisher.declare("quiet");
    for _ in 0..2_000 {
        publisher.feed(&publish(b"", b"busy", &[0; 1_000]));
    }
    client.reads = false;
    client.consume(1, "busy", "busy", true);
    client.consume(1, "quiet", "quiet", true);
    for _ in 0..10 {
        client.deliveries.clear();
        publisher.feed(&publish(b"", b"quiet", &[0; 10_000]));
        // What was on its way, and twice the room that there is behind it.
        for _ in 0..8 {
            client.read(OUTBOX_BYTES);
            client.finish();
        }
        assert!(client.deliveries.iter().any(|delivery| delivery.consumer == "quiet"));
    }
}

#[test]
fn an_acknowledgement_costs_no_more_with_many_channels_in_line() {
    const CHANNELS: u16 = 500;
    let broker = broker(1 << 20);
    let mut client = Client::log_in(&broker);
    for channel in 1..=CHANNELS {
        client.open(channel + 1);
        client.told.clear();
        let queue = format!("q{channel}");
        client.declare(&queue);
        for _ in 0..5 {
            client.feed(&publish(b"", queue.as_bytes(), b"m"));
        }
        client.qos(channel + 1, 1, true);
        client.consume(channel + 1, &queue, "c", false);
    }
    client.longest = 0;
    let held: Vec<Delivery> = client.deliveries.drain(..).collect();
    assert_eq!(held.len(), usize::from(CHANNELS));
    held.iter().for_each(|delivery| client.ack(delivery));
    assert_eq!(client.deliveries.len(), usize::from(CHANNELS), "each has its next");
    assert!(client.longest < 20, "{} steps for an acknowledgement", client.longest);
}

#[test]
fn a_prefetch_that_changes_nothing_wakes_nobody() {
    let broker = broker(1 << 20);
    let mut client = Client::log_in(&broker);
    client.qos(1, 1, true);
    for number in 0..500 {
        let queue = format!("q{number}");
        client.declare(&queue);
        client.feed(&publish(b"", queue.as_bytes(), b"m"));
        client.consume(1, &queue, &queue, false);
    }
    client.open(2);
    client.told.clear();
    client.longest = 0;
    for (channel, global) in [(1, true), (2, false), (2, true)] {
        client.say(channel, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 1, global }));
    }
    assert!(client.longest < 20, "{} steps for a prefetch", client.longest);
}

#[test]
fn a_consumer_that_ends_in_line_leaves_it_to_the_others() {
    let broker = broker(1 << 20);
    let mut client = Client::log_in(&broker);
    client.qos(1, 1, true);
    client.declare("q");
    for _ in 0..10 {
        client.feed(&publish(b"", b"q", b"m"));
    }
    for tag in ["a", "b", "c"] {
        client.consume(1, "q", tag, false);
    }
    client.say(1, &Method::BasicCancel(BasicCancel { consumer_tag: "b", nowait: true }));
    let served = serve(&mut client, 8);
    assert_eq!(served.keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn many_queues_on_one_connection_share_its_room() {
    const OUTBOX_BYTES: usize = 16 * 1024;
    let broker = broker(OUTBOX_BYTES);
    let mut client = Client::log_in(&broker);
    client.reads = false;
    for number in 0..100 {
        let queue = format!("q{number}");
        client.declare(&queue);
        for _ in 0..10 {
            client.feed(&publish(b"", queue.as_bytes(), &[0; 1_000]));
        }
        client.consume(1, &queue, &queue, true);
    }
    client.longest = 0;
    let mut rounds = 0;
    while client.deliveries.len() < 1_000 {
        client.read(OUTBOX_BYTES);
        client.finish();
        rounds += 1;
        assert!(rounds < 1_000, "{} of 1,000 came", client.deliveries.len());
    }
    assert!(client.longest < 500, "{} steps to hand out room for 16 messages", client.longest);
}
