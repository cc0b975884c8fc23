//! Dead letters go back to where they died, and messages from here to there; what is not meant stays as it was.

use serde_json::{Value, json};

use crate::node::Node;
use crate::shovels::{declare, payloads, publish, take, until_messages};

const REDRIVE: &str = "/api/queues/%2F/dead/redrive";

/// Queues whose rejected and expired messages go to `dead`.
fn node() -> Node {
    let node = Node::start();
    declare(&node, "dead", &json!({}));
    for queue in ["one", "two"] {
        declare(&node, queue, &json!({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}));
    }
    node
}

/// A message dies in a queue.
fn die(node: &Node, queue: &str, payload: &str, headers: &Value) {
    publish(node, queue, payload, &json!({"delivery_mode": 2, "headers": headers}));
    let body = json!({"count": 1, "ackmode": "reject_requeue_false", "encoding": "auto"});
    let before = node.get("/api/queues/%2F/dead")["messages"].as_u64().unwrap();
    assert_eq!(node.change("POST", &format!("/api/queues/%2F/{queue}/get"), &body).0, 200);
    until_messages(node, "dead", before + 1);
}

fn begin(node: &Node, path: &str, body: &Value) -> String {
    let (status, text) = node.change("POST", path, body);
    assert_eq!(status, 202, "{text}");
    let begun: Value = serde_json::from_str(&text).unwrap();
    format!("/api/transfers/{}", begun["id"].as_str().unwrap())
}

fn until_over(node: &Node, path: &str) -> Value {
    node.until(path, |transfer| transfer["ended_at"].is_u64())
}

#[test]
fn dead_letters_go_back_to_where_they_died() {
    let node = node();
    die(&node, "one", "a", &json!({"mine": 1, "CC": ["two"]}));
    assert_eq!(payloads(&take(&node, "two")), ["a"], "its copy");
    die(&node, "two", "b", &json!({}));
    publish(&node, "dead", "of nowhere", &json!({}));
    let over = until_over(&node, &begin(&node, REDRIVE, &json!({})));
    assert_eq!(over["state"], "completed");
    for (key, count) in [("total", 3), ("looked_at", 3), ("moved", 2), ("skipped", 1), ("failed", 0)] {
        assert_eq!(over[key], count, "{key}: {over}");
    }
    assert_eq!(over["destinations"], json!({"queue one": 1, "queue two": 1}));
    until_messages(&node, "dead", 1);
    let stayed = take(&node, "dead");
    assert_eq!((payloads(&stayed), &stayed[0]["redelivered"]), (vec!["of nowhere"], &json!(false)));
    let back = take(&node, "one");
    let headers = &back[0]["properties"]["headers"];
    assert_eq!((payloads(&back), &headers["mine"]), (vec!["a"], &json!(1)));
    assert_eq!(
        (&headers["x-death"][0]["queue"], &headers["x-first-death-queue"]),
        (&json!("one"), &json!("one"))
    );
    assert_eq!(payloads(&take(&node, "two")), ["b"], "and nothing by the key of a copy");
}

#[test]
fn a_dry_run_tells_and_a_filter_chooses() {
    let node = node();
    for (queue, payload, kind) in [("one", "a", "x"), ("two", "b", "x"), ("one", "c", "y"), ("one", "d", "x")]
    {
        die(&node, queue, payload, &json!({"kind": kind, "n": 7}));
    }
    let dry = until_over(
        &node,
        &begin(&node, REDRIVE, &json!({"dry_run": true, "filter": {"header": {"kind": "x"}}})),
    );
    assert_eq!(dry["destinations"], json!({"queue one": 2, "queue two": 1}));
    assert_eq!((&dry["moved"], &dry["skipped"], &dry["looked_at"]), (&json!(0), &json!(1), &json!(4)));
    until_messages(&node, "dead", 4);
    let filter = json!({"header": {"kind": "x", "n": 7}, "reason": "rejected", "queue": "one", "exchange": "", "routing_key": "dead"});
    let body = json!({"filter": filter, "limit": 1, "keep_deaths": false});
    let over = until_over(&node, &begin(&node, REDRIVE, &body));
    assert_eq!((&over["moved"], &over["limit"]), (&json!(1), &json!(1)));
    until_messages(&node, "dead", 3);
    let moved = take(&node, "one");
    assert_eq!(payloads(&moved), ["a"]);
    assert_eq!(
        moved[0]["properties"]["headers"],
        json!({"kind": "x", "n": 7}),
        "nothing is told of its death"
    );
    let left = take(&node, "dead");
    assert_eq!(payloads(&left), ["b", "c", "d"]);
    assert!(left.iter().all(|message| message["redelivered"] == false), "they are as they were");
}

#[test]
fn where_nothing_is_to_be_moved_it_is_over_at_once() {
    let node = node();
    for body in [json!({}), json!({"dry_run": true}), json!({"to": {"queue": "one"}, "limit": 0})] {
        let over = until_over(&node, &begin(&node, REDRIVE, &body));
        assert_eq!((&over["state"], &over["moved"]), (&json!("completed"), &json!(0)), "{over}");
    }
    publish(&node, "dead", "stays", &json!({}));
    let over = until_over(&node, &begin(&node, REDRIVE, &json!({"to": {"queue": "one"}, "limit": 0})));
    assert_eq!((&over["state"], &over["moved"]), (&json!("completed"), &json!(0)), "{over}");
    assert_eq!(payloads(&take(&node, "dead")), ["stays"]);
}

#[test]
fn a_dead_letter_that_has_outgrown_a_frame_is_moved_like_others_and_no_other_twice() {
    let node = node();
    die(&node, "one", "before", &json!({}));
    die(&node, "one", "large", &json!({"large": "x".repeat(130_900)}));
    die(&node, "one", "behind", &json!({}));
    let over = until_over(&node, &begin(&node, REDRIVE, &json!({})));
    assert_eq!((&over["state"], &over["moved"]), (&json!("completed"), &json!(3)), "{over}");
    assert_eq!(payloads(&take(&node, "one")), ["before", "large", "behind"]);
    until_messages(&node, "dead", 0);
}

#[test]
fn messages_are_moved_to_another_place() {
    let node = node();
    for payload in ["a", "b"] {
        publish(&node, "one", payload, &json!({"expiration": "600000"}));
    }
    let to_queue = begin(&node, "/api/queues/%2F/one/redrive", &json!({"to": {"queue": "two"}, "limit": 1}));
    assert_eq!(until_over(&node, &to_queue)["state"], "completed");
    assert_eq!(payloads(&take(&node, "two")), ["a"]);
    assert_eq!(
        node.change("POST", "/api/bindings/%2F/e/amq.direct/q/two", &json!({"routing_key": "k"})).0,
        201
    );
    let to = json!({"to": {"exchange": "amq.direct", "routing_key": "k"}});
    let over = until_over(&node, &begin(&node, "/api/queues/%2F/one/redrive", &to));
    assert_eq!(over["destinations"], json!({"exchange amq.direct with key k": 1}));
    assert_eq!(payloads(&take(&node, "two")), ["b"]);
    // Where nobody takes them they stay, each is tried once, and it is said why.
    publish(&node, "one", "c", &json!({}));
    let to = json!({"to": {"exchange": "amq.direct", "routing_key": "nowhere"}});
    let over = until_over(&node, &begin(&node, "/api/queues/%2F/one/redrive", &to));
    assert_eq!(
        (&over["state"], &over["failed"], &over["moved"]),
        (&json!("completed"), &json!(1), &json!(0))
    );
    assert_eq!(over["error"], "no queue takes what is sent to exchange 'amq.direct' with key 'nowhere'");
    until_messages(&node, "one", 1);
    // A transfer to nowhere fails, with the broker's own words.
    let over =
        until_over(&node, &begin(&node, "/api/queues/%2F/one/redrive", &json!({"to": {"exchange": "none"}})));
    let told = (&json!("failed"), &json!("NOT_FOUND - no exchange 'none' in vhost '/'"));
    assert_eq!((&over["state"], &over["error"]), told);
    assert_eq!(payloads(&take(&node, "one")), ["c"]);
}

#[test]
fn a_slow_one_is_watched_and_ended() {
    let node = node();
    for number in 0..20 {
        publish(&node, "one", &number.to_string(), &json!({}));
    }
    let path = begin(&node, "/api/queues/%2F/one/redrive", &json!({"to": {"queue": "two"}, "rate": 0.001}));
    let running = node.until(&path, |transfer| transfer["moved"] == 1);
    assert_eq!(
        (&running["state"], &running["total"], &running["rate_limit"]),
        (&json!("running"), &json!(20), &json!(0.001))
    );
    assert_eq!(node.get("/api/transfers")[0]["id"], running["id"]);
    let login = |user: &str| format!("{user}:secret");
    assert_eq!(node.ask("DELETE", &path, Some(&login("management"))).status, 401);
    assert_eq!(node.ask("GET", &path, Some(&login("elsewhere"))).status, 404);
    assert_eq!(node.change("DELETE", &path, &Value::Null).0, 204);
    assert_eq!(until_over(&node, &path)["state"], "cancelled");
    until_messages(&node, "one", 19);
    let expected: Vec<_> = (1..20).map(|number| number.to_string()).collect();
    let left = take(&node, "one");
    assert_eq!(payloads(&left), expected);
    assert!(left.iter().all(|message| message["redelivered"] == false));
    assert_eq!(node.change("DELETE", "/api/transfers/none", &Value::Null).0, 404);
}

#[test]
fn what_stays_in_a_quorum_queue_was_not_delivered() {
    let node = node();
    declare(&node, "quorum", &json!({"x-queue-type": "quorum", "x-delivery-limit": 1}));
    for payload in ["a", "b"] {
        publish(&node, "quorum", payload, &json!({"headers": {"p": payload}}));
    }
    for _ in 0..3 {
        let body = json!({"to": {"queue": "two"}, "filter": {"header": {"p": "none"}}});
        let over = until_over(&node, &begin(&node, "/api/queues/%2F/quorum/redrive", &body));
        assert_eq!(over["skipped"], 2);
    }
    until_messages(&node, "quorum", 2);
    let left = take(&node, "quorum");
    assert_eq!(payloads(&left), ["a", "b"]);
    assert!(left.iter().all(|message| message["properties"]["headers"]["x-delivery-count"] == 0), "{left:?}");
}

#[test]
fn the_rights_are_those_of_the_user_and_a_body_that_makes_no_sense_is_refused() {
    let node = node();
    die(&node, "one", "a", &json!({}));
    let permissions = json!({"configure": "", "write": "^two$", "read": ".*"});
    assert_eq!(node.change("PUT", "/api/permissions/%2F/management", &permissions).0, 204);
    let answer = node.ask_with(node.http, "POST", REDRIVE, Some("management:secret"), &[], "{}");
    assert_eq!(answer.status, 202, "{}", answer.text);
    let over = until_over(&node, &format!("/api/transfers/{}", answer.json()["id"].as_str().unwrap()));
    let reason =
        "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'management'";
    assert_eq!(
        (&over["state"], &over["error"], &over["user"]),
        (&json!("failed"), &json!(reason), &json!("management"))
    );
    until_messages(&node, "dead", 1);
    for (body, reason) in [
        (json!({"foo": 1}), "a redrive has no \"foo\": it has to, filter, rate, limit, dry_run, keep_deaths"),
        (json!({"rate": 0}), "rate is no number from 0.001 to 1000000: 0"),
        (json!({"limit": -1}), "limit is no number: -1"),
        (json!({"dry_run": 3}), "dry_run is no boolean: 3"),
        (json!({"to": {}}), "to names a queue, or an exchange and perhaps a routing_key"),
        (
            json!({"to": {"queue": "a", "exchange": "b"}}),
            "to names a queue, or an exchange and perhaps a routing_key",
        ),
        (
            json!({"filter": {"body": "x"}}),
            "filter has no \"body\": it has header, routing_key, exchange, reason, queue",
        ),
        (json!({"filter": 1}), "filter is no object"),
    ] {
        let (status, text) = node.change("POST", REDRIVE, &body);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, told["reason"].as_str().unwrap()), (400, reason));
    }
    assert_eq!(node.change("POST", "/api/queues/%2F/none/redrive", &json!({})).0, 404);
}
