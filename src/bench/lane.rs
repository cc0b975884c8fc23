//! The messages of a producer, encoded before the run: a ring that is walked round and round, of which only the stamps
//! change, so that a message costs a store of 16 bytes and its share of one write.

use bytes::{BufMut, BytesMut};

use crate::bench::args::Args;
use crate::bench::check::Flow;
use crate::bench::client::CHANNEL;
use crate::bench::stamp::{NUMBERED_BYTES, Stamp, TIMED_BYTES};
use crate::bench::topology::Route;
use crate::protocol::frame::{FRAME_END, FRAME_OVERHEAD, put_body_head, put_header, put_method};
use crate::protocol::methods::{BasicPublish, Method};
use crate::protocol::properties::PropertiesBuf;

/// The delivery mode of messages that survive a restart.
const PERSISTENT: u8 = 2;
/// What is written at once.
const BURST_BYTES: usize = 64 * 1024;

/// A ring of messages.
pub(super) struct Lane {
    queues: Vec<u16>,
    /// Each message goes to one of the queues, in turn, and not to all.
    in_turn: bool,
    /// Messages published so far.
    published: u64,
    bytes: BytesMut,
    /// Where each message begins and where its stamp does, in order; at the end where the last one ends.
    places: Vec<Place>,
    /// How much of a stamp fits.
    stamp_bytes: usize,
    /// Messages that are written at once.
    burst_messages: usize,
    at: usize,
}

#[derive(Clone, Copy)]
struct Place {
    start: usize,
    stamp: usize,
}

impl Lane {
    /// The ring for a route: all keys and sizes, whole rounds of the keys, and a burst at least where it can be.
    pub(super) fn new(route: &Route, args: &Args, frame_max: u32) -> Self {
        let mut bytes = BytesMut::new();
        let mut places = Vec::new();
        let properties = properties(args);
        let least = route.keys.len().max(args.size.len()).max(properties.len());
        let sizes = args.size.iter().cycle().zip(properties.iter().cycle());
        for (key, (&size, properties)) in route.keys.iter().cycle().zip(sizes) {
            places.push(put_message(&mut bytes, &route.exchange, key, size as usize, properties, frame_max));
            let mean_bytes = bytes.len() / places.len();
            let is_round = places.len() >= least && places.len().is_multiple_of(route.keys.len());
            if is_round && bytes.len() + mean_bytes > BURST_BYTES {
                break;
            }
        }
        let burst_messages = (BURST_BYTES * places.len() / bytes.len().max(1)).clamp(1, places.len().max(1));
        places.push(Place { start: bytes.len(), stamp: bytes.len() });
        let stamp_bytes = match args.least_bytes() as usize {
            TIMED_BYTES.. => TIMED_BYTES,
            NUMBERED_BYTES.. => NUMBERED_BYTES,
            _ => 0,
        };
        let (queues, in_turn) = (route.queues.clone(), route.in_turn);
        Self { queues, in_turn, published: 0, bytes, places, stamp_bytes, burst_messages, at: 0 }
    }

    /// How many messages the next burst has, at most.
    pub(super) fn burst_messages(&self) -> usize {
        self.burst_messages.min(self.places.len() - 1 - self.at)
    }

    /// The next so many messages as they go on the wire, at most [`Lane::burst_messages`]; `sent_ns` says when each
    /// is sent.
    pub(super) fn burst(
        &mut self,
        producer: u16,
        count: usize,
        mut sent_ns: impl FnMut(u64) -> u64,
    ) -> &[u8] {
        let (from, to) = (self.at, self.at + count);
        for place in self.places.get(from..to).unwrap_or_default() {
            let sent_ns = sent_ns(self.published);
            let number =
                if self.in_turn { self.published / self.queues.len() as u64 } else { self.published };
            let stamp = Stamp { producer, number, sent_ns }.to_bytes();
            self.published += 1;
            let into = self.bytes.get_mut(place.stamp..place.stamp + self.stamp_bytes);
            if let (Some(into), Some(stamp)) = (into, stamp.get(..self.stamp_bytes)) {
                into.copy_from_slice(stamp);
            }
        }
        self.at = if to + 1 >= self.places.len() { 0 } else { to };
        let start = |at: usize| self.places.get(at).map_or(self.bytes.len(), |place| place.start);
        self.bytes.get(start(from)..start(to)).unwrap_or_default()
    }

    /// Messages published.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// How many of them each queue got.
    pub(super) fn counts(&self, producer: u16) -> impl Iterator<Item = (Flow, u64)> {
        let queues = self.queues.len() as u64;
        (0..).zip(&self.queues).map(move |(place, &queue)| {
            let turns = (self.published + queues - 1 - place) / queues;
            (Flow { producer, queue }, if self.in_turn { turns } else { self.published })
        })
    }
}

/// The properties of messages, in turn.
fn properties(args: &Args) -> Vec<Vec<u8>> {
    let encode = |priority: Option<u8>| {
        let mut properties = PropertiesBuf::new();
        if args.persistent {
            properties.delivery_mode(PERSISTENT);
        }
        if let Some(priority) = priority {
            properties.priority(priority);
        }
        properties.encode()
    };
    if args.priority.is_empty() {
        return vec![encode(None)];
    }
    args.priority.iter().map(|priority| encode(Some(*priority))).collect()
}

fn put_message(
    out: &mut BytesMut,
    exchange: &str,
    key: &str,
    size: usize,
    properties: &[u8],
    frame_max: u32,
) -> Place {
    let start = out.len();
    let (exchange, routing_key) = (exchange.as_bytes(), key.as_bytes());
    let publish = BasicPublish { exchange, routing_key, mandatory: false, immediate: false };
    put_method(out, CHANNEL, &Method::BasicPublish(publish));
    put_header(out, CHANNEL, size as u64, properties);
    let stamp = out.len() + FRAME_OVERHEAD - 1;
    let mut left = size;
    while left > 0 {
        let part = left.min(frame_max as usize - FRAME_OVERHEAD);
        put_body_head(out, CHANNEL, part as u32);
        out.put_bytes(b'x', part);
        out.put_u8(FRAME_END);
        left -= part;
    }
    Place { start, stamp }
}
