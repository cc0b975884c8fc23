//! Producers in a process of their own: what it and its parent, which consumes, say to each other.
//!
//! A line of JSON each, down the child's stdin and up its stdout. Both count time from the same start, so a stamp made
//! there can be read here. A parent that is gone has closed the child's stdin, and the child ends.
//!
//! ```text
//!  parent                                     child
//!    | Load: what to publish, and where         |
//!    |----------------------------------------->| opens every connection
//!    |                                   Opened |
//!    |<-----------------------------------------|
//!    | Start                                    |
//!    |----------------------------------------->| publishes
//!    | Received (for --max-waiting)      Counts |
//!    |----------------------------------------->|
//!    |<-----------------------------------------|
//!    | Stop                                     |
//!    |----------------------------------------->| waits for confirms
//!    |                             Counts, Sent |
//!    |<-----------------------------------------| keeps its connections
//!    | the end of stdin                         |
//!    |----------------------------------------->| ends
//! ```
//!
//! `Failed` comes up in place of anything else, and is the last word.

pub(super) mod child;
pub(super) mod parent;

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, Lines};

use crate::bench::args::Args;
use crate::bench::meter::Counts;
use crate::bench::producer::Sent;
use crate::bench::topology::Topology;

/// What the parent says.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Open this.
    Load(Box<Load>),
    /// Publish.
    Start,
    /// So much was received so far.
    Received(u64),
    /// Publish no more.
    Stop,
}

/// What the child is to publish.
#[derive(Serialize, Deserialize)]
struct Load {
    args: Args,
    topology: Topology,
    /// When the parent's meter started.
    start_ns: u64,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
enum News {
    /// Every connection is open.
    Opened,
    /// So much happened so far.
    Counts(Counts),
    /// What all producers sent, now that they have stopped.
    Sent(Sent),
    /// Why it ends.
    Failed(String),
}

/// Writes a line.
async fn say(to: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Reads the next line; `None` when the other side is gone.
async fn hear<T: DeserializeOwned>(from: &mut Lines<impl AsyncBufRead + Unpin>) -> io::Result<Option<T>> {
    let Some(line) = from.next_line().await? else { return Ok(None) };
    Ok(Some(serde_json::from_str(&line)?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use clap::Parser;
    use tokio::io::AsyncBufReadExt;

    use super::{Load, News, Order, hear, say};
    use crate::bench::args::Args;
    use crate::bench::check::Flow;
    use crate::bench::confirms::Confirmed;
    use crate::bench::meter::Meter;
    use crate::bench::producer::Sent;
    use crate::bench::topology::Topology;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[tokio::test]
    async fn orders_are_heard_as_they_were_said() {
        let words =
            ["bench", "--size", "16,300", "--exchange", "topic", "--bindings", "5", "--plot", "a.svg"];
        let args = Command::parse_from(words).args;
        let topology = Topology::new(&args);
        let load = Load { args: args.clone(), topology: topology.clone(), start_ns: u64::MAX };
        let mut said = Vec::new();
        for order in [Order::Load(Box::new(load)), Order::Start, Order::Received(u64::MAX), Order::Stop] {
            say(&mut said, &order).await.unwrap();
        }
        let mut lines = said.lines();
        let Ok(Some(Order::Load(load))) = hear(&mut lines).await else { panic!("a load") };
        assert_eq!(format!("{:?} {:?}", load.args, load.topology), format!("{args:?} {topology:?}"));
        assert_eq!(load.start_ns, u64::MAX);
        assert!(matches!(hear(&mut lines).await, Ok(Some(Order::Start))));
        assert!(matches!(hear(&mut lines).await, Ok(Some(Order::Received(u64::MAX)))));
        assert!(matches!(hear(&mut lines).await, Ok(Some(Order::Stop))));
        assert!(matches!(hear::<Order>(&mut lines).await, Ok(None)));
    }

    #[tokio::test]
    async fn news_is_heard_as_it_was_said() {
        let confirmed = || Confirmed { acked: 3, nacked: 1, latency: [(1, 2), (u64::MAX, 2)].into() };
        let counts = vec![(Flow { producer: 1, queue: u16::MAX }, 4)];
        let sent = Sent { counts: counts.clone(), confirmed: confirmed(), connections: Vec::new() };
        let (here, there) = (Meter::new(), Meter::new());
        there.set_received(7);
        there.published.store(9, Ordering::Relaxed);
        let mut said = Vec::new();
        let why = "the broker closed\nthe channel";
        for news in
            [News::Opened, News::Counts(there.counts()), News::Sent(sent), News::Failed(why.to_owned())]
        {
            say(&mut said, &news).await.unwrap();
        }
        let mut lines = said.lines();
        assert!(matches!(hear(&mut lines).await, Ok(Some(News::Opened))));
        let Ok(Some(News::Counts(heard))) = hear(&mut lines).await else { panic!("counts") };
        here.set_counts(heard);
        assert_eq!(here.counts(), there.counts());
        let Ok(Some(News::Sent(sent))) = hear(&mut lines).await else { panic!("what was sent") };
        assert_eq!((sent.counts, sent.confirmed), (counts, confirmed()));
        let Ok(Some(News::Failed(heard))) = hear(&mut lines).await else { panic!("a failure") };
        assert_eq!(heard, why);
    }
}
