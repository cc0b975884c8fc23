//! The child's end: publishes what the parent says, and says how far it has come.

use std::io::{self, stdin, stdout};
use std::mem::take;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bench::apart::{Load, News, Order, hear, say};
use crate::bench::meter::{Counts, Meter};
use crate::bench::producer::Sent;
use crate::bench::producers::Opened;

/// How often the parent hears of what changed.
const COUNTS_EVERY: Duration = Duration::from_millis(10);

/// Publishes until the parent is gone or something fails, which is for the parent to tell.
///
/// # Errors
/// There is no parent.
pub(in crate::bench) async fn run() -> anyhow::Result<()> {
    // Ctrl-C reaches the parent as well, and that says when to stop.
    let _ignored = signal(SignalKind::interrupt())?;
    let orders = Receiver::from_owned_fd(stdin().as_fd().try_clone_to_owned()?).context("stdin")?;
    let mut news = Sender::from_owned_fd(stdout().as_fd().try_clone_to_owned()?).context("stdout")?;
    let mut orders = BufReader::new(orders).lines();
    let Some(Order::Load(load)) = hear(&mut orders).await? else {
        bail!("nobody said what to publish");
    };
    let meter = Arc::new(Meter::since(load.start_ns));
    let (start, stop) = (CancellationToken::new(), CancellationToken::new());
    let published = tokio::select! {
        published = publish(&load, &mut news, &meter, &start, &stop) => published,
        obeyed = obey(&mut orders, &meter, &start, &stop) => obeyed.map_err(Into::into),
    };
    if let Err(error) = published {
        // A parent that is gone asks no more.
        let _ = say(&mut news, &News::Failed(format!("{error:#}"))).await;
    }
    Ok(())
}

/// Does what the parent says, until it is gone.
async fn obey(
    orders: &mut Lines<BufReader<Receiver>>,
    meter: &Meter,
    start: &CancellationToken,
    stop: &CancellationToken,
) -> io::Result<()> {
    while let Some(order) = hear(orders).await? {
        match order {
            Order::Load(_) => {}
            Order::Start => start.cancel(),
            Order::Received(received) => meter.set_received(received),
            Order::Stop => stop.cancel(),
        }
    }
    Ok(())
}

/// Opens the producers, lets them publish, and keeps their connections. Ends with an error only.
async fn publish(
    load: &Load,
    news: &mut Sender,
    meter: &Arc<Meter>,
    start: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let opened = Opened::open(&load.args.target()?, &load.topology, &load.args, meter).await?;
    say(news, &News::Opened).await?;
    start.cancelled().await;
    let mut producers = opened.start(meter, stop);
    let mut all = Sent::default();
    let mut connections = Vec::new();
    let mut told = Counts::default();
    let mut ticks = interval(COUNTS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let counts = meter.counts();
                if told != counts {
                    told = counts;
                    say(news, &News::Counts(counts)).await?;
                }
            }
            Some(ended) = producers.publishing.join_next() => {
                let mut sent = ended.context("a task")??;
                connections.append(&mut sent.connections);
                all.add(sent);
                if producers.publishing.is_empty() {
                    say(news, &News::Counts(meter.counts())).await?;
                    say(news, &News::Sent(take(&mut all))).await?;
                }
            }
            Some(ended) = producers.watching.join_next() => ended.context("a task")??,
        }
    }
}
