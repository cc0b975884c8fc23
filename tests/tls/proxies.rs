//! Clients that come by a proxy, which says for whom it comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::authority::Files;
use crate::broker::Broker;
use crate::client::{Client, Trust, socket};
use crate::{GUEST, HOST, server};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 5672\r\n";
/// The same in version 2, with a field that nobody asks for.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\xcb\x00\x71\x07\x0a\x00\x00\x01\xc7\x38\x16\x28\x20\x00\x02\x01\x02";
/// That it comes for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// A broker to which whoever comes from this network is a proxy.
fn behind(files: &Files, network: &str, more: &[(&str, &str)]) -> Broker {
    Broker::start(files, &[&[("PROXY_PROTOCOL_FROM", network)][..], more].concat())
}

/// Says this, each octet in a segment of its own.
fn trickle(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = socket(address).unwrap();
    stream.set_nodelay(true).unwrap();
    header.iter().for_each(|octet| stream.write_all(&[*octet]).unwrap());
    stream
}

fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut told = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut told);
    told
}

fn listed(broker: &Broker, columns: &[&str]) -> String {
    let words = [&["list_connections", "-q", "--no-table-headers"][..], columns].concat();
    String::from_utf8(broker.ctl(&words).stdout).unwrap()
}

#[test]
fn a_proxy_says_for_whom_it_comes_and_nobody_else_is_shown() {
    let (authority, files) = server();
    let broker = behind(&files, "127.0.0.0/8", &[("LOOPBACK_USERS", "")]);
    let plain = broker.address("address");
    for header in [V1, V2] {
        let (client, _) = Client::begin(trickle(plain, header)).unwrap();
        let mut client = client.log_in("PLAIN", GUEST).unwrap();
        client.ask().unwrap();
        let shown = listed(&broker, &["peer_host", "peer_port", "name"]);
        assert_eq!(shown.trim_end(), format!("203.0.113.7\t51000\t203.0.113.7:51000 -> {plain}"));
        client.close().unwrap();
    }
    // What is behind the header may have come with it.
    let together = Trust::of(&authority.pem).shake(trickle(broker.amqp(), V2), HOST).unwrap();
    let mut client = Client::begin(together).unwrap().0.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    assert_eq!(listed(&broker, &["peer_host", "ssl"]).trim_end(), "203.0.113.7\ttrue");
}

#[test]
fn who_is_behind_a_proxy_of_this_machine_is_not_on_it() {
    let (_authority, files) = server();
    let mut broker = behind(&files, "127.0.0.1", &[("LIMITS_AUTH_FAILURE_DELAY_MS", "0")]);
    for header in [V1, V2] {
        let (client, _) = Client::begin(trickle(broker.address("address"), header)).unwrap();
        assert!(client.log_in("PLAIN", GUEST).is_err());
        let line = broker.log_until("can only connect via localhost");
        assert!(line.contains("peer=203.0.113.7:51000"), "{line}");
    }
    let here = b"PROXY TCP4 127.0.0.1 127.0.0.1 51000 5672\r\n";
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", here] {
        let (client, _) = Client::begin(trickle(broker.address("address"), header)).unwrap();
        client.log_in("PLAIN", GUEST).unwrap().ask().unwrap();
    }
}

#[test]
fn who_comes_without_a_header_or_with_a_bad_one_is_closed_without_a_word() {
    let (_authority, files) = server();
    let mut broker = behind(&files, "127.0.0.1", &[("LIMITS_HEADER_TIMEOUT_MS", "600s")]);
    let oversized = [&V2[..14], b"\xff\xff"].concat();
    for (header, told) in [
        (&b"AMQP\0\0\x09\x01"[..], "no PROXY header, but \"AMQP"),
        (b"PROXY TCP4 nowhere nowhere 1 2\r\n", "connection by a proxy refused: "),
        (&[b"PROXY UNKNOWN", &[b' '; 100][..]].concat(), "a PROXY header of more than "),
        (&oversized, "a PROXY header of more than "),
    ] {
        for address in [broker.address("address"), broker.amqp()] {
            let mut stream = socket(address).unwrap();
            stream.write_all(header).unwrap();
            assert_eq!(rest(&mut stream), b"", "{}", header.escape_ascii());
            broker.log_until(told);
        }
    }
}

#[test]
fn a_header_has_the_time_of_a_stranger() {
    let (_authority, files) = server();
    let mut broker = behind(&files, "127.0.0.1", &[("LIMITS_HEADER_TIMEOUT_MS", "300ms")]);
    for header in [V1, V2] {
        let mut stream = trickle(broker.address("address"), &header[..header.len() - 1]);
        assert_eq!(rest(&mut stream), b"");
        broker.log_until("the PROXY header took too long");
    }
}

/// Row 24 of the hostile inputs.
#[test]
fn nobody_else_says_for_whom_they_come() {
    let (_authority, files) = server();
    let mut broker = behind(&files, "10.0.0.0/8, 2001:db8::/32", &[]);
    for header in [V1, V2] {
        // At once: who it is not is seen in the first octet already.
        let mut stream = socket(broker.address("address")).unwrap();
        stream.write_all(header).unwrap();
        assert_eq!(rest(&mut stream), b"AMQP\x00\x00\x09\x01");
        broker.log_until("a PROXY header, from where none is taken");
        let mut stream = socket(broker.amqp()).unwrap();
        stream.write_all(header).unwrap();
        assert_eq!(rest(&mut stream), b"");
        broker.log_until("a PROXY header, from where none is taken");
    }
    let mut client = Client::begin(socket(broker.address("address")).unwrap()).unwrap().0;
    client = client.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
}

#[test]
fn limits_of_an_address_are_those_of_whom_the_proxy_comes_for() {
    let (_authority, files) = server();
    let mut broker = behind(&files, "127.0.0.1", &[("LIMITS_PER_ADDRESS_CONNECTIONS_MAX", "1")]);
    let plain = broker.address("address");
    let _first = Client::begin(trickle(plain, V1)).unwrap();
    assert_eq!(rest(&mut trickle(plain, V2)), b"");
    let line = broker.log_until("a limit on connections is reached");
    assert!(line.contains("peer=203.0.113.7:51000"), "{line}");
    Client::begin(trickle(plain, b"PROXY TCP4 203.0.113.8 10.0.0.1 51000 5672\r\n")).unwrap();
}

#[test]
fn who_believes_everybody_is_told_so() {
    let (_authority, files) = server();
    let broker = behind(&files, "0.0.0.0/0", &[]);
    let line = broker.log.iter().find(|line| line.contains("proxy_protocol_from is 0.0.0.0/0")).unwrap();
    assert!(line.contains("WARN"), "{line}");
}
