//! A consumer: one connection that takes deliveries in place, acknowledges them, and notes what they carry.
//!
//! Deliveries are by far the most common frames, so their arguments are read by hand; the rest is left to
//! [`Method::parse`]. What a chunk of input brings is counted and acknowledged at its end.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::BytesMut;
use hdrhistogram::Histogram;
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::{Flow, Received};
use crate::bench::client::{CHANNEL, Client, Input, refuse_close};
use crate::bench::meter::{Meter, latency_histogram};
use crate::bench::socket::Writer;
use crate::bench::stamp::{NUMBERED_BYTES, Stamp, TIMED_BYTES};
use crate::bench::topology::dead_letters_of;
use crate::protocol::frame::{FrameKind, FrameView, put_method};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::{BasicAck, BasicConsume, BasicQos, BasicReject, Method};
use crate::protocol::table::Table;

/// The number of a queue whose deliveries are rejected is so much higher in its consumer tag.
const REJECTED: u16 = 10_000;

/// Class and method of `basic.deliver`.
const DELIVER: (u16, u16) = (60, 60);

/// One connection that consumes.
pub(super) struct Consumer {
    input: Input,
    output: Writer,
    intake: Intake,
    acks: Option<Acks>,
}

/// What a consumer found.
pub(super) struct Taken {
    pub(super) received: Received,
    pub(super) latency: Histogram<u64>,
}

impl Consumer {
    /// Opens the connection and starts consuming.
    pub(super) async fn open(
        mut client: Client,
        queues: &[(u16, String)],
        args: &Args,
    ) -> anyhow::Result<Self> {
        if !args.auto_ack && args.prefetch > 0 {
            let qos = BasicQos { prefetch_size: 0, prefetch_count: args.prefetch, global: false };
            client.ask(&Method::BasicQos(qos), |method| matches!(method, Method::BasicQosOk(_))).await?;
        }
        let mut frames = BytesMut::new();
        for (queue, name) in queues {
            if args.dead_letters {
                put_consume(&mut frames, queue + REJECTED, name, false);
                put_consume(&mut frames, *queue, &dead_letters_of(name), true);
            } else {
                put_consume(&mut frames, *queue, name, args.auto_ack);
            }
        }
        client.output.write(&frames).await?;
        let acknowledges = !args.auto_ack && !args.dead_letters;
        let acks = acknowledges.then(|| Acks { every: u64::from(args.ack_every), acked_to: 0, taken_to: 0 });
        Ok(Self { input: client.input, output: client.output, intake: Intake::new(args), acks })
    }

    /// Consumes until told to stop.
    pub(super) async fn run(mut self, meter: Arc<Meter>, stop: CancellationToken) -> anyhow::Result<Taken> {
        let mut frames = BytesMut::new();
        loop {
            tokio::select! {
                read = self.input.read() => read?,
                () = stop.cancelled() => break,
            }
            self.intake.now_ns = meter.now_ns();
            let before = self.intake.count;
            self.input.on_frames(|frame| self.intake.on_frame(frame))?;
            if let Some(acks) = &mut self.acks {
                acks.taken_to = self.intake.last_tag;
                if acks.put_due(&mut frames) {
                    self.output.write(&frames).await?;
                    frames.clear();
                }
            }
            if !self.intake.rejected.is_empty() {
                for delivery_tag in self.intake.rejected.drain(..) {
                    let reject = BasicReject { delivery_tag, requeue: false };
                    put_method(&mut frames, CHANNEL, &Method::BasicReject(reject));
                }
                self.output.write(&frames).await?;
                frames.clear();
            }
            self.intake.note_latency();
            self.intake.share_latency(&meter);
            meter.on_received(self.intake.count - before);
        }
        if let Some(acks) = &mut self.acks {
            acks.put(&mut frames);
            // The run is over: a broker that no longer listens does not matter.
            let _ = self.output.write(&frames).await;
        }
        self.intake.note_latency();
        Ok(Taken { received: self.intake.received, latency: self.intake.latency })
    }
}

fn put_consume(out: &mut BytesMut, number: u16, queue: &str, no_ack: bool) {
    let consume = BasicConsume {
        queue,
        // The tag brings back which queue a delivery is from.
        consumer_tag: &number.to_string(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: true,
        arguments: Table::EMPTY,
    };
    put_method(out, CHANNEL, &Method::BasicConsume(consume));
}

/// Which deliveries were acknowledged.
struct Acks {
    every: u64,
    acked_to: u64,
    /// The last delivery whose body arrived whole.
    taken_to: u64,
}

impl Acks {
    /// Writes what is due: one acknowledgement of the last multiple of K stands for those before it.
    fn put_due(&mut self, out: &mut BytesMut) -> bool {
        // K of 1 means each on its own, as a client would that does not batch.
        if self.every == 1 {
            for delivery_tag in self.acked_to + 1..=self.taken_to {
                put_method(out, CHANNEL, &Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
            }
            let due = self.acked_to < self.taken_to;
            self.acked_to = self.taken_to;
            return due;
        }
        let due_from = self.acked_to;
        while self.taken_to - self.acked_to >= self.every {
            self.acked_to += self.every;
            let ack = BasicAck { delivery_tag: self.acked_to, multiple: true };
            put_method(out, CHANNEL, &Method::BasicAck(ack));
        }
        due_from < self.acked_to
    }

    /// Writes one for all that is left.
    fn put(&mut self, out: &mut BytesMut) {
        if self.acked_to < self.taken_to {
            let ack = BasicAck { delivery_tag: self.taken_to, multiple: true };
            put_method(out, CHANNEL, &Method::BasicAck(ack));
        }
    }
}

/// Takes frames and notes the messages they make.
struct Intake {
    /// The smaller of the messages' size and the stamp's.
    stamp_bytes: usize,
    sizes: Vec<u32>,
    queue: u16,
    tag: u64,
    /// Body still to come; `None` between messages.
    body_left: Option<u64>,
    stamp: [u8; TIMED_BYTES],
    stamp_len: usize,
    now_ns: u64,
    count: u64,
    last_tag: u64,
    /// Deliveries of this chunk that are not wanted.
    rejected: Vec<u64>,
    received: Received,
    latency: Histogram<u64>,
    /// Messages in a row of one burst share a time and are recorded together.
    burst_ns: u64,
    burst_count: u64,
    /// Of this chunk.
    recent: Vec<(u64, u64)>,
}

impl Intake {
    fn new(args: &Args) -> Self {
        Self {
            stamp_bytes: (args.least_bytes() as usize).min(TIMED_BYTES),
            sizes: args.size.clone(),
            queue: 0,
            tag: 0,
            body_left: None,
            stamp: [0; TIMED_BYTES],
            stamp_len: 0,
            now_ns: 0,
            count: 0,
            last_tag: 0,
            rejected: Vec::new(),
            received: Received::default(),
            latency: latency_histogram(),
            burst_ns: 0,
            burst_count: 0,
            recent: Vec::new(),
        }
    }

    #[inline]
    fn on_frame(&mut self, frame: FrameView<'_>) -> anyhow::Result<()> {
        match frame.kind {
            FrameKind::Method => self.on_method(frame.payload),
            FrameKind::Header => self.on_header(frame.payload),
            FrameKind::Body => self.on_body(frame.payload),
            FrameKind::Heartbeat => Ok(()),
        }
    }

    #[inline]
    fn on_method(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        if Method::peek_id(payload) != Some(DELIVER) {
            return on_other(payload);
        }
        let (queue, tag) =
            read_delivery(payload).context("the broker sent a delivery that cannot be read")?;
        self.queue = queue;
        self.tag = tag;
        self.stamp_len = 0;
        Ok(())
    }

    #[inline]
    fn on_header(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let header = ContentHeader::parse(payload)?;
        if !self.sizes.iter().any(|&size| u64::from(size) == header.body_bytes) {
            bail!("a message of {} bytes came back, which nobody sent", header.body_bytes);
        }
        self.body_left = Some(header.body_bytes);
        if header.body_bytes == 0 {
            self.on_message();
        }
        Ok(())
    }

    #[inline]
    fn on_body(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let left = self.body_left.and_then(|left| left.checked_sub(payload.len() as u64));
        let Some(left) = left else { bail!("the broker sent more body than it had declared") };
        self.body_left = Some(left);
        let wanted = (self.stamp_bytes - self.stamp_len).min(payload.len());
        let place = self.stamp.get_mut(self.stamp_len..self.stamp_len + wanted);
        if let (Some(place), Some(part)) = (place, payload.get(..wanted)) {
            place.copy_from_slice(part);
        }
        self.stamp_len += wanted;
        if left == 0 {
            self.on_message();
        }
        Ok(())
    }

    #[inline]
    fn on_message(&mut self) {
        self.body_left = None;
        if self.queue >= REJECTED {
            return self.rejected.push(self.tag);
        }
        self.last_tag = self.tag;
        self.count += 1;
        if self.stamp_bytes < NUMBERED_BYTES {
            return;
        }
        let stamp = Stamp::from_bytes(self.stamp);
        self.received.on_message(Flow { producer: stamp.producer, queue: self.queue }, stamp.number);
        if self.stamp_bytes == TIMED_BYTES {
            // Within a chunk the time of arrival is one; a change of either time starts a new record.
            let latency_ns = self.now_ns.saturating_sub(stamp.sent_ns).max(1);
            if latency_ns != self.burst_ns {
                self.note_latency();
                self.burst_ns = latency_ns;
            }
            self.burst_count += 1;
        }
    }

    fn note_latency(&mut self) {
        if self.burst_count > 0 {
            self.latency.saturating_record_n(self.burst_ns, self.burst_count);
            self.recent.push((self.burst_ns, self.burst_count));
        }
        self.burst_count = 0;
    }

    /// Tells the others of the latencies since this was last done.
    fn share_latency(&mut self, meter: &Meter) {
        if !self.recent.is_empty() {
            let mut shared = meter.recent.lock();
            self.recent.drain(..).for_each(|(ns, count)| shared.saturating_record_n(ns, count));
        }
    }
}

/// The queue's number, which is the consumer tag, and the delivery tag.
#[inline]
fn read_delivery(payload: &[u8]) -> Option<(u16, u64)> {
    let (&[_, _, _, _, tag_bytes], rest) = payload.split_first_chunk()?;
    let (consumer_tag, rest) = rest.split_at_checked(usize::from(tag_bytes))?;
    let (delivery_tag, _) = rest.split_first_chunk()?;
    let digit =
        |number: u16, byte: &u8| number.checked_mul(10)?.checked_add(u16::from(byte.checked_sub(b'0')?));
    let queue = consumer_tag.iter().try_fold(0, digit)?;
    Some((queue, u64::from_be_bytes(*delivery_tag)))
}

#[cold]
fn on_other(payload: &[u8]) -> anyhow::Result<()> {
    let method = Method::parse(payload)?;
    refuse_close(&method)?;
    if let Method::BasicCancel(cancel) = method {
        bail!("the broker cancelled the consumer of queue {}", cancel.consumer_tag);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{Acks, read_delivery};
    use crate::protocol::frame::peek;
    use crate::protocol::methods::{BasicDeliver, Method};

    #[test]
    fn a_delivery_is_read_by_hand_as_the_table_would() {
        let deliver = BasicDeliver {
            consumer_tag: "123",
            delivery_tag: 1 << 40,
            redelivered: false,
            exchange: b"",
            routing_key: b"q",
        };
        let mut payload = BytesMut::new();
        Method::BasicDeliver(deliver).encode(&mut payload);
        assert_eq!(read_delivery(&payload), Some((123, 1 << 40)));
        assert_eq!(read_delivery(&payload[..8]), None);
    }

    #[test]
    fn acknowledgements_are_due_at_every_kth_delivery() {
        let acked = |every, steps: &[u64]| {
            let mut acks = Acks { every, acked_to: 0, taken_to: 0 };
            let mut out = BytesMut::new();
            for taken_to in steps {
                acks.taken_to = *taken_to;
                acks.put_due(&mut out);
            }
            acks.put(&mut out);
            let mut tags = Vec::new();
            let mut rest = &out[..];
            while let Some(frame) = peek(rest, 4096).unwrap() {
                if let Ok(Method::BasicAck(ack)) = Method::parse(frame.payload) {
                    tags.push((ack.delivery_tag, ack.multiple));
                }
                rest = &rest[frame.wire_bytes()..];
            }
            tags
        };
        assert_eq!(acked(3, &[2, 7, 8]), [(3, true), (6, true), (8, true)]);
        assert_eq!(acked(1, &[1, 3]), [(1, false), (2, false), (3, false)]);
    }
}
