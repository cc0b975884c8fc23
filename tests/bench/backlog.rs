//! A backlog from its first message to its last: published with confirms, the broker killed and started again, drained
//! in order. It says how long each took, and what memory and disk held.
//!
//! `cargo bench --bench backlog -- [--messages 10000000] [--size 16] [--queues 1] [--dir DIR]`

#![allow(dead_code, clippy::indexing_slicing)]

#[path = "../chaos/client.rs"]
mod client;
#[path = "../chaos/node.rs"]
mod node;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use sluicemq::protocol::methods::{BasicConsume, ConfirmSelect, Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::client::{Client, Incoming};
use crate::node::Node;

/// Publishes that may be unconfirmed.
const WINDOW: u64 = 20_000;
/// Publishes that are written at once.
const BURST: u64 = 500;

#[derive(Parser)]
struct Arguments {
    /// Messages, over all queues.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// Body of a message, in bytes; at least 8.
    #[arg(long, default_value_t = 16)]
    size: usize,
    /// Durable queues; each gets the same share.
    #[arg(long, default_value_t = 1)]
    queues: u64,
    /// The directory for the data: it should be on the disk that is asked about.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.size >= 8, "a body has its number in its first 8 bytes");
    let dir = tempfile::tempdir_in(&arguments.dir).context("no directory for the data")?;
    let data_dir = dir.path().join("data");
    let node = Node::start(&data_dir, &[])?;
    timed("declare", arguments.queues, || declare(&node, arguments.queues))?;
    timed("publish", arguments.messages, || publish(&node, &arguments))?;
    show(&node, &data_dir)?;
    node.kill()?;
    let start = Instant::now();
    let node = Node::start(&data_dir, &[])?;
    println!("start after kill -9: {:.2} s until it listens", start.elapsed().as_secs_f64());
    show(&node, &data_dir)?;
    timed("drain", arguments.messages, || drain(&node, &arguments))?;
    show(&node, &data_dir)?;
    let start = Instant::now();
    ensure!(node.stop()?.success(), "a clean stop");
    println!("stop: {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn timed(what: &str, count: u64, run: impl FnOnce() -> io::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    run().with_context(|| what.to_owned())?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{what} {count}: {seconds:.2} s, {:.0}/s", count as f64 / seconds);
    Ok(())
}

fn name(queue: u64) -> String {
    format!("backlog-{queue}")
}

fn declare(node: &Node, queues: u64) -> io::Result<()> {
    let mut client = Client::connect(node.address)?;
    for queue in 0..queues {
        let name = name(queue);
        client.push(&Method::QueueDeclare(QueueDeclare {
            queue: &name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: queue + 1 < queues,
            arguments: Table::EMPTY,
        }));
        if queue % BURST == 0 {
            client.flush()?;
        }
    }
    client.expect((50, 11))
}

fn publish(node: &Node, arguments: &Arguments) -> io::Result<()> {
    let mut client = Client::connect(node.address)?;
    client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false }))?;
    let names: Vec<String> = (0..arguments.queues).map(name).collect();
    let mut body = vec![b'.'; arguments.size];
    let (mut published, mut confirmed) = (0, 0);
    while confirmed < arguments.messages {
        let burst = BURST.min(arguments.messages - published).min(WINDOW + confirmed - published);
        for _ in 0..burst {
            body[..8].copy_from_slice(&published.to_le_bytes());
            client.push_publish("", &names[(published % arguments.queues) as usize], true, &body);
            published += 1;
            if published % (arguments.messages / 10).max(1) == 0 {
                eprintln!("published {published}");
            }
        }
        client.flush()?;
        if published == arguments.messages || published - confirmed + BURST > WINDOW {
            let Incoming::Confirm { tag, .. } = client.next()? else {
                return Err(io::Error::other("only confirms are expected here"));
            };
            confirmed = tag;
        }
    }
    Ok(())
}

/// Consumes everything without acknowledgements; the messages of a queue must come in order.
fn drain(node: &Node, arguments: &Arguments) -> io::Result<()> {
    let mut client = Client::connect(node.address)?;
    let mut last = None;
    let mut drained = 0;
    for queue in 0..arguments.queues {
        let name = name(queue);
        client.push(&Method::BasicConsume(BasicConsume {
            queue: &name,
            consumer_tag: &name,
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: true,
            arguments: Table::EMPTY,
        }));
        // One queue's messages are told from the next one's by their numbers only when they come one after the other.
        let share =
            arguments.messages / arguments.queues + u64::from(queue < arguments.messages % arguments.queues);
        for _ in 0..share {
            let Incoming::Delivery { body, .. } = client.next()? else {
                return Err(io::Error::other("only deliveries are expected here"));
            };
            let number = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let expected = last.map_or(queue, |last: u64| last + arguments.queues);
            if number != Some(expected) {
                return Err(io::Error::other(format!("{expected} was expected, and {number:?} came")));
            }
            last = number;
            drained += 1;
            if drained % (arguments.messages / 10).max(1) == 0 {
                eprintln!("drained {drained}");
            }
        }
        last = None;
        if queue % 500 == 499 {
            // A channel takes a thousand consumers; a new connection takes the next.
            client = Client::connect(node.address)?;
        }
    }
    Ok(())
}

/// What the process and the directory hold.
fn show(node: &Node, data_dir: &Path) -> anyhow::Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id()))?;
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: ?");
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                files += 1;
                bytes += about.len();
            }
        }
    }
    println!("  {resident}; on disk {files} files, {} MiB", bytes >> 20);
    Ok(())
}
