//! What the dice found once, played on purpose.

use std::sync::Arc;

use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};

use crate::life::Sizes;
use crate::message::Message;
use crate::shadow::Shadow;
use crate::survivor::Survivor;

const SIZES: Sizes = Sizes { slot_bytes: 64 << 10, window_slots: 1, cache_bytes: u64::MAX };
const QUEUE: &str = "d0";

/// A broker with one queue, and how it comes back.
struct Script {
    disk: SimulatedDisk,
    survivor: Survivor,
    known: Vec<Message>,
    starts: u64,
}

impl Script {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let survivor = Survivor::start(Arc::new(disk.clone()), SIZES, 1).unwrap();
        let mut script = Self { disk, survivor, known: Vec::new(), starts: 1 };
        script.survivor.declare(QUEUE).unwrap();
        script
    }

    /// Messages arrive.
    fn publish(&mut self, count: u32) {
        let first = self.known.len() as u32;
        let new: Vec<Message> = (first..first + count)
            .map(|id| Message {
                id,
                persistent: true,
                exchange: String::new(),
                key: QUEUE.to_owned(),
                bytes: 50,
            })
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
        self.disk = self.disk.crash(CrashMode::NothingUnsynced, 1);
        self.starts += 1;
        self.survivor = Survivor::start(Arc::new(self.disk.clone()), SIZES, self.starts).unwrap();
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
