//! What is changed over HTTP is so at once, for those who ask and for those who are connected.

use serde_json::{Value, json};
use sluicemq::protocol::methods::{BasicGet, Method};

use crate::client::Client;
use crate::node::Node;

/// Changes something that is new.
fn create(node: &Node, method: &str, path: &str, body: &Value) {
    assert_eq!(node.change(method, path, body), (201, String::new()), "{path}");
}

/// Changes something that was there, or takes it away.
fn update(node: &Node, method: &str, path: &str, body: &Value) {
    assert_eq!(node.change(method, path, body), (204, String::new()), "{method} {path}");
}

fn refuse(node: &Node, method: &str, path: &str, body: &Value, status: u16, reason: &str) {
    let (found, text) = node.change(method, path, body);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
    assert_eq!((found, told["reason"].as_str().unwrap_or_default()), (status, reason), "{method} {path}");
}

#[test]
fn users_and_what_they_may_do() {
    let node = Node::start();
    let (status, text) = node.change("PUT", "/api/users/rmq-cli", &json!({"password": "x", "tags": ""}));
    assert_eq!(status, 400, "who comes by the socket is nobody else: {text}");
    create(&node, "PUT", "/api/vhosts/v", &json!({"description": "d", "tags": "a, b"}));
    let vhost = node.get("/api/vhosts/v");
    assert_eq!((&vhost["description"], &vhost["tags"]), (&json!("d"), &json!(["a", "b"])));
    create(&node, "PUT", "/api/users/alice", &json!({"password": "secret", "tags": "management, x"}));
    update(&node, "PUT", "/api/users/alice", &json!({"password": "secret", "tags": ["management"]}));
    let alice = node.get("/api/users/alice");
    assert_eq!(alice["tags"], json!(["management"]));
    assert_eq!(alice["hashing_algorithm"], "rabbit_password_hashing_sha256");
    update(&node, "PUT", "/api/users/alice/tags", &json!({"tags": "management,y"}));
    update(&node, "PUT", "/api/users/alice/password", &json!({"password": "secret"}));
    assert_eq!(node.get("/api/users/alice")["tags"], json!(["management", "y"]));
    assert_eq!(node.change("PUT", "/api/users/nobody/tags", &json!({"tags": ""})).0, 404);
    refuse(&node, "PUT", "/api/users/alice/password", &json!({}), 400, "[{key_missing,password}]");
    let hashed = json!({"password_hash": alice["password_hash"], "tags": ""});
    create(&node, "PUT", "/api/users/twin", &hashed);
    assert_eq!(node.ask("GET", "/api/whoami", Some("alice:secret")).json()["name"], "alice");
    assert_eq!(node.ask("GET", "/api/vhosts/v", Some("alice:secret")).status, 401);
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    create(&node, "PUT", "/api/permissions/v/alice", &all);
    assert_eq!(node.ask("GET", "/api/vhosts/v", Some("alice:secret")).status, 200);
    assert_eq!(node.get("/api/users/without-permissions")[0]["name"], "twin");
    refuse(&node, "PUT", "/api/permissions/v/nobody", &all, 400, "vhost_or_user_not_found");
    refuse(&node, "PUT", "/api/users/bob", &json!({"password": "x"}), 400, "tags_not_present");
    create(
        &node,
        "PUT",
        "/api/topic-permissions/v/alice",
        &json!({"exchange": "x", "write": "^a", "read": ""}),
    );
    assert_eq!(node.get("/api/users/alice/topic-permissions")[0]["write"], "^a");
    update(&node, "PUT", "/api/user-limits/alice/max-channels", &json!({"value": 5}));
    update(&node, "PUT", "/api/user-limits/alice/max-connections", &json!({"value": 2}));
    assert_eq!(node.get("/api/users/alice")["limits"], json!({"max-channels": 5, "max-connections": 2}));
    update(&node, "DELETE", "/api/user-limits/alice/max-channels", &Value::Null);
    assert_eq!(node.get("/api/user-limits")[0]["value"], json!({"max-connections": 2}));
    update(&node, "PUT", "/api/vhost-limits/v/max-queues", &json!({"value": 7}));
    assert_eq!(node.get("/api/vhost-limits/v"), json!([{"vhost": "v", "value": {"max-queues": 7}}]));
    update(&node, "DELETE", "/api/users/alice", &Value::Null);
    refuse(&node, "DELETE", "/api/users/alice", &Value::Null, 404, "Not Found");
    assert_eq!(node.get("/api/permissions/v").as_array().map(Vec::len), Some(1), "only who made it");
    update(&node, "DELETE", "/api/vhosts/v", &Value::Null);
    assert_eq!(node.ask("GET", "/api/vhosts/v", Some("guest:guest")).status, 404);
}

#[test]
fn connections_of_who_is_deleted_are_closed() {
    let node = Node::start();
    let mut client = Client::connect(node.amqp).expect("a connection of guest's");
    node.until("/api/connections", |all| all[0]["channels"] == 1);
    let as_other = |method: &str, path: &str| node.ask(method, path, Some("administrator:secret"));
    assert_eq!(as_other("DELETE", "/api/users/guest").status, 204);
    let get = Method::BasicGet(BasicGet { queue: "q", no_ack: true });
    let told = loop {
        if let Err(error) = client.call(&get) {
            break error.to_string();
        }
    };
    assert!(told.contains("user 'guest' is deleted"), "{told}");
}

#[test]
fn policies_and_parameters() {
    let node = Node::start();
    create(
        &node,
        "PUT",
        "/api/queues/%2F/q.one",
        &json!({"durable": true, "arguments": {"x-max-length": 9}}),
    );
    update(
        &node,
        "PUT",
        "/api/queues/%2F/q.one",
        &json!({"durable": true, "arguments": {"x-max-length": 9}}),
    );
    let policy = json!({"pattern": "^(?!amq\\.)q", "definition": {"max-length": 5}, "priority": 1, "apply-to": "queues"});
    create(&node, "PUT", "/api/policies/%2F/p", &policy);
    create(
        &node,
        "PUT",
        "/api/operator-policies/%2F/o",
        &json!({"pattern": "", "definition": {"max-length": 7}}),
    );
    let queue = node.get("/api/queues/%2F/q.one");
    assert_eq!((&queue["policy"], &queue["operator_policy"]), (&json!("p"), &json!("o")));
    assert_eq!(queue["effective_policy_definition"], json!({"max-length": 5}));
    let shown = node.get("/api/policies/%2F/p");
    assert_eq!((&shown["pattern"], &shown["apply-to"]), (&json!("^(?!amq\\.)q"), &json!("queues")));
    let unknown = "Validation failed\n\n[{<<\"foo\">>,1}] are not recognised policy settings\n";
    refuse(
        &node,
        "PUT",
        "/api/policies/%2F/p",
        &json!({"pattern": "", "definition": {"foo": 1}}),
        400,
        unknown,
    );
    refuse(&node, "PUT", "/api/policies/%2F/p", &json!({"definition": {}}), 400, "[{key_missing,pattern}]");
    update(&node, "DELETE", "/api/policies/%2F/p", &Value::Null);
    assert_eq!(node.get("/api/queues/%2F/q.one")["policy"], Value::Null);
    let value = json!({"a": [1, 2.5, "x", null, true], "b": {"c": -1}});
    create(&node, "PUT", "/api/global-parameters/g", &json!({"value": value}));
    assert_eq!(node.get("/api/global-parameters/g")["value"], value);
    let policies = "policies may not be set using this method";
    refuse(&node, "PUT", "/api/parameters/policy/%2F/x", &json!({"value": {}}), 400, policies);
}

#[test]
fn queues_exchanges_and_bindings() {
    let node = Node::start();
    create(&node, "PUT", "/api/exchanges/%2F/x", &json!({"type": "topic"}));
    create(&node, "PUT", "/api/queues/%2F/q", &json!({}));
    let path = "/api/bindings/%2F/e/x/q/q";
    create(&node, "POST", path, &json!({"routing_key": "a.*", "arguments": {"k": 1}}));
    let bindings = node.get(path);
    let key = bindings[0]["properties_key"].as_str().expect("a key").to_owned();
    assert_eq!((&bindings[0]["routing_key"], &bindings[0]["arguments"]), (&json!("a.*"), &json!({"k": 1})));
    let named = format!("{path}/{}", key.replace('*', "%2A"));
    assert_eq!(node.get(&named)["routing_key"], "a.*");
    update(&node, "DELETE", &named, &Value::Null);
    assert_eq!(node.get(path), json!([]));
    refuse(&node, "DELETE", "/api/queues/%2F/none", &Value::Null, 404, "Not Found");
    refuse(&node, "PUT", "/api/exchanges/%2F/y", &json!({}), 400, "[{key_missing,type}]");
    let changed =
        "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'";
    refuse(&node, "PUT", "/api/queues/%2F/q", &json!({"durable": true}), 400, changed);
    update(&node, "DELETE", "/api/queues/%2F/q/contents", &Value::Null);
    update(&node, "DELETE", "/api/queues/%2F/q?if-empty=true", &Value::Null);
    update(&node, "DELETE", "/api/exchanges/%2F/x", &Value::Null);
}

#[test]
fn definitions_go_out_and_come_in_again() {
    let node = Node::start();
    create(&node, "PUT", "/api/exchanges/%2F/x", &json!({"type": "headers"}));
    create(
        &node,
        "PUT",
        "/api/queues/%2F/q",
        &json!({"durable": true, "arguments": {"x-queue-type": "quorum"}}),
    );
    create(&node, "POST", "/api/bindings/%2F/e/x/q/q", &json!({"arguments": {"x-match": "any", "k": 1}}));
    create(&node, "PUT", "/api/policies/%2F/p", &json!({"pattern": "^q", "definition": {"max-length": 5}}));
    create(
        &node,
        "PUT",
        "/api/operator-policies/%2F/o",
        &json!({"pattern": "^q", "definition": {"expires": 50_000}}),
    );
    update(&node, "PUT", "/api/vhost-limits/%2F/max-queues", &json!({"value": 7}));
    create(&node, "PUT", "/api/global-parameters/cluster_name", &json!({"value": "here"}));
    create(
        &node,
        "PUT",
        "/api/topic-permissions/%2F/plain",
        &json!({"exchange": "x", "write": "a", "read": "b"}),
    );
    update(&node, "PUT", "/api/user-limits/plain/max-channels", &json!({"value": 7}));
    create(&node, "PUT", "/api/queues/%2F/passing", &json!({"durable": false}));
    let all = node.get("/api/definitions");
    let other = Node::start();
    update(&other, "POST", "/api/definitions", &all);
    assert_eq!(other.get("/api/definitions"), all);
    assert_eq!(other.ask("GET", "/api/whoami", Some("management:secret")).status, 200, "hashes are imported");
    // A virtual host's own ones, in another.
    let of_vhost = node.get("/api/definitions/%2F");
    assert_eq!(
        (&of_vhost["original_vhost_name"], &of_vhost["queues"][0]["vhost"]),
        (&json!("/"), &Value::Null)
    );
    create(&other, "PUT", "/api/vhosts/copy", &json!({}));
    update(&other, "POST", "/api/definitions/copy", &of_vhost);
    assert_eq!(other.get("/api/queues/copy/q")["type"], "quorum");
    assert_eq!(other.get("/api/bindings/copy/e/x/q/q")[0]["arguments"], json!({"k": 1, "x-match": "any"}));
}

#[test]
fn who_brings_definitions_in_needs_no_permissions_in_what_comes() {
    let node = Node::start();
    let (name, vhost) = ("q", "new");
    let all = json!({
        "vhosts": [{"name": vhost}],
        "queues": [
            {"name": name, "vhost": vhost, "durable": true},
            {"name": "amq.gen-somebody's", "vhost": vhost, "durable": false},
        ],
        "exchanges": [{"name": "x", "vhost": vhost, "type": "topic"}],
        "bindings": [
            {"source": "x", "vhost": vhost, "destination": name, "destination_type": "queue", "routing_key": "#"},
        ],
    });
    update(&node, "POST", "/api/definitions", &all);
    let made = node.get("/api/definitions");
    let of_vhost = |list: &str| {
        let all = made[list].as_array().unwrap().iter();
        all.filter(|item| item["vhost"] == vhost).map(|item| item["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((of_vhost("queues"), of_vhost("exchanges")), (vec![json!(name)], vec![json!("x")]));
    let long = "k".repeat(256);
    let refused = node.change("PUT", &format!("/api/queues/%2F/{long}"), &json!({}));
    assert!(refused.0 == 400 && refused.1.contains("longer than 255"), "{refused:?}");
    let wrong = node.change("PUT", "/api/queues/%2F/q", &json!({"durable": "yes"}));
    assert!(wrong.0 == 400 && wrong.1.contains("durable is no boolean"), "{wrong:?}");
}

#[test]
fn nothing_is_made_of_definitions_of_which_one_cannot_be() {
    let node = Node::start();
    let bad = json!({
        "users": [{"name": "alice", "password_hash": "", "tags": ""}],
        "vhosts": [{"name": "v"}],
        "permissions": [{"user": "alice", "vhost": "v", "configure": "(", "write": "", "read": ""}],
    });
    let (status, text) = node.change("POST", "/api/definitions", &bad);
    assert!(
        status == 400 && text.contains("permissions[0]") && text.contains("unclosed group"),
        "{status} {text}"
    );
    assert_eq!(node.ask("GET", "/api/users/alice", Some("guest:guest")).status, 404);
    let stream = json!({
        "vhosts": [{"name": "v"}],
        "queues": [{"name": "q", "vhost": "v", "durable": true, "arguments": {"x-queue-type": "stream"}}],
    });
    assert_eq!(node.change("POST", "/api/definitions", &stream).0, 400);
    assert_eq!(node.ask("GET", "/api/vhosts/v", Some("guest:guest")).status, 404);
    for body in [json!({"users": 1}), json!({"queues": ["q"]}), json!({"queues": [{"name": "q"}]}), json!([])]
    {
        assert_eq!(node.change("POST", "/api/definitions", &body).0, 400, "{body}");
    }
}

#[test]
fn what_cannot_be_made_is_told_before_anything_is_made() {
    let node = Node::start();
    let queue = json!([{"name": "q", "vhost": "/", "durable": true}]);
    let user = json!({"name": "u", "tags": "", "password_hash": ""});
    for (list, wrong) in [
        ("users", json!({"name": "rmq-cli", "tags": ""})),
        ("users", json!({"name": "u", "tags": "", "limits": {"max-queues": 1}})),
        ("vhosts", json!({"name": "v", "default_queue_type": "stream"})),
        ("vhosts", json!({"name": "v", "tags": ["\n"]})),
        ("vhosts", json!({"name": "v", "tracing": "maybe"})),
        (
            "users",
            json!({"name": "u", "tags": "", "password_hash": "kI3GChNpte2FApYFXScl+0dIluk=",
                         "hashing_algorithm": "rabbit_password_hashing_md5"}),
        ),
        ("permissions", json!({"user": "nobody", "vhost": "/", "configure": "", "write": "", "read": ""})),
        ("permissions", json!({"user": "plain", "vhost": "none", "configure": "", "write": "", "read": ""})),
        (
            "topic_permissions",
            json!({"user": "plain", "vhost": "none", "exchange": "x", "write": "", "read": ""}),
        ),
        ("global_parameters", json!({"name": "", "value": 1})),
        ("policies", json!({"name": "p", "vhost": "none", "pattern": "", "definition": {"max-length": 1}})),
        ("parameters", json!({"name": "p", "vhost": "/", "component": "federation-upstream", "value": {}})),
        (
            "parameters",
            json!({"name": "limits", "vhost": "/", "component": "vhost-limits", "value": {"x": 1}}),
        ),
        ("parameters", json!({"name": "p", "vhost": "/", "component": "operator_policy", "value": {}})),
        ("queues", json!({"name": "r", "vhost": "none"})),
        ("exchanges", json!({"name": "x", "vhost": "/", "type": "none"})),
        ("exchanges", json!({"name": "amq.x", "vhost": "/", "type": "topic"})),
        (
            "exchanges",
            json!({"name": "x", "vhost": "/", "type": "topic", "arguments": {"alternate-exchange": 1}}),
        ),
        (
            "bindings",
            json!({"source": "x", "vhost": "none", "destination": "q", "destination_type": "queue"}),
        ),
    ] {
        let mut all = json!({"users": [user], "queues": queue});
        let before = all[list].as_array().cloned().unwrap_or_default();
        all[list] = before.into_iter().chain([wrong.clone()]).collect();
        let (status, text) = node.change("POST", "/api/definitions", &all);
        assert_eq!((status, text.contains(&format!("{list}["))), (400, true), "{wrong}: {text}");
        assert_eq!(node.ask("GET", "/api/users/u", Some("guest:guest")).status, 404, "{wrong}");
        assert_eq!(node.ask("GET", "/api/queues/%2F/q", Some("guest:guest")).status, 404, "{wrong}");
    }
}

#[test]
fn what_is_there_already_stays_as_it_is_when_definitions_come() {
    let node = Node::start();
    create(&node, "PUT", "/api/queues/%2F/q", &json!({"arguments": {"x-max-length": 5}}));
    create(&node, "PUT", "/api/exchanges/%2F/x", &json!({"type": "fanout"}));
    let all = json!({
        "queues": [{"name": "q", "vhost": "/", "durable": true, "arguments": {}}],
        "exchanges": [
            {"name": "x", "vhost": "/", "type": "topic"},
            {"name": "amq.topic", "vhost": "/", "type": "topic"},
        ],
        "bindings": [
            {"source": "x", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "k"},
        ],
    });
    update(&node, "POST", "/api/definitions", &all);
    assert_eq!(node.get("/api/queues/%2F/q")["arguments"], json!({"x-max-length": 5}));
    assert_eq!(node.get("/api/exchanges/%2F/x")["type"], "fanout");
    assert_eq!(node.get("/api/bindings/%2F/e/x/q/q").as_array().map(Vec::len), Some(1));
}

#[test]
fn a_virtual_host_is_traced_until_it_is_not() {
    let node = Node::start();
    create(&node, "PUT", "/api/vhosts/v", &json!({"description": "d", "tracing": true}));
    assert_eq!(node.get("/api/vhosts/v")["tracing"], true);
    update(&node, "PUT", "/api/vhosts/v", &json!({"tracing": false}));
    let vhost = node.get("/api/vhosts/v");
    assert_eq!((&vhost["tracing"], &vhost["description"]), (&json!(false), &json!("d")));
    refuse(&node, "PUT", "/api/vhosts/v", &json!({"tracing": 1}), 400, "tracing is no boolean: 1");
}

#[test]
fn what_can_be_done_is_enabled_already() {
    let node = Node::start();
    update(&node, "PUT", "/api/feature-flags/quorum_queue/enable", &json!({"name": "quorum_queue"}));
    refuse(&node, "PUT", "/api/feature-flags/none/enable", &json!({}), 400, "unsupported");
}

#[test]
fn an_import_with_more_shovels_than_there_are_places_is_refused_as_a_whole() {
    let node = Node::start();
    let value = json!({"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"});
    let shovel =
        |number| json!({"vhost": "/", "component": "shovel", "name": format!("s{number}"), "value": value});
    let shovels: Vec<_> = (0..101).map(shovel).collect();
    let all = json!({"vhosts": [{"name": "v"}], "parameters": shovels});
    let (status, text) = node.change("POST", "/api/definitions", &all);
    assert_eq!((status, text.contains("parameters[100]")), (400, true), "{text}");
    assert_eq!(node.ask("GET", "/api/vhosts/v", Some("guest:guest")).status, 404);
    let all = json!({"parameters": shovels[..100]});
    update(&node, "POST", "/api/definitions", &all);
    update(&node, "POST", "/api/definitions", &all);
}
