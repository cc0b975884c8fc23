//! The log, as who runs a broker reads it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    ChannelOpen, ConfirmSelect, Method, QueueDeclare, QueueDelete, QueuePurge,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::client::{Client, Incoming};
use crate::{Broker, fresh_dir, sluicemq};

const READY: &str = "Server startup complete";

fn start(command: &mut Command) -> (Broker, SocketAddr, Vec<String>) {
    let mut broker = Broker::start(command);
    let log = broker.log_until(READY);
    let address = log.iter().find_map(|line| line.split_once("address=")).expect("the port is logged").1;
    let address = address.trim().parse().expect("an address");
    (broker, address, log)
}

fn on_loopback() -> Command {
    sluicemq(&["--listen", "127.0.0.1:0"])
}

/// Ends the broker, and the lines it has logged since they were last read.
fn rest(mut broker: Broker) -> Vec<String> {
    broker.signal("-TERM");
    broker.log_until("stopped")
}

fn lines_with<'a>(log: &'a [String], texts: &[&str]) -> Vec<&'a String> {
    log.iter().filter(|line| texts.iter().all(|text| line.contains(text))).collect()
}

fn declare(client: &mut Client, queue: &str) {
    let declare = QueueDeclare {
        queue,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::QueueDeclare(declare)).expect("a queue");
}

fn confirmed(client: &mut Client, queue: &str, count: u64) {
    client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false })).expect("confirms");
    for _ in 0..count {
        client.push_publish("", queue, true, b"kept");
        assert!(matches!(client.next(), Ok(Incoming::Confirm { .. })));
    }
}

#[test]
fn the_first_line_says_who_is_there() {
    let (_broker, _, log) = start(on_loopback().env("RABBITMQ_MNESIA_DIR", "1"));
    let named = concat!("SluiceMQ ", env!("CARGO_PKG_VERSION"));
    assert!(log.first().is_some_and(|line| line.contains(named)), "{log:#?}");
    // Settings by their names, sizes as people read them.
    let [started] = lines_with(&log, &[READY, "memory.watermark=\"", "storage.cache=\""])[..] else {
        panic!("{log:#?}");
    };
    assert!(started.contains("iB\""), "{started}");
}

#[test]
fn a_connection_is_a_line_when_it_is_open_and_one_when_it_ends() {
    let (mut broker, address, _) = start(&mut on_loopback());
    let url = format!("amqp://guest:guest@{address}");
    let load = ["bench", "--url", &url, "--auto-ack", "--messages", "1000"];
    assert!(sluicemq(&load).output().expect("the binary runs").status.success());
    let mut log = broker.log_until("reason=\"closed by the client\"");
    let connect = |name: &str| {
        let mut properties = TableBuf::new();
        properties.insert("product", Field::LongStr(b"a library"));
        if !name.is_empty() {
            properties.insert("connection_name", Field::LongStr(name.as_bytes()));
        }
        Client::connect_with(address, properties.as_table()).expect("a connection")
    };
    drop(connect(""));
    log.extend(broker.log_until("reason=\"the client is gone without a close\""));
    let mut wrong = connect("orders \u{1b}[31m1");
    assert!(wrong.call(&Method::ChannelOpen(ChannelOpen {})).is_err());
    drop(wrong);
    log.extend(broker.log_until("reason=\"closed by the broker: 504 "));
    log.extend(rest(broker));

    let each = ["connection{peer=127.0.0.1:", "user=\"guest\"", "vhost=\"/\""];
    let count = |texts: &[&str]| lines_with(&log, &[&each[..], texts].concat()).len();
    for client in ["sluicemq bench", "a library", r"orders \u{1b}[31m1"] {
        assert!(count(&["connection opened", &format!("client=\"{client}\"")]) > 0, "{client}: {log:#?}");
    }
    assert_eq!(count(&["connection opened"]), count(&["connection ended", "reason="]), "{log:#?}");
    // A thousand messages are no line.
    assert!(log.len() < 30, "{log:#?}");
}

#[test]
fn a_stranger_on_our_port_is_named() {
    let (broker, address, _) = start(&mut on_loopback());
    for hello in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"AMQP\x00\x01\x00\x00",
        b"hello, is anybody there?",
    ] {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(hello).expect("it is taken");
        let mut answer = Vec::new();
        // The end may come as a reset: what was sent has not all been read.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.get(..4), Some(b"AMQP".as_slice()));
    }
    let log = rest(broker);
    for named in ["HTTP on the port of AMQP", "TLS on the port of AMQP", "AMQP 1.0", "first_bytes=hello, "] {
        assert_eq!(
            lines_with(&log, &["WARN connection{peer=127.0.0.1:", named]).len(),
            1,
            "{named}: {log:#?}"
        );
    }
}

#[test]
fn a_start_says_what_it_found() {
    let dir = fresh_dir();
    let on_dir = || in_directory(&dir);
    let (broker, address, log) = start(&mut on_dir());
    assert_eq!(lines_with(&log, &["nothing durable was there"]).len(), 1, "{log:#?}");
    let mut client = Client::connect(address).expect("a connection");
    declare(&mut client, "one");
    declare(&mut client, "two");
    confirmed(&mut client, "two", 3);
    drop(client);
    rest(broker);
    let found = ["recovered", "exchanges=0", "queues=2", "bindings=0", "messages=3"];
    let (broker, _, log) = start(&mut on_dir());
    assert_eq!(lines_with(&log, &[&found[..], &["after a clean stop"]].concat()).len(), 1, "{log:#?}");
    drop(broker);
    let (_broker, _, log) = start(&mut on_dir());
    assert_eq!(lines_with(&log, &[&found[..], &["after a crash"]].concat()).len(), 1, "{log:#?}");
}

#[test]
fn a_start_says_what_is_not_as_configured() {
    let dir = fresh_dir();
    let on_dir = || in_directory(&dir);
    let not_as = "users and vhosts are those of the data directory";
    let (broker, ..) = start(&mut on_dir());
    let mut delete = sluicemq(&["ctl", "delete_user", "guest"]);
    assert!(delete.env("SLUICEMQ_DATA_DIR", &dir).output().expect("the binary runs").status.success());
    rest(broker);
    let (broker, _, log) = start(&mut on_dir());
    assert_eq!(lines_with(&log, &[not_as]).len(), 0, "nobody has configured guest: {log:#?}");
    rest(broker);
    let (_broker, _, log) = start(on_dir().env("SLUICEMQ_VHOSTS", "/,orders"));
    assert_eq!(lines_with(&log, &[not_as, "differs=\"vhost 'orders' is not there\""]).len(), 1, "{log:#?}");
}

#[test]
fn an_alarm_names_its_setting_and_sizes() {
    let mut command = on_loopback();
    let mut broker = Broker::start(command.env("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "1000TiB"));
    let log = broker.log_until("disk alarm");
    let words = ["disk alarm: publishers wait", "storage.disk_free_limit=\"1000.0 TiB\"", "free=\""];
    assert_eq!(lines_with(&log, &words).len(), 1, "{log:#?}");
}

/// Asks the broker's own administration, which succeeds.
fn ctl(dir: &Path, arguments: &[&str]) {
    let mut command = sluicemq(&[&["ctl"], arguments].concat());
    let done = command.env("SLUICEMQ_DATA_DIR", dir).output().expect("the binary runs");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn in_directory(dir: &Path) -> Command {
    let mut command = on_loopback();
    command.arg("--data-dir").arg(dir);
    command
}

#[test]
fn who_changes_something_is_told_with_what_and_no_secret_is() {
    let dir = fresh_dir();
    let (broker, _, _) = start(in_directory(&dir).env("SLUICEMQ_LOG_LEVEL", "trace"));
    let secret = "hunter2-is-no-secret";
    let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
    let uri = format!("amqp://shop:{secret}@127.0.0.1/%2f");
    let shovel = json!({"src-protocol": "amqp091", "src-uri": uri, "src-queue": "a", "dest-protocol": "amqp091",
        "dest-uri": uri, "dest-queue": "b"});
    let definitions = dir.with_extension("json");
    let users = json!({"users": [{"name": "till", "password_hash": hash, "tags": []}]});
    fs::write(&definitions, users.to_string()).expect("a file");
    for arguments in [
        &["add_vhost", "orders"][..],
        &["add_user", "shop", secret],
        &["change_password", "shop", secret],
        &["authenticate_user", "shop", secret],
        &["set_user_tags", "shop", "monitoring"],
        &["set_permissions", "-p", "orders", "shop", "^a", "^b", "^c"],
        &["set_policy", "short", "^a", "{\"max-length\":3}"],
        &["set_parameter", "shovel", "mover", &shovel.to_string()],
        &["import_definitions", definitions.to_str().expect("text")],
        &["delete_user", "shop"],
        &["delete_vhost", "orders"],
    ] {
        ctl(&dir, arguments);
    }
    let log = rest(broker);
    let told = |line: &str| format!("INFO request{{peer=socket}}: audit: {line}");
    for (line, with) in [
        ("PUT /api/vhosts/orders ", ""),
        ("PUT /api/users/shop ", "status=201"),
        ("PUT /api/users/shop/tags ", "monitoring"),
        ("PUT /api/permissions/orders/shop ", "^b"),
        ("PUT /api/policies/%2F/short ", "max-length"),
        ("PUT /api/parameters/shovel/%2F/mover ", ""),
        ("POST /api/definitions ", ""),
        ("DELETE /api/users/shop ", ""),
        ("DELETE /api/vhosts/orders ", "status=204"),
    ] {
        let words = [&told(line), "user=\"rmq-cli\"", with];
        assert_eq!(lines_with(&log, &words).len(), 1, "{line}: {log:#?}");
    }
    for never in [secret, hash] {
        assert_eq!(lines_with(&log, &[never]), Vec::<&String>::new());
    }
}

#[test]
fn who_turns_the_log_down_is_told_and_so_is_what_is_done_then() {
    let dir = fresh_dir();
    let (broker, _, _) = start(&mut in_directory(&dir));
    ctl(&dir, &["set_log_level", "error"]);
    ctl(&dir, &["add_vhost", "orders"]);
    // Its end is told again.
    ctl(&dir, &["set_log_level", "info"]);
    let log = rest(broker);
    for (line, times) in [("PUT /api/process/log-level ", 2), ("PUT /api/vhosts/orders ", 1)] {
        assert_eq!(lines_with(&log, &["audit: ", line]).len(), times, "{line}: {log:#?}");
    }
}

#[test]
fn what_clients_delete_and_purge_is_told_and_what_is_theirs_alone_is_not() {
    let (broker, address, _) = start(&mut on_loopback());
    let mut client = Client::connect(address).expect("a connection");
    declare(&mut client, "orders");
    client.call(&Method::QueuePurge(QueuePurge { queue: "orders", nowait: false })).expect("empty");
    let delete = |queue| QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
    for queue in ["orders", "never there"] {
        client.call(&Method::QueueDelete(delete(queue))).expect("gone");
    }
    let own = QueueDeclare {
        queue: "own",
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.call(&Method::QueueDeclare(own)).expect("a queue");
    client.call(&Method::QueueDelete(delete("own"))).expect("gone");
    drop(client);
    let log = rest(broker);
    for told in ["queue purged", "queue deleted"] {
        let words = ["connection{peer=127.0.0.1:", "audit: ", "user=\"guest\" vhost=\"/\"", told];
        let [line] = lines_with(&log, &words)[..] else { panic!("{told}: {log:#?}") };
        assert!(line.contains("name=\"orders\""), "{line}");
    }
}

#[test]
fn a_peer_that_fails_to_log_in_is_told_of_now_and_then_and_never_its_password() {
    let (broker, _, log) = start(on_loopback().env("SLUICEMQ_MGMT", "127.0.0.1:0"));
    let mgmt = log.iter().find_map(|line| line.split_once("mgmt=")).expect("the API is told").1;
    for _ in 0..50 {
        let asked = ureq::get(&format!("http://{}/api/whoami", mgmt.trim()));
        // user:not-the-password
        let refused = asked.header("authorization", "Basic Z3Vlc3Q6bm90LXRoZS1wYXNzd29yZA==").call();
        assert!(matches!(refused, Err(ureq::Error::StatusCode(401))), "{refused:?}");
    }
    let log = rest(broker);
    let told = lines_with(&log, &["WARN request{peer=127.0.0.1}: audit: login refused: ", "user=\"guest\""]);
    assert!((1..50).contains(&told.len()), "{log:#?}");
    assert_eq!(lines_with(&log, &["not-the-password"]).len(), 0);
}

#[test]
fn a_line_for_machines_is_one_object() {
    let mut command = on_loopback();
    let mut broker = Broker::start(command.env("SLUICEMQ_LOG_FORMAT", "json"));
    let object = |line: &String| serde_json::from_str::<serde_json::Value>(line).expect("an object");
    let log: Vec<_> = broker.log_until(READY).iter().map(object).collect();
    let address = log.iter().find_map(|line| line["address"].as_str()).expect("the port is logged");
    drop(Client::connect(address.parse().expect("an address")).expect("a connection"));
    let log: Vec<_> = broker.log_until("connection ended").iter().map(object).collect();
    for (event, level) in [("connection opened", "INFO"), ("connection ended", "INFO")] {
        let line = log.iter().find(|line| line["message"] == event).unwrap_or_else(|| panic!("{log:#?}"));
        let said = (&line["level"], &line["target"], &line["user"], &line["span"]["name"]);
        assert_eq!(said, (&json!(level), &json!("audit"), &json!("\"guest\""), &json!("connection")));
        assert!(line["span"]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    }
}
