//! Headers and bodies: out of turn, of the wrong size, and full of what must arrive untouched.

use sluicemq::broker::Broker;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicPublish, ChannelCloseOk, ChannelFlow, ChannelOpen, Method, QueueBind, TxSelect, TxSelectOk,
};
use sluicemq::protocol::properties::PropertiesBuf;
use sluicemq::protocol::table::{Array, ArrayBuf, Table, TableBuf};

use crate::harness::broker::{OwnBroker, expected_of, only_here, unique};
use crate::harness::client::{CHANNEL_CLOSE, Client, NO_PROPERTIES, assert_usable};
use crate::harness::content::{Arrival, content_frames, header_frame, properties};
use crate::harness::methods::{publish, queue_bind};
use crate::harness::wire::{method_frame, raw_frame};

const PUBLISH: (u16, u16) = (60, 40);
const METHOD_EXPECTED: &str = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
const HEADER_EXPECTED: &str =
    "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
const BODY_EXPECTED: &str = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";

fn publish_frame(queue: &str) -> Vec<u8> {
    method_frame(1, &Method::BasicPublish(publish("", queue)))
}

/// Sends frames on channel 1 and expects that they end the connection.
fn check_fatal(frames: &[&[u8]], method: (u16, u16), code: u16, text: &str) {
    let mut client = Client::open();
    client.wire.send_bytes(&frames.concat());
    client.expect_connection_close(method, code, text);
}

/// Sends a message through a queue.
fn relay(properties: &[u8], body: &[u8]) -> Arrival {
    let mut client = Client::open();
    let queue = client.queue();
    client.publish_as(publish("", &queue), properties, body);
    client.take(&queue)
}

fn with_headers(headers: Table<'_>) -> Vec<u8> {
    properties(|p| _ = p.headers(headers))
}

#[test]
fn a_header_without_a_publish_is_505() {
    check_fatal(&[&header_frame(1, 60, 0, 1, NO_PROPERTIES)], (0, 0), 505, METHOD_EXPECTED);
}

#[test]
fn a_body_without_a_header_is_505() {
    check_fatal(&[&raw_frame(3, 1, b"x")], (0, 0), 505, METHOD_EXPECTED);
    check_fatal(&[&publish_frame("q"), &raw_frame(3, 1, b"x")], PUBLISH, 505, HEADER_EXPECTED);
}

#[test]
fn content_on_a_channel_that_is_not_open_is_505() {
    let header = header_frame(9, 60, 0, 1, NO_PROPERTIES);
    for frame in [header, raw_frame(3, 9, b"x"), raw_frame(3, 9, &[b'x'; 100_000])] {
        check_fatal(&[&frame], (0, 0), 505, METHOD_EXPECTED);
    }
    let mut closed = Client::open();
    closed.close_channel();
    closed.wire.send_bytes(&raw_frame(3, 1, b"x"));
    closed.expect_connection_close((0, 0), 505, METHOD_EXPECTED);
}

#[test]
fn content_on_channel_0_is_505_and_shown() {
    for (frame, shown) in [
        (header_frame(0, 60, 0, 0, NO_PROPERTIES), "type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>"),
        (raw_frame(3, 0, b"x"), "type 3, all octets = <<\"x\">>"),
        (raw_frame(3, 0, &[b'x'; 17]), "type 3, first 16 octets = <<\"xxxxxxxxxxxxxxxx\">>"),
        (raw_frame(3, 0, &[b'x'; 100_000]), "type 3, first 16 octets = <<\"xxxxxxxxxxxxxxxx\">>"),
    ] {
        check_fatal(&[&frame], (0, 0), 505, &format!("UNEXPECTED_FRAME - {shown}"));
    }
}

#[test]
fn a_header_of_another_class_or_weight_is_505() {
    let header = header_frame(1, 50, 0, 1, NO_PROPERTIES);
    let text = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead";
    check_fatal(&[&publish_frame("q"), &header], PUBLISH, 505, text);
    check_fatal(
        &[&publish_frame("q"), &header_frame(1, 60, 1, 1, NO_PROPERTIES)],
        PUBLISH,
        505,
        HEADER_EXPECTED,
    );
}

#[test]
fn a_body_size_beyond_all_bounds_is_501_at_once() {
    if !only_here("RabbitMQ before 4.2.6 waits for the body") {
        return;
    }
    for size in [u64::MAX, 536_870_913] {
        let text = format!("FRAME_ERROR - content body size {size} exceeds maximum allowed size 536870912");
        check_fatal(
            &[&publish_frame("q"), &header_frame(1, 60, 0, size, NO_PROPERTIES)],
            PUBLISH,
            501,
            &text,
        );
    }
}

#[test]
fn a_message_over_the_limit_is_406() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.message_bytes_max = 1000);
    let mut client = Client::at(own.address);
    let queue = client.queue();
    client.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 1000]);
    assert_eq!(client.take(&queue).body.len(), 1000);
    client.publish_as(publish("", &queue), NO_PROPERTIES, &[b'x'; 1001]);
    let text = "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
    client.expect_channel_close(PUBLISH, 406, text);
    assert_eq!(client.counts(&queue), (0, 0));
}

#[test]
fn more_body_than_declared_is_501() {
    if !only_here("RabbitMQ before 4.2.6 lets it pass") {
        return;
    }
    let text = "FRAME_ERROR - content body frame exceeds remaining content size";
    let header = header_frame(1, 60, 0, 5, NO_PROPERTIES);
    check_fatal(&[&publish_frame("q"), &header, &raw_frame(3, 1, b"123456")], PUBLISH, 501, text);
    let pieces = [raw_frame(3, 1, b"1234"), raw_frame(3, 1, b"56")].concat();
    check_fatal(&[&publish_frame("q"), &header, &pieces], PUBLISH, 501, text);
}

#[test]
fn a_method_in_the_middle_of_a_body_is_505() {
    let flow = Method::ChannelFlow(ChannelFlow { active: true });
    let header = header_frame(1, 60, 0, 5, NO_PROPERTIES);
    let (part, flow) = (raw_frame(3, 1, b"123"), method_frame(1, &flow));
    check_fatal(&[&publish_frame("q"), &header, &part, &flow], PUBLISH, 505, BODY_EXPECTED);
    check_fatal(&[&publish_frame("q"), &flow], PUBLISH, 505, HEADER_EXPECTED);
    check_fatal(&[&publish_frame("q"), &header, &header], PUBLISH, 505, BODY_EXPECTED);
}

#[test]
fn no_channel_opens_or_ends_in_the_middle_of_a_content() {
    let header = header_frame(1, 60, 0, 5, NO_PROPERTIES);
    for method in [
        Method::ChannelOpen(ChannelOpen {}),
        Method::ChannelClose(CHANNEL_CLOSE),
        Method::ChannelCloseOk(ChannelCloseOk {}),
    ] {
        let method = method_frame(1, &method);
        check_fatal(&[&publish_frame("q"), &method], PUBLISH, 505, HEADER_EXPECTED);
        check_fatal(&[&publish_frame("q"), &header, &method], PUBLISH, 505, BODY_EXPECTED);
    }
}

/// What the broker holds of bodies that have not arrived whole.
fn partial_bytes(broker: &Broker) -> u64 {
    broker.node.memory.partial_bodies.read()
}

#[test]
fn an_unfinished_body_costs_what_has_arrived() {
    if !only_here("the broker's own gauge is read") {
        return;
    }
    let own = OwnBroker::start(|_| {});
    let mut client = Client::at(own.address);
    for channel in 1..=1000 {
        if channel > 1 {
            client.open_channel(channel);
        }
        let mut frames = method_frame(channel, &Method::BasicPublish(publish("", "none")));
        frames.extend(header_frame(channel, 60, 0, 16 * 1024 * 1024, NO_PROPERTIES));
        frames.extend(raw_frame(3, channel, b"0123456789"));
        client.wire.send_bytes(&frames);
    }
    client.open_channel(1001).barrier();
    assert_eq!(partial_bytes(&own.broker), 10_000);
    assert_usable(own.address);
    client.close();
    assert_usable(own.address);
    assert_eq!(partial_bytes(&own.broker), 0, "all of it comes back");
}

#[test]
fn the_pool_of_unfinished_bodies_closes_who_fills_it() {
    if !only_here("the pool is this broker's configuration") {
        return;
    }
    let pool_bytes = 4.0 * 1024.0 * 1024.0;
    let memory_bytes = sluicemq::net::watermark::memory_bytes() as f64;
    let own = OwnBroker::start(|config| config.limits.partial_bodies_fraction = pool_bytes / memory_bytes);
    let mut modest = Client::at(own.address);
    let queue = modest.queue();
    modest.wire.send_bytes(&publish_frame(&queue));
    modest.wire.send_bytes(&header_frame(1, 60, 0, 10, NO_PROPERTIES));
    modest.wire.send_bytes(&raw_frame(3, 1, b"01234"));

    let mut greedy = Client::at(own.address);
    greedy.open_channel(2).open_channel(3);
    for channel in [1, 2, 3] {
        greedy.wire.send_bytes(&method_frame(channel, &Method::BasicPublish(publish("", "none"))));
        greedy.wire.send_bytes(&header_frame(channel, 60, 0, 100 * 1024 * 1024, NO_PROPERTIES));
    }
    // One message alone may be larger than the pool, and several may go on beyond it up to twice as much.
    for _ in 0..80 {
        greedy.wire.send_bytes(&raw_frame(3, 1, &[0; 100_000]));
    }
    for channel in [2, 3].repeat(80) {
        greedy.wire.send_to_the_dying(&raw_frame(3, channel, &[0; 100_000]));
    }
    let text = "RESOURCE_ERROR - unfinished message bodies take too much memory";
    greedy.expect_connection_close(PUBLISH, 506, text);

    modest.wire.send_bytes(&raw_frame(3, 1, b"56789"));
    assert_eq!(modest.take(&queue).text(), "0123456789");
    assert_eq!(partial_bytes(&own.broker), 0);
}

#[test]
fn an_empty_body_has_no_frame() {
    let mut client = Client::open();
    let queue = client.queue();
    client.wire.send_bytes(&publish_frame(&queue));
    client.wire.send_bytes(&header_frame(1, 60, 0, 0, NO_PROPERTIES));
    client.barrier();
    assert!(client.take(&queue).body.is_empty());
    client.barrier();
}

#[test]
fn a_body_may_come_octet_by_octet() {
    let mut client = Client::open();
    let queue = client.queue();
    let body: Vec<u8> = (0..20_000).map(|number: u32| number.to_le_bytes()[0]).collect();
    let mut frames = publish_frame(&queue);
    frames.extend(header_frame(1, 60, 0, body.len() as u64, NO_PROPERTIES));
    for octet in &body {
        frames.extend(raw_frame(3, 1, &[*octet]));
    }
    client.wire.send_bytes(&frames);
    assert_eq!(client.take(&queue).body, body);
}

#[test]
fn empty_body_frames_are_passed_over() {
    let mut client = Client::open();
    let queue = client.queue();
    let mut frames = publish_frame(&queue);
    frames.extend(header_frame(1, 60, 0, 2, NO_PROPERTIES));
    for piece in [b"".as_slice(), b"a", b"", b"", b"b"] {
        frames.extend(raw_frame(3, 1, piece));
    }
    client.wire.send_bytes(&frames);
    assert_eq!(client.take(&queue).text(), "ab");
}

#[test]
fn large_bodies_arrive_whole() {
    let body: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).take(5_000_000).collect();
    assert!(relay(NO_PROPERTIES, &body).body == body);
}

#[test]
fn flags_no_property_has_are_relayed_unharmed() {
    let arrived = relay(&[0, 1], b"x");
    assert_eq!(arrived.text(), "x");
    assert_eq!(arrived.properties, [0, 1]);
}

#[test]
fn broken_headers_are_502() {
    let overrun = [0x20, 0, 0, 0, 0, 200, 1, b'k', b'V'];
    let unknown_type = [0x20, 0, 0, 0, 0, 4, 1, b'k', b'U', 0];
    let inner_overrun = [0x20, 0, 0, 0, 0, 7, 1, b'k', b'S', 0, 0, 1, 0];
    for (broken, why) in [
        (&overrun[..], "content properties do not match their flags"),
        (&unknown_type, "unknown field type 85 in field table"),
        (&inner_overrun, "field table ends inside an entry"),
    ] {
        let text = format!("SYNTAX_ERROR - {why}");
        // RabbitMQ's channel process dies of them.
        let (method, code, text) =
            expected_of((PUBLISH, 502, text.as_str()), ((0, 0), 541, "INTERNAL_ERROR"));
        let frames = [publish_frame("q"), header_frame(1, 60, 0, 1, broken), raw_frame(3, 1, b"x")];
        check_fatal(&frames.each_ref().map(Vec::as_slice), method, code, text);
    }
}

fn nested(levels: usize) -> TableBuf {
    (0..levels).fold(TableBuf::new(), |inner, _| {
        let mut outer = TableBuf::new();
        outer.insert("deeper", Field::Table(inner.as_table()));
        outer
    })
}

#[test]
fn headers_nest_16_deep_and_no_deeper() {
    let sixteen = with_headers(nested(16).as_table());
    assert_eq!(relay(&sixteen, b"deep").properties, sixteen);
    if only_here("RabbitMQ has no bound on depth") {
        let seventeen = with_headers(nested(17).as_table());
        let text = "SYNTAX_ERROR - field table nested deeper than 16 levels";
        check_fatal(&[&publish_frame("q"), &header_frame(1, 60, 0, 1, &seventeen)], PUBLISH, 502, text);
    }
}

#[test]
fn headers_have_16384_entries_and_no_more() {
    let entries = |count: u32| {
        let mut table = TableBuf::new();
        for number in 0..count {
            table.insert(&number.to_string(), Field::Void);
        }
        with_headers(table.as_table())
    };
    assert_eq!(relay(&entries(16_384), b"").properties, entries(16_384));
    if only_here("RabbitMQ has no bound on entries") {
        let text = "SYNTAX_ERROR - field table of more than 16384 entries";
        check_fatal(&[&publish_frame("q"), &header_frame(1, 60, 0, 1, &entries(16_385))], PUBLISH, 502, text);
    }
}

#[test]
fn text_that_is_not_utf8_passes_in_properties_and_keys() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("fanout"), client.queue());
    client.bind(&queue, &exchange, "");
    let odd = properties(|p| _ = p.message_id([0xff, 0xfe]).content_type([0xc3]).kind([0x80]));
    let key = BasicPublish { routing_key: &[0xff, 0x00, 0xc3], ..publish(&exchange, "") };
    client.publish_as(key, &odd, b"odd");
    let arrived = client.take(&queue);
    assert_eq!(arrived.properties, odd);
    let Method::BasicGetOk(got) = arrived.method() else { panic!("{arrived:?}") };
    assert_eq!(got.routing_key, [0xff, 0x00, 0xc3]);
}

#[test]
fn duplicate_headers_are_kept_and_the_first_decides() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("headers"), client.queue());
    let mut wanted = TableBuf::new();
    wanted.insert("x-match", Field::LongStr(b"all")).insert("k", Field::I32(1));
    client.bind_as(QueueBind { arguments: wanted.as_table(), ..queue_bind(&queue, &exchange, "") });
    let mut twice = TableBuf::new();
    twice.insert("k", Field::I32(1)).insert("k", Field::I32(2));
    let twice = with_headers(twice.as_table());
    client.publish_as(publish(&exchange, ""), &twice, b"both");
    client.publish_as(publish("", &queue), &twice, b"again");
    let arrived = client.take(&queue);
    assert_eq!((arrived.text(), &arrived.properties), ("both", &twice));
}

#[test]
fn an_expiration_out_of_range_is_406() {
    let mut client = Client::open();
    let queue = client.queue();
    // What is longer than a line RabbitMQ prints on two.
    let huge = "99999999999999999999";
    let folded = format!("\n{}{huge}", " ".repeat(44));
    for (expiration, shown) in [("315360000001", "315360000001"), (huge, expected_of(huge, folded.as_str()))]
    {
        client.publish_as(publish("", &queue), &properties(|p| _ = p.expiration(expiration)), b"");
        let text =
            format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {{value_too_large,{shown}}}");
        client.expect_channel_close(PUBLISH, 406, &text);
    }
}

#[test]
fn a_delivery_mode_is_1_or_2() {
    for mode in [1, 2] {
        let properties = properties(|p| _ = p.delivery_mode(mode));
        assert_eq!(relay(&properties, b"").properties, properties);
    }
    let mut client = Client::open();
    let queue = client.queue();
    for mode in [0, 3, 9, 255] {
        let text = format!("PRECONDITION_FAILED - invalid message: {{delivery_mode_unknown,{mode}}}");
        let odd = properties(|p| _ = p.delivery_mode(mode));
        // Also behind messages that are like it, and in a transaction that is never committed.
        client.put_all(&queue, &["a", "b"]);
        client.publish_as(publish("", &queue), &odd, b"odd");
        client.expect_channel_close(PUBLISH, 406, &text);
        client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
        client.publish_as(publish("", &queue), &odd, b"odd");
        client.expect_channel_close(PUBLISH, 406, &text);
        assert_eq!(client.take_all(&queue), ["a", "b"]);
    }
}

#[test]
fn of_several_faults_the_mode_is_named_last() {
    let mut client = Client::open();
    let late = properties(|p| _ = p.delivery_mode(9).expiration("soon"));
    client.publish_as(publish("", "k"), &late, b"");
    let text = "PRECONDITION_FAILED - invalid expiration 'soon': no_integer";
    client.expect_channel_close(PUBLISH, 406, text);
    let mut headers = TableBuf::new();
    headers.insert("CC", Field::Bool(true));
    let keyless = properties(|p| _ = p.delivery_mode(9).headers(headers.as_table()));
    client.publish_as(publish("", "k"), &keyless, b"");
    let text = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",bool}";
    client.expect_channel_close(PUBLISH, 406, text);
}

#[test]
fn any_timestamp_is_relayed() {
    for seconds in [0, 1 << 63, u64::MAX] {
        let properties = properties(|p| _ = p.timestamp(seconds));
        assert_eq!(relay(&properties, b"").properties, properties);
    }
}

#[test]
fn anothers_user_id_is_406() {
    let mut client = Client::open();
    client.publish_as(publish("", "k"), &properties(|p| _ = p.user_id("root")), b"");
    let text = "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'";
    client.expect_channel_close(PUBLISH, 406, text);
}

/// The headers of a message with these in its CC or BCC.
fn with_keys(name: &str, keys: &ArrayBuf) -> Vec<u8> {
    let mut headers = TableBuf::new();
    headers.insert(name, Field::Array(keys.as_array()));
    with_headers(headers.as_table())
}

#[test]
fn cc_and_bcc_are_arrays() {
    let mut client = Client::open();
    let queue = client.queue();
    for name in ["CC", "BCC"] {
        let mut headers = TableBuf::new();
        headers.insert(name, Field::I32(1));
        client.publish_as(publish("", "k"), &with_headers(headers.as_table()), b"");
        let text = format!(
            "PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{name}\",signedint}}"
        );
        client.expect_channel_close(PUBLISH, 406, &text);

        let mut mixed = ArrayBuf::new();
        mixed.push(Field::I32(1)).push(Field::LongStr(queue.as_bytes()));
        client.publish_as(publish("", "k"), &with_keys(name, &mixed), b"no string is no key");
        assert_eq!(client.take(&queue).text(), "no string is no key");
    }
}

#[test]
fn a_message_has_as_many_keys_as_its_header_has_room_for() {
    let mut client = Client::open();
    let (queue, exchange) = (client.queue(), client.exchange("direct"));
    client.bind(&queue, &exchange, "k4999");
    let mut many = ArrayBuf::new();
    (0..5000).for_each(|number| _ = many.push(Field::LongStr(format!("k{number}").as_bytes())));
    many.push(Field::LongStr(queue.as_bytes()));
    for name in ["CC", "BCC"] {
        for exchange in ["", &exchange] {
            client.publish_as(publish(exchange, "k"), &with_keys(name, &many), b"m");
            assert_eq!(client.take(&queue).text(), "m");
        }
    }
}

#[test]
fn an_answer_to_nobody_is_dropped() {
    let mut client = Client::open();
    client.select_confirms();
    let forged = "amq.rabbitmq.reply-to.forged";
    client.put(forged, "to nobody");
    client.expect_confirm(1);
    client.publish_as(BasicPublish { mandatory: true, ..publish("", forged) }, NO_PROPERTIES, b"back");
    assert_eq!(client.returned().text(), "back");
    client.expect_confirm(2);
}

#[test]
fn every_type_and_edge_is_relayed_octet_by_octet() {
    let mut array = ArrayBuf::new();
    array.push(Field::Void).push(Field::I8(-128)).push(Field::Array(Array::unchecked(&[])));
    let mut headers = TableBuf::new();
    headers
        .insert("t", Field::Bool(true))
        .insert("b", Field::I8(i8::MIN))
        .insert("B", Field::U8(u8::MAX))
        .insert("s", Field::I16(i16::MIN))
        .insert("u", Field::U16(u16::MAX))
        .insert("I", Field::I32(i32::MIN))
        .insert("i", Field::U32(u32::MAX))
        .insert("l", Field::I64(i64::MIN))
        .insert("f", Field::F32(f32::MIN_POSITIVE))
        .insert("d", Field::F64(f64::MAX))
        .insert("D", Field::Decimal { scale: 255, value: u32::MAX })
        .insert("S", Field::LongStr(&[0, 0xff]))
        .insert("x", Field::Bytes(&[0xff]))
        .insert("T", Field::Timestamp(u64::MAX))
        .insert("F", Field::Table(Table::EMPTY))
        .insert("A", Field::Array(array.as_array()))
        .insert("V", Field::Void)
        .insert(&"k".repeat(255), Field::Void);
    let sent = with_headers(headers.as_table());
    assert_eq!(relay(&sent, b"").properties, sent);
}

#[test]
fn what_is_no_number_is_relayed_too() {
    if !only_here("Erlang has no such floats, and RabbitMQ's channel dies of them, with 541") {
        return;
    }
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut headers = TableBuf::new();
        headers.insert("d", Field::F64(odd)).insert("f", Field::F32(odd as f32));
        let sent = with_headers(headers.as_table());
        assert_eq!(relay(&sent, b"").properties, sent);
    }
}

#[test]
fn all_properties_are_relayed_octet_by_octet() {
    let mut headers = TableBuf::new();
    headers.insert("k", Field::LongStr(b"v"));
    let mut all = PropertiesBuf::new();
    all.content_type("text/plain")
        .content_encoding("gzip")
        .headers(headers.as_table())
        .delivery_mode(2)
        .priority(9)
        .correlation_id("c")
        .reply_to("r")
        .expiration("60000")
        .message_id("m")
        .timestamp(1)
        .kind("t")
        .user_id("guest")
        .app_id("a")
        .cluster_id("x");
    let sent = all.into_bytes();
    assert_eq!(relay(&sent, b"body").properties, sent);
}

#[test]
fn a_return_carries_all_that_was_sent() {
    let mut client = Client::open();
    let none = unique("none");
    let sent = properties(|p| _ = p.message_id("m").priority(1));
    client.wire.send_bytes(&method_frame(
        1,
        &Method::BasicPublish(BasicPublish { mandatory: true, ..publish("amq.direct", &none) }),
    ));
    client.wire.send_bytes(&content_frames(1, &sent, b"body"));
    let returned = client.returned();
    assert_eq!((returned.text(), &returned.properties), ("body", &sent));
}
