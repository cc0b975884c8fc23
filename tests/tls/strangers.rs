//! Who speaks something else, or too slowly, or in a version that is over.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::broker::Broker;
use crate::client::{Client, Trust, socket};
use crate::{GUEST, HOST, server};

/// A hello of TLS 1.1, which offers what such a client has.
const HELLO_1_1: &[u8] = b"\x16\x03\x01\x00\x39\x01\x00\x00\x35\x03\x02\
    01234567890123456789012345678901\x00\x00\x04\xc0\x13\x00\x2f\x01\x00\x00\x08\x00\x0d\x00\x04\x00\x02\x04\x03";

/// All that comes until the other side ends it.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut told = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut told);
    told
}

#[test]
fn tls_1_1_is_refused_by_an_alert() {
    let (_authority, files) = server();
    let mut broker = Broker::start(&files, &[]);
    let mut stream = socket(broker.amqp()).unwrap();
    stream.write_all(HELLO_1_1).unwrap();
    let told = rest(&mut stream);
    // A fatal alert: protocol_version.
    assert_eq!((told.first(), told.get(5..)), (Some(&0x15), Some(&[2, 70][..])), "{told:?}");
    broker.log_until("TLS handshake failed: ");
}

/// Row 5 of the hostile inputs: each protocol on the other's port.
#[test]
fn amqp_on_the_port_of_tls_and_tls_on_that_of_amqp_are_closed_at_once() {
    let (_authority, files) = server();
    let mut broker = Broker::start(&files, &[("LIMITS_TLS_HANDSHAKE_TIMEOUT_MS", "600s")]);
    let mut stream = socket(broker.amqp()).unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    assert_eq!(rest(&mut stream), b"");
    let line = broker.log_until("AMQP without TLS on a port of TLS");
    assert!(line.contains("WARN") && line.contains("peer=127.0.0.1:"), "{line}");

    let mut stream = socket(broker.address("address")).unwrap();
    stream.write_all(HELLO_1_1).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), b"AMQP\x00\x00\x09\x01");
    broker.log_until("TLS on the port of AMQP without");
}

#[test]
fn half_handshakes_keep_nobody_waiting_and_are_closed() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[("LIMITS_TLS_HANDSHAKE_TIMEOUT_MS", "2s")]);
    let half: Vec<_> = (0..300)
        .map(|at| {
            let mut stream = socket(broker.amqp()).unwrap();
            stream.write_all(&HELLO_1_1[..at % HELLO_1_1.len()]).unwrap();
            stream
        })
        .collect();
    let trust = Trust::of(&authority.pem);
    for _ in 0..20 {
        let (client, _) = Client::begin(trust.connect(broker.amqp(), HOST).unwrap()).unwrap();
        client.log_in("PLAIN", GUEST).unwrap().ask().unwrap();
    }
    for mut stream in half {
        rest(&mut stream);
    }
}

#[test]
fn more_handshakes_than_there_is_memory_for_are_refused_and_others_served() {
    let (_authority, files) = server();
    let mut broker = Broker::start(&files, &[("LIMITS_UNAUTHENTICATED_BYTES_MAX", "128KiB")]);
    let mut served =
        Client::begin(socket(broker.address("address")).unwrap()).unwrap().0.log_in("PLAIN", GUEST).unwrap();
    let _waiting = [socket(broker.amqp()).unwrap(), socket(broker.amqp()).unwrap()];
    let mut refused = socket(broker.amqp()).unwrap();
    assert_eq!(rest(&mut refused), b"");
    broker.log_until("a limit on connections is reached");
    served.ask().unwrap();
}

#[test]
fn the_end_is_said_as_tls_says_it() {
    let (authority, files) = server();
    let broker = Broker::start(&files, &[]);
    let mut stream = Trust::of(&authority.pem).connect(broker.amqp(), HOST).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("close_notify, and not a socket that just ends");
    assert_eq!(told, b"AMQP\x00\x00\x09\x01");
}
