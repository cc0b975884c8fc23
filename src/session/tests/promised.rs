//! Messages with a short life, and a disk that takes longer.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{Broker, Client, broker, consume, declare, get, publish, transient};
use crate::clock::Now;
use crate::protocol::field::Field;
use crate::protocol::frame;
use crate::protocol::methods::{BasicPublish, BasicQos, Method, QueueDeclare};
use crate::protocol::properties::PropertiesBuf;
use crate::protocol::table::TableBuf;

const LIFE_MS: u64 = 50;

/// A broker with a durable queue whose messages live so long, and two clients.
fn setup() -> (Arc<Broker>, Client, Client) {
    let broker = broker();
    let (mut publisher, other) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    let mut arguments = TableBuf::new();
    arguments.insert("x-message-ttl", Field::I64(LIFE_MS as i64));
    let declared = QueueDeclare { durable: true, arguments: arguments.as_table(), ..transient("q") };
    publisher.say(1, &Method::QueueDeclare(declared));
    publisher.say(1, &declare("plain"));
    publisher.told();
    (broker, publisher, other)
}

/// A persistent message that brings its own life with it.
fn publish_expiring(queue: &[u8]) -> BytesMut {
    let publish = BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false };
    let mut properties = PropertiesBuf::new();
    properties.delivery_mode(2).expiration(LIFE_MS.to_string());
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
    frame::put_header(&mut bytes, 1, 0, &properties.encode());
    bytes
}

/// A life later.
fn later(now: Now) -> Now {
    now.later(Duration::from_millis(LIFE_MS))
}

/// The disk has it, after it has had its time.
fn release_late(broker: &Broker, publisher: &mut Client, consumer: &mut Client) {
    (publisher.now, consumer.now) = (later(publisher.now), later(consumer.now));
    broker.node.log.release();
    publisher.wake();
    consumer.wake();
}

#[test]
fn what_a_consumer_waits_for_does_not_grow_too_old_on_its_way_to_the_disk() {
    for (queue, message) in [("q", publish(b"q", b"")), ("plain", publish_expiring(b"plain"))] {
        let (broker, mut publisher, mut consumer) = setup();
        consume(&mut consumer, queue);
        broker.node.log.hold();
        publisher.feed(message);
        release_late(&broker, &mut publisher, &mut consumer);
        assert_eq!(consumer.told(), ["basic.deliver"], "{queue}");
    }
}

#[test]
fn what_is_beyond_a_consumer_s_credit_is_not_promised_to_it() {
    let (broker, mut publisher, mut consumer) = setup();
    consumer.say(1, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 1, global: false }));
    consumer.told();
    consume(&mut consumer, "q");
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    publisher.publish_persistent(b"q");
    release_late(&broker, &mut publisher, &mut consumer);
    assert_eq!(consumer.told(), ["basic.deliver"]);
    publisher.say(1, &get("q"));
    assert_eq!(publisher.told(), ["basic.get-empty"]);
}

#[test]
fn a_consumer_that_comes_too_late_was_promised_nothing() {
    let (broker, mut publisher, mut consumer) = setup();
    broker.node.log.hold();
    publisher.publish_persistent(b"q");
    consumer.now = later(consumer.now);
    consume(&mut consumer, "q");
    consumer.now = later(consumer.now);
    release_late(&broker, &mut publisher, &mut consumer);
    assert_eq!(consumer.told(), Vec::<&str>::new());
}
