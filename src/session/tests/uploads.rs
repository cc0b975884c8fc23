//! Large messages that arrive at once, when there is no room for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::{Client, declare_durable};
use crate::broker::Broker;
use crate::broker::uploads::TURN;
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{BasicPublish, Method};

/// What unfinished messages may take.
const SHARE: u64 = 4 << 20;
const BODY_BYTES: usize = 2 << 20;
/// What is read at once, and a frame of a body.
const CHUNK_BYTES: usize = 64 << 10;
const FRAME_BYTES: usize = 131_064;

/// Clients that send one message each, a chunk at a time in turn.
struct Uploads {
    broker: Arc<Broker>,
    clients: Vec<(Client, VecDeque<BytesMut>)>,
}

impl Uploads {
    fn new(count: usize, body_bytes: usize) -> Self {
        let broker = Arc::new(Broker::new(Arc::new(Config::default()), u64::MAX, SHARE).unwrap());
        declare_durable(&mut Client::log_in(&broker, 0), "q");
        let client = || (Client::log_in(&broker, 0), upload(1, body_bytes));
        Self { clients: (0..count).map(|_| client()).collect(), broker }
    }

    /// Everybody does what they can, until nobody can do anything. Memory has its bounds meanwhile.
    fn go_on(&mut self) {
        let memory = Arc::clone(&self.broker.node.memory);
        let mut is_over = false;
        while !std::mem::replace(&mut is_over, true) {
            for (client, chunks) in &mut self.clients {
                if client.has_work() {
                    client.wake();
                    is_over = false;
                }
                if client.session.wants_input()
                    && let Some(chunk) = chunks.pop_front()
                {
                    client.feed(chunk);
                    is_over = false;
                }
                assert!(memory.partial_bodies.read() <= SHARE / 2 * 3 + FRAME_BYTES as u64);
                assert!(!client.told.contains(&"connection.close"), "a client is refused");
            }
        }
    }

    /// The same, while so many turns pass.
    fn go_on_for(&mut self, turns: u32) {
        let start = self.clients[0].0.now;
        for turn in 0..=2 * turns {
            self.go_on();
            self.broker.look_at_memory(start.later(TURN * turn).instant);
        }
        self.go_on();
    }

    /// How many messages have arrived.
    fn arrived(&self) -> u64 {
        self.broker.vhost("/").unwrap().queue("q").unwrap().counts().0
    }

    fn is_all_forgotten(&self) -> bool {
        let memory = &self.broker.node.memory;
        (memory.partial_bodies.read(), memory.granted_bodies.read()) == (0, 0)
    }
}

/// A message, in chunks.
fn upload(channel: u16, body_bytes: usize) -> VecDeque<BytesMut> {
    let bytes = frames(channel, body_bytes).concat();
    bytes.chunks(CHUNK_BYTES).map(BytesMut::from).collect()
}

/// A message's frames; before the first of its body stands its head.
fn frames(channel: u16, body_bytes: usize) -> Vec<Vec<u8>> {
    let publish = BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false };
    let mut head = BytesMut::new();
    frame::put_method(&mut head, channel, &Method::BasicPublish(publish));
    frame::put_header(&mut head, channel, body_bytes as u64, &[0, 0]);
    let mut frames = Vec::new();
    for payload in vec![7; body_bytes].chunks(FRAME_BYTES) {
        let mut frame = std::mem::take(&mut head);
        frame::put_body_head(&mut frame, channel, payload.len() as u32);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&[frame::FRAME_END]);
        frames.push(frame.to_vec());
    }
    frames
}

#[test]
fn those_for_which_there_is_no_room_wait_and_all_arrive() {
    for (count, body_bytes) in [(7, BODY_BYTES), (40, 900_000), (3, 16 << 20), (1, 64 << 20)] {
        let mut uploads = Uploads::new(count, body_bytes);
        uploads.go_on();
        assert_eq!(uploads.arrived(), count as u64, "of {body_bytes} bytes");
        assert!(uploads.is_all_forgotten());
    }
}

#[test]
fn one_that_sends_nothing_more_keeps_others_waiting_for_a_moment() {
    let mut uploads = Uploads::new(7, BODY_BYTES);
    // Whichever it is that goes on first.
    for silent in [0, 1, 2] {
        uploads.clients[silent].1.truncate(28);
    }
    uploads.go_on_for(3);
    assert_eq!(uploads.arrived(), 4);
    uploads.clients.drain(..3);
    assert!(uploads.is_all_forgotten());
}

#[test]
fn those_that_go_let_others_go_on() {
    let mut uploads = Uploads::new(9, BODY_BYTES);
    for (_, chunks) in &mut uploads.clients[..4] {
        chunks.truncate(28);
    }
    uploads.go_on();
    let arrived = uploads.arrived();
    assert!(arrived < 5, "nobody waits");
    // One that has a turn, or waits, with every one that goes.
    for _ in 0..4 {
        uploads.clients.remove(0);
        uploads.go_on();
    }
    uploads.go_on_for(1);
    assert_eq!(uploads.arrived(), 5);
    assert!(uploads.is_all_forgotten());
}

#[test]
fn what_goes_on_without_room_has_a_bound_too() {
    let mut uploads = Uploads::new(8, BODY_BYTES * 2);
    for (_, chunks) in &mut uploads.clients {
        chunks.pop_back();
    }
    let memory = Arc::clone(&uploads.broker.node.memory);
    let mut now = uploads.clients[0].0.now;
    for _ in 0..200 {
        now = now.later(TURN);
        uploads.broker.look_at_memory(now.instant);
        for (client, chunks) in &mut uploads.clients {
            if client.has_work() {
                client.wake();
            }
            if client.session.wants_input()
                && let Some(chunk) = chunks.pop_front()
            {
                client.feed(chunk);
            }
        }
        let held_bytes = memory.partial_bodies.read() + memory.granted_bodies.read();
        assert!(held_bytes <= SHARE / 2 * 3 + 2 * SHARE + 2 * BODY_BYTES as u64 + CHUNK_BYTES as u64);
    }
    let refused = uploads.clients.iter().filter(|(client, _)| client.told.contains(&"connection.close"));
    assert!(refused.count() > 0, "nobody is refused, and nobody has sent all");
}

#[test]
fn messages_that_take_turns_on_one_connection_are_whole() {
    let mut uploads = Uploads::new(3, BODY_BYTES);
    for (_, chunks) in &mut uploads.clients {
        let pairs = frames(1, BODY_BYTES).into_iter().zip(frames(2, BODY_BYTES));
        *chunks =
            pairs.flat_map(|(one, other)| [BytesMut::from(&one[..]), BytesMut::from(&other[..])]).collect();
    }
    uploads.go_on();
    assert_eq!(uploads.arrived(), 6);
    assert!(uploads.is_all_forgotten());
}
