//! AMQP by WebSocket, at the management API's port.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use bytes::{Buf, Bytes};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::{HeaderName, HeaderValue, Request};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::authority::Files;
use crate::broker::Broker;
use crate::client::{Client, Trust, socket};
use crate::{GUEST, HOST, server};

/// A client's end, whose messages are octets.
struct Web<S> {
    socket: WebSocket<S>,
    read: Bytes,
    /// As what the other side took leave.
    farewell: Option<CloseCode>,
}

impl<S: Read + Write> Read for Web<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read.is_empty() && self.farewell.is_none() {
            match self.socket.read().map_err(io::Error::other)? {
                Message::Binary(octets) => self.read = octets,
                Message::Close(said) => self.farewell = said.map(|said| said.code),
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
        let count = self.read.len().min(buffer.len());
        self.read.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl<S: Read + Write> Write for Web<S> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let sent = self.socket.send(Message::binary(octets.to_vec()));
        sent.map(|()| octets.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = "ws://localhost/ws".into_client_request().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// What is answered to a handshake: the stream and the subprotocol, or a status.
fn begin<S: Read + Write>(stream: S, headers: &[(&str, &str)]) -> Result<(Web<S>, Option<String>), u16> {
    match tungstenite::client(request(headers), stream) {
        Ok((socket, response)) => {
            let spoken = response.headers().get("sec-websocket-protocol");
            let spoken = spoken.map(|spoken| spoken.to_str().unwrap().to_owned());
            Ok((Web { socket, read: Bytes::new(), farewell: None }, spoken))
        }
        Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

fn broker(files: &Files, more: &[(&str, &str)]) -> Broker {
    Broker::start(files, &[&[("MGMT", "127.0.0.1:0"), ("TLS_MGMT", "127.0.0.1:0")][..], more].concat())
}

fn connect(broker: &Broker) -> TcpStream {
    socket(broker.address("mgmt")).unwrap()
}

/// What any client does, with messages that are larger than a frame of either side.
fn converse(stream: impl Read + Write) {
    let mut client = Client::begin(stream).unwrap().0.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    for size in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        client.publish(&body).unwrap();
        assert!(client.get().unwrap() == body, "{size} bytes");
    }
    client.close().unwrap();
}

#[test]
fn a_web_socket_carries_amqp_with_and_without_tls() {
    let (authority, files) = server();
    let broker = broker(&files, &[]);
    converse(begin(connect(&broker), &[]).unwrap().0);
    let secured = Trust::of(&authority.pem).connect(broker.address("mgmt_tls"), HOST).unwrap();
    converse(begin(secured, &[]).unwrap().0);

    let (web, spoken) = begin(connect(&broker), &[("sec-websocket-protocol", "mqtt, amqp")]).unwrap();
    assert_eq!(spoken.as_deref(), Some("amqp"));
    let mut client = Client::begin(web).unwrap().0.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    let peer = client.stream.socket.get_ref().local_addr().unwrap();
    let listed =
        broker.ctl(&["list_connections", "-q", "--no-table-headers", "peer_port", "ssl", "protocol"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with(&format!("{}\tfalse\t", peer.port())), "{listed}");
}

#[test]
fn pages_of_others_may_not_unless_they_are_listed() {
    let (_authority, files) = server();
    let broker = broker(&files, &[("WEBSOCKET_ORIGINS", "https://shop.example.com")]);
    for (origin, status) in [
        ("http://localhost", None),
        ("https://shop.example.com", None),
        ("https://evil.example.com", Some(403)),
        ("null", Some(403)),
    ] {
        let begun = begin(connect(&broker), &[("origin", origin)]);
        assert_eq!(begun.err(), status, "{origin}");
    }
}

#[test]
fn who_comes_by_a_proxy_of_this_machine_is_not_on_it() {
    let (_authority, files) = server();
    let broker = broker(&files, &[]);
    let forwarded = begin(connect(&broker), &[("x-forwarded-for", "192.0.2.1")]).unwrap().0;
    let refused = Client::begin(forwarded).unwrap().0.log_in("PLAIN", GUEST);
    assert!(refused.is_err(), "guest is for this machine");
}

#[test]
fn it_is_off_when_it_is_said_so_and_for_who_does_not_ask_for_it() {
    let (_authority, files) = server();
    let status = |broker: &Broker| {
        let mut stream = connect(broker);
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status(&broker(&files, &[])), "400");
    // Nobody is asked for a certificate there.
    let strict = broker(&files, &[("TLS_CLIENT_CA", &files.path("ca.pem")), ("TLS_VERIFY", "required")]);
    assert_eq!(status(&strict), "404");
    drop(strict);
    let off = broker(&files, &[("WEBSOCKET", "false")]);
    assert_eq!(status(&off), "404");
    assert_eq!(begin(connect(&off), &[]).err(), Some(404));
}

#[test]
fn pings_are_answered_and_text_is_not_understood() {
    let (_authority, files) = server();
    let broker = broker(&files, &[]);
    let mut web = begin(connect(&broker), &[]).unwrap().0;
    web.socket.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
    assert_eq!(web.socket.read().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
    web.socket.send(Message::text("AMQP")).unwrap();
    web.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(web.farewell, Some(CloseCode::Unsupported));
}

#[test]
fn leave_is_taken_as_web_sockets_do() {
    let (_authority, files) = server();
    let broker = broker(&files, &[]);
    let mut refused = begin(connect(&broker), &[]).unwrap().0;
    refused.write_all(b"HTTP/1.1").unwrap();
    let mut told = Vec::new();
    refused.read_to_end(&mut told).unwrap();
    assert_eq!((&told[..], refused.farewell), (&b"AMQP\0\0\x09\x01"[..], Some(CloseCode::Normal)));

    let mut client = Client::begin(begin(connect(&broker), &[]).unwrap().0).unwrap().0;
    client = client.log_in("PLAIN", GUEST).unwrap();
    client.stream.socket.close(None).unwrap();
    client.stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(client.stream.farewell, Some(CloseCode::Normal));
}

#[test]
fn they_are_counted_as_connections_and_take_no_place_of_the_api() {
    const MORE_THAN_THE_API_HAS: usize = 300;
    let (_authority, files) = server();
    let most = (MORE_THAN_THE_API_HAS + 1).to_string();
    let broker = broker(&files, &[("LIMITS_HEADER_TIMEOUT_MS", "600s"), ("LIMITS_CONNECTIONS_MAX", &most)]);
    let mut strangers: Vec<_> =
        (0..MORE_THAN_THE_API_HAS).map(|_| begin(connect(&broker), &[]).unwrap().0).collect();
    let mut client = Client::begin(begin(connect(&broker), &[]).unwrap().0).unwrap().0;
    client = client.log_in("PLAIN", GUEST).unwrap();
    client.ask().unwrap();
    assert_eq!(begin(connect(&broker), &[]).err(), Some(503));
    // None of them was sent away for it.
    for stranger in &mut strangers {
        stranger.socket.send(Message::Ping(Bytes::new())).unwrap();
        assert_eq!(stranger.socket.read().unwrap(), Message::Pong(Bytes::new()));
    }
}

#[test]
fn a_stranger_has_no_more_time_by_this_way() {
    let (_authority, files) = server();
    let broker = broker(&files, &[("LIMITS_HEADER_TIMEOUT_MS", "300ms")]);
    let mut silent = begin(connect(&broker), &[]).unwrap().0;
    silent.write_all(b"AMQP").unwrap();
    silent.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(silent.farewell, Some(CloseCode::Normal));
}
