//! Connections, channels and consumers: seen while they are there, and sent away.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{BasicAck, BasicConsume, BasicQos, Method, QueueDeclare};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::client::{Client, Incoming};
use crate::node::Node;

#[test]
fn what_a_channel_does_is_counted_at_the_channel_the_queue_and_the_node() {
    let node = Node::start();
    let mut properties = TableBuf::new();
    properties.insert("connection_name", Field::LongStr(b"worker"));
    let mut client = Client::connect_with(node.amqp, properties.as_table()).expect("a connection");
    let declare = QueueDeclare {
        queue: "work",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::QueueDeclare(declare)).expect("a queue");
    client
        .call(&Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: 3, global: false }))
        .expect("qos");
    let consume = BasicConsume {
        queue: "work",
        consumer_tag: "me",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::BasicConsume(consume)).expect("a consumer");
    for _ in 0..5 {
        client.push_publish("", "work", false, b"hello");
    }
    client.push_publish("", "nowhere", false, b"hello");
    client.flush().expect("it goes out");
    let mut tags = Vec::new();
    while tags.len() < 3 {
        if let Incoming::Delivery { tag, .. } = client.next().expect("a delivery") {
            tags.push(tag);
        }
    }
    client.push(&Method::BasicAck(BasicAck { delivery_tag: tags[0], multiple: false }));
    client.flush().expect("it goes out");

    let is_done = |stats: &serde_json::Value| stats["ack"] == 1 && stats["deliver"] == 4;
    let channel = node.until("/api/channels", |all| is_done(&all[0]["message_stats"]))[0].clone();
    let stats = &channel["message_stats"];
    assert_eq!(
        (&stats["publish"], &stats["drop_unroutable"], &stats["deliver"]),
        (&6.into(), &1.into(), &4.into())
    );
    assert_eq!((&channel["messages_unacknowledged"], &channel["prefetch_count"]), (&3.into(), &3.into()));
    assert_eq!((&channel["consumer_count"], &channel["user"]), (&1.into(), &"guest".into()));
    let queue = node.until("/api/queues/%2F/work", |queue| is_done(&queue["message_stats"]));
    assert_eq!(
        (&queue["messages"], &queue["messages_ready"], &queue["consumers"]),
        (&4.into(), &1.into(), &1.into())
    );
    assert_eq!(queue["message_stats"]["deliver_get"], 4);
    assert_eq!(queue["consumer_details"][0]["consumer_tag"], "me");
    assert_eq!(queue["exclusive_consumer_tag"], serde_json::Value::Null);
    let overview = node.get("/api/overview");
    assert_eq!(overview["queue_totals"]["messages_unacknowledged"], 3);
    assert_eq!(
        (&overview["message_stats"]["publish"], &overview["message_stats"]["ack"]),
        (&6.into(), &1.into())
    );
    let totals = &overview["object_totals"];
    assert_eq!(
        (&totals["connections"], &totals["channels"], &totals["consumers"]),
        (&1.into(), &1.into(), &1.into())
    );
    let consumers = node.get("/api/consumers/%2F");
    assert_eq!(
        (&consumers[0]["queue"]["name"], &consumers[0]["prefetch_count"]),
        (&"work".into(), &3.into())
    );
    let connection = node.get("/api/connections")[0].clone();
    assert_eq!(
        (&connection["user_provided_name"], &connection["state"]),
        (&"worker".into(), &"running".into())
    );
    assert!(connection["recv_oct"].as_u64() > Some(100) && connection["send_oct"].as_u64() > Some(100));

    drop(client);
    node.until("/api/connections", |all| all.as_array().is_some_and(Vec::is_empty));
    let overview = node.until("/api/overview", |overview| overview["churn_rates"]["channel_closed"] == 1);
    assert_eq!(overview["message_stats"]["publish"], 6, "what was counted stays counted");
    assert_eq!(overview["object_totals"]["consumers"], 0);
    let queue = node.until("/api/queues/%2F/work", |queue| queue["consumers"] == 0);
    assert_eq!((&queue["messages_ready"], &queue["messages_unacknowledged"]), (&4.into(), &0.into()));
    assert!(queue["idle_since"].is_string());
}

#[test]
fn a_connection_is_closed_with_a_reason() {
    let node = Node::start();
    let mut client = Client::connect(node.amqp).expect("a connection");
    let connections = node.until("/api/connections", |all| all[0]["channels"] == 1);
    let name = connections[0]["name"].as_str().expect("a name").replace(' ', "%20").replace('>', "%3E");
    let path = format!("/api/connections/{name}");
    let headers = [("x-reason", "maintenance")];
    let answer = node.ask_at(node.http, "DELETE", &path, Some("guest:guest"), &headers);
    assert_eq!(answer.status, 204, "{}", answer.text);
    let told = client.next().expect_err("connection.close").to_string();
    assert_eq!(told, "CONNECTION_FORCED - maintenance");
    drop(client);
    node.until("/api/connections", |all| all.as_array().is_some_and(Vec::is_empty));
    assert_eq!(node.ask("DELETE", &path, Some("guest:guest")).status, 404);

    let mut client = Client::connect(node.amqp).expect("another connection");
    node.until("/api/connections", |all| all[0]["channels"] == 1);
    let answer = node.ask("DELETE", "/api/connections/username/guest", Some("guest:guest"));
    assert_eq!(answer.status, 204);
    let told = client.next().expect_err("connection.close").to_string();
    assert_eq!(told, "CONNECTION_FORCED - Closed via management plugin");
}
