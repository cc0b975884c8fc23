//! `sluicemq fsck`: what the data directory of a stopped broker holds, and whether it is whole. What is checked and
//! how it is repaired is the storage room's; here are the words.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::args::{FsckArgs, Settings};
use crate::cli::load::load;
use crate::cli::{Failure, NO_DATA_DIR, print, tell};
use crate::storage::check::{Check, QueueReport, Report, Watch, said};
use crate::storage::directory::Directory;
use crate::storage::disk::real::RealDisk;
use crate::storage::error::StoreError;

/// Without a terminal it says so often how far it has come.
const LINE_EVERY_BYTES: u64 = 1 << 30;
const BAR: &str = "{msg:>6} {bar:40} {bytes}/{total_bytes} {eta}";

/// Checks, repairs if that is asked for, and prints what there is.
pub(super) fn run(args: &FsckArgs) -> Result<(), Failure> {
    let settings =
        Settings { data_dir: args.data_dir.clone(), config: args.config.clone(), ..Settings::default() };
    let config = load(&settings).map_err(Failure::Usage)?.config;
    let dir = config.data_dir.ok_or_else(|| Failure::Usage(NO_DATA_DIR.to_owned()))?;
    let directory = open(&dir)?;
    let check = check(&directory)?;
    print(&text(check.report()))?;
    let can_be_set_aside = check.report().damage.iter().all(|damage| damage.can_be_set_aside);
    if check.report().is_clean() {
        return Ok(());
    }
    if !args.repair || !can_be_set_aside {
        let advice = if can_be_set_aside {
            "--repair sets what is damaged aside, and the broker starts with everything else"
        } else {
            "this must be put right by hand: --repair would not know how"
        };
        print(&format!("{advice}\n"))?;
        return Err(Failure::Told);
    }
    let done = check.repair().map_err(failed)?;
    print(&format!("\nrepaired:\n{}", lines(done.iter())))?;
    let again = self::check(&directory)?;
    print(&format!("\n{}", text(again.report())))?;
    if again.report().is_clean() { Ok(()) } else { Err(Failure::Told) }
}

fn open(dir: &Path) -> Result<Directory, Failure> {
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("there is no data directory {}", dir.display())));
    }
    let disk =
        RealDisk::new(dir).map_err(StoreError::io("open", &dir.display().to_string())).map_err(failed)?;
    Directory::open_existing(Arc::new(disk)).map_err(failed)
}

fn check(directory: &Directory) -> Result<Check, Failure> {
    let mut progress = Progress::new();
    let check = Check::run(Arc::clone(directory.disk()), &mut progress).map_err(failed);
    progress.end();
    check
}

fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::InUse(_) => Failure::Usage(format!("{error}: stop the broker first")),
        StoreError::Foreign { .. } => Failure::Usage(format!("{error}: name a broker's with --data-dir")),
        StoreError::Io { .. } | StoreError::Poisoned(_) => Failure::Disk(error.into()),
        StoreError::Corrupt { .. } | StoreError::Newer { .. } => Failure::Runtime(error.into()),
    }
}

fn text(report: &Report) -> String {
    let mut text = table(&report.queues);
    let Report { slots, batches, records, packs, .. } = report;
    let _ = writeln!(text, "log: {slots} slots, {batches} batches, {records} records; {packs} packs");
    if !report.unknown_packs.is_empty() {
        let names: Vec<_> = report.unknown_packs.iter().map(|number| format!("{number:016x}.pack")).collect();
        let names = names.join(", ");
        let _ = writeln!(text, "packs that nobody knows, which the next start removes: {names}");
    }
    if report.is_clean() {
        text.push_str("everything is whole\n");
    } else {
        text.push_str("damaged:\n");
        text.push_str(&lines(report.damage.iter().map(|damage| &damage.problem).chain(&report.notes)));
    }
    text
}

fn lines<'a>(each: impl Iterator<Item = &'a String>) -> String {
    each.map(|line| format!("  {line}\n")).collect()
}

fn table(queues: &[QueueReport]) -> String {
    let mut rows = vec![["vhost", "queue", "messages", "bytes", "damaged"].map(str::to_owned)];
    rows.extend(queues.iter().map(|queue| {
        [
            queue.vhost.clone(),
            queue.name.clone(),
            queue.messages.to_string(),
            queue.body_bytes.to_string(),
            damaged(&queue.damaged, &queue.missing),
        ]
    }));
    let widths: Vec<usize> = (0..4)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for [vhost, queue, messages, bytes, damaged] in &rows {
        let [of_vhost, of_queue, of_messages, of_bytes] =
            [0, 1, 2, 3].map(|at| widths.get(at).copied().unwrap_or(0));
        let row = format!(
            "{vhost:of_vhost$}  {queue:of_queue$}  {messages:>of_messages$}  {bytes:>of_bytes$}  {damaged}"
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn damaged(damaged: &[Range<u64>], missing: &[Range<u64>]) -> String {
    let count = |numbers: &[Range<u64>]| numbers.iter().map(|range| range.end - range.start).sum::<u64>();
    let mut said_so = Vec::new();
    if !damaged.is_empty() {
        said_so.push(format!("{} ({})", count(damaged), said(damaged)));
    }
    if !missing.is_empty() {
        said_so.push(format!("up to {} missing ({})", count(missing), said(missing)));
    }
    if said_so.is_empty() { "0".to_owned() } else { said_so.join(", ") }
}

/// How far a check has come: a bar for people, a line now and then for a log.
struct Progress {
    bar: Option<ProgressBar>,
    part: &'static str,
    bytes: u64,
    total_bytes: u64,
    told_bytes: u64,
}

impl Progress {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, part: "", bytes: 0, total_bytes: 0, told_bytes: 0 }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Progress {
    fn begin(&mut self, part: &'static str, bytes: u64) {
        (self.part, self.bytes, self.total_bytes, self.told_bytes) = (part, 0, bytes, 0);
        if let Some(bar) = &self.bar {
            bar.set_message(part);
            bar.set_length(bytes);
            bar.set_position(0);
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
        match &self.bar {
            Some(bar) => bar.set_position(self.bytes),
            None if self.bytes - self.told_bytes >= LINE_EVERY_BYTES => {
                self.told_bytes = self.bytes;
                tell(&format!("{}: {} of {} bytes are read", self.part, self.bytes, self.total_bytes));
            }
            None => {}
        }
    }
}
