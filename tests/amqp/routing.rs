//! From exchanges to queues: the kinds, bindings between exchanges, alternates, more keys, direct replies.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicConsume, BasicPublish, BasicReject, ExchangeDeclare, ExchangeUnbind, ExchangeUnbindOk, Method,
    QueueBind, QueueDeclare, QueueUnbindOk, TxSelect, TxSelectOk,
};
use sluicemq::protocol::table::{ArrayBuf, Table, TableBuf};

use crate::harness::broker::{is_ours, only_here, unique};
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::properties;
use crate::harness::methods::{
    consume, exchange_declare, publish, queue_bind, queue_declare, queue_delete, queue_unbind,
};

const PUBLISH: (u16, u16) = (60, 40);
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Binds a queue to an exchange of that kind by each pattern, publishes with each key, and sees what arrives.
fn check_keys(kind: &str, patterns: &[&str], keys: &[&str], expected: &[&str]) {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange(kind), client.queue());
    for pattern in patterns {
        client.bind(&queue, &exchange, pattern);
    }
    for key in keys {
        client.publish(&exchange, key, key);
    }
    client.barrier();
    assert_eq!(client.take_all(&queue), expected, "{kind} {patterns:?}");
}

#[test]
fn each_kind_matches_keys_its_way() {
    check_keys("direct", &["a", "b"], &["a", "b", "a.b", ""], &["a", "b"]);
    check_keys("fanout", &["a", "b"], &["a", "", "z"], &["a", "", "z"]);
    check_keys("topic", &["a.*"], &["a.b", "a", "a.b.c", "a."], &["a.b", "a."]);
    check_keys("topic", &["a.#"], &["a", "a.b", "a.b.c", "b.a"], &["a", "a.b", "a.b.c"]);
    check_keys(
        "topic",
        &["#.z", "*.*"],
        &["z", "y.z", "x.y.z", "a.b", "a.b.c"],
        &["z", "y.z", "x.y.z", "a.b"],
    );
    check_keys("topic", &["#"], &["", "a", "a.b"], &["", "a", "a.b"]);
}

/// Whether a binding with these arguments lets a message with those headers through.
fn check_headers(binding: &[(&str, Field<'_>)], headers: &[(&str, Field<'_>)], matches: bool) {
    let table = |entries: &[(&str, Field<'_>)]| {
        let mut table = TableBuf::new();
        for (key, value) in entries {
            table.insert(key, *value);
        }
        table
    };
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("headers"), client.queue());
    let arguments = table(binding);
    client.bind_as(QueueBind { arguments: arguments.as_table(), ..queue_bind(&queue, &exchange, "") });
    let sent = properties(|p| _ = p.headers(table(headers).as_table()));
    client.publish_as(publish(&exchange, ""), &sent, b"x");
    client.barrier();
    assert_eq!(client.take_all(&queue).len(), usize::from(matches), "{binding:?} and {headers:?}");
}

#[test]
fn headers_match_all_or_any_with_x_or_without() {
    let (one, two) = (("k", Field::I32(1)), ("l", Field::LongStr(b"v")));
    let x = ("x-k", Field::I32(1));
    let how = |name: &'static [u8]| ("x-match", Field::LongStr(name));
    check_headers(&[one, two], &[one, two], true);
    check_headers(&[one, two], &[one], false);
    check_headers(&[how(b"all"), one, two], &[one], false);
    check_headers(&[how(b"any"), one, two], &[one], true);
    check_headers(&[how(b"any"), one, two], &[("k", Field::I32(2))], false);
    check_headers(&[how(b"all"), one, x], &[one], true);
    check_headers(&[how(b"all-with-x"), one, x], &[one], false);
    check_headers(&[how(b"all-with-x"), one, x], &[one, x], true);
    check_headers(&[how(b"any-with-x"), one, x], &[x], true);
    check_headers(&[how(b"any"), one, x], &[x], false);
    check_headers(&[("k", Field::Void)], &[one], true);
    check_headers(&[], &[], true);
}

#[test]
fn a_queue_gets_one_copy_however_many_bindings_match() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("topic"), client.queue());
    for key in ["a.*", "*.b", "#", "a.b", "a.b"] {
        client.bind(&queue, &exchange, key);
    }
    client.publish(&exchange, "a.b", "once");
    assert_eq!(client.take_all(&queue), ["once"]);
}

#[test]
fn an_unbound_queue_gets_no_more() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("direct"), client.queue());
    client.bind(&queue, &exchange, "a");
    client.bind(&queue, &exchange, "b");
    client.publish(&exchange, "a", "before");
    let unbind = Method::QueueUnbind(queue_unbind(&queue, &exchange, "a"));
    client.call(&unbind, &Method::QueueUnbindOk(QueueUnbindOk {}));
    client.publish(&exchange, "a", "after");
    client.publish(&exchange, "b", "other");
    assert_eq!(client.take_all(&queue), ["before", "other"]);
}

#[test]
fn the_default_exchange_knows_every_queue_by_its_name() {
    let mut client = Client::open();
    let queue = client.queue();
    client.put(&queue, "by name");
    let arrived = client.take(&queue);
    let Method::BasicGetOk(got) = arrived.method() else { panic!("{arrived:?}") };
    assert_eq!((got.exchange, got.routing_key), (b"".as_slice(), queue.as_bytes()));
    client.delete(queue_delete(&queue));
    client.publish_as(BasicPublish { mandatory: true, ..publish("", &queue) }, NO_PROPERTIES, b"back");
    assert_eq!(client.returned().text(), "back");
}

#[test]
fn exchanges_bound_to_exchanges_pass_on() {
    let mut client = Client::open();
    let (source, destination, queue) = (client.exchange("topic"), client.exchange("direct"), client.queue());
    client.bind_exchange(&destination, &source, "a.#");
    client.bind(&queue, &destination, "a.b");
    client.publish(&source, "a.b", "through");
    client.publish(&source, "a.c", "not bound");
    assert_eq!(client.take_all(&queue), ["through"]);
    let unbind = ExchangeUnbind {
        destination: &destination,
        source: &source,
        routing_key: "a.#",
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::ExchangeUnbind(unbind), &Method::ExchangeUnbindOk(ExchangeUnbindOk {}));
    client.publish(&source, "a.b", "cut");
    client.barrier();
    assert!(client.take_all(&queue).is_empty());
}

/// Declares an exchange with an alternate.
fn with_alternate(client: &mut Client, kind: &str, alternate: &str) -> String {
    let exchange = client.leave_exchange(unique("with-alternate"));
    let mut arguments = TableBuf::new();
    arguments.insert("alternate-exchange", Field::LongStr(alternate.as_bytes()));
    client.declare_exchange(ExchangeDeclare {
        arguments: arguments.as_table(),
        ..exchange_declare(&exchange, kind)
    });
    exchange
}

#[test]
fn alternates_follow_each_other_and_never_in_circles() {
    let mut client = Client::open();
    let last = client.exchange("fanout");
    let middle = with_alternate(&mut client, "direct", &last);
    let first = with_alternate(&mut client, "direct", &middle);
    let queue = client.queue();
    client.bind(&queue, &last, "");
    client.publish(&first, "k", "three hops");
    assert_eq!(client.take_all(&queue), ["three hops"]);

    let (one, two) = (unique("circle"), unique("circle"));
    for (exchange, alternate) in [(&one, &two), (&two, &one)] {
        client.leave_exchange(exchange.clone());
        let mut arguments = TableBuf::new();
        arguments.insert("alternate-exchange", Field::LongStr(alternate.as_bytes()));
        client.declare_exchange(ExchangeDeclare {
            arguments: arguments.as_table(),
            ..exchange_declare(exchange, "direct")
        });
    }
    client.publish_as(BasicPublish { mandatory: true, ..publish(&one, "k") }, NO_PROPERTIES, b"round");
    assert_eq!(client.returned().text(), "round");
}

#[test]
fn a_missing_alternate_is_no_obstacle() {
    let mut client = Client::open();
    let exchange = with_alternate(&mut client, "direct", &unique("none"));
    client.publish_as(BasicPublish { mandatory: true, ..publish(&exchange, "k") }, NO_PROPERTIES, b"back");
    assert_eq!(client.returned().text(), "back");
}

#[test]
fn mandatory_is_satisfied_by_any_queue() {
    let mut client = Client::open();
    let queue = client.queue();
    client.select_confirms();
    client.publish_as(BasicPublish { mandatory: true, ..publish("", &queue) }, NO_PROPERTIES, b"kept");
    client.expect_confirm(1);
    assert_eq!(client.take(&queue).text(), "kept");
}

#[test]
fn cc_and_bcc_are_more_keys_and_bcc_is_not_shown() {
    let mut client = Client::open();
    let queues = [client.queue(), client.queue(), client.queue()];
    let [first, second, third] = queues.each_ref().map(String::as_str);
    let mut cc = ArrayBuf::new();
    cc.push(Field::LongStr(second.as_bytes())).push(Field::LongStr(first.as_bytes()));
    let mut bcc = ArrayBuf::new();
    bcc.push(Field::LongStr(third.as_bytes()));
    let mut headers = TableBuf::new();
    headers
        .insert("a", Field::I32(1))
        .insert("BCC", Field::Array(bcc.as_array()))
        .insert("CC", Field::Array(cc.as_array()));
    let sent = properties(|p| _ = p.headers(headers.as_table()));
    client.publish_as(publish("", first), &sent, b"copies");
    let mut shown = TableBuf::new();
    shown.insert("a", Field::I32(1)).insert("CC", Field::Array(cc.as_array()));
    for queue in [first, second, third] {
        let copy = client.take(queue);
        assert_eq!(copy.properties().headers().unwrap().as_bytes(), shown.as_table().as_bytes());
        assert!(client.get(queue).is_none(), "one copy each");
    }
}

#[test]
fn a_direct_reply_finds_its_way() {
    let (mut asker, mut answerer) = (Client::open(), Client::open());
    let queue = answerer.shared_queue("requests");
    answerer.consume(&queue);
    asker.consume_as(BasicConsume { consumer_tag: "replies", no_ack: true, ..consume(REPLY_TO) });
    let request = properties(|p| _ = p.reply_to(REPLY_TO).correlation_id("7"));
    asker.publish_as(publish("", &queue), &request, b"question");

    let asked = answerer.delivery();
    let address = String::from_utf8(asked.properties().reply_to().unwrap().to_vec()).unwrap();
    assert!(address.starts_with("amq.rabbitmq.reply-to."), "{address}");
    assert_eq!(answerer.counts(&address), (0, 1), "whether someone waits can be asked");
    let reply = properties(|p| _ = p.correlation_id("7"));
    answerer.publish_as(publish("", &address), &reply, b"answer");

    let answered = asker.delivery();
    assert_eq!((answered.text(), answered.consumer_tag()), ("answer", "replies"));
    assert_eq!(answered.properties, reply);

    asker.close();
    let passive = Method::QueueDeclare(QueueDeclare { passive: true, ..queue_declare(&address) });
    answerer.check_channel_close(&passive, 404, &format!("NOT_FOUND - no queue '{address}' in vhost '/'"));
}

/// A client that waits for direct replies, and the address of its consumer.
fn asking() -> (Client, String) {
    let mut asker = Client::open();
    let queue = asker.queue();
    asker.consume_as(BasicConsume { no_ack: true, ..consume(REPLY_TO) });
    asker.publish_as(publish("", &queue), &properties(|p| _ = p.reply_to(REPLY_TO)), b"question");
    let asked = asker.take(&queue);
    let address = String::from_utf8(asked.properties().reply_to().unwrap().to_vec()).unwrap();
    (asker, address)
}

/// Properties whose headers hold these keys.
fn with_keys(header: &str, keys: &[&str]) -> Vec<u8> {
    let mut array = ArrayBuf::new();
    for key in keys {
        array.push(Field::LongStr(key.as_bytes()));
    }
    let mut headers = TableBuf::new();
    headers.insert(header, Field::Array(array.as_array()));
    properties(|p| _ = p.headers(headers.as_table()))
}

#[test]
fn a_direct_reply_finds_its_way_by_every_key() {
    let ((mut one, first), (mut two, second)) = (asking(), asking());
    let mut answerer = Client::open();
    let (queue, nowhere) = (answerer.queue(), unique("nowhere"));
    answerer.select_confirms();
    let all = [first.as_str(), &second, &queue];
    let cases: [(&str, &str, &[&str], [bool; 3]); 7] = [
        (&nowhere, "CC", &all[..1], [true, false, false]),
        (&nowhere, "BCC", &all[..1], [true, false, false]),
        (&queue, "CC", &all[..1], [true, false, true]),
        (&first, "BCC", &all[2..], [true, false, true]),
        (&first, "CC", &all[1..2], [true, true, false]),
        (&queue, "BCC", &all, [true, true, true]),
        // Each key once, however often it is named.
        (&first, "CC", &[&first, &first, &second, &second], [true, true, false]),
    ];
    for (number, (key, header, more, expected)) in (1..).zip(cases) {
        let body = format!("{key} {header} {more:?}");
        answerer.publish_as(publish("", key), &with_keys(header, more), body.as_bytes());
        answerer.expect_confirm(number);
        for (asker, _) in [&mut one, &mut two].into_iter().zip(expected).filter(|(_, expected)| *expected) {
            let answer = asker.delivery();
            assert_eq!(answer.text(), body);
            let Method::BasicDeliver(deliver) = answer.method() else { panic!("{answer:?}") };
            assert_eq!(deliver.routing_key, key.as_bytes());
            assert_eq!(answer.properties().headers().unwrap().get("BCC"), None);
        }
        assert_eq!(answerer.take_all(&queue).len(), usize::from(expected[2]), "{body}");
    }
    one.barrier();
    two.barrier();
}

#[test]
fn an_address_is_one_for_the_default_exchange_alone() {
    let (mut asker, address) = asking();
    let mut answerer = Client::open();
    for (key, header) in [(address.as_str(), "none"), ("none", "CC")] {
        let publish = BasicPublish { mandatory: true, ..publish("amq.direct", key) };
        answerer.publish_as(publish, &with_keys(header, &[&address]), b"back");
        assert_eq!(answerer.returned().text(), "back");
    }
    asker.barrier();
}

#[test]
fn a_direct_reply_does_not_wait_for_its_transaction() {
    let (mut asker, address) = asking();
    let mut answerer = Client::open();
    answerer.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    answerer.put(&address, "by its key");
    answerer.publish_as(publish("", &unique("none")), &with_keys("CC", &[&address]), b"by another");
    assert_eq!(asker.bodies(2), ["by its key", "by another"]);
}

#[test]
fn a_dead_letter_is_a_direct_reply_where_it_is_sent_to_an_address() {
    let ((mut one, first), (mut two, second)) = (asking(), asking());
    let mut client = Client::open();
    let mut arguments = TableBuf::new();
    arguments.insert("x-dead-letter-exchange", Field::LongStr(b""));
    let mut to_first = arguments.clone();
    to_first.insert("x-dead-letter-routing-key", Field::LongStr(first.as_bytes()));
    for arguments in [&to_first, &arguments] {
        let declare = QueueDeclare { exclusive: true, arguments: arguments.as_table(), ..queue_declare("") };
        let queue = client.declare(declare).queue;
        client.put(&queue, "late");
        client.publish_as(publish("", &queue), &with_keys("CC", &[&second]), b"and its keys");
        assert_eq!(two.delivery().text(), "and its keys", "as it is published");
        for _ in 0..2 {
            let tag = client.get(&queue).unwrap().tag();
            client.send(&Method::BasicReject(BasicReject { delivery_tag: tag, requeue: false }));
        }
        client.barrier();
    }
    assert_eq!(one.bodies(2), ["late", "and its keys"]);
    let again = two.delivery();
    assert_eq!(again.text(), "and its keys");
    assert!(again.properties().headers().unwrap().get("x-death").is_some());
    one.barrier();
    two.barrier();
}

#[test]
fn a_mandatory_reply_that_is_delivered_is_not_returned() {
    let (mut asker, address) = asking();
    let mut answerer = Client::open();
    answerer.select_confirms();
    let nowhere = unique("nowhere");
    for (number, (key, header)) in (1..).zip([(&address, "none"), (&nowhere, "CC")]) {
        let publish = BasicPublish { mandatory: true, ..publish("", key) };
        answerer.publish_as(publish, &with_keys(header, &[&address]), b"answer");
        // RabbitMQ knows of queues only, and returns what it has delivered.
        if !is_ours() {
            assert_eq!(answerer.returned().text(), "answer");
        }
        answerer.expect_confirm(number);
        assert_eq!(asker.delivery().text(), "answer");
    }
}

#[test]
fn direct_replies_that_are_read_later_all_arrive() {
    let (mut asker, address) = asking();
    let mut answerer = Client::open();
    answerer.select_confirms();
    let bodies = [vec![b'a'; 2_000_000], vec![b'b'; 2_000], vec![b'c'; 200_000]];
    for body in bodies.iter().cycle().take(30) {
        answerer.publish_as(publish("", &address), NO_PROPERTIES, body);
    }
    answerer.expect_confirm(30);
    for body in bodies.iter().cycle().take(30) {
        assert!(asker.delivery().body == *body, "in order and whole");
    }
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding_as_a_source() {
    let mut client = Client::open();
    let (exchange, queue) = (unique("auto"), client.queue());
    client.declare_exchange(ExchangeDeclare { auto_delete: true, ..exchange_declare(&exchange, "direct") });
    client.bind_exchange(&exchange, "amq.fanout", "");
    client.declare_exchange(ExchangeDeclare { passive: true, ..exchange_declare(&exchange, "direct") });
    client.bind(&queue, &exchange, "k");
    client.delete(queue_delete(&queue));
    let passive =
        Method::ExchangeDeclare(ExchangeDeclare { passive: true, ..exchange_declare(&exchange, "") });
    client.check_channel_close(&passive, 404, &format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'"));
}

#[test]
fn the_predeclared_exchanges_are_there() {
    let mut client = Client::open();
    for (exchange, kind) in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ] {
        client.declare_exchange(ExchangeDeclare { durable: true, ..exchange_declare(exchange, kind) });
    }
    let trace =
        ExchangeDeclare { durable: true, internal: true, ..exchange_declare("amq.rabbitmq.trace", "topic") };
    client.declare_exchange(trace);
}

/// A topic exchange with patterns that lead a long key astray, and that key. Ours alone: RabbitMQ never answers.
fn with_hungry_patterns(client: &mut Client, queue: &str) -> (String, String) {
    let exchange = client.exchange("topic");
    for number in 0..100_u64 {
        let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words: String = (0..40).map(|bit| if bits >> bit & 1 == 0 { "#.a." } else { "#.b." }).collect();
        client.bind(queue, &exchange, &format!("{words}z"));
    }
    client.bind(queue, &exchange, "#.short");
    (exchange, "a.b.".repeat(63) + "z")
}

/// How a publish to that exchange is refused: the end of a long key is left out.
fn check_refused(client: &mut Client, exchange: &str, key: &str) {
    let text = format!(
        "PRECONDITION_FAILED - routing takes too many steps: patterns bound to exchange '{exchange}' in vhost '/' \
         match too much of key '{key}'"
    );
    let shown = &text[..255 - "...".len()];
    client.expect_channel_close(PUBLISH, 406, &format!("{shown}..."));
}

#[test]
fn a_message_that_patterns_lead_astray_is_refused_and_not_confirmed() {
    if !only_here("RabbitMQ's matching takes exponential time here") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    let (exchange, key) = with_hungry_patterns(&mut client, &queue);
    // What was refused is refused again.
    for _ in 0..2 {
        client.select_confirms();
        client.publish(&exchange, "short", "before");
        client.expect_confirm(1);
        client.publish(&exchange, &key, "lost");
        client.publish(&exchange, "short", "behind it");
        check_refused(&mut client, &exchange, &key);
    }
    assert_eq!(client.take_all(&queue), ["before", "before"]);
}

#[test]
fn patterns_may_not_lead_copies_astray_either() {
    if !only_here("RabbitMQ's matching takes exponential time here") {
        return;
    }
    for header in ["CC", "BCC"] {
        let mut client = Client::open();
        let queue = client.queue();
        let (exchange, key) = with_hungry_patterns(&mut client, &queue);
        let mut keys = ArrayBuf::new();
        keys.push(Field::LongStr(key.as_bytes()));
        let mut headers = TableBuf::new();
        headers.insert(header, Field::Array(keys.as_array()));
        let sent = properties(|p| _ = p.headers(headers.as_table()));
        client.select_confirms();
        client.publish_as(publish(&exchange, "short"), &sent, b"lost");
        check_refused(&mut client, &exchange, &key);
        assert_eq!(client.counts(&queue).0, 0, "not even those that were found have it");
    }
}

#[test]
fn a_transaction_ends_with_the_message_that_patterns_lead_astray() {
    if !only_here("RabbitMQ's matching takes exponential time here") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    let (exchange, key) = with_hungry_patterns(&mut client, &queue);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    client.publish(&exchange, "short", "given up with it");
    client.publish(&exchange, &key, "lost");
    check_refused(&mut client, &exchange, &key);
    assert_eq!(client.counts(&queue).0, 0);
}
