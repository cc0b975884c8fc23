//! Clients that are not yet in: the handshake, and what must not get through it.

use std::time::{Duration, Instant};

use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::PROTOCOL_HEADER;
use sluicemq::protocol::methods::{
    ChannelOpen, ConnectionCloseOk, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::harness::broker::{OwnBroker, address, impatient, is_ours, only_here};
use crate::harness::client::{Client, assert_usable, expect_connection_close};
use crate::harness::content::content_frames;
use crate::harness::login::{Login, started};
use crate::harness::methods::publish;
use crate::harness::wire::{Wire, method_frame, raw_frame};

const HEADER_TIMEOUT: Duration = Duration::from_millis(200);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(400);
const START_OK: (u16, u16) = (10, 11);
const REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the \
                       broker logfile.";

fn connect_with_patience() -> Wire {
    let wire = Wire::connect(impatient());
    wire.set_deadline(Duration::from_secs(20));
    wire
}

/// Whom it does not know RabbitMQ sends away after three seconds without a word; we say why.
fn expect_end(wire: &mut Wire, method: (u16, u16), code: u16, text: &str) {
    if is_ours() {
        expect_connection_close(wire, method, code, text);
    } else {
        wire.expect_tcp_close();
        assert_usable(wire.address);
    }
}

fn start_ok_frame(properties: Table<'_>, mechanism: &str, response: &[u8]) -> Vec<u8> {
    let start_ok = ConnectionStartOk { client_properties: properties, mechanism, response, locale: "en_US" };
    method_frame(0, &Method::ConnectionStartOk(start_ok))
}

#[test]
fn silence_ends_at_the_header_timeout() {
    let mut wire = connect_with_patience();
    let connected = Instant::now();
    wire.expect_tcp_close();
    assert!(connected.elapsed() >= HEADER_TIMEOUT);
    assert_usable(wire.address);
}

#[test]
fn a_trickle_of_header_ends_at_the_header_timeout() {
    let mut wire = connect_with_patience();
    let connected = Instant::now();
    for octet in PROTOCOL_HEADER.iter().take(7) {
        wire.send_to_the_dying(&[*octet]);
        if !wire.is_silent_for(Duration::from_millis(50)) {
            break;
        }
    }
    wire.set_deadline(Duration::from_secs(20));
    wire.expect_tcp_close();
    assert!(connected.elapsed() >= HEADER_TIMEOUT);
}

#[test]
fn a_handshake_that_stops_ends_at_its_timeout() {
    let mut wire = started(impatient());
    wire.set_deadline(Duration::from_secs(20));
    let started = Instant::now();
    wire.expect_tcp_close();
    assert!(started.elapsed() >= HANDSHAKE_TIMEOUT / 2);
    assert_usable(wire.address);
}

/// Sends first bytes and expects our header, and the end.
fn check_other_protocol(first: &[u8]) {
    let mut wire = Wire::connect(address());
    wire.send_bytes(first);
    assert_eq!(wire.bytes(8), PROTOCOL_HEADER);
    wire.expect_tcp_close();
    assert_usable(wire.address);
}

#[test]
fn http_is_answered_with_our_header() {
    check_other_protocol(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

#[test]
fn another_version_is_answered_with_our_header() {
    check_other_protocol(b"AMQP\x00\x01\x00\x00");
    check_other_protocol(b"AMQP\x01\x01\x00\x0a");
    check_other_protocol(b"AMQP\x00\x00\x09\x02");
}

#[test]
fn the_spellings_of_0_9_and_0_8_are_accepted() {
    for header in [b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x08\x00", b"AMQP\x01\x01\x09\x01"] {
        let mut wire = Wire::connect(address());
        wire.send_bytes(header);
        let frame = wire.frame();
        assert!(matches!(frame.method(), Method::ConnectionStart(_)), "{frame:?}");
    }
}

#[test]
fn connection_start_says_who_is_there_and_what_it_can() {
    let mut wire = Wire::connect(address());
    wire.send_bytes(&PROTOCOL_HEADER);
    let frame = wire.frame();
    let Method::ConnectionStart(start) = frame.method() else { panic!("{frame:?}") };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(start.locales, b"en_US");
    let mut mechanisms: Vec<_> = start.mechanisms.split(|octet| *octet == b' ').collect();
    mechanisms.sort();
    assert_eq!(mechanisms, [b"AMQPLAIN".as_slice(), b"PLAIN"]);
    let properties = start.server_properties;
    assert_eq!(properties.get("product"), Some(Field::LongStr(b"RabbitMQ")));
    for name in ["version", "platform", "copyright", "information", "cluster_name"] {
        assert!(matches!(properties.get(name), Some(Field::LongStr(_))), "{name}");
    }
    let Some(Field::Table(capabilities)) = properties.get("capabilities") else { panic!("no capabilities") };
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.get(name), Some(Field::Bool(true)), "{name}");
    }
}

#[test]
fn idle_sockets_end_and_keep_nobody_out() {
    if !only_here("RabbitMQ takes ten seconds to close them") {
        return;
    }
    let mut working = Client::at(impatient());
    let mut idle: Vec<Wire> = (0..300).map(|_| Wire::connect(impatient())).collect();
    working.barrier();
    assert_usable(impatient());
    for wire in &mut idle {
        wire.expect_tcp_close();
    }
    working.barrier();
}

#[test]
fn a_limit_on_connections_turns_the_next_one_away_and_gives_places_back() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.connections_max = 2);
    let (first, _second) = (Client::at(own.address), Client::at(own.address));
    Wire::connect(own.address).expect_tcp_close();
    first.close();
    // The place is free when the socket is gone, which a client cannot see: it comes again until it is let in.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut wire = Wire::connect(own.address);
        wire.send_to_the_dying(&PROTOCOL_HEADER);
        if wire.next_frame().is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "the place was not given back");
    }
}

#[test]
fn a_pool_bounds_those_who_are_not_in_and_nobody_else() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.unauthenticated_bytes_max = 65_536);
    let clients: Vec<Client> = (0..12).map(|_| Client::at(own.address)).collect();
    assert_eq!(clients.len(), 12, "who is in does not count");
    let idle: Vec<Wire> = (0..8).map(|_| started(own.address)).collect();
    Wire::connect(own.address).expect_tcp_close();
    drop(idle);
}

#[test]
fn a_huge_length_ends_the_connection_at_once() {
    let mut wire = started(impatient());
    wire.send_bytes(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let text = "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4294967295,4088}";
    expect_end(&mut wire, (0, 0), 501, text);
}

#[test]
fn a_start_ok_over_4096_is_501() {
    let mut wire = started(impatient());
    wire.send_bytes(&raw_frame(1, 0, &[0; 4097]));
    let text = "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}";
    expect_end(&mut wire, (0, 0), 501, text);
}

#[test]
fn nested_tables_end_at_depth_16() {
    let nested = |levels| {
        (0..levels).fold(TableBuf::new(), |inner, _| {
            let mut outer = TableBuf::new();
            outer.insert("", Field::Table(inner.as_table()));
            outer
        })
    };
    if !only_here("RabbitMQ has no bound on depth") {
        return;
    }
    for levels in [17, 600] {
        let mut wire = started(impatient());
        wire.send_bytes(&start_ok_frame(nested(levels).as_table(), "PLAIN", b"\0guest\0guest"));
        let text = "SYNTAX_ERROR - field table nested deeper than 16 levels";
        expect_connection_close(&mut wire, START_OK, 502, text);
    }
    let mut wire = started(impatient());
    wire.send_bytes(&start_ok_frame(nested(16).as_table(), "PLAIN", b"\0guest\0guest"));
    assert!(matches!(wire.frame().method(), Method::ConnectionTune(_)));
}

#[test]
fn a_table_ends_with_its_frame() {
    if !only_here("RabbitMQ has no bound on entries") {
        return;
    }
    let mut table = TableBuf::new();
    for _ in 0..100_000 {
        table.insert("", Field::Void);
    }
    let mut wire = started(impatient());
    wire.send_to_the_dying(&start_ok_frame(table.as_table(), "PLAIN", b"\0guest\0guest"));
    let frame = wire.frame();
    let Method::ConnectionClose(close) = frame.method() else { panic!("{frame:?}") };
    assert_eq!(close.reply_code, 501, "the frame is too large to be looked at");
}

#[test]
fn an_unknown_mechanism_ends_without_a_word() {
    let mut wire = started(impatient());
    wire.send_bytes(&start_ok_frame(Table::EMPTY, "SCRAM", b"x"));
    wire.expect_tcp_close();
    assert_usable(wire.address);
}

#[test]
fn a_malformed_plain_response_is_502_and_an_empty_user_403() {
    for response in [b"guest".as_slice(), b"", b"\0guest", b"guest\0guest", b"\0guest\0gu\0est"] {
        let mut wire = started(impatient());
        Login::default().start_ok(&mut wire, "PLAIN", response);
        expect_end(&mut wire, START_OK, 502, "SYNTAX_ERROR - response <<...>> invalid");
    }
    for response in [b"\0\0".as_slice(), b"\0\0guest", b"\0guest\0"] {
        let mut wire = started(impatient());
        Login::default().start_ok(&mut wire, "PLAIN", response);
        expect_connection_close(&mut wire, (0, 0), 403, REFUSED);
    }
}

#[test]
fn amqplain_is_a_way_in() {
    let response = |password: &[u8]| {
        let mut table = TableBuf::new();
        table.insert("LOGIN", Field::LongStr(b"guest")).insert("PASSWORD", Field::LongStr(password));
        table.into_bytes()
    };
    let mut wire = started(impatient());
    Login::default().start_ok(&mut wire, "AMQPLAIN", &response(b"guest"));
    assert!(matches!(wire.frame().method(), Method::ConnectionTune(_)));

    let mut wire = started(impatient());
    Login::default().start_ok(&mut wire, "AMQPLAIN", &response(b"wrong"));
    expect_connection_close(&mut wire, (0, 0), 403, &REFUSED.replace("PLAIN", "AMQPLAIN"));
}

#[test]
fn a_user_name_of_a_megabyte_does_not_fit() {
    let mut wire = started(impatient());
    let response = [b"\0".as_slice(), &[b'u'; 1024 * 1024], b"\0p"].concat();
    wire.send_to_the_dying(&start_ok_frame(Table::EMPTY, "PLAIN", &response));
    let text = "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,1048603,4088}";
    let closed = wire.next_frame();
    if let (true, Some(frame)) = (is_ours(), &closed) {
        let Method::ConnectionClose(close) = frame.method() else { panic!("{frame:?}") };
        assert_eq!((close.reply_code, close.reply_text), (501, text));
    }
    wire.send_to_the_dying(&method_frame(0, &Method::ConnectionCloseOk(ConnectionCloseOk {})));
    wire.expect_tcp_close();
    assert_usable(wire.address);
}

#[test]
fn a_user_name_with_escapes_is_just_unknown() {
    let mut wire = started(impatient());
    Login::default().start_ok(&mut wire, "PLAIN", b"\0\x1b[31mroot\r\nx\0secret");
    expect_connection_close(&mut wire, (0, 0), 403, REFUSED);
}

#[test]
fn a_failed_login_ends_without_a_word_for_a_client_that_cannot_take_one() {
    let mut wire = started(impatient());
    let login = Login { capabilities: &[], ..Login::default() };
    let asked = Instant::now();
    login.start_ok(&mut wire, "PLAIN", b"\0guest\0wrong");
    wire.expect_tcp_close();
    assert!(asked.elapsed() >= Duration::from_millis(100), "not at once");
}

#[test]
fn a_guesser_keeps_nobody_out() {
    // Loopback is exempt from the growing waits; they are tested beside `auth::backoff`.
    let mut guesses: Vec<Wire> = (0..50).map(|_| started(address())).collect();
    for wire in &mut guesses {
        Login::default().start_ok(wire, "PLAIN", b"\0guest\0wrong");
    }
    assert_usable(address());
    for wire in &mut guesses {
        expect_connection_close(wire, (0, 0), 403, REFUSED);
    }
}

#[test]
fn an_unknown_user_is_answered_like_a_wrong_password() {
    // That both take as long is the work of `auth::sasl::authenticate`, which hashes for users it does not know.
    for response in [&b"\0guest\0wrong"[..], b"\0nobody\0wrong"] {
        let mut wire = started(impatient());
        Login::default().start_ok(&mut wire, "PLAIN", response);
        expect_connection_close(&mut wire, (0, 0), 403, REFUSED);
    }
}

/// Answers tune with this and expects 530.
fn check_tune(tune: ConnectionTuneOk, text: &str) {
    let mut wire = Login { tune, ..Login::default() }.tuned();
    expect_end(&mut wire, (10, 31), 530, text);
}

#[test]
fn a_frame_max_out_of_bounds_is_530() {
    let tune = |frame_max| ConnectionTuneOk { channel_max: 2047, frame_max, heartbeat: 0 };
    for (frame_max, text) in [
        (1, "NOT_ALLOWED - negotiated frame_max = 1 is lower than the minimum allowed value (4096)"),
        (4095, "NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"),
        (
            131_073,
            "NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            u32::MAX,
            "NOT_ALLOWED - negotiated frame_max = 4294967295 is higher than the maximum allowed value (131072)",
        ),
        (
            0,
            "NOT_ALLOWED - negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
        ),
    ] {
        check_tune(tune(frame_max), text);
    }
    Login { tune: tune(4096), ..Login::default() }.connect().barrier();
}

#[test]
fn a_channel_max_out_of_bounds_is_530_and_any_heartbeat_is_taken() {
    let tune = |channel_max, heartbeat| ConnectionTuneOk { channel_max, frame_max: 131_072, heartbeat };
    check_tune(
        tune(65_535, 0),
        "NOT_ALLOWED - negotiated channel_max = 65535 is higher than the maximum allowed value (2047)",
    );
    check_tune(
        tune(0, 0),
        "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
    );
    Login { tune: tune(2047, 65_535), ..Login::default() }.connect().barrier();
}

#[test]
fn no_channel_before_the_connection_is_open() {
    let mut wire = Login::default().tuned();
    wire.send(1, &Method::ChannelOpen(ChannelOpen {}));
    let text = "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>";
    expect_connection_close(&mut wire, (0, 0), 505, text);
}

#[test]
fn a_publish_on_channel_0_is_504() {
    let mut client = Client::open();
    client.wire.send(0, &Method::BasicPublish(publish("", "k")));
    client.wire.send_to_the_dying(&content_frames(0, &[0, 0], b"x"));
    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    client.expect_connection_close((60, 40), 504, text);
}

#[test]
fn a_second_start_ok_or_open_is_504() {
    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    let mut client = Client::open();
    client.wire.send_bytes(&start_ok_frame(Table::EMPTY, "PLAIN", b"\0guest\0guest"));
    client.expect_connection_close(START_OK, 504, text);

    let mut client = Client::open();
    client.wire.send(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
    client.expect_connection_close((10, 40), 504, text);
}

#[test]
fn a_vhost_that_is_missing_or_closed_to_the_user_is_530() {
    let mut wire = Login::default().tuned();
    wire.send(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "no-such" }));
    expect_connection_close(&mut wire, (10, 40), 530, "NOT_ALLOWED - vhost no-such not found");

    if !only_here("the user without a vhost is this broker's configuration") {
        return;
    }
    let login = Login { address: impatient(), user: "nowhere", password: "secret", ..Login::default() };
    let mut wire = login.tuned();
    wire.send(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'nowhere'";
    expect_connection_close(&mut wire, (10, 40), 530, text);
}

#[test]
fn heartbeats_are_no_way_to_stay() {
    let mut wire = started(impatient());
    wire.set_deadline(Duration::from_secs(20));
    let beats = raw_frame(8, 0, &[]).repeat(1000);
    wire.send_until_refused(&beats, 5 * 1024 * 1024);
    // Whether it is told why depends on how much it sent: the end is what counts.
    wire.drain_to_close();
    assert_usable(wire.address);
}
