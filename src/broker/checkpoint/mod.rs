//! Letting the log's oldest slots be used again: what still lives in them moves to a pack, definitions and what is
//! settled to the tables. Packs of which little lives are merged in the same way.
//!
//! ```text
//! Idle -> Capturing -> Waiting -> (commit) -> Moving -> Retiring -> Idle
//!           |            |          |           |          '- until nobody reads the slots
//!           |            |          |           '- places in the ledgers, queue by queue, under its lock in bounded steps
//!           |            |          '- one transaction of the tables
//!           |            '- until the log is durable past everything the capture may have seen
//!           '- queue by queue, under its lock in bounded steps; bodies are copied outside of it
//! ```
//!
//! The order is the rule: pack durable, tables durable, places moved, leases drained, slots reused. Definitions are not
//! captured from memory: the log remembers those of each slot, and the tables take them in its order. Only queues that
//! a slot names are visited.
//!
//! A checkpoint takes over slots or merges packs, never both: whatever a merge lacks, slots are used again. How much of
//! either is done with so much free space, [`crate::broker::room`] says.

mod capture;
mod packs;
mod records;
mod sweeper;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::alarms::Shortage;
use crate::broker::checkpoint::capture::{Capture, Captured, Outcome, row_of};
pub(in crate::broker) use crate::broker::checkpoint::packs::PackUse;
use crate::broker::checkpoint::packs::Packs;
use crate::broker::checkpoint::sweeper::Sweeper;
use crate::broker::queue::handle::Queue;
use crate::broker::room::Means;
use crate::message::place::{Lsn, QueueId};
use crate::queue::extent::NewExtent;
use crate::storage::error::StoreError;
use crate::storage::log::Retiring;
use crate::storage::meta::{Changes, Meta};
use crate::storage::pack::Kind;
use crate::storage::pack::writer::PackSummary;

/// The checkpoints of one broker: where the present one stands.
#[derive(Debug)]
pub struct Checkpoint {
    meta: Meta,
    stage: Stage,
    packs: Packs,
    sweeper: Sweeper,
    next_pack: u64,
    /// What the present one is about.
    attempt: Attempt,
    /// Slots were taken over since the last merge: it is a merge's turn.
    owes_merge: bool,
    /// So much must be free before slots are taken over that need not be: less was not enough.
    slots_wanted_bytes: u64,
    /// Whether room was short when that was last looked at.
    was_short: bool,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Capturing(Box<Capture>),
    Waiting(Box<Captured>),
    Moving(Moving),
    Retiring(Retiring),
}

/// What a checkpoint is about.
#[derive(Debug, Default)]
struct Attempt {
    /// What it may write before it is given up; none when the log needs the slots.
    bytes_max: Option<u64>,
    /// So much was free when it began.
    free_bytes: u64,
    /// Packs that it merges.
    merged: BTreeSet<u64>,
    /// Whether it takes over slots.
    has_slots: bool,
    /// Nothing lives: no pack is written, and only the tables are left to change.
    has_no_pack: bool,
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: no checkpoint is due.
    Idle,
    /// Something; there is more.
    Working,
    /// Nothing: the log is not durable so far yet.
    WaitsForLog(Lsn),
    /// Nothing: somebody still reads the slots.
    WaitsForReaders,
}

#[derive(Debug)]
struct Moving {
    retiring: Option<Retiring>,
    /// The queue whose messages are moving.
    present: Option<Arc<Queue>>,
    /// What is to move for the others.
    queues: BTreeMap<QueueId, VecDeque<NewExtent>>,
    /// Packs that go when all has moved.
    forgotten: Vec<u64>,
}

impl Attempt {
    /// Whether it must be done, or gives much and takes hardly anything.
    fn may_use_reserve(&self) -> bool {
        self.bytes_max.is_none() || self.has_no_pack
    }
}

impl Checkpoint {
    /// None yet, on these tables and packs.
    pub(super) fn new(meta: Meta, packs: BTreeMap<u64, PackUse>, next_pack: u64) -> Self {
        Self {
            meta,
            stage: Stage::Idle,
            packs: Packs::new(packs),
            sweeper: Sweeper::default(),
            next_pack,
            attempt: Attempt::default(),
            owes_merge: false,
            slots_wanted_bytes: 0,
            was_short: false,
        }
    }

    /// One turn of whoever owns the checkpoint: a part of a file that nobody needs goes, whatever else there is to do,
    /// then a step is made, and when there is none the log's next slot is prepared.
    ///
    /// # Errors
    /// As [`Checkpoint::step`].
    pub fn turn(&mut self, broker: &Broker) -> Result<Progress, StoreError> {
        let has_swept = self.sweeper.sweep(&broker.node);
        let progress = match self.step(broker) {
            Err(error) if error.is_full() => {
                // All that can go does before anybody tries again.
                broker.node.shelf.sweep_all();
                return Err(error);
            }
            progress => progress?,
        };
        if progress == Progress::Working || has_swept || Self::prepare(broker)? {
            return Ok(Progress::Working);
        }
        Ok(progress)
    }

    /// A step towards the log's next slot, while there is room for what is only quicker. Whether there are more.
    fn prepare(broker: &Broker) -> Result<bool, StoreError> {
        if broker.node.alarms.is_raised(Shortage::Disk) {
            return Ok(false);
        }
        match broker.node.log.prepare_slot() {
            Err(error) if error.is_full() => {
                broker.on_disk_full(&error);
                Ok(false)
            }
            prepared => prepared,
        }
    }

    /// Goes one step further. Only whoever owns the checkpoint writes packs and tables.
    ///
    /// # Errors
    /// What the disk says. When it is full ([`StoreError::is_full`]) the checkpoint is given up and can be tried again;
    /// nothing was recycled, and nothing of it is left behind.
    pub fn step(&mut self, broker: &Broker) -> Result<Progress, StoreError> {
        let stepped = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => self.begin(broker),
            Stage::Capturing(capture) => self.capture(broker, *capture),
            Stage::Waiting(captured) => self.commit(broker, *captured),
            Stage::Moving(moving) => Ok(self.move_some(broker, moving)),
            Stage::Retiring(retiring) => Ok(self.retire(broker, retiring)),
        };
        match &stepped {
            Err(error) if error.is_full() => {
                self.give_up(broker);
                if self.attempt.may_use_reserve()
                    && broker.node.room.give_reserve_for(error, "a checkpoint")?
                {
                    return Ok(Progress::Working);
                }
                if self.attempt.bytes_max.is_none() && !error.lacks_descriptors() {
                    broker.node.room.was_too_little(self.attempt.free_bytes);
                }
            }
            // The tables may have been written, and then they name the pack.
            Err(_) => self.next_pack += 1,
            Ok(_) => {}
        }
        stepped
    }

    /// What was written of a pack is known to nobody. What need not be done now is tried again with more room.
    fn give_up(&mut self, broker: &Broker) {
        broker.node.shelf.doom(Kind::Durable, self.next_pack);
        self.next_pack += 1;
        if let Some(tried_bytes) = self.attempt.bytes_max {
            if self.attempt.has_slots {
                self.slots_wanted_bytes = tried_bytes.saturating_mul(2).max(1);
            }
            self.packs.want_more(&self.attempt.merged, tried_bytes);
        }
    }

    fn try_all_again(&mut self) {
        self.slots_wanted_bytes = 0;
        self.packs.try_all_again();
    }

    /// Slots that the log needs come first, but a merge has its turn after each checkpoint of them.
    fn begin(&mut self, broker: &Broker) -> Result<Progress, StoreError> {
        let node = &broker.node;
        let means = node.room.look(&node.alarms)?;
        if means.is_short() != self.was_short {
            // A disk refuses for other reasons too, which are not seen in what is free.
            self.was_short = means.is_short();
            self.try_all_again();
        }
        if means.is_short() && node.log.release_spares() {
            return Ok(Progress::Working);
        }
        let is_due = node.log.is_checkpoint_due();
        if self.owes_merge && is_due && !node.log.is_congested() {
            self.owes_merge = false;
            if self.begin_merge(broker, means)? {
                return Ok(Progress::Working);
            }
        }
        let gives_room = means.is_short() && self.slots_wanted_bytes <= means.spare_bytes();
        if is_due || gives_room {
            let wanted = means.slots_at_once(node.log.slots_in_use(), node.log.window_slots());
            if let Some(retiring) = node.log.retirable(wanted) {
                let bytes_max = (!is_due).then(|| means.spare_bytes());
                self.attempt = Attempt {
                    bytes_max,
                    free_bytes: means.free_bytes(),
                    has_slots: true,
                    ..Attempt::default()
                };
                self.stage = Stage::Capturing(Box::new(Capture::of_slots(retiring, bytes_max)));
                return Ok(Progress::Working);
            }
        }
        if self.begin_merge(broker, means)? {
            return Ok(Progress::Working);
        }
        node.room.take_reserve()?;
        Ok(Progress::Idle)
    }

    /// Begins to merge packs, and to forget those in which nothing lives. Whether there was anything to do.
    fn begin_merge(&mut self, broker: &Broker, mut means: Means) -> Result<bool, StoreError> {
        let node = &broker.node;
        let (mut merge, is_learning) = self.packs.choose(node, &means);
        if merge.packs.is_empty() && means.is_short() {
            // What it takes is given back several times.
            let more = means.with_reserve();
            let (with_reserve, _) = self.packs.choose(node, &more);
            if !with_reserve.packs.is_empty() && node.room.give_reserve("a merge of packs")? {
                (merge, means) = (with_reserve, more);
            }
        }
        if merge.packs.is_empty() && self.packs.dead().next().is_none() {
            return Ok(is_learning);
        }
        let bytes_max = Some(means.spare_bytes());
        self.attempt = Attempt { bytes_max, merged: merge.packs.clone(), ..Attempt::default() };
        self.stage = Stage::Capturing(Box::new(Capture::of_packs(merge, bytes_max)));
        Ok(true)
    }

    /// Captures the next queue, or closes the capture after the last.
    fn capture(&mut self, broker: &Broker, mut capture: Capture) -> Result<Progress, StoreError> {
        match capture.next_queue(broker, self.next_pack)? {
            Outcome::TooMuch => self.give_up(broker),
            Outcome::Captured => self.stage = Stage::Capturing(Box::new(capture)),
            Outcome::Unreadable(pack, error) => {
                // Begins again without it.
                self.packs.complain(pack, &error);
                self.give_up(broker);
            }
            Outcome::Last => {
                let dead = self.packs.dead().collect();
                let captured = capture.finish(broker, dead)?;
                self.attempt.has_no_pack = captured.pack.is_none();
                self.stage = Stage::Waiting(Box::new(captured));
            }
        }
        Ok(Progress::Working)
    }

    /// Once the log is durable past all that was seen: the tables; the places are next.
    fn commit(&mut self, broker: &Broker, captured: Captured) -> Result<Progress, StoreError> {
        let node = &broker.node;
        let seen = captured.seen;
        if node.log.durable() < seen {
            if node.log.lacks_room() {
                // Each would wait for the other.
                if node.room.give_reserve("the log")? {
                    node.log.tell_of_room();
                } else if captured.pack.is_some() {
                    // What is written of the pack is the log's room.
                    return Err(StoreError::io("write", "log")(Error::from(ErrorKind::StorageFull)));
                }
            }
            self.stage = Stage::Waiting(Box::new(captured));
            return Ok(Progress::WaitsForLog(seen));
        }
        // Where batches are not synced one by one, the tables must not be ahead of them.
        node.log.sync()?;
        self.meta.commit(&captured.changes)?;
        captured.tell_queues(node);
        let Captured { retiring, pack, changes, .. } = captured;
        let queues = pack.map(|pack| self.places_in(broker, pack)).unwrap_or_default();
        let forgotten = changes.packs_forgotten;
        self.stage = Stage::Moving(Moving { retiring, present: None, queues, forgotten });
        Ok(Progress::Working)
    }

    /// The places in a new pack, by queue.
    fn places_in(&mut self, broker: &Broker, pack: PackSummary) -> BTreeMap<QueueId, VecDeque<NewExtent>> {
        self.next_pack = pack.number + 1;
        let count = pack.extents.iter().map(|extent| u64::from(extent.record.at.count)).sum();
        let live = self.packs.add(pack.number, count, pack.bytes);
        let mut by_queue: BTreeMap<QueueId, VecDeque<NewExtent>> = BTreeMap::new();
        for extent in pack.extents {
            by_queue.entry(extent.record.queue).or_default().push_back(NewExtent {
                at: extent.record.at,
                gaps: extent.gaps,
                pack_live: Arc::clone(&live),
            });
        }
        broker.node.counters.packed_messages.add(count);
        by_queue
    }

    /// Moves places, as many as one hold of a queue's lock allows. When all have moved the packs go that they were in.
    fn move_some(&mut self, broker: &Broker, mut moving: Moving) -> Progress {
        if let Some(queue) = &moving.present {
            if queue.move_some() {
                moving.present = None;
            }
        } else if let Some((id, extents)) = moving.queues.pop_first() {
            moving.present = broker.node.durable_queue(id);
            if let Some(queue) = &moving.present {
                queue.begin_move(extents);
            }
        } else {
            for number in moving.forgotten {
                self.packs.remove(number);
                broker.node.shelf.doom(Kind::Durable, number);
            }
            if let Some(retiring) = moving.retiring {
                self.stage = Stage::Retiring(retiring);
            }
            return Progress::Working;
        }
        self.stage = Stage::Moving(moving);
        Progress::Working
    }

    fn retire(&mut self, broker: &Broker, retiring: Retiring) -> Progress {
        match broker.node.log.try_retire(retiring) {
            None => {
                broker.node.room.was_enough();
                // Who was held back for want of slots looks again.
                while broker.node.alarms.held_back.wake_some() {}
                broker.node.dead_letters.go_on();
                self.owes_merge = true;
                self.try_all_again();
                Progress::Working
            }
            Some(leased) => {
                self.stage = Stage::Retiring(leased);
                Progress::WaitsForReaders
            }
        }
    }

    /// The last word before a clean stop, when nothing changes any more: what was handed out once, so that the next
    /// start need not call every message redelivered.
    ///
    /// # Errors
    /// What the disk says.
    pub fn close(&mut self, broker: &Broker) -> Result<(), StoreError> {
        while !matches!(self.stage, Stage::Idle) && self.step(broker)? == Progress::Working {}
        let changes = Changes {
            queues: broker.node.durable_queues().iter().map(|queue| row_of(queue)).collect(),
            next_queue_id: Some(broker.node.peek_queue_id()),
            clean: Some(broker.node.log.durable()),
            ..Changes::default()
        };
        self.meta.commit(&changes)
    }
}

#[cfg(test)]
mod tests;
