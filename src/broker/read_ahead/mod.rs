//! Bringing messages back whose bytes are on the disk only.
//!
//! A queue that meets such messages at its head asks here, once, and goes on with something else. Whoever runs the
//! requests (a task that may wait for the disk, or a simulation's step) reads about a mebibyte for it, puts the
//! messages into their place and dispatches. Consumers that compete share one read, and no session knows the disk. Dead
//! letters, and messages whose delay is over, are read here as well, wherever they lie.
//!
//! ```text
//! queue: head is away -> ask -> take -> [lock: plan] -> lease packs -> read -> [lock: fill, dispatch]
//!                                           ^             |
//!                                           '-------------' a pack is gone: its messages have moved
//! ```
//!
//! Under the queue's lock nothing waits for the disk. A slot is leased there, which is a look at a table.

mod plan;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::queue::handle::{Queue, State};
use crate::broker::read_ahead::plan::{Packs, Plan, Spot, Wanted};
use crate::broker::record::Record;
use crate::broker::wakes::Wakes;
use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::classic::Part;
use crate::queue::lane::Away;
use crate::storage::error::StoreError;
use crate::storage::log::LogReader;

/// How much one read brings back, about, by what is known of the bodies' sizes: less than an eviction leaves at a head that
/// memory has room for.
pub(super) const READ_BYTES: u64 = 1024 * 1024;

/// Queues whose heads are to be read back.
#[derive(Debug, Default)]
pub struct ReadRequests {
    state: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    queues: VecDeque<Arc<Queue>>,
    waker: Option<Waker>,
}

impl ReadRequests {
    /// Takes a request in; a leaf lock, taken under the queue's.
    pub(super) fn ask(&self, queue: &Arc<Queue>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.queues.push_back(Arc::clone(queue));
        if let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    /// Takes a request in again that could not be met.
    pub fn ask_again(&self, queue: &Arc<Queue>) {
        let mut wakes = Wakes::default();
        self.ask(queue, &mut wakes);
        wakes.fire();
    }

    /// The next request.
    pub fn take(&self) -> Option<Arc<Queue>> {
        self.state.lock().queues.pop_front()
    }

    /// The next request, or the caller is woken when there is one.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Arc<Queue>> {
        let mut state = self.state.lock();
        match state.queues.pop_front() {
            Some(queue) => Poll::Ready(queue),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Queue {
    /// Reads back what is away at the head, and delivers it. What is damaged is left out and told to the log.
    ///
    /// # Errors
    /// When the disk does not read. The queue keeps its place and waits: whoever runs the request runs it again later,
    /// unless it is the log that cannot be read ([`StoreError::is_of_log`]).
    pub fn read_ahead(self: &Arc<Self>, wakes: &mut Wakes) -> Result<(), StoreError> {
        let read = self.read_planned(|state| match self.plan_read(state, wakes.now_ms()) {
            Some(plan) => Some(plan),
            None => {
                state.is_reading = false;
                state.classic.look_no_further();
                // Whoever takes them on has asked for this one.
                if state.classic.has_dying() {
                    self.ask_for_burial(state, wakes);
                }
                None
            }
        })?;
        let Some((plan, runs)) = read else { return Ok(()) };
        let mut state = self.lock();
        state.is_reading = false;
        let missing = match plan.wanted {
            Wanted::All(part, first, end) => state.classic.fill(part, first, end, runs),
            Wanted::Letters(letters) => state.classic.fill_dying(&letters, &runs),
        };
        if !missing.is_empty() {
            let messages: u64 = missing.iter().map(|(first, end)| end.0 - first.0).sum();
            self.node.counters.damaged_messages.add(messages);
            let (queue, vhost) = (&self.properties.name, &self.properties.vhost);
            tracing::error!(%queue, %vhost, messages, ?missing, "messages are damaged on the disk and set aside");
        }
        if state.classic.has_dying() {
            self.ask_for_burial(&mut state, wakes);
        }
        self.dispatch(&mut state, wakes);
        Ok(())
    }

    /// Reads the first ones of these, which are away and stay so: their runs, and up to which number those are all that the
    /// disk has. `None` when `away` finds nothing to read.
    ///
    /// # Errors
    /// When the disk does not read.
    pub(in crate::broker) fn read_aside(
        &self,
        mut away: impl FnMut(&State) -> Option<Away>,
    ) -> Result<Option<(Vec<Run>, Seq)>, StoreError> {
        let planned = |state: &mut State| {
            let away = away(state)?;
            Some(self.plan_from(state, Part::Unseen, away))
        };
        let read = self.read_planned(planned)?;
        Ok(read.and_then(|(plan, runs)| match plan.wanted {
            Wanted::All(_, _, end) => Some((runs, end)),
            Wanted::Letters(_) => None,
        }))
    }

    /// Plans under the lock, as often as messages move meanwhile, and reads without it.
    fn read_planned(
        &self,
        mut plan: impl FnMut(&mut State) -> Option<Plan>,
    ) -> Result<Option<(Plan, Vec<Run>)>, StoreError> {
        let mut missed = BTreeSet::new();
        loop {
            let planned = plan(&mut self.lock());
            let Some(planned) = planned else { return Ok(None) };
            if let Some(packs) = planned.lease(&self.node, &mut missed)? {
                let runs = self.read(&planned, &packs)?;
                return Ok(Some((planned, runs)));
            }
        }
    }

    fn read(&self, plan: &Plan, packs: &Packs) -> Result<Vec<Run>, StoreError> {
        let gauge = &self.node.memory.messages;
        let mut reader = match plan.wanted {
            Wanted::All(..) => LogReader::default(),
            Wanted::Letters(_) => LogReader::of_scattered(),
        };
        let mut runs = Vec::new();
        for piece in &plan.pieces {
            let pack = piece.pack().and_then(|key| packs.get(&key)?.as_ref());
            let read = match (&piece.at, pack) {
                (Spot::Record { start, lease }, _) => {
                    Record::read(&mut reader, lease, *start).and_then(|record| record.run_of(self.id, gauge))
                }
                (Spot::Block { offset, .. }, Some(pack)) => pack.read_block(self.id, *offset, gauge),
                (Spot::Extent { at }, Some(pack)) => {
                    let read = match piece.wants_all_of(at) {
                        true => pack.read_extent(self.id, at, gauge)?,
                        false => pack.read_extent_at(self.id, at, &piece.only, gauge)?,
                    };
                    for damage in &read.damaged {
                        tracing::error!(%damage, "a pack is damaged");
                    }
                    read.runs.into_iter().for_each(|run| piece.pick(run, &mut runs, gauge));
                    continue;
                }
                (Spot::Lost | Spot::Block { .. } | Spot::Extent { .. }, _) => continue,
            };
            match read {
                Ok(run) => piece.pick(run, &mut runs, gauge),
                Err(damage) if damage.is_damage() => tracing::error!(%damage, "a message is damaged"),
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::READ_BYTES;
    use super::plan::Spot;
    use crate::broker::memory::Memory;
    use crate::broker::node::Node;
    use crate::broker::queue::browse::Browser;
    use crate::broker::queue::handle::{Queue, QueueProperties};
    use crate::broker::wakes::Wakes;
    use crate::config::Config;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::{QueueId, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::queue::classic::{Classic, Head};
    use crate::queue::dying::Reason;
    use crate::queue::extent::NewExtent;
    use crate::queue::lane::{Away, Piece};
    use crate::queue::ledger::Ledger;
    use crate::stats::Gauge;
    use crate::storage::disk::Disk;
    use crate::storage::disk::watched::WatchedDisk;
    use crate::storage::log::Log;
    use crate::storage::pack::Kind;
    use crate::storage::pack::shelf::Shelf;
    use crate::storage::pack::writer::{PackWriter, PackedExtent};

    const QUEUE: QueueId = QueueId(7);

    fn message(seq: u64, body: &[u8]) -> Run {
        let mut builder = BlockBuilder::default();
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body });
        let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
        let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(seq))
    }

    /// Writes a pack with these messages; where they are.
    fn pack(disk: &dyn Disk, number: u64, seqs: std::ops::Range<u64>) -> Vec<NewExtent> {
        pack_of(disk, number, seqs, 1)
    }

    /// The same, with bodies of so many bytes.
    fn pack_of(
        disk: &dyn Disk,
        number: u64,
        seqs: std::ops::Range<u64>,
        body_bytes: usize,
    ) -> Vec<NewExtent> {
        let mut writer = PackWriter::create(disk, Kind::Durable, number).unwrap();
        seqs.for_each(|seq| writer.push(QUEUE, &message(seq, &vec![b'm'; body_bytes])).unwrap());
        let extents = writer.finish(disk).unwrap().extents;
        let new = |extent: &PackedExtent| NewExtent {
            at: extent.record.at,
            gaps: extent.gaps.clone(),
            pack_live: Arc::new(Gauge::default()),
        };
        extents.iter().map(new).collect()
    }

    /// A queue whose messages, numbered from 1, are all in these extents.
    fn queue(disk: &WatchedDisk, extents: Vec<NewExtent>) -> Arc<Queue> {
        let shelf = Shelf::new(Arc::new(disk.clone()));
        let memory = Memory::new(u64::MAX, u64::MAX);
        let limits = Config::default().limits;
        let node = Arc::new(Node::new(limits, memory, Log::default(), Arc::new(disk.clone()), shelf));
        let mut ledger = Ledger::default();
        let end = extents.iter().map(|extent| extent.at.last.after(1)).max().unwrap();
        extents.into_iter().for_each(|extent| ledger.restore_extent(extent));
        let messages = end.0 - 1;
        let away = Away { end, count: messages, body_bytes: messages, ..Away::of(&message(1, b"m")) };
        let classic = Classic::restore(vec![away], ledger, Seq(0));
        Arc::new(Queue::restored(QUEUE, QueueProperties::durable("q"), node, classic, end))
    }

    #[test]
    fn others_have_the_queue_while_the_disk_is_asked_for_its_messages() {
        let disk = WatchedDisk::default();
        let queue = queue(&disk, pack(&disk, 1, 1..4));
        let calls = Arc::new(AtomicUsize::new(0));
        let (own, counted) = (Arc::downgrade(&queue), Arc::clone(&calls));
        disk.watch(move || {
            assert!(!own.upgrade().unwrap().is_locked(), "the disk is called under the queue's lock");
            counted.fetch_add(1, Ordering::Relaxed);
        });
        queue.read_ahead(&mut Wakes::default()).unwrap();
        assert!(calls.load(Ordering::Relaxed) > 3);
        assert_eq!(queue.lock().classic.head(), Head::Ready(3));
    }

    #[test]
    fn messages_that_move_while_their_pack_is_opened_are_read_where_they_are_then() {
        let disk = WatchedDisk::default();
        let queue = queue(&disk, pack(&disk, 1, 1..4));
        let moved = parking_lot::Mutex::new(Some(pack(&disk, 2, 1..4)));
        let own = Arc::downgrade(&queue);
        disk.watch(move || {
            let Some(extents) = moved.lock().take() else { return };
            let queue = own.upgrade().unwrap();
            queue.begin_move(extents.into());
            while !queue.move_some() {}
            queue.node.shelf.doom(Kind::Durable, 1);
        });
        queue.read_ahead(&mut Wakes::default()).unwrap();
        assert_eq!(queue.lock().classic.head(), Head::Ready(3));
        assert_eq!(queue.node.counters.damaged_messages.read(), 0);
        while queue.node.shelf.sweep().unwrap() {}
        assert_eq!(disk.simulated().list("pack").unwrap(), ["0000000000000002.pack"]);
    }

    /// The numbers that a look finds.
    fn seen(queue: &Arc<Queue>) -> Vec<u64> {
        let mut browser = Browser::new(Arc::clone(queue), Seq(0));
        let looks = std::iter::from_fn(|| browser.look().unwrap());
        let runs: Vec<Run> = looks.flatten().collect();
        runs.iter().flat_map(|run| run.first_seq().0..run.end_seq().0).collect()
    }

    #[test]
    fn a_look_reads_what_is_away_and_leaves_it_there() {
        let disk = WatchedDisk::default();
        let queue = queue(&disk, pack(&disk, 1, 1..4));
        let is_away = |first| {
            let away = Away {
                first,
                end: Seq(4),
                count: 4 - first.0,
                body_bytes: 4 - first.0,
                ..Away::of(&message(1, b"m"))
            };
            assert_eq!(queue.lock().classic.head(), Head::Away(away));
        };
        assert_eq!(seen(&queue), [1, 2, 3]);
        is_away(Seq(1));
        let mut wakes = Wakes::default();
        queue.pick(Seq(1), &wakes).unwrap().settle(&mut wakes);
        assert_eq!(seen(&queue), [2, 3]);
        is_away(Seq(2));
        let picked = queue.pick(Seq(2), &wakes).unwrap();
        assert!(queue.pick(Seq(2), &wakes).is_none(), "somebody has it");
        assert_eq!((seen(&queue), queue.depth()), (vec![3], (1, 1)));
        drop(picked);
        assert_eq!((seen(&queue), queue.depth()), (vec![2, 3], (2, 0)));
    }

    /// A queue of which all messages that are `dying`, in this order, wait on the disk to be dead-lettered.
    fn queue_with_letters(disk: &WatchedDisk, extents: Vec<NewExtent>, dying: &[u64]) -> Arc<Queue> {
        let queue = queue(disk, extents);
        let mut state = queue.lock();
        for seq in dying {
            let piece = state.classic.take_out(Seq(*seq)).unwrap();
            state.classic.doom(Reason::Expired, piece);
        }
        drop(state);
        queue
    }

    /// Takes all dead letters, reading what is away: their numbers, and how many reads that took.
    fn take_letters(queue: &Arc<Queue>) -> (Vec<u64>, u32) {
        let (mut letters, mut reads) = (Vec::new(), 0);
        loop {
            let taken = queue.lock().classic.take_dying(1);
            match taken {
                Some((_, Piece::Here(run))) => letters.push(run.first_seq().0),
                Some((_, Piece::Away(_))) => {
                    reads += 1;
                    queue.read_ahead(&mut Wakes::default()).unwrap();
                }
                None => return (letters, reads),
            }
        }
    }

    #[test]
    fn dead_letters_that_lie_apart_are_read_together_and_keep_nothing_else_in_memory() {
        let disk = WatchedDisk::default();
        let extents: Vec<NewExtent> = (0..5)
            .flat_map(|number| pack(&disk, number + 1, number * 1000 + 1..number * 1000 + 1001))
            .collect();
        let dying: Vec<u64> = (0..250).map(|place| place * 777 % 5000 + 1).collect();
        let queue = queue_with_letters(&disk, extents, &dying);
        let before = queue.node.memory.messages.read();
        queue.read_ahead(&mut Wakes::default()).unwrap();
        let taken = queue.node.memory.messages.read() - before;
        assert!(taken <= 250 * 200, "{taken} bytes of memory for 250 octets of 250 bodies");
        assert_eq!(take_letters(&queue), (dying, 0));
    }

    #[test]
    fn dead_letters_that_come_again_and_again_and_what_is_to_be_looked_through_take_turns() {
        let disk = WatchedDisk::default();
        let queue = queue_with_letters(&disk, pack(&disk, 1, 1..10), &[1]);
        queue.lock().classic.look_through();
        let mut reads = 0;
        while queue.lock().classic.has_unseen() {
            queue.read_ahead(&mut Wakes::default()).unwrap();
            reads += 1;
            assert!(reads <= 2, "it is the turn of the others");
            let mut state = queue.lock();
            while matches!(state.classic.take_dying(1), Some((_, Piece::Here(_)))) {}
            let next = state.classic.take_out(Seq(1 + reads)).unwrap();
            state.classic.doom(Reason::Expired, next);
        }
    }

    #[test]
    fn dead_letters_are_read_where_nothing_is_left_of_what_was_to_be_looked_through() {
        let disk = WatchedDisk::default();
        let queue = queue_with_letters(&disk, pack(&disk, 1, 1..5), &[1, 2, 3]);
        let mut state = queue.lock();
        state.classic.look_through();
        // The last read was for dead letters, and what waited has gone since.
        state.letters_were_read = true;
        state.classic.take_out(Seq(4)).unwrap();
        assert!(state.classic.has_unseen());
        drop(state);
        queue.read_ahead(&mut Wakes::default()).unwrap();
        assert_eq!(take_letters(&queue), (vec![1, 2, 3], 0));
    }

    #[test]
    fn one_read_opens_few_packs_however_far_apart_they_lie() {
        let disk = WatchedDisk::default();
        let extents: Vec<NewExtent> =
            (0..100).flat_map(|number| pack(&disk, number + 1, number * 10 + 1..number * 10 + 11)).collect();
        let dying: Vec<u64> = (0..100).map(|number| number * 10 + 5).collect();
        let queue = queue_with_letters(&disk, extents, &dying);
        let plan = queue.plan_read(&mut queue.lock(), 0).unwrap();
        let packs = plan.lease(&queue.node, &mut BTreeSet::new()).unwrap().unwrap();
        assert!(packs.len() <= 16, "{} packs are open at a time", packs.len());
        drop((plan, packs));
        assert_eq!(take_letters(&queue).0, dying);
    }

    #[test]
    fn what_little_is_left_of_packs_is_not_read_by_its_own_length() {
        let disk = WatchedDisk::default();
        // Of each extent of about a mebibyte one message is left.
        let extents = (0..6)
            .flat_map(|number| pack_of(&disk, number + 1, number * 100 + 1..number * 100 + 101, 10_000));
        let queue = queue(&disk, extents.collect());
        let mut state = queue.lock();
        for seq in (1..=600).filter(|seq| seq % 100 != 50).map(Seq) {
            state.classic.bury(seq, seq.after(1));
        }
        state.classic.look_through();
        let plan = queue.plan_read(&mut state, 0).unwrap();
        let bytes: u64 = plan
            .pieces
            .iter()
            .map(|piece| match piece.at {
                Spot::Extent { at } => u64::from(at.bytes),
                _ => 0,
            })
            .sum();
        assert!(bytes < 3 * READ_BYTES, "{bytes} bytes in one read");
    }

    #[test]
    fn dead_letters_whose_pack_is_gone_for_good_are_set_aside_and_others_go_on() {
        let disk = WatchedDisk::default();
        let extents = [pack(&disk, 1, 1..4), pack(&disk, 2, 4..7)].into_iter().flatten().collect();
        let queue = queue_with_letters(&disk, extents, &[6, 2, 4, 1]);
        disk.simulated().unlink(&Kind::Durable.file_name(1)).unwrap();
        assert_eq!(take_letters(&queue), (vec![6, 4], 1));
        assert_eq!(queue.node.counters.damaged_messages.read(), 2);
    }

    #[test]
    fn messages_whose_pack_is_gone_for_good_are_set_aside() {
        let disk = WatchedDisk::default();
        let queue = queue(&disk, pack(&disk, 1, 1..4));
        disk.simulated().unlink(&Kind::Durable.file_name(1)).unwrap();
        queue.read_ahead(&mut Wakes::default()).unwrap();
        assert_eq!(queue.lock().classic.head(), Head::Empty);
        assert_eq!(queue.node.counters.damaged_messages.read(), 3);
    }
}
