//! Where brokers that mean to speak AMQP 0-9-1 as RabbitMQ does go wrong first.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::FrameKind;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicDeliver, BasicPublish, ConnectionTuneOk, ExchangeDeclare,
    ExchangeDelete, ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk, Method, QueueBind, QueueDeclare,
    QueueDelete,
};
use sluicemq::protocol::table::{Table, TableBuf};

use crate::harness::broker::unique;
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::{Arrival, properties};
use crate::harness::login::Login;
use crate::harness::methods::{
    consume, exchange_declare, exchange_delete, publish, queue_bind, queue_declare, queue_delete,
};

#[test]
fn exchange_unbind_ok_is_method_51() {
    let mut client = Client::open();
    let (source, destination) = (client.exchange("direct"), client.exchange("fanout"));
    client.bind_exchange(&destination, &source, "key");
    client.send(&Method::ExchangeUnbind(ExchangeUnbind {
        destination: &destination,
        source: &source,
        routing_key: "key",
        nowait: false,
        arguments: Table::EMPTY,
    }));
    let answer = client.next_method();
    assert_eq!(answer.payload, [0, 40, 0, 51], "class and method, and nothing after them");
    assert_eq!(answer.method(), Method::ExchangeUnbindOk(ExchangeUnbindOk {}));
}

#[test]
fn what_is_missing_is_deleted_already() {
    let mut client = Client::open();
    let missing = unique("missing");
    assert_eq!(client.delete(queue_delete(&missing)), 0);
    assert_eq!(client.delete(QueueDelete { if_unused: true, if_empty: true, ..queue_delete(&missing) }), 0);
    let delete = Method::ExchangeDelete(ExchangeDelete { if_unused: true, ..exchange_delete(&missing) });
    client.call(&delete, &Method::ExchangeDeleteOk(ExchangeDeleteOk {}));
}

#[test]
fn whose_a_queue_is_comes_before_what_it_is() {
    let (mut owner, mut other) = (Client::open(), Client::open());
    let queue = unique("owned");
    owner.declare(QueueDeclare { exclusive: true, ..queue_declare(&queue) });
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    let unlike = QueueDeclare { auto_delete: true, ..queue_declare(&queue) };
    let exclusive = QueueDeclare { exclusive: true, ..unlike };
    other.check_channel_close(&Method::QueueDeclare(exclusive), 405, &locked);
    owner.check_channel_close(&Method::QueueDeclare(unlike), 405, &locked);
}

#[test]
fn an_exclusive_consumer_closes_a_channel_a_used_tag_the_connection() {
    let mut client = Client::open();
    let queue = client.queue();
    client.consume_as(BasicConsume { consumer_tag: "one", ..consume(&queue) });
    client.open_channel(2);
    let exclusive = BasicConsume { exclusive: true, ..consume(&queue) };
    let in_use = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    client.check_channel_close(&Method::BasicConsume(exclusive), 403, &in_use);

    client.on(1);
    let again = BasicConsume { consumer_tag: "one", ..consume(&queue) };
    let reused = "NOT_ALLOWED - attempt to reuse consumer tag 'one'";
    client.check_connection_close(&Method::BasicConsume(again), 530, reused);
}

#[test]
fn all_of_nothing_can_be_acknowledged() {
    let mut client = Client::open();
    client.ack_through(0);
    client.barrier();
}

#[test]
fn a_message_comes_back_before_it_is_confirmed() {
    let mut client = Client::open();
    client.select_confirms();
    let nowhere = unique("nowhere");
    client.publish_as(BasicPublish { mandatory: true, ..publish("", &nowhere) }, NO_PROPERTIES, b"lost");
    let returned = client.returned();
    let Method::BasicReturn(method) = returned.method() else { panic!("{returned:?}") };
    assert_eq!((method.reply_code, method.reply_text), (312, "NO_ROUTE"));
    assert_eq!((method.exchange, method.routing_key), (b"".as_slice(), nowhere.as_bytes()));
    assert_eq!(returned.text(), "lost");
    client.expect(&Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
}

#[test]
fn messages_come_back_to_who_reads_them_only_when_all_are_written() {
    let mut client = Client::open();
    client.select_confirms();
    let nowhere = unique("nowhere");
    let body = vec![b'x'; 4_000_000];
    for _ in 0..8 {
        client.publish_as(BasicPublish { mandatory: true, ..publish("", &nowhere) }, NO_PROPERTIES, &body);
    }
    let mut confirmed = 0;
    for _ in 0..8 {
        let mut frame = client.next_method();
        while let Method::BasicAck(ack) = frame.method() {
            confirmed = ack.delivery_tag;
            frame = client.next_method();
        }
        assert!(Arrival::read(&mut client.wire, frame).body == body);
    }
    if confirmed < 8 {
        client.expect_confirm(8);
    }
}

#[test]
fn a_publish_to_a_queue_that_is_gone_is_confirmed() {
    let mut client = Client::open();
    client.select_confirms();
    let queue = client.queue();
    client.put(&queue, "before");
    client.expect_confirm(1);
    client.delete(queue_delete(&queue));
    client.put(&queue, "after");
    client.expect(&Method::BasicAck(BasicAck { delivery_tag: 2, multiple: false }));
}

#[test]
fn a_prefetch_is_for_consumers_that_come_later() {
    let mut client = Client::open();
    let queue = client.queue();
    client.consume(&queue);
    client.qos(1, false);
    for body in ["a", "b", "c"] {
        client.put(&queue, body);
    }
    assert_eq!(client.bodies(3), ["a", "b", "c"], "the first consumer has no limit");

    let limited = client.queue();
    client.consume(&limited);
    client.put(&limited, "d");
    client.put(&limited, "e");
    assert_eq!(client.bodies(1), ["d"]);
    client.barrier();
    client.ack(4);
    assert_eq!(client.bodies(1), ["e"], "only when the first is acknowledged");
}

#[test]
fn an_exclusive_queue_is_never_durable() {
    let mut client = Client::open();
    let queue = unique("exclusive");
    client.declare(QueueDeclare { exclusive: true, durable: true, ..queue_declare(&queue) });
    client.declare(QueueDeclare { exclusive: true, durable: false, ..queue_declare(&queue) });
    client.declare(QueueDeclare { exclusive: true, durable: true, ..queue_declare(&queue) });
}

#[test]
fn a_declaration_without_answer_counts_and_fails_like_any_other() {
    let mut client = Client::open();
    let queue = client.leave_queue(unique("nowait"));
    client.send(&Method::QueueDeclare(QueueDeclare { nowait: true, ..queue_declare(&queue) }));
    client.bind_as(queue_bind("", "amq.direct", "key"));
    client.publish("amq.direct", "key", "found");
    assert_eq!(client.take("").text(), "found");

    let unlike = QueueDeclare { nowait: true, durable: true, ..queue_declare(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'true' but \
         current is 'false'"
    );
    client.check_channel_close(&Method::QueueDeclare(unlike), 406, &text);
}

#[test]
fn a_passive_declaration_counts_and_asks_whose_it_is() {
    let (mut owner, mut other) = (Client::open(), Client::open());
    let queue = owner.queue();
    owner.fill(&queue, &["one", "two"]);
    assert_eq!(owner.counts(&queue), (2, 0));
    owner.consume(&queue);
    owner.bodies(2);
    assert_eq!(owner.counts(&queue), (0, 1), "what is delivered is not ready");

    let passive = QueueDeclare { passive: true, ..queue_declare(&queue) };
    let locked = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    other.check_channel_close(&Method::QueueDeclare(passive), 405, &locked);
}

/// Declares with one argument, and again with another.
fn declare_twice(name: &str, first: Field<'_>, second: Field<'_>) -> (Client, Method<'static>, String) {
    let mut client = Client::open();
    let queue: &'static str = unique("twice").leak();
    let table = |value| {
        let mut table = TableBuf::new();
        table.insert(name, value);
        table.into_bytes()
    };
    let first = table(first);
    client.declare(QueueDeclare {
        exclusive: true,
        arguments: Table::unchecked(&first),
        ..queue_declare(queue)
    });
    let arguments = Table::unchecked(table(second).leak());
    let again = QueueDeclare { exclusive: true, arguments, ..queue_declare(queue) };
    (client, Method::QueueDeclare(again), queue.to_owned())
}

#[test]
fn an_unknown_argument_is_not_compared() {
    let (mut client, again, queue) = declare_twice("x-no-such", Field::I32(1), Field::LongStr(b"other"));
    client.send(&again);
    assert_eq!(client.declared().queue, queue);
}

#[test]
fn integers_are_compared_by_value_and_never_with_text() {
    let (mut client, again, queue) = declare_twice("x-queue-version", Field::I64(1), Field::I8(1));
    client.send(&again);
    assert_eq!(client.declared().queue, queue);

    let (mut client, again, queue) = declare_twice("x-queue-version", Field::I64(1), Field::LongStr(b"1"));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-version' for queue '{queue}' in vhost '/': received \
         '1' but current is '1'"
    );
    client.check_channel_close(&again, 406, &text);
}

#[test]
fn an_expiration_is_a_decimal_string() {
    let mut client = Client::open();
    let queue = client.queue();
    for (expiration, reason) in [
        ("abc", "no_integer"),
        ("", "no_integer"),
        ("10x", "{leftover_string,\"x\"}"),
        ("-1", "{value_negative,-1}"),
    ] {
        client.publish_as(publish("", &queue), &properties(|p| _ = p.expiration(expiration)), b"");
        let text = format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}");
        client.expect_channel_close((60, 40), 406, &text);
    }
    client.publish_as(publish("", &queue), &properties(|p| _ = p.expiration("60000")), b"kept");
    let kept = client.take(&queue);
    assert_eq!(kept.properties().expiration(), Some(b"60000".as_slice()));
}

#[test]
fn more_keys_come_in_an_array() {
    let mut client = Client::open();
    let queue = client.queue();
    let mut headers = TableBuf::new();
    headers.insert("CC", Field::LongStr(queue.as_bytes()));
    let properties = properties(|p| _ = p.headers(headers.as_table()));
    client.publish_as(publish("", &queue), &properties, b"");
    let text = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}";
    client.expect_channel_close((60, 40), 406, text);
}

#[test]
fn headers_that_begin_with_x_do_not_decide() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("headers"), client.queue());
    let mut wanted = TableBuf::new();
    wanted
        .insert("x-match", Field::LongStr(b"all"))
        .insert("x-ignored", Field::I32(1))
        .insert("colour", Field::LongStr(b"red"));
    client.bind_as(QueueBind { arguments: wanted.as_table(), ..queue_bind(&queue, &exchange, "") });
    let mut headers = TableBuf::new();
    headers.insert("colour", Field::LongStr(b"red"));
    let properties = properties(|p| _ = p.headers(headers.as_table()));
    client.publish_as(publish(&exchange, ""), &properties, b"red");
    assert_eq!(client.take(&queue).text(), "red");
}

#[test]
fn a_frame_may_be_eight_octets_over() {
    let mut client = Client::open();
    let queue = client.queue();
    let body = vec![b'x'; 131_072];
    client.publish_in_one_frame(&queue, &body);
    let arrived = client.take(&queue);
    assert_eq!(arrived.body.len(), body.len());
}

#[test]
fn the_client_says_how_often_hearts_beat() {
    let tune = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 1 };
    let login = Login { tune, ..Login::default() };
    let (_, offered) = login.authenticated();
    assert_eq!(offered.heartbeat, 60, "offered, and not taken");
    let mut client = login.connect();
    let beat = client.wire.frame();
    // The offered minute would be past the read deadline.
    assert_eq!((beat.kind, beat.channel, beat.payload.len()), (FrameKind::Heartbeat, 0, 0));
}

#[test]
fn consume_ok_comes_first_and_nothing_after_cancel_ok() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["waiting"; 50]);
    let tag = client.consume(&queue);
    client.send(&Method::BasicCancel(BasicCancel { consumer_tag: &tag, nowait: false }));
    let mut delivered = 0;
    loop {
        let frame = client.next_method();
        match frame.method() {
            Method::BasicDeliver(BasicDeliver { delivery_tag, .. }) => {
                delivered += 1;
                assert_eq!(delivery_tag, delivered);
                Arrival::read(&mut client.wire, frame);
            }
            Method::BasicCancelOk(ok) => break assert_eq!(ok.consumer_tag, tag),
            other => panic!("{other:?}"),
        }
    }
    client.fill(&queue, &["late"]);
    assert_eq!(client.counts(&queue), (51 - u32::try_from(delivered).unwrap(), 0));
}

#[test]
fn a_queue_that_was_never_consumed_is_never_deleted_by_itself() {
    let mut first = Client::open();
    let queue = unique("auto");
    first.declare(QueueDeclare { auto_delete: true, ..queue_declare(&queue) });
    first.fill(&queue, &["kept"]);
    first.close();
    let mut client = Client::open();
    assert_eq!(client.counts(&queue), (1, 0), "nobody has consumed it");
    let tag = client.consume(&queue);
    client.delivery();
    client.cancel(&tag);
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    let passive = Method::QueueDeclare(QueueDeclare { passive: true, ..queue_declare(&queue) });
    client.check_channel_close(&passive, 404, &text);
}

#[test]
fn what_the_alternate_exchange_took_is_not_returned() {
    let mut client = Client::open();
    let (alternate, queue) = (client.exchange("fanout"), client.queue());
    client.bind(&queue, &alternate, "");
    let exchange = client.leave_exchange(unique("alternated"));
    let mut arguments = TableBuf::new();
    arguments.insert("alternate-exchange", Field::LongStr(alternate.as_bytes()));
    client.declare_exchange(ExchangeDeclare {
        arguments: arguments.as_table(),
        ..exchange_declare(&exchange, "direct")
    });
    client.select_confirms();
    client.publish_as(
        BasicPublish { mandatory: true, ..publish(&exchange, "none") },
        NO_PROPERTIES,
        b"saved",
    );
    client.expect(&Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
    assert_eq!(client.take(&queue).text(), "saved");
}
