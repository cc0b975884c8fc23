//! Messages over HTTP go the way of everybody's.

use serde_json::{Value, json};

use crate::node::Node;

fn ask(node: &Node, path: &str, body: &Value) -> Value {
    let (status, text) = node.change("POST", path, body);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn publish(node: &Node, key: &str, payload: &str) -> Value {
    let properties = json!({"delivery_mode": 2, "headers": {"k": [1, "x"]}, "type": "t"});
    let body = json!({"properties": properties, "routing_key": key, "payload": payload, "payload_encoding": "string"});
    ask(node, "/api/exchanges/%2F/amq.default/publish", &body)["routed"].clone()
}

fn get(node: &Node, count: u32, ackmode: &str) -> Vec<Value> {
    let body = json!({"count": count, "ackmode": ackmode, "encoding": "auto"});
    ask(node, "/api/queues/%2F/q/get", &body).as_array().unwrap().clone()
}

#[test]
fn what_is_published_is_got_and_goes_back_or_not() {
    let node = Node::start();
    assert_eq!(node.change("PUT", "/api/queues/%2F/q", &json!({})).0, 201);
    assert_eq!(publish(&node, "nowhere", "x"), false);
    // More than a frame of a body.
    let large = "é".repeat(200_000);
    for payload in ["one", "two", &large] {
        assert_eq!(publish(&node, "q", payload), true);
    }
    let seen = get(&node, 2, "ack_requeue_true");
    assert_eq!((&seen[0]["payload"], &seen[0]["redelivered"]), (&json!("one"), &json!(false)));
    assert_eq!((&seen[0]["payload_bytes"], &seen[0]["message_count"]), (&json!(3), &json!(2)));
    assert_eq!(seen[0]["properties"], json!({"delivery_mode": 2, "headers": {"k": [1, "x"]}, "type": "t"}));
    let seen = get(&node, 5, "ack_requeue_false");
    let payloads: Vec<_> = seen.iter().map(|message| message["payload"].as_str().unwrap()).collect();
    assert_eq!((payloads, &seen[0]["redelivered"]), (vec!["one", "two", &large], &json!(true)));
    node.until("/api/queues/%2F/q", |queue| queue["messages"] == 0);
    assert_eq!(get(&node, 1, "ack_requeue_false"), Vec::<Value>::new());
    assert_eq!(node.get("/api/connections"), json!([]), "nobody stays behind");
    let user = node.get("/api/overview");
    assert_eq!(user["object_totals"]["connections"], 0);
}

#[test]
fn dead_letters_that_wait_for_a_place_are_counted() {
    let node = Node::start();
    let arguments = json!({
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    });
    let queue = json!({"durable": true, "arguments": arguments});
    assert_eq!(node.change("PUT", "/api/queues/%2F/q", &queue).0, 201);
    for payload in ["one", "three"] {
        assert_eq!(publish(&node, "q", payload), true);
    }
    let counts = |of: &Value| {
        ["messages", "messages_ready", "messages_dlx", "message_bytes", "message_bytes_dlx"]
            .map(|key| of[key].as_u64().unwrap_or(u64::MAX))
    };
    assert_eq!(get(&node, 1, "reject_requeue_false").len(), 1);
    node.until("/api/queues/%2F/q", |queue| counts(queue) == [2, 1, 1, 8, 3]);
    let totals = node.get("/api/overview")["queue_totals"].clone();
    assert_eq!((&totals["messages"], &totals["messages_ready"]), (&json!(2), &json!(1)));
    assert_eq!(node.get("/api/vhosts/%2F")["messages"], 2);
    assert_eq!(node.change("PUT", "/api/queues/%2F/dead", &json!({"durable": true})).0, 201);
    node.until("/api/queues/%2F/q", |queue| counts(queue) == [1, 1, 0, 5, 0]);
}

#[test]
fn refusals_are_the_broker_s_own() {
    let node = Node::start();
    let publish = json!({"properties": {}, "routing_key": "k", "payload": "%", "payload_encoding": "base64"});
    let refused = |path: &str, body: &Value| {
        let (status, text) = node.change("POST", path, body);
        let told: Value = serde_json::from_str(&text).unwrap();
        (status, told["reason"].as_str().unwrap().to_owned())
    };
    let path = "/api/exchanges/%2F/none/publish";
    assert_eq!(refused(path, &publish), (400, "payload is not base64".to_owned()));
    let text = json!({"properties": {}, "routing_key": "k", "payload": "x", "payload_encoding": "string"});
    let none = "NOT_FOUND - no exchange 'none' in vhost '/'".to_owned();
    assert_eq!(refused(path, &text), (400, none));
    let get = json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let none = "NOT_FOUND - no queue 'none' in vhost '/'".to_owned();
    assert_eq!(refused("/api/queues/%2F/none/get", &get), (400, none));
}
