//! Bringing messages back whose bytes are on the disk only.
//!
//! A queue that meets such messages at its head asks here, once, and goes on with something else. Whoever runs the
//! requests (a task that may wait for the disk, or a simulation's step) reads about a mebibyte for it, puts the
//! messages into their place and dispatches. Consumers that compete share one read, and no session knows the disk.
//!
//! ```text
//! queue: head is away -> ask -> take -> [lock: plan] -> lease packs -> read -> [lock: fill, dispatch]
//!                                           ^             |
//!                                           '-------------' a pack is gone: its messages have moved
//! ```
//!
//! Under the queue's lock nothing waits for the disk. A slot is leased there, which is a look at a table.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::broker::node::Node;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::record::Record;
use crate::broker::wakes::Wakes;
use crate::message::place::{Extent, Lsn, Place, Seq};
use crate::message::run::Run;
use crate::queue::classic::Part;
use crate::queue::lane::Away;
use crate::queue::ledger::Where;
use crate::storage::error::StoreError;
use crate::storage::log::{LogReader, SlotLease};
use crate::storage::pack::Kind;
use crate::storage::pack::shelf::PackLease;

/// How much one read brings back, about, by what is known of the bodies' sizes: less than an eviction leaves at a head that
/// memory has room for.
pub(super) const READ_BYTES: u64 = 1024 * 1024;
/// How many places one read visits at most.
const PLACES_MAX: usize = 1000;

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

/// What one read will fetch, as places are when the queue's lock is held.
#[derive(Debug)]
struct Plan {
    part: Part,
    first: Seq,
    end: Seq,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Record { start: Lsn, lease: SlotLease },
    Extent { at: Extent },
    Block { number: u64, offset: u64 },
    Lost,
}

/// What names a pack.
type PackKey = (Kind, u64);

/// The packs of a plan, pinned; `None` is damaged.
type Packs = BTreeMap<PackKey, Option<PackLease>>;

impl Piece {
    fn pack(&self) -> Option<PackKey> {
        match self {
            Self::Extent { at } => Some((Kind::Durable, at.pack)),
            Self::Block { number, .. } => Some((Kind::Spill, *number)),
            Self::Record { .. } | Self::Lost => None,
        }
    }
}

impl Plan {
    /// Pins the packs. `None` when one is not there: messages leave a pack before it goes, and are to be looked up again.
    /// One of those `missed` before, which is still said to have messages, is damaged.
    fn lease(&self, node: &Node, missed: &mut BTreeSet<PackKey>) -> Result<Option<Packs>, StoreError> {
        let mut packs = Packs::new();
        for key in self.pieces.iter().filter_map(Piece::pack) {
            if packs.contains_key(&key) {
                continue;
            }
            let (kind, number) = key;
            let pack = match node.shelf.lease(kind, number) {
                Ok(pack) => Some(pack),
                Err(gone) if gone.is_missing() && missed.insert(key) => return Ok(None),
                Err(damage) if damage.is_damage() && kind == Kind::Durable => {
                    tracing::error!(%damage, "a pack is damaged");
                    None
                }
                Err(error) => return Err(error),
            };
            packs.insert(key, pack);
        }
        Ok(Some(packs))
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
                None
            }
        })?;
        let Some((plan, runs)) = read else { return Ok(()) };
        let mut state = self.lock();
        state.is_reading = false;
        let missing = state.classic.fill(plan.part, plan.first, plan.end, runs);
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
        Ok(self.read_planned(planned)?.map(|(plan, runs)| (runs, plan.end)))
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

    /// What to read; `None` when nothing is away at the head.
    fn plan_read(&self, state: &State, now_ms: u64) -> Option<Plan> {
        let (part, away) = state.classic.away_first(state.wants_head(now_ms))?;
        Some(self.plan_from(state, part, away))
    }

    /// How to read the first ones of these.
    fn plan_from(&self, state: &State, part: Part, away: Away) -> Plan {
        let ledger = &state.classic.ledger;
        let usual_bytes = away.body_bytes / away.count.max(1) + 1;
        let mut plan = Plan { part, first: away.first, end: away.first, pieces: Vec::new() };
        let mut bytes = 0;
        let mut lease: Option<SlotLease> = None;
        let mut from = away.first;
        // Dead letters lie apart, many of them in what one read brings.
        let stop = if matches!(part, Part::Dying(_)) { Seq(u64::MAX) } else { away.end };
        while bytes < READ_BYTES
            && plan.pieces.len() < PLACES_MAX
            && let Some((first, _)) = ledger.live_ranges(from, stop).next()
            && let Some((place, end)) = ledger.place_and_end(first)
        {
            let end = end.min(stop);
            bytes += match place {
                // Blocks that it shares with other queues lie elsewhere.
                Where::In(at) => at.body_bytes.max(at.bytes.into()),
                Where::At(_) => usual_bytes * (end.0 - first.0),
            };
            plan.pieces.push(match place {
                Where::At(Place::Log(start)) => {
                    if lease.as_ref().is_none_or(|lease| !lease.covers(start)) {
                        lease = self.node.log.lease(start);
                    }
                    match lease.clone() {
                        Some(lease) => Piece::Record { start, lease },
                        // A checkpoint found it damaged and left it behind in a slot that is gone.
                        None => Piece::Lost,
                    }
                }
                Where::At(Place::Pack { number, offset }) => Piece::Block { number, offset },
                Where::In(at) => Piece::Extent { at },
            });
            plan.end = end;
            from = end;
        }
        if plan.pieces.is_empty() {
            plan.end = away.end;
        }
        plan
    }

    fn read(&self, plan: &Plan, packs: &Packs) -> Result<Vec<Run>, StoreError> {
        let gauge = &self.node.memory.messages;
        let mut reader = LogReader::default();
        let mut runs: Vec<Run> = Vec::new();
        for piece in &plan.pieces {
            let pack = piece.pack().and_then(|key| packs.get(&key)?.as_ref());
            let read = match (piece, pack) {
                (Piece::Record { start, lease }, _) => {
                    Record::read(&mut reader, lease, *start).and_then(|record| record.run_of(self.id, gauge))
                }
                (Piece::Block { offset, .. }, Some(pack)) => pack.read_block(self.id, *offset, gauge),
                (Piece::Extent { at }, Some(pack)) => {
                    let read = pack.read_extent(self.id, at, gauge)?;
                    for damage in &read.damaged {
                        tracing::error!(%damage, "a pack is damaged");
                    }
                    runs.extend(read.runs);
                    continue;
                }
                (Piece::Lost | Piece::Block { .. } | Piece::Extent { .. }, _) => continue,
            };
            match read {
                Ok(run) => runs.push(run),
                Err(damage) if damage.is_damage() => tracing::error!(%damage, "a message is damaged"),
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
    use crate::queue::extent::NewExtent;
    use crate::queue::lane::Away;
    use crate::queue::ledger::Ledger;
    use crate::stats::Gauge;
    use crate::storage::disk::Disk;
    use crate::storage::disk::watched::WatchedDisk;
    use crate::storage::log::Log;
    use crate::storage::pack::Kind;
    use crate::storage::pack::shelf::Shelf;
    use crate::storage::pack::writer::{PackWriter, PackedExtent};

    const QUEUE: QueueId = QueueId(7);

    fn message(seq: u64) -> Run {
        let mut builder = BlockBuilder::default();
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
        let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(seq))
    }

    /// Writes a pack with these messages; where they are.
    fn pack(disk: &dyn Disk, number: u64, seqs: std::ops::Range<u64>) -> Vec<NewExtent> {
        let mut writer = PackWriter::create(disk, Kind::Durable, number).unwrap();
        seqs.for_each(|seq| writer.push(QUEUE, &message(seq)).unwrap());
        let extents = writer.finish(disk).unwrap().extents;
        let new = |extent: &PackedExtent| NewExtent {
            at: extent.record.at,
            gaps: extent.gaps.clone(),
            pack_live: Arc::new(Gauge::default()),
        };
        extents.iter().map(new).collect()
    }

    /// A queue whose three messages are all in these extents.
    fn queue(disk: &WatchedDisk, extents: Vec<NewExtent>) -> Arc<Queue> {
        let shelf = Shelf::new(Arc::new(disk.clone()));
        let memory = Memory::new(u64::MAX, u64::MAX);
        let limits = Config::default().limits;
        let node = Arc::new(Node::new(limits, memory, Log::default(), Arc::new(disk.clone()), shelf));
        let mut ledger = Ledger::default();
        extents.into_iter().for_each(|extent| ledger.restore_extent(extent));
        let (first, end) = (Seq(1), Seq(4));
        let away =
            Away { first, end, count: 3, body_bytes: 3, persistent: true, redelivered: false, returns: 0 };
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
                ..Away::of(&message(1))
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
