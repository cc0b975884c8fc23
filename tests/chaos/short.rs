//! A filesystem that is full about half of the time, because somebody else fills it or the backlogs have: every alarm
//! ends in seconds when there is room again, nothing confirmed is lost, and what is empty takes no room.
//!
//! ```text
//!  there is room    everybody works                                     until so much is confirmed, or all is full
//!  there is none    a file takes what is left; some still consume       as long as there was room
//!  there is again   the file goes, all consume                          until publishers go on
//! ```
//!
//! Some seconds of it run with every test; `CHAOS_DISK_SECONDS=3600 cargo test --release --test chaos a_disk -- --nocapture`
//! runs an hour, and `CHAOS_SEED` another one.

mod workers;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::load::Load;
use crate::node::{Node, Volume};
use crate::short::workers::{Stage, Taps};

const VOLUME_BYTES: u64 = 512 << 20;
const MIB: u64 = 1 << 20;
const SLOT_BYTES: u64 = 2 * MIB;
const WINDOW_SLOTS: u64 = 3;
const LIMIT_BYTES: u64 = 48 * MIB;
const SETTINGS: [(&str, &str); 4] = [
    ("SLUICEMQ_STORAGE_SLOT_BYTES", "2MiB"),
    ("SLUICEMQ_STORAGE_WINDOW_SLOTS", "3"),
    ("SLUICEMQ_STORAGE_CACHE", "8MiB"),
    ("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "48MiB"),
];
/// What an empty broker's directory has at most: twice a window of slots, with the open one and the next, the reserve, and
/// the tables.
const EMPTY_BYTES: u64 = (2 * WINDOW_SLOTS + 2) * SLOT_BYTES + 2 * SLOT_BYTES + 4 * MIB + 8 * MIB;
/// Without a word in the environment.
const SECONDS: u64 = 4;
/// Every so many rounds all is drained and counted.
const COUNT_EVERY: u64 = 5;
/// In one of so many rounds backlogs fill the disk. Not in the first ones: it takes a while.
const BACKLOG_ONE_IN: u64 = 6;
/// How long publishers may wait when there is room again. The alarm itself lasts a second at least.
const CLEARS: Duration = Duration::from_secs(5);
/// Confirms after which publishers have gone on.
const GONE_ON: u64 = 100;
/// After so long without a confirm or a delivery nobody gets anything.
const STILL: Duration = Duration::from_secs(3);
/// After so long without a delivery what is left is little.
const DRY: Duration = Duration::from_millis(500);
/// The disk is full for no longer than this.
const FULL_MAX: Duration = Duration::from_secs(8);
/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Somebody else's file.
struct Filler(PathBuf);

impl Filler {
    /// Takes all that is free but so many bytes. Others take from the same, meanwhile.
    fn take_all_but(&self, left: u64) -> io::Result<()> {
        let file = File::create(&self.0)?;
        loop {
            let free = free_bytes(&self.0)?;
            if free <= left {
                return Ok(());
            }
            match fallocate(&file, FallocateFlags::empty(), file.metadata()?.len(), free - left) {
                Err(rustix::io::Errno::NOSPC) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn give_back(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path.parent().unwrap_or(path))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// What a directory has on its disk.
fn used_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        bytes += match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => used_bytes(&path)?,
            Ok(found) => found.blocks() * 512,
            // It has gone meanwhile.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// Numbers that look drawn.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// One run.
struct Run<'a> {
    node: &'a Node,
    data: PathBuf,
    filler: Filler,
    dice: Dice,
    round: u64,
    /// How long the disk was full, and how long it was not.
    full: Duration,
    free: Duration,
    longest: Duration,
}

impl Run<'_> {
    fn round(&mut self, stage: &Stage) -> Result<(), String> {
        let begins = Instant::now();
        let is_backlogs = self.round >= COUNT_EVERY && self.dice.below(BACKLOG_ONE_IN) == 0;
        stage.turn(if is_backlogs { Taps::Closed } else { self.any_taps() });
        let confirms = if is_backlogs { u64::MAX } else { 200 + self.dice.below(20_000) };
        let target = stage.seen().confirmed.saturating_add(confirms);
        stage.wait_until(PATIENCE, "to publish", |seen| seen.blocked > 0 || seen.confirmed >= target)?;
        let free = begins.elapsed();
        let left = [0, 4096, MIB, LIMIT_BYTES / 2][self.dice.below(4) as usize];
        if stage.seen().blocked == 0 || self.dice.below(2) == 0 {
            self.filler.take_all_but(left).map_err(|error| format!("no file takes all: {error}"))?;
        }
        stage.wait_for_silence(STILL, PATIENCE, "to be told to wait")?;
        stage.turn(self.any_taps());
        stage.rest(free.min(FULL_MAX));
        let used = used_bytes(&self.data).unwrap_or(0);
        let cleared = self.give_room(stage)?;
        let full = begins.elapsed() - free;
        self.free += free;
        self.full += full;
        self.longest = self.longest.max(cleared);
        println!(
            "round {}: room for {:.1} s, none for {:.1} s, {} MiB in use; publishers went on after {:.1} s",
            self.round,
            free.as_secs_f64(),
            full.as_secs_f64(),
            used / MIB,
            cleared.as_secs_f64(),
        );
        self.round += 1;
        Ok(())
    }

    fn any_taps(&mut self) -> Taps {
        [Taps::Open, Taps::Closed, Taps::Some][self.dice.below(3) as usize]
    }

    /// There is room again, at once or when enough is consumed: how long publishers waited from then on.
    fn give_room(&self, stage: &Stage) -> Result<Duration, String> {
        self.filler.give_back().map_err(|error| format!("the file stays: {error}"))?;
        stage.turn(Taps::Open);
        let target = stage.seen().confirmed + GONE_ON;
        let (begins, mut since) = (Instant::now(), None);
        let (mut delivered, mut delivered_at) = (0, begins);
        loop {
            let seen = stage.wait_a_moment()?;
            if seen.blocked == 0 && seen.confirmed >= target {
                return Ok(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            }
            if seen.delivered > delivered {
                (delivered, delivered_at) = (seen.delivered, Instant::now());
            }
            let free = free_bytes(&self.filler.0).map_err(|error| error.to_string())?;
            // A little more than ends an alarm; and when all is consumed there is room, or nothing gives it.
            let is_plenty = free > LIMIT_BYTES / 8 * 10 || delivered_at.elapsed() > CLEARS;
            since = is_plenty.then(|| since.unwrap_or_else(Instant::now));
            if since.is_some_and(|since| since.elapsed() > CLEARS) || begins.elapsed() > PATIENCE {
                let used = used_bytes(&self.data).unwrap_or(0) / MIB;
                return Err(format!("{seen:?} with {} MiB free and {used} in use", free / MIB));
            }
        }
    }

    /// All is drained and counted, and then no room is taken.
    fn count(&self, load: &Load) -> Result<(), String> {
        load.drain(self.node.address).map_err(|error| format!("all cannot be drained: {error}"))?;
        let checker = load.checker.lock().expect("no worker panics");
        if !checker.violations().is_empty() {
            return Err(format!("{:#?}", checker.violations()));
        }
        println!("{}", checker.figures());
        drop(checker);
        let begins = Instant::now();
        loop {
            let used = used_bytes(&self.data).map_err(|error| error.to_string())?;
            if used <= EMPTY_BYTES {
                println!(
                    "drained, {} MiB are in use, after {:.1} s",
                    used / MIB,
                    begins.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            if begins.elapsed() > PATIENCE {
                return Err(format!("{} MiB are in use, and nothing lives", used / MIB));
            }
            std::thread::yield_now();
        }
    }

    /// Rounds until the time is over and all is counted.
    fn run(&mut self, load: &std::sync::Arc<Load>, seconds: u64) -> Result<(), String> {
        let begins = Instant::now();
        while begins.elapsed() < Duration::from_secs(seconds) {
            let stage = Stage::start(load, self.node.address);
            for _ in 0..COUNT_EVERY {
                if begins.elapsed() < Duration::from_secs(seconds) {
                    self.round(&stage)?;
                }
            }
            stage.end(DRY)?;
            self.count(load)?;
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_is_full_half_of_the_time_stops_publishers_for_seconds_and_costs_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (seconds, seed) =
        (number("CHAOS_DISK_SECONDS").unwrap_or(SECONDS), number("CHAOS_SEED").unwrap_or(1));
    let dir = tempfile::tempdir().expect("a directory");
    // What is kept for root the broker would have when nothing is free for others.
    let volume = match Volume::make_with(dir.path(), VOLUME_BYTES, &["-m", "0"]) {
        Ok(volume) => volume,
        Err(error) => return println!("skipped: no filesystem that could be filled: {error}"),
    };
    let data = volume.data_dir();
    let node = Node::start(&data, &SETTINGS).expect("the broker starts");
    let load = Load::new();
    Load::declare(node.address, true).expect("it takes definitions");
    let mut run = Run {
        node: &node,
        filler: Filler(data.with_file_name("filler")),
        data: data.clone(),
        dice: Dice(seed),
        round: 0,
        full: Duration::ZERO,
        free: Duration::ZERO,
        longest: Duration::ZERO,
    };
    let ended = run.run(&load, seconds);
    let Run { round, full, free, longest, .. } = run;
    ended.unwrap_or_else(|why| panic!("seed {seed}, round {round}: {why}; the broker: {:#?}", node.log()));
    println!(
        "seed {seed}: {round} rounds, full for {:.0} s of {:.0}, publishers waited {:.1} s at most when there was room",
        full.as_secs_f64(),
        (full + free).as_secs_f64(),
        longest.as_secs_f64(),
    );
    assert!(node.stop().expect("it stops").success(), "a clean stop");
    let node = Node::start(&data, &SETTINGS).expect("the broker starts");
    load.drain(node.address).expect("the broker lives");
    let checker = load.checker.lock().expect("no worker panics");
    assert!(checker.violations().is_empty(), "after a stop: {:#?}", checker.violations());
}
