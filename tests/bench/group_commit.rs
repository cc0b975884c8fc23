//! The bare limit of confirmed publishing on a disk: records appended to one file, one write and one fdatasync for
//! all that gathered meanwhile. No protocol, no queue, no recovery.
//!
//! With `--keep` it keeps what it writes, as a backlog does that nobody consumes: it goes on into new blocks, which
//! most disks take more slowly.
//!
//! `cargo bench --bench group_commit -- --dir DIR [--size 1024] [--producers 4] [--window 250] [--seconds 5] [--keep]`

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use hdrhistogram::Histogram;

/// As large as a slot of the log, written once before the clock starts: what is measured is the steady state.
const FILE_BYTES: u64 = 64 << 20;
const PAGE_BYTES: usize = 4096;
/// A record costs this much beside its body.
const RECORD_HEAD: [u8; 20] = [7; 20];

#[derive(Parser)]
struct Arguments {
    /// The directory to write in: it should be on the disk that the broker uses.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Body of a record, in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Threads that append, each its own records one by one.
    #[arg(long, default_value_t = 4)]
    producers: usize,
    /// Records that each of them has appended and that are not yet durable.
    #[arg(long, default_value_t = 250)]
    window: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Go on into new blocks instead of writing over the same 64 MiB.
    #[arg(long)]
    keep: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Log {
    pending: Mutex<Pending>,
    appended: Condvar,
    became_durable: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    records: u64,
    appended: u64,
    durable: u64,
    batches: u64,
    is_over: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no thread panics")
    }

    /// Appends one record; its number.
    fn append(&self, body: &[u8]) -> u64 {
        let checksum = crc32c::crc32c(body);
        let mut pending = self.lock();
        pending.bytes.extend_from_slice(&RECORD_HEAD);
        pending.bytes.extend_from_slice(&checksum.to_le_bytes());
        pending.bytes.extend_from_slice(body);
        pending.records += 1;
        pending.appended += 1;
        if pending.records == 1 {
            self.appended.notify_one();
        }
        pending.appended
    }

    /// Keeps `window` records outstanding until the time is over; how long each waited, in nanoseconds.
    fn produce(&self, size: usize, window: usize, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let body = vec![42; size];
        let mut waits = Histogram::new(3)?;
        let mut outstanding: VecDeque<(u64, Instant)> = VecDeque::new();
        while Instant::now() < until {
            while outstanding.len() < window {
                let since = Instant::now();
                outstanding.push_back((self.append(&body), since));
            }
            let durable = self.wait_beyond(outstanding.front().map_or(0, |&(first, _)| first));
            while let Some((_, since)) = outstanding.pop_front_if(|(record, _)| *record <= durable) {
                waits.record(since.elapsed().as_nanos() as u64)?;
            }
        }
        Ok(waits)
    }

    /// Up to which record all are durable, once this one is.
    fn wait_beyond(&self, record: u64) -> u64 {
        let waits = |pending: &mut Pending| pending.durable < record && !pending.is_over;
        self.became_durable.wait_while(self.lock(), waits).expect("no thread panics").durable
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let log = Log::default();
    let file = prepare(&arguments.dir)?;
    let start = Instant::now();
    let until = start + Duration::from_secs(arguments.seconds);
    let waits = thread::scope(|scope| {
        let committer = scope.spawn(|| commit(&log, &file, arguments.keep));
        let produce = || log.produce(arguments.size, arguments.window, until);
        let producers: Vec<_> = (0..arguments.producers).map(|_| scope.spawn(produce)).collect();
        let mut waits = Histogram::new(3)?;
        for producer in producers {
            waits.add(producer.join().expect("no thread panics")?)?;
        }
        log.lock().is_over = true;
        log.appended.notify_one();
        committer.join().expect("no thread panics")?;
        anyhow::Ok(waits)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    println!(
        "{} B, {} x {} in flight: {:.0} records/s, {:.0} syncs/s, waits: median {:.0} us, p99 {:.0} us",
        arguments.size,
        arguments.producers,
        arguments.window,
        waits.len() as f64 / elapsed,
        log.lock().batches as f64 / elapsed,
        waits.value_at_quantile(0.5) as f64 / 1000.0,
        waits.value_at_quantile(0.99) as f64 / 1000.0,
    );
    Ok(())
}

/// The file, written once, and already without a name: it goes with the process.
fn prepare(dir: &Path) -> anyhow::Result<File> {
    let file = tempfile::tempfile_in(dir).with_context(|| dir.display().to_string())?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn commit(log: &Log, file: &File, keep: bool) -> anyhow::Result<()> {
    let mut at = 0;
    let mut room = FILE_BYTES;
    let mut bytes = Vec::new();
    loop {
        let durable = {
            let waits = |pending: &mut Pending| pending.records == 0 && !pending.is_over;
            let mut pending = log.appended.wait_while(log.lock(), waits).expect("no thread panics");
            if pending.is_over {
                return Ok(());
            }
            std::mem::swap(&mut bytes, &mut pending.bytes);
            pending.records = 0;
            pending.appended
        };
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        if at + bytes.len() as u64 > room {
            if keep {
                room += FILE_BYTES;
                rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, room)?;
            } else {
                at = 0;
            }
        }
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        at += bytes.len() as u64;
        bytes.clear();
        let mut pending = log.lock();
        pending.batches += 1;
        pending.durable = durable;
        log.became_durable.notify_all();
    }
}
