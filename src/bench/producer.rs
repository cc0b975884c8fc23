//! A producer: one connection that publishes bursts as fast as the broker takes them, or at a rate.
//!
//! A burst is encoded once, when the run begins. What changes per message is its stamp, written in place, so
//! that a message costs a store of 16 bytes and its share of one write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::Flow;
use crate::bench::client::{CHANNEL, Client, Input, refuse_close};
use crate::bench::confirms::Confirms;
use crate::bench::meter::{Meter, add};
use crate::bench::stamp::{NUMBERED_BYTES, Stamp, TIMED_BYTES};
use crate::protocol::frame::{FRAME_END, FRAME_OVERHEAD, FrameKind, put_body_head, put_header, put_method};
use crate::protocol::methods::{BasicPublish, ConfirmSelect, Method};

/// What a producer with a single queue writes at once.
const BURST_BYTES: usize = 64 * 1024;
/// What one with many queues writes at once; it keeps a burst for each.
const SMALL_BURST_BYTES: usize = 8 * 1024;
const FEW_QUEUES: usize = 16;

/// How long the broker may be silent with confirms outstanding once publishing is over.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a producer sleeps when it is ahead of its rate.
const PACE: Duration = Duration::from_millis(1);

/// No property; or delivery_mode alone, as persistent.
const PROPERTIES_TRANSIENT: &[u8] = &[0, 0];
const PROPERTIES_PERSISTENT: &[u8] = &[0x10, 0, 2];

/// One connection that publishes.
pub(super) struct Producer {
    id: u16,
    output: OwnedWriteHalf,
    lanes: Vec<Lane>,
    confirms: Option<(Arc<Confirms>, u64)>,
    /// Messages a second.
    rate: Option<f64>,
    published: u64,
}

/// What a producer sent, by the time it stopped. The connection stays open until the run is over, for a
/// broker may drop what a connection sent just before it went away.
pub(super) struct Sent {
    pub(super) counts: HashMap<Flow, u64>,
    pub(super) _output: OwnedWriteHalf,
}

impl Producer {
    /// Opens the connection; returns its reading half, which [`watch`] must be fed with.
    pub(super) async fn open(
        id: u16,
        mut client: Client,
        queues: &[(u16, String)],
        args: &Args,
    ) -> anyhow::Result<(Self, Input)> {
        let confirms = args.window().map(|window| (Arc::new(Confirms::new()), u64::from(window)));
        if confirms.is_some() {
            let select = Method::ConfirmSelect(ConfirmSelect { nowait: false });
            client.ask(&select, |method| matches!(method, Method::ConfirmSelectOk(_))).await?;
        }
        let burst_bytes = if queues.len() <= FEW_QUEUES { BURST_BYTES } else { SMALL_BURST_BYTES };
        let frame_max = client.input.frame_max;
        let lanes = queues
            .iter()
            .map(|(queue, name)| Lane::new(*queue, name, args, frame_max, burst_bytes))
            .collect();
        let rate = (args.rate > 0).then(|| args.rate as f64 / f64::from(args.producers));
        let producer = Self { id, output: client.output, lanes, confirms, rate, published: 0 };
        Ok((producer, client.input))
    }

    /// The confirms to tell [`watch`] of.
    pub(super) fn confirms(&self) -> Option<Arc<Confirms>> {
        self.confirms.as_ref().map(|(confirms, _)| Arc::clone(confirms))
    }

    /// Publishes until told to stop, and waits for what is not confirmed then.
    pub(super) async fn run(mut self, meter: Arc<Meter>, stop: CancellationToken) -> anyhow::Result<Sent> {
        let mut turn = 0;
        while !stop.is_cancelled() {
            let Some(room) = self.room(&meter, &stop).await else { break };
            let lanes = self.lanes.len();
            let Some(lane) = self.lanes.get_mut(turn % lanes.max(1)) else { break };
            turn += 1;
            let count = lane.messages.min(usize::try_from(room).unwrap_or(usize::MAX));
            let now_ns = meter.now_ns();
            self.published += count as u64;
            if let Some((confirms, _)) = &self.confirms {
                confirms.on_burst(self.published, now_ns);
            }
            self.output.write_all(lane.burst(self.id, count, now_ns)).await?;
            add(&meter.published, count as u64);
        }
        self.settle().await?;
        let flow = |lane: &Lane| (Flow { producer: self.id, queue: lane.queue }, lane.next_number);
        Ok(Sent { counts: self.lanes.iter().map(flow).collect(), _output: self.output })
    }

    /// How many messages may be published now, at least one; `None` when told to stop before that.
    async fn room(&self, meter: &Meter, stop: &CancellationToken) -> Option<u64> {
        loop {
            let changed = self.confirms.as_ref().map(|(confirms, _)| confirms.changed.notified());
            let by_window = match &self.confirms {
                Some((confirms, window)) => window.saturating_sub(confirms.outstanding(self.published)),
                None => u64::MAX,
            };
            let by_rate = match self.rate {
                Some(rate) => ((rate * meter.seconds()) as u64).saturating_sub(self.published),
                None => u64::MAX,
            };
            match (by_window, by_rate) {
                (0, _) => {
                    let changed = changed?;
                    tokio::select! {
                        () = changed => {}
                        () = stop.cancelled() => return None,
                    }
                }
                (_, 0) => {
                    tokio::select! {
                        () = sleep(PACE) => {}
                        () = stop.cancelled() => return None,
                    }
                }
                _ => return Some(by_window.min(by_rate)),
            }
        }
    }

    /// Waits until every publish is confirmed.
    async fn settle(&self) -> anyhow::Result<()> {
        let Some((confirms, _)) = &self.confirms else { return Ok(()) };
        loop {
            let changed = confirms.changed.notified();
            let outstanding = confirms.outstanding(self.published);
            if outstanding == 0 {
                return Ok(());
            }
            timeout(CONFIRM_TIMEOUT, changed)
                .await
                .with_context(|| format!("{outstanding} publishes were never confirmed"))?;
        }
    }
}

/// Reads what the broker tells a producer. Ends with an error only.
pub(super) async fn watch(
    mut input: Input,
    confirms: Option<Arc<Confirms>>,
    meter: Arc<Meter>,
) -> anyhow::Result<()> {
    loop {
        let now_ns = meter.now_ns();
        let mut confirmed = 0;
        let mut answer = |tag, multiple, acked| {
            if let Some(confirms) = &confirms {
                confirmed += confirms.on_answer(tag, multiple, acked, now_ns);
            }
        };
        input.on_frames(|frame| {
            if frame.kind == FrameKind::Method {
                match Method::parse(frame.payload)? {
                    Method::BasicAck(ack) => answer(ack.delivery_tag, ack.multiple, true),
                    Method::BasicNack(nack) => answer(nack.delivery_tag, nack.multiple, false),
                    Method::ConnectionBlocked(_) => add(&meter.blocked, 1),
                    other => refuse_close(&other)?,
                }
            }
            Ok(())
        })?;
        if confirmed > 0 {
            add(&meter.confirmed, confirmed);
        }
        if let Some(confirms) = &confirms {
            confirms.changed.notify_one();
        }
        input.read().await?;
    }
}

/// The burst for one queue.
struct Lane {
    queue: u16,
    next_number: u64,
    bytes: BytesMut,
    messages: usize,
    message_bytes: usize,
    /// Where in a message its stamp begins, and how much of the stamp fits.
    stamp_at: usize,
    stamp_bytes: usize,
}

impl Lane {
    fn new(queue: u16, name: &str, args: &Args, frame_max: u32, burst_bytes: usize) -> Self {
        let size = args.size as usize;
        let mut message = BytesMut::new();
        let publish =
            BasicPublish { exchange: b"", routing_key: name.as_bytes(), mandatory: false, immediate: false };
        put_method(&mut message, CHANNEL, &Method::BasicPublish(publish));
        let properties = if args.persistent { PROPERTIES_PERSISTENT } else { PROPERTIES_TRANSIENT };
        put_header(&mut message, CHANNEL, size as u64, properties);
        let head_bytes = message.len();
        let mut left = size;
        while left > 0 {
            let part = left.min(frame_max as usize - FRAME_OVERHEAD);
            put_body_head(&mut message, CHANNEL, part as u32);
            message.put_bytes(b'x', part);
            message.put_u8(FRAME_END);
            left -= part;
        }
        let messages = (burst_bytes / message.len()).max(1);
        Self {
            queue,
            next_number: 0,
            bytes: message.repeat(messages).as_slice().into(),
            messages,
            message_bytes: message.len(),
            stamp_at: head_bytes + FRAME_OVERHEAD - 1,
            stamp_bytes: match size {
                TIMED_BYTES.. => TIMED_BYTES,
                NUMBERED_BYTES.. => NUMBERED_BYTES,
                _ => 0,
            },
        }
    }

    /// The next so many messages, as they go on the wire.
    fn burst(&mut self, producer: u16, count: usize, sent_ns: u64) -> &[u8] {
        for message in self.bytes.chunks_exact_mut(self.message_bytes).take(count) {
            let stamp = Stamp { producer, number: self.next_number, sent_ns }.to_bytes();
            self.next_number += 1;
            let place = message.get_mut(self.stamp_at..self.stamp_at + self.stamp_bytes);
            if let (Some(place), Some(stamp)) = (place, stamp.get(..self.stamp_bytes)) {
                place.copy_from_slice(stamp);
            }
        }
        self.bytes.get(..count * self.message_bytes).unwrap_or_default()
    }
}
