//! One burst of publishing: what a session collects from a read chunk, and hands over at its end.
//!
//! ```text
//! message -> the pending block of its targets -> (end of chunk) reserve -> append facts -> enqueue -> dispatch
//! ```
//!
//! Messages for the same queues share blocks, whatever is published between. A set of targets that shares a queue with
//! another one closes that one's block, so that per queue the order of publishing holds.
//!
//! A burst may be for many queues: it is handed over in parts, each as large as the turn of whoever does it, and nothing
//! is added meanwhile.

mod open_blocks;
mod pending;

use std::collections::VecDeque;
use std::sync::Arc;

use self::open_blocks::OpenBlocks;
pub use self::pending::{Lost, Receipt};
use self::pending::{Pending, Terms};
use crate::broker::node::Node;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::{Settlement, Settlements};
use crate::broker::route::Targets;
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::message::block::{Big, Pieces, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::{Marks, Stamp};
use crate::message::fact::Fact;
use crate::message::place::Lsn;
use crate::message::record::Content;
use crate::message::run::Run;
use crate::storage::log::Applying;

/// Room kept for the next burst, in bytes.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// Messages published and not yet handed to their queues.
#[derive(Debug, Default)]
pub struct Burst {
    pending: Vec<Pending>,
    open: OpenBlocks,
    /// Emptied ones, kept for their room.
    spare: Vec<Pending>,
    spare_bytes: usize,
    /// Queues that hold messages of ours until the log is durable up to a position.
    undelivered: VecDeque<(Lsn, Arc<Queue>)>,
    /// When what is published from now on was received, in milliseconds since 1970.
    received_ms: u64,
    /// The message that is published next is wanted back, under this number, if its queues are gone before it is handed
    /// over.
    returns_as: Option<u64>,
    /// A queue that is crowded since it was handed messages of ours.
    crowded: Option<Arc<Queue>>,
    /// What was refused by a queue since this was last asked.
    refused: Vec<Receipt>,
    handing: Option<Handing>,
}

/// How far a burst is handed over.
#[derive(Debug)]
struct Handing {
    handed_over: HandedOver,
    /// Kept until everything has reached its queue.
    applying: Option<Applying>,
    /// Queues must be asked again when the log is durable.
    waits: bool,
    pending: usize,
    target: usize,
    /// Runs that this target has already.
    run: usize,
}

impl Drop for Handing {
    /// Whoever handed over has ended between two turns, as at a stop: some queues lack what the log has for them.
    fn drop(&mut self) {
        self.applying.take().into_iter().for_each(Applying::abandon);
    }
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
    pub fn received_at(&mut self, steady_ms: u64) {
        self.received_ms = steady_ms;
    }

    /// The message that is published next is wanted back, under this number, if its queues are gone before it is handed
    /// over: see [`Burst::look_up`]. Numbers only rise.
    pub fn returns_as(&mut self, number: Option<u64>) {
        self.returns_as = number;
    }

    /// What the block headers of messages published now say.
    pub fn stamp(&self, marks: Marks) -> Stamp {
        Stamp { marks, received_ms: self.received_ms }
    }

    /// Adds a message whose body is in one piece.
    pub fn publish(&mut self, node: &Node, targets: &Targets, content: &Content<'_>, marks: Marks) {
        if content.body.len() > SMALL_BODY_BYTES_MAX {
            let pieces = Pieces::from_iter([bytes::Bytes::copy_from_slice(content.body)]);
            let stamp = self.stamp(marks);
            let big = Big::new(content.names, content.properties, pieces, stamp, &node.memory.messages);
            return self.publish_big(node, targets, big);
        }
        self.publish_alike(node, targets, content, marks, std::iter::once(content.body));
    }

    /// Adds messages that differ from `like`, which is small, in nothing but the octets of their bodies. How many.
    pub fn publish_alike<'a>(
        &mut self,
        node: &Node,
        targets: &Targets,
        like: &Content<'_>,
        marks: Marks,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> u64 {
        let mut count = 0;
        let number = self.returns_as;
        let terms = Terms { stamp: self.stamp(marks), mandatory: number.is_some() };
        let Some(pending) = self.pending_for(targets) else { return count };
        let staged = pending.runs.len();
        pending.agree(terms, node);
        pending.numbers.extend(number);
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
        let staged = pending.runs.len() - staged;
        self.count_staged(staged, targets);
        count
    }

    /// Adds a large message.
    pub fn publish_big(&mut self, node: &Node, targets: &Targets, big: Arc<Big>) {
        let number = self.returns_as;
        let Some(pending) = self.pending_for(targets) else { return };
        pending.seal(node);
        pending.terms.mandatory = number.is_some();
        pending.numbers.extend(number);
        pending.stage(Run::of_big(big));
        self.count_staged(1, targets);
    }

    /// What is published next is one message that stays apart from others, for its queues may refuse it, who is told then, or
    /// it is also for queues with these names that are not there yet: see [`Burst::look_up`]. To be followed by
    /// [`Burst::close`].
    pub fn open(&mut self, targets: &Targets, receipt: Option<Receipt>, absent: &[&str]) {
        self.open.clear();
        if let Some(pending) = self.pending_for(targets) {
            pending.receipt = receipt.map(Box::new);
            pending.absent = absent.iter().map(|&name| name.into()).collect();
        }
    }

    /// What is published next, to no queue, is for those with these names that are not there yet: see [`Burst::look_up`]. It
    /// joins the last message, if that is so, too, and no other: there may be such a queue since.
    pub fn open_for_names(&mut self, absent: &[&str]) {
        let names = absent.iter().copied();
        let is_alike = |last: &Pending| {
            last.targets.is_empty() && last.absent.iter().map(|name| &**name).eq(names.clone())
        };
        if !self.pending.last().is_some_and(is_alike) {
            let pending = self.begin_pending(&Targets::default());
            pending.absent = names.map(Into::into).collect();
        }
    }

    /// What is published from now on is not to join what was published before.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// As [`Burst::close`], of a message that all of its queues are to have or none: whether each keeps a place for it now.
    /// Otherwise it was not published.
    pub fn close_if_taken(&mut self, node: &Node) -> bool {
        self.open.clear();
        let Some(pending) = self.pending.last_mut() else { return false };
        pending.seal(node);
        let is_taken = pending.reserve_all();
        if !is_taken {
            self.pending.pop();
        }
        is_taken
    }

    /// Each run is handed to each target: that of several, which one message may cause, is counted beforehand.
    fn count_staged(&mut self, runs: usize, targets: &Targets) {
        let more = runs.saturating_mul(targets.len().saturating_sub(1));
        self.open.steps = self.open.steps.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
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
    /// of the log), as far as this turn goes. `None` until all of it is; then nothing may be published or settled.
    pub fn hand_over(
        &mut self,
        node: &Node,
        settlements: &mut Settlements,
        wakes: &mut Wakes,
    ) -> Option<HandedOver> {
        if self.handing.is_none() {
            self.begin(node, settlements, wakes);
        }
        if !self.enqueue(wakes) || !settlements.apply(wakes) {
            return None;
        }
        for mut pending in self.pending.drain(..) {
            if self.spare_bytes + pending.builder.room() <= SPARE_BYTES_MAX {
                self.spare_bytes += pending.builder.room();
                pending.recycle();
                self.spare.push(pending);
            }
        }
        let mut handing = self.handing.take()?;
        handing.applying = None;
        Some(handing.handed_over)
    }

    /// Whether a part is handed over and another is not.
    pub fn is_handing_over(&self) -> bool {
        self.handing.is_some()
    }

    fn begin(&mut self, node: &Node, settlements: &Settlements, wakes: &mut Wakes) {
        for pending in &mut self.pending {
            pending.seal(node);
            pending.part_by_priority();
            // Queues that are gone say so themselves to what the log need not know.
            if pending.is_logged() {
                pending.drop_deleted();
            }
            if pending.receipt.is_some() && !pending.is_reserved && pending.reserve(node, wakes) {
                self.refused.extend(pending.receipt.as_deref());
            }
        }
        let (handed_over, applying) = self.append(node, settlements);
        self.open.clear();
        // Asked before the queues ask: what becomes durable on its way to them is released as well.
        let waits = handed_over.published > node.log.durable();
        self.handing = Some(Handing { handed_over, applying, waits, pending: 0, target: 0, run: 0 });
    }

    /// Puts the messages into their queues, as far as this turn goes. `true` when all are there.
    fn enqueue(&mut self, wakes: &mut Wakes) -> bool {
        let Some(handing) = &mut self.handing else { return true };
        while let Some(pending) = self.pending.get(handing.pending) {
            while let Some(queue) = pending.targets.get(handing.target) {
                if wakes.is_turn_over() {
                    return false;
                }
                let end = pending.runs.len().min(handing.run + HOLD_STEPS as usize);
                if pending.enqueue(queue, handing.target, handing.run..end, wakes) {
                    self.crowded = Some(Arc::clone(queue));
                }
                handing.run = end;
                if end < pending.runs.len() {
                    continue;
                }
                handing.run = 0;
                if handing.waits && queue.properties.durable {
                    self.undelivered.push_back((handing.handed_over.published, Arc::clone(queue)));
                }
                handing.target += 1;
            }
            handing.target = 0;
            handing.pending += 1;
        }
        true
    }

    /// The log is durable up to here: delivers what waited for it, as far as this turn goes.
    pub fn on_durable(&mut self, durable: Lsn, wakes: &mut Wakes) {
        while !wakes.is_turn_over()
            && let Some((_, queue)) = self.undelivered.pop_front_if(|(lsn, _)| *lsn <= durable)
        {
            wakes.count(1);
            queue.go_on(wakes);
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

    /// Takes out what was refused by a queue.
    pub fn take_refused(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.refused)
    }

    /// Takes out a queue that had better not be given more at once, if there is one.
    pub fn take_crowded(&mut self) -> Option<Arc<Queue>> {
        self.crowded.take()
    }

    /// What was collected is received only now, and messages are for names: queues that are gone since these were routed
    /// make way for those that are called the same now, which `find` knows, and so do those that were not there. Where one
    /// of them may refuse messages by now, the channel is told of each. Mandatory messages that are for nobody are added to
    /// `lost`. The steps it took.
    pub fn look_up(
        &mut self,
        node: &Node,
        channel: u16,
        find: impl Fn(&str) -> Option<Arc<Queue>>,
        lost: &mut Vec<Lost>,
    ) -> usize {
        let mut steps = 0;
        let routed = std::mem::take(&mut self.pending);
        for mut pending in routed {
            steps += pending.names();
            pending.seal_all(self.received_ms, node);
            steps += pending.runs.len();
            pending.look_up(&find, lost);
            let before = self.pending.len();
            if pending.receipt.is_none() && pending.targets.iter().any(|queue| queue.rejects()) {
                self.pending.extend(pending.into_singles(Receipt { channel, publish: 0 }));
            } else {
                self.pending.push(pending);
            }
            steps += self.pending.len().saturating_sub(before + 1);
        }
        steps
    }

    /// Takes over what another burst has collected; this one has collected nothing.
    pub fn adopt(&mut self, other: &mut Self) {
        debug_assert!(self.is_empty() && self.handing.is_none(), "what was published before is handed over");
        self.pending.append(&mut other.pending);
        other.open.clear();
    }

    fn append(&mut self, node: &Node, settlements: &Settlements) -> (HandedOver, Option<Applying>) {
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
                for queue in &*pending.targets {
                    let seq = queue.properties.durable.then(|| queue.draw_seq(&staged.run));
                    staged.seqs.push(seq);
                    if let Some(drawn) = seq.filter(|_| queue.logs(staged.run.is_persistent())) {
                        facts.push((queue.id, drawn));
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
        let at = match &**targets {
            [] => return self.pending.last_mut(),
            [queue] => self.open.single(queue.id, &mut self.pending),
            _ => self.open.set(targets, &mut self.pending),
        };
        match at {
            Some(at) => self.pending.get_mut(at),
            None => Some(self.begin_pending(targets)),
        }
    }

    fn begin_pending(&mut self, targets: &Targets) -> &mut Pending {
        let mut pending = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= pending.builder.room().min(self.spare_bytes);
        pending.targets = Arc::clone(targets);
        self.pending.push_mut(pending)
    }

    /// How many steps it took to find the blocks for what was published since this was last asked.
    pub fn take_steps(&mut self) -> u32 {
        std::mem::take(&mut self.open.steps)
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
    use crate::message::block_header::Marks;
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
            burst.publish(&broker.node, &Targets::from(queues), &content, Marks::of(true));
        }
        burst.hand_over(&broker.node, &mut settlements, &mut Wakes::default()).unwrap()
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
    fn what_ends_on_its_way_to_the_queues_stays_in_the_log() {
        let broker = broker();
        let queues = [durable_queue(&broker, "first"), durable_queue(&broker, "second")];
        let log = &broker.node.log;
        let mut burst = Burst::default();
        let content = Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" };
        burst.publish(&broker.node, &Targets::from(&queues[..]), &content, Marks::of(true));
        let mut wakes = Wakes::with_turns_of(1);
        assert_eq!(burst.hand_over(&broker.node, &mut Settlements::default(), &mut wakes), None);
        assert_eq!((queues[0].depth().0, queues[1].depth().0), (1, 0));
        drop(burst);
        log.seal_open_slot().unwrap();
        assert!(log.retirable(usize::MAX).is_none(), "the second queue has it nowhere else");
    }

    #[test]
    fn what_becomes_durable_on_its_way_to_the_queues_is_released() {
        let broker = broker();
        let queues = [durable_queue(&broker, "first"), durable_queue(&broker, "second")];
        let log = &broker.node.log;
        log.hold();
        let mut burst = Burst::default();
        let content = Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" };
        burst.publish(&broker.node, &Targets::from(&queues[..]), &content, Marks::of(true));
        let second = queues[1].lock();
        let published = thread::scope(|scope| {
            let handing_over = scope.spawn(|| {
                let mut wakes = Wakes::default();
                burst.hand_over(&broker.node, &mut Settlements::default(), &mut wakes).unwrap().published
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
