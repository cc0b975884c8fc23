//! A producer: one connection that publishes bursts as fast as the broker takes them, or at a rate.
//!
//! With a rate a message has a time at which it should be sent, and it is stamped with that: a producer that is late
//! cannot hide how late.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::Flow;
use crate::bench::client::{Client, Input, refuse_close};
use crate::bench::confirms::{Confirmed, Confirms};
use crate::bench::lane::Lane;
use crate::bench::meter::{Meter, add, read};
use crate::bench::socket::Writer;
use crate::bench::topology::Route;
use crate::protocol::frame::FrameKind;
use crate::protocol::methods::{ConfirmSelect, Method};

/// How long the broker may be silent with confirms outstanding once publishing is over.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a producer waits for consumers before it looks again, should others have been told.
const PACE: Duration = Duration::from_millis(5);
/// How long a producer sleeps before it looks whether it is to stop.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// One connection that publishes.
pub(super) struct Producer {
    id: u16,
    output: Writer,
    lane: Lane,
    confirms: Option<(Arc<Confirms>, u64)>,
    limits: Limits,
}

/// What holds a producer back, beside its confirms.
struct Limits {
    /// Nanoseconds from one message to the next.
    interval_ns: Option<f64>,
    /// Messages in all.
    messages: u64,
    /// Deliveries of all producers that may be under way; zero is no limit.
    waiting_max: u64,
    /// Deliveries of a message.
    copies: u64,
}

/// What a producer may do next.
enum Room {
    /// Publish so many messages.
    Messages(u64),
    /// Wait for confirms.
    Confirms,
    /// Wait for this time.
    Until(u64),
    /// Wait for consumers.
    Consumers,
    /// Stop.
    Nothing,
}

/// What producers sent, by the time they stopped.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) counts: Vec<(Flow, u64)>,
    pub(super) confirmed: Confirmed,
    /// They stay open until the run is over, for a broker may drop what a connection sent just before it went away.
    #[serde(skip)]
    pub(super) connections: Vec<Writer>,
}

impl Sent {
    /// Adds what another producer sent.
    pub(super) fn add(&mut self, other: Self) {
        self.counts.extend(other.counts);
        self.confirmed.add(other.confirmed);
        self.connections.extend(other.connections);
    }
}

impl Producer {
    /// Opens the connection; returns its reading half, which [`watch`] must be fed with.
    pub(super) async fn open(
        id: u16,
        mut client: Client,
        route: &Route,
        args: &Args,
    ) -> anyhow::Result<(Self, Input)> {
        let confirms = args.window().map(|window| (Arc::new(Confirms::new()), u64::from(window)));
        if confirms.is_some() {
            let select = Method::ConfirmSelect(ConfirmSelect { nowait: false });
            client.ask(&select, |method| matches!(method, Method::ConfirmSelectOk(_))).await?;
        }
        let lane = Lane::new(route, args, client.input.frame_max);
        let producers = u64::from(args.producers);
        let limits = Limits {
            interval_ns: (args.rate > 0).then(|| 1e9 * producers as f64 / args.rate as f64),
            messages: args.messages.map_or(u64::MAX, |all| (all + producers - 1 - u64::from(id)) / producers),
            waiting_max: args.max_waiting,
            copies: args.copies(),
        };
        Ok((Self { id, output: client.output, lane, confirms, limits }, client.input))
    }

    /// The confirms to tell [`watch`] of.
    pub(super) fn confirms(&self) -> Option<Arc<Confirms>> {
        self.confirms.as_ref().map(|(confirms, _)| Arc::clone(confirms))
    }

    /// Publishes until told to stop or everything is published, and waits for what is not confirmed then.
    pub(super) async fn run(mut self, meter: Arc<Meter>, stop: CancellationToken) -> anyhow::Result<Sent> {
        let begun_ns = meter.now_ns();
        while !stop.is_cancelled() {
            match self.room(&meter, begun_ns) {
                Room::Messages(count) => self.publish(&meter, begun_ns, count).await?,
                Room::Until(due_ns) => wait_until(&meter, due_ns),
                Room::Nothing => break,
                Room::Confirms => {
                    let Some((confirms, _)) = &self.confirms else { break };
                    tokio::select! {
                        () = confirms.changed.notified() => {}
                        () = stop.cancelled() => break,
                    }
                }
                Room::Consumers => tokio::select! {
                    () = meter.caught_up.notified() => {}
                    () = sleep(PACE) => {}
                },
            }
        }
        self.settle().await?;
        Ok(Sent {
            counts: self.lane.counts(self.id).collect(),
            confirmed: self.confirms.map_or_else(Confirmed::default, |(confirms, _)| confirms.take_result()),
            connections: vec![self.output],
        })
    }

    async fn publish(&mut self, meter: &Meter, begun_ns: u64, room: u64) -> anyhow::Result<()> {
        let count = self.lane.burst_messages().min(usize::try_from(room).unwrap_or(usize::MAX));
        let now_ns = meter.now_ns();
        if let Some((confirms, _)) = &self.confirms {
            confirms.on_burst(self.lane.published() + count as u64, now_ns);
        }
        let interval_ns = self.limits.interval_ns;
        let sent_ns = |number| interval_ns.map_or(now_ns, |interval| due_ns(begun_ns, interval, number));
        self.output.write(self.lane.burst(self.id, count, sent_ns)).await?;
        add(&meter.published, count as u64);
        Ok(())
    }

    fn room(&self, meter: &Meter, begun_ns: u64) -> Room {
        let published = self.lane.published();
        let mut room = self.limits.messages.saturating_sub(published);
        if room == 0 {
            return Room::Nothing;
        }
        if let Some((confirms, window)) = &self.confirms {
            room = room.min(window.saturating_sub(confirms.outstanding(published)));
            if room == 0 {
                return Room::Confirms;
            }
        }
        let Limits { waiting_max, copies, .. } = self.limits;
        if waiting_max > 0 {
            let waiting = (read(&meter.published) * copies).saturating_sub(read(&meter.received));
            room = room.min(waiting_max.saturating_sub(waiting).div_ceil(copies));
            if room == 0 {
                return Room::Consumers;
            }
        }
        if let Some(interval) = self.limits.interval_ns {
            let elapsed_ns = meter.now_ns().saturating_sub(begun_ns);
            let due = (elapsed_ns as f64 / interval) as u64 + 1;
            room = room.min(due.saturating_sub(published));
            if room == 0 {
                return Room::Until(due_ns(begun_ns, interval, published));
            }
        }
        Room::Messages(room)
    }

    /// Waits until every publish is confirmed.
    async fn settle(&self) -> anyhow::Result<()> {
        let Some((confirms, _)) = &self.confirms else { return Ok(()) };
        loop {
            let changed = confirms.changed.notified();
            let outstanding = confirms.outstanding(self.lane.published());
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

/// When a message should be sent.
fn due_ns(begun_ns: u64, interval_ns: f64, number: u64) -> u64 {
    begun_ns + (number as f64 * interval_ns) as u64
}

/// Waits for a time to come, as exactly as the system can: the runtime's own timers count milliseconds.
fn wait_until(meter: &Meter, due_ns: u64) {
    let wait = Duration::from_nanos(due_ns.saturating_sub(meter.now_ns())).min(LONGEST_WAIT);
    tokio::task::block_in_place(|| thread::sleep(wait));
}
