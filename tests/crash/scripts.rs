//! What the dice found once, played on purpose.

use std::sync::Arc;

use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};

use crate::life::Sizes;
use crate::message::Message;
use crate::shadow::Shadow;
use crate::survivor::Survivor;

const SIZES: Sizes = Sizes { slot_bytes: 64 << 10, window_slots: 1, cache_bytes: u64::MAX };
const QUEUE: &str = "d0";

/// A broker with one queue, and how it comes back.
struct Script {
    sizes: Sizes,
    disk: SimulatedDisk,
    survivor: Survivor,
    known: Vec<Message>,
    starts: u64,
}

impl Script {
    fn new() -> Self {
        Self::with(SIZES)
    }

    fn with(sizes: Sizes) -> Self {
        let disk = SimulatedDisk::new();
        let survivor = Survivor::start(Arc::new(disk.clone()), sizes, 1).unwrap();
        let mut script = Self { sizes, disk, survivor, known: Vec::new(), starts: 1 };
        script.survivor.declare(QUEUE).unwrap();
        script
    }

    /// Messages arrive.
    fn publish(&mut self, count: u32) {
        self.publish_these(count, true, 50);
    }

    /// Messages arrive that no restart needs, and are let go of.
    fn spill(&mut self, count: u32) {
        self.publish_these(count, false, 2000);
        while self.survivor.life.evict().unwrap() {}
        assert!(!self.survivor.life.broker.node.spills.is_empty(), "nothing was spilled");
    }

    fn publish_these(&mut self, count: u32, persistent: bool, bytes: usize) {
        let first = self.known.len() as u32;
        let (exchange, key) = (String::new(), QUEUE.to_owned());
        let new: Vec<Message> = (first..first + count)
            .map(|id| Message { id, persistent, exchange: exchange.clone(), key: key.clone(), bytes })
            .collect();
        self.known.extend(new.iter().cloned());
        self.survivor.publish(&new).unwrap();
    }

    /// Messages arrive, and go to a pack of their own.
    fn pack(&mut self, count: u32) {
        self.publish(count);
        self.checkpoint();
    }

    fn checkpoint(&mut self) {
        self.survivor.checkpoint_all().unwrap();
    }

    /// All messages but these are settled.
    fn settle_all_but(&mut self, kept: &[u32]) {
        self.survivor.settle_all_but(QUEUE, kept).unwrap();
    }

    /// The power goes. What is there afterwards.
    fn crash(&mut self) -> Vec<u32> {
        self.crash_in(CrashMode::NothingUnsynced)
    }

    fn crash_in(&mut self, mode: CrashMode) -> Vec<u32> {
        self.disk = self.disk.crash(mode, 1);
        self.starts += 1;
        self.survivor = Survivor::start(Arc::new(self.disk.clone()), self.sizes, self.starts).unwrap();
        let found = self.survivor.look(&Shadow::knowing(&self.known), false).unwrap();
        self.survivor.reconnect();
        found.state.queues[QUEUE].clone()
    }
}

#[test]
fn packs_that_merge_around_a_message_of_another_leave_it_alone() {
    let mut script = Script::new();
    script.pack(8);
    script.pack(1);
    script.pack(8);
    script.settle_all_but(&[7, 8, 9]);
    script.checkpoint();
    script.pack(1);
    assert_eq!(script.crash(), [7, 8, 9, 17]);
    script.settle_all_but(&[8, 9]);
    script.checkpoint();
    assert_eq!(script.crash(), [8, 9]);
}

#[test]
fn what_was_settled_in_a_pack_that_merges_stays_so_and_nothing_else_is() {
    let mut script = Script::new();
    script.pack(8);
    script.pack(8);
    script.settle_all_but(&[0, 15]);
    script.checkpoint();
    assert_eq!(script.crash(), [0, 15]);
    script.settle_all_but(&[15]);
    script.checkpoint();
    assert_eq!(script.crash(), [15]);
}

#[test]
fn a_checkpoint_that_finds_the_disk_full_leaves_nothing_behind() {
    for call in 0.. {
        let mut script = Script::new();
        script.publish(8);
        let begins = script.disk.calls();
        script.disk.fail_at(begins + call, Fault::NoSpace);
        if script.survivor.checkpoint_all().is_ok() && script.disk.calls() < begins + call {
            assert!(call > 20, "a checkpoint of so few calls has done nothing");
            return;
        }
        if script.survivor.checkpoint_all().is_err() {
            // A sync that fails is final, for whatever reason.
            assert_eq!(script.crash().len(), 8, "no room at call {call}");
            continue;
        }
        script.settle_all_but(&[]);
        assert_eq!(script.survivor.checkpoint_all().unwrap(), Vec::<String>::new(), "no room at call {call}");
        assert_eq!(script.crash(), Vec::<u32>::new(), "no room at call {call}");
    }
}

#[test]
fn a_spill_that_finds_the_disk_full_leaves_nothing_behind() {
    for call in 0.. {
        let mut script = Script::with(Sizes { cache_bytes: 1000, ..SIZES });
        script.publish_these(20, false, 2000);
        let life = &script.survivor.life;
        let begins = script.disk.calls();
        script.disk.fail_at(begins + call, Fault::NoSpace);
        let spilled = life.evict();
        if spilled.is_ok() && script.disk.calls() <= begins + call {
            assert!(call > 2, "a spill of so few calls has done nothing");
            return;
        }
        assert!(spilled.unwrap_err().is_full(), "no room at call {call}");
        while life.checkpoint().unwrap() {}
        assert!(life.broker.node.spills.is_empty());
        let left = script.disk.list("spill").unwrap();
        assert_eq!(left, Vec::<String>::new(), "no room at call {call}");
        while life.evict().unwrap() {}
        let found = script.survivor.look(&Shadow::knowing(&script.known), false).unwrap();
        assert_eq!(found.state.queues[QUEUE], (0..20).collect::<Vec<u32>>(), "no room at call {call}");
    }
}

#[test]
fn what_was_spilled_before_a_crash_is_not_taken_for_what_is_spilled_after_it() {
    let mut script = Script::with(Sizes { cache_bytes: 1000, ..SIZES });
    script.spill(20);
    assert_eq!(script.crash_in(CrashMode::Kill), Vec::<u32>::new());
    script.spill(20);
    while script.survivor.life.checkpoint().unwrap() {}
    let found = script.survivor.look(&Shadow::knowing(&script.known), false).unwrap();
    assert_eq!(found.state.queues[QUEUE], (20..40).collect::<Vec<u32>>());
}
