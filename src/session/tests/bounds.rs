//! What a connection remembers is bounded by what is there, and counts.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Client, broker, consume, method};
use crate::broker::Broker;
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{BasicCancel, BasicConsume, BasicPublish, Method, QueueBind, QueueDeclare};
use crate::protocol::table::Table;
use crate::session::Phase;

/// Routes of a connection take no more, in bytes.
const ROUTES_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn declare(queue: &str, exclusive: bool, auto_delete: bool) -> Method<'_> {
    Method::QueueDeclare(QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive,
        auto_delete,
        nowait: true,
        arguments: Table::EMPTY,
    })
}

fn exclusive_queues(client: &Client) -> usize {
    let Phase::Running(running) = &client.session.phase else { panic!("it is open") };
    running.link.exclusive_queues.len()
}

#[test]
fn a_queue_that_went_with_its_consumer_is_forgotten_by_its_connection() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    for number in 0..100 {
        let queue = format!("reply-{number}");
        client.say(1, &declare(&queue, true, true));
        assert_eq!(exclusive_queues(&client), 1);
        let consume = BasicConsume {
            queue: &queue,
            consumer_tag: "c",
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: true,
            arguments: Table::EMPTY,
        };
        client.say(1, &Method::BasicConsume(consume));
        client.say(1, &Method::BasicCancel(BasicCancel { consumer_tag: "c", nowait: true }));
        assert_eq!(exclusive_queues(&client), 0, "{queue} is gone");
    }
    client.say(1, &declare("kept", true, false));
    consume(&mut client, "kept");
    assert_eq!(exclusive_queues(&client), 1);
}

#[test]
fn consumers_have_a_share_of_memory() {
    let config = Arc::new(Config::default());
    let broker = Arc::new(Broker::new(config, 1024 * 1024, u64::MAX).unwrap());
    let mut client = Client::log_in(&broker, 0);
    client.say(1, &declare("q", false, false));
    let mut count = 0;
    while client.told.pop_front() != Some("connection.close") {
        assert!(broker.node.memory.consumers.read() <= 1024 * 1024 / 4 + 1024);
        let consume = BasicConsume {
            queue: "q",
            consumer_tag: "",
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        client.say(1, &Method::BasicConsume(consume));
        count += 1;
    }
    assert!((300..500).contains(&count), "{count}");
    client.session.abandon(client.now);
    assert_eq!(broker.node.memory.consumers.read(), 0);
}

#[test]
fn the_routes_that_a_connection_keeps_are_bounded_in_bytes_and_count() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    for number in 0..400 {
        let queue = format!("q{number}");
        client.say(1, &declare(&queue, false, false));
        let bind = QueueBind {
            queue: &queue,
            exchange: "amq.topic",
            routing_key: "#",
            nowait: true,
            arguments: Table::EMPTY,
        };
        client.say(1, &Method::QueueBind(bind));
    }
    let routes = &broker.node.memory.routes;
    let mut most = 0;
    for number in 0..3_000 {
        let key = format!("key.{number}");
        let publish = BasicPublish {
            exchange: b"amq.topic",
            routing_key: key.as_bytes(),
            mandatory: false,
            immediate: false,
        };
        let mut bytes: BytesMut = method(&Method::BasicPublish(publish));
        frame::put_header(&mut bytes, 1, 0, &[0, 0]);
        client.feed(bytes);
        while client.has_work() {
            client.wake();
        }
        most = most.max(routes.read());
    }
    assert!(most > ROUTES_BYTES_MAX / 2, "{most}: 3,000 keys to 400 queues are more than is kept");
    assert!(most <= ROUTES_BYTES_MAX, "{most}");
    assert!(routes.read() <= broker.node.memory.held_bytes());
    drop(client);
    assert_eq!(routes.read(), 0);
}
