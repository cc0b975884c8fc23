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
//!  settled                 not there        not there              settled, and the next checkpoint saves that
//!  a start                 away             as tables and log say  as the tables say, and the log since
//! ```
//!
//! "-" is no change. Both change under the queue's lock, the log's fact before either; what a checkpoint moves stays
//! readable at its old place until nobody reads there.
//!
//! A number lives in one place at a time, and extents of one queue never overlap, but for those to which messages are
//! moving (`queue::moving`): these are apart until all have moved.

use std::collections::{BTreeMap, VecDeque};

use crate::message::place::{Extent, Lsn, Place, Seq};
use crate::queue::extent::{ExtentState, Extents, NewExtent};
use crate::queue::moving::{Moving, Next};

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
        if first >= end || self.messages == 0 {
            return 0;
        }
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
        let cut = self.cut(first, stop);
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

    /// How many ranges and extents there are.
    pub fn len(&self) -> usize {
        self.ranges.len() + self.extents_len()
    }

    fn extents_len(&self) -> usize {
        self.extents.len() + self.moving.as_ref().map_or(0, |moving| moving.len())
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
            } else if let Some(extent) = self.extents.pop_first() {
                self.messages -= extent.live();
            } else if let Some(live) = self.moving.as_mut().and_then(|moving| moving.shed_one()) {
                self.messages -= live;
            } else {
                self.moving = None;
                break;
            }
        }
        self.is_empty()
    }

    /// What all of it costs in memory, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.ranges.len() as u64 * RANGE_BYTES + self.extents_len() as u64 * EXTENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Arc;

    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use roaring::RoaringBitmap;

    use super::{Ledger, Where};
    use crate::message::place::{Extent, Lsn, Place, Seq};
    use crate::queue::extent::NewExtent;
    use crate::stats::Gauge;

    #[derive(Clone, Debug)]
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
            /// How many ranges move in one hold, and what is cut after each.
            pace: usize,
            during: Vec<(u64, u64)>,
        },
        Save,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let cut = (0u64..60, 0u64..8);
        let step = prop_oneof![
            4 => (0u64..3, 1u64..6).prop_map(|(skipped, count)| Step::Publish { skipped, count }),
            1 => (1u64..4).prop_map(|count| Step::Spill { count }),
            4 => (0u64..60, 1u64..8).prop_map(|(back, count)| Step::Cut { back, count }),
            2 => (1u64..9, cut.clone(), any::<bool>(), 1usize..5, proptest::collection::vec(cut, 0..12))
                .prop_map(|(records, meanwhile, merge, pace, during)| Step::Checkpoint {
                    records, meanwhile, merge, pace, during
                }),
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

        fn checkpoint(
            &mut self,
            records: u64,
            meanwhile: (u64, u64),
            merge: bool,
            pace: usize,
            during: &[(u64, u64)],
        ) {
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
            let mut new = VecDeque::new();
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
                new.push_back(NewExtent { at, gaps, pack_live: Arc::clone(&gauge) });
            }
            self.ledger.begin_move(new);
            let mut cuts = during.iter();
            while !self.ledger.move_some(pace) {
                self.agrees_on_what_lives();
                cuts.next().inspect(|(back, count)| self.cut(*back, *count));
            }
            self.packs.insert(number, gauge);
            if let Some(merged) = merged {
                self.ledger.forget_pack(merged);
                self.packs.remove(&merged);
            }
        }

        /// Also while messages are on their way: each lives once, and a place goes on as far as it says.
        fn agrees_on_what_lives(&self) {
            let listed = self.ledger.live_ranges(Seq(0), Seq(self.next));
            let listed: Vec<u64> = listed.flat_map(|(first, end)| first.0..end.0).collect();
            assert!(listed.iter().eq(self.live.keys()));
            assert_eq!(self.ledger.messages(), listed.len() as u64);
            assert_eq!(self.ledger.live_in(Seq(0), Seq(self.next)), listed.len() as u64);
            for (at, &seq) in listed.iter().enumerate() {
                let (place, end) = self.ledger.place_and_end(Seq(seq)).unwrap();
                // What was left out of a checkpoint stays where it was, between the others.
                let is_left_out = |seq: u64| self.live.get(&seq).is_some_and(|place| *place == Ok(1 << 40));
                for &other in listed[at..].iter().take_while(|other| **other < end.0) {
                    assert!(
                        self.ledger.place(Seq(other)) == Some(place) || is_left_out(other),
                        "{seq} {other}"
                    );
                }
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

    #[test]
    fn very_many_ranges_move_some_at_a_time() {
        let mut ledger = Ledger::default();
        (1..=5000).for_each(|seq| ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq))));
        let extent = |first: u64| {
            let (first, last) = (Seq(first), Seq(first + 2499));
            let at = Extent { first, last, pack: 1, offset: 0, bytes: 0, count: 2500, body_bytes: 0 };
            NewExtent { at, gaps: RoaringBitmap::new(), pack_live: Arc::default() }
        };
        ledger.begin_move(VecDeque::from([extent(1), extent(2501)]));
        let mut holds = 0;
        loop {
            let before = ledger.len();
            let is_done = ledger.move_some(1000);
            holds += 1;
            assert!(before.abs_diff(ledger.len()) <= 1001, "{before} {}", ledger.len());
            assert_eq!(ledger.messages(), 5000);
            if is_done {
                break;
            }
        }
        assert!((5..=7).contains(&holds), "{holds}");
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn a_queue_that_is_deleted_while_its_messages_move_is_forgotten_in_steps() {
        let mut ledger = Ledger::default();
        (1..=50).for_each(|seq| ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq))));
        let gauge = Arc::new(Gauge::default());
        let extent = |first: u64| {
            let (first, last) = (Seq(first), Seq(first + 9));
            let at = Extent { first, last, pack: 1, offset: 0, bytes: 0, count: 10, body_bytes: 0 };
            NewExtent { at, gaps: RoaringBitmap::new(), pack_live: Arc::clone(&gauge) }
        };
        ledger.begin_move([1, 11, 21, 31].map(extent).into());
        assert!(!ledger.move_some(15));
        assert_eq!(gauge.read(), 15);
        while !ledger.shed(10) {}
        assert_eq!((ledger.messages(), gauge.read()), (0, 0));
        assert!(ledger.move_some(1));
    }

    #[test]
    fn what_lies_before_a_record_is_found_in_every_rank() {
        let mut ledger = Ledger::default();
        // The most urgent came last, and the least urgent first.
        let placed = [(2, 1, 100), (2, 2, 300), (1, 3, 150), (0, 4, 400), (1, 5, 500), (2, 6, 600)];
        for (rank, count, record) in placed {
            let first = Seq(count).of_rank(rank);
            ledger.insert(first, first.after(1), Place::Log(Lsn(record)));
        }
        for max in 1..8 {
            let mut found = Vec::new();
            let mut from = Some(Seq(0));
            while let Some(seq) = from {
                let step = ledger.placed_before(Lsn(350), seq, max);
                found.extend(step.ranges.into_iter().map(|(first, _, record)| (first.counted().0, record.0)));
                from = step.next;
            }
            assert_eq!(found, [(3, 150), (1, 100), (2, 300)], "{max} at once");
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
                    Step::Checkpoint { records, meanwhile, merge, pace, during } => {
                        world.checkpoint(records, meanwhile, merge, pace, &during);
                    }
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
