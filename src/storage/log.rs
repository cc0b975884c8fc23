//! The log of facts: append gives a position, and a position becomes durable.
//!
//! This log forgets what it is told: it numbers, and `durable` rises at once. What it keeps is the contract
//! of one that writes to a disk: facts of one burst are appended in one hold, sequence numbers are drawn
//! inside it, and nobody acts on a fact before [`Log::durable`] has reached it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use crate::message::fact::Fact;
use crate::message::place::{Logged, Lsn};

/// The node's log.
#[derive(Debug, Default)]
pub struct Log {
    end: Mutex<u64>,
    durable: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    /// While set, nothing becomes durable.
    held: AtomicBool,
    congested: AtomicBool,
}

/// One hold of the log: facts appended through it are neighbours, no other fact lies between them, and after a
/// crash all of them are there or none.
#[derive(Debug)]
pub struct Append<'a> {
    log: &'a Log,
    end: parking_lot::MutexGuard<'a, u64>,
}

/// Facts that are appended and not yet applied to the state in memory: until this drops, no checkpoint takes the
/// log's slot that holds them.
#[derive(Debug)]
#[must_use = "dropped when the facts are applied"]
pub struct Applying<'a> {
    log: &'a Log,
}

impl Log {
    /// Takes the log for a burst of facts. A leaf lock: nothing else is locked while it is held.
    pub fn append(&self) -> Append<'_> {
        Append { log: self, end: self.end.lock() }
    }

    /// Appends one fact that stands alone.
    pub fn append_one(&self, fact: &Fact<'_>) -> (Logged, Applying<'_>) {
        let mut append = self.append();
        let logged = append.push(fact);
        (logged, append.finish())
    }

    /// Facts at or before this position survive a crash.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// The end of everything appended so far.
    pub fn end(&self) -> Lsn {
        Lsn(*self.end.lock())
    }

    /// Wakes the caller once when [`Log::durable`] has risen. Whoever asks must look at it again afterwards: it
    /// may have risen in between.
    pub fn wake_when_durable(&self, waker: &Waker) {
        self.waiting.lock().push(waker.clone());
    }

    /// Whether more waits for the disk than should: publishers are held back.
    pub fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Acquire)
    }

    /// Says that the disk does not keep up, or does: how a test sees publishers held back.
    pub fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Ordering::Release);
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
        if self.held.load(Ordering::Acquire) {
            return;
        }
        self.durable.fetch_max(end, Ordering::AcqRel);
        for waker in self.waiting.lock().drain(..) {
            waker.wake();
        }
    }
}

impl<'a> Append<'a> {
    /// Appends one fact; it is durable when [`Log::durable`] reaches the end of the position returned.
    pub fn push(&mut self, _fact: &Fact<'_>) -> Logged {
        let start = *self.end;
        *self.end += 1;
        Logged { start: Lsn(start), end: Lsn(*self.end) }
    }

    /// Ends the hold. What the guard returned is kept until the facts are applied to the state in memory.
    pub fn finish(self) -> Applying<'a> {
        let Self { log, end } = self;
        let reached = *end;
        drop(end);
        // Where a disk would be written to and synced, everything is durable at once.
        log.commit(reached);
        Applying { log }
    }
}

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        debug_assert!(self.log.durable() <= Lsn(*self.log.end.lock()));
    }
}
