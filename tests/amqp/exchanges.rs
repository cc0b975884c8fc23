//! The kinds of exchange that RabbitMQ has as plugins: to be asked of one on which they are enabled.

use std::collections::BTreeSet;

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicPublish, BasicReject, ExchangeDeclare, Method, QueueBindOk, QueueDeclare, QueueUnbindOk, TxRollback,
    TxRollbackOk, TxSelect, TxSelectOk,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::{ArrayBuf, TableBuf};

use crate::harness::broker::{only_here, unique};
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::properties;
use crate::harness::methods::{
    exchange_declare, publish, queue_bind, queue_declare, queue_delete, queue_unbind,
};

const CONSISTENT_HASH: &str = "x-consistent-hash";
const MODULUS_HASH: &str = "x-modulus-hash";
const RANDOM: &str = "x-random";
const RECENT_HISTORY: &str = "x-recent-history";

/// Those that choose one of the queues that are bound, and a binding key that each of them takes.
const ONE_OF_ALL: [&str; 3] = [CONSISTENT_HASH, MODULUS_HASH, RANDOM];
/// All of them.
const KINDS: [&str; 4] = [CONSISTENT_HASH, MODULUS_HASH, RANDOM, RECENT_HISTORY];
const KEY: &str = "1";

/// Declares an exchange with arguments.
fn declare(client: &mut Client, kind: &str, arguments: &[(&str, Field<'_>)]) -> String {
    let exchange = client.leave_exchange(unique(kind));
    let arguments = table(arguments);
    let declare = exchange_declare(&exchange, kind);
    client.declare_exchange(ExchangeDeclare { arguments: arguments.as_table(), ..declare });
    exchange
}

fn table(entries: &[(&str, Field<'_>)]) -> TableBuf {
    let mut table = TableBuf::new();
    for (name, value) in entries {
        table.insert(name, *value);
    }
    table
}

fn text(value: &str) -> Field<'_> {
    Field::LongStr(value.as_bytes())
}

/// Queues that are bound with these keys.
fn bound<const N: usize>(client: &mut Client, exchange: &str, keys: [&str; N]) -> [String; N] {
    keys.map(|key| {
        let queue = client.queue();
        client.bind(&queue, exchange, key);
        queue
    })
}

/// What each queue has, when everything published before is there.
fn contents<const N: usize>(client: &mut Client, queues: &[String; N]) -> [Vec<String>; N] {
    queues.each_ref().map(|queue| client.take_all(queue))
}

/// Publishes with each key, and returns when all are where they go: queues confirm in any order.
fn publish_all(client: &mut Client, exchange: &str, keys: impl IntoIterator<Item = String>) {
    client.select_confirms();
    let mut awaited = BTreeSet::new();
    for (key, number) in keys.into_iter().zip(1..) {
        client.publish(exchange, &key, &key);
        awaited.insert(number);
    }
    while !awaited.is_empty() {
        let frame = client.next_method();
        let Method::BasicAck(ack) = frame.method() else { panic!("an ack, not {frame:?}") };
        awaited.retain(|number| {
            let is_covered = ack.multiple && *number < ack.delivery_tag;
            *number != ack.delivery_tag && !is_covered
        });
    }
}

fn numbers(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn a_message_goes_to_one_of_the_queues() {
    for kind in ONE_OF_ALL {
        let mut client = Client::open();
        let exchange = client.exchange(kind);
        let queues = bound(&mut client, &exchange, [KEY; 3]);
        publish_all(&mut client, &exchange, numbers("key ", 200));
        let found = contents(&mut client, &queues);
        assert!(found.iter().all(|bodies| !bodies.is_empty()), "{kind}: each has a share");
        let mut all = found.concat();
        all.sort();
        let mut expected = numbers("key ", 200);
        expected.sort();
        assert_eq!(all, expected, "{kind}: once each");
    }
}

#[test]
fn a_queue_that_goes_leaves_its_share_to_the_others() {
    for kind in ONE_OF_ALL {
        let mut client = Client::open();
        let exchange = client.exchange(kind);
        let queues = bound(&mut client, &exchange, [KEY; 3]);
        client.delete(queue_delete(&queues[0]));
        publish_all(&mut client, &exchange, numbers("", 50));
        let counts = [&queues[1], &queues[2]].map(|queue| client.take_all(queue).len());
        assert_eq!(counts[0] + counts[1], 50, "{kind}");
        let unbind = Method::QueueUnbind(queue_unbind(&queues[1], &exchange, KEY));
        client.call(&unbind, &Method::QueueUnbindOk(QueueUnbindOk {}));
        for key in numbers("", 50) {
            client.publish(&exchange, &key, &key);
        }
        client.expect_confirm(100);
        assert_eq!(client.take_all(&queues[2]), numbers("", 50), "{kind}: all to the one that is left");
    }
}

#[test]
fn more_keys_do_not_make_more_copies_where_one_is_chosen() {
    for kind in ONE_OF_ALL {
        let mut client = Client::open();
        let exchange = client.exchange(kind);
        let queues = bound(&mut client, &exchange, [KEY; 4]);
        let mut cc = ArrayBuf::new();
        let more = numbers("more ", 30);
        more.iter().for_each(|key| _ = cc.push(text(key)));
        let headers = table(&[("CC", Field::Array(cc.as_array()))]);
        client.publish_as(
            publish(&exchange, "key"),
            &properties(|p| _ = p.headers(headers.as_table())),
            b"one",
        );
        client.barrier();
        assert_eq!(contents(&mut client, &queues).concat(), ["one"], "{kind}");
    }
}

#[test]
fn exchanges_can_be_chosen_too() {
    for kind in KINDS {
        let mut client = Client::open();
        let (exchange, behind) = (client.exchange(kind), client.exchange("fanout"));
        client.bind_exchange(&behind, &exchange, KEY);
        let queues = bound(&mut client, &behind, ["", ""]);
        client.publish(&exchange, "key", "through");
        client.barrier();
        assert_eq!(contents(&mut client, &queues), [["through"], ["through"]], "{kind}");

        let before = client.exchange("topic");
        client.bind_exchange(&exchange, &before, "#");
        client.publish(&before, "key", "from afar");
        client.barrier();
        assert_eq!(contents(&mut client, &queues), [["from afar"], ["from afar"]], "{kind}");
    }
}

#[test]
fn what_nobody_is_bound_for_goes_to_the_alternate_or_back() {
    for kind in KINDS {
        let mut client = Client::open();
        let spare = client.exchange("fanout");
        let exchange = declare(&mut client, kind, &[("alternate-exchange", text(&spare))]);
        let mandatory = |key| BasicPublish { mandatory: true, ..publish(&exchange, key) };
        client.publish_as(mandatory("k"), NO_PROPERTIES, b"nobody");
        assert_eq!(client.returned().text(), "nobody");
        let [kept] = bound(&mut client, &spare, [""]);
        client.publish_as(mandatory("k"), NO_PROPERTIES, b"spare");
        assert_eq!(client.take(&kept).text(), "spare");
        let [queue] = bound(&mut client, &exchange, [KEY]);
        client.take_all(&queue);
        client.publish_as(mandatory("k"), NO_PROPERTIES, b"bound");
        assert_eq!(client.take(&queue).text(), "bound");
        assert!(client.take_all(&kept).is_empty());
    }
}

#[test]
fn arguments_of_a_kind_play_no_part_when_it_is_declared_again() {
    for kind in KINDS {
        let mut client = Client::open();
        let known = [("hash-header", text("h")), ("x-unknown", Field::I32(1))];
        let exchange = declare(&mut client, kind, &known);
        client.declare_exchange(exchange_declare(&exchange, kind));
        let wrong = table(&[("hash-header", text("a")), ("hash-property", text("b"))]);
        client.declare_exchange(ExchangeDeclare {
            arguments: wrong.as_table(),
            ..exchange_declare(&exchange, kind)
        });
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': received 'fanout' \
             but current is ''{kind}''"
        );
        let other = Method::ExchangeDeclare(exchange_declare(&exchange, "fanout"));
        client.check_channel_close(&other, 406, &text);
    }
}

#[test]
fn they_are_internal_or_auto_delete_as_any_other() {
    for kind in KINDS {
        let mut client = Client::open();
        let internal = client.leave_exchange(unique(kind));
        client.declare_exchange(ExchangeDeclare { internal: true, ..exchange_declare(&internal, kind) });
        client.publish(&internal, "k", "refused");
        let text = format!("ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'");
        client.expect_channel_close((60, 40), 403, &text);

        let name = unique(kind);
        client.declare_exchange(ExchangeDeclare { auto_delete: true, ..exchange_declare(&name, kind) });
        let queue = client.queue();
        client.bind(&queue, &name, KEY);
        client.delete(queue_delete(&queue));
        let passive = ExchangeDeclare { passive: true, ..exchange_declare(&name, kind) };
        let text = format!("NOT_FOUND - no exchange '{name}' in vhost '/'");
        client.check_channel_close(&Method::ExchangeDeclare(passive), 404, &text);
    }
}

#[test]
fn a_routing_key_always_goes_the_same_way() {
    for kind in [CONSISTENT_HASH, MODULUS_HASH] {
        let mut client = Client::open();
        let exchange = client.exchange(kind);
        let queues = bound(&mut client, &exchange, [KEY; 4]);
        publish_all(&mut client, &exchange, (0..5).flat_map(|_| numbers("", 20)));
        for bodies in contents(&mut client, &queues) {
            for body in &bodies {
                assert_eq!(bodies.iter().filter(|other| *other == body).count(), 5, "{kind}: {body}");
            }
        }
    }
}

#[test]
fn messages_that_are_alike_go_anywhere_at_random() {
    let mut client = Client::open();
    let exchange = client.exchange(RANDOM);
    let queues = bound(&mut client, &exchange, [KEY; 3]);
    publish_all(&mut client, &exchange, vec!["key".to_owned(); 300]);
    let counts = contents(&mut client, &queues).map(|bodies| bodies.len());
    assert!(counts.iter().all(|count| (40..180).contains(count)), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 300);
}

#[test]
fn a_weight_is_a_share() {
    let mut client = Client::open();
    let exchange = client.exchange(CONSISTENT_HASH);
    let queues = bound(&mut client, &exchange, ["1", "9"]);
    publish_all(&mut client, &exchange, numbers("key ", 500));
    let [small, large] = contents(&mut client, &queues).map(|bodies| bodies.len());
    assert_eq!(small + large, 500);
    assert!((10..120).contains(&small), "{small} and {large}");
}

/// Publishes with each value and two keys: a value goes one way, and not all go the same.
fn check_told_apart(argument: (&str, &str), set: impl Fn(&mut PropertiesBuf, usize)) {
    let mut client = Client::open();
    let exchange = declare(&mut client, CONSISTENT_HASH, &[(argument.0, text(argument.1))]);
    let queues = bound(&mut client, &exchange, [KEY; 2]);
    for key in ["one", "two", "two"] {
        for value in 0..40 {
            let sent = properties(|p| set(p, value));
            client.publish_as(publish(&exchange, key), &sent, value.to_string().as_bytes());
        }
    }
    client.barrier();
    let found = contents(&mut client, &queues);
    assert_eq!(found.concat().len(), 120);
    for bodies in &found {
        assert!((1..120).contains(&bodies.len()), "{argument:?}: not all of one key go one way");
        for body in bodies {
            assert_eq!(bodies.iter().filter(|other| *other == body).count(), 3, "{argument:?}: {body}");
        }
    }
}

#[test]
fn messages_are_told_apart_by_a_header_or_a_property() {
    check_told_apart(("hash-header", "h"), |p, value| {
        _ = p.headers(table(&[("other", Field::Void), ("h", text(&value.to_string()))]).as_table());
    });
    check_told_apart(("hash-header", "h"), |p, value| {
        _ = p.headers(table(&[("h", Field::I64(value as i64))]).as_table());
    });
    check_told_apart(("hash-property", "message_id"), |p, value| _ = p.message_id(value.to_string()));
    check_told_apart(("hash-property", "correlation_id"), |p, value| _ = p.correlation_id(value.to_string()));
    check_told_apart(("hash-property", "timestamp"), |p, value| _ = p.timestamp(value as u64));
}

#[test]
fn messages_without_what_they_are_told_apart_by_go_one_way() {
    for argument in [("hash-header", "h"), ("hash-property", "message_id")] {
        let mut client = Client::open();
        let exchange = declare(&mut client, CONSISTENT_HASH, &[(argument.0, text(argument.1))]);
        let queues = bound(&mut client, &exchange, [KEY; 3]);
        publish_all(&mut client, &exchange, numbers("", 30));
        let counts = contents(&mut client, &queues).map(|bodies| bodies.len());
        assert!(counts.contains(&30), "{argument:?}: {counts:?}");
    }
}

/// What exchange.declare refuses.
fn check_refused(kind: &str, arguments: &[(&str, Field<'_>)], text: &str) {
    let arguments = table(arguments);
    let name = unique(kind);
    let declare = ExchangeDeclare { arguments: arguments.as_table(), ..exchange_declare(&name, kind) };
    let text = format!("PRECONDITION_FAILED - {text}");
    Client::open().check_channel_close(&Method::ExchangeDeclare(declare), 406, &text);
}

#[test]
fn a_consistent_hash_exchange_hashes_on_one_thing() {
    let (header, property) = (("hash-header", text("h")), ("hash-property", text("message_id")));
    let both = "hash-header and hash-property are mutually exclusive";
    check_refused(CONSISTENT_HASH, &[header, property], both);
    check_refused(CONSISTENT_HASH, &[("hash-property", text("app_id"))], "Unsupported property: app_id");
}

#[test]
fn the_name_of_a_header_is_text() {
    if !only_here("RabbitMQ closes the connection with an internal error") {
        return;
    }
    let number = [("hash-header", Field::I32(1))];
    check_refused(CONSISTENT_HASH, &number, "invalid type 'signedint' for arg 'hash-header'");
}

#[test]
fn a_weight_is_a_positive_integer() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange(CONSISTENT_HASH), client.queue());
    let mut check = |key: &str, text: &str| {
        let text = format!("PRECONDITION_FAILED - {text}");
        client.check_channel_close(&Method::QueueBind(queue_bind(&queue, &exchange, key)), 406, &text);
    };
    check("0", "The binding key must be greater than 0");
    check("-1", "The binding key must be greater than 0");
    check("heavy", r#"The binding key must be an integer: <<"heavy">>"#);
    check("1.5", r#"The binding key must be an integer: <<"1.5">>"#);
    check("", "The binding key must be an integer: <<>>");
}

#[test]
fn a_weight_is_bounded() {
    if !only_here("RabbitMQ has a bucket for each unit of any weight until version 4") {
        return;
    }
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange(CONSISTENT_HASH), client.queue());
    for key in ["10001", "1000000000", "1000000000000000000000000"] {
        let text = "PRECONDITION_FAILED - The binding key must not be greater than 10000";
        client.check_channel_close(&Method::QueueBind(queue_bind(&queue, &exchange, key)), 406, text);
    }
    client.bind(&queue, &exchange, "10000");
}

#[test]
fn who_is_bound_gets_the_last_messages_and_then_each_once() {
    let mut client = Client::open();
    let exchange = client.exchange(RECENT_HISTORY);
    let [early] = bound(&mut client, &exchange, [""]);
    publish_all(&mut client, &exchange, numbers("", 25));
    let [late] = bound(&mut client, &exchange, ["any key"]);
    let again = Method::QueueBind(queue_bind(&late, &exchange, "any key"));
    client.call(&again, &Method::QueueBindOk(QueueBindOk {}));
    client.publish(&exchange, "", "more");
    client.expect_confirm(26);
    let more = ["more".to_owned()];
    assert_eq!(client.take_all(&early), [&numbers("", 25)[..], &more].concat());
    assert_eq!(client.take_all(&late), [&numbers("", 25)[5..], &more].concat());
    client.bind(&late, &exchange, "another key");
    assert_eq!(client.take_all(&late), [&numbers("", 25)[6..], &more].concat(), "another binding, once more");
}

#[test]
fn a_history_is_as_long_as_it_was_declared() {
    let mut client = Client::open();
    let exchange = declare(&mut client, RECENT_HISTORY, &[("x-recent-history-length", Field::I32(3))]);
    publish_all(&mut client, &exchange, numbers("", 2));
    let [first] = bound(&mut client, &exchange, [""]);
    assert_eq!(client.take_all(&first), ["0", "1"]);
    for key in ["2", "3", "4"] {
        client.publish(&exchange, key, key);
    }
    client.expect_confirm(5);
    let [second] = bound(&mut client, &exchange, [""]);
    assert_eq!(client.take_all(&second), ["2", "3", "4"]);
}

#[test]
fn what_is_not_to_be_stored_is_not() {
    let mut client = Client::open();
    let exchange = client.exchange(RECENT_HISTORY);
    let [early] = bound(&mut client, &exchange, [""]);
    for (value, body) in [
        (Field::Bool(true), "secret"),
        (Field::Bool(false), "open"),
        (Field::LongStr(b"true"), "text is no flag"),
    ] {
        let headers = table(&[("other", Field::Void), ("x-recent-history-no-store", value)]);
        let sent = properties(|p| _ = p.headers(headers.as_table()));
        client.publish_as(publish(&exchange, ""), &sent, body.as_bytes());
    }
    client.barrier();
    assert_eq!(client.take_all(&early), ["secret", "open", "text is no flag"]);
    let [late] = bound(&mut client, &exchange, [""]);
    assert_eq!(client.take_all(&late), ["open", "text is no flag"]);
}

#[test]
fn a_remembered_message_is_as_it_was() {
    let mut client = Client::open();
    let exchange = client.exchange(RECENT_HISTORY);
    let queue = client.queue();
    let mut cc = ArrayBuf::new();
    cc.push(text("more"));
    let headers = table(&[("CC", Field::Array(cc.as_array())), ("h", Field::I32(7))]);
    let sent = properties(|p| _ = p.headers(headers.as_table()).delivery_mode(2).message_id("id"));
    let bodies = [vec![], vec![b'a'; 100], vec![b'b'; 3_000], vec![b'c'; 300_000]];
    for body in &bodies {
        client.publish_as(publish(&exchange, "the key"), &sent, body);
    }
    client.barrier();
    client.bind(&queue, &exchange, "");
    for body in &bodies {
        let arrived = client.take(&queue);
        let Method::BasicGetOk(got) = arrived.method() else { panic!("{arrived:?}") };
        assert_eq!((got.exchange, got.routing_key), (exchange.as_bytes(), b"the key".as_slice()));
        assert!(!got.redelivered);
        assert_eq!(arrived.properties, sent);
        assert!(arrived.body == *body);
    }
    assert!(client.get(&queue).is_none());
}

#[test]
fn an_exchange_that_is_bound_passes_the_history_on() {
    let mut client = Client::open();
    let (exchange, behind) = (client.exchange(RECENT_HISTORY), client.exchange("direct"));
    let queues = bound(&mut client, &behind, ["a", "b"]);
    for key in ["a", "b", "b"] {
        client.publish(&exchange, key, key);
    }
    client.barrier();
    client.bind_exchange(&behind, &exchange, "");
    assert_eq!(contents(&mut client, &queues), [vec!["a"], vec!["b", "b"]]);
    let before = client.exchange("fanout");
    client.bind_exchange(&exchange, &before, "");
    client.publish(&before, "a", "from afar");
    client.barrier();
    let [late] = bound(&mut client, &exchange, [""]);
    assert_eq!(client.take_all(&late), ["a", "b", "b", "from afar"]);
}

#[test]
fn what_a_transaction_published_is_remembered_before_it_ends() {
    let mut client = Client::open();
    let exchange = client.exchange(RECENT_HISTORY);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    client.publish(&exchange, "", "taken back");
    let [queue] = bound(&mut client, &exchange, [""]);
    client.call(&Method::TxRollback(TxRollback {}), &Method::TxRollbackOk(TxRollbackOk {}));
    assert_eq!(client.take_all(&queue), ["taken back"]);
}

#[test]
fn a_dead_letter_is_remembered_as_any_message() {
    let mut client = Client::open();
    let exchange = client.exchange(RECENT_HISTORY);
    let arguments = table(&[("x-dead-letter-exchange", text(&exchange))]);
    let dying = QueueDeclare { exclusive: true, arguments: arguments.as_table(), ..queue_declare("") };
    let dying = client.declare(dying).queue;
    let [early] = bound(&mut client, &exchange, [""]);
    client.put(&dying, "dead");
    client.barrier();
    let tag = client.get(&dying).unwrap().tag();
    client.consume(&early);
    client.send(&Method::BasicReject(BasicReject { delivery_tag: tag, requeue: false }));
    let dead = client.delivery();
    assert_eq!(dead.text(), "dead");
    let [late] = bound(&mut client, &exchange, [""]);
    let repeated = client.take(&late);
    assert_eq!((repeated.text(), &repeated.properties), ("dead", &dead.properties));
}

#[test]
fn the_length_of_a_history_is_a_positive_integer() {
    let check = |value: Field<'_>, shown: &str| {
        let text = format!("Invalid argument {shown}, 'x-recent-history-length' must be a positive integer");
        check_refused(RECENT_HISTORY, &[("x-recent-history-length", value)], &text);
    };
    check(Field::I32(0), "0");
    check(Field::I64(-1), "-1");
    check(Field::F64(1.5), "1.5");
    check(text("many"), "<<\"many\">>");
    check(Field::Bool(true), "true");
}

#[test]
fn the_length_of_a_history_is_bounded() {
    if !only_here("RabbitMQ remembers as many as it is told to") {
        return;
    }
    let length = |length| [("x-recent-history-length", Field::I64(length))];
    for wanted in [10_001, i64::MAX] {
        let text =
            format!("Invalid argument {wanted}, 'x-recent-history-length' must not be greater than 10000");
        check_refused(RECENT_HISTORY, &length(wanted), &text);
    }
    declare(&mut Client::open(), RECENT_HISTORY, &length(10_000));
}
