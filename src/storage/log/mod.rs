//! The log of facts: append gives a position, a batch makes it durable, a checkpoint lets its room be used again.
//!
//! ```text
//!  append  a memcpy into the pending batch, under a leaf lock        -> Logged{start, end}
//!  commit  one write, one sync, `durable` rises, sleepers are woken  (one thread, or a simulation's step)
//!  read    a record is found by its start, in a slot that is leased
//!  retire  the oldest sealed slots whose facts are applied           (one thread, after its own commit)
//!
//!  slots   | retired, free | sealed | sealed | open |   spare, written with zeros
//!                            ^ replay position starts here
//! ```
//!
//! The log knows records by their kind; of facts it knows, through their codec, which queues they name and whether they
//! define something, because a slot remembers that. It never looks into a body itself. Only its own
//! [`CUT`](crate::storage::batch::CUT), which each start writes first, means something to it: where the log that was found
//! ends.
//!
//! A failed write or sync of a batch is final: the log is poisoned, `durable` never rises again, and only the disk
//! itself, read at the next start, says what is there.

mod append;
mod commit;
pub(in crate::storage) mod files;
mod options;
mod prepare;
mod read;
pub(in crate::storage) mod recover;
mod retire;
pub(in crate::storage) mod scan;
pub(in crate::storage) mod slots;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use parking_lot::{Condvar, Mutex};

use crate::message::place::Lsn;
use crate::stats::Gauge;
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::error::StoreError;
use crate::storage::log::append::Pending;
use crate::storage::log::commit::Committer;
use crate::storage::log::prepare::Preparing;
use crate::storage::log::slots::Slots;
use crate::storage::log::waiting::Waiting;

pub use crate::storage::log::append::{Append, Applying, Class, RecordSink};
pub use crate::storage::log::commit::Committed;
pub use crate::storage::log::options::{CommitMode, LogOptions, SyncMode};
pub use crate::storage::log::read::{LogReader, SlotLease};
pub use crate::storage::log::recover::{OnRecord, ReplayFrom, Replayed};
pub use crate::storage::log::retire::Retiring;
pub use crate::storage::log::slots::{LoggedDefinition, SlotFacts};

/// With so many times as much pending as holds publishers back, everybody is.
const FLOODED_TIMES: u64 = 2;
/// With less pending nobody is held back, however small a slot is: some chunks of what clients send.
const CONGESTED_BYTES_MIN: u64 = 1 << 20;

/// The directory of the slots.
pub(in crate::storage) const LOG_DIR: &str = "log";

/// The node's log.
///
/// Locks, in the order in which they may be taken: `committer`, `preparing`, then one of `slots`, a slot's own, or
/// `pending`, `waiting`.
#[derive(Debug)]
pub struct Log {
    options: LogOptions,
    disk: Arc<dyn Disk>,
    /// What is appended and not taken by the committer. Every publisher takes this lock.
    pending: Mutex<Pending>,
    /// Wakes the committer when there is something in `pending`.
    work: Condvar,
    /// Everything before it survives a crash. Written by the committer, read by all.
    durable: AtomicU64,
    /// Those to wake when `durable` has risen.
    waiting: Mutex<Waiting>,
    /// What only a commit touches; held for its whole length.
    committer: Mutex<Committer>,
    /// The next slot while it is written with zeros.
    preparing: Mutex<Option<Preparing>>,
    /// Which slots there are. Held for moments, never during a call to the disk.
    slots: Mutex<Slots>,
    /// Why nothing becomes durable any more.
    poison: OnceLock<String>,
    /// A batch waits for room, and nobody has told of any since it was refused.
    lacks_room: AtomicBool,
    /// While set, an appender does not commit.
    held: AtomicBool,
    recovered_end: Lsn,
    /// What it has done so far.
    pub counters: LogCounters,
}

/// What a log has done and holds.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Batches written.
    pub batches: Gauge,
    /// Bytes of records written, without headers and padding.
    pub bytes: Gauge,
    /// Syncs of slots, those of batches and of headers.
    pub syncs: Gauge,
    /// Slots in use now.
    pub slots: Gauge,
    /// Bytes appended and not written.
    pub pending_bytes: Gauge,
}

impl Default for Log {
    /// A log in memory that forgets and is durable at once: for a broker without a data directory.
    fn default() -> Self {
        let options = LogOptions {
            slot_bytes: 1 << 20,
            window_slots: 1,
            commit: CommitMode::Inline,
            forgets: true,
            ..LogOptions::default()
        };
        Self::in_memory(options)
    }
}

impl Log {
    /// A log on a fresh disk in memory.
    pub fn in_memory(options: LogOptions) -> Self {
        let disk = Arc::new(SimulatedDisk::new());
        Self::open(disk, options, ReplayFrom::START, &mut |_| Ok(()))
            .expect("a fresh disk in memory has room")
    }

    /// Facts that end at or before this position survive a crash.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// The end of everything appended so far.
    pub fn end(&self) -> Lsn {
        self.pending.lock().end()
    }

    /// Where the log that was found at the start ended, before anything was appended to it.
    pub fn recovered_end(&self) -> Lsn {
        self.recovered_end
    }

    /// Wakes the caller once when [`Log::durable`] has risen. Whoever asks must look at it again afterwards: it
    /// may have risen in between. What is pending up to `lsn` is not kept waiting for company. Asking again before that
    /// changes nothing.
    pub fn wake_when_durable(&self, lsn: Lsn, waker: &Waker) {
        let is_new = self.waiting.lock().add(lsn, waker);
        if is_new {
            self.hurry(lsn);
        }
    }

    /// Bytes of records that are appended and not durable; padding is left out.
    pub fn pending_bytes(&self) -> u64 {
        self.counters.pending_bytes.read()
    }

    /// Whether publishers should be held back: the disk is behind, or the checkpoint is.
    pub fn is_congested(&self) -> bool {
        self.pending_bytes() > self.congested_bytes()
            || self.is_filled(2 * self.window_slots())
            || self.poison.get().is_some()
    }

    /// Whether so much is pending that nobody should append anything more, not even what settles messages: the disk takes
    /// nothing, and all of it is in memory.
    pub fn is_flooded(&self) -> bool {
        self.pending_bytes() > FLOODED_TIMES * self.congested_bytes()
    }

    /// With more pending publishers are held back. All that may be pending fits into a slot: when the disk is full the
    /// reserve has one for it, and what settles messages comes behind it.
    fn congested_bytes(&self) -> u64 {
        let of_slot = (self.options.slot_bytes / FLOODED_TIMES).max(CONGESTED_BYTES_MIN);
        self.options.pending_bytes_max.min(of_slot)
    }

    /// Whether a batch waits for room on the disk.
    pub fn lacks_room(&self) -> bool {
        self.lacks_room.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint is due: a window of slots is in use, and half of another while the disk has a burst to
    /// take, which a checkpoint would slow down; or the log has found no room for another slot.
    pub fn is_checkpoint_due(&self) -> bool {
        let window = self.window_slots();
        self.is_filled(window + window / 2)
            || (self.is_filled(window) && self.pending_bytes() == 0)
            || self.lacks_room()
    }

    /// What a slot holds when nothing larger comes.
    pub fn slot_bytes(&self) -> u64 {
        self.options.slot_bytes
    }

    /// As many slots in use make a checkpoint due, when the disk has nothing else to do.
    pub fn window_slots(&self) -> usize {
        self.options.window_slots.max(1)
    }

    /// How many slots hold a part of the log, the open one among them.
    pub fn slots_in_use(&self) -> usize {
        self.counters.slots.read() as usize
    }

    /// Why nothing becomes durable any more, if that is so.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Keeps appenders from committing what they append from now on: how a test sees what waits for a disk.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// Ends a hold: all that was appended is durable.
    pub fn release(&self) {
        self.held.store(false, Ordering::Release);
        self.commit_inline();
    }

    /// Whether so many slots wait for a checkpoint; a log that forgets has none.
    fn is_filled(&self, slots: usize) -> bool {
        !self.options.forgets && self.slots_in_use() >= slots
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(reason) => Err(StoreError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// Lets nothing become durable from now on.
    fn poison(&self, error: &StoreError) -> StoreError {
        let reason = self.poison.get_or_init(|| error.to_string());
        StoreError::Poisoned(reason.clone())
    }
}
