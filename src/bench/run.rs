//! One run from the first queue declared to the last one deleted.
//!
//! ```text
//!  declare queues → open everyone → publish for S seconds → wait for confirms → drain → judge → delete queues
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::{Flow, judge};
use crate::bench::client::Client;
use crate::bench::consumer::{Consumer, Taken};
use crate::bench::getter::Getter;
use crate::bench::meter::{Meter, latency_histogram, read};
use crate::bench::plot;
use crate::bench::producer::Sent;
use crate::bench::producers::{Opened, Producers};
use crate::bench::progress::Progress;
use crate::bench::report::{Check, Latency, Report};
use crate::bench::stamp::NUMBERED_BYTES;
use crate::bench::target::Target;
use crate::bench::timeline::Timeline;
use crate::bench::topology::{Topology, share};

/// How often the run looks at itself.
const TICK: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long nothing may move after publishing before the rest is taken for lost.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Makes the load and says what it came to.
pub(super) async fn load(args: &Args) -> anyhow::Result<Report> {
    let target = args.target()?;
    let mut control = Client::open(&target).await?;
    if let Some(file) = &args.plot {
        // Before the run, which would be in vain.
        File::create(file).with_context(|| format!("cannot draw {}", file.display()))?;
    }
    let topology = Topology::new(args);
    let measured = async {
        topology.declare(&mut control).await?;
        let mut run = Run::open(&target, &topology, args).await?;
        run.publish().await?;
        if args.backlog {
            run.consume(&target, &topology).await?;
        }
        run.drain().await?;
        run.judge().await
    };
    let measured = measured.await;
    let deleted = topology.delete(&mut control).await;
    control.close().await;
    let report = measured?;
    deleted.context("cannot delete what the run declared")?;
    Ok(report)
}

/// Everyone who takes part, once the clock runs.
struct Run<'a> {
    args: &'a Args,
    meter: Arc<Meter>,
    progress: Progress,
    producers: Producers,
    /// They end when told, or with an error.
    consumers: JoinSet<anyhow::Result<Taken>>,
    stop_producers: CancellationToken,
    stop_consumers: CancellationToken,
    sent: Sent,
    /// Published and received by the end of the time to publish, and that time.
    window: (u64, u64, f64),
    /// When a backlog began to drain, and when it had.
    drained: Option<(f64, f64)>,
    timeline: Timeline,
}

impl<'a> Run<'a> {
    /// Opens every connection, then starts them all.
    async fn open(target: &Target, topology: &Topology, args: &'a Args) -> anyhow::Result<Self> {
        let meter = Arc::new(Meter::new());
        let mut run = Self {
            args,
            meter: Arc::clone(&meter),
            progress: Progress::new(),
            producers: Producers::default(),
            consumers: JoinSet::new(),
            stop_producers: CancellationToken::new(),
            stop_consumers: CancellationToken::new(),
            sent: Sent::default(),
            window: (0, 0, 0.0),
            drained: None,
            timeline: Timeline::default(),
        };
        let producers = Opened::open(target, topology, args, &meter).await?;
        if !args.backlog {
            run.consume(target, topology).await?;
        }
        run.producers = producers.start(&meter, &run.stop_producers);
        Ok(run)
    }

    /// Opens the consumers.
    async fn consume(&mut self, target: &Target, topology: &Topology) -> anyhow::Result<()> {
        self.drained = self.args.backlog.then(|| (self.meter.seconds(), 0.0));
        for place in 0..self.args.consumers {
            let queues = share(&topology.queues, place, self.args.consumers);
            let client = Client::open(target).await?;
            let (meter, stop) = (Arc::clone(&self.meter), self.stop_consumers.clone());
            if self.args.get {
                self.consumers.spawn(Getter::open(client, &queues, self.args).run(meter, stop));
            } else {
                let consumer = Consumer::open(client, &queues, self.args).await?;
                self.consumers.spawn(consumer.run(meter, stop));
            }
        }
        Ok(())
    }

    /// Lets producers publish for the time or the messages asked for, or until Ctrl-C.
    async fn publish(&mut self) -> anyhow::Result<()> {
        let begun = self.meter.seconds();
        let deadline = Instant::now() + Duration::from_secs(self.args.seconds);
        let mut ticks = Ticks::new();
        while self.args.messages.is_some() || Instant::now() < deadline {
            tokio::select! {
                show = ticks.next() => self.show(show),
                Some(ended) = self.producers.publishing.join_next() => match self.args.messages {
                    Some(_) => self.sent.add(ended.context("a producer")??),
                    None => return early(ended, "producer"),
                },
                Some(ended) = self.consumers.join_next() => return early(ended, "consumer"),
                Some(ended) = self.producers.watching.join_next() => return early(ended, "producer"),
                _ = tokio::signal::ctrl_c() => break,
            }
            if self.producers.publishing.is_empty() {
                break;
            }
        }
        let seconds = self.meter.seconds() - begun;
        self.window = (read(&self.meter.published), read(&self.meter.received), seconds);
        self.stop_producers.cancel();
        Ok(())
    }

    /// Waits until producers have their confirms and consumers everything that was published.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let mut ticks = Ticks::new();
        let mut moved = (0, 0, 0);
        let mut moved_at = Instant::now();
        loop {
            let meter = &self.meter;
            let now = (read(&meter.published), read(&meter.received), read(&meter.confirmed));
            if moved != now {
                (moved, moved_at) = (now, Instant::now());
            }
            let (published, received, _) = now;
            if self.producers.publishing.is_empty()
                && (self.consumers.is_empty() || received >= published * self.args.copies())
            {
                break;
            }
            if moved_at.elapsed() > STALL_LIMIT {
                if !self.producers.publishing.is_empty() {
                    bail!("a producer is stuck: the broker neither reads nor confirms what it published");
                }
                break;
            }
            tokio::select! {
                show = ticks.next() => self.show(show),
                Some(ended) = self.producers.publishing.join_next() => {
                    self.sent.add(ended.context("a producer")??);
                }
                Some(ended) = self.consumers.join_next() => return early(ended, "consumer"),
                Some(ended) = self.producers.watching.join_next() => return early(ended, "producer"),
                _ = tokio::signal::ctrl_c() => bail!("interrupted before everything was consumed"),
            }
        }
        if let Some((_, end)) = &mut self.drained {
            *end = self.meter.seconds();
        }
        self.progress.finish();
        self.stop_consumers.cancel();
        Ok(())
    }

    fn show(&mut self, show: bool) {
        self.timeline.sample(&self.meter);
        if show {
            self.progress.show(&self.meter);
        }
    }

    /// Compares what was sent with what came back.
    async fn judge(mut self) -> anyhow::Result<Report> {
        let args = self.args;
        let (mut latency, mut received) = (latency_histogram(), Vec::new());
        while let Some(taken) = self.consumers.join_next().await {
            let taken = taken.context("a consumer")??;
            latency.add(&taken.latency).context("latencies cannot be added")?;
            received.push(taken.received);
        }
        let confirmed = &self.sent.confirmed;
        let sent: HashMap<Flow, u64> = self.sent.counts.iter().copied().collect();
        let meter = &self.meter;
        let check = match args.consumers {
            0 => Check::NotChecked,
            _ if (args.least_bytes() as usize) < NUMBERED_BYTES || args.reorders() => {
                Check::of_counts(read(&meter.published) * args.copies(), read(&meter.received))
            }
            _ => Check::of_verdict(judge(&sent, received)),
        };
        let (published, received, seconds) = self.window;
        let with_confirms = args.window().is_some();
        let drained_per_second =
            self.drained.map(|(start, end)| read(&meter.received) as f64 / (end - start).max(1e-9));
        if let Some(file) = &args.plot {
            plot::draw(&self.timeline, file).with_context(|| format!("cannot draw {}", file.display()))?;
        }
        Ok(Report {
            seconds,
            message_bytes: args.mean_bytes(),
            published: read(&meter.published),
            published_per_second: published as f64 / seconds,
            received: read(&meter.received),
            received_per_second: received as f64 / seconds,
            drained_per_second,
            confirmed: with_confirms.then_some(confirmed.acked),
            nacked: with_confirms.then_some(confirmed.nacked),
            blocked: read(&meter.blocked),
            latency: Latency::of(&latency),
            confirm_latency: Latency::of(&confirmed.histogram()),
            check,
        })
    }
}

/// Somebody ended before being told to: that is the run's error.
fn early<T>(ended: Result<anyhow::Result<T>, JoinError>, who: &str) -> anyhow::Result<()> {
    ended.with_context(|| format!("a {who}"))?.with_context(|| format!("a {who}"))?;
    bail!("a {who} ended before the run did")
}

/// The run's ticks; every so many of them is one to show progress at.
struct Ticks {
    interval: tokio::time::Interval,
    show_next: Instant,
}

impl Ticks {
    fn new() -> Self {
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, show_next: Instant::now() + PROGRESS_EVERY }
    }

    async fn next(&mut self) -> bool {
        self.interval.tick().await;
        let show = Instant::now() >= self.show_next;
        if show {
            self.show_next += PROGRESS_EVERY;
        }
        show
    }
}
