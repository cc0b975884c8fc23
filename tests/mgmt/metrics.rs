//! Metrics, as Prometheus scrapes them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sluicemq::protocol::methods::{Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::client::Client;
use crate::node::Node;

/// Each sample by its name and labels.
fn scrape(node: &Node, path: &str) -> BTreeMap<String, f64> {
    let accepted = ("accept", "application/openmetrics-text; version=1.0.0");
    let answer = node.ask_at(node.metrics, "GET", path, None, &[accepted]);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.ends_with("# EOF\n"), "the end says so");
    let samples = answer.text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn what_dashboards_ask_for_is_there() {
    let node = Node::start();
    let mut client = Client::connect(node.amqp).expect("a connection");
    let declare = QueueDeclare {
        queue: "odd \"name\"",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::QueueDeclare(declare)).expect("a queue");
    client.push_publish("", "odd \"name\"", false, b"hello");
    client.push_publish("", "nowhere", false, b"hello");
    client.flush().expect("it goes out");
    node.until("/api/channels", |channels| channels[0]["message_stats"]["publish"] == 2);
    let sums = scrape(&node, "/metrics");
    let protocol = "{protocol=\"amqp091\"}";
    let classic = "{protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"}";
    for (name, value) in [
        ("rabbitmq_connections".to_owned(), 1.0),
        ("rabbitmq_channels".to_owned(), 1.0),
        ("rabbitmq_consumers".to_owned(), 0.0),
        ("rabbitmq_queues".to_owned(), 1.0),
        ("rabbitmq_queue_messages_ready".to_owned(), 1.0),
        ("rabbitmq_queue_messages_unacked".to_owned(), 0.0),
        ("rabbitmq_connections_opened_total".to_owned(), 1.0),
        ("rabbitmq_queues_declared_total".to_owned(), 1.0),
        (format!("rabbitmq_global_messages_received_total{protocol}"), 2.0),
        (format!("rabbitmq_global_messages_routed_total{protocol}"), 1.0),
        (format!("rabbitmq_global_messages_unroutable_dropped_total{protocol}"), 1.0),
        (format!("rabbitmq_global_messages_delivered_total{classic}"), 0.0),
        ("rabbitmq_alarms_memory_used_watermark".to_owned(), 0.0),
    ] {
        assert_eq!(sums.get(&name), Some(&value), "{name} of {sums:#?}");
    }
    for name in [
        "rabbitmq_process_resident_memory_bytes",
        "rabbitmq_process_open_fds",
        "rabbitmq_process_max_fds",
        "rabbitmq_process_max_tcp_sockets",
    ] {
        assert!(sums.get(name).is_some_and(|value| *value > 0.0), "{name}");
    }
    // Without a limit there are as many as there are descriptors.
    assert_eq!(node.get("/api/health/checks/below-node-connection-limit")["status"], "ok");
    assert!(sums.keys().any(|name| name.starts_with("rabbitmq_identity_info{rabbitmq_node=\"rabbit@")));
    let ready = "queue_messages_ready{vhost=\"/\",queue=\"odd \\\"name\\\"\"}";
    let each = scrape(&node, "/metrics/per-object");
    assert_eq!(each.get(&format!("rabbitmq_{ready}")), Some(&1.0), "{each:#?}");
    let detailed = "/metrics/detailed?family=queue_coarse_metrics&vhost=";
    let asked = scrape(&node, &format!("{detailed}%2F"));
    assert_eq!(asked.get(&format!("rabbitmq_detailed_{ready}")), Some(&1.0), "{asked:#?}");
    let counts = scrape(&node, "/metrics/detailed?family=queue_consumer_count&vhost=%2F");
    let of_queues: Vec<_> = counts.keys().filter(|name| name.contains("detailed_queue_")).collect();
    assert!(
        !of_queues.is_empty() && of_queues.iter().all(|name| name.contains("queue_consumers{")),
        "what is asked for, and nothing else: {of_queues:?}"
    );
    let elsewhere = scrape(&node, &format!("{detailed}other"));
    assert!(!elsewhere.keys().any(|name| name.contains("odd")), "{elsewhere:#?}");
    assert_eq!(node.ask_at(node.metrics, "GET", "/api/overview", Some("guest:guest"), &[]).status, 404);
}

/// Words of a text that are names of metrics.
fn names_of(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("rabbitmq_") || word.starts_with("sluicemq_")).collect()
}

#[test]
fn the_dashboard_asks_for_nothing_else() {
    let dashboard = include_str!("../../.packaging/grafana.json");
    let asked = names_of(dashboard);
    assert!(serde_json::from_str::<serde_json::Value>(dashboard).is_ok() && asked.len() > 20, "{asked:?}");
    let node = Node::start();
    let text = node.ask_at(node.metrics, "GET", "/metrics", None, &[]).text;
    let told: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let missing: Vec<_> = asked.difference(&told).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn who_asks_for_no_form_is_told_in_the_older_one() {
    let node = Node::start();
    let text = node.ask_at(node.metrics, "GET", "/metrics", None, &[]).text;
    assert!(
        text.contains(
            "\n# TYPE rabbitmq_connections_opened_total counter\nrabbitmq_connections_opened_total 0"
        )
    );
    assert!(text.contains("\n# TYPE rabbitmq_queues gauge\nrabbitmq_queues 0"));
    assert!(!text.contains("# EOF"));
}

#[test]
fn what_died_and_for_how_long_others_wait() {
    let node = Node::start();
    let bounded = json!({"arguments": {"x-max-length": 1, "x-dead-letter-exchange": ""}});
    for (queue, arguments) in [("kept", &bounded), ("lost", &json!({"arguments": {"x-max-length": 1}}))] {
        let path = format!("/api/queues/%2F/{queue}");
        assert_eq!(node.change("PUT", &path, arguments).0, 201);
        for payload in ["one", "two"] {
            let properties = json!({"timestamp": 17});
            let message = json!({"properties": properties, "routing_key": queue, "payload": payload, "payload_encoding": "string"});
            assert_eq!(node.change("POST", "/api/exchanges/%2F/amq.default/publish", &message).0, 200);
        }
    }
    let sums = scrape(&node, "/metrics");
    let died = |reason: &str, strategy: &str| {
        let labels = format!("queue_type=\"rabbit_classic_queue\",dead_letter_strategy=\"{strategy}\"");
        sums.get(&format!("rabbitmq_global_messages_dead_lettered_{reason}_total{{{labels}}}")).copied()
    };
    assert_eq!((died("maxlen", "at_most_once"), died("maxlen", "disabled")), (Some(1.0), Some(1.0)));
    assert_eq!((died("expired", "disabled"), died("rejected", "at_most_once")), (Some(0.0), Some(0.0)));
    assert!(sums["rabbitmq_queue_oldest_message_age_seconds"] < 60.0);
    assert_eq!(sums["sluicemq_alarm_seconds_total{alarm=\"memory\"}"], 0.0);
    let each = scrape(&node, "/metrics/per-object");
    assert!(each.contains_key("rabbitmq_queue_oldest_message_age_seconds{vhost=\"/\",queue=\"lost\"}"));
    assert!(scrape(&node, "/metrics/memory-breakdown")["rabbitmq_memory_binary_bytes"] > 0.0);
    let queue = node.get("/api/queues/%2F/lost");
    assert!(queue["oldest_message_age"].as_f64().is_some_and(|age| age < 60.0), "{queue}");
    assert_eq!(queue["head_message_timestamp"], 17);
}
