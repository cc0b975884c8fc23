//! The parent's end: starts the process, passes on what was received, and counts what it says.

use std::convert::Infallible;
use std::env;
use std::future::{Future, pending};
use std::io;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::bench::apart::{Load, News, Order, hear, say};
use crate::bench::args::Args;
use crate::bench::meter::{Meter, read};
use crate::bench::producer::Sent;
use crate::bench::topology::Topology;

/// The child hears of what was received in such parts of `--max-waiting`: often enough to publish on while the rest is
/// under way, and seldom enough to cost nothing.
const PARTS_OF_WAITING: u64 = 8;

/// A process with open producers. It ends when this is dropped.
pub(in crate::bench) struct Apart {
    process: Child,
    orders: ChildStdin,
    news: Lines<BufReader<ChildStdout>>,
    waiting_max: u64,
}

impl Apart {
    /// Starts the process and waits until every producer is connected.
    pub(in crate::bench) async fn open(
        topology: &Topology,
        args: &Args,
        meter: &Meter,
    ) -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot tell which program this is")?;
        let mut command = Command::new(program);
        command.args(["bench", "--publish-for-parent", args.threads_apart().name()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().context("cannot start another process")?;
        let orders = process.stdin.take().context("the other process has no stdin")?;
        let news = process.stdout.take().context("the other process has no stdout")?;
        let news = BufReader::new(news).lines();
        let mut apart = Self { process, orders, news, waiting_max: args.max_waiting };

        let args = Args { apart: false, ..args.clone() };
        let load = Load { args, topology: topology.clone(), start_ns: meter.start_ns() };
        // Whoever cannot be told says why, or is found dead.
        let _ = say(&mut apart.orders, &Order::Load(Box::new(load))).await;
        match hear(&mut apart.news).await? {
            Some(News::Opened) => Ok(apart),
            Some(News::Failed(why)) => bail!(why),
            Some(News::Counts(_) | News::Sent(_)) => bail!("the other process answered out of turn"),
            None => bail!("the other process ended: {}", apart.process.wait().await?),
        }
    }

    /// Lets it publish until told to stop. The first future ends with what was sent, the second with an error only,
    /// and the process when the second is dropped.
    pub(in crate::bench) fn start(
        self,
        meter: Arc<Meter>,
        stop: CancellationToken,
    ) -> (impl Future<Output = anyhow::Result<Sent>>, impl Future<Output = anyhow::Result<()>>) {
        let Self { mut process, mut orders, mut news, waiting_max } = self;
        let (tx, rx) = oneshot::channel();
        let watching = async move {
            tokio::select! {
                heard = listen(&mut news, &meter, tx) => heard?,
                never = direct(&mut orders, &meter, &stop, waiting_max) => match never {},
            }
            bail!("the other process ended: {}", process.wait().await?)
        };
        let sent = async move {
            match rx.await {
                Ok(sent) => Ok(sent),
                // The other future knows why.
                Err(_) => pending().await,
            }
        };
        (sent, watching)
    }
}

/// Takes in what the child says, until it says no more.
async fn listen(
    news: &mut Lines<BufReader<ChildStdout>>,
    meter: &Meter,
    tx: oneshot::Sender<Sent>,
) -> anyhow::Result<()> {
    let mut tx = Some(tx);
    while let Some(heard) = hear(news).await? {
        match heard {
            News::Counts(counts) => meter.set_counts(counts),
            News::Sent(sent) => {
                // Nobody wants it once the run has failed.
                let _ = tx.take().map(|tx| tx.send(sent));
            }
            News::Failed(why) => bail!(why),
            News::Opened => bail!("the other process answered out of turn"),
        }
    }
    Ok(())
}

/// Tells the child all that it must know, and stays: a child that is gone said why, or is found dead.
async fn direct(
    orders: &mut ChildStdin,
    meter: &Meter,
    stop: &CancellationToken,
    waiting_max: u64,
) -> Infallible {
    let _ = direct_to_the_stop(orders, meter, stop, waiting_max).await;
    pending().await
}

async fn direct_to_the_stop(
    orders: &mut ChildStdin,
    meter: &Meter,
    stop: &CancellationToken,
    waiting_max: u64,
) -> io::Result<()> {
    say(orders, &Order::Start).await?;
    let mut told = 0;
    loop {
        tokio::select! {
            // A child that waits for this has all of the limit under way, so that a whole part is still to come.
            () = meter.caught_up.notified(), if waiting_max > 0 => {
                let received = read(&meter.received);
                if received - told > waiting_max / PARTS_OF_WAITING {
                    told = received;
                    say(orders, &Order::Received(received)).await?;
                }
            }
            () = stop.cancelled() => return say(orders, &Order::Stop).await,
        }
    }
}
