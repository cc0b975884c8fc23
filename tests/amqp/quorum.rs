//! Queues that keep all, count what comes back and serve it first: quorum queues, as one node has them.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicConsume, BasicGet, BasicNack, BasicQos, BasicQosOk, Method, QueueDeclare, QueueDelete, TxSelect,
    TxSelectOk,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::Table;

use crate::dead_letters::{dead_letters_to, reject, story};
use crate::harness::broker::{only_here, unique};
use crate::harness::client::Client;
use crate::harness::content::Arrival;
use crate::harness::methods::{consume, publish, queue_declare, queue_delete};
use crate::rules::{Arguments, queue_with, table};

/// A new quorum queue, deleted when the test ends.
fn quorum_queue_with(client: &mut Client, entries: Arguments<'_>) -> String {
    let mut all = vec![("x-queue-type", Field::LongStr(b"quorum"))];
    all.extend_from_slice(entries);
    let (arguments, queue) = (table(&all), client.leave_queue(unique("quorum")));
    let declare =
        QueueDeclare { durable: true, arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    client.declare(declare).queue
}

#[test]
fn what_comes_back_too_often_to_a_quorum_queue_is_given_up() {
    let mut client = Client::open();
    let dead = client.shared_queue("dead");
    let [exchange, key] = dead_letters_to(&dead);
    let queue = quorum_queue_with(&mut client, &[exchange, key, ("x-delivery-limit", Field::I32(2))]);
    client.select_confirms();
    client.put(&queue, "m");
    client.expect_confirm(1);
    client.consume(&dead);
    client.open_channel(2);
    client.on(2).consume(&queue);
    for count in 0..3 {
        let delivery = client.delivery();
        let headers = delivery.properties().headers();
        let told = headers.and_then(|headers| headers.get("x-delivery-count")?.as_int());
        assert_eq!((delivery.is_redelivered(), told), (count > 0, (count > 0).then_some(count)));
        client.requeue(delivery.tag());
    }
    let letter = client.on(1).delivery();
    assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "delivery_limit", 1)]);
}

#[test]
fn quorum_queues_say_what_they_cannot_be() {
    let quorum = table(&[("x-queue-type", Field::LongStr(b"quorum"))]);
    let queue = unique("quorum");
    let durable =
        QueueDeclare { durable: true, arguments: Table::unchecked(&quorum), ..queue_declare(&queue) };
    let refused = |declare: QueueDeclare<'_>, text: &str| {
        let text = format!("PRECONDITION_FAILED - {text}");
        Client::open().check_channel_close(&Method::QueueDeclare(declare), 406, &text);
    };
    let property = |name: &str| format!("invalid property '{name}' for queue '{queue}' in vhost '/'");
    refused(QueueDeclare { durable: false, ..durable }, &property("non-durable"));
    refused(QueueDeclare { exclusive: true, ..durable }, &property("exclusive-owner"));
    refused(QueueDeclare { auto_delete: true, ..durable }, &property("auto-delete"));
    let nameless = "Cannot declare a server-named queue for type rabbit_quorum_queue";
    refused(QueueDeclare { queue: "", ..durable }, nameless);
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[]);
    client.barrier();
    let text = format!(
        "NOT_IMPLEMENTED - cannot delete queue '{queue}' in vhost '/'. queue.delete operations with if-unused flag \
         set are not supported by quorum queues"
    );
    let mut delete = queue_delete(&queue);
    delete.if_unused = true;
    Client::open().check_connection_close(&Method::QueueDelete(delete), 540, &text);
    let mut other = Client::open();
    let qos = BasicQos { prefetch_size: 0, prefetch_count: 3, global: true };
    other.call(&Method::BasicQos(qos), &Method::BasicQosOk(BasicQosOk {}));
    let text = format!("NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos");
    other.check_connection_close(&Method::BasicConsume(consume(&queue)), 540, &text);
}

#[test]
fn a_quorum_queue_with_a_single_active_consumer_is_not_asked_for_messages() {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[("x-single-active-consumer", Field::Bool(true))]);
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain access to locked queue '{queue}' in vhost '/'. basic.get operations are not \
         supported by quorum queues with single active consumer"
    );
    let get = BasicGet { queue: &queue, no_ack: false };
    Client::open().check_channel_close(&Method::BasicGet(get), 405, &text);
}

#[test]
fn an_argument_of_another_kind_of_queue_is_refused() {
    let quorum = ("x-queue-type", Field::LongStr(b"quorum"));
    for (arguments, name, kind) in [
        (vec![quorum, ("x-max-priority", Field::I32(5))], "x-max-priority", "rabbit_quorum_queue"),
        (vec![quorum, ("x-queue-mode", Field::LongStr(b"lazy"))], "x-queue-mode", "rabbit_quorum_queue"),
        (vec![("x-delivery-limit", Field::I32(5))], "x-delivery-limit", "rabbit_classic_queue"),
    ] {
        let (queue, arguments) = (unique("other"), table(&arguments));
        let declare =
            QueueDeclare { durable: true, arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
        let text = format!(
            "PRECONDITION_FAILED - invalid arg '{name}' for queue '{queue}' in vhost '/' of queue type {kind}"
        );
        Client::open().check_channel_close(&Method::QueueDeclare(declare), 406, &text);
    }
}

/// The order in which messages come that come back one after the other, and one that was published then.
fn order_of_returns(entries: Arguments<'_>) -> Vec<String> {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, entries);
    client.fill(&queue, &["a", "b", "c", "d"]);
    let tags: Vec<_> = (0..3).map(|_| client.get(&queue).unwrap().tag()).collect();
    for at in [2, 0, 1] {
        client.requeue(tags[at]);
        client.barrier();
    }
    client.put(&queue, "e");
    client.barrier();
    client.take_all(&queue)
}

#[test]
fn what_comes_back_to_a_queue_with_a_delivery_limit_is_first_in_the_order_of_its_return() {
    assert_eq!(order_of_returns(&[("x-delivery-limit", Field::I32(5))]), ["c", "a", "b", "d", "e"]);
}

#[test]
fn what_comes_back_to_a_queue_without_one_is_behind_what_is_there() {
    assert_eq!(order_of_returns(&[]), ["d", "c", "a", "b", "e"]);
}

#[test]
fn what_a_channel_held_that_ends_is_first_again() {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[]);
    client.fill(&queue, &["a", "b", "c"]);
    client.open_channel(2);
    (0..2).for_each(|_| drop(client.on(2).get(&queue).unwrap()));
    client.close_channel();
    client.on(1).barrier();
    assert_eq!(client.take_all(&queue), ["a", "b", "c"]);
}

#[test]
fn what_a_transaction_had_given_back_is_at_its_place_when_its_channel_ends() {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[]);
    client.fill(&queue, &["a", "b", "c"]);
    client.open_channel(2);
    client.on(2).call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    let tags: Vec<u64> = (0..3).map(|_| client.on(2).get(&queue).unwrap().tag()).collect();
    for delivery_tag in [tags[1], tags[0]] {
        client.send(&Method::BasicNack(BasicNack { delivery_tag, multiple: false, requeue: true }));
    }
    client.close_channel();
    client.on(1).barrier();
    assert_eq!(client.take_all(&queue), ["a", "b", "c"]);
}

#[test]
fn a_quorum_queue_has_no_exclusive_consumers() {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[]);
    client.open_channel(2);
    client.on(1).consume_as(BasicConsume { exclusive: true, ..consume(&queue) });
    client.on(2).consume(&queue);
}

#[test]
fn a_queue_type_that_was_said_is_compared_by_name() {
    let mut client = Client::open();
    let queue = quorum_queue_with(&mut client, &[]);
    let classic = table(&[("x-queue-type", Field::LongStr(b"classic"))]);
    let declare =
        QueueDeclare { durable: true, arguments: Table::unchecked(&classic), ..queue_declare(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': received 'classic' but \
         current is 'quorum'"
    );
    Client::open().check_channel_close(&Method::QueueDeclare(declare), 406, &text);
}

#[test]
fn a_dead_letter_that_must_not_be_lost_waits_for_its_place() {
    if !only_here("RabbitMQ tries again after three minutes") {
        return;
    }
    let mut client = Client::open();
    let one = [("x-max-length", Field::I32(1)), ("x-overflow", Field::LongStr(b"reject-publish"))];
    let dead = queue_with(&mut client, &one);
    let [exchange, key] = dead_letters_to(&dead);
    let kept = ("x-dead-letter-strategy", Field::LongStr(b"at-least-once"));
    let queue = quorum_queue_with(&mut client, &[exchange, key, kept, one[1]]);
    client.fill(&queue, &["a", "b", "c"]);
    for _ in 0..3 {
        let tag = client.get(&queue).unwrap().tag();
        reject(&mut client, tag);
    }
    client.consume(&dead);
    let mut letters: Vec<_> = (0..3).map(|_| client.delivery()).collect();
    for letter in &letters {
        assert_eq!(story(letter.properties().headers().unwrap()), [(queue.as_str(), "rejected", 1)]);
    }
    // What waited a moment for its place may come behind what found one.
    letters.sort_by(|one, other| one.text().cmp(other.text()));
    assert!(letters.iter().map(Arrival::text).eq(["a", "b", "c"]));
}

#[test]
fn a_dead_letter_that_must_not_be_lost_waits_for_its_queue() {
    if !only_here("RabbitMQ tries again after three minutes") {
        return;
    }
    let mut client = Client::open();
    let dead = client.leave_queue(unique("dead"));
    let [exchange, key] = dead_letters_to(&dead);
    let kept = ("x-dead-letter-strategy", Field::LongStr(b"at-least-once"));
    let refuses = ("x-overflow", Field::LongStr(b"reject-publish"));
    let queue = quorum_queue_with(&mut client, &[exchange, key, kept, refuses]);
    client.fill(&queue, &["m"]);
    let tag = client.get(&queue).unwrap().tag();
    reject(&mut client, tag);
    client.barrier();
    client.declare(queue_declare(&dead));
    client.consume(&dead);
    assert_eq!(client.delivery().text(), "m");
}

#[test]
fn dead_letters_that_wait_take_up_their_queues_limit() {
    if !only_here("RabbitMQ counts them a moment later") {
        return;
    }
    let mut client = Client::open();
    let nowhere = unique("nowhere");
    let [exchange, key] = dead_letters_to(&nowhere);
    let kept = ("x-dead-letter-strategy", Field::LongStr(b"at-least-once"));
    let refuses = ("x-overflow", Field::LongStr(b"reject-publish"));
    let two = ("x-max-length", Field::I32(2));
    let queue = quorum_queue_with(&mut client, &[exchange, key, kept, refuses, two]);
    client.fill(&queue, &["a", "b"]);
    for _ in 0..2 {
        let tag = client.get(&queue).unwrap().tag();
        reject(&mut client, tag);
    }
    client.select_confirms();
    client.put(&queue, "c");
    let nack = BasicNack { delivery_tag: 1, multiple: false, requeue: false };
    client.expect(&Method::BasicNack(nack));
    let delete = QueueDelete { if_empty: true, ..queue_delete(&queue) };
    let text = format!(
        "NOT_IMPLEMENTED - cannot delete queue '{queue}' in vhost '/'. queue.delete operations with if-empty flag set \
         are not supported by quorum queues"
    );
    client.check_connection_close(&Method::QueueDelete(delete), 540, &text);
}

#[test]
fn a_dead_letter_for_a_waiting_consumer_comes_once() {
    if !only_here("RabbitMQ keeps it") {
        return;
    }
    let mut client = Client::open();
    client.consume_as(BasicConsume { no_ack: true, ..consume("amq.rabbitmq.reply-to") });
    let asked = client.queue();
    let mut properties = PropertiesBuf::new();
    properties.reply_to("amq.rabbitmq.reply-to");
    client.publish_as(publish("", &asked), &properties.encode(), b"?");
    client.barrier();
    let request = client.get(&asked).unwrap();
    let address = request.properties().reply_to().unwrap().to_vec();
    let kept = ("x-dead-letter-strategy", Field::LongStr(b"at-least-once"));
    let refuses = ("x-overflow", Field::LongStr(b"reject-publish"));
    let exchange = ("x-dead-letter-exchange", Field::LongStr(b""));
    let key = ("x-dead-letter-routing-key", Field::LongStr(&address));
    let queue = quorum_queue_with(&mut client, &[exchange, key, kept, refuses]);
    client.fill(&queue, &["a", "b"]);
    let tags: Vec<_> = (0..2).map(|_| client.get(&queue).unwrap().tag()).collect();
    tags.into_iter().for_each(|tag| reject(&mut client, tag));
    assert_eq!((client.delivery().text(), client.delivery().text()), ("a", "b"));
    assert_eq!(client.counts(&queue), (0, 0));
}
