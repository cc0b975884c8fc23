//! What `sluicemq bench` can be told.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::bench::target::Target;

/// What asks for messages, which connections without load do not send.
const LOADS: [&str; 10] = [
    "get",
    "backlog",
    "max_waiting",
    "rate",
    "messages",
    "exchange",
    "plot",
    "confirms",
    "confirm_window",
    "apart",
];
/// Each producer keeps a message for each key and size; this much of them.
const RING_BYTES_MAX: u64 = 512 << 20;

/// The load to make.
#[derive(Clone, Debug, ClapArgs, Serialize, Deserialize)]
pub struct Args {
    /// The broker: amqp://user:password@host:port/vhost, with %2f for the vhost /
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    pub url: String,

    /// With amqps://, a PEM file with the certificates of the authorities to trust
    #[arg(long, value_name = "FILE")]
    pub ca: Option<String>,

    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub producers: u16,

    /// Connections that consume; 0 leaves the queues to fill
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub consumers: u16,

    /// Queues, shared out among producers and consumers; they are deleted at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub queues: u16,

    /// Bytes of a message, or sizes that take turns (16,1024); from 16 on each carries what tells loss, order and
    /// latency, from 8 on loss and order
    #[arg(long, value_name = "BYTES", default_value = "16", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=536_870_912))]
    pub size: Vec<u32>,

    /// An argument of every queue, like x-max-length=1000: a number where it is one, and otherwise text
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub queue_arg: Vec<(String, String)>,

    /// The priority of a message, or several that take turns (1,5,9)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub priority: Vec<u8>,

    /// Reject every delivery, and take each message from the queue where dead letters go
    #[arg(long, conflicts_with_all = ["auto_ack", "ack_every", "get", "backlog", "exchange"])]
    pub dead_letters: bool,

    /// Publish to an exchange of this kind instead of the queues themselves. A fanout exchange gives each message to
    /// all queues; the others have one queue and keys at random
    #[arg(long, value_name = "KIND", help_heading = "Routing")]
    pub exchange: Option<Kind>,

    /// Bindings of the direct or topic exchange. Of a topic exchange's a third is exact, a third like *.x.*, a third
    /// like x.#
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000), requires = "exchange", help_heading = "Routing")]
    pub bindings: u32,

    /// Acknowledge every Kth delivery, with all before it
    #[arg(long, value_name = "K", default_value_t = 100, conflicts_with = "auto_ack")]
    pub ack_every: u16,

    /// Let the broker take a delivery for acknowledged when it is sent
    #[arg(long)]
    pub auto_ack: bool,

    /// Deliveries a consumer may hold unacknowledged; 0 sets no limit
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub prefetch: u16,

    /// Publish with confirms, at most 10000 outstanding for each producer
    #[arg(long)]
    pub confirms: bool,

    /// Publish with confirms, at most N outstanding for each producer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub confirm_window: Option<u32>,

    /// Publish persistent messages to durable queues
    #[arg(long)]
    pub persistent: bool,

    /// Ask for each message with basic.get, one at a time, instead of consuming
    #[arg(long)]
    pub get: bool,

    /// Publish first and consume when that is over: a backlog, and how fast it drains
    #[arg(long, conflicts_with = "max_waiting")]
    pub backlog: bool,

    /// Producers wait while this many messages are published and not received: what is measured can be sustained
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_waiting: u64,

    /// Messages a second from all producers together; 0 publishes as fast as the broker takes them. With a
    /// rate, latency counts from when a message should have been sent
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,

    /// Messages from all producers together, however long that takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "seconds")]
    pub messages: Option<u64>,

    /// How long to publish; what is queued then is still consumed
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,

    /// Publish from a process of its own, so that neither side's work slows the other
    #[arg(long)]
    pub apart: bool,

    /// Be that process, with so many threads: the load comes on stdin
    #[arg(long, value_name = "THREADS", hide = true, exclusive = true)]
    pub publish_for_parent: Option<Threads>,

    /// Make no load, but hold this many connections open, each with a channel and a consumer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), conflicts_with_all = LOADS, help_heading = "Connections")]
    pub idle: Option<u32>,

    /// Over and over, in each of --producers tasks: connect, open a channel, declare, publish, close; or the same in
    /// channels of one connection
    #[arg(long, value_name = "WHAT", conflicts_with_all = LOADS, help_heading = "Connections")]
    pub churn: Option<Churn>,

    /// Draw rates and latencies over time into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is to be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A kind of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Kind {
    /// Equal keys.
    Direct,
    /// Patterns.
    Topic,
    /// All queues.
    Fanout,
}

impl Kind {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
        }
    }
}

/// What is opened and closed over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Churn {
    /// Connections.
    Connection,
    /// Channels.
    Channel,
}

/// How many threads a process of the load has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Threads {
    /// One for the one connection: two that wake each other for every message would measure themselves.
    One,
    /// As many as there are processors.
    Many,
}

impl Threads {
    /// The value of `--publish-for-parent`.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Many => "many",
        }
    }
}

impl Args {
    /// The threads of this process.
    pub fn threads(&self) -> Threads {
        match self.publish_for_parent {
            Some(threads) => threads,
            None if self.apart && self.consumers <= 1 => Threads::One,
            None => Threads::Many,
        }
    }

    /// The threads of the process that publishes `--apart`. A rate is kept by sleeping, for which a producer needs a
    /// thread that nobody else waits for.
    pub fn threads_apart(&self) -> Threads {
        if self.producers == 1 && self.rate == 0 { Threads::One } else { Threads::Many }
    }

    /// The broker to load.
    pub(super) fn target(&self) -> anyhow::Result<Target> {
        Target::parse(&self.url, self.ca.as_deref())
    }

    /// Checks what no single argument can tell.
    ///
    /// # Errors
    /// One sentence for the person.
    pub fn check(&self) -> Result<(), String> {
        self.target().map_err(|error| format!("{error:#}"))?;
        if !self.auto_ack && self.ack_every == 0 {
            return Err("--ack-every must be at least 1; --auto-ack never acknowledges".to_owned());
        }
        if !self.auto_ack && self.prefetch != 0 && self.ack_every > self.prefetch {
            let (every, prefetch) = (self.ack_every, self.prefetch);
            return Err(format!(
                "--ack-every {every} is more than --prefetch {prefetch}: no delivery would ever be acknowledged"
            ));
        }
        if self.dead_letters && self.consumers == 0 {
            return Err("--dead-letters needs --consumers, which reject".to_owned());
        }
        if self.queues > 1 && matches!(self.exchange, Some(Kind::Direct | Kind::Topic)) {
            return Err("--exchange direct and topic take one queue: --queues 1".to_owned());
        }
        if self.consumers == 0 && (self.get || self.backlog || self.max_waiting > 0) {
            return Err("--get, --backlog and --max-waiting need --consumers".to_owned());
        }
        if self.idle.is_some() && self.churn.is_some() {
            return Err("--idle and --churn are two runs".to_owned());
        }
        let turns = self.size.len().max(self.priority.len()) as u64;
        let messages = u64::from(self.bindings).max(u64::from(self.queues)).max(turns);
        let largest_bytes = u64::from(self.size.iter().copied().max().unwrap_or_default());
        if messages * largest_bytes > RING_BYTES_MAX {
            return Err(format!(
                "so many queues or bindings of so large messages take more than {} MiB of a producer's memory",
                RING_BYTES_MAX >> 20
            ));
        }
        Ok(())
    }

    /// Copies of each message that arrive.
    pub(super) fn copies(&self) -> u64 {
        if self.exchange == Some(Kind::Fanout) { u64::from(self.queues) } else { 1 }
    }

    /// Whether messages of a queue may overtake each other.
    pub(super) fn reorders(&self) -> bool {
        self.priority.len() > 1
    }

    /// The bytes that every message carries at least.
    pub(super) fn least_bytes(&self) -> u32 {
        self.size.iter().copied().min().unwrap_or_default()
    }

    /// The bytes of a message, on average.
    pub(super) fn mean_bytes(&self) -> f64 {
        self.size.iter().map(|&bytes| f64::from(bytes)).sum::<f64>() / self.size.len().max(1) as f64
    }

    /// Outstanding confirms of each producer, if it is to ask for them.
    pub fn window(&self) -> Option<u32> {
        const WINDOW_DEFAULT: u32 = 10_000;
        self.confirm_window.or(self.confirms.then_some(WINDOW_DEFAULT))
    }
}
