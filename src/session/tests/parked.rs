//! Replies that wait for the log, and what waits behind them.

use bytes::BytesMut;

use super::{Client, broker, consume, declare, method, publish, transient};
use crate::protocol::methods::{ChannelClose, ConfirmSelect, ConnectionClose, Method, TxSelect};

#[test]
fn a_durable_declare_is_answered_when_it_is_durable_and_its_channel_stays_in_order() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    broker.node.log.hold();
    client.say(1, &declare("q"));
    client.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: false }));
    client.say(2, &Method::TxSelect(TxSelect {}));
    assert_eq!(client.told(), ["tx.select-ok"], "the other channel is not concerned");
    broker.node.log.release();
    assert!(client.has_work());
    client.wake();
    assert_eq!(client.told(), ["queue.declare-ok", "confirm.select-ok"]);
    assert!(!client.has_work());
}

#[test]
fn deliveries_that_wait_behind_a_reply_and_find_no_more_room_wake_nobody() {
    let broker = broker();
    let mut publisher = Client::log_in(&broker, 0);
    let mut consumer = Client::log_in(&broker, 0);
    publisher.say(1, &Method::QueueDeclare(transient("q")));
    assert_eq!(publisher.told(), ["queue.declare-ok"]);
    consume(&mut consumer, "q");
    broker.node.log.hold();
    consumer.say(1, &declare("durable"));
    for _ in 0..4 {
        publisher.feed(publish(b"q", &[7; 100_000]));
        while consumer.has_work() {
            let before = consumer.session.parked().bytes();
            consumer.wake();
            assert!(consumer.session.parked().bytes() > before, "it was woken for nothing");
        }
    }
    assert!(consumer.bodies.is_empty());
    broker.node.log.release();
    while consumer.has_work() {
        consumer.wake();
    }
    assert_eq!((consumer.told().first(), consumer.bodies.len()), (Some(&"queue.declare-ok"), 4));
}

#[test]
fn whoever_hears_of_a_durable_queue_hears_it_when_it_is_durable() {
    let broker = broker();
    let (mut first, mut second) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    broker.node.log.hold();
    first.say(1, &declare("q"));
    second.say(1, &declare("q"));
    assert_eq!((first.told(), second.told()), (vec![], vec![]));
    broker.node.log.release();
    for client in [&mut first, &mut second] {
        assert!(client.has_work());
        client.wake();
        assert_eq!(client.told(), ["queue.declare-ok"]);
    }
}

#[test]
fn a_connection_with_many_parked_replies_is_not_read() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    broker.node.log.hold();
    let names: Vec<String> = (0..100).map(|number| format!("q{number}")).collect();
    let mut bytes = BytesMut::new();
    for name in &names {
        bytes.unsplit(method(&declare(name)));
    }
    client.feed(bytes);
    assert!(!client.session.wants_input() && !client.input.is_empty());
    broker.node.log.release();
    client.wake();
    assert_eq!(client.told().len(), 100);
    assert!(client.session.wants_input() && client.input.is_empty());
}

#[test]
fn the_last_word_goes_out_behind_parked_replies() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    broker.node.log.hold();
    client.say(1, &declare("q"));
    let close = ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
    client.say(1, &Method::ChannelClose(close));
    let close = ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
    client.say(0, &Method::ConnectionClose(close));
    assert!(!client.session.is_closed());
    assert_eq!(client.told(), Vec::<&str>::new());
    broker.node.log.release();
    assert!(client.has_work());
    client.wake();
    assert_eq!(client.told(), ["queue.declare-ok", "channel.close-ok", "connection.close-ok"]);
    assert!(client.session.awaits_end());
}
