//! Dead letters: where they go, in which order, and what they tell of their deaths.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicNack, BasicPublish, BasicReject, Method, QueueDeclare, TxCommit, TxCommitOk, TxSelect, TxSelectOk,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::{ArrayBuf, Table, TableBuf};

use crate::harness::broker::{only_here, unique};
use crate::harness::client::Client;
use crate::harness::content::{Arrival, properties};
use crate::harness::methods::{publish, queue_declare, queue_delete};
use crate::harness::wire::method_frame;
use crate::rules::{queue_with, table};

/// Says that dead letters go to a queue.
pub(crate) fn dead_letters_to(queue: &str) -> [(&str, Field<'_>); 2] {
    [
        ("x-dead-letter-exchange", Field::LongStr(b"")),
        ("x-dead-letter-routing-key", Field::LongStr(queue.as_bytes())),
    ]
}

pub(crate) fn text<'a>(table: Table<'a>, key: &str) -> &'a str {
    match table.get(key) {
        Some(Field::LongStr(text)) => str::from_utf8(text).unwrap(),
        other => panic!("{key} is {other:?}"),
    }
}

/// The entries of x-death.
fn deaths(headers: Table<'_>) -> Vec<Table<'_>> {
    let Some(Field::Array(deaths)) = headers.get("x-death") else { panic!("no x-death in {headers:?}") };
    let tables = deaths.iter().map(|death| match death {
        Field::Table(death) => death,
        other => panic!("{other:?} is no table"),
    });
    tables.collect()
}

/// Queue, reason and count of each entry.
pub(crate) fn story(headers: Table<'_>) -> Vec<(&str, &str, i64)> {
    let told = deaths(headers).into_iter().map(|death| {
        (text(death, "queue"), text(death, "reason"), death.get("count").unwrap().as_int().unwrap())
    });
    told.collect()
}

pub(crate) fn reject(client: &mut Client, delivery_tag: u64) {
    client.send(&Method::BasicReject(BasicReject { delivery_tag, requeue: false }));
}

#[test]
fn what_is_rejected_is_dead_lettered_with_its_story() {
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    client.consume(&dead);
    let mut properties = PropertiesBuf::new();
    let mut headers = TableBuf::new();
    headers.insert("mine", Field::I32(7));
    properties.headers(headers.as_table()).expiration("60000").message_id("m");
    client.publish_as(publish("", &queue), &properties.encode(), b"body");
    let tag = client.get(&queue).unwrap().tag();
    reject(&mut client, tag);
    let letter = client.delivery();
    let Method::BasicDeliver(deliver) = letter.method() else { unreachable!("it was checked") };
    assert_eq!((deliver.exchange, deliver.routing_key), (b"".as_slice(), dead.as_bytes()));
    assert!(!deliver.redelivered);
    let properties = letter.properties();
    assert_eq!((properties.expiration(), properties.message_id()), (None, Some(b"m".as_slice())));
    let headers = properties.headers().unwrap();
    assert_eq!(headers.get("mine"), Some(Field::I32(7)));
    assert_eq!(story(headers), [(queue.as_str(), "rejected", 1)]);
    let death = deaths(headers)[0];
    assert_eq!((text(death, "exchange"), text(death, "original-expiration")), ("", "60000"));
    let Some(Field::Array(keys)) = death.get("routing-keys") else { panic!("no keys") };
    assert!(keys.iter().eq([Field::LongStr(queue.as_bytes())]));
    assert!(matches!(death.get("time"), Some(Field::Timestamp(1..))));
    assert_eq!(text(headers, "x-first-death-queue"), queue);
    assert_eq!(text(headers, "x-first-death-reason"), "rejected");
    assert_eq!(text(headers, "x-first-death-exchange"), "");
    assert_eq!(letter.text(), "body");
}

#[test]
fn an_entry_counts_how_often_a_queue_gave_a_message_up_for_one_reason() {
    let mut client = Client::open();
    let (queue, back) = (unique("work"), unique("back"));
    let (queue, back) = (client.leave_queue(queue), client.leave_queue(back));
    for (own, other) in [(&queue, &back), (&back, &queue)] {
        let arguments = table(&dead_letters_to(other));
        client.declare(QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(own) });
    }
    client.consume(&queue);
    client.consume(&back);
    client.put(&queue, "m");
    for _ in 0..3 {
        let tag = client.delivery().tag();
        reject(&mut client, tag);
    }
    let last = client.delivery();
    let expected = [(queue.as_str(), "rejected", 2), (back.as_str(), "rejected", 1)];
    assert_eq!(story(last.properties().headers().unwrap()), expected);
}

#[test]
fn many_nacked_at_once_are_dead_lettered_in_order() {
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    let bodies: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for body in &bodies {
        client.put(&queue, body);
    }
    client.barrier();
    for _ in &bodies {
        client.get(&queue).unwrap();
    }
    client.consume(&dead);
    client.send(&Method::BasicNack(BasicNack { delivery_tag: 0, multiple: true, requeue: false }));
    assert_eq!(client.bodies(50), bodies);
}

#[test]
fn dead_letters_come_in_the_order_in_which_messages_died() {
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    texts.iter().for_each(|text| client.put(&queue, text));
    client.barrier();
    let tags: Vec<_> = (0..20).map(|_| client.get(&queue).unwrap().tag()).collect();
    tags.into_iter().rev().for_each(|tag| reject(&mut client, tag));
    client.consume(&dead);
    let order: Vec<String> = (0..20).map(|_| client.delivery().text().to_owned()).collect();
    assert!(order.iter().eq(texts.iter().rev()), "{order:?}");
}

#[test]
fn what_a_publisher_says_of_deaths_that_were_not_is_written_over() {
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    let mut headers = TableBuf::new();
    headers.insert("x-first-death-reason", Field::LongStr(b"expired"));
    let mut properties = PropertiesBuf::new();
    properties.headers(headers.as_table());
    client.publish_as(publish("", &queue), &properties.encode(), b"m");
    client.barrier();
    let tag = client.get(&queue).unwrap().tag();
    reject(&mut client, tag);
    client.consume(&dead);
    let letter = client.delivery();
    assert_eq!(text(letter.properties().headers().unwrap(), "x-first-death-reason"), "rejected");
}

#[test]
fn what_nobody_rejected_does_not_go_round_for_ever() {
    let mut client = Client::open();
    let queue = client.leave_queue(unique("round"));
    let [exchange, key] = dead_letters_to(&queue);
    let arguments = table(&[exchange, key, ("x-max-length", Field::I32(1))]);
    client.declare(QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) });
    client.fill(&queue, &["a"]);
    client.put_all(&queue, &["b", "c"]);
    client.barrier();
    assert_eq!(client.take_all(&queue), ["c"]);
}

#[test]
fn more_keys_are_kept_by_dead_letters_that_have_no_key_of_their_own() {
    let mut client = Client::open();
    let topic = client.exchange("topic");
    let (first, second) = (client.queue(), client.queue());
    let to_topic = [("x-dead-letter-exchange", Field::LongStr(topic.as_bytes()))];
    let queue = queue_with(&mut client, &to_topic);
    client.bind(&first, &topic, &queue);
    client.bind(&second, &topic, "copy");
    let mut keys = ArrayBuf::new();
    keys.push(Field::LongStr(b"copy"));
    let mut headers = TableBuf::new();
    headers.insert("CC", Field::Array(keys.as_array()));
    let mut properties = PropertiesBuf::new();
    properties.headers(headers.as_table());
    client.publish_as(publish("", &queue), &properties.encode(), b"m");
    client.barrier();
    let tag = client.get(&queue).unwrap().tag();
    client.consume(&first);
    client.consume(&second);
    reject(&mut client, tag);
    assert_eq!(client.bodies(2), ["m", "m"]);
}

/// The headers of a message with one more key of each kind.
fn more_keys(copy: &str, blind: &str) -> Vec<u8> {
    let keys = |name: &str| {
        let mut keys = ArrayBuf::new();
        keys.push(Field::LongStr(name.as_bytes()));
        keys
    };
    let mut headers = TableBuf::new();
    headers
        .insert("mine", Field::I32(1))
        .insert("BCC", Field::Array(keys(blind).as_array()))
        .insert("CC", Field::Array(keys(copy).as_array()));
    properties(|p| _ = p.headers(headers.as_table()))
}

/// Names of a message's headers.
fn header_names(message: &Arrival) -> Vec<String> {
    let headers = message.properties().headers().unwrap();
    headers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

/// The routing keys that the newest entry of x-death tells.
fn told_keys(message: &Arrival) -> Vec<String> {
    let newest = deaths(message.properties().headers().unwrap())[0];
    let Some(Field::Array(keys)) = newest.get("routing-keys") else { panic!("no keys in {newest:?}") };
    let keys = keys.iter().map(|key| match key {
        Field::LongStr(key) => String::from_utf8_lossy(key).into_owned(),
        other => panic!("{other:?} is no key"),
    });
    keys.collect()
}

#[test]
fn dead_letters_go_by_the_keys_of_bcc_and_do_not_show_them() {
    let mut client = Client::open();
    let (direct, again) = (client.exchange("direct"), client.exchange("direct"));
    let to = |exchange| [("x-dead-letter-exchange", exchange)];
    let queue = queue_with(&mut client, &to(Field::LongStr(direct.as_bytes())));
    let next = queue_with(&mut client, &to(Field::LongStr(again.as_bytes())));
    let last = client.queue();
    // Once more by the same keys from there.
    client.bind(&next, &direct, "blind");
    client.bind(&last, &again, "blind");
    for is_large in [false, true] {
        let body = vec![b'm'; if is_large { 5000 } else { 1 }];
        client.publish_as(publish("", &queue), &more_keys("copy", "blind"), &body);
        let first = client.get(&queue).unwrap();
        assert_eq!(header_names(&first), ["mine", "CC"]);
        client.consume(&next);
        reject(&mut client, first.tag());
        let second = client.delivery();
        assert!(!header_names(&second).contains(&"BCC".to_owned()), "{second:?}");
        assert_eq!(told_keys(&second), [queue.as_str(), "copy"]);
        client.consume(&last);
        reject(&mut client, second.tag());
        let third = client.delivery();
        client.ack(third.tag());
        assert_eq!((told_keys(&third), third.body.len()), (vec![queue.clone(), "copy".into()], body.len()));
        assert!(!header_names(&third).contains(&"BCC".to_owned()), "{third:?}");
        client.close_channel();
        client.open_channel(1);
    }
}

#[test]
fn a_key_of_their_own_takes_all_others_from_dead_letters() {
    let mut client = Client::open();
    let (direct, again) = (client.exchange("direct"), client.exchange("direct"));
    let own_key = [
        ("x-dead-letter-exchange", Field::LongStr(direct.as_bytes())),
        ("x-dead-letter-routing-key", Field::LongStr(b"own")),
    ];
    let queue = queue_with(&mut client, &own_key);
    let next = queue_with(&mut client, &[("x-dead-letter-exchange", Field::LongStr(again.as_bytes()))]);
    let (blind, last) = (client.queue(), client.queue());
    client.bind(&next, &direct, "own");
    client.bind(&blind, &direct, "blind");
    client.bind(&blind, &again, "blind");
    client.bind(&last, &again, "own");
    client.consume(&next);
    client.publish_as(publish("", &queue), &more_keys("copy", "blind"), b"m");
    let tag = client.get(&queue).unwrap().tag();
    reject(&mut client, tag);
    let letter = client.delivery();
    assert!(!header_names(&letter).contains(&"CC".to_owned()), "{letter:?}");
    client.consume(&last);
    reject(&mut client, letter.tag());
    assert_eq!(client.delivery().text(), "m");
    assert_eq!(client.counts(&blind).0, 0);
}

#[test]
fn what_is_returned_does_not_show_bcc() {
    let mut client = Client::open();
    let nowhere = unique("nowhere");
    let mandatory = BasicPublish { mandatory: true, ..publish("", &nowhere) };
    client.publish_as(mandatory, &more_keys("copy", "blind"), b"at once");
    let returned = client.returned();
    assert_eq!(
        (returned.text(), header_names(&returned)),
        ("at once", vec!["mine".to_owned(), "CC".to_owned()])
    );

    // When its transaction commits, and there is no queue or none any more.
    let queue = client.shared_queue("went");
    client.open_channel(2);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    for (exchange, key) in [("", nowhere.as_str()), ("amq.direct", &nowhere), ("", &queue)] {
        let mandatory = BasicPublish { mandatory: true, ..publish(exchange, key) };
        client.publish_as(mandatory, &more_keys("copy", "blind"), b"late");
    }
    client.barrier();
    client.on(1).delete(queue_delete(&queue));
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    for _ in 0..3 {
        let returned = client.returned();
        assert_eq!(
            (returned.text(), header_names(&returned)),
            ("late", vec!["mine".to_owned(), "CC".to_owned()])
        );
    }
    client.expect(&Method::TxCommitOk(TxCommitOk {}));
}

#[test]
fn a_routing_key_of_dead_letters_is_no_longer_than_any() {
    if !only_here("RabbitMQ takes it, and fails when a message dies") {
        return;
    }
    let (queue, key) = (unique("long"), "k".repeat(256));
    let arguments = table(&dead_letters_to(&key));
    let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue '{queue}' in vhost '/': \
         {{value_too_large,256}}"
    );
    Client::open().check_channel_close(&Method::QueueDeclare(declare), 406, &text);
}

#[test]
fn what_was_rejected_goes_on_when_its_queue_is_deleted() {
    let mut client = Client::open();
    let dead = client.queue();
    let queue = queue_with(&mut client, &dead_letters_to(&dead));
    client.put_all(&queue, &["a", "b", "c"]);
    client.barrier();
    for _ in 0..3 {
        client.get(&queue).unwrap();
    }
    client.consume(&dead);
    let mut burst =
        method_frame(1, &Method::BasicNack(BasicNack { delivery_tag: 0, multiple: true, requeue: false }));
    let mut delete = queue_delete(&queue);
    delete.nowait = true;
    burst.extend(method_frame(1, &Method::QueueDelete(delete)));
    client.wire.send_bytes(&burst);
    assert_eq!(client.bodies(3), ["a", "b", "c"]);
}
