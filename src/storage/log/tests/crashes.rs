//! Every call to the disk of a small workload goes wrong in every way, and after each the log must have what was
//! durable, in order, whole units, and nothing that was not appended; then it goes on and goes wrong again.
//!
//! `SEEDS=200 cargo test --lib storage::log::tests::crashes` runs more of it; a failure names its seed.

use crate::message::place::Lsn;
use crate::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use crate::storage::error::StoreError;
use crate::storage::log::{Log, LogReader, ReplayFrom, Replayed};

use super::{KIND, append, body, commit_all, open};

const SEEDS: u64 = 4;
const STEPS: u64 = 30;
const FAULTS: [Fault; 5] = [
    Fault::Crash,
    Fault::SyncFails,
    Fault::ShortWrite,
    Fault::NoSpace,
    Fault::Error(std::io::ErrorKind::PermissionDenied),
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) % sides
    }
}

#[derive(Clone, Debug)]
struct Appended {
    start: Lsn,
    end: Lsn,
    id: u64,
    len: usize,
    unit: u64,
}

/// What was done to the log, and what it must therefore have.
struct Shadow {
    disk: SimulatedDisk,
    dice: Dice,
    replay: ReplayFrom,
    history: Vec<Appended>,
    durable: Lsn,
    next: u64,
    openings: u64,
}

impl Shadow {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimulatedDisk::new(),
            dice: Dice(seed),
            replay: ReplayFrom::START,
            history: Vec::new(),
            durable: Lsn(0),
            next: 0,
            openings: seed << 32,
        }
    }

    /// Opens the log and judges what is in it.
    fn open(&mut self) -> Result<Log, StoreError> {
        self.openings += 1;
        let (log, found) = open(&self.disk, self.openings, self.replay)?;
        self.judge(&log, &found);
        Ok(log)
    }

    fn judge(&mut self, log: &Log, found: &[Replayed]) {
        let replay = self.replay.lsn;
        let expected: Vec<_> = self.history.iter().filter(|entry| entry.start >= replay).cloned().collect();
        assert!(found.len() <= expected.len(), "found what was never appended");
        for (entry, record) in expected.iter().zip(found) {
            assert_eq!((entry.start, entry.end), (record.start, record.end));
            assert_eq!(record.body, body(entry.id, entry.len));
        }
        let lost: Vec<_> = expected.iter().skip(found.len()).collect();
        assert!(lost.iter().all(|entry| entry.end > self.durable), "a durable record is lost: {lost:?}");
        if let (Some(last), Some(next)) = (found.len().checked_sub(1).map(|at| &expected[at]), lost.first()) {
            assert!(last.unit != next.unit, "a unit is torn");
        }
        let end = found.last().map_or(replay, |record| record.end);
        self.history.retain(|entry| entry.end <= end);
        self.durable = log.durable();
        let mut reader = LogReader::default();
        for entry in self.history.iter().filter(|entry| entry.start >= replay) {
            let lease = log.lease(entry.start).expect("what was found is in the log");
            match reader.read(&lease, entry.start) {
                Ok((kind, found)) => assert_eq!((kind, found), (KIND, body(entry.id, entry.len).into())),
                Err(StoreError::Io { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Uses the log until it has done enough, or cannot go on.
    fn work(&mut self, log: &Log, steps: u64) -> Result<(), StoreError> {
        for _ in 0..steps {
            match self.step(log) {
                Err(error) if error.is_full() => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn step(&mut self, log: &Log) -> Result<(), StoreError> {
        match self.dice.roll(10) {
            0..4 => {
                let unit = self.next;
                let records: Vec<_> = (0..=self.dice.roll(3))
                    .map(|n| (unit + n, 8 + self.dice.roll(3) as usize * self.dice.roll(2500) as usize))
                    .collect();
                self.next += 3;
                let logged = append(log, records.clone());
                self.history.extend(logged.into_iter().zip(records).map(|(logged, (id, len))| Appended {
                    start: logged.start,
                    end: logged.end,
                    id,
                    len,
                    unit,
                }));
            }
            4..8 => {
                let committed =
                    if self.dice.roll(2) == 0 { log.commit_once().map(|_| ()) } else { commit_all(log) };
                self.durable = log.durable();
                committed?;
            }
            8 => {
                if let Some(retiring) = log.retirable(1 + self.dice.roll(2) as usize) {
                    // The checkpoint's own commit, as durable as it gets.
                    self.replay = retiring.replay();
                    assert!(log.try_retire(retiring).is_none());
                }
            }
            _ => match self.dice.roll(3) {
                0 => log.seal_open_slot()?,
                _ => _ = log.prepare_slot()?,
            },
        }
        Ok(())
    }

    /// The log can do no more; whatever is tried, nothing becomes durable.
    fn check_dead(&mut self, log: &Log) {
        let _ = append(log, [(u64::MAX, 8)]);
        for _ in 0..3 {
            if log.poisoned().is_some() {
                assert!(log.commit_once().is_err());
                assert_eq!(log.durable(), self.durable);
            }
        }
    }

    /// Goes on after a fault: one crash, perhaps others while it recovers.
    fn crash(&mut self, mode: CrashMode) {
        self.disk = self.disk.crash(mode, self.dice.roll(u64::MAX));
        for _ in 0..self.dice.roll(3) {
            let fault = FAULTS[self.dice.roll(FAULTS.len() as u64) as usize];
            self.disk.fail_at(self.dice.roll(30), fault);
            drop(self.open());
            let mode = CrashMode::ALL[self.dice.roll(7) as usize];
            self.disk = self.disk.crash(mode, self.dice.roll(u64::MAX));
        }
    }
}

fn calls_of(seed: u64) -> u64 {
    let mut shadow = Shadow::new(seed);
    let log = shadow.open().unwrap();
    shadow.work(&log, STEPS).unwrap();
    shadow.disk.calls()
}

fn run(seed: u64, call: u64, fault: Fault, mode: CrashMode) {
    let mut shadow = Shadow::new(seed);
    shadow.disk.fail_at(call, fault);
    if let Ok(log) = shadow.open()
        && shadow.work(&log, STEPS).is_err()
    {
        shadow.check_dead(&log);
    }
    shadow.dice = Dice(seed ^ call << 8 ^ (mode as u64) << 32);
    shadow.crash(mode);
    let log = shadow.open().expect("after a crash it opens");
    shadow.disk.fail_at(shadow.disk.calls() + shadow.dice.roll(30), fault);
    if shadow.work(&log, 15).is_err() {
        shadow.check_dead(&log);
    }
    drop(log);
    let mode = CrashMode::ALL[shadow.dice.roll(7) as usize];
    shadow.crash(mode);
    let log = shadow.open().expect("after a second crash it opens");
    shadow.work(&log, 5).expect("and works");
}

#[test]
fn whatever_goes_wrong_at_any_call_the_log_has_what_was_durable() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 1..=seeds {
        for call in 0..calls_of(seed) + 1 {
            for fault in FAULTS {
                for mode in CrashMode::ALL {
                    let outcome = std::panic::catch_unwind(|| run(seed, call, fault, mode));
                    assert!(outcome.is_ok(), "run({seed}, {call}, Fault::{fault:?}, CrashMode::{mode:?})");
                }
            }
        }
    }
}
