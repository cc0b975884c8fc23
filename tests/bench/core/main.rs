//! What a message costs the synchronous core, in instructions: sessions, routing, queues and frames in one thread,
//! without sockets. Instructions do not depend on what else the machine does, so that they can be a budget.
//!
//! ```text
//! cargo bench --bench core                     time of each workload
//! cargo bench --bench core -- --budget         instructions of each (valgrind), against tests/bench/budget.txt
//! cargo bench --bench core -- --update         the same, and writes the file
//! cargo bench --bench core -- --run NAME       one workload, for a profiler
//! ```

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod budget;
mod client;
mod workload;

use std::time::Instant;

use clap::Parser;

use crate::workload::{WORKLOADS, Workload};

#[derive(Parser)]
struct Arguments {
    /// Run this workload once.
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Count instructions, and fail where they are more than a tenth above the budget.
    #[arg(long)]
    budget: bool,
    /// Count instructions, and write them down as the budget.
    #[arg(long)]
    update: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.run {
        let found = WORKLOADS.iter().find(|workload| workload.name == name);
        let workload = found.ok_or_else(|| anyhow::anyhow!("no workload is called {name}"))?;
        time(workload);
        return Ok(());
    }
    if arguments.budget || arguments.update {
        return budget::check(arguments.update);
    }
    WORKLOADS.iter().for_each(time);
    Ok(())
}

/// Runs a workload and prints what a delivery took, or a message where fewer are delivered.
fn time(workload: &Workload) {
    let mut stage = workload.stage();
    let start = Instant::now();
    let delivered = stage.play(workload.messages);
    let nanoseconds = start.elapsed().as_nanos() as f64 / delivered.max(workload.messages) as f64;
    println!("{:<14} {delivered:>8} deliveries  {nanoseconds:>7.1} ns each", workload.name);
}
