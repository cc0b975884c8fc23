//! Messages that are held for longer than they may be: what becomes of them, of who holds them, and of who is next.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{BasicConsume, Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::harness::broker::{only_here, unique};
use crate::harness::client::Client;
use crate::harness::login::Login;
use crate::harness::methods::{consume, queue_declare};
use crate::rules::{await_missing, queue_with, table};

/// A queue that serves one consumer, and the next one when that has held a message for too long.
fn queue_that_hands_over(client: &mut Client) -> String {
    let rules = [
        ("x-single-active-consumer", Field::Bool(true)),
        ("x-consumer-timeout", Field::I32(100)),
        ("x-consumer-timeout-action", Field::LongStr(b"cancel")),
    ];
    queue_with(client, &rules)
}

#[test]
fn who_holds_a_message_for_too_long_loses_it() {
    if !only_here("RabbitMQ takes this argument from 3.12 on, and looks once a minute") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    client.open_channel(2);
    let arguments = table(&[("x-consumer-timeout", Field::I32(100))]);
    let slow = BasicConsume { arguments: Table::unchecked(&arguments), ..consume(&queue) };
    client.on(2).consume_as(slow);
    client.on(1).put(&queue, "m");
    let held = client.on(2).delivery();
    assert!(!held.is_redelivered());
    let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out. Timeout value used: 100 ms. This \
                timeout value can be configured, see consumers doc guide to learn more";
    client.expect_channel_close((0, 0), 406, text);
    let again = client.on(1).take(&queue);
    assert_eq!((again.text(), again.is_redelivered()), ("m", true));
}

#[test]
fn who_holds_a_message_for_too_long_may_lose_only_that() {
    if !only_here("RabbitMQ closes the channel") {
        return;
    }
    let mut client = Client::open();
    let action = ("x-consumer-timeout-action", Field::LongStr(b"requeue"));
    let queue = queue_with(&mut client, &[("x-consumer-timeout", Field::I32(100)), action]);
    client.put_all(&queue, &["a", "b"]);
    client.barrier();
    client.open_channel(2);
    let slow = client.on(2).get(&queue).unwrap();
    client.on(1).consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    assert_eq!(client.delivery().text(), "b");
    let again = client.delivery();
    assert_eq!((again.text(), again.is_redelivered()), ("a", true));
    client.on(2).ack(slow.tag());
    client.barrier();
    client.ack(slow.tag());
    client.expect_channel_close((60, 80), 406, "PRECONDITION_FAILED - unknown delivery tag 1");
}

#[test]
fn a_consumer_that_holds_a_message_for_too_long_may_be_cancelled() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let mut client = Client::open();
    let (queue, other) = (client.queue(), client.queue());
    client.put_all(&queue, &["a", "b", "c"]);
    client.put(&other, "kept");
    client.open_channel(2);
    client.on(2).consume(&other);
    assert_eq!(client.delivery().text(), "kept");
    let arguments = table(&[
        ("x-consumer-timeout", Field::I32(100)),
        ("x-consumer-timeout-action", Field::LongStr(b"cancel")),
    ]);
    let slow = BasicConsume { arguments: Table::unchecked(&arguments), ..consume(&queue) };
    let tag = client.on(2).consume_as(slow);
    let held: Vec<u64> = (0..3).map(|_| client.on(2).delivery().tag()).collect();
    let told = client.next_method();
    let Method::BasicCancel(cancel) = told.method() else { panic!("no basic.cancel") };
    assert_eq!((cancel.consumer_tag, cancel.nowait), (&*tag, true));
    // All that it held is back in its place, and who acknowledges it too late is not to blame.
    client.on(2).ack(held[1]);
    client.barrier();
    client.on(1).consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    for body in ["a", "b", "c"] {
        let again = client.delivery();
        assert_eq!((again.text(), again.is_redelivered()), (body, true));
    }
    // The tag is free again, and what another consumer of the channel holds is still its own.
    client.on(2).consume_as(BasicConsume { consumer_tag: &tag, ..consume(&queue) });
    assert_eq!(client.counts(&other), (0, 1));
}

#[test]
fn where_one_consumer_is_served_the_next_one_is_when_it_is_cancelled_for_holding_a_message() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let mut client = Client::open();
    let queue = queue_that_hands_over(&mut client);
    client.open_channel(2);
    client.on(2).consume(&queue);
    client.on(1).consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    client.put_all(&queue, &["a", "b"]);
    assert_eq!(client.on(2).bodies(2), ["a", "b"]);
    assert!(matches!(client.next_method().method(), Method::BasicCancel(_)));
    assert_eq!(client.on(1).bodies(2), ["a", "b"]);
}

#[test]
fn what_a_cancelled_consumer_held_comes_before_what_waits() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let mut client = Client::open();
    let queue = queue_that_hands_over(&mut client);
    client.open_channel(2);
    client.on(2).qos(2, false);
    client.on(2).consume(&queue);
    client.on(1).consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    client.put_all(&queue, &["a", "b", "c", "d"]);
    assert_eq!(client.on(2).bodies(2), ["a", "b"]);
    assert!(matches!(client.next_method().method(), Method::BasicCancel(_)));
    assert_eq!(client.on(1).bodies(4), ["a", "b", "c", "d"]);
}

#[test]
fn who_cannot_be_told_that_it_is_cancelled_for_holding_a_message_loses_its_channel() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let mut client = Login { capabilities: &[], ..Login::default() }.connect();
    let rules =
        [("x-consumer-timeout", Field::I32(100)), ("x-consumer-timeout-action", Field::LongStr(b"cancel"))];
    let queue = queue_with(&mut client, &rules);
    client.consume(&queue);
    client.put(&queue, "m");
    assert_eq!(client.delivery().text(), "m");
    let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 100 ms. This \
                timeout value can be configured, see consumers doc guide to learn more";
    client.expect_channel_close((0, 0), 406, text);
}

#[test]
fn a_get_that_is_held_for_too_long_has_no_consumer_to_be_cancelled() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let rules =
        [("x-consumer-timeout", Field::I32(100)), ("x-consumer-timeout-action", Field::LongStr(b"cancel"))];
    for login in [Login::default(), Login { capabilities: &[], ..Login::default() }] {
        let mut client = login.connect();
        let queue = queue_with(&mut client, &rules);
        client.put(&queue, "m");
        client.open_channel(2);
        let held = client.on(2).get(&queue).unwrap();
        client.on(1).consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
        let again = client.delivery();
        assert_eq!((again.text(), again.is_redelivered()), ("m", true));
        // The channel goes on, and who acknowledges it too late is not to blame.
        client.on(2).ack(held.tag());
        client.barrier();
    }
}

#[test]
fn a_queue_goes_with_its_last_consumer_that_is_cancelled_for_holding_a_message() {
    if !only_here("RabbitMQ has no such argument, and cancels from 4.3 on") {
        return;
    }
    let mut client = Client::open();
    let rules = table(&[
        ("x-consumer-timeout", Field::I32(100)),
        ("x-consumer-timeout-action", Field::LongStr(b"cancel")),
    ]);
    let arguments = Table::unchecked(&rules);
    let queue = client.declare(QueueDeclare { auto_delete: true, arguments, ..queue_declare("") }).queue;
    client.open_channel(2);
    client.on(2).consume(&queue);
    client.on(1).put_all(&queue, &["a", "b"]);
    let held: Vec<u64> = (0..2).map(|_| client.on(2).delivery().tag()).collect();
    assert!(matches!(client.next_method().method(), Method::BasicCancel(_)));
    await_missing(&queue);
    // It took its messages with it, as it does with a consumer that cancels: late acknowledgements are for nothing.
    held.into_iter().for_each(|tag| client.on(2).ack(tag));
    client.barrier();
}

#[test]
fn what_happens_after_too_long_is_one_of_three() {
    if !only_here("RabbitMQ has no such argument") {
        return;
    }
    let name = "x-consumer-timeout-action";
    let mut client = Client::open();
    let there = client.queue();
    for (value, reason) in [
        (Field::LongStr(b"panic"), "{invalid_consumer_timeout_action,panic}"),
        (Field::I32(1), "{unacceptable_type,signedint}"),
    ] {
        let (arguments, queue) = (table(&[(name, value)]), unique("action"));
        let arguments = Table::unchecked(&arguments);
        let text = |queue: &str| {
            format!("PRECONDITION_FAILED - invalid arg '{name}' for queue '{queue}' in vhost '/': {reason}")
        };
        let declare = QueueDeclare { arguments, ..queue_declare(&queue) };
        client.check_channel_close(&Method::QueueDeclare(declare), 406, &text(&queue));
        let consume = BasicConsume { arguments, ..consume(&there) };
        client.check_channel_close(&Method::BasicConsume(consume), 406, &text(&there));
    }
    for value in ["requeue", "cancel", "close"] {
        let arguments = table(&[(name, Field::LongStr(value.as_bytes()))]);
        client.consume_as(BasicConsume { arguments: Table::unchecked(&arguments), ..consume(&there) });
        queue_with(&mut client, &[(name, Field::LongStr(value.as_bytes()))]);
    }
}
