//! Bad inputs that are well-formed: names, tags, loops, floods, races.

use std::thread;
use std::time::{Duration, Instant};

use sluicemq::protocol::methods::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ChannelCloseOk, ChannelOpen, ChannelOpenOk,
    ConfirmSelect, Method, QueueDeclare, QueuePurge, TxCommit, TxCommitOk, TxSelect, TxSelectOk,
};

use crate::harness::broker::{OwnBroker, address, only_here, unique};
use crate::harness::client::{CHANNEL_CLOSE, Client, NO_PROPERTIES, assert_usable};
use crate::harness::content::content_frames;
use crate::harness::methods::{consume, exchange_declare, publish, queue_declare, queue_delete};
use crate::harness::wire::method_frame;

#[test]
fn names_the_broker_does_not_want() {
    let mut client = Client::open();
    let text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    client.check_channel_close(&Method::QueueDeclare(queue_declare("amq.mine")), 403, text);

    let path = QueueDeclare { exclusive: true, ..queue_declare("../../../../etc/wire") };
    assert_eq!(client.declare(path).queue, "../../../../etc/wire", "a name, and no path");
    assert!(!std::path::Path::new("/etc/wire").exists());

    let longest = "n".repeat(255);
    let declare = QueueDeclare { exclusive: true, ..queue_declare(&longest) };
    assert_eq!(client.declare(declare).queue, longest, "a name of 256 bytes cannot be written");

    if only_here("RabbitMQ takes control characters") {
        for (kind, method) in [
            ("queue", Method::QueueDeclare(queue_declare("nul\0inside"))),
            ("exchange", Method::ExchangeDeclare(exchange_declare("nul\0inside", "direct"))),
        ] {
            let text =
                format!("PRECONDITION_FAILED - invalid {kind} name: control characters are not allowed");
            client.check_channel_close(&method, 406, &text);
        }
    }
}

#[test]
fn declared_otherwise_missing_or_anothers() {
    let (mut client, mut other) = (Client::open(), Client::open());
    let queue = client.shared_queue("declared");
    let unlike = Method::QueueDeclare(QueueDeclare { durable: true, ..queue_declare(&queue) });
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'true' but \
         current is 'false'"
    );
    client.check_channel_close(&unlike, 406, &text);

    let none = unique("none");
    let passive = Method::QueueDeclare(QueueDeclare { passive: true, ..queue_declare(&none) });
    client.check_channel_close(&passive, 404, &format!("NOT_FOUND - no queue '{none}' in vhost '/'"));

    let exclusive = client.queue();
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{exclusive}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    other.check_channel_close(&Method::BasicConsume(consume(&exclusive)), 405, &locked);
}

#[test]
fn a_key_of_empty_words_is_routed_in_bounded_time() {
    let mut client = Client::open();
    let queue = client.queue();
    let dots = ".".repeat(255);
    client.bind(&queue, "amq.topic", "#");
    if only_here("RabbitMQ tries every way in which several # may share the words") {
        client.bind(&queue, "amq.topic", "#.#.#.#.#.#.#.#");
    }
    client.publish("amq.topic", &dots, "routed");
    assert_eq!(client.take(&queue).text(), "routed");
}

#[test]
fn a_pattern_of_wildcards_costs_no_more_than_one() {
    if !only_here("RabbitMQ tries every way in which several # may share the words") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    let wildcards = ["#"; 126].join(".");
    client.bind(&queue, "amq.topic", &format!("{wildcards}.end"));
    let words = ["word"; 50].join(".");
    client.publish("amq.topic", &words, "not routed");
    client.publish("amq.topic", &format!("{words}.end"), "routed");
    assert_eq!(client.take_all(&queue), ["routed"]);
}

#[test]
fn a_cycle_of_exchanges_reaches_each_queue_once() {
    let mut client = Client::open();
    let (first, second) = (client.exchange("fanout"), client.exchange("fanout"));
    let (one, two) = (client.queue(), client.queue());
    client.bind_exchange(&second, &first, "");
    client.bind_exchange(&first, &second, "");
    client.bind(&one, &first, "");
    client.bind(&one, &second, "");
    client.bind(&two, &second, "");
    client.publish(&first, "", "round");
    assert_eq!(client.take_all(&one), ["round"]);
    assert_eq!(client.take_all(&two), ["round"]);
}

#[test]
fn a_second_acknowledgement_is_406_and_zero_with_multiple_means_all() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["a", "b", "c"]);
    let tag = client.get(&queue).unwrap().tag();
    client.get(&queue).unwrap();
    client.ack_through(0);
    let again = Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false });
    client.check_channel_close(&again, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    assert_eq!(client.take_all(&queue), ["c"], "what was acknowledged stays so");
}

#[test]
fn a_tag_belongs_to_its_channel() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["a"]);
    assert_eq!(client.get(&queue).unwrap().tag(), 1);
    client.open_channel(2);
    let ack = Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false });
    client.check_channel_close(&ack, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    client.on(1).ack(1);
    client.barrier();
}

#[test]
fn a_consumer_that_does_not_read_leaves_the_rest_to_others() {
    let mut stuck = Client::open();
    let queue = stuck.shared_queue("stuck");
    stuck.consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    let mut publisher = Client::open();
    publisher.select_confirms();
    // More than the kernel and the broker keep for a client that does not read.
    let (body, count) = (vec![b'x'; 100_000], 200);
    for _ in 0..count {
        publisher.publish_as(publish("", &queue), NO_PROPERTIES, &body);
    }
    publisher.expect_confirm(count);

    let mut reader = Client::open();
    reader.consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    publisher.publish_as(publish("", &queue), NO_PROPERTIES, b"last");
    // RabbitMQ has handed all the rest to the stuck one, and it is the reader's turn.
    while reader.delivery().text() != "last" {}
}

#[test]
fn getting_without_end_starves_nobody() {
    let mut greedy = Client::open();
    let queue = greedy.queue();
    let loops = method_frame(1, &Method::BasicGet(BasicGet { queue: &queue, no_ack: true })).repeat(2000);
    greedy.wire.send_bytes(&loops);
    assert_usable(address());
    for _ in 0..2000 {
        assert_eq!(greedy.next_method().payload, [0, 60, 0, 72, 0], "basic.get-empty");
    }
}

#[test]
fn a_transaction_without_end_is_406_and_leaves_nothing() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.tx_messages_max = 100);
    let mut client = Client::at(own.address);
    let queue = client.queue();
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    for _ in 0..101 {
        client.put(&queue, "too many");
    }
    let text = "PRECONDITION_FAILED - transaction of more than 100 messages";
    client.expect_channel_close((60, 40), 406, text);
    assert_eq!(client.counts(&queue), (0, 0));
}

#[test]
fn settling_without_end_in_a_transaction_is_406() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.tx_messages_max = 10);
    let mut client = Client::at(own.address);
    let queue = client.queue();
    client.fill(&queue, &["held"; 20]);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    for tag in 1..=11 {
        client.get(&queue).unwrap();
        client.ack(tag);
    }
    let text = "PRECONDITION_FAILED - transaction of more than 10 messages";
    client.expect_channel_close((60, 80), 406, text);
    assert_eq!(client.take_all(&queue).len(), 20, "all of them came back");
}

#[test]
fn settling_many_at_once_in_a_transaction_counts_each() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.tx_messages_max = 10);
    let mut client = Client::at(own.address);
    let queue = client.queue();
    let text = "PRECONDITION_FAILED - transaction of more than 10 messages";
    client.fill(&queue, &["held"; 30]);
    for (ack, is_refused) in [(20, true), (11, true), (0, true), (10, false)] {
        client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
        for _ in 0..20 {
            client.get(&queue).unwrap();
        }
        client.ack_through(ack);
        if is_refused {
            client.expect_channel_close((60, 80), 406, text);
            assert_eq!(client.counts(&queue), (30, 0), "all of them came back");
        }
    }
    // It is full: there is no place for one more.
    client.ack_through(11);
    client.expect_channel_close((60, 80), 406, text);
    assert_eq!(client.take_all(&queue).len(), 30, "all of them came back");

    client.fill(&queue, &["held"; 30]);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    let consumer = client.consume(&queue);
    let first = client.delivery().tag();
    assert_eq!(client.bodies(29).len(), 29);
    client.cancel(&consumer);
    client.put_all(&queue, &["published"; 8]);
    client.ack_through(first + 1);
    client.call(&Method::TxCommit(TxCommit {}), &Method::TxCommitOk(TxCommitOk {}));
    client.requeue_through(first + 12);
    client.expect_channel_close((60, 120), 406, text);
    assert_eq!(client.take_all(&queue).len(), 28 + 8, "what was committed is done");
}

#[test]
fn no_confirms_in_a_transaction() {
    let mut client = Client::open();
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    let select = Method::ConfirmSelect(ConfirmSelect { nowait: false });
    client.check_channel_close(&select, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
}

#[test]
fn immediate_is_540() {
    let mut client = Client::open();
    let immediate = Method::BasicPublish(BasicPublish { immediate: true, ..publish("", "k") });
    client.wire.send_bytes(&[method_frame(1, &immediate), content_frames(1, NO_PROPERTIES, b"x")].concat());
    client.expect_connection_close((60, 40), 540, "NOT_IMPLEMENTED - immediate=true");
}

#[test]
fn a_storm_of_channels_and_connections_leaves_nothing_behind() {
    let mut client = Client::open();
    let (open, close) = (Method::ChannelOpen(ChannelOpen {}), Method::ChannelClose(CHANNEL_CLOSE));
    client.on(9);
    for _ in 0..500 {
        client.call(&open, &Method::ChannelOpenOk(ChannelOpenOk {}));
        client.call(&close, &Method::ChannelCloseOk(ChannelCloseOk {}));
    }
    for _ in 0..50 {
        drop(Client::open());
    }
    assert_usable(address());

    if only_here("the broker's own count is read") {
        let own = OwnBroker::start(|_| {});
        for _ in 0..50 {
            drop(Client::at(own.address));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while own.broker.connections() > 0 {
            assert!(Instant::now() < deadline, "{} connections are left", own.broker.connections());
            thread::yield_now();
        }
    }
}

#[test]
fn purge_and_delete_amid_traffic_keep_the_counts() {
    let mut owner = Client::open();
    let queue = owner.shared_queue("busy");
    let publisher = {
        let queue = queue.clone();
        thread::spawn(move || {
            let mut client = Client::open();
            client.select_confirms();
            for _ in 0..500 {
                client.put(&queue, "busy");
            }
            client.expect_confirm(500);
            client.close();
        })
    };
    let mut consumer = Client::open();
    consumer.qos(10, false);
    consumer.consume(&queue);
    for tag in 1..=20 {
        consumer.delivery();
        consumer.ack(tag);
        owner.send(&Method::QueuePurge(QueuePurge { queue: &queue, nowait: false }));
        assert!(matches!(owner.next_method().method(), Method::QueuePurgeOk(_)));
        if tag % 5 == 0 {
            owner.fill(&queue, &["more"; 10]);
        }
    }
    publisher.join().unwrap();
    drop(consumer);
    // What the consumer held comes back when its connection is gone, which a passive declare sees by the count.
    let deadline = Instant::now() + Duration::from_secs(10);
    while owner.counts(&queue).1 > 0 {
        assert!(Instant::now() < deadline);
    }
    let (ready, _) = owner.counts(&queue);
    assert_eq!(owner.delete(queue_delete(&queue)), ready);
    owner.put(&queue, "to nobody");
    owner.barrier();
}
