//! The broker as a process that dies under load: by kill -9, and by a power cut of its filesystem. Everything the
//! clients were promised is checked by the judge in `checker`.
//!
//! A few rounds run with every test; `CHAOS_ROUNDS=100 cargo test --release --test chaos -- --nocapture` runs more. What
//! becomes of a filesystem that fills and empties is in `short`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod checker;
mod client;
mod load;
// A benchmark uses more of it.
#[allow(dead_code)]
mod node;
mod short;

use std::path::Path;

use crate::load::Load;
use crate::node::{Node, Volume};

/// Small slots, a short window and a small cache: checkpoints and evictions all the time.
const SETTINGS: [(&str, &str); 4] = [
    ("SLUICEMQ_STORAGE_SLOT_BYTES", "2MiB"),
    ("SLUICEMQ_STORAGE_WINDOW_SLOTS", "3"),
    ("SLUICEMQ_STORAGE_CACHE", "4MiB"),
    ("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "16MiB"),
];
/// Rounds without a word in the environment.
const ROUNDS: u64 = 3;
/// Every so many rounds all queues are emptied and counted; in between backlogs grow over several lives.
const DRAIN_EVERY: u64 = 3;
/// Publishes confirmed before a round's end: from the first to the sum of both.
const CONFIRMS_MIN: u64 = 200;
const CONFIRMS_SPREAD: u64 = 6000;
/// What a filesystem that was shut down answers: EIO, or EROFS to a call that had begun when its journal was given up.
/// (Four threads that write and sync while ext4 is shut down see EROFS in one call of twenty.)
const SHUT_DOWN: [&str; 2] = ["(os error 5)", "(os error 30)"];
/// A volume for the power cut.
const VOLUME_BYTES: u64 = 1 << 30;

fn rounds() -> u64 {
    std::env::var("CHAOS_ROUNDS").ok().map_or(ROUNDS, |text| text.parse().expect("CHAOS_ROUNDS is a number"))
}

/// How a life ends, and what must be done before the next.
trait Death {
    fn end(&self, node: Node);
}

struct Kill;

impl Death for Kill {
    fn end(&self, node: Node) {
        node.kill().expect("the broker can be killed");
    }
}

struct PowerCut<'a>(&'a Volume);

impl Death for PowerCut<'_> {
    fn end(&self, node: Node) {
        // The filesystem dies under a process that stands still, as both do in a power cut. One that ran on would see
        // syncs succeed that the dying filesystem never did.
        node.freeze().expect("the broker can be stopped");
        self.0.cut_power().expect("the filesystem can be shut down");
        node.kill().expect("the broker can be killed");
        self.0.restore_power().expect("the filesystem can be mounted again");
    }
}

/// Lives under load, each ended by `death`; then a last one that counts.
fn live_and_die(data_dir: &Path, death: &impl Death, seed: u64) {
    let load = Load::new();
    let rounds = rounds();
    for round in 0..rounds {
        let node = Node::start(data_dir, &SETTINGS).expect("the broker starts");
        Load::declare(node.address, round == 0).expect("what was declared is there");
        let workers = load.start(node.address);
        let drawn = (seed + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let waited = load.wait_for_confirms(CONFIRMS_MIN + drawn % CONFIRMS_SPREAD);
        let log = node.log();
        death.end(node);
        let ends: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect();
        waited.unwrap_or_else(|error| panic!("{error}; workers: {ends:#?}; the broker: {log:#?}"));
        load.checker.lock().expect("no worker panics").crash();
        if (round + 1) % DRAIN_EVERY == 0 || round + 1 == rounds {
            let node = Node::start(data_dir, &SETTINGS).expect("the broker starts");
            load.drain(node.address).expect("the broker lives");
            assert!(node.stop().expect("it stops").success(), "a clean stop");
        }
        let checker = load.checker.lock().expect("no worker panics");
        println!("round {} of {rounds}: {}", round + 1, checker.figures());
        assert!(checker.violations().is_empty(), "round {round}: {:#?}", checker.violations());
    }
}

#[test]
fn nothing_promised_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    live_and_die(&dir.path().join("data"), &Kill, 1);
}

#[test]
fn nothing_promised_is_lost_by_a_power_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(volume) = volume(dir.path()) {
        live_and_die(&volume.data_dir(), &PowerCut(&volume), 2);
    }
}

#[test]
fn a_disk_that_fails_ends_the_broker() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(volume) = volume(dir.path()) else { return };
    let load = Load::new();
    let node = Node::start(&volume.data_dir(), &SETTINGS).expect("the broker starts");
    Load::declare(node.address, true).expect("it takes definitions");
    let workers = load.start(node.address);
    load.wait_for_confirms(CONFIRMS_MIN).expect("it confirms");
    volume.cut_power().expect("the filesystem can be shut down");
    let (status, log) = node.wait();
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    assert_eq!(status.expect("it ends by itself").code(), Some(74), "{log:#?}");
    let told: Vec<_> = log.iter().filter(|line| line.contains("the store failed")).collect();
    let [why] = told[..] else { panic!("one line says why: {log:#?}") };
    assert!(SHUT_DOWN.iter().any(|error| why.ends_with(error)), "it names the disk's error: {why}");
}

fn volume(dir: &Path) -> Option<Volume> {
    Volume::make(dir, VOLUME_BYTES)
        .inspect_err(|error| println!("skipped: no filesystem whose power could be cut: {error}"))
        .ok()
}
