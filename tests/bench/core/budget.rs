//! Instructions of each workload, counted by callgrind, beside those that are allowed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::workload::{WORKLOADS, Workload};

const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/budget.txt");
/// Over the budget by more than this share is too much.
const TOLERANCE: f64 = 0.1;
/// The functions whose instructions count, with all they call.
const MEASURED: [&str; 5] = [
    "core::client::take",
    "core::client::wake",
    "core::client::go_on",
    "core::client::written",
    "core::client::bury",
];

/// Counts, prints the table, and compares with the budget or writes it.
pub(crate) fn check(update: bool) -> anyhow::Result<()> {
    let allowed = if update { BTreeMap::new() } else { read()? };
    let mut counted = BTreeMap::new();
    let mut over = Vec::new();
    println!("instructions a message   counted   allowed");
    for workload in WORKLOADS {
        let count = count(workload)?;
        counted.insert(workload.name, count);
        let Some(&allowed) = allowed.get(workload.name) else {
            println!("{:<22} {count:>9}         -", workload.name);
            ensure!(update, "{} has no budget: --update writes one", workload.name);
            continue;
        };
        let change = count as f64 / allowed as f64 - 1.0;
        println!("{:<22} {count:>9} {allowed:>9}  {:>+6.1} %", workload.name, change * 100.0);
        if change > TOLERANCE {
            over.push(workload.name);
        }
    }
    if update {
        return write(&counted);
    }
    ensure!(over.is_empty(), "over the budget: {}", over.join(", "));
    Ok(())
}

/// Instructions for each message published.
fn count(workload: &Workload) -> anyhow::Result<u64> {
    let this = std::env::current_exe()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(MEASURED.map(|function| format!("--toggle-collect={function}")));
    let output = valgrind.arg(this).args(["--run", workload.name]).output();
    let output = output.context("valgrind, which counts, could not be started")?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed under valgrind:\n{report}", workload.name);
    }
    let collected = report.lines().find_map(|line| line.split("Collected :").nth(1));
    let total: u64 = collected.context("callgrind told no count")?.trim().parse()?;
    ensure!(total > 0, "none of {MEASURED:?} was seen: are they still called so?");
    Ok(total / workload.messages)
}

fn read() -> anyhow::Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(Path::new(BUDGET)).context(BUDGET)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, count) = line.split_once(' ').with_context(|| format!("{BUDGET}: {line}"))?;
            Ok((name.to_owned(), count.trim().parse()?))
        })
        .collect()
}

fn write(counted: &BTreeMap<&str, u64>) -> anyhow::Result<()> {
    let mut text = "# Instructions a published message may take, all its deliveries included.\n".to_owned();
    for (name, count) in counted {
        writeln!(text, "{name:<14} {count}")?;
    }
    std::fs::write(BUDGET, text).context(BUDGET)
}
