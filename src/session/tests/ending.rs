//! How connections end: each phase after an open connection has a limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::slim::start;
use super::{Broker, Client, broker, consume, declare, declare_durable, publish};
use crate::clock::Now;
use crate::protocol::frame::{self, PROTOCOL_HEADER};
use crate::protocol::methods::{ConnectionClose, ConnectionCloseOk, Method};
use crate::session::Session;

const CLOSE: Method<'_> =
    Method::ConnectionClose(ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });

fn close_timeout(broker: &Broker) -> Duration {
    Duration::from_millis(broker.config.limits.close_timeout_ms)
}

/// A client that says this and reads nothing from now on.
fn say_and_hang(client: &mut Client, method: &Method<'_>) {
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 0, method);
    client.session.on_bytes(&mut bytes, client.now);
}

/// The session is given up at its limit, and not before.
fn check_limit(broker: &Broker, session: &mut Session, now: Now) {
    let limit = close_timeout(broker);
    assert_eq!(session.deadline(), Some(now.instant + limit));
    session.on_timeout(now.later(limit - Duration::from_millis(1)));
    assert!(!session.is_closed() || !session.output().is_empty());
    session.on_timeout(now.later(limit));
    assert!(session.is_closed() && session.output().is_empty());
}

#[test]
fn a_client_that_does_not_read_after_its_close_is_given_up() {
    let broker = broker();
    let (mut publisher, mut client) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    consume(&mut client, "q");
    publisher.feed(publish(b"q", &[7; 100_000]));
    client.session.on_wake(client.now);
    say_and_hang(&mut client, &CLOSE);
    check_limit(&broker, &mut client.session, client.now);
}

#[test]
fn a_client_that_does_not_read_why_it_is_closed_is_given_up() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    say_and_hang(&mut client, &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    check_limit(&broker, &mut client.session, client.now);

    let mut client = Client::log_in(&broker, 0);
    say_and_hang(&mut client, &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    say_and_hang(&mut client, &CLOSE);
    say_and_hang(&mut client, &Method::ConnectionCloseOk(ConnectionCloseOk {}));
    check_limit(&broker, &mut client.session, client.now);
}

#[test]
fn who_speaks_another_protocol_and_does_not_read_is_given_up() {
    let broker = broker();
    let now = Now::read();
    let mut session = Session::new(Arc::clone(&broker), now);
    session.on_bytes(&mut BytesMut::from(&b"GET / HTTP/1.1"[..]), now);
    assert_eq!(session.output().len(), PROTOCOL_HEADER.len());
    check_limit(&broker, &mut session, now);
}

#[test]
fn a_close_waits_for_a_log_that_is_never_durable_no_longer_than_for_a_client() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    broker.node.log.hold();
    client.say(1, &declare("q"));
    say_and_hang(&mut client, &CLOSE);
    assert!(!client.session.awaits_end());
    check_limit(&broker, &mut client.session, client.now);
    broker.node.log.release();
}

#[test]
fn the_client_ends_the_connection_that_it_has_closed() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    client.say(0, &CLOSE);
    assert_eq!(client.told(), ["connection.close-ok"]);
    assert!(client.session.awaits_end() && !client.session.is_closed() && client.session.wants_input());
    client.feed(BytesMut::from(&[7; 1000][..]));
    assert!(client.input.is_empty() && client.told().is_empty(), "what comes is of no interest");
    client.session.on_end(Now::read());
    assert!(client.session.is_closed());

    let mut client = Client::log_in(&broker, 0);
    client.say(0, &CLOSE);
    check_limit(&broker, &mut client.session, client.now);
}

#[test]
fn a_client_that_has_shut_its_side_behind_its_close_is_answered() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    broker.node.log.hold();
    client.say(1, &declare("q"));
    client.say(0, &CLOSE);
    client.session.on_end(Now::read());
    assert!(!client.session.is_closed() && !client.session.wants_input());
    broker.node.log.release();
    assert!(client.has_work());
    client.wake();
    assert_eq!(client.told(), ["queue.declare-ok", "connection.close-ok"]);
    assert!(client.session.is_closed());
}

#[test]
fn a_broker_that_stops_does_not_wait_for_clients_that_have_left() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    client.say(0, &CLOSE);
    client.session.on_shutdown(client.now);
    assert!(client.session.is_closed());
}

#[test]
fn what_was_on_its_way_to_a_client_that_is_gone_comes_back_as_redelivered() {
    let broker = broker();
    let (mut publisher, mut gone) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "q");
    consume(&mut gone, "q");
    for _ in 0..2 {
        publisher.publish_persistent(b"q");
    }
    assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().counts().0, 0, "both are on their way");
    drop(gone);
    let mut other = Client::log_in(&broker, 0);
    start(&mut other);
    other.wake();
    assert_eq!((other.bodies.len(), other.redelivered), (2, 2), "it may have seen what is behind them");
}

#[test]
fn a_client_that_closes_again_and_again_is_answered_once() {
    let broker = broker();
    let now = Now::read();
    let mut session = Session::new(broker, now);
    session.on_bytes(&mut BytesMut::from(&PROTOCOL_HEADER[..]), now);
    let mut too_early = BytesMut::new();
    frame::put_method(&mut too_early, 1, &CLOSE);
    session.on_bytes(&mut too_early, now);
    let said = session.output().len();
    for _ in 0..1000 {
        let mut close = BytesMut::new();
        frame::put_method(&mut close, 0, &CLOSE);
        session.on_bytes(&mut close, now);
    }
    let answer = super::super::end::close_ok().len();
    assert_eq!(session.output().len(), said + answer);
}
