//! /api/process: what is set in a running broker.

use serde_json::{Value, json};

use crate::node::Node;

#[test]
fn the_watermark_moves_and_the_alarm_follows_it() {
    let node = Node::start();
    let before = node.get("/api/nodes")[0]["mem_limit"].clone();
    for low in [json!("1B"), json!(0)] {
        assert_eq!(node.change("PUT", "/api/process/memory-watermark", &json!({"value": low})).0, 204);
        assert_eq!(node.get("/api/nodes")[0]["mem_alarm"], true, "{low}");
        let asked = node.ask("GET", "/api/health/checks/alarms", Some("guest:guest"));
        assert_eq!(asked.status, 503);
        let message =
            json!({"properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string"});
        let (status, text) = node.change("POST", "/api/exchanges/%2F/amq.default/publish", &message);
        assert!(status == 503 && text.contains("low on memory"), "{text}");
        assert_eq!(node.change("PUT", "/api/process/memory-watermark", &json!({"value": before})).0, 204);
        node.until("/api/nodes", |nodes| nodes[0]["mem_alarm"] == false);
    }
    assert_eq!(node.change("PUT", "/api/process/memory-watermark", &json!({"value": 0.5})).0, 204);
    let half = node.get("/api/nodes")[0]["mem_limit"].as_u64().expect("a limit");
    assert!(half > 1 && half != before.as_u64().expect("a limit"), "a share of the machine's: {half}");
    for wrong in [json!({}), json!({"value": "much"}), json!({"value": -1}), json!({"value": []})] {
        assert_eq!(node.change("PUT", "/api/process/memory-watermark", &wrong).0, 400, "{wrong}");
    }
}

#[test]
fn the_disks_limit_moves_by_bytes_and_by_memory() {
    let node = Node::start();
    let limit = || node.get("/api/nodes")[0]["disk_free_limit"].clone();
    for (body, expected) in [
        (json!({"value": 5}), 5),
        (json!({"value": "2GB"}), 2_000_000_000),
        (json!({"value": "1G"}), 1 << 30),
    ] {
        assert_eq!(node.change("PUT", "/api/process/disk-free-limit", &body).0, 204);
        assert_eq!(limit(), expected, "{body}");
    }
    assert_eq!(node.change("PUT", "/api/process/disk-free-limit", &json!({"mem_relative": 0.5})).0, 204);
    assert!(limit().as_u64() > Some(1 << 20), "half of the memory");
    for wrong in [json!({}), json!({"value": "x"}), json!({"mem_relative": -1})] {
        assert_eq!(node.change("PUT", "/api/process/disk-free-limit", &wrong).0, 400, "{wrong}");
    }
}

#[test]
fn the_configuration_is_told_without_its_secrets() {
    let node = Node::start();
    let told = node.get("/api/process/environment");
    assert_eq!(told["values"]["limits"]["channel_max"], 2047);
    assert!(told["toml"].as_str().is_some_and(|text| text.contains("channel_max = 2047")));
    assert!(!told.to_string().contains(crate::node::PASSWORD), "{told}");
}

#[test]
fn a_password_is_checked_and_a_process_that_lends_nothing_does_not_stop() {
    let node = Node::start();
    for (password, is_right) in [("secret", true), ("wrong", false)] {
        let asked = node.change("POST", "/api/users/plain/authenticate", &json!({"password": password}));
        let told: Value = serde_json::from_str(&asked.1).expect("JSON");
        assert_eq!((asked.0, &told["authenticated"]), (200, &json!(is_right)));
    }
    for path in ["/api/process/stop", "/api/process/stop-app"] {
        assert_eq!(node.change("POST", path, &json!({})).0, 503, "{path}");
    }
    assert_eq!(node.get("/api/process")["running"], true);
}

#[test]
fn a_node_says_how_much_it_may_use_of_what_it_uses() {
    let shown = Node::start().get("/api/nodes")[0].clone();
    assert_eq!(shown["sockets_total"], shown["fd_total"], "without a limit of connections files are one");
    assert!(shown["proc_total"].as_u64() > shown["proc_used"].as_u64(), "{shown}");
}
