//! Frames that are cut wrongly, come where they may not, or name what does not exist.

use std::time::Duration;

use sluicemq::protocol::frame::FRAME_END;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancelOk, BasicReturn, ChannelCloseOk, ChannelFlow, ChannelFlowOk, ChannelOpen,
    ConnectionTuneOk, Method, QueueDeleteOk, QueuePurge,
};

use crate::harness::broker::{expected_of, impatient, is_ours, unique};
use crate::harness::client::{CHANNEL_CLOSE, Client, NO_PROPERTIES, assert_usable};
use crate::harness::content::{content_frames, header_frame};
use crate::harness::login::Login;
use crate::harness::methods::publish;
use crate::harness::wire::{method_frame, raw_frame};

const HEADER_EXPECTED: &str = "content header for class 60, got non content header frame instead";
const BODY_EXPECTED: &str = "content body, got non content body frame instead";

const FLOW: Method<'static> = Method::ChannelFlow(ChannelFlow { active: true });
const FLOW_PAYLOAD: &[u8] = &[0, 20, 0, 20, 1];

/// Sends bytes on an open connection and expects that they end it.
fn check_fatal(bytes: &[u8], method: (u16, u16), code: u16, text: &str) {
    let mut client = Client::at(impatient());
    client.wire.send_to_the_dying(bytes);
    client.expect_connection_close(method, code, text);
}

#[test]
fn another_end_octet_is_501() {
    let mut frame = raw_frame(1, 1, FLOW_PAYLOAD);
    *frame.last_mut().unwrap() = 0x21;
    let text = "FRAME_ERROR - type 1, all octets = <<0,20,0,20,1>>: {invalid_frame_end_marker,33}";
    check_fatal(&frame, (0, 0), 501, text);

    let mut long = raw_frame(3, 1, &[b'x'; 100]);
    *long.last_mut().unwrap() = 0;
    let text =
        "FRAME_ERROR - type 3, first 16 octets = <<\"xxxxxxxxxxxxxxxx\">>: {invalid_frame_end_marker,0}";
    check_fatal(&long, (0, 0), 501, text);
}

#[test]
fn an_unknown_frame_type_is_501() {
    for kind in [0, 4, 9, 255] {
        let text = format!("FRAME_ERROR - type {kind}, all octets = <<\"abc\">>: unknown_frame");
        check_fatal(&raw_frame(kind, 1, b"abc"), (0, 0), 501, &text);
    }
}

#[test]
fn payload_over_frame_max() {
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 5000, heartbeat: 0 };
    let login = Login { address: impatient(), tune, ..Login::default() };
    let mut client = login.connect();
    let queue = client.queue();
    for size in [4992, 5000] {
        client.publish_in_one_frame(&queue, &vec![b'x'; size]);
        assert_eq!(client.take(&queue).body.len(), size);
    }
    client.wire.send_to_the_dying(&raw_frame(3, 1, &[0; 5001]));
    let text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,5001,4992}";
    client.expect_connection_close((0, 0), 501, text);
}

#[test]
fn frames_to_the_client_keep_to_what_it_asked_for() {
    let tune = ConnectionTuneOk { channel_max: 10, frame_max: 4096, heartbeat: 0 };
    let mut client = Login { tune, ..Login::default() }.connect();
    let mut other = Client::open();
    let shared = other.shared_queue("large");
    other.publish_as(publish("", &shared), NO_PROPERTIES, &[b'x'; 20_000]);
    other.barrier();
    client.consume(&shared);
    let deliver = client.next_method();
    assert!(matches!(deliver.method(), Method::BasicDeliver(_)));
    let header = client.wire.frame();
    assert!(header.payload.len() + 8 <= 4096);
    let mut received = 0;
    while received < 20_000 {
        let piece = client.wire.frame().payload.len();
        assert!(piece + 8 <= 4096, "{piece}");
        received += piece;
    }
    assert_eq!(received, 20_000);
}

#[test]
fn frames_may_come_octet_by_octet() {
    let mut client = Client::open();
    let queue = client.queue();
    let mut bytes = method_frame(1, &Method::BasicPublish(publish("", &queue)));
    bytes.extend(content_frames(1, NO_PROPERTIES, b"slow"));
    for octet in bytes {
        client.wire.send_bytes(&[octet]);
    }
    assert_eq!(client.take(&queue).text(), "slow");
}

#[test]
fn a_thousand_frames_may_come_at_once() {
    let mut client = Client::open();
    client.wire.send_bytes(&method_frame(1, &FLOW).repeat(1000));
    for _ in 0..1000 {
        let frame = client.next_method();
        assert!(matches!(frame.method(), Method::ChannelFlowOk(_)), "{frame:?}");
    }
    client.barrier();
}

#[test]
fn a_heartbeat_is_empty_and_on_channel_0() {
    check_fatal(&raw_frame(8, 1, &[]), (0, 0), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>");
    let text = "FRAME_ERROR - type 8, all octets = <<\"x\">>: unknown_frame";
    check_fatal(&raw_frame(8, 0, b"x"), (0, 0), 501, text);
    let mut client = Client::open();
    client.wire.send_bytes(&raw_frame(8, 0, &[]));
    client.barrier();
}

#[test]
fn a_method_has_at_least_four_octets() {
    for (payload, shown) in
        [(&[][..], "<<>>"), (&[0], "<<0>>"), (&[0, 20], "<<0,20>>"), (&[0, 20, 0], "<<0,20,0>>")]
    {
        let text = format!("FRAME_ERROR - type 1, all octets = {shown}: unknown_frame");
        check_fatal(&raw_frame(1, 1, payload), (0, 0), 501, &text);
    }
}

#[test]
fn an_unknown_method_is_503() {
    for (payload, id) in [([0, 99, 0, 1], (99, 1)), ([0, 60, 0, 99], (60, 99))] {
        if is_ours() {
            let text = format!("COMMAND_INVALID - unknown method {}.{}", id.0, id.1);
            check_fatal(&raw_frame(1, 1, &payload), id, 503, &text);
        } else {
            // RabbitMQ's reader dies of it.
            let mut client = Client::open();
            client.wire.send_bytes(&raw_frame(1, 1, &payload));
            client.wire.expect_tcp_close();
        }
    }
}

#[test]
fn a_method_only_brokers_send_is_503() {
    let text = "COMMAND_INVALID - unimplemented method";
    check_fatal(&raw_frame(1, 1, &[0, 50, 0, 21]), (50, 21), 503, text);
}

#[test]
fn trailing_bytes_after_the_arguments_are_501() {
    let payload = [FLOW_PAYLOAD, &[1, 2, 3]].concat();
    let text = "FRAME_ERROR - cannot decode <<1,1,2,3>>";
    check_fatal(&raw_frame(1, 1, &payload), (20, 20), 501, text);
}

#[test]
fn channel_max_bounds_how_many_are_open_and_not_their_numbers() {
    let tune = ConnectionTuneOk { channel_max: 3, frame_max: 131_072, heartbeat: 0 };
    let mut client = Login { tune, ..Login::default() }.connect();
    client.open_channel(500).open_channel(65_535);
    client.close_channel();
    client.open_channel(7);
    client.on(8).send(&Method::ChannelOpen(ChannelOpen {}));
    let text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)";
    client.expect_connection_close((0, 0), 530, text);
}

#[test]
fn a_channel_opened_twice_is_504() {
    let open = Method::ChannelOpen(ChannelOpen {});
    let text = "CHANNEL_ERROR - second 'channel.open' seen";
    Client::open().check_connection_close(&open, 504, text);

    // The broker has closed it, and the client has not said that it knows.
    let mut client = Client::open();
    client.send(&Method::QueuePurge(QueuePurge { queue: &unique("none"), nowait: false }));
    assert!(matches!(client.next_method().method(), Method::ChannelClose(_)));
    client.check_connection_close(&open, 504, text);
}

#[test]
fn a_channel_that_is_not_open_is_504() {
    let text = "CHANNEL_ERROR - expected 'channel.open'";
    for method in [FLOW, Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false })] {
        let mut client = Client::open();
        client.on(9);
        client.check_connection_close(&method, 504, text);
    }
    let mut closed = Client::open();
    closed.close_channel();
    closed.check_connection_close(&FLOW, 504, text);
}

#[test]
fn an_answer_nobody_waits_for_is_503() {
    for answer in [
        Method::ChannelCloseOk(ChannelCloseOk {}),
        Method::ChannelFlowOk(ChannelFlowOk { active: true }),
        Method::BasicCancelOk(BasicCancelOk { consumer_tag: "t" }),
        Method::QueueDeleteOk(QueueDeleteOk { message_count: 0 }),
    ] {
        Client::open().check_connection_close(&answer, 503, "COMMAND_INVALID - unimplemented method");
    }
}

#[test]
fn what_comes_on_a_channel_the_broker_closed_is_dropped() {
    let mut client = Client::open();
    let (queue, none) = (client.queue(), unique("none"));
    client.send(&Method::QueuePurge(QueuePurge { queue: &none, nowait: false }));
    let closed = client.next_method();
    assert!(matches!(closed.method(), Method::ChannelClose(_)));
    for _ in 0..100 {
        client.put(&queue, "dropped");
    }
    client.send(&FLOW);
    client.call(&Method::ChannelClose(CHANNEL_CLOSE), &Method::ChannelCloseOk(ChannelCloseOk {}));
    client.send(&Method::ChannelCloseOk(ChannelCloseOk {}));
    client.open_channel(1);
    assert_eq!(client.counts(&queue), (0, 0));
}

#[test]
fn what_is_dropped_comes_in_order_all_the_same() {
    let publish = method_frame(1, &Method::BasicPublish(publish("", "none")));
    let header = header_frame(1, 60, 0, 5, NO_PROPERTIES);
    let (body, whole) = (raw_frame(3, 1, b"1234"), content_frames(1, NO_PROPERTIES, b"12345"));
    let flow = method_frame(1, &FLOW);
    let close = method_frame(1, &Method::ChannelClose(CHANNEL_CLOSE));
    let close_ok = method_frame(1, &Method::ChannelCloseOk(ChannelCloseOk {}));
    let open = method_frame(1, &Method::ChannelOpen(ChannelOpen {}));
    let returned = method_frame(
        1,
        &Method::BasicReturn(BasicReturn {
            reply_code: 312,
            reply_text: "",
            exchange: b"",
            routing_key: b"",
        }),
    );
    const PUBLISH: (u16, u16) = (60, 40);
    let other = header_frame(1, 50, 0, 5, NO_PROPERTIES);
    let weighty = header_frame(1, 60, 1, 5, NO_PROPERTIES);
    let empty = header_frame(1, 60, 0, 0, NO_PROPERTIES);
    for (frames, method, expected) in [
        ([&*body, &[]], (0, 0), "method frame, got non method frame instead"),
        ([&whole, &[]], (0, 0), "method frame, got non method frame instead"),
        ([&publish, &flow], PUBLISH, HEADER_EXPECTED),
        ([&publish, &body], PUBLISH, HEADER_EXPECTED),
        ([&publish, &close], PUBLISH, HEADER_EXPECTED),
        ([&publish, &close_ok], PUBLISH, HEADER_EXPECTED),
        ([&publish, &open], PUBLISH, HEADER_EXPECTED),
        ([&publish, &weighty], PUBLISH, HEADER_EXPECTED),
        ([&publish, &other], PUBLISH, "content header for class 60, got one for class 50 instead"),
        ([&returned, &flow], (60, 50), HEADER_EXPECTED),
        ([&[&*publish, &empty].concat(), &body], (0, 0), "method frame, got non method frame instead"),
        ([&[&*publish, &header].concat(), &flow], PUBLISH, BODY_EXPECTED),
        ([&[&*publish, &header, &body].concat(), &flow], PUBLISH, BODY_EXPECTED),
        ([&[&*publish, &header, &body].concat(), &close], PUBLISH, BODY_EXPECTED),
        ([&[&*publish, &header, &body].concat(), &header], PUBLISH, BODY_EXPECTED),
    ] {
        let mut client = Client::open();
        client.send(&Method::QueuePurge(QueuePurge { queue: &unique("none"), nowait: false }));
        assert!(matches!(client.next_method().method(), Method::ChannelClose(_)));
        client.wire.send_bytes(&[&publish, &whole, frames[0], frames[1]].concat());
        client.expect_connection_close(method, 505, &format!("UNEXPECTED_FRAME - expected {expected}"));
    }
}

#[test]
fn a_large_message_to_nowhere_is_all_taken_and_costs_the_channel_alone() {
    let mut client = Client::open();
    let none = unique("none");
    client.publish_as(publish(&none, ""), NO_PROPERTIES, &[0; 5_000_000]);
    client.expect_channel_close((60, 40), 404, &format!("NOT_FOUND - no exchange '{none}' in vhost '/'"));
}

#[test]
fn a_close_that_is_not_answered_is_forced() {
    let mut client = Client::at(impatient());
    client.wire.set_deadline(Duration::from_secs(30));
    client.on(9).send(&FLOW);
    let close = client.wire.frame();
    assert!(matches!(close.method(), Method::ConnectionClose(_)));
    client.wire.expect_tcp_close();
    assert_usable(impatient());
}

#[test]
fn a_frame_end_in_a_payload_is_no_end() {
    let mut client = Client::open();
    let queue = client.queue();
    client.publish_as(publish("", &queue), NO_PROPERTIES, &[FRAME_END; 64]);
    assert_eq!(client.take(&queue).body, [FRAME_END; 64]);
}

#[test]
fn a_name_that_is_not_utf8_is_501() {
    let declare = [&[0, 50, 0, 10, 0, 0, 2][..], &[0xc3, 0x28], &[0, 0, 0, 0, 0]].concat();
    let text = "FRAME_ERROR - Malformed UTF-8 in shortstr";
    check_fatal(&raw_frame(1, 1, &declare), expected_of((50, 10), (0, 0)), 501, text);
}
