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
            captured
                .extend(self.live.iter().filter(|(_, place)| **place == Err(merged)).map(|(seq, _)| *seq));
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
            let gaps: RoaringBitmap =
                (first..=last).filter(|seq| !seqs.contains(seq)).map(|seq| (seq - first) as u32).collect();
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
                assert!(self.ledger.place(Seq(other)) == Some(place) || is_left_out(other), "{seq} {other}");
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
