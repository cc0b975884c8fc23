//! Exchanges that keep messages back until it is time. None of this is asked of a RabbitMQ, whose plugin for it does not
//! come with it.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{ExchangeDeclare, Method};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::{ArrayBuf, Table, TableBuf};

use crate::harness::broker::{only_here, unique};
use crate::harness::client::Client;
use crate::harness::methods::{exchange_declare, publish};

fn type_argument(kind: &str) -> Vec<u8> {
    let mut arguments = TableBuf::new();
    arguments.insert("x-delayed-type", Field::LongStr(kind.as_bytes()));
    arguments.into_bytes()
}

/// A new exchange that delays and then routes as this kind does, deleted when the test ends.
fn delaying(client: &mut Client, kind: &str) -> String {
    let exchange = client.leave_exchange(unique("delaying"));
    let arguments = type_argument(kind);
    client.declare_exchange(ExchangeDeclare {
        arguments: Table::unchecked(&arguments),
        ..exchange_declare(&exchange, "x-delayed-message")
    });
    exchange
}

fn publish_delayed(client: &mut Client, exchange: &str, key: &str, body: &str, delay: Field<'_>) {
    let mut headers = TableBuf::new();
    headers.insert("x-delay", delay);
    let mut properties = PropertiesBuf::new();
    properties.headers(headers.as_table());
    client.publish_as(publish(exchange, key), &properties.encode(), body.as_bytes());
}

#[test]
fn what_is_delayed_comes_when_it_is_time() {
    if !only_here("it is a plugin that does not come with RabbitMQ") {
        return;
    }
    let mut client = Client::open();
    let (exchange, queue) = (delaying(&mut client, "topic"), client.queue());
    client.bind(&queue, &exchange, "a.#");
    client.consume(&queue);
    publish_delayed(&mut client, &exchange, "a.late", "late", Field::I32(250));
    publish_delayed(&mut client, &exchange, "a.soon", "soon", Field::I64(40));
    publish_delayed(&mut client, &exchange, "b.never", "never", Field::I32(10));
    publish_delayed(&mut client, &exchange, "a.past", "past", Field::I32(-40));
    publish_delayed(&mut client, &exchange, "a.word", "word", Field::LongStr(b"soon"));
    client.publish(&exchange, "a.now", "now");
    assert_eq!(client.bodies(3), ["past", "word", "now"]);
    let soon = client.delivery();
    let headers = soon.properties().headers().unwrap();
    assert_eq!((soon.text(), headers.get("x-delay")), ("soon", Some(Field::I64(-40))));
    let Method::BasicDeliver(deliver) = soon.method() else { unreachable!("it was checked") };
    assert_eq!((deliver.exchange, deliver.routing_key), (exchange.as_bytes(), b"a.soon".as_slice()));
    assert_eq!(client.delivery().text(), "late");
}

#[test]
fn what_is_delayed_goes_by_the_keys_of_bcc_as_well() {
    if !only_here("it is a plugin that does not come with RabbitMQ") {
        return;
    }
    let mut client = Client::open();
    let (exchange, queue) = (delaying(&mut client, "direct"), client.queue());
    client.bind(&queue, &exchange, "blind");
    client.consume(&queue);
    let (mut keys, mut headers) = (ArrayBuf::new(), TableBuf::new());
    keys.push(Field::LongStr(b"blind"));
    headers.insert("BCC", Field::Array(keys.as_array())).insert("x-delay", Field::I32(30));
    let mut properties = PropertiesBuf::new();
    properties.headers(headers.as_table());
    client.publish_as(publish(&exchange, "key"), &properties.encode(), b"m");
    let late = client.delivery();
    let headers = late.properties().headers().unwrap();
    assert_eq!((headers.get("x-delay"), headers.get("BCC")), (Some(Field::I64(-30)), None));
}

#[test]
fn a_delay_is_confirmed_and_holds_behind_another_exchange() {
    if !only_here("it is a plugin that does not come with RabbitMQ") {
        return;
    }
    let mut client = Client::open();
    let (first, exchange, queue) =
        (client.exchange("fanout"), delaying(&mut client, "fanout"), client.queue());
    client.bind_exchange(&exchange, &first, "");
    client.bind(&queue, &exchange, "");
    client.select_confirms();
    publish_delayed(&mut client, &first, "key", "m", Field::I32(60));
    client.expect_confirm(1);
    assert_eq!(client.counts(&queue).0, 0);
    client.consume(&queue);
    let delivery = client.delivery();
    let Method::BasicDeliver(deliver) = delivery.method() else { unreachable!("it was checked") };
    assert_eq!((deliver.exchange, deliver.routing_key), (first.as_bytes(), b"key".as_slice()));
}

#[test]
fn an_exchange_that_delays_says_how_it_routes() {
    if !only_here("it is a plugin that does not come with RabbitMQ") {
        return;
    }
    let name = unique("delaying");
    for (kind, text) in [
        (None, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (
            Some("x-delayed-message"),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let arguments = match kind {
            Some(kind) => type_argument(kind),
            None => Vec::new(),
        };
        let declare = ExchangeDeclare {
            arguments: Table::unchecked(&arguments),
            ..exchange_declare(&name, "x-delayed-message")
        };
        let text = format!("PRECONDITION_FAILED - {text}");
        Client::open().check_channel_close(&Method::ExchangeDeclare(declare), 406, &text);
    }
}
