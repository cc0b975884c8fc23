//! What a stranger may send, and what is answered to nonsense: always a 4xx, and soon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::node::Node;

/// Sends this and returns the status of what comes back.
fn status(node: &Node, request: &[u8]) -> u16 {
    status_within(node, request, Duration::from_secs(20))
}

fn status_within(node: &Node, request: &[u8], patience: Duration) -> u16 {
    let mut stream = TcpStream::connect(node.http).expect("a connection");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    // The answer may come, and the socket be shut, before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {text:?}"))
}

fn request(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n{headers}\r\n")
        .into_bytes()
}

#[test]
fn heads_and_bodies_are_bounded() {
    let node = Node::start();
    let long = format!("x-long: {}\r\n", "a".repeat(20_000));
    let many: String = (0..150).map(|number| format!("x-{number}: 1\r\n")).collect();
    assert_eq!(status(&node, &request("GET /api/overview", &long)), 431);
    assert_eq!(status(&node, &request("GET /api/overview", &many)), 431);
    let mut large = request("POST /api/rebalance/queues", "content-length: 2000000\r\n");
    large.resize(large.len() + 2_000_000, b'x');
    assert_eq!(status(&node, &large), 413);
    let mut endless = request("POST /api/rebalance/queues", "transfer-encoding: chunked\r\n");
    for _ in 0..40 {
        endless.extend_from_slice(b"10000\r\n");
        endless.resize(endless.len() + 0x10000, b'x');
        endless.extend_from_slice(b"\r\n");
    }
    assert_eq!(status(&node, &endless), 413);
    assert_eq!(status(&node, &request("POST /api/rebalance/queues", "content-length: 0\r\n")), 204);
}

#[test]
fn a_large_body_of_somebody_who_may_not_ask_is_not_read() {
    let node = Node::start();
    let head = "POST /api/rebalance/queues HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    assert_eq!(status(&node, head.as_bytes()), 401);
}

/// Begins a request whose body is awaited.
fn half_sent(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.http).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let head = request("POST /api/rebalance/queues", "content-length: 1\r\nexpect: 100-continue\r\n");
    stream.write_all(&head).expect("it goes out");
    let mut awaited = [0; 25];
    stream.read_exact(&mut awaited).expect("an answer");
    assert_eq!(&awaited, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[test]
fn one_user_has_half_of_the_requests_at_most_and_others_are_answered() {
    let node = Node::start();
    let other = json!({"password": "secret", "tags": "management"});
    assert_eq!(node.change("PUT", "/api/users/other", &other).0, 201);
    let mut half_sent: Vec<_> = (0..128).map(|_| half_sent(&node)).collect();
    assert_eq!(status(&node, &request("GET /api/overview", "")), 429);
    assert_eq!(node.ask_at(node.http, "GET", "/api/overview", Some("other:secret"), &[]).status, 200);
    let mut one = half_sent.pop().expect("one of them");
    one.write_all(b"x").expect("it goes out");
    let mut answer = [0; 12];
    one.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 204");
    assert_eq!(status(&node, &request("GET /api/overview", "")), 200);
}

#[test]
fn who_keeps_a_connection_for_nothing_gives_way_to_who_wants_to_ask() {
    let node = Node::start();
    let kept: Vec<_> = (0..256)
        .map(|number| {
            let mut stream = TcpStream::connect(node.http).expect("a connection");
            let head = request("GET /api/whoami", "");
            // Every other one has only begun.
            let sent = if number % 2 == 0 { &head[..] } else { &head[..20] };
            stream.write_all(sent).expect("it goes out");
            stream
        })
        .collect();
    // They would have ten seconds, again and again.
    let patience = Duration::from_secs(9);
    assert_eq!(status_within(&node, &request("GET /api/whoami", ""), patience), 200);
    drop(kept);
}

#[test]
fn nonsense_is_told_so() {
    let node = Node::start();
    for (path, expected) in [
        ("/api/queues?page=0", 400),
        ("/api/queues?page=1&page_size=501", 400),
        ("/api/queues?page=1&page_size=1000000000", 400),
        ("/api/queues?page=99999999999999999999", 400),
        ("/api/queues?page=9", 400),
        ("/api/queues?page=1&name=(&use_regex=true", 400),
        ("/api/queues?page=1&name=(a+)+$&use_regex=true", 200),
        ("/api/queues?page=1&name=a{1000}{1000}{1000}&use_regex=true", 400),
        ("/api/queues/%252F", 404),
        ("/api/queues/%2F/..%2f..%2fetc%2fpasswd", 404),
        ("/api/queues/%2e%2e/%2e%2e", 404),
        ("/api/queues/%ff%fe", 404),
        ("/api/queues?name=%ff%fe", 200),
        ("/api/health/checks/port-listener/abc", 400),
        ("/api/health/checks/certificate-expiration/1/fortnights", 400),
        ("/api/nope", 404),
        ("/", 404),
        ("/api/connections/none", 404),
        ("/api/channels/none", 404),
        ("/api/nodes/rabbit@elsewhere", 404),
        ("/api/queues/nope", 404),
        ("/api/queues/%2F/none", 404),
        ("/api/exchanges/%2F/none/bindings/source", 200),
        ("/api/bindings/%2F/e/amq.topic/q/none", 200),
    ] {
        assert_eq!(status(&node, &request(&format!("GET {path}"), "")), expected, "{path}");
    }
    for credentials in ["Basic", "Basic !!!", "Bearer x", "Basic Z3Vlc3Q=", "Basic /////w=="] {
        let head = format!("GET /api/whoami HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n\r\n");
        assert_eq!(status(&node, head.as_bytes()), 401, "{credentials}");
    }
    assert_eq!(status(&node, &request("PATCH /api/overview", "")), 405);
}
