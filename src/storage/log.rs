//! The log of facts: append gives a position, and a position becomes durable.
//!
//! This log forgets what it is told: it numbers, and `durable` rises at once. What it keeps is the contract
//! of one that writes to a disk: facts of one burst are appended in one hold, sequence numbers are drawn
//! inside it, and nobody acts on a fact before [`Log::durable`] has reached it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use crate::message::fact::Fact;
use crate::message::place::Lsn;

/// The node's log.
#[derive(Debug, Default)]
pub struct Log {
    end: Mutex<u64>,
    durable: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    /// While set, nothing becomes durable.
    held: AtomicBool,
}

/// One hold of the log: facts appended through it are neighbours, and no other fact lies between them.
#[derive(Debug)]
pub struct Append<'a> {
    log: &'a Log,
    end: parking_lot::MutexGuard<'a, u64>,
}

impl Log {
    /// Takes the log for a burst of facts. A leaf lock: nothing else is locked while it is held.
    pub fn append(&self) -> Append<'_> {
        Append { log: self, end: self.end.lock() }
    }

    /// Facts at or before this position survive a crash.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Wakes the caller once when [`Log::durable`] has risen. Whoever asks must look at it again afterwards: it
    /// may have risen in between.
    pub fn wake_when_durable(&self, waker: &Waker) {
        self.waiting.lock().push(waker.clone());
    }

    /// Keeps what is appended from now on from becoming durable: how a test sees what waits for a disk.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// Ends a hold: all that was appended is durable.
    pub fn release(&self) {
        self.held.store(false, Ordering::Release);
        let end = *self.end.lock();
        self.commit(end);
    }

    fn commit(&self, end: u64) {
        self.durable.fetch_max(end, Ordering::AcqRel);
        for waker in self.waiting.lock().drain(..) {
            waker.wake();
        }
    }
}

impl Append<'_> {
    /// Appends one fact; it is durable when [`Log::durable`] reaches the position returned.
    pub fn push(&mut self, _fact: &Fact<'_>) -> Lsn {
        *self.end += 1;
        Lsn(*self.end)
    }
}

impl Drop for Append<'_> {
    /// Where a disk would be written to and synced, everything is durable at once.
    fn drop(&mut self) {
        if !self.log.held.load(Ordering::Acquire) {
            self.log.commit(*self.end);
        }
    }
}
