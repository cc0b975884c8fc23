//! One burst of publishing: what a session collects from a read chunk, and hands over at its end.
//!
//! ```text
//! message -> the pending block of its targets -> (end of chunk) reserve -> append facts -> enqueue -> dispatch
//! ```
//!
//! Messages for the same queues share blocks. A target set that shares a queue with another pending one flushes
//! it into the burst first, so that per queue the order of publishing holds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::node::Node;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::{Settlement, Settlements};
use crate::broker::route::Targets;
use crate::broker::wakes::Wakes;
use crate::message::block::{Big, BlockBuilder, Pieces, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::Stamp;
use crate::message::fact::Fact;
use crate::message::place::{Logged, Lsn, QueueId, Seq};
use crate::message::record::Content;
use crate::message::run::Run;
use crate::storage::log::Applying;

/// Messages published and not yet handed to their queues.
#[derive(Debug, Default)]
pub struct Burst {
    pending: Vec<Pending>,
    /// Where in `pending` the messages for one queue alone are collected.
    singles: HashMap<QueueId, usize, RandomState>,
    /// The last of those: most messages go where the one before went.
    last_single: Option<(QueueId, usize)>,
    /// Emptied ones, kept for their room.
    spare: Vec<Pending>,
    spare_bytes: usize,
    /// Queues that hold messages of ours until the log is durable up to a position.
    undelivered: VecDeque<(Lsn, Arc<Queue>)>,
    /// When what is published from now on was received, in milliseconds since 1970.
    received_ms: u64,
    /// A queue that is crowded since it was handed messages of ours.
    crowded: Option<Arc<Queue>>,
}

#[derive(Debug, Default)]
struct Pending {
    targets: Targets,
    builder: BlockBuilder,
    stamp: Stamp,
    runs: Vec<Staged>,
}

/// A run on its way into its queues.
#[derive(Debug)]
struct Staged {
    run: Run,
    logged: Option<Logged>,
    /// For each target, the number it draws inside the log's hold, if it does.
    seqs: SmallVec<[Option<Seq>; 1]>,
}

/// Where the log has what was handed over; zero for what it need not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// When this is durable, so are all messages. Settlements are not waited for: they need no sync of their own.
    pub published: Lsn,
    /// When this is durable, so is everything.
    pub all: Lsn,
}

impl Burst {
    /// What is published from now on was received at this time, in milliseconds since 1970.
    pub fn received_at(&mut self, unix_ms: u64) {
        self.received_ms = unix_ms;
    }

    /// What the block headers of messages published now say.
    pub fn stamp(&self, persistent: bool) -> Stamp {
        Stamp { persistent, received_ms: self.received_ms }
    }

    /// Adds a message whose body is in one piece.
    pub fn publish(&mut self, node: &Node, targets: &Targets, content: &Content<'_>, persistent: bool) {
        if content.body.len() > SMALL_BODY_BYTES_MAX {
            let pieces = Pieces::from_iter([bytes::Bytes::copy_from_slice(content.body)]);
            let stamp = self.stamp(persistent);
            let big = Big::new(content.names, content.properties, pieces, stamp, &node.memory.messages);
            return self.publish_big(node, targets, big);
        }
        self.publish_alike(node, targets, content, persistent, std::iter::once(content.body));
    }

    /// Adds messages that differ from `like`, which is small, in nothing but the octets of their bodies. How many.
    pub fn publish_alike<'a>(
        &mut self,
        node: &Node,
        targets: &Targets,
        like: &Content<'_>,
        persistent: bool,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> u64 {
        let mut count = 0;
        let stamp = self.stamp(persistent);
        let Some(pending) = self.pending_for(targets) else { return count };
        if pending.stamp.persistent != persistent {
            pending.seal(node);
        }
        pending.stamp = stamp;
        for body in bodies {
            let content = Content { body, ..*like };
            if pending.builder.is_full_for(&content) {
                pending.seal(node);
            }
            if count == 0 || pending.builder.is_empty() {
                pending.builder.push(&content);
            } else {
                pending.builder.push_like_last(&content);
            }
            count += 1;
        }
        count
    }

    /// Adds a large message.
    pub fn publish_big(&mut self, node: &Node, targets: &Targets, big: Arc<Big>) {
        let Some(pending) = self.pending_for(targets) else { return };
        pending.seal(node);
        pending.stage(Run::of_big(big));
    }

    /// Gives back the room of emptied builders.
    pub fn shrink(&mut self) {
        (self.spare, self.spare_bytes) = (Vec::new(), 0);
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Hands everything over: facts first, then state (settlements of the same burst with them, in the same hold
    /// of the log).
    pub fn hand_over(&mut self, node: &Node, settlements: &mut Settlements, wakes: &mut Wakes) -> HandedOver {
        for pending in &mut self.pending {
            pending.seal(node);
            pending.reserve();
        }
        let (handed_over, applying) = self.append(node, settlements);
        let lsn = handed_over.published;
        self.forget_singles();
        // Asked before the queues ask: what becomes durable on its way to them is released as well.
        let waits = lsn > node.log.durable();
        for mut pending in self.pending.drain(..) {
            self.crowded = pending.enqueue(wakes).or(self.crowded.take());
            if waits {
                let waiting = pending.targets.iter().filter(|queue| queue.properties.durable);
                self.undelivered.extend(waiting.map(|queue| (lsn, Arc::clone(queue))));
            }
            if self.spare_bytes + pending.builder.room() <= SPARE_BYTES_MAX {
                self.spare_bytes += pending.builder.room();
                pending.runs.clear();
                pending.targets = Targets::default();
                self.spare.push(pending);
            }
        }
        for settlement in settlements.drain() {
            settlement.apply(wakes);
        }
        drop(applying);
        handed_over
    }

    /// The log is durable up to here: delivers what waited for it.
    pub fn on_durable(&mut self, durable: Lsn, wakes: &mut Wakes) {
        while let Some((_, queue)) = self.undelivered.pop_front_if(|(lsn, _)| *lsn <= durable) {
            queue.resume(wakes);
        }
    }

    /// The first position of the log that messages wait for.
    pub fn awaited(&self) -> Option<Lsn> {
        self.undelivered.front().map(|&(lsn, _)| lsn)
    }

    /// Takes out what waits for the log, with the position each queue waits for.
    pub fn take_undelivered(&mut self) -> VecDeque<(Lsn, Arc<Queue>)> {
        std::mem::take(&mut self.undelivered)
    }

    /// Takes out a queue that had better not be given more at once, if there is one.
    pub fn take_crowded(&mut self) -> Option<Arc<Queue>> {
        self.crowded.take()
    }

    /// Takes over what another burst handed over and the log has not made durable.
    pub fn adopt(&mut self, other: &mut Self) {
        self.crowded = other.crowded.take().or(self.crowded.take());
        self.undelivered.append(&mut other.undelivered);
    }

    fn append<'a>(
        &mut self,
        node: &'a Node,
        settlements: &Settlements,
    ) -> (HandedOver, Option<Applying<'a>>) {
        let is_logged =
            self.pending.iter().any(Pending::is_logged) || settlements.iter().any(Settlement::is_logged);
        let mut last = HandedOver::default();
        if !is_logged {
            return (last, None);
        }
        let mut log = node.log.append();
        let mut facts = Vec::new();
        for pending in &mut self.pending {
            for staged in &mut pending.runs {
                facts.clear();
                for (queue, seq) in pending.targets.iter().zip(&mut staged.seqs) {
                    if queue.properties.durable {
                        let drawn = *seq.insert(queue.draw_seq(staged.run.count()));
                        if queue.logs(staged.run.is_persistent()) {
                            facts.push((queue.id, drawn));
                        }
                    }
                }
                if !facts.is_empty() {
                    let logged = log.push(&Fact::Published { run: &staged.run, targets: &facts });
                    staged.logged = Some(logged);
                    last.published = logged.end;
                }
            }
        }
        for settlement in settlements.iter() {
            last.all = settlement.append(&mut log).unwrap_or(last.all);
        }
        last.all = last.all.max(last.published);
        (last, Some(log.finish()))
    }

    /// The pending block for these targets, after everything that must go before it.
    fn pending_for(&mut self, targets: &Targets) -> Option<&mut Pending> {
        if let [queue] = &**targets {
            let at = match self.last_single {
                Some((last, at)) if last == queue.id => at,
                _ => self.single_for(queue.id, targets),
            };
            self.last_single = Some((queue.id, at));
            return self.pending.get_mut(at);
        }
        if self.pending.last().is_none_or(|pending| !same(&pending.targets, targets)) {
            // What is published to one of these queues alone from now on must come after this.
            self.forget_singles();
            self.start(targets);
        }
        self.pending.last_mut()
    }

    fn single_for(&mut self, queue: QueueId, targets: &Targets) -> usize {
        if let Some(&at) = self.singles.get(&queue) {
            return at;
        }
        let at = self.pending.len();
        self.singles.insert(queue, at);
        self.start(targets);
        at
    }

    fn forget_singles(&mut self) {
        self.singles.clear();
        self.last_single = None;
    }

    fn start(&mut self, targets: &Targets) {
        let mut pending = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= pending.builder.room().min(self.spare_bytes);
        pending.targets = Arc::clone(targets);
        self.pending.push(pending);
    }
}

/// Room kept for the next burst.
const SPARE_BYTES_MAX: usize = 256 * 1024;

fn same(one: &Targets, two: &Targets) -> bool {
    Arc::ptr_eq(one, two)
        || (one.len() == two.len() && one.iter().zip(&**two).all(|(one, two)| Arc::ptr_eq(one, two)))
}

impl Pending {
    fn seal(&mut self, node: &Node) {
        if !self.builder.is_empty() {
            let (block, count, body_bytes) = self.builder.seal(self.stamp, &node.memory.messages);
            self.stage(Run::of_block(block, count, body_bytes));
        }
    }

    fn stage(&mut self, run: Run) {
        self.runs.push(Staged { run, logged: None, seqs: SmallVec::from_elem(None, self.targets.len()) });
    }

    /// Drops the targets that take nothing.
    fn reserve(&mut self) {
        let count = self.runs.iter().map(|staged| staged.run.count()).sum();
        if self.targets.iter().all(|queue| queue.reserve(count)) {
            return;
        }
        self.targets = self.targets.iter().filter(|queue| queue.reserve(count)).cloned().collect();
        for staged in &mut self.runs {
            staged.seqs.truncate(self.targets.len());
        }
    }

    fn is_logged(&self) -> bool {
        let persistent = self.runs.iter().any(|staged| staged.run.is_persistent());
        persistent && self.targets.iter().any(|queue| queue.properties.durable)
    }

    /// A queue that is crowded now, if one is.
    fn enqueue(&self, wakes: &mut Wakes) -> Option<Arc<Queue>> {
        let mut crowded = None;
        for (at, queue) in self.targets.iter().enumerate() {
            let runs = self.runs.iter().map(|staged| {
                let logged = staged.logged.filter(|_| queue.logs(staged.run.is_persistent()));
                (staged.run.clone(), staged.seqs.get(at).copied().flatten(), logged)
            });
            if queue.enqueue(runs, wakes) {
                crowded = Some(queue);
            }
        }
        crowded.cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::{Burst, HandedOver, Targets};
    use crate::broker::Broker;
    use crate::broker::memory::Memory;
    use crate::broker::queue::handle::Queue;
    use crate::broker::queue::settle::Settlements;
    use crate::broker::vhost::{Actor, QueueRequest};
    use crate::broker::wakes::Wakes;
    use crate::config::Config;
    use crate::message::names::Names;
    use crate::message::record::Content;
    use crate::protocol::table::Table;
    use crate::storage::disk::simulated::SimulatedDisk;
    use crate::storage::log::{CommitMode, LogOptions};

    /// After this what did not happen never will.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn broker() -> Broker {
        let options =
            LogOptions { slot_bytes: 64 * 1024, commit: CommitMode::Inline, ..LogOptions::default() };
        let memory = Memory::new(u64::MAX, u64::MAX);
        let disk = Arc::new(SimulatedDisk::new());
        Broker::open(Arc::new(Config::default()), disk, options, memory).unwrap().0
    }

    fn durable_queue(broker: &Broker, name: &str) -> Arc<Queue> {
        let vhost = broker.vhost("/").unwrap();
        let connection = broker.connect().connection();
        let actor = Actor { user: broker.users.get("guest").unwrap(), connection };
        let request = QueueRequest {
            name,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Table::EMPTY,
        };
        vhost.declare_queue(&actor, &request).unwrap();
        vhost.queue(name).unwrap()
    }

    /// Publishes a persistent message to the queues, together with these settlements.
    fn hand_over(broker: &Broker, queues: &[Arc<Queue>], mut settlements: Settlements) -> HandedOver {
        let mut burst = Burst::default();
        if !queues.is_empty() {
            let content = Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" };
            burst.publish(&broker.node, &Targets::from(queues), &content, true);
        }
        burst.hand_over(&broker.node, &mut settlements, &mut Wakes::default())
    }

    #[test]
    fn the_log_hears_of_everything_before_the_queue_does() {
        let broker = broker();
        let queue = durable_queue(&broker, "q");
        let queues = [Arc::clone(&queue)];
        hand_over(&broker, &queues, Settlements::default());
        let taken = queue.lock().classic.take(1).unwrap();
        let mut settled = Settlements::default();
        settled.of(&queue).settled(&taken);
        for (queues, settlements) in [(&[][..], settled), (&queues[..], Settlements::default())] {
            let end = broker.node.log.end();
            let state = queue.lock();
            thread::scope(|scope| {
                let handing_over = scope.spawn(|| hand_over(&broker, queues, settlements));
                let patience = Instant::now() + PATIENCE;
                while broker.node.log.end() == end {
                    assert!(Instant::now() < patience && !handing_over.is_finished(), "the queue came first");
                    thread::yield_now();
                }
                drop(state);
            });
        }
        assert_eq!(queue.depth(), (1, 0));
    }

    #[test]
    fn a_slot_is_no_checkpoints_before_all_it_holds_has_reached_its_queues() {
        let broker = broker();
        let queues = [durable_queue(&broker, "first"), durable_queue(&broker, "second")];
        let log = &broker.node.log;
        let second = queues[1].lock();
        thread::scope(|scope| {
            let handing_over = scope.spawn(|| hand_over(&broker, &queues, Settlements::default()));
            // It is in the log and in the first queue, and waits for the second.
            while queues[0].counts().0 == 0 {
                assert!(!handing_over.is_finished());
                thread::yield_now();
            }
            log.seal_open_slot().unwrap();
            assert!(log.retirable(usize::MAX).is_none(), "a checkpoint would miss what is on its way");
            drop(second);
            assert!(handing_over.join().unwrap().published <= log.durable());
        });
        assert!(log.retirable(usize::MAX).is_some());
    }

    #[test]
    fn what_becomes_durable_on_its_way_to_the_queues_is_released() {
        let broker = broker();
        let queues = [durable_queue(&broker, "first"), durable_queue(&broker, "second")];
        let log = &broker.node.log;
        log.hold();
        let mut burst = Burst::default();
        let content = Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" };
        burst.publish(&broker.node, &Targets::from(&queues[..]), &content, true);
        let second = queues[1].lock();
        let published = thread::scope(|scope| {
            let handing_over = scope.spawn(|| {
                burst.hand_over(&broker.node, &mut Settlements::default(), &mut Wakes::default()).published
            });
            // The first queue has it and may not deliver it. Nobody looks there again but the burst.
            while queues[0].counts().0 == 0 {
                assert!(!handing_over.is_finished());
                thread::yield_now();
            }
            log.release();
            drop(second);
            handing_over.join().unwrap()
        });
        assert_eq!(queues[0].lock().classic.deliverable(), 0);
        assert_eq!(burst.awaited(), Some(published));
        burst.on_durable(log.durable(), &mut Wakes::default());
        assert_eq!(queues[0].lock().classic.deliverable(), 1);
    }
}
