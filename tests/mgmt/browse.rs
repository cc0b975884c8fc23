//! Single messages are looked at, deleted, moved and cancelled.

use serde_json::{Value, json};

use crate::node::Node;

const QUEUE: &str = "/api/queues/%2F/q";

fn publish(node: &Node, exchange: &str, properties: &Value, payload: &str) {
    let body = json!({"properties": properties, "routing_key": "q", "payload": payload, "payload_encoding": "string"});
    let (status, text) = node.change("POST", &format!("/api/exchanges/%2F/{exchange}/publish"), &body);
    assert_eq!(status, 200, "{text}");
}

/// A queue with messages of these payloads, each with its number as a header.
fn queue_of(node: &Node, payloads: &[&str]) {
    assert_eq!(node.change("PUT", QUEUE, &json!({})).0, 201);
    for (number, payload) in payloads.iter().enumerate() {
        let properties = json!({"delivery_mode": 2, "message_id": payload, "headers": {"n": number % 2}});
        publish(node, "amq.default", &properties, payload);
    }
}

fn payloads(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["payload"].as_str().unwrap()).collect()
}

fn id_of(node: &Node, payload: &str) -> String {
    let page = node.get(&format!("{QUEUE}/messages?message_id={payload}"));
    page["items"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_look_changes_nothing_and_pages_go_on_where_the_last_one_ended() {
    let node = Node::start();
    queue_of(&node, &["a", "b", "c", "d", "e"]);
    let first = node.get(&format!("{QUEUE}/messages?limit=2"));
    assert_eq!((payloads(&first), &first["items"][0]["redelivered"]), (vec!["a", "b"], &json!(false)));
    let next = first["next"].as_str().unwrap();
    let second = node.get(&format!("{QUEUE}/messages?limit=3&after={next}"));
    assert_eq!(payloads(&second), ["c", "d", "e"]);
    let last = node.get(&format!("{QUEUE}/messages?after={}", second["next"].as_str().unwrap()));
    assert_eq!(last, json!({"items": [], "looked_at": 0, "next": null}));
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages?offset=3"))), ["d", "e"]);
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages?header.n=1"))), ["b", "d"]);
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages?header.n=0&offset=1&limit=1"))), ["c"]);
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages?routing_key=other"))), Vec::<&str>::new());
    let cut = node.get(&format!("{QUEUE}/messages?limit=1&truncate=0"));
    assert_eq!((payloads(&cut), &cut["items"][0]["payload_bytes"]), (vec![""], &json!(1)));
    let body = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let (_, got) = node.change("POST", &format!("{QUEUE}/get"), &body);
    let got: Value = serde_json::from_str(&got).unwrap();
    assert_eq!((&got[0]["payload"], &got[0]["redelivered"]), (&json!("a"), &json!(false)));
}

#[test]
fn a_search_among_large_messages_looks_at_some_and_tells_where_to_go_on() {
    let node = Node::start();
    queue_of(&node, &[]);
    let large = "x".repeat(1_000_000);
    (0..70).for_each(|_| publish(&node, "amq.default", &json!({}), &large));
    let search = format!("{QUEUE}/messages?message_id=none");
    let first = node.get(&search);
    assert_eq!((&first["items"], &first["looked_at"]), (&json!([]), &json!(68)));
    let last = node.get(&format!("{search}&after={}", first["next"].as_str().unwrap()));
    assert_eq!(last, json!({"items": [], "looked_at": 2, "next": null}));
}

#[test]
fn one_message_is_deleted_and_another_moved() {
    let node = Node::start();
    queue_of(&node, &["a", "b", "c"]);
    assert_eq!(node.change("PUT", "/api/queues/%2F/other", &json!({})).0, 201);
    let (b, c) = (id_of(&node, "b"), id_of(&node, "c"));
    assert_eq!(node.get(&format!("{QUEUE}/messages/{b}"))["payload"], "b");
    let delete = |id: &str| node.change("DELETE", &format!("{QUEUE}/messages/{id}"), &Value::Null).0;
    assert_eq!((delete(&b), delete(&b), delete("x")), (204, 404, 400));
    let put = |id: &str, to: &Value| node.change("POST", &format!("{QUEUE}/messages/{id}/move"), to).0;
    assert_eq!(put(&c, &json!({"queue": "nowhere"})), 400);
    assert_eq!(put(&c, &json!({"exchange": "none", "routing_key": "k"})), 400);
    assert_eq!(
        payloads(&node.get(&format!("{QUEUE}/messages"))),
        ["a", "c"],
        "it stays where nobody takes it"
    );
    assert_eq!((put(&c, &json!({"queue": "other"})), put(&c, &json!({"queue": "other"}))), (204, 404));
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages"))), ["a"]);
    let moved = node.get("/api/queues/%2F/other/messages");
    assert_eq!((payloads(&moved), &moved["items"][0]["properties"]["message_id"]), (vec!["c"], &json!("c")));
    node.until(QUEUE, |queue| queue["messages"] == 1 && queue["messages_unacknowledged"] == 0);
}

#[test]
fn delayed_messages_are_listed_and_cancelled() {
    let node = Node::start();
    queue_of(&node, &[]);
    let delayed = json!({"type": "x-delayed-message", "arguments": {"x-delayed-type": "fanout"}});
    assert_eq!(node.change("PUT", "/api/exchanges/%2F/later", &delayed).0, 201);
    assert_eq!(node.change("POST", "/api/bindings/%2F/e/later/q/q", &json!({})).0, 201);
    for (payload, delay) in [("in an hour", 3_600_000), ("soon", 1)] {
        publish(&node, "later", &json!({"headers": {"x-delay": delay}}), payload);
    }
    node.until(QUEUE, |queue| queue["messages"] == 1);
    let waiting = node.get("/api/delayed/%2F/later");
    let item = &waiting["items"][0];
    assert_eq!((payloads(&waiting), &item["delay"]), (vec!["in an hour"], &json!(3_600_000)));
    assert_eq!(item["due"].as_u64().unwrap() - item["received"].as_u64().unwrap(), 3_600_000);
    let path = format!("/api/delayed/%2F/later/{}", item["id"].as_str().unwrap());
    let cancel = || node.change("DELETE", &path, &Value::Null).0;
    assert_eq!((cancel(), cancel()), (204, 404));
    assert_eq!(node.get("/api/delayed/%2F/later")["items"], json!([]));
    assert_eq!(payloads(&node.get(&format!("{QUEUE}/messages"))), ["soon"]);
}
