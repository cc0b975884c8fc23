//! What a checkpoint asks of a queue and tells it: places and what is settled, under the queue's lock in bounded steps.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::MutexGuard;
use roaring::RoaringBitmap;

use crate::broker::queue::handle::Queue;
use crate::message::place::{Extent, Lsn, Seq};
use crate::queue::extent::{ExtentState, NewExtent};
use crate::queue::ledger::{PlacedBefore, UnsavedReturns};

/// Ranges and extents that are looked at in one hold of the lock.
const RANGES_PER_HOLD: usize = 1000;
/// Bitmaps that are copied in one hold of it.
const BITMAPS_PER_HOLD: usize = 100;

/// What is settled in an extent and not saved.
#[derive(Debug)]
pub(in crate::broker) struct DirtyExtent {
    /// Its first number.
    pub(in crate::broker) first: Seq,
    /// The version of what is settled.
    pub(in crate::broker) version: u64,
    /// None when nothing lives.
    pub(in crate::broker) settled: Option<RoaringBitmap>,
}

impl Queue {
    /// The next number; it is not drawn.
    pub(in crate::broker) fn peek_seq(&self) -> Seq {
        Seq(self.next_seq.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// The number after the highest that was ever handed out.
    pub(in crate::broker) fn delivered_hi(&self) -> Seq {
        self.lock().classic.delivered_hi()
    }

    /// Live messages whose records start before `lsn`, from `from` on, at most `max` ranges of them.
    pub(in crate::broker) fn placed_before(&self, lsn: Lsn, from: Seq, max: usize) -> PlacedBefore {
        self.lock().classic.ledger.placed_before(lsn, from, max)
    }

    /// Its extents in these packs.
    pub(in crate::broker) fn extents_of(&self, packs: &BTreeSet<u64>) -> Vec<Extent> {
        let mut found = Vec::new();
        if packs.is_empty() {
            return found;
        }
        let is_within = |at: &Extent| packs.contains(&at.pack);
        self.look_at_extents(RANGES_PER_HOLD, |extent| found.extend(Some(extent.at).filter(is_within)));
        found
    }

    /// What lives between these numbers. What is settled meanwhile may be among it.
    pub(in crate::broker) fn live_ranges(&self, first: Seq, end: Seq) -> Vec<(Seq, Seq)> {
        let mut found = Vec::new();
        let mut from = first;
        loop {
            let known = found.len();
            let state = self.lock();
            found.extend(state.classic.ledger.live_ranges(from, end).take(RANGES_PER_HOLD));
            MutexGuard::unlock_fair(state);
            match found.last() {
                Some(&(_, stop)) if found.len() == known + RANGES_PER_HOLD => from = stop,
                _ => return found,
            }
        }
    }

    /// Looks at all extents, at so many in one hold of the lock.
    fn look_at_extents(&self, per_hold: usize, mut look: impl FnMut(&ExtentState)) {
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let state = self.lock();
            let mut extents = state.classic.ledger.extents_from(seq);
            extents.by_ref().take(per_hold).for_each(&mut look);
            from = extents.next().map(|extent| extent.at.first);
            drop(extents);
            // Those who wait come before the next part.
            MutexGuard::unlock_fair(state);
        }
    }

    /// Whether an extent that stays lies between these numbers.
    pub(in crate::broker) fn has_extent_between(
        &self,
        after: Seq,
        before: Seq,
        merged: &BTreeSet<u64>,
    ) -> bool {
        self.lock().classic.ledger.has_extent_between(after, before, |pack| merged.contains(&pack))
    }

    /// What is settled in extents and not saved, but for those of merged packs, which are about to be replaced.
    pub(in crate::broker) fn dirty_extents(&self, merged: &BTreeSet<u64>) -> Vec<DirtyExtent> {
        let mut dirty = Vec::new();
        self.look_at_extents(BITMAPS_PER_HOLD, |extent| {
            if extent.is_dirty() && !merged.contains(&extent.at.pack) {
                let settled = (extent.live() > 0).then(|| extent.settled().clone());
                dirty.push(DirtyExtent { first: extent.at.first, version: extent.version(), settled });
            }
        });
        dirty
    }

    /// How often messages came back, as far as it is not saved, from `from` on: as much as one hold of the lock allows.
    pub(in crate::broker) fn unsaved_returns(&self, from: Seq) -> UnsavedReturns {
        let mut state = self.lock();
        let unsaved = state.classic.ledger.unsaved_returns(from, RANGES_PER_HOLD);
        MutexGuard::unlock_fair(state);
        unsaved
    }

    /// The checkpoint has saved how often the messages from this number on came back, as it was at this version.
    pub(in crate::broker) fn mark_returns_saved(&self, first: Seq, version: u64) {
        self.lock().classic.ledger.mark_returns_saved(first, version);
    }

    /// The checkpoint has forgotten how often the messages from this number on came back.
    pub(in crate::broker) fn mark_returns_gone(&self, first: Seq) {
        self.lock().classic.ledger.mark_returns_gone(first);
    }

    /// The checkpoint has saved an extent's bitmap as it was at this version.
    pub(in crate::broker) fn mark_saved(&self, first: Seq, version: u64) {
        self.lock().classic.ledger.mark_saved(first, version);
    }

    /// The checkpoint has written messages to these extents: [`Queue::move_some`] moves them.
    pub(in crate::broker) fn begin_move(&self, extents: VecDeque<NewExtent>) {
        let mut state = self.lock();
        if !self.is_deleted() {
            state.classic.ledger.begin_move(extents);
        }
    }

    /// Moves some messages to the extents that the checkpoint has written. `true` when all have moved.
    pub(in crate::broker) fn move_some(&self) -> bool {
        let mut state = self.lock();
        if self.is_deleted() {
            return true;
        }
        let is_done = state.classic.ledger.move_some(RANGES_PER_HOLD);
        self.note_index(state.classic.index_bytes());
        MutexGuard::unlock_fair(state);
        is_done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use roaring::RoaringBitmap;

    use super::{BITMAPS_PER_HOLD, RANGES_PER_HOLD};
    use crate::broker::memory::Memory;
    use crate::broker::node::Node;
    use crate::broker::queue::handle::{HOLDS, Queue, QueueProperties};
    use crate::config::Config;
    use crate::message::place::{Extent, Lsn, Place, QueueId, Returned, Seq};
    use crate::queue::classic::Classic;
    use crate::queue::extent::NewExtent;
    use crate::queue::lane::Away;
    use crate::queue::ledger::Ledger;
    use crate::storage::disk::Disk;
    use crate::storage::disk::simulated::SimulatedDisk;
    use crate::storage::log::Log;
    use crate::storage::pack::shelf::Shelf;

    /// The pack in which all extents lie.
    const PACK: u64 = 1;
    /// As many places as must take five holds.
    const MANY: u64 = 5 * RANGES_PER_HOLD as u64;

    /// A queue of whose numbers every second is a message.
    fn queue(ledger: Ledger) -> Queue {
        let (first, end, count) = (Seq(1), Seq(2 * MANY + 1), ledger.messages());
        let away =
            Away { first, end, count, body_bytes: count, persistent: true, redelivered: false, returns: 0 };
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let memory = Memory::new(u64::MAX, u64::MAX);
        let (limits, shelf) = (Config::default().limits, Shelf::new(Arc::clone(&disk)));
        let node = Arc::new(Node::new(limits, memory, Log::default(), disk, shelf));
        let classic = Classic::restore(vec![away], ledger, Seq(0));
        Queue::restored(QueueId(7), QueueProperties::durable("q"), node, classic, end)
    }

    /// Messages that each have a record of the log.
    fn in_the_log() -> Ledger {
        let mut ledger = Ledger::default();
        for seq in (1..2 * MANY).step_by(2) {
            ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq)));
        }
        ledger
    }

    fn extent(first: u64, last: u64, gaps: RoaringBitmap) -> NewExtent {
        let count = u32::try_from(last + 1 - first - gaps.len()).unwrap();
        let (first, last) = (Seq(first), Seq(last));
        let at = Extent { first, last, pack: PACK, offset: 0, bytes: 0, count, body_bytes: 0 };
        NewExtent { at, gaps, pack_live: Arc::default() }
    }

    /// Messages that each have an extent, whose other message was settled since the last checkpoint.
    fn in_extents() -> Ledger {
        let mut ledger = Ledger::default();
        for seq in (1..2 * MANY).step_by(2) {
            ledger.restore_extent(extent(seq, seq + 1, RoaringBitmap::new()));
            ledger.cut(Seq(seq + 1), Seq(seq + 2));
        }
        ledger
    }

    /// How often the lock is taken for it.
    fn holds(ask: impl FnOnce()) -> usize {
        let before = HOLDS.get();
        ask();
        HOLDS.get() - before
    }

    #[test]
    fn what_a_checkpoint_asks_of_very_many_places_takes_several_holds_of_the_lock() {
        let extents = queue(in_extents());
        let all = BTreeSet::from([PACK]);
        let asked = holds(|| assert_eq!(extents.extents_of(&all).len() as u64, MANY));
        assert!(asked >= 5, "{asked} holds for {MANY} extents");
        let asked = holds(|| assert_eq!(extents.dirty_extents(&BTreeSet::new()).len() as u64, MANY));
        assert!(asked as u64 >= MANY / BITMAPS_PER_HOLD as u64, "{asked} holds for {MANY} bitmaps");
        for queue in [extents, queue(in_the_log())] {
            let asked = holds(|| assert_eq!(queue.live_ranges(Seq(0), Seq(u64::MAX)).len() as u64, MANY));
            assert!(asked >= 5, "{asked} holds for {MANY} ranges that live");
        }
    }

    #[test]
    fn very_many_counts_of_returns_are_saved_in_several_holds_of_the_lock() {
        let mut ledger = in_the_log();
        for seq in (1..2 * MANY).step_by(2) {
            ledger.note_returns(Returned { first: Seq(seq), end: Seq(seq + 1), returns: 1 });
        }
        let queue = queue(ledger);
        let (mut from, mut found) = (Some(Seq(0)), 0);
        let asked = holds(|| {
            while let Some(seq) = from {
                let unsaved = queue.unsaved_returns(seq);
                (from, found) = (unsaved.next, found + unsaved.changed.len() as u64);
            }
        });
        assert_eq!(found, MANY);
        assert!(asked >= 5, "{asked} holds for {MANY} counts");
    }

    #[test]
    fn very_many_places_move_in_several_holds_of_the_lock() {
        let queue = queue(in_the_log());
        let last = 2 * MANY - 1;
        let gaps = (0..last as u32).filter(|number| number % 2 == 1).collect();
        queue.begin_move([extent(1, last, gaps)].into());
        let asked = holds(|| while !queue.move_some() {});
        assert!(asked >= 5, "{asked} holds for {MANY} ranges");
        assert_eq!(queue.extents_of(&BTreeSet::from([PACK])).len(), 1);
    }
}
