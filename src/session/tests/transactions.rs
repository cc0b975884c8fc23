//! Open transactions, and the memory that they hold.

use std::sync::Arc;

use bytes::BytesMut;

use super::alarms::end_alarms;
use super::{Broker, Client, PERSISTENT, consume, declare_durable, publish};
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{
    BasicAck, BasicPublish, BasicQos, ChannelClose, Method, QueueDelete, TxCommit, TxRollback, TxSelect,
};

const WATERMARK: u64 = 8_000_000;
static BODY: [u8; 100_000] = [7; 100_000];

/// A broker with little memory and a durable queue, and a client with a transaction.
fn setup() -> (Arc<Broker>, Client) {
    let broker = Arc::new(Broker::new(Arc::new(Config::default()), WATERMARK, u64::MAX).unwrap());
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.told();
    (broker, client)
}

/// A mandatory message for nobody.
fn publish_to_nobody() -> BytesMut {
    let publish = BasicPublish { exchange: b"", routing_key: b"nobody", mandatory: true, immediate: false };
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
    frame::put_header(&mut bytes, 1, BODY.len() as u64, &PERSISTENT);
    frame::put_body_head(&mut bytes, 1, BODY.len() as u32);
    bytes.extend_from_slice(&BODY);
    bytes.extend_from_slice(&[frame::FRAME_END]);
    bytes
}

#[test]
fn an_open_transaction_does_not_keep_the_alarm_up_that_keeps_it_open() {
    let (broker, mut client) = setup();
    for _ in 0..9 {
        client.feed(publish(b"q", &BODY));
    }
    assert!(broker.node.memory.messages.read() >= 900_000);
    let (mut other, mut consumer) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    consume(&mut consumer, "q");
    while !other.session.is_blocked() {
        other.feed(publish(b"q", &BODY));
    }
    client.feed(publish(b"q", &BODY));
    assert!(client.session.is_blocked(), "the alarm is for all who publish");
    while consumer.has_work() {
        consumer.wake();
        consumer.say(1, &Method::BasicAck(BasicAck { delivery_tag: 0, multiple: true }));
    }
    let left = broker.node.memory.messages.read();
    assert!((1_000_000..1_100_000).contains(&left), "{left} bytes: the transaction's");
    end_alarms(&broker, &client);
    client.wake();
    assert!(!client.session.is_blocked());
    client.say(1, &Method::TxCommit(TxCommit {}));
    consumer.wake();
    assert_eq!(broker.node.memory.transactions.read(), 0);
    assert!(client.told().contains(&"tx.commit-ok"));
}

#[test]
fn a_transaction_counts_the_names_that_it_keeps() {
    let (broker, mut client) = setup();
    let counted = |client: &mut Client, queue: &[u8]| {
        let before = broker.node.memory.transactions.read();
        client.feed(publish(queue, b""));
        broker.node.memory.transactions.read() - before
    };
    let there = counted(&mut client, b"q");
    assert!(counted(&mut client, b"nobody") > there + 32);
    client.say(1, &Method::TxRollback(TxRollback {}));
    assert_eq!((broker.node.memory.transactions.read(), broker.node.memory.messages.read()), (0, 0));
}

#[test]
fn transactions_that_take_too_much_memory_are_refused_and_hold_nothing_then() {
    for frames in [publish(b"q", &BODY), publish_to_nobody()] {
        let (broker, mut client) = setup();
        let mut published = 0;
        while client.told.is_empty() {
            client.feed(frames.clone());
            published += 1;
        }
        assert_eq!(client.told(), ["channel.close"]);
        assert!((1_000_000..2_000_000).contains(&(published * BODY.len())), "{published} messages");
        assert!(client.session.wants_input());
        let memory = &broker.node.memory;
        assert_eq!((memory.transactions.read(), memory.messages.read()), (0, 0));
    }
}

#[test]
fn many_small_transactions_have_a_bound_together() {
    let (broker, mut client) = setup();
    let mut all: Vec<Client> = (0..50).map(|_| Client::log_in(&broker, 0)).collect();
    for one in &mut all {
        one.say(1, &Method::TxSelect(TxSelect {}));
        one.told();
        for _ in 0..9 {
            one.feed(publish(b"q", &BODY));
        }
    }
    let refused = all.iter().filter(|one| one.told.contains(&"channel.close")).count();
    assert!(refused > 40, "{refused} of 50");
    assert!(broker.node.memory.transactions.read() < WATERMARK / 3);
    drop(all);
    client.feed(publish(b"q", &BODY));
    client.say(1, &Method::TxCommit(TxCommit {}));
    assert_eq!(client.told(), ["tx.commit-ok"]);
}

#[test]
fn what_a_transaction_has_acknowledged_counts_in_a_shared_prefetch() {
    let (broker, mut client) = setup();
    let mut publisher = Client::log_in(&broker, 0);
    consume(&mut client, "q");
    for _ in 0..50 {
        publisher.feed(publish(b"q", b"m"));
        client.wake();
    }
    for tag in 1..=20 {
        client.say(1, &Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
    }
    client.told();
    client.say(1, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 51, global: true }));
    for _ in 0..2 {
        publisher.feed(publish(b"q", b"m"));
    }
    client.wake();
    assert_eq!(
        client.told(),
        ["basic.qos-ok", "basic.deliver"],
        "what is acknowledged and not committed counts"
    );
}

#[test]
fn what_is_not_acknowledged_is_counted_beside_its_bytes() {
    let (broker, mut client) = setup();
    let mut consumer = Client::log_in(&broker, 0);
    consume(&mut consumer, "q");
    let mut publisher = Client::log_in(&broker, 0);
    for _ in 0..3000 {
        publisher.feed(publish(b"q", b"m"));
        consumer.wake();
    }
    let unacked = &broker.node.memory.unacked;
    assert!(unacked.read() > 2048 * 100, "{} bytes", unacked.read());
    consumer.say(1, &Method::BasicAck(BasicAck { delivery_tag: 0, multiple: true }));
    while consumer.has_work() {
        consumer.wake();
    }
    assert_eq!(unacked.read(), 0);
    client.say(1, &Method::TxCommit(TxCommit {}));
}

#[test]
fn a_rollback_takes_back_a_thousand_a_turn() {
    let (broker, mut publisher) = setup();
    let mut client = Client::log_in(&broker, 0);
    consume(&mut client, "q");
    publisher.say(1, &Method::TxRollback(TxRollback {}));
    let mut other = Client::log_in(&broker, 0);
    for _ in 0..3500 {
        other.feed(publish(b"q", b"m"));
        client.wake();
    }
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.say(1, &Method::BasicAck(BasicAck { delivery_tag: 0, multiple: true }));
    while client.has_work() {
        client.wake();
    }
    let memory = &broker.node.memory;
    assert!(memory.transactions.read() > 3500 * 50, "what is acknowledged is held");
    client.told();
    client.say(1, &Method::TxRollback(TxRollback {}));
    let mut turns = 1;
    while client.has_work() {
        assert!(client.session.steps() <= 2000 && client.told.is_empty());
        client.wake();
        turns += 1;
    }
    assert!(turns >= 3, "{turns} turns");
    assert_eq!((client.told(), memory.transactions.read()), (vec!["tx.rollback-ok"], 0));
    assert!(memory.unacked.read() > 0);
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (0, 3500));
}

#[test]
fn a_channel_closes_whatever_its_transaction_has_published() {
    let (broker, mut client) = setup();
    consume(&mut client, "q");
    for _ in 0..1500 {
        client.feed(publish(b"q", b"m"));
    }
    let close = ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
    client.say(1, &Method::ChannelClose(close));
    for _ in 0..5 {
        client.wake();
    }
    assert_eq!((client.told(), broker.node.memory.transactions.read()), (vec!["channel.close-ok"], 0));
}

#[test]
fn what_is_too_much_to_settle_is_found_in_whichever_turn_and_all_of_it_comes_back() {
    let mut config = Config::default();
    config.limits.tx_messages_max = 2500;
    let broker = Arc::new(Broker::new(Arc::new(config), WATERMARK, u64::MAX).unwrap());
    let (mut client, mut other) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut client, "q");
    consume(&mut client, "q");
    for _ in 0..3500 {
        other.feed(publish(b"q", b"m"));
        client.wake();
    }
    client.say(1, &Method::TxSelect(TxSelect {}));
    client.told();
    client.say(1, &Method::BasicAck(BasicAck { delivery_tag: 0, multiple: true }));
    let mut turns = 1;
    while client.has_work() {
        assert!(client.session.steps() <= 2000);
        client.wake();
        turns += 1;
    }
    assert!(turns >= 3, "{turns} turns");
    assert_eq!((client.told(), broker.node.memory.transactions.read()), (vec!["channel.close"], 0));
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().depth(), (3500, 0));
}

#[test]
fn a_commit_that_takes_turns_returns_in_the_order_of_publishing() {
    let (_broker, mut client) = setup();
    declare_durable(&mut client, "r");
    client.told();
    let numbers = 0..3000u32;
    for number in numbers.clone() {
        let key = [&b"q"[..], b"nobody", b"r"][number as usize % 3];
        let publish = BasicPublish { exchange: b"", routing_key: key, mandatory: true, immediate: false };
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, 1, &Method::BasicPublish(publish));
        frame::put_header(&mut bytes, 1, 4, &PERSISTENT);
        frame::put_body_head(&mut bytes, 1, 4);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&[frame::FRAME_END]);
        client.feed(bytes);
    }
    for queue in ["q", "r"] {
        client.say(
            2,
            &Method::QueueDelete(QueueDelete { queue, if_unused: false, if_empty: false, nowait: true }),
        );
    }
    client.bodies.clear();
    client.say(1, &Method::TxCommit(TxCommit {}));
    while client.has_work() {
        assert!(client.session.steps() <= 2000, "{} steps", client.session.steps());
        client.wake();
    }
    assert_eq!(client.told().last(), Some(&"tx.commit-ok"));
    let bodies: Vec<Vec<u8>> = numbers.map(|number| number.to_be_bytes().to_vec()).collect();
    assert!(client.bodies == bodies, "in the order of publishing");
}
