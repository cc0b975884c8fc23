//! Each key of RabbitMQ's answers is there, or the list of departures says why not.
//!
//! `rabbitmq-keys.txt` is what a RabbitMQ has answered; `departures.txt` has a line for each key that is missing here: the
//! endpoint (`*` for all), the key (a `*` at its end stands for anything), and the reason.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{BasicConsume, BasicQos, ExchangeDeclare, Method, QueueBind, QueueDeclare};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::client::{Client, Incoming};
use crate::node::Node;

/// A file beside this one.
fn file(name: &str) -> String {
    let path = format!("{}/tests/mgmt/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All keys, with those that lead to them; what is in lists counts as if it were not in one.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| keys(item, path, found)),
        Value::Object(entries) => {
            for (name, value) in entries {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        _ => {}
    }
}

fn declare(client: &mut Client, queue: &str, exclusive: bool, arguments: Table<'_>) {
    let declare = QueueDeclare {
        queue,
        passive: false,
        durable: !exclusive,
        exclusive,
        auto_delete: false,
        nowait: false,
        arguments,
    };
    client.call(&Method::QueueDeclare(declare)).expect("a queue");
}

/// What RabbitMQ was asked about: queues of each kind with a consumer, an exchange with bindings, messages.
fn topology(node: &Node) -> Client {
    let mut properties = TableBuf::new();
    properties.insert("connection_name", Field::LongStr(b"ref"));
    let mut client = Client::connect_with(node.amqp, properties.as_table()).expect("a connection");
    let (mut limited, mut quorum) = (TableBuf::new(), TableBuf::new());
    limited.insert("x-max-length", Field::I32(100_000));
    quorum.insert("x-queue-type", Field::LongStr(b"quorum"));
    declare(&mut client, "q", false, limited.as_table());
    declare(&mut client, "qq", false, quorum.as_table());
    declare(&mut client, "ex", true, Table::EMPTY);
    let exchange = ExchangeDeclare {
        exchange: "x",
        kind: "topic",
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::ExchangeDeclare(exchange)).expect("an exchange");
    let bind =
        QueueBind { queue: "q", exchange: "x", routing_key: "a.b", nowait: false, arguments: Table::EMPTY };
    client.call(&Method::QueueBind(bind)).expect("a binding");
    client
        .call(&Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 5, global: false }))
        .expect("qos");
    for (queue, consumer_tag) in [("q", "one"), ("qq", "two")] {
        let consume = BasicConsume {
            queue,
            consumer_tag,
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        client.call(&Method::BasicConsume(consume)).expect("a consumer");
    }
    client.push_publish("x", "a.b", true, b"hello");
    while !matches!(client.next().expect("a delivery"), Incoming::Delivery { .. }) {}
    client
}

#[test]
fn every_key_of_rabbitmq_is_there_or_departed_from_with_a_reason() {
    let node = Node::start();
    let _client = topology(&node);
    node.until("/api/channels", |channels| channels[0]["message_stats"]["deliver"] == 1);
    let encoded =
        |value: &Value| value["name"].as_str().expect("a name").replace(' ', "%20").replace('>', "%3E");
    let channel = encoded(&node.get("/api/channels")[0]);
    let connection = encoded(&node.get("/api/connections")[0]);
    let own = node.get("/api/overview")["node"].as_str().expect("a name").to_owned();

    let mut missing = Vec::new();
    let mut used = BTreeSet::new();
    let (recorded, departures) = (file("rabbitmq-keys.txt"), file("departures.txt"));
    let departures: Vec<(&str, &str)> = (departures.lines())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (endpoint, key, reason) = (words.next(), words.next(), words.next());
            assert!(reason.is_some_and(|reason| reason.len() > 8), "a reason: {line}");
            (endpoint.expect("an endpoint"), key.expect("a key"))
        })
        .collect();
    for (endpoint, expected) in keys_of(&recorded) {
        let path = endpoint.replace("{node}", &own).replace("{channel}", &channel);
        let path = format!("/api/{}", path.replace("{connection}", &connection));
        let mut found = BTreeSet::new();
        keys(&node.get(&path), "", &mut found);
        for key in expected.iter().filter(|key| !found.contains(**key)) {
            let fits = |(place, (of, pattern)): (usize, &(&str, &str))| {
                let is_of = *of == "*" || *of == endpoint;
                let is_key = match pattern.strip_suffix('*') {
                    Some(start) => key.starts_with(start),
                    None => pattern == key,
                };
                (is_of && is_key).then_some(place)
            };
            match departures.iter().enumerate().find_map(fits) {
                Some(place) => drop(used.insert(place)),
                None => missing.push(format!("{endpoint} {key}")),
            }
        }
    }
    assert!(missing.is_empty(), "neither there nor departed from:\n{}", missing.join("\n"));
    let unused: Vec<_> = departures
        .iter()
        .enumerate()
        .filter(|(place, _)| !used.contains(place))
        .map(|(_, one)| one)
        .collect();
    assert!(unused.is_empty(), "these are there, and need no reason: {unused:?}");
}

fn keys_of(recorded: &str) -> BTreeMap<&str, Vec<&str>> {
    let lines = recorded.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = lines.map(|line| line.split_once(": ").expect("an endpoint and its keys"));
    split.map(|(endpoint, keys)| (endpoint, keys.split(' ').collect())).collect()
}
