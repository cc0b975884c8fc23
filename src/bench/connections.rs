//! Connections without load: many that stay and do nothing, or some that come and go.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::bench::args::{Args, Churn};
use crate::bench::client::{CHANNEL, Client};
use crate::bench::meter::latency_histogram;
use crate::bench::report::Latency;
use crate::bench::target::Target;
use crate::bench::topology::Topology;
use crate::protocol::frame::{put_header, put_method};
use crate::protocol::methods::{BasicConsume, BasicPublish, ChannelClose, ChannelOpen, Method, QueueDeclare};
use crate::protocol::table::Table;

/// Connections that are opened at the same time.
const OPENING_MAX: u32 = 64;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Connections opened, or rounds made.
    done: u64,
    /// How long all of it took, without the time that idle connections stayed.
    seconds: f64,
    per_second: f64,
    latency: Option<Latency>,
}

/// Opens connections and keeps them, or opens and closes.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    let target = args.target()?;
    let mut control = Client::open(&target).await?;
    let topology = Topology::new(args);
    topology.declare(&mut control).await?;
    let made = match args.idle {
        Some(count) => idle(&target, &topology, count, Duration::from_secs(args.seconds)).await,
        None => churn(&target, &topology, args).await,
    };
    let deleted = topology.delete(&mut control).await;
    control.close().await;
    let report = made?;
    deleted.context("cannot delete what the run declared")?;
    Ok(report)
}

async fn idle(target: &Target, topology: &Topology, count: u32, stay: Duration) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut open = Vec::new();
    let mut opening = JoinSet::new();
    let mut latency = latency_histogram();
    let mut started = 0;
    while open.len() < count as usize {
        while started < count && opening.len() < OPENING_MAX as usize {
            let queue = topology.queues.get(started as usize % topology.queues.len().max(1));
            let queue = queue.map(|(_, name)| name.clone()).unwrap_or_default();
            opening.spawn(consumer(target.clone(), queue));
            started += 1;
        }
        let Some(opened) = opening.join_next().await else { break };
        let (client, took) = opened.context("a connection")??;
        latency.saturating_record(took.as_nanos() as u64);
        open.push(client);
    }
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{count} connections are open");
    tokio::select! {
        () = tokio::time::sleep(stay) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(Report::new(u64::from(count), seconds, &latency))
}

async fn consumer(target: Target, queue: String) -> anyhow::Result<(Client, Duration)> {
    let begun = Instant::now();
    let mut client = Client::open(&target).await?;
    let consume = BasicConsume {
        queue: &queue,
        consumer_tag: "",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    let consume = Method::BasicConsume(consume);
    client.ask(&consume, |method| matches!(method, Method::BasicConsumeOk(_))).await?;
    Ok((client, begun.elapsed()))
}

async fn churn(target: &Target, topology: &Topology, args: &Args) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs(args.seconds);
    let mut tasks = JoinSet::new();
    for place in 0..args.producers {
        let queue = topology.queues.get(usize::from(place) % topology.queues.len().max(1));
        let queue = queue.map(|(_, name)| name.clone()).unwrap_or_default();
        tasks.spawn(rounds(target.clone(), queue, args.churn, until));
    }
    let mut latency = latency_histogram();
    while let Some(ended) = tasks.join_next().await {
        latency.add(&ended.context("a task")??).context("latencies cannot be added")?;
    }
    Ok(Report::new(latency.len(), begun.elapsed().as_secs_f64(), &latency))
}

async fn rounds(
    target: Target,
    queue: String,
    what: Option<Churn>,
    until: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latency_histogram();
    let mut kept = match what {
        Some(Churn::Channel) => Some(Client::open(&target).await?),
        _ => None,
    };
    while Instant::now() < until {
        let begun = Instant::now();
        match &mut kept {
            Some(client) => {
                declare_and_publish(client, &queue).await?;
                let close = ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
                let close = Method::ChannelClose(close);
                client.ask(&close, |method| matches!(method, Method::ChannelCloseOk(_))).await?;
                let open = Method::ChannelOpen(ChannelOpen);
                client.ask(&open, |method| matches!(method, Method::ChannelOpenOk(_))).await?;
            }
            None => {
                let mut client = Client::open(&target).await?;
                declare_and_publish(&mut client, &queue).await?;
                client.close().await;
            }
        }
        latency.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    Ok(latency)
}

async fn declare_and_publish(client: &mut Client, queue: &str) -> anyhow::Result<()> {
    let declare = QueueDeclare {
        queue,
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    let declare = Method::QueueDeclare(declare);
    client.ask(&declare, |method| matches!(method, Method::QueueDeclareOk(_))).await?;
    let (exchange, routing_key) = (b"".as_slice(), queue.as_bytes());
    let publish = BasicPublish { exchange, routing_key, mandatory: false, immediate: false };
    let mut frames = bytes::BytesMut::new();
    put_method(&mut frames, CHANNEL, &Method::BasicPublish(publish));
    put_header(&mut frames, CHANNEL, 0, &[0, 0]);
    Ok(client.output.write(&frames).await?)
}

impl Report {
    fn new(done: u64, seconds: f64, latency: &Histogram<u64>) -> Self {
        Self { done, seconds, per_second: done as f64 / seconds, latency: Latency::of(latency) }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { done, seconds, per_second, latency } = self;
        writeln!(f, "{done} in {seconds:.2} s, {per_second:.0} a second")?;
        latency.iter().try_for_each(|latency| writeln!(f, "each       {latency}"))
    }
}
