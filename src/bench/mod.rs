//! A load tool for any AMQP 0-9-1 broker: it makes load, measures it, and checks what comes back.
//!
//! [`run`] is the way in. `target` reads the URL, `socket` connects and `client` logs in; `topology` is what a run declares; `producer`
//! (with its `lane` of messages), `consumer` and `getter` are a connection each, and `confirms` what a producer waits
//! for; `producers` are all of them, here or in the process that `apart` starts; `stamp` is what messages carry and
//! `check` what is made of it; `meter` counts, `timeline` remembers, `progress`, `report` and `plot` show.
//! `connections` makes no load but connections. It knows no broker but by the protocol.

mod apart;
mod args;
mod check;
mod client;
mod confirms;
mod connections;
mod consumer;
mod getter;
mod lane;
mod meter;
mod plot;
mod producer;
mod producers;
mod progress;
mod report;
mod run;
mod socket;
mod stamp;
mod target;
mod timeline;
mod topology;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

pub use crate::bench::args::Args;
use crate::bench::args::Threads;

/// Runs the load and prints the report; `false` when what came back is not what was sent.
///
/// # Errors
/// The broker cannot be reached, refuses, or goes away.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let runtime = runtime(args.threads()).context("cannot start the runtime")?;
    if args.publish_for_parent.is_some() {
        runtime.block_on(apart::child::run())?;
        return Ok(true);
    }
    if args.idle.is_some() || args.churn.is_some() {
        let report = runtime.block_on(connections::run(args))?;
        print(&report, args.json).context("cannot write to stdout")?;
        return Ok(true);
    }
    let report = runtime.block_on(run::load(args))?;
    print(&report, args.json).context("cannot write to stdout")?;
    Ok(!report.check.is_failed())
}

fn runtime(threads: Threads) -> io::Result<Runtime> {
    match threads {
        Threads::One => Builder::new_current_thread().enable_all().build(),
        Threads::Many => Runtime::new(),
    }
}

fn print(report: &(impl Serialize + Display), json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(report)?),
        false => write!(out, "{report}"),
    }
}
