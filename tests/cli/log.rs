//! The log, as who runs a broker reads it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{ChannelOpen, ConfirmSelect, Method, QueueDeclare};
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
    let on_dir = || {
        let mut command = on_loopback();
        command.arg("--data-dir").arg(&dir);
        command
    };
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
    let on_dir = || {
        let mut command = on_loopback();
        command.arg("--data-dir").arg(&dir);
        command
    };
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
