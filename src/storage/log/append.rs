//! Appending: facts go into the pending batch, whole holds behind each other.
//!
//! A record is copied; a block or a body that comes as [`Bytes`] is kept by reference and written from where it lies, so
//! that no other publisher waits for its copy. A hold of the log is one *unit*: a batch is closed only between units,
//! which is what makes a unit atomic.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::MutexGuard;

use crate::message::fact::{Definition, Fact};
use crate::message::fact_codec::{self, Sink};
use crate::message::place::{Logged, Lsn, QueueId};
use crate::storage::batch::{RECORD_HEADER_BYTES, RecordHeader};
use crate::storage::log::slots::LoggedDefinition;
use crate::storage::log::{CommitMode, Log};

/// A batch counts its bytes in 32 bits. A unit that would not fit is cut, and none comes near: what one hold may
/// append is bounded by those who append.
const PAYLOAD_BYTES_MAX: u64 = 2 << 30;
/// Emptied batches that are kept for their room, and how much of it.
const SPARE_BATCHES_MAX: usize = 2;
/// Lone settles wait this long for company.
const SETTLES_WAIT: Duration = Duration::from_millis(10);
/// A committer without room looks again after this.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// One hold of the log: facts appended through it are neighbours, no other fact lies between them, and after a
/// crash all of them are there or none. Dropping it is as good as [`Append::finish`], with everything applied.
#[derive(Debug)]
pub struct Append<'a> {
    log: &'a Log,
    /// `None` only while it is being dropped.
    pending: Option<MutexGuard<'a, Pending>>,
    start: u64,
}

/// Facts that are appended and not yet applied to the state in memory: until this drops, no checkpoint takes the
/// log's slot that holds them.
#[derive(Debug)]
#[must_use = "dropped when the facts are applied"]
pub struct Applying {
    _token: Arc<()>,
}

impl Applying {
    /// The facts will not be applied as a whole: no checkpoint takes the slot for as long as the process lives, and the next
    /// start finds them in it.
    pub fn abandon(self) {
        std::mem::forget(self);
    }
}

/// What the log must know about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It has messages, or is otherwise waited for.
    Message,
    /// It settles messages: nobody waits for it, unless they say so by [`Log::wake_when_durable`].
    Settle,
    /// It defines something: the slot remembers it for the checkpoint.
    Definition,
}

/// Takes a record's body piece by piece.
#[derive(Debug)]
pub struct RecordSink<'a>(&'a mut Batch);

impl Sink for RecordSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.copied.extend_from_slice(bytes);
        self.0.payload_bytes += bytes.len() as u64;
    }

    fn share(&mut self, bytes: Bytes) {
        self.0.payload_bytes += bytes.len() as u64;
        self.0.shared.push(Shared { at: self.0.copied.len(), bytes });
    }
}

/// Units behind each other: one batch of the log to be.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first_lsn: u64,
    pub(super) payload_bytes: u64,
    pub(super) records: u32,
    /// Queues that messages or settles name, with repetitions.
    pub(super) queues: Vec<QueueId>,
    pub(super) definitions: Vec<LoggedDefinition>,
    /// Cloned for each unit until its facts are applied.
    pub(super) applying: Arc<()>,
    copied: Vec<u8>,
    shared: Vec<Shared>,
}

/// A piece that was not copied; `at` bytes of what was copied come before it.
#[derive(Debug)]
struct Shared {
    at: usize,
    bytes: Bytes,
}

impl Batch {
    fn new(first_lsn: u64) -> Self {
        Self {
            first_lsn,
            payload_bytes: 0,
            records: 0,
            queues: Vec::new(),
            definitions: Vec::new(),
            applying: Arc::new(()),
            copied: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// Empties it, keeping its room unless that is more than `room` bytes.
    fn clear(&mut self, room: usize) {
        self.payload_bytes = 0;
        self.records = 0;
        self.queues.clear();
        self.queues.shrink_to(room / 8);
        self.definitions.clear();
        self.copied.clear();
        self.copied.shrink_to(room);
        self.shared.clear();
        self.shared.shrink_to(1024);
    }

    pub(super) fn end_lsn(&self) -> u64 {
        self.first_lsn + self.payload_bytes
    }

    /// The payload, piece by piece.
    pub(super) fn pieces<'a>(&'a self, into: &mut Vec<IoSlice<'a>>) {
        self.pieces_from(0, 0, into);
    }

    fn pieces_from<'a>(&'a self, copied: usize, shared: usize, into: &mut Vec<IoSlice<'a>>) {
        let mut from = copied;
        for piece in self.shared.get(shared..).unwrap_or_default() {
            into.push(IoSlice::new(self.copied.get(from..piece.at).unwrap_or_default()));
            into.push(IoSlice::new(&piece.bytes));
            from = piece.at;
        }
        into.push(IoSlice::new(self.copied.get(from..).unwrap_or_default()));
    }

    fn push(&mut self, kind: u8, is_definition: bool, body: impl FnOnce(&mut RecordSink<'_>)) -> Logged {
        let start = self.end_lsn();
        let (copied, shared) = (self.copied.len(), self.shared.len());
        self.copied.extend_from_slice(&[0; RECORD_HEADER_BYTES as usize]);
        self.payload_bytes += RECORD_HEADER_BYTES;
        self.records += 1;
        body(&mut RecordSink(self));
        let body_bytes = self.end_lsn() - start - RECORD_HEADER_BYTES;
        let body_bytes = u32::try_from(body_bytes).expect("a message has less than 4 GiB");
        let header = RecordHeader { body_bytes, kind }.encode();
        if let Some(place) = self.copied.get_mut(copied..).and_then(|rest| rest.first_chunk_mut()) {
            *place = header;
        }
        if is_definition {
            let mut pieces = Vec::new();
            self.pieces_from(copied + header.len(), shared, &mut pieces);
            let body = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.definitions.push(LoggedDefinition { lsn: Lsn(start), kind, body });
        }
        Logged { start: Lsn(start), end: Lsn(self.end_lsn()) }
    }
}

/// What is appended and not taken by the committer.
#[derive(Debug)]
pub(super) struct Pending {
    /// The batch that grows.
    batch: Batch,
    /// Batches that have enough.
    closed: VecDeque<Batch>,
    spares: Vec<Batch>,
    /// Whether somebody waits for a part of it.
    urgent: bool,
    sleep: Sleep,
    /// Whether the committer is to go home.
    over: bool,
}

/// What the committer is to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// It does not sleep.
    Awake,
    /// Anything.
    UntilAny,
    /// Something urgent: it waits for lone settles to have company.
    UntilUrgent,
}

impl Pending {
    pub(super) fn new(end: u64) -> Self {
        Self {
            batch: Batch::new(end),
            closed: VecDeque::new(),
            spares: Vec::new(),
            urgent: false,
            sleep: Sleep::Awake,
            over: false,
        }
    }

    pub(super) fn end(&self) -> Lsn {
        Lsn(self.batch.end_lsn())
    }

    fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.batch.records == 0
    }

    fn has_urgent(&self) -> bool {
        self.urgent || !self.closed.is_empty()
    }

    /// Whether the committer is to be woken now, which whoever asks then does.
    fn take_wake(&mut self) -> bool {
        let wakes = match self.sleep {
            Sleep::Awake => false,
            Sleep::UntilAny => true,
            Sleep::UntilUrgent => self.has_urgent(),
        };
        if wakes {
            self.sleep = Sleep::Awake;
        }
        wakes
    }

    fn close_batch(&mut self) {
        let end = self.batch.end_lsn();
        let next = match self.spares.pop() {
            Some(mut spare) => {
                spare.first_lsn = end;
                spare
            }
            None => Batch::new(end),
        };
        self.closed.push_back(std::mem::replace(&mut self.batch, next));
    }
}

impl Log {
    /// Takes the log for a burst of facts. A leaf lock: nothing else is locked while it is held.
    pub fn append(&self) -> Append<'_> {
        let pending = self.pending.lock();
        let start = pending.end().0;
        Append { log: self, pending: Some(pending), start }
    }

    /// Appends one fact that stands alone.
    pub fn append_one(&self, fact: &Fact<'_>) -> (Logged, Applying) {
        let mut append = self.append();
        let logged = append.push(fact);
        (logged, append.finish())
    }

    /// Appends a record that the log itself has to say.
    pub(super) fn append_raw(&self, kind: u8, class: Class, body: &[u8]) -> Logged {
        self.append().push_record(kind, class, [], |sink| sink.put(body))
    }

    /// Blocks the thread that commits until there is something to commit: facts that are waited for, or settles
    /// that have waited long enough for company. `false` when the log was closed; what is pending then is still to
    /// be committed.
    pub fn wait_for_work(&self) -> bool {
        let mut pending = self.pending.lock();
        while !pending.over && !pending.has_urgent() {
            if pending.is_empty() {
                pending.sleep = Sleep::UntilAny;
                self.work.wait(&mut pending);
                continue;
            }
            pending.sleep = Sleep::UntilUrgent;
            if self.work.wait_for(&mut pending, SETTLES_WAIT).timed_out() {
                break;
            }
        }
        pending.sleep = Sleep::Awake;
        !pending.over
    }

    /// Blocks the thread that commits for a moment, after it was told that there is no room: until a checkpoint has
    /// given slots back, the log was closed, or it is time to look again. `false` as from [`Log::wait_for_work`].
    pub fn wait_for_room(&self) -> bool {
        let mut pending = self.pending.lock();
        if !pending.over {
            self.work.wait_for(&mut pending, ROOM_WAIT);
        }
        !pending.over
    }

    /// There may be room again: what waits for it is tried at once.
    pub fn tell_of_room(&self) {
        self.lacks_room.store(false, Ordering::Relaxed);
        self.work.notify_all();
    }

    /// Lets the thread that commits go home.
    pub fn close(&self) {
        self.pending.lock().over = true;
        self.work.notify_all();
    }

    /// Somebody waits for what is pending up to `lsn`. Settles behind it are not hurried: they would take a sync of
    /// their own, and the next publish would wait for that.
    pub(super) fn hurry(&self, lsn: Lsn) {
        let mut pending = self.pending.lock();
        if lsn.0 > pending.batch.first_lsn && !pending.urgent {
            pending.urgent = true;
            if pending.take_wake() {
                self.work.notify_one();
            }
        }
    }

    pub(super) fn take_pending(&self) -> Option<Batch> {
        let mut pending = self.pending.lock();
        if pending.closed.is_empty() && pending.batch.records > 0 {
            pending.close_batch();
        }
        let taken = pending.closed.pop_front();
        if pending.is_empty() {
            pending.urgent = false;
        }
        taken
    }

    /// Takes back the room of a batch that is written.
    pub(super) fn give_back(&self, mut batch: Batch) {
        batch.clear(2 * self.options.batch_bytes_max);
        let mut pending = self.pending.lock();
        if pending.spares.len() < SPARE_BATCHES_MAX {
            pending.spares.push(batch);
        }
    }

    /// Commits everything, where appenders are to.
    pub(super) fn commit_inline(&self) {
        if self.options.commit == CommitMode::Inline && !self.held.load(Ordering::Acquire) {
            // An error has poisoned the log, or is told again by the next commit.
            while matches!(self.commit_once(), Ok(super::Committed::Batch)) {}
        }
    }
}

impl Append<'_> {
    /// Appends one fact; it is durable when [`Log::durable`] reaches the end of the position returned.
    pub fn push(&mut self, fact: &Fact<'_>) -> Logged {
        let kind = fact_codec::kind(fact);
        let body = |sink: &mut RecordSink<'_>| fact_codec::encode(fact, sink);
        match fact {
            Fact::Published { targets, .. } => {
                self.push_record(kind, Class::Message, targets.iter().map(|(queue, _)| *queue), body)
            }
            Fact::Settled { queue, .. } | Fact::Returned { queue, .. } => {
                self.push_record(kind, Class::Settle, [*queue], body)
            }
            Fact::Defined(Definition::QueueDeleted { queue }) => {
                self.push_record(kind, Class::Definition, [*queue], body)
            }
            Fact::Defined(_) => self.push_record(kind, Class::Definition, [], body),
        }
    }

    /// Appends one record whose body is what `body` puts into the sink.
    pub fn push_record(
        &mut self,
        kind: u8,
        class: Class,
        queues: impl IntoIterator<Item = QueueId>,
        body: impl FnOnce(&mut RecordSink<'_>),
    ) -> Logged {
        let pending = self.pending.as_mut().expect("held until dropped");
        if pending.batch.payload_bytes > PAYLOAD_BYTES_MAX {
            pending.close_batch();
        }
        pending.urgent |= class != Class::Settle;
        for queue in queues {
            if pending.batch.queues.last() != Some(&queue) {
                pending.batch.queues.push(queue);
            }
        }
        pending.batch.push(kind, class == Class::Definition, body)
    }

    /// Ends the hold. What is returned is kept until the facts are applied to the state in memory.
    pub fn finish(self) -> Applying {
        let pending = self.pending.as_ref().expect("held until dropped");
        Applying { _token: Arc::clone(&pending.batch.applying) }
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let appended = pending.end().0 - self.start;
        if appended == 0 {
            return;
        }
        self.log.counters.pending_bytes.add(appended);
        if pending.batch.payload_bytes >= self.log.options.batch_bytes_max as u64 {
            pending.close_batch();
        }
        let wakes = pending.take_wake();
        drop(pending);
        if wakes {
            self.log.work.notify_one();
        }
        self.log.commit_inline();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::storage::log::LogOptions;

    /// Tells whether the log is held when it is woken.
    struct Observer {
        log: Weak<Log>,
        woken: AtomicUsize,
    }

    impl Wake for Observer {
        fn wake(self: Arc<Self>) {
            let log = self.log.upgrade().unwrap();
            assert!(!log.committer.is_locked() && !log.waiting.is_locked() && !log.pending.is_locked());
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn observer(log: &Arc<Log>) -> (Arc<Observer>, Waker) {
        let observer = Arc::new(Observer { log: Arc::downgrade(log), woken: AtomicUsize::new(0) });
        (Arc::clone(&observer), Waker::from(observer))
    }

    #[test]
    fn a_task_that_asks_often_is_noted_and_woken_once_and_under_no_lock() {
        let log =
            Arc::new(Log::in_memory(LogOptions { commit: CommitMode::Called, ..LogOptions::default() }));
        let (one, two) = (observer(&log), observer(&log));
        let append = || log.append().push_record(1, Class::Message, [QueueId(1)], |sink| sink.put(b"x")).end;
        for round in 1..3 {
            let message = append();
            for (_, waker) in [&one, &two].repeat(1000) {
                log.wake_when_durable(message, &waker.clone());
            }
            assert_eq!(log.waiting.lock().len(), 2);
            log.commit_once().unwrap();
            assert_eq!(
                (one.0.woken.load(Ordering::Relaxed), two.0.woken.load(Ordering::Relaxed)),
                (round, round)
            );
        }
        append();
        log.commit_once().unwrap();
        assert_eq!(one.0.woken.load(Ordering::Relaxed), 2, "it has not asked again");
    }

    #[test]
    fn who_waits_for_more_than_before_hurries_that_too() {
        let log = Log::in_memory(LogOptions { commit: CommitMode::Called, ..LogOptions::default() });
        let append = || log.append().push_record(1, Class::Settle, [QueueId(1)], |sink| sink.put(b"x")).end;
        log.wake_when_durable(log.end(), Waker::noop());
        let settle = append();
        assert!(!log.pending.lock().has_urgent());
        log.wake_when_durable(settle, Waker::noop());
        assert!(log.pending.lock().has_urgent());
    }

    #[test]
    fn who_waits_for_what_is_being_written_does_not_hurry_the_settles_behind_it() {
        let log = Log::in_memory(LogOptions { commit: CommitMode::Called, ..LogOptions::default() });
        let append = |class| log.append().push_record(1, class, [QueueId(1)], |sink| sink.put(b"x")).end;
        let message = append(Class::Message);
        let written = log.take_pending();
        assert!(written.is_some());
        let settle = append(Class::Settle);
        log.wake_when_durable(message, Waker::noop());
        assert!(!log.pending.lock().has_urgent());
        log.wake_when_durable(settle, Waker::noop());
        assert!(log.pending.lock().has_urgent());
    }
}
