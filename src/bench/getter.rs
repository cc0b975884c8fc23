//! A consumer that asks: one basic.get after the other, each answered before the next.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::BytesMut;
use hdrhistogram::Histogram;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::{Flow, Received};
use crate::bench::client::{CHANNEL, Client, refuse_close};
use crate::bench::consumer::Taken;
use crate::bench::meter::{Meter, latency_histogram};
use crate::bench::stamp::{NUMBERED_BYTES, Stamp, TIMED_BYTES};
use crate::bench::topology::NamedQueue;
use crate::protocol::frame::{FrameKind, FrameView, put_method};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::{BasicAck, BasicGet, Method};

/// How long to wait after a queue was found empty.
const PAUSE: Duration = Duration::from_millis(1);

/// One connection that asks for messages.
pub(super) struct Getter {
    client: Client,
    queues: Vec<NamedQueue>,
    no_ack: bool,
    answer: Answer,
    received: Received,
    latency: Histogram<u64>,
}

/// What is known of the answer to a basic.get.
#[derive(Default)]
struct Answer {
    tag: Option<u64>,
    body: BytesMut,
    left: Option<u64>,
    empty: bool,
}

impl Getter {
    /// On this connection, from these queues in turn.
    pub(super) fn open(client: Client, queues: &[NamedQueue], args: &Args) -> Self {
        Self {
            client,
            queues: queues.to_vec(),
            no_ack: args.auto_ack,
            answer: Answer::default(),
            received: Received::default(),
            latency: latency_histogram(),
        }
    }

    /// Asks until told to stop.
    pub(super) async fn run(mut self, meter: Arc<Meter>, stop: CancellationToken) -> anyhow::Result<Taken> {
        let mut turn = 0;
        while !stop.is_cancelled() {
            let Some((queue, name)) = self.queues.get(turn % self.queues.len().max(1)).cloned() else {
                break;
            };
            turn += 1;
            if self.get(&meter, queue, &name).await? {
                meter.on_received(1);
            } else {
                sleep(PAUSE).await;
            }
        }
        Ok(Taken { received: self.received, latency: self.latency })
    }

    /// Whether there was a message.
    async fn get(&mut self, meter: &Meter, queue: u16, name: &str) -> anyhow::Result<bool> {
        let asked_ns = meter.now_ns();
        let mut frames = BytesMut::new();
        if let Some(delivery_tag) = self.answer.tag.take().filter(|_| !self.no_ack) {
            let ack = BasicAck { delivery_tag, multiple: false };
            put_method(&mut frames, CHANNEL, &Method::BasicAck(ack));
        }
        let get = BasicGet { queue: name, no_ack: self.no_ack };
        put_method(&mut frames, CHANNEL, &Method::BasicGet(get));
        self.client.output.write(&frames).await?;
        self.answer = Answer::default();
        while !self.answer.empty && self.answer.left != Some(0) {
            self.client.input.read().await?;
            self.client.input.on_frames(|frame| self.answer.on_frame(&frame))?;
        }
        if self.answer.empty {
            return Ok(false);
        }
        let latency_ns = meter.now_ns().saturating_sub(asked_ns).max(1);
        self.latency.saturating_record(latency_ns);
        meter.recent.lock().saturating_record(latency_ns);
        if self.answer.body.len() >= NUMBERED_BYTES {
            let mut stamp = [0; TIMED_BYTES];
            stamp.iter_mut().zip(&self.answer.body).for_each(|(to, from)| *to = *from);
            let stamp = Stamp::from_bytes(stamp);
            self.received.on_message(Flow { producer: stamp.producer, queue }, stamp.number);
        }
        Ok(true)
    }
}

impl Answer {
    fn on_frame(&mut self, frame: &FrameView<'_>) -> anyhow::Result<()> {
        match frame.kind {
            FrameKind::Method => match Method::parse(frame.payload)? {
                Method::BasicGetOk(got) => self.tag = Some(got.delivery_tag),
                Method::BasicGetEmpty(_) => self.empty = true,
                other => refuse_close(&other)?,
            },
            FrameKind::Header => self.left = Some(ContentHeader::parse(frame.payload)?.body_bytes),
            FrameKind::Body => {
                let left = self.left.and_then(|left| left.checked_sub(frame.payload.len() as u64));
                let Some(left) = left else { bail!("the broker sent more body than it had declared") };
                self.left = Some(left);
                self.body.extend_from_slice(frame.payload);
            }
            FrameKind::Heartbeat => {}
        }
        Ok(())
    }
}
