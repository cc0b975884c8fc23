//! One process: the broker that a disk holds, and what its threads would do, step by step.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use sluicemq::broker::Broker;
use sluicemq::broker::alarms::{HOLD, Level, Shortage};
use sluicemq::broker::checkpoint::{Checkpoint, Progress};
use sluicemq::broker::memory::Memory;
use sluicemq::broker::recover::OpenError;
use sluicemq::broker::wakes::Wakes;
use sluicemq::config::Config;
use sluicemq::storage::directory::{Directory, NodeId};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::error::StoreError;
use sluicemq::storage::log::{Committed, LogOptions, SyncMode};

/// Sizes of the log, so small that checkpoints never rest, and when it is synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) slot_bytes: u64,
    pub(crate) window_slots: usize,
    /// Message bytes above this are let go of.
    pub(crate) cache_bytes: u64,
    pub(crate) sync: SyncMode,
}

impl Sizes {
    /// Small ones, for a script; each batch is synced.
    pub(crate) const SMALL: Self =
        Self { slot_bytes: 64 << 10, window_slots: 1, cache_bytes: 0, sync: SyncMode::EachBatch };

    /// The log's options; each opening has epochs of its own.
    fn options(self, epoch_seed: u64) -> LogOptions {
        LogOptions {
            slot_bytes: self.slot_bytes,
            window_slots: self.window_slots,
            epoch_seed: Some(epoch_seed),
            sync: self.sync,
            ..LogOptions::default()
        }
    }
}

pub(crate) struct Life {
    pub(crate) broker: Arc<Broker>,
    checkpoint: RefCell<Checkpoint>,
    /// What its last step said.
    progress: Cell<Progress>,
    _directory: Directory,
}

thread_local! {
    static CONFIG: Arc<Config> = Arc::default();
}

impl Life {
    /// Starts on what the disk holds.
    pub(crate) fn start(disk: Arc<dyn Disk>, sizes: Sizes, epoch_seed: u64) -> Result<Self, OpenError> {
        let directory = Directory::open(disk, NodeId(7))?;
        let memory = Memory::new(u64::MAX, u64::MAX).with_cache(sizes.cache_bytes);
        let disk = Arc::clone(directory.disk());
        let config = CONFIG.with(Arc::clone);
        let (broker, checkpoint) = Broker::open(config, disk, sizes.options(epoch_seed), memory)?;
        Ok(Self {
            broker: Arc::new(broker),
            checkpoint: RefCell::new(checkpoint),
            progress: Cell::new(Progress::Idle),
            _directory: directory,
        })
    }

    /// A step of the thread that commits; whether it did anything.
    pub(crate) fn commit(&self) -> Result<bool, StoreError> {
        Ok(self.broker.commit()? == Committed::Batch)
    }

    /// A turn of the thread of checkpoints; whether there is more at once.
    pub(crate) fn checkpoint(&self) -> Result<bool, StoreError> {
        let progress = self.checkpoint.borrow_mut().turn(&self.broker)?;
        self.progress.set(progress);
        Ok(progress == Progress::Working)
    }

    /// The same while the alarm is on, of which no client is told.
    pub(crate) fn checkpoint_in_alarm(&self) -> Result<bool, StoreError> {
        self.broker.node.alarms.raise(Shortage::Disk);
        let done = self.checkpoint();
        self.end_alarm();
        done
    }

    /// Ends the alarm, if there is one: clients of a workload are not to wait. Whether there was.
    pub(crate) fn end_alarm(&self) -> bool {
        let alarms = &self.broker.node.alarms;
        if !alarms.is_raised(Shortage::Disk) {
            return false;
        }
        let now = Instant::now();
        for later in [now, now + HOLD] {
            alarms.look(Shortage::Disk, Level::Plenty, later);
        }
        while alarms.wake_blocked() {}
        true
    }

    /// Whether its next step cannot wait for a commit.
    pub(crate) fn checkpoints_alone(&self) -> bool {
        match self.progress.get() {
            Progress::Idle | Progress::WaitsForReaders => true,
            Progress::WaitsForLog(position) => self.broker.node.log.durable() < position,
            Progress::Working => false,
        }
    }

    /// Lets go of message bytes; whether there may be more to do.
    pub(crate) fn evict(&self) -> Result<bool, StoreError> {
        self.broker.evict(&|| {})
    }

    /// Reads back what one queue asks for; whether one did.
    pub(crate) fn read_ahead(&self) -> Result<bool, StoreError> {
        let Some(queue) = self.broker.node.reads.take() else { return Ok(false) };
        let mut wakes = Wakes::default();
        let read = queue.read_ahead(&mut wakes);
        wakes.fire();
        match read {
            Err(error) if !error.is_of_log() => {
                // Another try may do better.
                self.broker.node.reads.ask_again(&queue);
                Ok(true)
            }
            read => read.map(|()| true),
        }
    }

    /// The last word of a process that stops by itself. Its clients are gone.
    pub(crate) fn stop(&self) -> Result<(), StoreError> {
        while self.commit()? {}
        self.broker.node.log.sync()?;
        self.checkpoint.borrow_mut().close(&self.broker)
    }
}
