//! Publishers that wait because memory or the disk is short.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;

use super::{Broker, Client, consume, declare_durable, get, publish};
use crate::broker::alarms::HOLD;
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{BasicAck, BasicPublish, ExchangeDeclare, Method, QueueBind};
use crate::protocol::table::Table;

const WATERMARK: u64 = 1_000_000;

/// A broker with little memory, and a publisher to its queue.
fn setup() -> (Arc<Broker>, Client) {
    let broker = Arc::new(Broker::new(Arc::new(Config::default()), WATERMARK, u64::MAX).unwrap());
    let mut publisher = Client::log_in(&broker, 0);
    declare_durable(&mut publisher, "q");
    (broker, publisher)
}

/// The alarms end, as far as there is plenty.
pub(super) fn end_alarms(broker: &Broker, client: &Client) {
    for now in [client.now, client.now.later(HOLD)] {
        broker.look_at_memory(now.instant);
        broker.look_at_disk(u64::MAX, now.instant);
    }
    while broker.node.alarms.wake_blocked() {}
}

#[test]
fn memory_that_wavers_around_the_watermark_blocks_a_publisher_once() {
    let (broker, mut publisher) = setup();
    let index = &broker.node.memory.index;
    let mut told = Vec::new();
    for look in 0..50 {
        for _ in 0..20 {
            index.set(WATERMARK);
            if !publisher.session.is_blocked() {
                publisher.publish_persistent(b"q");
            }
            index.set(WATERMARK / 100 * if look % 10 == 9 { 80 } else { 95 });
            if publisher.has_work() {
                publisher.wake();
            }
            told.extend(publisher.told());
        }
        publisher.now = publisher.now.later(Duration::from_millis(100));
        broker.look_at_memory(publisher.now.instant);
        broker.node.alarms.wake_blocked();
    }
    let (blocked, unblocked) = ("connection.blocked", "connection.unblocked");
    assert_eq!(
        told,
        [blocked, unblocked, blocked, unblocked, blocked],
        "of 50 looks five saw plenty, and two not too soon"
    );
}

#[test]
fn a_connection_that_was_idle_is_not_asked_to_look_around() {
    let (broker, mut publisher) = setup();
    let idle = Client::log_in(&broker, 0);
    broker.node.memory.index.set(WATERMARK);
    publisher.publish_persistent(b"q");
    assert_eq!(publisher.told(), ["connection.blocked"]);
    assert!(!idle.has_work());
    broker.node.memory.index.set(0);
    end_alarms(&broker, &publisher);
    assert!(!idle.has_work() && publisher.has_work());
    publisher.wake();
    assert_eq!(publisher.told(), ["connection.unblocked"]);
    assert!(!publisher.session.is_blocked());
}

#[test]
fn an_alarm_that_ends_is_noticed_while_output_waits() {
    let (broker, mut client) = setup();
    consume(&mut client, "q");
    broker.node.memory.index.set(WATERMARK);
    let mut message = publish(b"q", &[7; 1000]);
    client.session.on_bytes(&mut message, client.now);
    assert!(!client.session.output().is_empty() && client.session.is_blocked());
    assert!(!client.has_work());
    broker.node.memory.index.set(0);
    end_alarms(&broker, &client);
    assert!(client.has_work());
    client.session.on_wake(client.now);
    assert!(!client.session.output().is_empty() && !client.session.is_blocked());
}

#[test]
fn a_connection_that_is_blocked_again_is_told_again() {
    let (broker, mut publisher) = setup();
    for _ in 0..3 {
        broker.node.memory.index.set(WATERMARK);
        publisher.publish_persistent(b"q");
        broker.node.memory.index.set(0);
        end_alarms(&broker, &publisher);
        // Before it has got to look, memory is short again.
        broker.node.alarms.raise(crate::broker::alarms::Shortage::Disk);
        publisher.wake();
        assert_eq!(publisher.told(), ["connection.blocked"]);
        end_alarms(&broker, &publisher);
        assert!(publisher.has_work());
        publisher.wake();
        assert_eq!(publisher.told(), ["connection.unblocked"]);
    }
}

#[test]
fn no_wake_is_lost_when_an_alarm_ends_while_a_publisher_looks() {
    const ROUNDS: usize = 500;
    let (broker, mut publisher) = setup();
    let both = Barrier::new(2);
    let start = publisher.now;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS as u32 {
                broker.node.memory.index.set(WATERMARK);
                broker.check_memory();
                let seen = start.later(HOLD * (2 * round));
                broker.look_at_memory(seen.instant);
                broker.node.memory.index.set(0);
                both.wait();
                broker.look_at_memory(seen.later(HOLD).instant);
                broker.node.alarms.wake_blocked();
                both.wait();
                both.wait();
            }
        });
        for _ in 0..ROUNDS {
            both.wait();
            publisher.publish_persistent(b"q");
            both.wait();
            if publisher.session.is_blocked() {
                assert!(publisher.has_work(), "nobody will tell it");
                publisher.wake();
            }
            assert!(!publisher.session.is_blocked());
            publisher.say(1, &get("q"));
            publisher.told();
            both.wait();
        }
    });
}

#[test]
fn a_blocked_connection_that_ends_is_forgotten() {
    let (broker, mut publisher) = setup();
    broker.node.memory.index.set(WATERMARK);
    publisher.publish_persistent(b"q");
    assert!(publisher.session.is_blocked());
    let outbox = Arc::downgrade(&publisher.session.outbox);
    drop(publisher);
    assert_eq!(outbox.strong_count(), 0);
}

#[test]
fn acknowledgements_of_a_connection_that_only_consumes_are_read() {
    let (broker, mut publisher) = setup();
    let mut consumer = Client::log_in(&broker, 0);
    consume(&mut consumer, "q");
    broker.node.memory.index.set(WATERMARK);
    publisher.publish_persistent(b"q");
    consumer.wake();
    consumer.say(1, &Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
    assert!(!consumer.session.is_blocked() && publisher.session.is_blocked());
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, 0));
}

#[test]
fn a_client_that_publishes_and_consumes_is_read_up_to_its_next_message() {
    let (broker, mut client) = setup();
    let depth = || broker.vhost("/").unwrap().queue("q").unwrap().depth();
    consume(&mut client, "q");
    for _ in 0..3 {
        client.publish_persistent(b"q");
    }
    broker.node.memory.index.set(WATERMARK);
    client.publish_persistent(b"q");
    client.wake();
    assert!(client.session.is_blocked() && client.session.wants_input());
    client.say(1, &Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
    assert_eq!(depth(), (0, 3), "acknowledgements are what gives memory back");
    client.feed(publish(b"q", &[7; 100]));
    client.say(1, &Method::BasicAck(BasicAck { delivery_tag: 2, multiple: false }));
    assert_eq!((depth(), client.session.wants_input()), ((0, 3), false), "nothing is taken out of order");
    broker.node.memory.index.set(0);
    end_alarms(&broker, &client);
    client.wake();
    client.wake();
    assert_eq!((depth(), client.bodies.len()), ((0, 3), 5));
    assert!(client.input.is_empty() && client.session.wants_input());
}

#[test]
fn who_has_a_history_repeated_is_a_publisher() {
    let (broker, mut client) = setup();
    let declare = ExchangeDeclare {
        exchange: "history",
        kind: "x-recent-history",
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.say(1, &Method::ExchangeDeclare(declare));
    let sent = BasicPublish { exchange: b"history", routing_key: b"", mandatory: false, immediate: false };
    client.say(1, &Method::BasicPublish(sent));
    let mut header = BytesMut::new();
    frame::put_header(&mut header, 1, 0, &[0, 0]);
    client.feed(header);
    broker.node.memory.index.set(WATERMARK);
    let mut binder = Client::log_in(&broker, 0);
    let bind = |key| {
        let (queue, exchange) = ("q", "history");
        QueueBind { queue, exchange, routing_key: key, nowait: false, arguments: Table::EMPTY }
    };
    binder.say(1, &Method::QueueBind(bind("one")));
    assert_eq!(binder.told(), ["queue.bind-ok", "connection.blocked"]);
    binder.say(1, &Method::QueueBind(bind("two")));
    assert!(binder.told().is_empty(), "it is not read any more");
    broker.node.memory.index.set(0);
    end_alarms(&broker, &binder);
    binder.wake();
    assert_eq!(binder.told(), ["connection.unblocked", "queue.bind-ok"]);
}
