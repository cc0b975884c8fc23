//! One run from the first queue declared to the last one deleted.
//!
//! ```text
//!  declare queues → open everyone → publish for S seconds → wait for confirms → drain → judge → delete queues
//! ```

use std::collections::HashMap;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bench::args::Args;
use crate::bench::check::{Flow, judge};
use crate::bench::client::Client;
use crate::bench::confirms::Confirms;
use crate::bench::consumer::{Consumer, Taken};
use crate::bench::meter::{Meter, latency_histogram, read};
use crate::bench::producer::{Producer, Sent, watch};
use crate::bench::progress::Progress;
use crate::bench::report::{Check, Latency, Report};
use crate::bench::stamp::NUMBERED_BYTES;
use crate::bench::target::Target;
use crate::protocol::methods::{Method, QueueDeclare, QueueDelete};
use crate::protocol::table::Table;

/// How often the run looks at itself.
const TICK: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long nothing may move after publishing before the rest is taken for lost.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Makes the load and says what it came to.
pub(super) async fn load(args: &Args) -> anyhow::Result<Report> {
    let target = Target::parse(&args.url)?;
    let mut control = Client::open(&target).await?;
    let queues: Vec<(u16, String)> =
        (0..args.queues).map(|queue| (queue, format!("sluicemq-bench-{}-{queue}", process::id()))).collect();
    let measured = async {
        declare(&mut control, &queues, args.persistent).await?;
        let mut run = Run::open(&target, &queues, args).await?;
        run.publish(Duration::from_secs(args.seconds)).await?;
        run.drain().await?;
        run.judge(args).await
    };
    let measured = measured.await;
    let deleted = delete(&mut control, &queues).await;
    control.close().await;
    let report = measured?;
    deleted.context("cannot delete the queues of the run")?;
    Ok(report)
}

async fn declare(control: &mut Client, queues: &[(u16, String)], durable: bool) -> anyhow::Result<()> {
    for (_, name) in queues {
        let declare = QueueDeclare {
            queue: name,
            passive: false,
            durable,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        let declare = Method::QueueDeclare(declare);
        control.ask(&declare, |method| matches!(method, Method::QueueDeclareOk(_))).await?;
    }
    Ok(())
}

/// Deletes the queues; one that was never declared is no error.
async fn delete(control: &mut Client, queues: &[(u16, String)]) -> anyhow::Result<()> {
    for (_, name) in queues {
        let delete = QueueDelete { queue: name, if_unused: false, if_empty: false, nowait: false };
        let delete = Method::QueueDelete(delete);
        control.ask(&delete, |method| matches!(method, Method::QueueDeleteOk(_))).await?;
    }
    Ok(())
}

/// The queues of one of so many connections: one of them, or its share where queues are more.
fn share(queues: &[(u16, String)], place: u16, connections: u16) -> Vec<(u16, String)> {
    let (place, connections) = (usize::from(place), usize::from(connections));
    match connections < queues.len() {
        true => queues.iter().skip(place).step_by(connections).cloned().collect(),
        false => queues.iter().cycle().skip(place % queues.len().max(1)).take(1).cloned().collect(),
    }
}

/// Everyone who takes part, once the clock runs.
struct Run {
    meter: Arc<Meter>,
    progress: Progress,
    /// They end when told, or with an error.
    producers: JoinSet<anyhow::Result<Sent>>,
    consumers: JoinSet<anyhow::Result<Taken>>,
    /// They end with an error only.
    watchers: JoinSet<anyhow::Result<()>>,
    confirms: Vec<Arc<Confirms>>,
    stop_producers: CancellationToken,
    stop_consumers: CancellationToken,
    sent: Vec<Sent>,
    /// Published and received by the end of the time to publish, and that time.
    window: (u64, u64, f64),
}

impl Run {
    /// Opens every connection, then starts them all.
    async fn open(target: &Target, queues: &[(u16, String)], args: &Args) -> anyhow::Result<Self> {
        let mut consumers = Vec::new();
        for place in 0..args.consumers {
            let queues = share(queues, place, args.consumers);
            consumers.push(Consumer::open(Client::open(target).await?, &queues, args).await?);
        }
        let mut producers = Vec::new();
        for id in 0..args.producers {
            let queues = share(queues, id, args.producers);
            producers.push(Producer::open(id, Client::open(target).await?, &queues, args).await?);
        }
        let mut run = Self {
            meter: Arc::new(Meter::new()),
            progress: Progress::new(),
            producers: JoinSet::new(),
            consumers: JoinSet::new(),
            watchers: JoinSet::new(),
            confirms: Vec::new(),
            stop_producers: CancellationToken::new(),
            stop_consumers: CancellationToken::new(),
            sent: Vec::new(),
            window: (0, 0, 0.0),
        };
        for consumer in consumers {
            run.consumers.spawn(consumer.run(Arc::clone(&run.meter), run.stop_consumers.clone()));
        }
        for (producer, input) in producers {
            let confirms = producer.confirms();
            run.confirms.extend(confirms.clone());
            run.watchers.spawn(watch(input, confirms, Arc::clone(&run.meter)));
            run.producers.spawn(producer.run(Arc::clone(&run.meter), run.stop_producers.clone()));
        }
        Ok(run)
    }

    /// Lets producers publish for so long, or until Ctrl-C.
    async fn publish(&mut self, duration: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + duration;
        let mut ticks = Ticks::new();
        while Instant::now() < deadline {
            tokio::select! {
                show = ticks.next() => self.show(show),
                Some(ended) = self.producers.join_next() => return early(ended, "producer"),
                Some(ended) = self.consumers.join_next() => return early(ended, "consumer"),
                Some(ended) = self.watchers.join_next() => return early(ended, "producer"),
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        self.window = (read(&self.meter.published), read(&self.meter.received), self.meter.seconds());
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
            if self.producers.is_empty() && (self.consumers.is_empty() || received >= published) {
                break;
            }
            if moved_at.elapsed() > STALL_LIMIT {
                if !self.producers.is_empty() {
                    bail!("a producer is stuck: the broker neither reads nor confirms what it published");
                }
                break;
            }
            tokio::select! {
                show = ticks.next() => self.show(show),
                Some(ended) = self.producers.join_next() => self.sent.push(ended.context("a producer")??),
                Some(ended) = self.consumers.join_next() => return early(ended, "consumer"),
                Some(ended) = self.watchers.join_next() => return early(ended, "producer"),
                _ = tokio::signal::ctrl_c() => bail!("interrupted before everything was consumed"),
            }
        }
        self.progress.finish();
        self.stop_consumers.cancel();
        Ok(())
    }

    fn show(&mut self, show: bool) {
        if show {
            self.progress.show(&self.meter);
        }
    }

    /// Compares what was sent with what came back.
    async fn judge(mut self, args: &Args) -> anyhow::Result<Report> {
        let (mut latency, mut received) = (latency_histogram(), Vec::new());
        while let Some(taken) = self.consumers.join_next().await {
            let taken = taken.context("a consumer")??;
            latency.add(&taken.latency).context("latencies cannot be added")?;
            received.push(taken.received);
        }
        let (mut confirm_latency, mut nacked) = (latency_histogram(), 0);
        for confirms in &self.confirms {
            let confirmed = confirms.take_result();
            nacked += confirmed.nacked;
            confirm_latency.add(&confirmed.latency).context("latencies cannot be added")?;
        }
        let sent: HashMap<Flow, u64> = self.sent.iter().flat_map(|sent| sent.counts.clone()).collect();
        let meter = &self.meter;
        let check = match args.consumers {
            0 => Check::NotChecked,
            _ if (args.size as usize) < NUMBERED_BYTES => {
                Check::of_counts(read(&meter.published), read(&meter.received))
            }
            _ => Check::of_verdict(judge(&sent, received)),
        };
        let (published, received, seconds) = self.window;
        let with_confirms = args.window().is_some();
        Ok(Report {
            seconds,
            message_bytes: args.size,
            published: read(&meter.published),
            published_per_second: published as f64 / seconds,
            received: read(&meter.received),
            received_per_second: received as f64 / seconds,
            confirmed: with_confirms.then(|| read(&meter.confirmed) - nacked),
            nacked: with_confirms.then_some(nacked),
            blocked: read(&meter.blocked),
            latency: Latency::of(&latency),
            confirm_latency: Latency::of(&confirm_latency),
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

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn every_queue_has_a_connection_and_every_connection_a_queue() {
        for (queues, connections) in [(1, 1), (1, 5), (5, 1), (5, 3), (3, 5), (4, 4)] {
            let all: Vec<(u16, String)> = (0..queues).map(|queue| (queue, queue.to_string())).collect();
            let mut taken: Vec<u16> = Vec::new();
            for place in 0..connections {
                let share = share(&all, place, connections);
                assert!(!share.is_empty());
                taken.extend(share.iter().map(|(queue, _)| queue));
            }
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), usize::from(queues), "{queues} queues, {connections} connections");
        }
    }
}
