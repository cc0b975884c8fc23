//! Shovels: set as parameters, they move messages from then on, say how they fare, and go when they are done.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluicemq::protocol::methods::{BasicGet, ConfirmSelect, Method};

use crate::client::{Client, Incoming};
use crate::node::Node;

const SHOVEL: &str = "/api/parameters/shovel/%2F/s";
const STATUS: &str = "/api/shovels/vhost/%2F/s";

pub(crate) fn declare(node: &Node, queue: &str, arguments: &Value) {
    let body = json!({"durable": true, "arguments": arguments});
    assert_eq!(node.change("PUT", &format!("/api/queues/%2F/{queue}"), &body).0, 201);
}

pub(crate) fn publish(node: &Node, key: &str, payload: &str, properties: &Value) {
    let body = json!({"properties": properties, "routing_key": key, "payload": payload, "payload_encoding": "string"});
    let (status, text) = node.change("POST", "/api/exchanges/%2F/amq.default/publish", &body);
    assert_eq!((status, text.as_str()), (200, "{\"routed\":true}"));
}

/// Takes up to a hundred messages.
pub(crate) fn take(node: &Node, queue: &str) -> Vec<Value> {
    let body = json!({"count": 100, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let (status, text) = node.change("POST", &format!("/api/queues/%2F/{queue}/get"), &body);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

pub(crate) fn payloads(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["payload"].as_str().unwrap()).collect()
}

pub(crate) fn until_messages(node: &Node, queue: &str, count: u64) {
    let path = format!("/api/queues/%2F/{queue}");
    node.until(&path, |queue| queue["messages"] == count && queue["messages_unacknowledged"] == 0);
}

fn set(node: &Node, value: &Value) {
    let (status, text) = node.change("PUT", SHOVEL, &json!({"value": value}));
    assert!(status == 201 || status == 204, "{status} {text}");
}

fn refused(node: &Node, value: &Value) -> String {
    let (status, text) = node.change("PUT", SHOVEL, &json!({"value": value}));
    assert_eq!(status, 400, "{value}: {text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let reason = told["reason"].as_str().unwrap();
    reason.strip_prefix("Validation failed\n\n").unwrap_or(reason).trim_end().to_owned()
}

fn is_gone(node: &Node, path: &str) -> bool {
    node.ask("GET", path, Some("guest:guest")).status == 404
}

fn until_gone(node: &Node, path: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_gone(node, path) {
        assert!(std::time::Instant::now() < deadline, "{path} stays");
        std::thread::yield_now();
    }
}

#[test]
fn messages_are_moved_as_the_management_pages_do_it() {
    let node = Node::start();
    declare(&node, "from", &json!({}));
    let properties = json!({"delivery_mode": 2, "headers": {"h": 1}, "priority": 3, "user_id": "guest"});
    for payload in ["one", "two", "three"] {
        publish(&node, "from", payload, &properties);
    }
    set(
        &node,
        &json!({"src-protocol": "amqp091", "src-uri": "amqp:///%2F", "src-queue": "from",
                "src-delete-after": "queue-length", "dest-protocol": "amqp091", "dest-uri": "amqp:///%2F",
                "dest-queue": "to", "dest-add-forward-headers": false, "ack-mode": "on-confirm"}),
    );
    until_gone(&node, SHOVEL);
    until_gone(&node, STATUS);
    assert_eq!(node.get("/api/shovels"), json!([]));
    let moved = take(&node, "to");
    assert_eq!(payloads(&moved), ["one", "two", "three"]);
    assert_eq!((&moved[0]["properties"], &moved[0]["redelivered"]), (&properties, &json!(false)));
    assert_eq!(take(&node, "from"), Vec::<Value>::new());
    assert_eq!(node.get("/api/queues/%2F/to")["durable"], true);
    node.until("/api/overview", |overview| overview["object_totals"]["connections"] == 0);
}

#[test]
fn a_shovel_moves_what_comes_tells_where_it_has_been_and_ends_with_its_parameter() {
    let node = Node::start();
    let value = json!({"src-uri": ["amqp://far.example", "amqp://guest:guest@localhost"], "src-queue": "from",
        "dest-uri": "amqp://", "dest-queue": "to", "add-forward-headers": true, "dest-add-timestamp-header": true,
        "dest-publish-properties": {"type": "t", "delivery_mode": 2}, "src-queue-args": {"x-max-length": 1000}});
    set(&node, &value);
    let status = node.until(STATUS, |status| status["state"] == "running");
    assert_eq!(status["src_uri"], "amqp://localhost", "no password is shown");
    for (key, value) in [
        ("name", "s"),
        ("vhost", "/"),
        ("type", "dynamic"),
        ("src_queue", "from"),
        ("dest_queue", "to"),
        ("dest_uri", "amqp://"),
        ("src_protocol", "amqp091"),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
    assert_eq!(node.get("/api/shovels/%2F")[0]["name"], "s");
    let kept = node.get(SHOVEL);
    assert_eq!(kept["value"], value, "as it was said");
    assert_eq!(node.get("/api/definitions")["parameters"][0]["value"], value);
    assert_eq!(node.get("/api/queues/%2F/from")["arguments"], json!({"x-max-length": 1000}));
    publish(&node, "from", "a", &json!({"headers": {"x-shovelled": [{"shovel-name": "before"}]}}));
    until_messages(&node, "to", 1);
    let moved = &take(&node, "to")[0];
    let headers = &moved["properties"]["headers"];
    let own = &headers["x-shovelled"][0];
    for (key, value) in [
        ("shovel-name", "s"),
        ("shovel-type", "dynamic"),
        ("shovel-vhost", "/"),
        ("src-queue", "from"),
        ("dest-queue", "to"),
        ("dest-uri", "amqp://"),
    ] {
        assert_eq!(own[key], value, "{key}");
    }
    assert_eq!(headers["x-shovelled"][1]["shovel-name"], "before");
    assert!(headers["x-shovelled-timestamp"].as_i64().unwrap() > 1_600_000_000);
    assert_eq!(
        (&moved["properties"]["type"], &moved["properties"]["delivery_mode"]),
        (&json!("t"), &json!(2))
    );

    // It is changed while it runs, and then deleted.
    set(
        &node,
        &json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "elsewhere"}),
    );
    node.until(STATUS, |status| status["state"] == "running" && status["dest_queue"] == "elsewhere");
    node.until("/api/queues/%2F/from", |queue| queue["consumers"] == 1);
    publish(&node, "from", "b", &json!({}));
    until_messages(&node, "elsewhere", 1);
    assert_eq!(node.change("DELETE", STATUS, &Value::Null).0, 204);
    assert!(is_gone(&node, STATUS) && is_gone(&node, SHOVEL));
    node.until("/api/queues/%2F/from", |queue| queue["consumers"] == 0);
    publish(&node, "from", "c", &json!({}));
    assert_eq!(payloads(&take(&node, "from")), ["c"]);
}

#[test]
fn from_an_exchange_so_many_to_an_exchange() {
    let node = Node::start();
    declare(&node, "to", &json!({}));
    let binding = json!({"routing_key": "dk"});
    assert_eq!(node.change("POST", "/api/bindings/%2F/e/amq.direct/q/to", &binding).0, 201);
    set(
        &node,
        &json!({"src-uri": "amqp://", "src-exchange": "amq.topic", "src-exchange-key": "k.#", "delete-after": 2,
                "dest-uri": "amqp://", "dest-exchange": "amq.direct", "dest-exchange-key": "dk"}),
    );
    node.until(STATUS, |status| status["state"] == "running");
    node.until("/api/consumers", |consumers| consumers[0]["queue"]["name"].is_string());
    let body = |key: &str| json!({"properties": {}, "routing_key": key, "payload": key, "payload_encoding": "string"});
    for key in ["k.1", "other", "k.2", "k.3"] {
        assert_eq!(node.change("POST", "/api/exchanges/%2F/amq.topic/publish", &body(key)).0, 200);
    }
    until_gone(&node, SHOVEL);
    assert_eq!(payloads(&take(&node, "to")), ["k.1", "k.2"]);
}

#[test]
fn a_destination_that_does_not_take_them_loses_none_and_is_named() {
    let node = Node::start();
    declare(&node, "from", &json!({}));
    declare(&node, "full", &json!({"x-max-length": 1, "x-overflow": "reject-publish"}));
    for payload in ["one", "two", "three"] {
        publish(&node, "from", payload, &json!({}));
    }
    set(
        &node,
        &json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "full"}),
    );
    let status = node.until(STATUS, |status| status["reason"].is_string());
    assert_eq!(status["reason"], "queue 'full' has refused a message");
    node.until("/api/queues/%2F/from", |queue| queue["messages"] == 2);
    // What there is room for comes later, and in order.
    assert_eq!(payloads(&take(&node, "full")), ["one"]);
    until_messages(&node, "full", 1);
    assert_eq!(payloads(&take(&node, "full")), ["two"]);
    until_messages(&node, "full", 1);
    node.until(STATUS, |status| status["forwarded"] == 3 && status["reason"].is_null());
    assert_eq!(payloads(&take(&node, "full")), ["three"]);
    publish(&node, "from", "four", &json!({}));
    until_messages(&node, "full", 1);
    // Where it goes nowhere, it stays.
    publish(&node, "from", "five", &json!({}));
    set(
        &node,
        &json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-exchange": "amq.fanout"}),
    );
    let status = node.until(STATUS, |status| status["reason"].is_string());
    assert_eq!(status["reason"], "no queue takes what is sent to exchange 'amq.fanout' with key 'from'");
    assert_eq!(node.change("DELETE", SHOVEL, &Value::Null).0, 204);
    until_messages(&node, "from", 1);
    let kept = take(&node, "from");
    assert_eq!((payloads(&kept), &kept[0]["redelivered"]), (vec!["five"], &json!(false)));
}

#[test]
fn what_ends_a_shovel_is_told_and_it_begins_anew() {
    let node = Node::start();
    let value = |queue: &str| {
        json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": queue,
               "dest-predeclared": true, "reconnect-delay": 86400})
    };
    set(&node, &value("missing"));
    let status = node.until(STATUS, |status| status["state"] == "terminated");
    assert_eq!(status["reason"], "NOT_FOUND - no queue 'missing' in vhost '/'");
    declare(&node, "missing", &json!({}));
    assert_eq!(node.change("DELETE", &format!("{STATUS}/restart"), &Value::Null).0, 204);
    node.until(STATUS, |status| status["state"] == "running");
    node.until("/api/queues/%2F/from", |queue| queue["consumers"] == 1);
    assert_eq!(node.change("DELETE", "/api/queues/%2F/from", &Value::Null).0, 204);
    let status = node.until(STATUS, |status| status["state"] == "terminated");
    assert_eq!(status["reason"], "the queue was deleted");
    assert_eq!(node.change("DELETE", &format!("{STATUS}/restart"), &Value::Null).0, 204);
    node.until(STATUS, |status| status["state"] == "running");
    assert_eq!(node.get("/api/queues/%2F/from")["durable"], true, "it is declared once more");
    assert_eq!(node.change("DELETE", "/api/shovels/vhost/%2F/none/restart", &Value::Null).0, 404);
    // A password is asked for.
    set(
        &node,
        &json!({"src-uri": "amqp://guest:wrong@localhost", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "to"}),
    );
    let status = node.until(STATUS, |status| status["state"] == "terminated");
    assert_eq!(status["reason"], "ACCESS_REFUSED - login of user 'guest' was refused");
}

#[test]
fn a_shovel_has_the_rights_of_who_set_it_and_ends_with_its_virtual_host() {
    let node = Node::start();
    let permissions = json!({"configure": "", "write": ".*", "read": ""});
    assert_eq!(node.change("PUT", "/api/permissions/%2F/policymaker", &permissions).0, 204);
    declare(&node, "from", &json!({}));
    declare(&node, "to", &json!({}));
    let value = json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "to"});
    let login = Some("policymaker:secret");
    let body = json!({"value": value}).to_string();
    assert_eq!(node.ask_with(node.http, "PUT", SHOVEL, login, &[], &body).status, 201);
    let status = node.until(STATUS, |status| status["state"] == "terminated");
    let reason = "ACCESS_REFUSED - read access to queue 'from' in vhost '/' refused for user 'policymaker'";
    assert_eq!(status["reason"], reason);
    let elsewhere =
        json!({"value": {"src-uri": "amqp:///other", "src-queue": "q", "dest-uri": "amqp://"}}).to_string();
    let answer = node.ask_with(node.http, "PUT", SHOVEL, login, &[], &elsewhere);
    assert_eq!(answer.status, 400);
    let reason = "Validation failed\n\nuser \"policymaker\" may not connect to vhost \"other\"\n";
    assert_eq!(answer.json()["reason"], reason);

    let in_other = "/api/parameters/shovel/other/s";
    assert_eq!(
        node.change(
            "PUT",
            "/api/permissions/other/guest",
            &json!({"configure": ".*", "write": ".*", "read": ".*"})
        )
        .0 / 100,
        2
    );
    let value =
        json!({"src-uri": "amqp:///other", "src-queue": "q", "dest-uri": "amqp:///%2F", "dest-queue": "to"});
    assert_eq!(node.change("PUT", in_other, &json!({"value": value})).0, 201);
    node.until("/api/shovels/other", |shovels| shovels[0]["state"] == "running");
    assert_eq!(node.change("DELETE", "/api/vhosts/other", &Value::Null).0, 204);
    let shovels = node.get("/api/shovels");
    assert_eq!(shovels.as_array().unwrap().len(), 1, "{shovels}");
    node.until("/api/overview", |overview| overview["object_totals"]["connections"] == 0);
}

#[test]
fn what_a_shovel_cannot_be_is_refused_in_a_sentence() {
    let node = Node::start();
    let with = |more: Value| {
        let mut value =
            json!({"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"});
        let entries = value.as_object_mut().unwrap();
        for (key, more) in more.as_object().unwrap() {
            match more.is_null() {
                true => drop(entries.remove(key)),
                false => drop(entries.insert(key.clone(), more.clone())),
            }
        }
        value
    };
    assert_eq!(
        refused(&node, &json!({})),
        "Must specify 'src-exchange' or 'src-queue'\nKey \"dest-uri\" not found in s\nKey \"src-uri\" not found in s"
    );
    for (more, reason) in [
        (json!({"src-exchange": "x"}), "Cannot specify 'src-exchange' and 'src-queue'"),
        (json!({"dest-exchange": "x"}), "Cannot specify 'dest-exchange' and 'dest-queue'"),
        (json!({"foo": 1}), "Unrecognised terms [{<<\"foo\">>,1}] in s"),
        (json!({"set-by": "guest"}), "Unrecognised terms [{<<\"set-by\">>,<<\"guest\">>}] in s"),
        (
            json!({"ack-mode": "foo"}),
            "ack-mode should be one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>], actually was <<\"foo\">>",
        ),
        (json!({"prefetch-count": "foo"}), "prefetch-count should be a number, actually was <<\"foo\">>"),
        (json!({"reconnect-delay": "x"}), "reconnect-delay should be a number, actually was <<\"x\">>"),
        (
            json!({"src-delete-after": "foo"}),
            "src-delete-after should be a number greater than or equal to 0, \"never\" or \"queue-length\", actually was \
             <<\"foo\">>",
        ),
        (
            json!({"delete-after": 1, "ack-mode": "no-ack"}),
            "Cannot specify 'no-ack' and numerical 'delete-after'",
        ),
        (json!({"src-uri": 5}), "src-uri should be list, actually was 5"),
        (json!({"src-queue": 5}), "src-queue should be binary, actually was 5"),
        (json!({"add-forward-headers": 5}), "add-forward-headers should be boolean, actually was 5"),
        (
            json!({"dest-publish-properties": {"foo": 7}}),
            "Unrecognised terms [{<<\"foo\">>,7}] in dest-publish-properties",
        ),
        (
            json!({"dest-publish-properties": {"user_id": "other"}}),
            "user_id property set to 'other' but authenticated user was 'guest'",
        ),
        (
            json!({"src-uri": "http://x"}),
            "\"http://x\" not a valid URI: {{unexpected_uri_scheme,\"http\"},\"http://x\"}",
        ),
        (json!({"src-uri": "foo"}), "\"foo\" not a valid URI: {{unable_to_parse_uri,no_scheme},\"foo\"}"),
        (
            json!({"dest-uri": "amqp://u:p@far.example/v"}),
            "\"amqp://far.example/v\" is another broker: messages are moved within this one only",
        ),
        (
            json!({"src-protocol": "amqp10"}),
            "src-protocol should be one of [<<\"amqp091\">>], actually was <<\"amqp10\">>",
        ),
        (json!({"src-uri": "amqp:///none"}), "user \"guest\" may not connect to vhost \"none\""),
    ] {
        assert_eq!(refused(&node, &with(more)), reason);
    }
    assert_eq!(node.get("/api/parameters/shovel"), json!([]));
    let upstream = json!({"value": {"uri": "amqp://"}});
    let (status, text) = node.change("PUT", "/api/parameters/federation-upstream/%2F/u", &upstream);
    assert_eq!((status, text.contains("component federation-upstream not found")), (400, true), "{text}");
    assert_eq!(node.get("/api/federation-links"), json!([]));
    assert_eq!(node.get("/api/federation-links/%2F"), json!([]));
    // An import is refused as a whole.
    let bad = json!({"parameters": [{"vhost": "/", "component": "shovel", "name": "x", "value": with(json!({"foo": 1}))}],
                     "queues": [{"vhost": "/", "name": "q", "durable": true, "auto_delete": false, "arguments": {}}]});
    assert_eq!(node.change("POST", "/api/definitions", &bad).0, 400);
    assert!(is_gone(&node, "/api/queues/%2F/q"));
}

#[test]
fn there_are_so_many_and_no_more() {
    let node = Node::start();
    let value =
        json!({"value": {"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"}});
    for number in 0..100 {
        assert_eq!(node.change("PUT", &format!("/api/parameters/shovel/%2F/s{number}"), &value).0, 201);
    }
    let (status, text) = node.change("PUT", SHOVEL, &value);
    assert_eq!((status, text.contains("there are 100 shovels and transfers")), (400, true), "{text}");
    assert_eq!(node.change("PUT", "/api/parameters/shovel/%2F/s7", &value).0, 204, "it has its place");
    node.until("/api/shovels", |all| {
        all.as_array().unwrap().iter().all(|shovel| shovel["state"] == "running")
    });
    publish(&node, "a", "m", &json!({}));
    until_messages(&node, "b", 1);
    assert_eq!(node.change("DELETE", "/api/parameters/shovel/%2F/s7", &Value::Null).0, 204);
    assert_eq!(node.change("PUT", SHOVEL, &value).0, 201);
}

#[test]
fn a_shovel_that_is_killed_at_its_work_goes_on_after_the_restart_and_loses_nothing() {
    const MESSAGES: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let (node, mut child) = Node::spawn(dir.path());
    declare(&node, "from", &json!({}));
    declare(&node, "to", &json!({}));
    let mut client = Client::connect(node.amqp).unwrap();
    client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false })).unwrap();
    let mut confirmed = 0;
    for id in 0..MESSAGES {
        client.push_publish("", "from", true, &id.to_le_bytes());
    }
    client.flush().unwrap();
    while confirmed < MESSAGES {
        let Incoming::Confirm { tag, .. } = client.next().unwrap() else { panic!("no confirm") };
        confirmed = tag;
    }
    set(
        &node,
        &json!({"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "to"}),
    );
    node.until(STATUS, |status| status["forwarded"].as_u64() > Some(0));
    child.kill().unwrap();
    child.wait().unwrap();

    let (node, mut child) = Node::spawn(dir.path());
    node.until(STATUS, |status| status["state"] == "running");
    let is_empty = |queue: &Value| queue["messages"] == 0 && queue["messages_unacknowledged"] == 0;
    node.until("/api/queues/%2F/from", is_empty);
    let mut client = Client::connect(node.amqp).unwrap();
    let mut seen = BTreeSet::new();
    loop {
        client.push(&Method::BasicGet(BasicGet { queue: "to", no_ack: true }));
        match client.next().unwrap() {
            Incoming::Got(Some((_, _, body))) => seen.insert(u64::from_le_bytes(body.try_into().unwrap())),
            Incoming::Got(None) => break,
            other => panic!("{other:?}"),
        };
    }
    assert!(seen == (0..MESSAGES).collect(), "{} of {MESSAGES} are there", seen.len());
    child.kill().unwrap();
    child.wait().unwrap();
}
