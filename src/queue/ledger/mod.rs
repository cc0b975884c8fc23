//! Which messages of a queue a disk holds, ready and unacked alike, and where each lies.
//!
//! Persistent ones are in the log's window (a range of numbers for each record) or, when they outlived it, in extents
//! of packs. Transient ones are here only while they are spilled. Delivery never looks here: a checkpoint reads and
//! moves it, settles cut it, and a message that is not in memory is found through it by its number.
//!
//! # Who knows where a message is
//!
//! Three say something of it, and none what another says:
//!
//! * The lane ([`crate::queue::lane`]) has the ready ones, in order, and knows whether their bytes are in memory: *here*
//!   only, *kept* (the disk has them as well), or *away* (only the disk). Where on the disk it never knows. An away range
//!   is numbers from and to: which of them are messages the ledger says.
//! * The ledger has all that a disk holds, ready and in somebody's hands alike, and knows where: a record of the log, a
//!   block of a spill pack, an extent of a pack. Whether their bytes are in memory, and who has them, it never knows.
//! * An extent's state ([`crate::queue::extent`]) knows which numbers of one extent live, and counts them for the pack. It
//!   is the ledger's own table for what lies there: a bit for each message instead of a range.
//!
//! ```text
//!  what happens            lane             ledger                 extent
//!  published, persistent   kept             in a record            -
//!  published, transient    here             -                      -
//!  evicted                 away             -                      -         (the disk had it)
//!  spilled                 away             in a block             -
//!  read back               kept             -                      -
//!  a checkpoint            -                in an extent           lives     (its slot is used again, its pack goes)
//!  delivered               not there        -                      -         (who has it, has the bytes or the number)
//!  returned                kept or away     -                      -         (here, if no disk has it)
//!                                                                             (or apart: `queue::classic::returned`)
//!  settled                 not there        not there              settled, and the next checkpoint saves that
//!  a start                 away             as tables and log say  as the tables say, and the log since
//! ```
//!
//! "-" is no change. Both change under the queue's lock, the log's fact before either; what a checkpoint moves stays
//! readable at its old place until nobody reads there.
//!
//! A number lives in one place at a time, and extents of one queue never overlap, but for those to which messages are
//! moving (`moving`): these are apart until all have moved.

mod moving;
mod returns;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::message::place::{Extent, Lsn, Place, Returned, Seq};
use crate::queue::extent::{ExtentState, Extents, NewExtent};
use crate::queue::ledger::moving::{Moving, Next};
use crate::queue::ledger::returns::Returns;
pub use crate::queue::ledger::returns::UnsavedReturns;

/// What one range costs in memory, with its share of the tree's nodes.
const RANGE_BYTES: u64 = 64;
/// What one extent costs in memory with a bitmap of usual size.
const EXTENT_BYTES: u64 = 256;

/// Where a live message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In a record of the log, or in a block of a pack.
    At(Place),
    /// Somewhere in this extent.
    In(Extent),
}

/// Live ranges of sequence numbers that lie in records of the log that a checkpoint wants to recycle.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PlacedBefore {
    /// `first..end` and the start of the record they lie in, ascending.
    pub ranges: Vec<(Seq, Seq, Lsn)>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Seq>,
}

/// The live numbers and their places.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the first number: the number after the last one, and the place of the whole range.
    ranges: BTreeMap<Seq, (Seq, Place)>,
    extents: Extents,
    /// Where messages are moving to.
    moving: Option<Box<Moving>>,
    messages: u64,
    /// How often they came back; `None` when the queue does not count that, or none did.
    returns: Option<Box<Returns>>,
}

impl Ledger {
    /// The numbers `first..end` are live and lie at `place`. They were not known before.
    pub fn insert(&mut self, first: Seq, end: Seq, place: Place) {
        debug_assert!(first < end && self.live_in(first, end) == 0, "numbers are never used twice");
        self.messages += end.0 - first.0;
        self.ranges.insert(first, (end, place));
    }

    /// Takes in an extent as the checkpoint knows it, at a start.
    pub fn restore_extent(&mut self, extent: NewExtent) {
        let NewExtent { at, gaps, pack_live } = extent;
        let state = ExtentState::new(at, gaps, pack_live);
        self.messages += state.live();
        self.extents.insert(state);
    }

    /// The numbers `first..end` are done with; those not known are ignored. How many were known.
    pub fn cut(&mut self, first: Seq, end: Seq) -> u64 {
        if let Some(returns) = &mut self.returns {
            returns.forget(first, end);
        }
        if first >= end || self.messages == 0 {
            return 0;
        }
        self.take_out(first, end)
    }

    fn take_out(&mut self, first: Seq, end: Seq) -> u64 {
        let mut died = self.cut_ranges(first, end) + self.extents.settle(first, end);
        if let Some(moving) = &mut self.moving {
            died += moving.arrived.settle(first, end);
        }
        self.messages -= died;
        died
    }

    fn cut_ranges(&mut self, first: Seq, end: Seq) -> u64 {
        let mut cut = 0;
        if let Some((&start, &(stop, place))) = self.ranges.range(..first).next_back()
            && stop > first
        {
            cut += stop.min(end).0 - first.0;
            self.ranges.insert(start, (first, place));
            if stop > end {
                self.ranges.insert(end, (stop, place));
                return cut;
            }
        }
        while let Some((&start, &(stop, place))) = self.ranges.range(first..end).next() {
            self.ranges.remove(&start);
            cut += stop.min(end).0 - start.0;
            if stop > end {
                self.ranges.insert(end, (stop, place));
            }
        }
        cut
    }

    /// Where a live message lies; `None` when it is not live.
    pub fn place(&self, seq: Seq) -> Option<Where> {
        self.place_and_end(seq).map(|(place, _)| place)
    }

    /// Where a live message lies, and up to before which number the place goes on; not all of those need live.
    pub fn place_and_end(&self, seq: Seq) -> Option<(Where, Seq)> {
        if let Some((_, &(end, place))) = self.ranges.range(..=seq).next_back()
            && seq < end
        {
            return Some((Where::At(place), end));
        }
        if let Some(extent) = self.extents.with_live(seq) {
            return Some((Where::In(extent.at), extent.at.last.after(1)));
        }
        let (extent, end) = self.moving.as_ref()?.place_and_end(seq)?;
        Some((Where::In(extent.at), end))
    }

    /// The numbers `first..end` between which all live messages lie; `None` without any.
    pub fn bounds(&self) -> Option<(Seq, Seq)> {
        let extents = [Some(&self.extents), self.moving.as_ref().map(|moving| &moving.arrived)];
        let mut first = self.ranges.keys().next().copied();
        let mut end = self.ranges.values().next_back().map(|(end, _)| *end);
        for mut extents in extents.into_iter().flatten().map(|extents| extents.starting_at(Seq(0))) {
            let Some(lowest) = extents.next() else { continue };
            let highest = extents.next_back().unwrap_or(lowest);
            first = first.into_iter().chain([lowest.at.first]).min();
            end = end.into_iter().chain([highest.at.last.after(1)]).max();
        }
        first.zip(end)
    }

    /// How many messages live.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// How many of the numbers `first..end` live.
    pub fn live_in(&self, first: Seq, end: Seq) -> u64 {
        if first >= end {
            return 0;
        }
        let before = self.ranges.range(..first).next_back();
        let mut live = before.map_or(0, |(_, (stop, _))| stop.min(&end).0.saturating_sub(first.0));
        live +=
            self.ranges.range(first..end).map(|(start, (stop, _))| stop.min(&end).0 - start.0).sum::<u64>();
        live += self.extents.live_in(first, end);
        live + self.moving.as_ref().map_or(0, |moving| moving.arrived.live_in(first, end))
    }

    /// The live numbers of `first..end` in ascending ranges, neighbours in one place together.
    pub fn live_ranges(&self, first: Seq, end: Seq) -> impl Iterator<Item = (Seq, Seq)> {
        let next = move |from: Seq| self.next_live(from, end);
        std::iter::successors(next(first), move |&(_, stop)| next(stop))
    }

    fn next_live(&self, from: Seq, end: Seq) -> Option<(Seq, Seq)> {
        if from >= end {
            return None;
        }
        let around = self.ranges.range(..=from).next_back().filter(|(_, (stop, _))| *stop > from);
        let range = around.or_else(|| self.ranges.range(from..end).next());
        let range = range.map(|(&start, &(stop, _))| (start.max(from), stop.min(end)));
        // Extents behind the range need not be searched: what lives in it lives nowhere else.
        let end = range.map_or(end, |(start, _)| start);
        let in_extent = self.extents.next_live(from, end);
        let moved = self.moving.as_ref().and_then(|moving| moving.arrived.next_live(from, end));
        [range, in_extent, moved].into_iter().flatten().min()
    }

    /// The live ranges from `from` on whose records start before `lsn`, after looking at no more than `max` ranges.
    /// A queue's order is the log's order within each rank, so that the first one behind `lsn` ends its rank.
    pub fn placed_before(&self, lsn: Lsn, from: Seq, max: usize) -> PlacedBefore {
        let mut found = PlacedBefore::default();
        let around = self.ranges.range(..from).next_back().filter(|(_, (stop, _))| *stop > from);
        let mut from = Some(around.map_or(from, |(&start, _)| start));
        let mut looked = 0;
        while let Some(start) = from.take() {
            for (&first, &(end, place)) in self.ranges.range(start..) {
                if looked == max {
                    found.next = Some(first);
                    break;
                }
                looked += 1;
                match place {
                    Place::Log(record) if record < lsn => found.ranges.push((first, end, record)),
                    Place::Log(_) => {
                        from = first.next_rank();
                        break;
                    }
                    Place::Pack { .. } => {}
                }
            }
        }
        found
    }

    /// Whether an extent lies between these numbers, other than those of packs that are being merged: a new extent
    /// must not span it.
    pub fn has_extent_between(&self, after: Seq, before: Seq, is_merged: impl Fn(u64) -> bool) -> bool {
        let between = self.extents.starting_at(after.after(1)).take_while(|extent| extent.at.first < before);
        between.into_iter().any(|extent| !is_merged(extent.at.pack))
    }

    /// Messages are to move to these extents, ascending, which a checkpoint has written and committed: from the log, or
    /// from extents of a merged pack, which the new ones replace. [`Ledger::move_some`] does it; there is one move at a
    /// time.
    pub fn begin_move(&mut self, extents: VecDeque<NewExtent>) {
        debug_assert!(self.moving.is_none(), "the checkpoint finishes one before the next");
        self.moving = Some(Box::new(Moving::new(extents)));
    }

    /// Goes on moving messages, with `most` ranges or extents at most. `true` when all have moved. Those that are settled
    /// until then are settled in the new extents, which the checkpoint does not know yet.
    pub fn move_some(&mut self, most: usize) -> bool {
        // Taken out, so that all that is asked below is of the old places.
        let Some(mut moving) = self.moving.take() else { return true };
        for _ in 0..most {
            match moving.next() {
                Next::Move(from, end) => self.move_next(&mut moving, from, end),
                Next::Place(first, end) => self.place_next(&mut moving, first, end),
                Next::Done => return true,
            }
        }
        self.moving = Some(moving);
        false
    }

    fn move_next(&mut self, moving: &mut Moving, from: Seq, end: Seq) {
        let Some((first, stop)) = self.next_live(from, end) else { return moving.reach(end) };
        let Some((first, stop)) = moving.written(first, stop) else { return moving.reach(stop) };
        let cut = self.take_out(first, stop);
        debug_assert_eq!(cut, stop.0 - first.0, "they lived until they were moved");
        self.messages += cut;
        moving.take_in(first, stop);
        moving.reach(stop);
    }

    fn place_next(&mut self, moving: &mut Moving, first: Seq, end: Seq) {
        let replaced = self.extents.within(first, end).next().map(|old| old.at.first);
        if let Some(old) = replaced.and_then(|first| self.extents.remove(first)) {
            debug_assert_eq!(old.live(), 0, "all that lived in it has moved");
            self.messages -= old.live();
        } else if let Some(new) = moving.arrived.remove(first) {
            self.extents.insert(new);
        }
    }

    /// Forgets what is left of a pack whose live messages were all moved elsewhere.
    pub fn forget_pack(&mut self, pack: u64) {
        let gone = self.extents.starting_at(Seq(0)).filter(|extent| extent.at.pack == pack);
        self.messages -= gone.map(ExtentState::live).sum::<u64>();
        self.extents.retain(|extent| extent.at.pack != pack);
    }

    /// The extents whose first numbers are `from` and above, in order. One that the checkpoint does not know as it is
    /// ([`ExtentState::is_dirty`]), and without live messages, need not be saved but forgotten.
    pub fn extents_from(&self, from: Seq) -> impl Iterator<Item = &ExtentState> {
        self.extents.starting_at(from)
    }

    /// The checkpoint knows the extent as it was at `version`. An extent without live messages goes.
    pub fn mark_saved(&mut self, first: Seq, version: u64) {
        let Some(extent) = self.extents.get_mut(first) else { return };
        extent.mark_saved(version);
        if extent.live() == 0 && !extent.is_dirty() {
            self.extents.remove(first);
        }
    }

    /// Live messages came back, so often by now.
    pub fn note_returns(&mut self, returned: Returned) {
        self.returns.get_or_insert_default().note(returned);
    }

    /// Takes in how often messages came back as the checkpoint knows it, at a start.
    pub fn restore_returns(&mut self, returned: Returned) {
        self.returns.get_or_insert_default().restore(returned);
    }

    /// How often those of `first..end` came back that did, ascending.
    pub fn returns_in(&self, first: Seq, end: Seq) -> impl Iterator<Item = Returned> {
        self.returns.iter().flat_map(move |returns| returns.within(first, end))
    }

    /// Counts of returns that the checkpoint has not as they are, from `from` on, after looking at no more than `max`.
    /// [`Ledger::mark_returns_saved`] and [`Ledger::mark_returns_gone`] when it has them.
    pub fn unsaved_returns(&mut self, from: Seq, max: usize) -> UnsavedReturns {
        self.returns.as_mut().map(|returns| returns.unsaved(from, max)).unwrap_or_default()
    }

    /// The checkpoint has the count that begins with this number as it was at `version`.
    pub fn mark_returns_saved(&mut self, first: Seq, version: u64) {
        self.returns.iter_mut().for_each(|returns| returns.mark_saved(first, version));
    }

    /// The checkpoint has no count any more that begins with this number.
    pub fn mark_returns_gone(&mut self, first: Seq) {
        self.returns.iter_mut().for_each(|returns| returns.mark_gone(first));
    }

    /// How many ranges, extents and counts of returns there are.
    pub fn len(&self) -> usize {
        self.ranges.len() + self.extents_len() + self.returns.as_ref().map_or(0, |returns| returns.len())
    }

    fn extents_len(&self) -> usize {
        self.extents.len() + self.moving.as_ref().map_or(0, |moving| moving.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets up to `most` ranges, extents and counts of a queue that is gone, whatever lives in them. `true` when none is
    /// left.
    pub fn shed(&mut self, most: usize) -> bool {
        for _ in 0..most {
            if let Some((first, (end, _))) = self.ranges.pop_first() {
                self.messages -= end.0 - first.0;
            } else if let Some(extent) = self.extents.pop_first() {
                self.messages -= extent.live();
            } else if let Some(live) = self.moving.as_mut().and_then(|moving| moving.shed_one()) {
                self.messages -= live;
            } else if !self.returns.as_mut().is_some_and(|returns| returns.shed_one()) {
                (self.moving, self.returns) = (None, None);
                break;
            }
        }
        self.is_empty()
    }

    /// What all of it costs in memory, in bytes.
    pub fn index_bytes(&self) -> u64 {
        let returns = self.returns.as_ref().map_or(0, |returns| returns.bytes());
        self.ranges.len() as u64 * RANGE_BYTES + self.extents_len() as u64 * EXTENT_BYTES + returns
    }
}
