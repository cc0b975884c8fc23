//! Lists: pages, names, order, columns.

use serde_json::json;
use sluicemq::protocol::methods::{Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::client::Client;
use crate::node::Node;

fn declare(client: &mut Client, queue: &str) {
    let declare = QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::QueueDeclare(declare)).expect("a queue");
}

fn names(list: &serde_json::Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|item| item["name"].as_str().expect("a name")).collect()
}

#[test]
fn pages_names_order_and_columns() {
    let node = Node::start();
    let mut client = Client::connect(node.amqp).expect("a connection");
    for queue in ["b", "a", "Ab", "c", "ac"] {
        declare(&mut client, queue);
    }
    client.push_publish("", "c", false, b"hello");
    client.push_publish("", "c", false, b"hello");
    client.push_publish("", "b", false, b"hello");
    client.flush().expect("it goes out");
    node.until("/api/queues/%2F/b", |queue| queue["messages"] == 1);

    let all = node.get("/api/queues?columns=name");
    assert_eq!(all, json!([{"name": "Ab"}, {"name": "a"}, {"name": "ac"}, {"name": "b"}, {"name": "c"}]));
    let page = node.get("/api/queues?page=2&page_size=2&columns=name");
    let expected = json!({
        "filtered_count": 5, "item_count": 2, "items": [{"name": "ac"}, {"name": "b"}], "page": 2, "page_count": 3,
        "page_size": 2, "total_count": 5,
    });
    assert_eq!(page, expected);
    let searched = node.get("/api/queues?page=1&name=A&columns=name");
    assert_eq!((names(&searched["items"]), &searched["total_count"]), (vec!["Ab", "a", "ac"], &json!(5)));
    let matched = node.get("/api/queues?pagination=true&name=%5Ea.%24&use_regex=true&columns=name");
    assert_eq!((names(&matched["items"]), &matched["filtered_count"]), (vec!["Ab", "ac"], &json!(2)));
    let sorted = node.get("/api/queues?sort=messages&sort_reverse=true&page=1&page_size=2");
    assert_eq!(names(&sorted["items"]), ["c", "b"]);
    let columns = node.get("/api/queues/%2F/c?columns=messages,message_stats.publish,nothing");
    assert_eq!(columns, json!({"messages": 2, "message_stats": {"publish": 2}}));
    let totals =
        node.get("/api/queues/%2F?disable_stats=true&enable_queue_totals=true&columns=name,messages,memory");
    assert_eq!(totals[4], json!({"name": "c", "messages": 2}));
}

#[test]
fn a_slash_behind_a_path_changes_nothing() {
    let node = Node::start();
    let mut client = Client::connect(node.amqp).expect("a connection");
    declare(&mut client, "q");
    for path in ["/api/queues/", "/api/queues/%2F/"] {
        assert_eq!(names(&node.get(path)), ["q"], "{path}");
    }
    assert_eq!(node.get("/api/queues/%2F/q/")["name"], "q");
    assert_eq!(node.ask("GET", "/api/queues//", Some("guest:guest")).status, 404);
}
