//! A virtual host that is traced: copies of what is published and delivered. Administrators speak to this broker directly
//! here, so that RabbitMQ is not asked.

use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::harness::broker::OwnBroker;
use crate::harness::client::Client;
use crate::harness::content::{Arrival, properties};
use crate::harness::methods::{publish, queue_declare};
use crate::rules::table;

/// A broker, a client with a queue `q`, and one with a queue `told` for all that is told.
fn traced() -> (OwnBroker, Client, Client) {
    let own = OwnBroker::start(|_| {});
    let (mut client, mut watcher) = (Client::at(own.address), Client::at(own.address));
    client.declare(queue_declare("q"));
    watcher.declare(queue_declare("told"));
    watcher.bind("told", "amq.rabbitmq.trace", "#");
    own.broker.vhost("/").unwrap().trace(true);
    (own, client, watcher)
}

fn text<'a>(headers: Table<'a>, key: &str) -> &'a str {
    match headers.get(key) {
        Some(Field::LongStr(text)) => std::str::from_utf8(text).unwrap(),
        other => panic!("{key} is {other:?}"),
    }
}

fn texts(headers: Table<'_>, key: &str) -> Vec<String> {
    match headers.get(key) {
        Some(Field::Array(items)) => items.iter().map(|item| item.to_string()).collect(),
        other => panic!("{key} is {other:?}"),
    }
}

fn key_of(message: &Arrival) -> String {
    let Method::BasicDeliver(deliver) = message.method() else { panic!("{message:?}") };
    String::from_utf8(deliver.routing_key.to_vec()).unwrap()
}

#[test]
fn what_is_published_and_delivered_is_told() {
    let (_own, mut client, mut watcher) = traced();
    client.bind("q", "amq.direct", "k");
    let sent = properties(|properties| _ = properties.message_id("m").priority(3));
    client.publish_as(publish("amq.direct", "k"), &sent, b"body");
    assert_eq!(client.take("q").text(), "body");
    watcher.consume("told");
    let (published, delivered) = (watcher.delivery(), watcher.delivery());
    assert_eq!((key_of(&published), published.text()), ("publish.amq.direct".to_owned(), "body"));
    assert_eq!((key_of(&delivered), delivered.text()), ("deliver.q".to_owned(), "body"));
    for told in [&published, &delivered] {
        let properties = told.properties();
        let headers = properties.headers().unwrap();
        assert_eq!(text(headers, "exchange_name"), "amq.direct");
        assert_eq!(texts(headers, "routing_keys"), ["k"]);
        assert_eq!((text(headers, "vhost"), text(headers, "user")), ("/", "guest"));
        assert!(text(headers, "node").starts_with("rabbit@") && text(headers, "connection").contains(" -> "));
        assert_eq!(headers.get("channel"), Some(Field::I32(1)));
        let Some(Field::Table(was)) = headers.get("properties") else { panic!("no properties") };
        assert_eq!((text(was, "message_id"), was.get("priority")), ("m", Some(Field::I32(3))));
    }
    let headers = published.properties().headers().unwrap();
    assert_eq!(texts(headers, "routed_queues"), ["q"]);
    assert_eq!(delivered.properties().headers().unwrap().get("redelivered"), Some(Field::I32(0)));
}

#[test]
fn each_of_many_alike_is_told_and_copies_are_not_told_again() {
    let (own, mut client, mut watcher) = traced();
    client.put_all("q", &["1", "2", "3"]);
    assert_eq!(client.take("q").text(), "1");
    watcher.consume("told");
    let told: Vec<_> =
        (0..4).map(|_| watcher.delivery()).map(|copy| (key_of(&copy), copy.text().to_owned())).collect();
    let expected = [("publish.", "1"), ("publish.", "2"), ("publish.", "3"), ("deliver.q", "1")];
    assert_eq!(told, expected.map(|(key, body)| (key.to_owned(), body.to_owned())));
    own.broker.vhost("/").unwrap().trace(false);
    client.put("q", "4");
    assert_eq!(client.take("q").text(), "2");
    own.broker.vhost("/").unwrap().trace(true);
    client.put("q", "5");
    assert_eq!(
        watcher.delivery().text(),
        "5",
        "of its own deliveries, and of what came between, nothing was told"
    );
}

#[test]
fn during_an_alarm_nothing_is_told() {
    let (own, mut client, mut watcher) = traced();
    client.put("q", "before");
    watcher.consume("told");
    assert_eq!(watcher.delivery().text(), "before");
    let set_watermark =
        |text: &str| own.broker.set_memory_watermark(text.parse().unwrap(), Now::read().instant);
    set_watermark("1B");
    assert_eq!(client.take("q").text(), "before");
    set_watermark("1GiB");
    while own.broker.node.alarms.reason().is_some() {
        std::thread::yield_now();
    }
    client.put("q", "after");
    assert_eq!(watcher.delivery().text(), "after");
}

#[test]
fn copies_that_are_sent_round_stay_as_deep_as_anybody_may_send() {
    let (_own, mut client, mut watcher) = traced();
    client.declare(queue_declare("round"));
    let dead = table(&[
        ("x-dead-letter-exchange", Field::LongStr(b"")),
        ("x-dead-letter-routing-key", Field::LongStr(b"round")),
        ("x-max-length", Field::I32(0)),
    ]);
    client.declare(QueueDeclare { arguments: Table::unchecked(&dead), ..queue_declare("dying") });
    client.bind("dying", "amq.rabbitmq.trace", "deliver.round");
    client.put("round", "again");
    client.consume("round");
    for _ in 0..60 {
        let copy = client.delivery();
        let properties = copy.properties();
        // What cannot be parsed is seen here: the harness refuses it.
        assert!(properties.headers().is_none_or(|headers| headers.as_bytes().len() < 50_000));
    }
    watcher.consume("told");
    assert_eq!(watcher.delivery().text(), "again");
}
