//! What the dice found once, played on purpose.

use std::sync::Arc;

use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};

use crate::life::Sizes;
use crate::message::Message;
use crate::shadow::Shadow;
use crate::survivor::Survivor;

const SIZES: Sizes = Sizes { cache_bytes: u64::MAX, ..Sizes::SMALL };
const QUEUE: &str = "d0";
/// More than is ever used.
const LARGE: u64 = 1 << 40;

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
        self.try_to_publish(count, persistent, bytes).unwrap();
    }

    fn try_to_publish(&mut self, count: u32, persistent: bool, bytes: usize) -> Result<(), String> {
        let first = self.known.len() as u32;
        let (exchange, key) = (String::new(), QUEUE.to_owned());
        let new: Vec<Message> = (first..first + count)
            .map(|id| Message { id, persistent, exchange: exchange.clone(), key: key.clone(), bytes })
            .collect();
        self.known.extend(new.iter().cloned());
        self.survivor.publish(&new)
    }

    /// Of the disk so much is free from now on.
    fn leave_room(&self, bytes: u64) {
        self.disk.set_capacity(LARGE);
        let used = LARGE - self.disk.free_bytes().unwrap();
        self.disk.set_capacity(used + bytes);
    }

    /// The length of the log's shortest file.
    fn shortest_slot(&self) -> u64 {
        let names = self.disk.list("log").unwrap();
        let lens = names.iter().map(|name| self.disk.open(&format!("log/{name}")).unwrap().len().unwrap());
        lens.min().unwrap()
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

#[test]
fn a_checkpoint_is_due_when_the_log_lacks_room_however_few_slots_are_in_use() {
    let mut script = Script::with(Sizes { window_slots: 8, ..SIZES });
    for _ in 0..8 {
        script.publish_these(1, true, 20_000);
    }
    script.leave_room(0);
    let full = script.try_to_publish(8, true, 20_000);
    assert!(full.is_err(), "there is room for {} messages", script.known.len());
    // There was room for a moment, of which nobody told the log, and the reserve was taken again.
    let life = &script.survivor.life;
    script.disk.set_capacity(LARGE);
    life.broker.node.room.take_reserve().unwrap();
    script.leave_room(SIZES.slot_bytes);
    let log = &life.broker.node.log;
    assert!(log.slots_in_use() < 6 && log.lacks_room(), "{} slots are in use", log.slots_in_use());
    // No alarm is on, which would be another reason.
    assert_eq!(life.broker.node.alarms.reason(), None);
    while life.checkpoint().unwrap() {}
    assert!(script.disk.open("meta.ballast").is_err() && !log.lacks_room(), "the log was given the reserve");
    while life.commit().unwrap() | life.checkpoint().unwrap() {}
    assert!(life.broker.node.counters.packed_messages.read() > 0, "nothing was moved for its slots");
    assert_eq!(script.crash(), (0..16).collect::<Vec<u32>>());
}

#[test]
fn slots_as_short_as_their_batches_are_made_before_the_reserve_is_used_and_found_after_a_crash() {
    for mode in CrashMode::ALL {
        let mut script = Script::with(Sizes { window_slots: 8, ..SIZES });
        script.checkpoint();
        script.leave_room(SIZES.slot_bytes / 2);
        while script.shortest_slot() >= SIZES.slot_bytes {
            assert!(script.known.len() < 200, "all slots are whole");
            script.publish(1);
        }
        assert!(script.disk.open("meta.ballast").is_ok(), "the reserve is used");
        script.disk.set_capacity(LARGE);
        let all = script.known.len() as u32;
        assert_eq!(script.crash_in(mode), (0..all).collect::<Vec<u32>>(), "{mode:?}");
        // It is used again, with room for more than it had.
        for _ in 0..100 {
            script.checkpoint();
            script.publish(1);
        }
        assert!(script.shortest_slot() >= SIZES.slot_bytes, "there is room for whole ones");
        assert_eq!(script.crash_in(mode), (0..all + 100).collect::<Vec<u32>>(), "{mode:?}");
    }
}
