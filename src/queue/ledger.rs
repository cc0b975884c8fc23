//! Which messages of a queue a disk holds, ready and unacked alike, and where each lies.
//!
//! Persistent ones are in the log's window (a range of numbers for each record) or, when they outlived it, in extents
//! of packs. Transient ones are here only while they are spilled. Delivery never looks here: a checkpoint reads and
//! moves it, settles cut it, and a message that is not in memory is found through it by its number.
//!
//! A number lives in one place at a time, and extents of one queue never overlap.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::message::place::{Extent, Lsn, Place, Seq};
use crate::queue::extent::ExtentState;
use crate::stats::Gauge;

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

/// An extent that a checkpoint has written and committed.
#[derive(Debug)]
pub struct NewExtent {
    /// Where it is.
    pub at: Extent,
    /// Numbers, from its first on, that were not written to it.
    pub gaps: RoaringBitmap,
    /// The live messages of its pack.
    pub pack_live: Arc<Gauge>,
}

/// The live numbers and their places.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the first number: the number after the last one, and the place of the whole range.
    ranges: BTreeMap<Seq, (Seq, Place)>,
    /// By the first number.
    extents: BTreeMap<Seq, ExtentState>,
    messages: u64,
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
        self.extents.insert(at.first, state);
    }

    /// The numbers `first..end` are done with; those not known are ignored. How many were known.
    pub fn cut(&mut self, first: Seq, end: Seq) -> u64 {
        if first >= end || self.messages == 0 {
            return 0;
        }
        let mut died = self.cut_ranges(first, end);
        for extent in self.extents_within(first, end) {
            died += extent.settle(first, end);
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

    fn extents_within(&mut self, first: Seq, end: Seq) -> impl Iterator<Item = &mut ExtentState> {
        let from = self.extent_at(first).map_or(first, |extent| extent.at.first);
        self.extents.range_mut(from..end.max(from)).map(|(_, extent)| extent)
    }

    /// The extent whose numbers reach over `seq`.
    fn extent_at(&self, seq: Seq) -> Option<&ExtentState> {
        let (_, extent) = self.extents.range(..=seq).next_back()?;
        (extent.at.last >= seq).then_some(extent)
    }

    /// Where a live message lies; `None` when it is not live.
    pub fn place(&self, seq: Seq) -> Option<Where> {
        if let Some((_, &(end, place))) = self.ranges.range(..=seq).next_back()
            && seq < end
        {
            return Some(Where::At(place));
        }
        let extent = self.extent_at(seq)?;
        (extent.live_in(seq, seq.after(1)) > 0).then_some(Where::In(extent.at))
    }

    /// Where a live message lies, and up to before which number the place goes on; not all of those need live.
    pub fn place_and_end(&self, seq: Seq) -> Option<(Where, Seq)> {
        if let Some((_, &(end, place))) = self.ranges.range(..=seq).next_back()
            && seq < end
        {
            return Some((Where::At(place), end));
        }
        let at = self.extent_at(seq)?.at;
        (self.live_in(seq, seq.after(1)) > 0).then_some((Where::In(at), at.last.after(1)))
    }

    /// The numbers `first..end` between which all live messages lie; `None` without any.
    pub fn bounds(&self) -> Option<(Seq, Seq)> {
        let firsts = [self.ranges.keys().next(), self.extents.keys().next()];
        let ends = [
            self.ranges.values().next_back().map(|(end, _)| *end),
            self.extents.values().next_back().map(|extent| extent.at.last.after(1)),
        ];
        Some((*firsts.into_iter().flatten().min()?, ends.into_iter().flatten().max()?))
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
        let from = self.extent_at(first).map_or(first, |extent| extent.at.first);
        live + self.extents.range(from..end).map(|(_, extent)| extent.live_in(first, end)).sum::<u64>()
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
        let start = self.extent_at(from).map_or(from, |extent| extent.at.first);
        let in_extent = self.extents.range(start..end).find_map(|(_, extent)| extent.next_live(from, end));
        match (range, in_extent) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        }
    }

    /// The live ranges from `from` on whose records start before `lsn`, after looking at no more than `max` ranges.
    /// A queue's order is the log's order, so that the first one behind `lsn` ends it.
    pub fn placed_before(&self, lsn: Lsn, from: Seq, max: usize) -> PlacedBefore {
        let mut found = PlacedBefore::default();
        let around = self.ranges.range(..from).next_back().filter(|(_, (stop, _))| *stop > from);
        let from = around.map_or(from, |(&start, _)| start);
        for (looked, (&first, &(end, place))) in self.ranges.range(from..).enumerate() {
            if looked == max {
                found.next = Some(first);
                break;
            }
            match place {
                Place::Log(record) if record < lsn => found.ranges.push((first, end, record)),
                Place::Log(_) => break,
                Place::Pack { .. } => {}
            }
        }
        found
    }

    /// Whether an extent lies between these numbers, other than those of packs that are being merged: a new extent
    /// must not span it.
    pub fn has_extent_between(&self, after: Seq, before: Seq, is_merged: impl Fn(u64) -> bool) -> bool {
        let between =
            self.extents.range((Bound::Excluded(after), Bound::Excluded(before.max(after.after(1)))));
        between.into_iter().any(|(_, extent)| !is_merged(extent.at.pack))
    }

    /// Messages are in these extents now, and no longer where they were: in the log, or in extents of a merged pack,
    /// which the new ones replace. Those that are no longer live are settled in the new extents, which the checkpoint
    /// does not know yet.
    pub fn move_to_extents(&mut self, extents: Vec<NewExtent>) {
        let mut moved = Vec::with_capacity(extents.len());
        for NewExtent { at, gaps, pack_live } in extents {
            let end = at.last.after(1);
            let mut state = ExtentState::new(at, gaps, pack_live);
            let mut from = at.first;
            for (first, stop) in self.live_ranges(at.first, end) {
                state.settle(from, first);
                from = stop;
            }
            state.settle(from, end);
            moved.push(state);
        }
        for state in &moved {
            let (mut from, end) = (state.at.first, state.at.last.after(1));
            while let Some((first, stop)) = state.next_live(from, end) {
                self.messages -= self.cut_ranges(first, stop);
                from = stop;
            }
            let replaced: Vec<Seq> =
                self.extents_within(state.at.first, end).map(|old| old.at.first).collect();
            for old in replaced.iter().filter_map(|first| self.extents.remove(first)) {
                self.messages -= old.live();
            }
        }
        for state in moved {
            self.messages += state.live();
            self.extents.insert(state.at.first, state);
        }
    }

    /// Forgets what is left of a pack whose live messages were all moved elsewhere.
    pub fn forget_pack(&mut self, pack: u64) {
        let messages = &mut self.messages;
        self.extents.retain(|_, extent| {
            let stays = extent.at.pack != pack;
            *messages -= if stays { 0 } else { extent.live() };
            stays
        });
    }

    /// The extents whose first numbers are `from` and above, in order. One that the checkpoint does not know as it is
    /// ([`ExtentState::is_dirty`]), and without live messages, need not be saved but forgotten.
    pub fn extents_from(&self, from: Seq) -> impl Iterator<Item = &ExtentState> {
        self.extents.range(from..).map(|(_, extent)| extent)
    }

    /// The checkpoint knows the extent as it was at `version`. An extent without live messages goes.
    pub fn mark_saved(&mut self, first: Seq, version: u64) {
        let Some(extent) = self.extents.get_mut(&first) else { return };
        extent.mark_saved(version);
        if extent.live() == 0 && !extent.is_dirty() {
            self.extents.remove(&first);
        }
    }

    /// How many ranges and extents there are.
    pub fn len(&self) -> usize {
        self.ranges.len() + self.extents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets up to `most` ranges and extents of a queue that is gone, whatever lives in them. `true` when none is
    /// left.
    pub fn shed(&mut self, most: usize) -> bool {
        for _ in 0..most {
            if let Some((first, (end, _))) = self.ranges.pop_first() {
                self.messages -= end.0 - first.0;
            } else if let Some((_, extent)) = self.extents.pop_first() {
                self.messages -= extent.live();
            } else {
                break;
            }
        }
        self.is_empty()
    }

    /// What all of it costs in memory, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.ranges.len() as u64 * RANGE_BYTES + self.extents.len() as u64 * EXTENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use roaring::RoaringBitmap;

    use super::{Ledger, NewExtent, Where};
    use crate::message::place::{Extent, Lsn, Place, Seq};
    use crate::stats::Gauge;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Persistent messages, after as many numbers that the ledger never hears of.
        Publish {
            skipped: u64,
            count: u64,
        },
        Spill {
            count: u64,
        },
        Cut {
            back: u64,
            count: u64,
        },
        /// A checkpoint of about so many records, and what is cut between capture and move.
        Checkpoint {
            records: u64,
            meanwhile: (u64, u64),
            merge: bool,
        },
        Save,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u64..3, 1u64..6).prop_map(|(skipped, count)| Step::Publish { skipped, count }),
            1 => (1u64..4).prop_map(|count| Step::Spill { count }),
            4 => (0u64..60, 1u64..8).prop_map(|(back, count)| Step::Cut { back, count }),
            2 => (1u64..9, (0u64..60, 0u64..8), any::<bool>())
                .prop_map(|(records, meanwhile, merge)| Step::Checkpoint { records, meanwhile, merge }),
            1 => Just(Step::Save),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// What a map of numbers to places says; a place in a pack is its number.
    #[derive(Default)]
    struct World {
        ledger: Ledger,
        live: BTreeMap<u64, Result<u64, u64>>,
        next: u64,
        record: u64,
        packs: BTreeMap<u64, Arc<Gauge>>,
        /// What the checkpoint has durable: for each extent its settled numbers.
        saved: BTreeMap<u64, RoaringBitmap>,
    }

    impl World {
        fn cut(&mut self, back: u64, count: u64) {
            let first = self.next.saturating_sub(back);
            let died = self.ledger.cut(Seq(first), Seq(first + count));
            let before = self.live.len();
            self.live.retain(|seq, _| !(first..first + count).contains(seq));
            assert_eq!(died, (before - self.live.len()) as u64);
        }

        fn checkpoint(&mut self, records: u64, meanwhile: (u64, u64), merge: bool) {
            let first_record =
                self.live.values().filter_map(|place| place.ok()).filter(|&lsn| lsn < 1 << 40).min();
            let Some(first_record) = first_record else { return };
            let lsn = Lsn(first_record + records);
            let mut captured = Vec::new();
            let mut from = Some(Seq(0));
            while let Some(seq) = from {
                let step = self.ledger.placed_before(lsn, seq, 3);
                captured.extend(step.ranges.into_iter().flat_map(|(first, end, _)| first.0..end.0));
                from = step.next;
            }
            let merged = self.packs.keys().next().copied().filter(|_| merge);
            if let Some(merged) = merged {
                captured.extend(
                    self.live.iter().filter(|(_, place)| **place == Err(merged)).map(|(seq, _)| *seq),
                );
            }
            captured.sort_unstable();
            let number = 1 + self.packs.keys().next_back().copied().unwrap_or(0);
            let gauge = Arc::new(Gauge::default());
            let mut extents: Vec<Vec<u64>> = Vec::new();
            for seq in captured {
                let is_merged = |pack| Some(pack) == merged;
                match extents.last_mut() {
                    Some(open)
                        if open.len() < 7
                            && !self.ledger.has_extent_between(
                                Seq(*open.last().unwrap()),
                                Seq(seq),
                                is_merged,
                            ) =>
                    {
                        open.push(seq);
                    }
                    _ => extents.push(vec![seq]),
                }
            }
            self.cut(meanwhile.0, meanwhile.1);
            let mut new = Vec::new();
            for seqs in extents {
                let (first, last) = (seqs[0], *seqs.last().unwrap());
                let gaps: RoaringBitmap = (first..=last)
                    .filter(|seq| !seqs.contains(seq))
                    .map(|seq| (seq - first) as u32)
                    .collect();
                let at = Extent {
                    first: Seq(first),
                    last: Seq(last),
                    pack: number,
                    offset: 0,
                    bytes: 0,
                    count: seqs.len() as u32,
                    body_bytes: 0,
                };
                self.saved.insert(first, gaps.clone());
                for seq in seqs {
                    self.live.entry(seq).and_modify(|place| *place = Err(number));
                }
                new.push(NewExtent { at, gaps, pack_live: Arc::clone(&gauge) });
            }
            self.ledger.move_to_extents(new);
            self.packs.insert(number, gauge);
            if let Some(merged) = merged {
                self.ledger.forget_pack(merged);
                self.packs.remove(&merged);
            }
        }

        fn save(&mut self) {
            let dirty = self.ledger.extents_from(Seq(0)).filter(|extent| extent.is_dirty());
            let dirty: Vec<_> = dirty.map(|e| (e.at.first, e.version(), e.settled().clone())).collect();
            for (first, version, settled) in dirty {
                self.saved.insert(first.0, settled);
                self.ledger.mark_saved(first, version);
            }
        }
    }

    proptest! {
        #[test]
        fn the_ledger_agrees_with_a_map_of_numbers(steps in steps()) {
            let mut world = World { next: 1, ..World::default() };
            for step in steps {
                match step {
                    Step::Publish { skipped, count } => {
                        let first = world.next + skipped;
                        world.record += 1;
                        world.next = first + count;
                        world.ledger.insert(Seq(first), Seq(world.next), Place::Log(Lsn(world.record)));
                        world.live.extend((first..world.next).map(|seq| (seq, Ok(world.record))));
                    }
                    Step::Spill { count } => {
                        let first = world.next;
                        world.next += count;
                        let place = Place::Pack { number: 1 << 40, offset: 1 << 40 };
                        world.ledger.insert(Seq(first), Seq(world.next), place);
                        world.live.extend((first..world.next).map(|seq| (seq, Ok(1 << 40))));
                    }
                    Step::Cut { back, count } => world.cut(back, count),
                    Step::Checkpoint { records, meanwhile, merge } => world.checkpoint(records, meanwhile, merge),
                    Step::Save => world.save(),
                }
                prop_assert_eq!(world.ledger.messages(), world.live.len() as u64);
            }
            for seq in 0..world.next + 5 {
                let place = world.ledger.place(Seq(seq)).map(|place| match place {
                    Where::At(Place::Log(Lsn(record))) => Ok(record),
                    Where::At(Place::Pack { number, .. }) => Ok(number),
                    Where::In(extent) => Err(extent.pack),
                });
                prop_assert_eq!(place, world.live.get(&seq).copied(), "number {}", seq);
            }
            for (first, end) in [(0, world.next), (world.next / 3, world.next / 2), (5, 6)] {
                let listed: Vec<u64> =
                    world.ledger.live_ranges(Seq(first), Seq(end)).flat_map(|(first, end)| first.0..end.0).collect();
                let live: Vec<u64> = if first < end { world.live.range(first..end).map(|(seq, _)| *seq).collect() } else { Vec::new() };
                prop_assert_eq!(world.ledger.live_in(Seq(first), Seq(end)), live.len() as u64);
                prop_assert_eq!(listed, live);
            }
            for (number, gauge) in &world.packs {
                let live = world.live.values().filter(|place| **place == Err(*number)).count();
                prop_assert_eq!(gauge.read(), live as u64);
            }
            // What a checkpoint would find after a crash: every extent it was told of, as the ledger has it.
            world.save();
            for extent in world.ledger.extents_from(Seq(0)) {
                prop_assert_eq!(Some(extent.settled()), world.saved.get(&extent.at.first.0));
                prop_assert!(extent.live() > 0);
            }
        }
    }
}
