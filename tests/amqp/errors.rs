//! What the broker refuses on an open channel: the code, what it closes, the exact words, the method it names.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicQos, BasicRecover, BasicReject,
    ChannelCloseOk, ChannelFlow, ConfirmSelect, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, Method,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, TxCommit, TxRollback, TxSelect, TxSelectOk,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::harness::broker::{expected_of, only_here, unique};
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::properties;
use crate::harness::methods::{
    consume, exchange_bind, exchange_declare, exchange_delete, publish, queue_bind, queue_declare,
    queue_delete, queue_unbind,
};

const DEFAULT_EXCHANGE: &str = "ACCESS_REFUSED - operation not permitted on the default exchange";

/// Each method closes its channel, and none the connection.
fn check_channel_closes(client: &mut Client, script: &[(Method<'_>, u16, &str)]) {
    for (method, code, text) in script {
        client.check_channel_close(method, *code, text);
    }
}

/// Each method closes a connection of its own.
fn check_connection_closes(script: &[(Method<'_>, u16, &str)]) {
    for (method, code, text) in script {
        Client::open().check_connection_close(method, *code, text);
    }
}

fn table(name: &str, value: Field<'_>) -> Vec<u8> {
    let mut table = TableBuf::new();
    table.insert(name, value);
    table.into_bytes()
}

#[test]
fn what_is_not_there_is_404() {
    let none = unique("none");
    let no_queue = format!("NOT_FOUND - no queue '{none}' in vhost '/'");
    let no_exchange = format!("NOT_FOUND - no exchange '{none}' in vhost '/'");
    let mut client = Client::open();
    let queue = client.queue();
    check_channel_closes(
        &mut client,
        &[
            (Method::QueueDeclare(QueueDeclare { passive: true, ..queue_declare(&none) }), 404, &no_queue),
            (Method::QueuePurge(QueuePurge { queue: &none, nowait: false }), 404, &no_queue),
            (Method::BasicConsume(consume(&none)), 404, &no_queue),
            (Method::BasicGet(BasicGet { queue: &none, no_ack: true }), 404, &no_queue),
            (Method::QueueBind(queue_bind(&none, "amq.direct", "k")), 404, &no_queue),
            (Method::QueueBind(queue_bind(&queue, &none, "k")), 404, &no_exchange),
            (
                Method::ExchangeDeclare(ExchangeDeclare {
                    passive: true,
                    ..exchange_declare(&none, "direct")
                }),
                404,
                &no_exchange,
            ),
            (Method::ExchangeBind(exchange_bind(&none, "amq.direct", "k")), 404, &no_exchange),
            (Method::ExchangeBind(exchange_bind("amq.direct", &none, "k")), 404, &no_exchange),
        ],
    );
    client.publish(&none, "k", "lost");
    client.expect_channel_close((60, 40), 404, &no_exchange);
}

#[test]
fn an_empty_name_needs_a_queue_declared_before() {
    let text = "NOT_FOUND - no previously declared queue";
    let mut client = Client::open();
    check_channel_closes(
        &mut client,
        &[
            (Method::QueuePurge(QueuePurge { queue: "", nowait: false }), 404, text),
            (Method::QueueDelete(queue_delete("")), 404, text),
            (Method::QueueBind(queue_bind("", "amq.direct", "k")), 404, text),
            (Method::BasicConsume(consume("")), 404, text),
            (Method::BasicGet(BasicGet { queue: "", no_ack: true }), 404, text),
        ],
    );
}

#[test]
fn a_queue_declared_again_with_other_flags_is_406() {
    let mut client = Client::open();
    let queue = client.shared_queue("flags");
    let unlike = |argument, received, current| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{queue}' in vhost '/': received \
             '{received}' but current is '{current}'"
        )
    };
    let durable = QueueDeclare { durable: true, ..queue_declare(&queue) };
    let auto_delete = QueueDeclare { auto_delete: true, ..queue_declare(&queue) };
    check_channel_closes(
        &mut client,
        &[
            (Method::QueueDeclare(durable), 406, &unlike("durable", "true", "false")),
            (Method::QueueDeclare(auto_delete), 406, &unlike("auto_delete", "true", "false")),
        ],
    );
}

/// What is named, again and again, of arguments that all differ, when what was named before does not any more.
fn named_one_after_the_other(kind: &str, arguments: &[(&str, [Field<'_>; 2])]) -> Vec<String> {
    let mut client = Client::open();
    let queue = client.leave_queue(unique("order"));
    let mut named: Vec<String> = Vec::new();
    for round in 0..=arguments.len() {
        let mut declared = TableBuf::new();
        declared.insert("x-queue-type", Field::LongStr(kind.as_bytes()));
        for (name, [one, other]) in arguments {
            let is_other = round > 0 && !named.iter().any(|named| named == name);
            declared.insert(name, if is_other { *other } else { *one });
        }
        let declare = QueueDeclare { durable: true, arguments: declared.as_table(), ..queue_declare(&queue) };
        client.send(&Method::QueueDeclare(declare));
        if round == 0 {
            client.declared();
            continue;
        }
        let frame = client.next_method();
        let Method::ChannelClose(close) = frame.method() else { panic!("{frame:?}") };
        named.push(close.reply_text.split('\'').nth(1).unwrap().to_owned());
        client.send(&Method::ChannelCloseOk(ChannelCloseOk {}));
        client.open_channel(1);
    }
    named
}

#[test]
fn of_arguments_that_differ_the_first_one_is_named() {
    let text = |text: &'static str| Field::LongStr(text.as_bytes());
    let numbers = [Field::I32(5), Field::I32(6)];
    let both = [
        ("x-expires", [Field::I32(3_600_000), Field::I32(3_600_001)]),
        ("x-message-ttl", numbers),
        ("x-dead-letter-exchange", [text("a"), text("b")]),
        ("x-dead-letter-routing-key", [text("a"), text("b")]),
        ("x-max-length", numbers),
        ("x-max-length-bytes", numbers),
        ("x-overflow", [text("drop-head"), text("reject-publish")]),
        ("x-single-active-consumer", [Field::Bool(true), Field::Bool(false)]),
    ];
    let of_classic = [
        ("x-max-priority", numbers),
        ("x-queue-mode", [text("default"), text("lazy")]),
        ("x-queue-version", [Field::I32(1), Field::I32(2)]),
        ("x-queue-master-locator", [text("min-masters"), text("client-local")]),
    ];
    let expected = [
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-master-locator",
    ];
    assert_eq!(named_one_after_the_other("classic", &[&both[..], &of_classic].concat()), expected);

    let of_quorum = [
        ("x-dead-letter-strategy", [text("at-most-once"), text("at-least-once")]),
        ("x-delivery-limit", numbers),
        ("x-max-in-memory-length", numbers),
        ("x-max-in-memory-bytes", numbers),
        ("x-quorum-initial-group-size", [Field::I32(1), Field::I32(2)]),
        ("x-queue-leader-locator", [text("client-local"), text("balanced")]),
    ];
    let expected = [
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
    ];
    assert_eq!(named_one_after_the_other("quorum", &[&both[..], &of_quorum].concat()), expected);
}

#[test]
fn a_queue_declared_again_with_other_arguments_is_406() {
    let mut client = Client::open();
    let queue = client.leave_queue(unique("arguments"));
    let (one, two) = (table("x-queue-version", Field::I64(1)), table("x-queue-version", Field::I64(2)));
    client.declare(QueueDeclare { arguments: Table::unchecked(&one), ..queue_declare(&queue) });
    let head =
        format!("PRECONDITION_FAILED - inequivalent arg 'x-queue-version' for queue '{queue}' in vhost '/'");
    let none = format!("{head}: received none but current is the value '1' of type 'long'");
    let other = format!("{head}: received '2' but current is '1'");
    check_channel_closes(
        &mut client,
        &[
            (Method::QueueDeclare(queue_declare(&queue)), 406, &none),
            (
                Method::QueueDeclare(QueueDeclare {
                    arguments: Table::unchecked(&two),
                    ..queue_declare(&queue)
                }),
                406,
                &other,
            ),
        ],
    );
}

#[test]
fn an_exchange_declared_again_differently_is_406() {
    let mut client = Client::open();
    let exchange = client.exchange("direct");
    let unlike = |argument, received, current| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange '{exchange}' in vhost '/': \
             received '{received}' but current is '{current}'"
        )
    };
    let same = exchange_declare(&exchange, "direct");
    let alternate = table("alternate-exchange", Field::LongStr(b"amq.fanout"));
    let alternate_text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{exchange}' in vhost '/': \
         received the value 'amq.fanout' of type 'longstr' but current is none"
    );
    check_channel_closes(
        &mut client,
        &[
            (
                Method::ExchangeDeclare(ExchangeDeclare { kind: "topic", ..same }),
                406,
                &unlike("type", "topic", "direct"),
            ),
            (
                Method::ExchangeDeclare(ExchangeDeclare { durable: true, ..same }),
                406,
                &unlike("durable", "true", "false"),
            ),
            (
                Method::ExchangeDeclare(ExchangeDeclare { auto_delete: true, ..same }),
                406,
                &unlike("auto_delete", "true", "false"),
            ),
            (
                Method::ExchangeDeclare(ExchangeDeclare { internal: true, ..same }),
                406,
                &unlike("internal", "true", "false"),
            ),
            (
                Method::ExchangeDeclare(ExchangeDeclare { arguments: Table::unchecked(&alternate), ..same }),
                406,
                &alternate_text,
            ),
        ],
    );
    client.declare_exchange(same);
}

#[test]
fn another_ones_exclusive_queue_is_405_whatever_is_asked() {
    let (mut owner, mut other) = (Client::open(), Client::open());
    let queue = unique("exclusive");
    owner.declare(QueueDeclare { exclusive: true, ..queue_declare(&queue) });
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    check_channel_closes(
        &mut other,
        &[
            (Method::QueueDeclare(queue_declare(&queue)), 405, &locked),
            (Method::QueueDelete(queue_delete(&queue)), 405, &locked),
            (Method::QueuePurge(QueuePurge { queue: &queue, nowait: false }), 405, &locked),
            (Method::QueueBind(queue_bind(&queue, "amq.direct", "k")), 405, &locked),
            (Method::BasicConsume(consume(&queue)), 405, &locked),
            (Method::BasicGet(BasicGet { queue: &queue, no_ack: true }), 405, &locked),
        ],
    );
    owner.barrier();
}

#[test]
fn the_brokers_own_names_and_exchanges_are_403() {
    let (queue, exchange) = ("amq.wire", "amq.wire");
    let reserved =
        |kind: &str| format!("ACCESS_REFUSED - {kind} name 'amq.wire' contains reserved prefix 'amq.*'");
    let system = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    let mut client = Client::open();
    let own = client.queue();
    check_channel_closes(
        &mut client,
        &[
            (Method::QueueDeclare(queue_declare(queue)), 403, &reserved("queue")),
            (Method::ExchangeDeclare(exchange_declare(exchange, "direct")), 403, &reserved("exchange")),
            (Method::ExchangeDelete(exchange_delete("amq.direct")), 403, system),
            (Method::ExchangeDeclare(exchange_declare("", "direct")), 403, DEFAULT_EXCHANGE),
            (Method::ExchangeDelete(exchange_delete("")), 403, DEFAULT_EXCHANGE),
            (Method::QueueBind(queue_bind(&own, "", "k")), 403, DEFAULT_EXCHANGE),
            (Method::ExchangeBind(exchange_bind("amq.direct", "", "k")), 403, DEFAULT_EXCHANGE),
            (Method::ExchangeBind(exchange_bind("", "amq.direct", "k")), 403, DEFAULT_EXCHANGE),
        ],
    );
}

#[test]
fn an_internal_exchange_takes_no_publishes() {
    let mut client = Client::open();
    let exchange = client.leave_exchange(unique("internal"));
    client.declare_exchange(ExchangeDeclare { internal: true, ..exchange_declare(&exchange, "fanout") });
    client.publish(&exchange, "", "refused");
    let text = format!("ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'");
    client.expect_channel_close((60, 40), 403, &text);
}

#[test]
fn a_consumer_that_wants_to_be_alone_is_403() {
    let mut client = Client::open();
    let queue = client.queue();
    client.consume_as(BasicConsume { exclusive: true, ..consume(&queue) });
    client.open_channel(2);
    let text = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    client.check_channel_close(&Method::BasicConsume(consume(&queue)), 403, &text);
}

#[test]
fn what_is_in_use_or_not_empty_stays_when_asked() {
    let mut client = Client::open();
    let (queue, exchange) = (client.queue(), client.exchange("direct"));
    client.bind(&queue, &exchange, "k");
    client.fill(&queue, &["one"]);
    client.open_channel(2).consume_as(BasicConsume { no_ack: false, ..consume(&queue) });
    client.delivery();
    client.on(1);
    let in_use = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use");
    let unused = QueueDelete { if_unused: true, ..queue_delete(&queue) };
    let exchange_in_use = format!("PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use");
    check_channel_closes(
        &mut client,
        &[
            (Method::QueueDelete(unused), 406, &in_use),
            (
                Method::ExchangeDelete(ExchangeDelete { if_unused: true, ..exchange_delete(&exchange) }),
                406,
                &exchange_in_use,
            ),
        ],
    );
    client.on(2).close_channel();
    client.on(1);
    client.fill(&queue, &["two"]);
    let not_empty = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    let empty = QueueDelete { if_empty: true, ..queue_delete(&queue) };
    client.check_channel_close(&Method::QueueDelete(empty), 406, &not_empty);
}

#[test]
fn a_delivery_tag_nobody_gave_is_406() {
    let text = |tag| format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
    let mut client = Client::open();
    check_channel_closes(
        &mut client,
        &[
            (Method::BasicAck(BasicAck { delivery_tag: 7, multiple: false }), 406, &text(7)),
            (Method::BasicAck(BasicAck { delivery_tag: 7, multiple: true }), 406, &text(7)),
            (Method::BasicAck(BasicAck { delivery_tag: 0, multiple: false }), 406, &text(0)),
            (Method::BasicReject(BasicReject { delivery_tag: 7, requeue: true }), 406, &text(7)),
            (
                Method::BasicNack(BasicNack { delivery_tag: 7, multiple: false, requeue: false }),
                406,
                &text(7),
            ),
        ],
    );
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let mut client = Client::open();
    client.select_confirms();
    let tx = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    client.check_channel_close(&Method::TxSelect(TxSelect {}), 406, tx);
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
    let confirm = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    client.check_channel_close(&Method::ConfirmSelect(ConfirmSelect { nowait: false }), 406, confirm);
    let not = "PRECONDITION_FAILED - channel is not transactional";
    client.check_channel_close(&Method::TxCommit(TxCommit {}), 406, not);
    client.check_channel_close(&Method::TxRollback(TxRollback {}), 406, not);
}

#[test]
fn what_was_never_implemented_is_540() {
    let size = BasicQos { prefetch_size: 10, prefetch_count: 1, global: false };
    check_connection_closes(&[
        (Method::BasicQos(size), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"),
        (Method::BasicRecover(BasicRecover { requeue: false }), 540, "NOT_IMPLEMENTED - requeue=false"),
        (Method::ChannelFlow(ChannelFlow { active: false }), 540, "NOT_IMPLEMENTED - active=false"),
    ]);
}

#[test]
fn a_user_id_must_be_the_users_own() {
    let mut client = Client::open();
    let queue = client.queue();
    client.publish_as(publish("", &queue), &properties(|p| _ = p.user_id("guest")), b"mine");
    assert_eq!(client.take(&queue).properties().user_id(), Some(b"guest".as_slice()));
    client.publish_as(publish("", &queue), &properties(|p| _ = p.user_id("other")), b"theirs");
    let text = "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'";
    client.expect_channel_close((60, 40), 406, text);
}

#[test]
fn a_reply_consumer_keeps_its_rules() {
    const REPLY_TO: &str = "amq.rabbitmq.reply-to";
    let mut client = Client::open();
    let acking = Method::BasicConsume(consume(REPLY_TO));
    client.check_channel_close(&acking, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge");
    client.consume_as(BasicConsume { no_ack: true, ..consume(REPLY_TO) });
    let again = Method::BasicConsume(BasicConsume { no_ack: true, ..consume(REPLY_TO) });
    client.check_channel_close(&again, 406, "PRECONDITION_FAILED - reply consumer already set");
    client.publish_as(publish("", "k"), &properties(|p| _ = p.reply_to(REPLY_TO)), b"");
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    client.expect_channel_close((60, 40), 406, text);
    // It is no queue, whoever waits there.
    client.consume_as(BasicConsume { no_ack: true, ..consume(REPLY_TO) });
    let get = Method::BasicGet(BasicGet { queue: REPLY_TO, no_ack: true });
    client.check_channel_close(&get, 404, &format!("NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"));
}

#[test]
fn a_binding_has_no_more_than_1024_arguments() {
    if !only_here("RabbitMQ has no bound on arguments") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    let arguments = |count: u32| {
        let mut table = TableBuf::new();
        (0..count).for_each(|key| _ = table.insert(&key.to_string(), Field::Void));
        table
    };
    let (most, more) = (arguments(1024), arguments(1025));
    let bind = queue_bind(&queue, "amq.headers", "");
    client.bind_as(QueueBind { arguments: most.as_table(), ..bind });
    let refused = Method::QueueBind(QueueBind { arguments: more.as_table(), ..bind });
    client.check_channel_close(&refused, 406, "PRECONDITION_FAILED - binding of more than 1024 arguments");
}

#[test]
fn an_x_match_is_one_of_four() {
    let mut client = Client::open();
    let queue = client.queue();
    let arguments = table("x-match", Field::LongStr(b"most"));
    let bind = QueueBind { arguments: Table::unchecked(&arguments), ..queue_bind(&queue, "amq.headers", "") };
    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"most\">>; expected all, any, all-with-x, or \
                any-with-x";
    client.check_channel_close(&Method::QueueBind(bind), 406, text);
}

#[test]
fn an_unknown_exchange_type_is_406() {
    let mut client = Client::open();
    let name = unique("strange");
    let declare = Method::ExchangeDeclare(exchange_declare(&name, "x-none"));
    // RabbitMQ closes the connection up to 3.12, and the channel from 3.13 on.
    match expected_of(406, 503) {
        406 => {
            client.check_channel_close(&declare, 406, "PRECONDITION_FAILED - unknown exchange type 'x-none'");
        }
        code => {
            client.check_connection_close(&declare, code, "COMMAND_INVALID - unknown exchange type 'x-none'");
        }
    }
}

/// Declares with each argument and expects the refusal of its value.
fn check_queue_argument(client: &mut Client, name: &str, value: Field<'_>, reason: &str) {
    let (queue, arguments) = (unique("argument"), table(name, value));
    let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    let text =
        format!("PRECONDITION_FAILED - invalid arg '{name}' for queue '{queue}' in vhost '/': {reason}");
    client.check_channel_close(&Method::QueueDeclare(declare), 406, &text);
}

#[test]
fn a_bad_argument_is_406_and_says_what_is_wrong() {
    let mut client = Client::open();
    for (name, value, reason) in [
        ("x-message-ttl", Field::I32(-1), "{value_negative,-1}"),
        ("x-message-ttl", Field::LongStr(b"1"), "\"expected integer, got longstr\""),
        ("x-message-ttl", Field::Bool(true), "\"expected integer, got bool\""),
        ("x-expires", Field::I32(0), "{value_zero,0}"),
        ("x-max-length", Field::I32(-1), "{value_negative,-1}"),
        ("x-max-length", Field::LongStr(b"1"), "\"expected integer, got longstr\""),
        ("x-max-priority", Field::I32(-1), "{value_negative,-1}"),
        ("x-dead-letter-routing-key", Field::LongStr(b"k"), "routing_key_but_no_dlx_defined"),
        ("x-overflow", Field::LongStr(b"spill"), "invalid_overflow"),
        ("x-queue-type", Field::LongStr(b"heap"), "\"unsupported queue type 'heap'\""),
        ("x-queue-mode", Field::LongStr(b"busy"), "\"unsupported queue mode 'busy'\""),
        ("x-queue-version", Field::I32(9), "\"unsupported queue version '9'\""),
    ] {
        check_queue_argument(&mut client, name, value, reason);
    }
}

#[test]
fn a_dead_letter_exchange_is_named_by_a_string() {
    let mut client = Client::open();
    let (queue, arguments) = (unique("argument"), table("x-dead-letter-exchange", Field::I32(1)));
    let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue '{queue}' in \
         vhost '/'"
    );
    client.check_channel_close(&Method::QueueDeclare(declare), 406, &text);
}

#[test]
fn an_argument_of_another_kind_of_queue_is_406() {
    let mut client = Client::open();
    let (queue, arguments) = (unique("argument"), table("x-max-age", Field::LongStr(b"1D")));
    let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - invalid arg 'x-max-age' for queue '{queue}' in vhost '/' of queue type \
         rabbit_classic_queue"
    );
    client.check_channel_close(&Method::QueueDeclare(declare), 406, &text);
}

#[test]
fn an_argument_that_is_not_acted_on_yet_is_540_and_never_ignored() {
    if !only_here("RabbitMQ has these features; a broker that does not says so") {
        return;
    }
    for (name, value, shown) in [
        ("x-message-deduplication", Field::Bool(true), "true"),
        ("x-queue-type", Field::LongStr(b"stream"), "stream"),
    ] {
        let (queue, arguments) = (unique("later"), table(name, value));
        let declare = QueueDeclare { arguments: Table::unchecked(&arguments), ..queue_declare(&queue) };
        let text = format!(
            "NOT_IMPLEMENTED - argument '{name}' with value '{shown}' of queue '{queue}' in vhost '/' is not \
             supported yet"
        );
        Client::open().check_connection_close(&Method::QueueDeclare(declare), 540, &text);
    }
}

#[test]
fn a_missing_binding_is_unbound_already() {
    let mut client = Client::open();
    let (queue, none) = (client.queue(), unique("none"));
    for (queue, exchange) in [(&queue, "amq.direct"), (&none, "amq.direct"), (&queue, &none)] {
        client.send(&Method::QueueUnbind(queue_unbind(queue, exchange, "k")));
        assert_eq!(client.next_method().payload, [0, 50, 0, 51]);
    }
    let unbind = ExchangeUnbind {
        destination: &none,
        source: &none,
        routing_key: "k",
        nowait: false,
        arguments: Table::EMPTY,
    };
    client.send(&Method::ExchangeUnbind(unbind));
    assert_eq!(client.next_method().payload, [0, 40, 0, 51]);
}

#[test]
fn a_tag_nobody_uses_is_cancelled_already() {
    let mut client = Client::open();
    client.send(&Method::BasicCancel(BasicCancel { consumer_tag: "nobody", nowait: false }));
    assert_eq!(client.next_method().payload, b"\0\x3c\0\x1f\x06nobody");
}

#[test]
fn a_refused_publish_leaves_the_queue_alone() {
    let mut client = Client::open();
    let queue = client.queue();
    client.publish_as(publish("", &queue), &properties(|p| _ = p.user_id("other")), b"refused");
    client.publish_as(publish("", &queue), NO_PROPERTIES, b"sent to a closed channel");
    let text = "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'";
    client.expect_channel_close((60, 40), 406, text);
    assert_eq!(client.counts(&queue), (0, 0));
}
