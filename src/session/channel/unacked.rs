//! Deliveries a channel waits to have acknowledged, by delivery tag.
//!
//! Runs stay whole: an ack of many pops runs, an ack of one cuts one out. The map's key is a run's *last* tag, so
//! that taking from a run's front, which is what consumers do, moves no key.
//!
//! What the disk has need not be held in memory: then only its numbers are, which is enough to settle it or to give it
//! back. What little is left of a block does not keep all of it.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::broker::consumer::{Consumer, Timeout};
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::HOLD_STEPS;
use crate::message::run::Run;
use crate::queue::lane::Away;
use crate::queue::settings::OverdueAction;
use crate::stats::{Charge, Gauge};

/// What a run takes in the list, in bytes, with its share of the tree.
const RUN_BYTES: usize = 2 * size_of::<Delivered>();
/// So many runs are counted at a time.
const CHARGED_RUNS: usize = 64;

/// Who a delivery was for.
#[derive(Clone, Debug)]
pub enum Holder {
    /// A consumer, whose credit it takes up.
    Consumer(Arc<Consumer>),
    /// A basic.get, which has no credit.
    Get(Arc<Queue>),
}

impl Holder {
    /// How long it may hold a message.
    pub fn timeout(&self) -> Timeout {
        match self {
            Self::Consumer(consumer) => consumer.timeout,
            // There is no consumer to be cancelled, and nobody to be told: only the message goes back.
            Self::Get(queue) => match queue.consumer_timeout() {
                Timeout { ms, action: OverdueAction::Cancel } => {
                    Timeout { ms, action: OverdueAction::Requeue }
                }
                other => other,
            },
        }
    }

    fn is(&self, consumer: &Consumer) -> bool {
        matches!(self, Self::Consumer(own) if ptr::eq(&**own, consumer))
    }
}

/// What is held of messages that were delivered.
#[derive(Clone, Debug)]
pub enum Held {
    /// Their bytes.
    Here(Run),
    /// Only their numbers, all of which are messages: the disk has the rest.
    Away(Away),
}

/// Consecutive deliveries of one run.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The tag of the run's first message.
    pub first_tag: u64,
    /// The messages.
    pub held: Held,
    /// Who has them.
    pub holder: Holder,
    /// Since when ([`steady_ms`](crate::clock::Now::steady_ms)).
    pub since_ms: u64,
}

/// What a look for what is held for too long came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The deliveries from this tag on, of one run, are held for longer than this.
    Overdue(u64, Timeout),
    /// None was found yet.
    CutShort,
    /// There is none.
    Done,
}

/// The unacknowledged deliveries of one channel.
#[derive(Debug, Default)]
pub struct Unacked {
    by_last_tag: BTreeMap<u64, Delivered>,
    consumed: u64,
    /// What the list takes, counted so many runs at a time.
    charge: Option<Charge>,
    /// How far [`Unacked::slim`] has got.
    slimmed_before: u64,
    /// How far [`Unacked::overdue`] has got.
    looked_before: u64,
    /// Tags of what was held for too long and taken back: whoever acknowledges it too late is not to blame.
    taken_back: RoaringTreemap,
}

/// So many tags of what was taken back are known.
const TAKEN_BACK_MAX: u64 = 100_000;

impl Unacked {
    /// Remembers deliveries; tags only rise.
    pub fn push(&mut self, delivered: Delivered) {
        self.consumed += delivered.consumed();
        self.by_last_tag.insert(delivered.last_tag(), delivered);
    }

    /// Counts what the list itself takes, when that has changed much.
    pub fn charge(&mut self, gauge: &Arc<Gauge>) {
        let bytes = (self.by_last_tag.len() / CHARGED_RUNS * CHARGED_RUNS * RUN_BYTES) as u64;
        match &mut self.charge {
            Some(charge) if charge.bytes() != bytes => charge.set(bytes),
            None if bytes > 0 => self.charge = Some(Charge::new(gauge, bytes)),
            _ => {}
        }
    }

    /// Looks at the oldest ones, as far as they are held for `shortest_ms`, for one that is held for longer than it may. As
    /// many are looked at as there are steps; the next look goes on.
    pub fn look(&mut self, now_ms: u64, shortest_ms: u64, steps: &mut usize) -> Look {
        for (&last_tag, delivered) in self.by_last_tag.range(self.looked_before..) {
            if *steps == 0 {
                self.looked_before = last_tag;
                return Look::CutShort;
            }
            *steps -= 1;
            let (since_ms, timeout) = (delivered.since_ms, delivered.holder.timeout());
            if since_ms.saturating_add(shortest_ms) > now_ms {
                break;
            }
            if since_ms.saturating_add(timeout.ms) <= now_ms {
                self.looked_before = last_tag;
                return Look::Overdue(delivered.first_tag, timeout);
            }
        }
        self.looked_before = 0;
        Look::Done
    }

    /// Takes the run of deliveries that begins with this tag, for it is held for too long.
    pub fn take_back(&mut self, first: u64) -> Option<Delivered> {
        let taken = self.take_row(first, u64::MAX)?;
        self.taken_back.insert_range(first..=taken.last_tag());
        while self.taken_back.len() > TAKEN_BACK_MAX
            && let Some(oldest) = self.taken_back.min()
        {
            self.taken_back.remove(oldest);
        }
        Some(taken)
    }

    /// Takes back what this consumer holds, as [`Unacked::take_back`], from this tag on; where to go on when that is more
    /// than one hold may look at.
    pub fn take_back_of(&mut self, consumer: &Consumer, from: u64) -> (Vec<Delivered>, Option<u64>) {
        let mut rows = self.by_last_tag.range(from..);
        let looked_at = rows.by_ref().take(HOLD_STEPS as usize);
        let own = looked_at.filter(|(_, delivered)| delivered.holder.is(consumer));
        let firsts: Vec<u64> = own.map(|(_, delivered)| delivered.first_tag).collect();
        let next = rows.next().map(|(last_tag, _)| *last_tag);
        (firsts.into_iter().filter_map(|first| self.take_back(first)).collect(), next)
    }

    /// Whether what was delivered with this tag was taken back; that is forgotten.
    pub fn was_taken_back(&mut self, tag: u64) -> bool {
        self.taken_back.remove(tag)
    }

    /// Whether none are outstanding.
    pub fn is_empty(&self) -> bool {
        self.by_last_tag.is_empty()
    }

    /// How many messages wait that consumers were given: they count in a prefetch, which basic.get does not heed.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Takes the delivery with the tag `first`, and those behind it up to `last` that are of the same run. `None` when
    /// `first` is not outstanding.
    pub fn take_row(&mut self, first: u64, last: u64) -> Option<Delivered> {
        let last_tag = self.find(first)?;
        let mut taken = self.by_last_tag.remove(&last_tag)?;
        if taken.first_tag < first {
            let before = taken.split_before(first);
            self.by_last_tag.insert(before.last_tag(), before);
        }
        if last_tag > last {
            let row = taken.split_before(last + 1);
            self.by_last_tag.insert(last_tag, taken);
            taken = row;
        }
        self.consumed -= taken.consumed();
        Some(taken)
    }

    /// The first tag that is outstanding.
    pub fn first_tag(&self) -> Option<u64> {
        self.by_last_tag.values().next().map(|delivered| delivered.first_tag)
    }

    /// Whether the tag is outstanding.
    pub fn contains(&self, tag: u64) -> bool {
        self.find(tag).is_some()
    }

    /// How many [`Unacked::take_first_through`] would take.
    pub fn count_first_through(&self, tag: u64) -> Option<u32> {
        let (&last_tag, first) = self.by_last_tag.first_key_value()?;
        // Those of one run, which is no longer than its count says.
        (first.first_tag <= tag).then(|| (last_tag.min(tag) - first.first_tag + 1) as u32)
    }

    /// Takes the first run of deliveries, and of it no more than those up to and with this tag. `None` when there are
    /// none.
    pub fn take_first_through(&mut self, tag: u64) -> Option<Delivered> {
        let entry = self.by_last_tag.first_entry()?;
        if entry.get().first_tag > tag {
            return None;
        }
        let taken = if *entry.key() <= tag { entry.remove() } else { entry.into_mut().split_before(tag + 1) };
        self.consumed -= taken.consumed();
        Some(taken)
    }

    /// Goes through what is held, taking one of `steps` for each run and for each message that is copied. Lets go of
    /// what the disk has, if it `may_go`; what little is left of blocks is copied into smaller ones. How many bytes of
    /// bodies went, and whether all was gone through: otherwise it goes on from there the next time.
    pub fn slim(&mut self, steps: &mut u32, may_go: bool, gauge: &Arc<Gauge>) -> (u64, bool) {
        let mut freed = 0;
        let mut group: Vec<&mut Run> = Vec::new();
        let mut stopped_at = None;
        for (&last_tag, delivered) in self.by_last_tag.range_mut(self.slimmed_before..) {
            let Some(left) = steps.checked_sub(1) else {
                stopped_at = Some(last_tag);
                break;
            };
            *steps = left;
            if may_go {
                freed += delivered.let_go_if(Queue::has_on_disk);
            }
            let Held::Here(run) = &mut delivered.held else { continue };
            if group.first().is_some_and(|first| !first.shares_block(run)) {
                *steps = steps.saturating_sub(Run::compact(&mut group, gauge));
                group.clear();
            }
            group.push(run);
        }
        *steps = steps.saturating_sub(Run::compact(&mut group, gauge));
        self.slimmed_before = stopped_at.unwrap_or_default();
        (freed, stopped_at.is_none())
    }

    /// The key of the run that holds this tag.
    fn find(&self, tag: u64) -> Option<u64> {
        let (&last_tag, delivered) = self.by_last_tag.range(tag..).next()?;
        (delivered.first_tag <= tag).then_some(last_tag)
    }
}

impl Delivered {
    fn last_tag(&self) -> u64 {
        self.first_tag + u64::from(self.count()) - 1
    }

    /// Cuts off what has tags below `tag`, which must lie inside.
    fn split_before(&mut self, tag: u64) -> Self {
        let count = (tag - self.first_tag) as u32;
        let held = match &mut self.held {
            Held::Here(run) => Held::Here(run.split_front(count)),
            Held::Away(away) => Held::Away(split_away(away, count)),
        };
        let before =
            Self { first_tag: self.first_tag, held, holder: self.holder.clone(), since_ms: self.since_ms };
        self.first_tag = tag;
        before
    }

    /// How many messages, never zero.
    pub fn count(&self) -> u32 {
        match &self.held {
            Held::Here(run) => run.count(),
            // It was a run once, and so it fits.
            Held::Away(away) => away.count as u32,
        }
    }

    /// As [`Delivered::count`], of what a consumer was given.
    pub fn consumed(&self) -> u64 {
        match self.holder {
            Holder::Consumer(_) => u64::from(self.count()),
            Holder::Get(_) => 0,
        }
    }

    /// The bodies that are in memory, in bytes.
    pub fn held_bytes(&self) -> u64 {
        match &self.held {
            Held::Here(run) => run.body_bytes(),
            Held::Away(_) => 0,
        }
    }

    /// Lets go of the bytes if the disk has them: what was persistent in a durable queue was delivered only when it was
    /// durable, and is there until it is settled. How many bytes of bodies went.
    pub fn let_go(&mut self) -> u64 {
        self.let_go_if(|queue, run| queue.logs(run.is_persistent()))
    }

    fn let_go_if(&mut self, has_on_disk: impl FnOnce(&Queue, &Run) -> bool) -> u64 {
        let Held::Here(run) = &self.held else { return 0 };
        if !self.queue().is_some_and(|queue| has_on_disk(queue, run)) {
            return 0;
        }
        let away = Away::of(run);
        self.held = Held::Away(away);
        away.body_bytes
    }

    /// The queue the messages came from; `None` for a direct reply.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        match &self.holder {
            Holder::Get(queue) => Some(queue),
            Holder::Consumer(consumer) => consumer.source.as_ref().map(|source| &source.queue),
        }
    }
}

/// Cuts the first `count` numbers off; what their bodies take is a share.
fn split_away(away: &mut Away, count: u32) -> Away {
    let at = away.first.after(count);
    let share = u128::from(away.body_bytes) * u128::from(count) / u128::from(away.count.max(1));
    let front = Away { end: at, count: u64::from(count), body_bytes: share as u64, ..*away };
    away.first = at;
    away.count -= front.count;
    away.body_bytes -= front.body_bytes;
    front
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Delivered, Held, Holder, Look, Unacked};
    use crate::broker::Broker;
    use crate::broker::consumer::Timeout;
    use crate::broker::queue::handle::{Queue, QueueProperties};
    use crate::config::Config;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::{QueueId, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::protocol::field::Field;
    use crate::protocol::table::TableBuf;
    use crate::queue::settings::OverdueAction;
    use crate::stats::Gauge;

    const BODY: [u8; 100] = [7; 100];
    const PER_BLOCK: u32 = 40;

    fn queue(durable: bool) -> Arc<Queue> {
        queue_with(durable, &TableBuf::new())
    }

    fn queue_with(durable: bool, arguments: &TableBuf) -> Arc<Queue> {
        let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
        let properties = QueueProperties {
            name: "q".into(),
            vhost: "/".into(),
            durable,
            auto_delete: false,
            exclusive_to: None,
            arguments: arguments.as_table().as_bytes().into(),
        };
        Arc::new(Queue::new(QueueId(1), properties, Arc::clone(&broker.node)))
    }

    /// A run from `first` on, delivered with tags like its numbers.
    fn delivered(queue: &Arc<Queue>, first: u64, persistent: bool, gauge: &Arc<Gauge>) -> Delivered {
        let mut builder = BlockBuilder::default();
        for _ in 0..PER_BLOCK {
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: &BODY });
        }
        let (block, count, body_bytes) =
            builder.seal(Stamp { marks: Marks::of(persistent), received_ms: 0 }, gauge);
        let run = Run::of_block(block, count, body_bytes).numbered_from(Seq(first));
        Delivered {
            first_tag: first,
            held: Held::Here(run),
            holder: Holder::Get(Arc::clone(queue)),
            since_ms: 0,
        }
    }

    /// So many blocks, and all messages but every fiftieth acknowledged.
    fn every_fiftieth(blocks: u64, persistent: bool, gauge: &Arc<Gauge>) -> Unacked {
        let queue = queue(true);
        let mut unacked = Unacked::default();
        for block in 0..blocks {
            unacked.push(delivered(&queue, 1 + block * u64::from(PER_BLOCK), persistent, gauge));
        }
        let last = blocks * u64::from(PER_BLOCK);
        (1..=last).filter(|tag| tag % 50 != 0).for_each(|tag| drop(unacked.take_row(tag, tag).unwrap()));
        unacked
    }

    fn take_through(unacked: &mut Unacked, tag: u64) -> Vec<Delivered> {
        std::iter::from_fn(|| unacked.take_first_through(tag)).collect()
    }

    fn slim(unacked: &mut Unacked, may_go: bool, gauge: &Arc<Gauge>) -> (u64, u32) {
        let (mut freed, mut turns) = (0, 0);
        loop {
            let (went, is_done) = unacked.slim(&mut 100, may_go, gauge);
            (freed, turns) = (freed + went, turns + 1);
            if is_done {
                return (freed, turns);
            }
        }
    }

    #[test]
    fn who_may_hold_for_long_hides_nobody_who_may_not() {
        let mut arguments = TableBuf::new();
        arguments.insert("x-consumer-timeout", Field::I32(1000));
        let (gauge, patient, hasty) = (Arc::default(), queue(true), queue_with(true, &arguments));
        let mut unacked = Unacked::default();
        for block in 0..2500 {
            let queue = if block == 2400 { &hasty } else { &patient };
            unacked.push(delivered(queue, 1 + block * u64::from(PER_BLOCK), true, &gauge));
        }
        let mut look = || unacked.look(2000, 1000, &mut 1000);
        let found = Look::Overdue(96_001, Timeout { ms: 1000, action: OverdueAction::Close });
        assert_eq!([look(), look(), look()], [Look::CutShort, Look::CutShort, found]);
        assert_eq!(unacked.look(999, 1000, &mut 1000), Look::Done);
    }

    #[test]
    fn every_fiftieth_message_does_not_keep_all_in_memory() {
        let gauge = Arc::new(Gauge::default());
        let mut unacked = every_fiftieth(500, false, &gauge);
        let before = gauge.read();
        let (freed, turns) = slim(&mut unacked, true, &gauge);
        assert_eq!(freed, 0, "no disk has them");
        assert!(turns > 4, "{turns}: so many steps are more than a turn");
        assert!(gauge.read() < before / 8, "{} of {before}", gauge.read());
        let all = take_through(&mut unacked, u64::MAX);
        assert_eq!(all.len(), 400);
        for (delivered, tag) in all.iter().zip((50..).step_by(50)) {
            let Held::Here(run) = &delivered.held else { panic!("{delivered:?}") };
            assert_eq!((delivered.first_tag, run.first_seq(), run.count()), (tag, Seq(tag), 1));
            assert_eq!((run.body_bytes(), run.messages().count()), (100, 1));
        }
        drop(all);
        assert_eq!(gauge.read(), 0);
    }

    #[test]
    fn what_the_disk_has_is_held_as_numbers_that_part_like_runs() {
        let gauge = Arc::new(Gauge::default());
        let queue = queue(true);
        let mut unacked = Unacked::default();
        for block in 0..3 {
            unacked.push(delivered(&queue, 1 + block * u64::from(PER_BLOCK), true, &gauge));
        }
        assert_eq!(slim(&mut unacked, false, &gauge).0, 0);
        let bytes = 3 * u64::from(PER_BLOCK) * BODY.len() as u64;
        assert_eq!((slim(&mut unacked, true, &gauge).0, gauge.read()), (bytes, 0));
        let row = unacked.take_row(5, 7).unwrap();
        let Held::Away(away) = row.held else { panic!("{row:?}") };
        assert_eq!((row.first_tag, away.first, away.end, away.count), (5, Seq(5), Seq(8), 3));
        assert_eq!((away.body_bytes, away.persistent), (300, true));
        let through: u32 = take_through(&mut unacked, 50).iter().map(Delivered::count).sum();
        assert_eq!(through, 47);
        assert!(unacked.take_row(6, 6).is_none());
        assert_eq!(unacked.take_row(51, 51).unwrap().count(), 1);
    }

    #[test]
    fn what_no_disk_has_stays() {
        let gauge = Arc::new(Gauge::default());
        for (durable, persistent) in [(true, false), (false, true), (false, false)] {
            let mut unacked = Unacked::default();
            unacked.push(delivered(&queue(durable), 1, persistent, &gauge));
            assert_eq!(slim(&mut unacked, true, &gauge), (0, 1));
            assert!(matches!(unacked.take_first_through(1).unwrap().held, Held::Here(_)));
        }
    }
}
