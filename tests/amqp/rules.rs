//! Queues with rules: what expires, what is too much, where it goes then, and who comes first. Nothing here waits by a
//! clock: what time brings is awaited where it arrives.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicAck, BasicConsume, BasicPublish, Method, QueueDeclare, TxCommit, TxSelect, TxSelectOk,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::{Table, TableBuf};

use crate::dead_letters::{dead_letters_to, story};
use crate::harness::broker::{only_here, unique};
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::{Arrival, content_frames};
use crate::harness::methods::{consume, publish, queue_declare};
use crate::harness::wire::method_frame;

pub(crate) type Arguments<'a> = &'a [(&'a str, Field<'a>)];

pub(crate) fn table(entries: Arguments<'_>) -> Vec<u8> {
    let mut table = TableBuf::new();
    for (name, value) in entries {
        table.insert(name, *value);
    }
    table.into_bytes()
}

/// A new queue that goes with the connection.
pub(crate) fn queue_with(client: &mut Client, entries: Arguments<'_>) -> String {
    let arguments = table(entries);
    let declare =
        QueueDeclare { exclusive: true, arguments: Table::unchecked(&arguments), ..queue_declare("") };
    client.declare(declare).queue
}

fn put_expiring(client: &mut Client, queue: &str, body: &str, expiration: &str) {
    let mut properties = PropertiesBuf::new();
    properties.expiration(expiration);
    client.publish_as(publish("", queue), &properties.encode(), body.as_bytes());
}

fn put_with_priority(client: &mut Client, queue: &str, body: &str, priority: u8) {
    let mut properties = PropertiesBuf::new();
    properties.priority(priority);
    client.publish_as(publish("", queue), &properties.encode(), body.as_bytes());
}

#[test]
fn a_queue_s_messages_expire() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-message-ttl", Field::I32(50))]);
    client.consume(&dead);
    client.put_all(&queue, &["a", "b"]);
    let letter = client.delivery();
    assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "expired", 1)]);
    assert_eq!((letter.text(), client.delivery().text()), ("a", "b"));
    assert_eq!(client.counts(&queue), (0, 0));
}

#[test]
fn the_shorter_of_two_lives_counts() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-message-ttl", Field::I32(600_000))]);
    client.consume(&dead);
    put_expiring(&mut client, &queue, "short", "30");
    assert_eq!(client.delivery().text(), "short");
}

#[test]
fn what_has_a_short_life_leaves_from_behind_what_has_a_long_one() {
    if !only_here("RabbitMQ looks at the head only") {
        return;
    }
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    client.consume(&dead);
    for (body, life) in [("long", "600000"), ("second", "90"), ("first", "20"), ("none", "700000")] {
        put_expiring(&mut client, &queue, body, life);
    }
    assert_eq!(client.bodies(2), ["first", "second"]);
    assert_eq!(client.take_all(&queue), ["long", "none"]);
}

#[test]
fn what_lives_for_no_time_is_for_who_waits_for_it() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-message-ttl", Field::I32(0))]);
    let tag = client.consume(&queue);
    client.put(&queue, "taken");
    assert_eq!(client.delivery().text(), "taken");
    client.cancel(&tag);
    client.consume(&dead);
    client.put(&queue, "lost");
    let letter = client.delivery();
    assert_eq!(story(letter.properties().headers().unwrap())[0].1, "expired");
}

#[test]
fn a_queue_that_nobody_uses_goes() {
    let mut client = Client::open();
    let queue = client.leave_queue(unique("lease"));
    let arguments = table(&[("x-expires", Field::I32(150))]);
    let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    client.declare(declare);
    // As long as there is a consumer it stays, however long that is: something else comes and goes meanwhile.
    let tag = client.consume(&queue);
    let other = client.leave_queue(unique("lease"));
    client.declare(QueueDeclare { queue: &other, ..declare });
    await_missing(&other);
    assert_eq!(client.counts(&queue), (0, 1));
    client.cancel(&tag);
    await_missing(&queue);
}

/// Publishes to a queue by name until it is returned: asking for it in any other way would be use.
pub(crate) fn await_missing(queue: &str) {
    let mut client = Client::open();
    client.select_confirms();
    loop {
        let mandatory = BasicPublish { mandatory: true, ..publish("", queue) };
        client.publish_as(mandatory, NO_PROPERTIES, b"");
        let frame = client.next_method();
        if let Method::BasicReturn(_) = frame.method() {
            return;
        }
    }
}

#[test]
fn the_oldest_make_room_for_the_newest() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-max-length", Field::I32(3))]);
    client.consume(&dead);
    client.put_all(&queue, &["a", "b", "c", "d", "e"]);
    for body in ["a", "b"] {
        let letter = client.delivery();
        assert_eq!(letter.text(), body);
        assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "maxlen", 1)]);
    }
    // What somebody has in hand does not count.
    let held = client.get(&queue).unwrap();
    client.put(&queue, "f");
    client.barrier();
    assert_eq!(client.counts(&queue).0, 3);
    client.send(&Method::BasicAck(BasicAck { delivery_tag: held.tag(), multiple: false }));
    assert_eq!(client.take_all(&queue), ["d", "e", "f"]);
}

#[test]
fn bodies_count_as_well() {
    let mut client = Client::open();
    let queue = queue_with(&mut client, &[("x-max-length-bytes", Field::I32(10))]);
    client.fill(&queue, &["1234", "5678", "9"]);
    client.put(&queue, "12345");
    client.barrier();
    let dropped = client.take_all(&queue);
    assert_eq!(dropped, ["5678", "9", "12345"]);
    client.put(&queue, "more than ten octets");
    client.barrier();
    assert_eq!(client.take_all(&queue), Vec::<String>::new());
}

#[test]
fn a_full_queue_refuses_the_newest() {
    for (overflow, is_dead_lettered) in [("reject-publish", false), ("reject-publish-dlx", true)] {
        let mut client = Client::open();
        let dead = client.queue();
        let [exchange, key] = dead_letters_to(&dead);
        let limits = [("x-max-length", Field::I32(2)), ("x-overflow", Field::LongStr(overflow.as_bytes()))];
        let queue = queue_with(&mut client, &[exchange, key, limits[0], limits[1]]);
        client.select_confirms();
        let mut told = Vec::new();
        for body in ["a", "b", "c", "d"] {
            client.put(&queue, body);
            let frame = client.next_method();
            told.push(match frame.method() {
                Method::BasicAck(ack) => (ack.delivery_tag, true),
                Method::BasicNack(nack) => (nack.delivery_tag, false),
                other => panic!("an answer, not {other:?}"),
            });
        }
        assert_eq!(told, [(1, true), (2, true), (3, false), (4, false)]);
        assert_eq!(client.take_all(&queue), ["a", "b"]);
        if is_dead_lettered {
            client.consume(&dead);
            let letter = client.delivery();
            assert_eq!((letter.text(), client.delivery().text()), ("c", "d"));
            assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "maxlen", 1)]);
        } else {
            assert_eq!(client.counts(&dead).0, 0);
        }
    }
}

#[test]
fn one_that_refuses_among_others_makes_it_a_nack() {
    let mut client = Client::open();
    let fanout = client.exchange("fanout");
    let limits = [("x-max-length", Field::I32(1)), ("x-overflow", Field::LongStr(b"reject-publish"))];
    let (open, full) = (client.queue(), queue_with(&mut client, &limits));
    for queue in [&open, &full] {
        client.bind(queue, &fanout, "");
    }
    client.select_confirms();
    client.publish(&fanout, "", "a");
    client.expect_confirm(1);
    client.publish(&fanout, "", "b");
    let frame = client.next_method();
    assert!(matches!(frame.method(), Method::BasicNack(nack) if nack.delivery_tag == 2), "{frame:?}");
    assert_eq!(client.take_all(&open), ["a", "b"]);
    assert_eq!(client.take_all(&full), ["a"]);
}

#[test]
fn a_transaction_that_is_refused_in_part_closes_its_channel() {
    let mut client = Client::open();
    let limits = [("x-max-length", Field::I32(1)), ("x-overflow", Field::LongStr(b"reject-publish"))];
    let queue = queue_with(&mut client, &limits);
    client.open_channel(2);
    client.on(2).call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    client.put_all(&queue, &["a", "b"]);
    client.send(&Method::TxCommit(TxCommit {}));
    client.expect_channel_close((90, 20), 406, "PRECONDITION_FAILED - partial tx completion");
    assert_eq!(client.on(1).take_all(&queue), ["a"]);
}

#[test]
fn higher_priorities_come_first_and_go_back_to_their_place() {
    let mut client = Client::open();
    let queue = queue_with(&mut client, &[("x-max-priority", Field::I32(5))]);
    for (body, priority) in [("a", 0), ("b", 1), ("c", 5), ("d", 9), ("f", 3), ("g", 5)] {
        put_with_priority(&mut client, &queue, body, priority);
    }
    client.put(&queue, "e");
    client.barrier();
    let mut taken = Vec::new();
    while let Some(next) = client.get(&queue) {
        taken.push((next.text().to_owned(), next.tag()));
    }
    let order: Vec<&str> = taken.iter().map(|(body, _)| body.as_str()).collect();
    assert_eq!(order, ["c", "d", "g", "f", "b", "a", "e"]);
    for at in [5, 2, 4, 0] {
        client.requeue(taken[at].1);
    }
    assert_eq!(client.take_all(&queue), ["c", "g", "b", "a"]);
}

#[test]
fn what_is_behind_higher_priorities_expires_as_well() {
    if !only_here("RabbitMQ waits for the first of the highest priority") {
        return;
    }
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let rules = [exchange, key, ("x-max-priority", Field::I32(9)), ("x-message-ttl", Field::I32(1500))];
    let queue = queue_with(&mut client, &rules);
    client.consume(&dead);
    put_with_priority(&mut client, &queue, "low", 1);
    // The letter of this one says that time has passed since.
    put_expiring(&mut client, &queue, "time", "1200");
    assert_eq!(client.delivery().text(), "time");
    put_with_priority(&mut client, &queue, "high", 9);
    assert_eq!(client.bodies(2), ["low", "high"]);
}

#[test]
fn one_consumer_is_served_until_it_goes() {
    let mut client = Client::open();
    let queue = queue_with(&mut client, &[("x-single-active-consumer", Field::Bool(true))]);
    let first = client.consume(&queue);
    client.open_channel(2);
    let second = client.on(2).consume(&queue);
    client.on(1).put_all(&queue, &["a", "b", "c"]);
    let tag_of = |client: &mut Client| match client.delivery().method() {
        Method::BasicDeliver(deliver) => deliver.consumer_tag.to_owned(),
        _ => unreachable!("it was checked"),
    };
    for _ in 0..3 {
        assert_eq!(tag_of(&mut client), first);
    }
    client.cancel(&first);
    client.put(&queue, "d");
    assert_eq!(tag_of(client.on(2)), second);
    let alone = BasicConsume { exclusive: true, ..consume(&queue) };
    let text = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    client.open_channel(3);
    client.on(3).send(&Method::BasicConsume(alone));
    client.expect_channel_close((60, 20), 403, &text);
}

#[test]
fn what_comes_back_to_a_full_queue_that_refuses_is_kept() {
    let mut client = Client::open();
    let limits = [("x-max-length", Field::I32(1)), ("x-overflow", Field::LongStr(b"reject-publish"))];
    let queue = queue_with(&mut client, &limits);
    client.fill(&queue, &["a"]);
    let held = client.get(&queue).unwrap();
    client.fill(&queue, &["b"]);
    client.requeue(held.tag());
    client.barrier();
    assert_eq!(client.take_all(&queue), ["a", "b"]);
}

#[test]
fn what_a_consumer_waits_for_finds_room() {
    let mut client = Client::open();
    let limits = [("x-max-length", Field::I32(1)), ("x-overflow", Field::LongStr(b"reject-publish"))];
    let queue = queue_with(&mut client, &limits);
    client.consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    client.open_channel(2);
    client.on(2).select_confirms();
    let mut burst = Vec::new();
    for number in 0..10 {
        burst.extend(method_frame(2, &Method::BasicPublish(publish("", &queue))));
        burst.extend(content_frames(2, NO_PROPERTIES, number.to_string().as_bytes()));
    }
    client.wire.send_bytes(&burst);
    let (mut delivered, mut confirmed) = (Vec::new(), 0);
    while delivered.len() < 10 || confirmed < 10 {
        let frame = client.wire.frame();
        if let Method::BasicAck(ack) = frame.method() {
            confirmed = ack.delivery_tag;
            continue;
        }
        assert!(
            matches!(frame.method(), Method::BasicDeliver(_)),
            "neither an ack nor a delivery: {frame:?}"
        );
        delivered.push(Arrival::read(&mut client.wire, frame).text().to_owned());
    }
    assert_eq!(delivered, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_lives_for_no_time_has_no_second_chance() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-message-ttl", Field::I32(0))]);
    client.consume(&queue);
    client.put(&queue, "m");
    let tag = client.delivery().tag();
    let taken = client.consume(&dead);
    client.requeue(tag);
    let letter = client.delivery();
    let Method::BasicDeliver(deliver) = letter.method() else { unreachable!("it was checked") };
    assert_eq!(deliver.consumer_tag, taken);
    assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "expired", 1)]);
}

#[test]
fn what_comes_back_and_is_too_much_makes_room_before_anybody_is_served() {
    let mut client = Client::open();
    let dead = client.queue();
    let [exchange, key] = dead_letters_to(&dead);
    let queue = queue_with(&mut client, &[exchange, key, ("x-max-length", Field::I32(0))]);
    client.open_channel(2);
    client.on(2).consume(&queue);
    client.on(1).put(&queue, "m");
    let tag = client.on(2).delivery().tag();
    client.requeue(tag);
    client.barrier();
    client.on(1).consume(&dead);
    let letter = client.delivery();
    assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "maxlen", 1)]);
}

#[test]
fn what_expires_as_it_comes_and_is_too_much_by_itself_is_too_much() {
    let none = ("x-message-ttl", Field::I32(0));
    let own = ("x-expires", Field::I32(600_000));
    for (limit, life, body, reason) in [
        (("x-max-length", Field::I32(0)), none, "m", "maxlen"),
        (("x-max-length", Field::I32(0)), own, "m", "maxlen"),
        (("x-max-length", Field::I32(1)), none, "m", "expired"),
        (("x-max-length-bytes", Field::I32(3)), none, "four", "maxlen"),
        (("x-max-length-bytes", Field::I32(3)), none, "two", "expired"),
    ] {
        let mut client = Client::open();
        let dead = client.queue();
        let [exchange, key] = dead_letters_to(&dead);
        let queue = queue_with(&mut client, &[exchange, key, limit, life]);
        client.consume(&dead);
        for _ in 0..3 {
            put_expiring(&mut client, &queue, body, "0");
        }
        for _ in 0..3 {
            let letter = client.delivery();
            assert_eq!(
                story(letter.properties().headers().unwrap())[0].1,
                reason,
                "{limit:?} {life:?} {body}"
            );
        }
    }
}

#[test]
fn the_next_consumer_that_is_served_alone_begins_with_what_the_last_one_held() {
    let mut client = Client::open();
    let alone = table(&[("x-single-active-consumer", Field::Bool(true))]);
    let queue = client.leave_queue(unique("alone"));
    client.declare(QueueDeclare { arguments: Table::unchecked(&alone), ..queue_declare(&queue) });
    let mut first = Client::open();
    first.qos(2, false);
    first.consume(&queue);
    client.consume(&queue);
    first.put_all(&queue, &["1", "2", "3"]);
    assert_eq!(first.bodies(2), ["1", "2"]);
    drop(first);
    assert_eq!(client.bodies(3), ["1", "2", "3"]);
}
