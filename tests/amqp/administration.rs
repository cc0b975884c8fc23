//! What administrators say, as those see it who are connected: permissions, limits and policies that change under a live
//! connection. Administrators speak to this broker directly here, so that RabbitMQ is not asked.

use std::collections::HashSet;

use sluicemq::auth::PasswordHash;
use sluicemq::broker::admin::{AdminError, PasswordChange, PolicyRequest, Undertaking, VhostRequest};
use sluicemq::broker::policy::Author;
use sluicemq::broker::wakes::Wakes;
use sluicemq::clock::Now;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicGet, ChannelOpen, ConnectionOpen, Method, QueueDeclare, TxCommit, TxSelect, TxSelectOk,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::dead_letters::story;
use crate::harness::broker::OwnBroker;
use crate::harness::client::Client;
use crate::harness::content::properties;
use crate::harness::login::Login;
use crate::harness::methods::{exchange_declare, publish, queue_bind, queue_declare, queue_unbind};
use crate::rules::table;

/// Does all of it, as whoever began it does.
fn finish(own: &OwnBroker, begun: Result<Undertaking, AdminError>) {
    let mut undertaking = begun.unwrap();
    loop {
        let mut wakes = Wakes::default();
        wakes.begin_turn(Now::read().steady_ms);
        let is_done = undertaking.step(&own.broker, &mut wakes);
        wakes.fire();
        if is_done {
            return;
        }
    }
}

fn set_policy(own: &OwnBroker, pattern: &str, entries: &[(&str, Field<'_>)]) {
    let definition = table(entries);
    let definition = Table::unchecked(&definition);
    let request = PolicyRequest { name: "p", pattern, apply_to: "all", priority: 0, definition };
    finish(own, own.broker.set_policy(Author::User, "/", &request));
}

fn clear_policy(own: &OwnBroker) {
    finish(own, own.broker.clear_policy(Author::User, "/", "p"));
}

/// A broker with a user `alice` who may do everything in `/`.
fn with_alice() -> (OwnBroker, Client) {
    let own = OwnBroker::start(|_| {});
    let password = PasswordChange::Set(PasswordHash::hash(b"secret").unwrap());
    finish(&own, own.broker.put_user("alice", &password, &[]));
    finish(&own, own.broker.set_permissions("alice", "/", [".*"; 3]));
    let client = login(&own).connect();
    (own, client)
}

fn login(own: &OwnBroker) -> Login<'static> {
    Login { address: own.address, user: "alice", password: "secret", ..Login::default() }
}

fn refused(access: &str, what: &str) -> String {
    format!("ACCESS_REFUSED - {access} access to {what} in vhost '/' refused for user 'alice'")
}

#[test]
fn permissions_that_go_are_missed_by_the_next_method() {
    let (own, mut client) = with_alice();
    client.declare(queue_declare("q"));
    client.put("q", "before");
    assert_eq!(client.take("q").text(), "before");
    finish(&own, own.broker.set_permissions("alice", "/", [".*", "^other", ".*"]));
    // The route is cached.
    client.publish("", "q", "after");
    client.expect_channel_close((60, 40), 403, &refused("write", "exchange 'amq.default'"));
    client.open_channel(2).on(2);
    finish(&own, own.broker.delete_user("alice"));
    let get = Method::BasicGet(BasicGet { queue: "q", no_ack: true });
    client.check_channel_close(&get, 403, &refused("read", "queue 'q'"));
}

#[test]
fn who_may_no_longer_speak_for_others_does_not() {
    let (own, mut client) = with_alice();
    client.declare(queue_declare("q"));
    let tag = |tags: &[&str]| {
        let tags: Vec<_> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        finish(&own, own.broker.put_user("alice", &PasswordChange::Keep, &tags));
    };
    let for_bob = properties(|properties| _ = properties.user_id("bob"));
    tag(&["impersonator"]);
    for body in ["1", "2"] {
        client.publish_as(publish("", "q"), &for_bob, body.as_bytes());
        assert_eq!(client.take("q").text(), body);
    }
    tag(&[]);
    client.publish_as(publish("", "q"), &for_bob, b"3");
    let text = "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'alice'";
    client.expect_channel_close((60, 40), 406, text);
}

#[test]
fn a_topic_exchange_takes_the_keys_that_the_user_may_use() {
    let (own, mut client) = with_alice();
    finish(&own, own.broker.set_topic_permissions("alice", "/", "amq.topic", ["^{username}\\.", "^news\\."]));
    client.declare(queue_declare("q"));
    client.bind("q", "amq.topic", "news.#");
    client.publish("amq.topic", "alice.x", "mine");
    client.publish("amq.direct", "bob.x", "no topic");
    client.publish("amq.topic", "bob.x", "not mine");
    let topic = |access, key| {
        let what = format!("topic '{key}' in exchange 'amq.topic'");
        refused(access, &what)
    };
    client.expect_channel_close((60, 40), 403, &topic("write", "bob.x"));
    for (channel, unbinds) in [(2, false), (3, true)] {
        client.open_channel(channel).on(channel);
        let method = match unbinds {
            false => Method::QueueBind(queue_bind("q", "amq.topic", "olds.#")),
            true => Method::QueueUnbind(queue_unbind("q", "amq.topic", "olds.#")),
        };
        client.check_channel_close(&method, 403, &topic("read", "olds.#"));
    }
}

#[test]
fn limits_of_users_and_virtual_hosts_are_530_and_406() {
    let (own, mut client) = with_alice();
    let mut channels = TableBuf::new();
    channels.insert("max-channels", Field::I64(1)).insert("max-connections", Field::I64(2));
    finish(&own, own.broker.set_user_limits("alice", channels.as_table()));
    let refusal = |methods: &[(u16, Method<'_>)]| {
        let mut wire = login(&own).tuned();
        methods.iter().for_each(|(channel, method)| wire.send(*channel, method));
        loop {
            let frame = wire.frame();
            if let Method::ConnectionClose(close) = frame.method() {
                return (close.reply_code, close.reply_text.to_owned());
            }
        }
    };
    let open = (0, Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
    let text = "NOT_ALLOWED - number of channels opened for user 'alice' has reached the maximum allowed user limit of (1)";
    assert_eq!(refusal(&[open, (1, Method::ChannelOpen(ChannelOpen {}))]), (530, text.to_owned()));
    let mut limits = TableBuf::new();
    limits.insert("max-connections", Field::I64(1)).insert("max-queues", Field::I64(1));
    finish(&own, own.broker.set_vhost_limits("/", limits.as_table()));
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'alice': connection limit (1) is reached";
    assert_eq!(refusal(std::slice::from_ref(&open)), (530, text.to_owned()));
    client.declare(queue_declare("one"));
    let text = "PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost '/' (1) is reached";
    client.check_channel_close(&Method::QueueDeclare(queue_declare("two")), 406, text);
    finish(&own, own.broker.clear_vhost_limits("/"));
    let mut limits = TableBuf::new();
    limits.insert("max-connections", Field::I64(1));
    finish(&own, own.broker.set_user_limits("alice", limits.as_table()));
    let text = "NOT_ALLOWED - Connection refused for user 'alice': user connection limit (1) is reached";
    assert_eq!(refusal(&[open]), (530, text.to_owned()));
}

#[test]
fn a_policy_acts_on_what_waits_already() {
    let own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    client.declare(queue_declare("dead"));
    client.declare(queue_declare("q"));
    client.fill("q", &["1", "2", "3"]);
    let to_dead =
        [("dead-letter-exchange", Field::LongStr(b"")), ("dead-letter-routing-key", Field::LongStr(b"dead"))];
    set_policy(&own, "^q$", &[("max-length", Field::I64(2)), to_dead[0], to_dead[1]]);
    client.consume("dead");
    let first = client.delivery();
    assert_eq!((first.text(), story(first.properties().headers().unwrap())), ("1", vec![("q", "maxlen", 1)]));
    set_policy(&own, "^q$", &[("message-ttl", Field::I64(1)), to_dead[0], to_dead[1]]);
    assert_eq!(client.bodies(2), ["2", "3"]);
    set_policy(
        &own,
        "^q$",
        &[("max-length", Field::I64(1)), ("overflow", Field::LongStr(b"reject-publish"))],
    );
    client.select_confirms();
    client.publish("", "q", "4");
    client.expect_confirm(1);
    client.publish("", "q", "5");
    let nacked = client.next_method();
    assert!(matches!(nacked.method(), Method::BasicNack(nack) if nack.delivery_tag == 2), "{nacked:?}");
    clear_policy(&own);
    client.publish("", "q", "6");
    client.expect_confirm(3);
    assert_eq!(client.take_all("q"), ["4", "6"]);
}

#[test]
fn a_transaction_keeps_the_limit_that_a_policy_has_set_meanwhile() {
    let own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    client.declare(queue_declare("q"));
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    for body in ["1", "2", "3", "4"] {
        client.publish("", "q", body);
    }
    client.barrier();
    let refuses = [("max-length", Field::I64(3)), ("overflow", Field::LongStr(b"reject-publish"))];
    set_policy(&own, "^q$", &refuses);
    client.check_channel_close(
        &Method::TxCommit(TxCommit {}),
        406,
        "PRECONDITION_FAILED - partial tx completion",
    );
    client.open_channel(2);
    assert_eq!(client.on(2).take_all("q"), ["1", "2", "3"]);
}

#[test]
fn a_policy_gives_exchanges_their_alternate() {
    let own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    client.declare(queue_declare("lost"));
    client.declare_exchange(exchange_declare("x", "direct"));
    client.bind("lost", "amq.fanout", "");
    client.publish("x", "nowhere", "1");
    client.barrier();
    set_policy(&own, "^x$", &[("alternate-exchange", Field::LongStr(b"amq.fanout"))]);
    client.publish("x", "nowhere", "2");
    client.barrier();
    clear_policy(&own);
    client.publish("x", "nowhere", "3");
    client.barrier();
    assert_eq!(client.take_all("lost"), ["2"]);
}

#[test]
fn a_virtual_host_has_its_own_kind_of_queue() {
    let own = OwnBroker::start(|_| {});
    let request = VhostRequest { default_queue_type: Some("quorum"), ..VhostRequest::default() };
    finish(&own, own.broker.put_vhost("v", &request));
    finish(&own, own.broker.set_permissions("guest", "v", [".*"; 3]));
    let mut client = Login { address: own.address, vhost: "v", ..Login::default() }.connect();
    client.declare(QueueDeclare { durable: true, ..queue_declare("kept") });
    client.declare(QueueDeclare { exclusive: true, ..queue_declare("own") });
    let kinds: HashSet<_> = (["kept", "own"].iter())
        .map(|name| own.broker.vhost("v").unwrap().queue(name).unwrap().kind.name())
        .collect();
    assert_eq!(kinds, HashSet::from(["quorum", "classic"]));
}

#[test]
fn mandatory_messages_are_refused_and_not_returned_where_the_key_is_forbidden() {
    let (own, mut client) = with_alice();
    finish(&own, own.broker.set_topic_permissions("alice", "/", "amq.topic", ["^a", ".*"]));
    let mut mandatory = publish("amq.topic", "b");
    mandatory.mandatory = true;
    client.publish_as(mandatory, crate::harness::client::NO_PROPERTIES, b"");
    let text = refused("write", "topic 'b' in exchange 'amq.topic'");
    client.expect_channel_close((60, 40), 403, &text);
}

#[test]
fn a_queue_that_is_declared_under_a_policy_does_not_stop_the_clock() {
    let own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    set_policy(&own, "^limited$", &[("max-length", Field::I64(5))]);
    client.declare(queue_declare("limited"));
    client.declare(queue_declare("dead"));
    let arguments = table(&[
        ("x-message-ttl", Field::I64(1)),
        ("x-dead-letter-exchange", Field::LongStr(b"")),
        ("x-dead-letter-routing-key", Field::LongStr(b"dead")),
    ]);
    client.declare(QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare("brief") });
    client.consume("dead");
    client.put("brief", "on time");
    assert_eq!(client.delivery().text(), "on time");
}

#[test]
fn nothing_new_comes_into_a_virtual_host_that_goes() {
    let own = OwnBroker::start(|_| {});
    finish(&own, own.broker.put_vhost("v", &VhostRequest::default()));
    finish(&own, own.broker.set_permissions("guest", "v", [".*"; 3]));
    let mut client = Login { address: own.address, vhost: "v", ..Login::default() }.connect();
    client.declare(queue_declare("q"));
    let _leaving = own.broker.delete_vhost("v").unwrap();
    let refused = "PRECONDITION_FAILED - vhost 'v' is being deleted";
    client.check_channel_close(&Method::QueueDeclare(queue_declare("late")), 406, refused);
    client.open_channel(2).on(2);
    client.check_channel_close(&Method::QueueBind(queue_bind("q", "amq.direct", "k")), 406, refused);
}
