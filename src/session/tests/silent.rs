//! Clients that are not heard, or do not read.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{Broker, Client, PERSISTENT, broker, consume, declare, declare_durable, get, method};
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{BasicAck, BasicPublish, ConfirmSelect, Method, QueueDeclare, QueuePurge};
use crate::protocol::table::Table;

/// Larger than what may wait of replies.
const LARGE: usize = 3 * 512 * 1024;

/// A large persistent message on the first channel.
fn large(queue: &[u8]) -> BytesMut {
    let publish = BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false };
    let mut bytes = method(&Method::BasicPublish(publish));
    frame::put_header(&mut bytes, 1, LARGE as u64, &PERSISTENT);
    for payload in vec![7; LARGE].chunks(100_000) {
        frame::put_body_head(&mut bytes, 1, payload.len() as u32);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&[frame::FRAME_END]);
    }
    bytes
}

/// Feeds a client that reads nothing.
fn feed_unread(client: &mut Client, mut bytes: BytesMut) {
    client.session.on_bytes(&mut bytes, client.now);
}

/// So many intervals of a second pass, while so much lies in the socket at each look.
fn pass(client: &mut Client, unread_bytes: impl Fn(u64) -> u64, seconds: u64) {
    for second in 0..seconds {
        client.now = client.now.later(Duration::from_secs(1));
        client.session.on_unread(unread_bytes(second), client.now);
        client.session.on_timeout(client.now);
    }
}

#[test]
fn a_client_that_publishes_while_a_large_delivery_waits_is_read() {
    let broker = broker();
    let (mut publisher, mut worker) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "in");
    declare_durable(&mut publisher, "out");
    consume(&mut worker, "in");
    for _ in 0..2 {
        publisher.feed(large(b"in"));
        worker.session.on_wake(worker.now);
    }
    assert!(worker.session.output().len() > LARGE && worker.session.wants_input());
    feed_unread(&mut worker, large(b"out"));
    feed_unread(&mut worker, method(&Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false })));
    assert!(worker.session.wants_input());
    assert_eq!(broker.vhost("/").unwrap().queue("out").unwrap().counts().0, 1);
}

#[test]
fn a_client_that_does_not_read_its_replies_is_not_read() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    for _ in 0..2 {
        client.feed(large(b"q"));
    }
    client.told();
    feed_unread(&mut client, method(&get("q")));
    assert!(!client.session.wants_input());
    client.listen();
    assert!(client.session.wants_input());
    feed_unread(&mut client, method(&Method::ConfirmSelect(ConfirmSelect { nowait: true })));
    let purge = method(&Method::QueuePurge(QueuePurge { queue: "q", nowait: false }));
    let mut asked = 0;
    while client.session.wants_input() {
        feed_unread(&mut client, purge.clone());
        asked += 1;
        assert!(asked < 1_000_000, "the replies are bounded");
    }
    client.listen();
    assert!(client.session.wants_input() && client.told().len() > asked);
}

#[test]
fn replies_that_wait_for_the_log_count_too() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    client.feed(large(b"q"));
    broker.node.log.hold();
    client.say(1, &declare("other"));
    client.say(1, &get("q"));
    assert!(!client.session.wants_input() && client.session.output().is_empty());
    broker.node.log.release();
    client.wake();
    assert!(client.session.wants_input());
}

#[test]
fn a_frozen_client_is_dropped_whatever_is_on_its_way_to_it() {
    let broker = broker();
    let (mut publisher, mut frozen) = (Client::log_in(&broker, 0), Client::log_in(&broker, 1));
    declare_durable(&mut publisher, "q");
    consume(&mut frozen, "q");
    publisher.feed(large(b"q"));
    frozen.session.on_wake(frozen.now);
    let waiting = frozen.session.output().len();
    assert!(waiting > LARGE);
    pass(&mut frozen, |_| 0, 1);
    assert_eq!(frozen.session.output().len(), waiting, "a beat behind all that would tell nobody anything");
    assert!(!frozen.session.is_closed());
    pass(&mut frozen, |_| 0, 1);
    assert!(frozen.session.is_closed());
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().counts().0, 1, "somebody else may have it");
}

/// A client with an exclusive queue that waits for the end of an alarm.
fn blocked() -> (Arc<Broker>, Client) {
    let broker = Arc::new(Broker::new(Arc::new(Config::default()), 1000, u64::MAX).unwrap());
    let mut client = Client::log_in(&broker, 1);
    let declare = QueueDeclare {
        queue: "own",
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: true,
        arguments: Table::EMPTY,
    };
    client.say(1, &Method::QueueDeclare(declare));
    broker.node.memory.index.set(1000);
    for _ in 0..2 {
        client.publish_persistent(b"own");
    }
    assert!(!client.session.wants_input());
    (broker, client)
}

#[test]
fn a_blocked_client_that_freezes_loses_its_connection_and_its_queues() {
    let (broker, mut client) = blocked();
    pass(&mut client, |_| 16, 2);
    assert!(!client.session.is_closed());
    pass(&mut client, |_| 16, 2);
    assert!(client.session.is_closed());
    assert!(broker.vhost("/").unwrap().queue("own").is_none());
}

#[test]
fn a_blocked_client_that_beats_stays() {
    let (_broker, mut client) = blocked();
    pass(&mut client, |second| 8 * second, 100);
    assert!(!client.session.is_closed());
}

#[test]
fn a_blocked_client_whose_socket_may_be_full_stays() {
    let (_broker, mut client) = blocked();
    pass(&mut client, |_| 100_000, 100);
    assert!(!client.session.is_closed());
}
