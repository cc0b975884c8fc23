//! Publishers that outrun consumers.

use std::sync::Arc;

use super::{Broker, Client, consume, declare_durable, publish};
use crate::broker::queue::crowd::PATIENCE;
use crate::config::Config;
use crate::protocol::methods::{BasicQos, ChannelClose, Method, QueueDelete, QueuePurge};

const OUTBOX_BYTES: usize = 4096;
/// Far more than a queue holds before it is crowded.
const MANY: usize = 32 * OUTBOX_BYTES / BODY.len();
const BODY: [u8; 1000] = [b'm'; 1000];

/// A broker whose outboxes are small, with a durable queue; who publishes to it, and somebody else.
fn setup() -> (Arc<Broker>, Client, Client) {
    let mut config = Config::default();
    config.limits.outbox_bytes = OUTBOX_BYTES;
    let broker = Arc::new(Broker::new(Arc::new(config), u64::MAX, u64::MAX).unwrap());
    let (mut publisher, consumer) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    (broker, publisher, consumer)
}

/// Publishes until the publisher is not read; how many messages.
fn publish_until_held(publisher: &mut Client) -> usize {
    let mut published = 0;
    while publisher.session.wants_input() && published < MANY {
        publisher.feed(publish(b"q", &BODY));
        published += 1;
    }
    published
}

#[test]
fn a_publisher_waits_until_the_consumer_has_taken_an_eighth_of_what_is_too_much() {
    let (_broker, mut publisher, mut consumer) = setup();
    consume(&mut consumer, "q");
    let published = publish_until_held(&mut publisher);
    assert!(published > 16 * OUTBOX_BYTES / (BODY.len() + 64) && published < MANY);
    assert!(!publisher.has_work());
    while !publisher.has_work() {
        let taken = consumer.bodies.len();
        consumer.wake();
        assert!(consumer.bodies.len() > taken, "whoever waits is told in time");
    }
    publisher.wake();
    assert!(publisher.session.wants_input() && publisher.session.deadline().is_none());
    assert!(publish_until_held(&mut publisher) < MANY, "and the next time it waits again");
}

#[test]
fn a_slow_consumer_is_waited_for_once() {
    let (_broker, mut publisher, mut consumer) = setup();
    consume(&mut consumer, "q");
    publish_until_held(&mut publisher);
    assert_eq!(publisher.session.deadline(), Some(publisher.now.instant + PATIENCE));
    publisher.session.on_timeout(publisher.now);
    assert!(!publisher.session.wants_input());
    publisher.now = publisher.now.later(PATIENCE);
    publisher.session.on_timeout(publisher.now);
    assert_eq!(publish_until_held(&mut publisher), MANY, "it goes on, and is not asked to wait again");
    while consumer.has_work() {
        consumer.wake();
    }
    assert!(publish_until_held(&mut publisher) < MANY, "the consumer has shown that it can");
}

#[test]
fn all_publishers_go_on_once_one_has_waited_in_vain() {
    let (broker, mut publisher, mut consumer) = setup();
    let mut other = Client::log_in(&broker, 0);
    consume(&mut consumer, "q");
    publish_until_held(&mut publisher);
    assert_eq!(publish_until_held(&mut other), 1);
    publisher.now = publisher.now.later(PATIENCE);
    publisher.session.on_timeout(publisher.now);
    assert!(other.has_work());
    other.wake();
    assert!(other.session.wants_input());
}

#[test]
fn a_queue_is_a_buffer_where_nobody_could_take_more() {
    let (_broker, mut publisher, _) = setup();
    assert_eq!(publish_until_held(&mut publisher), MANY, "nobody consumes");
    for global in [false, true] {
        let (_broker, mut publisher, mut consumer) = setup();
        consumer.say(1, &Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 1, global }));
        consumer.told();
        consume(&mut consumer, "q");
        assert_eq!(publish_until_held(&mut publisher), MANY, "the prefetch is used up");
    }
}

#[test]
fn whoever_waits_goes_on_when_there_is_no_crowd_any_more() {
    let delete = QueueDelete { queue: "q", if_unused: false, if_empty: false, nowait: true };
    let ends = [
        Method::QueueDelete(delete),
        Method::QueuePurge(QueuePurge { queue: "q", nowait: true }),
        Method::ChannelClose(ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 }),
    ];
    for end in ends {
        let (_broker, mut publisher, mut consumer) = setup();
        consume(&mut consumer, "q");
        publish_until_held(&mut publisher);
        consumer.say(1, &end);
        assert!(publisher.has_work(), "{}", end.name());
        publisher.wake();
        assert!(publisher.session.wants_input());
    }
}
