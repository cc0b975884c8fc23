//! Bodies that are cut out of the read buffer.

use bytes::BytesMut;

use super::{Client, broker, consume, declare_durable, get, publish};
use crate::protocol::frame;
use crate::protocol::methods::{BasicPublish, Method};

/// A body frame on the first channel, with this end.
fn body_frame(payload: &[u8], end: u8) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame::put_body_head(&mut frame, 1, payload.len() as u32);
    [&frame, payload, &[end]].concat()
}

#[test]
fn a_large_body_is_taken_as_it_arrives_in_whatever_parts() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let mut head = BytesMut::new();
    let publish = BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false };
    frame::put_method(&mut head, 1, &Method::BasicPublish(publish));
    frame::put_header(&mut head, 1, body.len() as u64, &[0, 0]);
    let frames = [&body[..131_064], &body[131_064..200_000], &body[200_000..]];
    let mut bytes = head.to_vec();
    frames.iter().for_each(|payload| bytes.extend(body_frame(payload, frame::FRAME_END)));
    for part_bytes in [bytes.len(), 65_536, 40_000, 33_000, 10_007] {
        bytes.chunks(part_bytes).for_each(|part| client.feed(BytesMut::from(part)));
        client.say(1, &get("q"));
        assert!(client.bodies.pop().unwrap() == body, "in parts of {part_bytes}");
    }
    assert_eq!(broker.node.memory.partial_bodies.read(), 0);
}

#[test]
fn a_large_body_frame_with_a_wrong_end_is_no_message() {
    let broker = broker();
    for part_bytes in [131_072, 50_000] {
        let mut client = Client::log_in(&broker, 0);
        declare_durable(&mut client, "q");
        let mut head = BytesMut::new();
        let publish = BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false };
        frame::put_method(&mut head, 1, &Method::BasicPublish(publish));
        frame::put_header(&mut head, 1, 100_000, &[0, 0]);
        client.feed(head);
        client.told.clear();
        let frame = body_frame(&[7; 100_000], 0);
        frame.chunks(part_bytes).for_each(|part| client.feed(BytesMut::from(part)));
        assert_eq!(client.told(), ["connection.close"]);
        assert_eq!(broker.vhost("/").unwrap().queue("q").unwrap().counts().0, 0);
        assert_eq!(broker.node.memory.partial_bodies.read(), 0);
    }
}

#[test]
fn a_large_body_keeps_its_read_buffer_in_memory_only_where_it_is_most_of_it() {
    let broker = broker();
    let mut client = Client::log_in(&broker, 0);
    declare_durable(&mut client, "q");
    let large = publish(b"q", &[7; 70_000]);
    let small = publish(b"q", b"small").repeat(2_000);
    // What is read at once. What one chunk mostly was, the next is taken for.
    for (chunk, is_kept) in [
        (vec![&large[..]], true),
        (vec![&large, &large], true),
        (vec![&small], false),
        (vec![&small, &large], false),
        (vec![&large, &small], false),
    ] {
        let mut buffer = BytesMut::with_capacity(512 * 1024);
        chunk.iter().for_each(|part| buffer.extend_from_slice(part));
        let bytes = buffer.len();
        client.feed(buffer);
        assert!(client.input.is_empty());
        assert_eq!(!client.input.try_reclaim(512 * 1024), is_kept, "a chunk of {bytes} bytes");
    }
}

#[test]
fn a_body_that_may_rest_does_not_keep_a_buffer_in_memory_that_it_shares_with_many() {
    let broker = broker();
    let (mut publisher, mut consumer) = (Client::log_in(&broker, 0), Client::log_in(&broker, 0));
    declare_durable(&mut publisher, "taken");
    declare_durable(&mut publisher, "resting");
    consume(&mut consumer, "taken");
    consumer.wake();
    // What one chunk mostly was, the next is taken for.
    publisher.feed(publish(b"resting", &[7; 70_000]));
    for (queue, body_bytes, is_kept) in [
        ("taken", 20_000, true),
        ("resting", 20_000, false),
        ("resting", 60_000, false),
        ("taken", 60_000, true),
        ("resting", 70_000, true),
        ("taken", 10_000, false),
    ] {
        let mut buffer = BytesMut::with_capacity(512 * 1024);
        (0..6).for_each(|_| buffer.extend_from_slice(&publish(queue.as_bytes(), &vec![7; body_bytes])));
        publisher.feed(buffer);
        assert!(publisher.input.is_empty());
        assert_eq!(!publisher.input.try_reclaim(512 * 1024), is_kept, "{body_bytes} bytes, {queue}");
    }
    consumer.wake();
    let taken = [20_000, 60_000, 10_000].map(|body_bytes| vec![vec![7; body_bytes]; 6]);
    assert_eq!(consumer.bodies, taken.concat());
}
