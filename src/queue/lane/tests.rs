//! Lists of messages that come back, leave memory and are read back, in steps that are counted.

use std::sync::Arc;

use super::leaving::EVICT_RUNS_MAX;
use super::{Allowance, Away, Lane};
use crate::message::block::BlockBuilder;
use crate::message::block_header::{Marks, Stamp};
use crate::message::names::Names;
use crate::message::place::{Lsn, Place, Seq};
use crate::message::record::Content;
use crate::message::run::Run;
use crate::queue::chunks::Chunks;
use crate::queue::ledger::Ledger;

const MESSAGES: u64 = 65_000;

fn message(persistent: bool) -> Run {
    message_of(persistent, b"m")
}

fn message_of(persistent: bool, body: &[u8]) -> Run {
    let mut builder = BlockBuilder::default();
    builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body });
    let (block, count, body_bytes) =
        builder.seal(Stamp { marks: Marks::of(persistent), received_ms: 0 }, &Arc::default());
    Run::of_block(block, count, body_bytes)
}

/// So much may go, wherever it is.
fn all_of(wanted_bytes: u64) -> Allowance {
    Allowance { wanted_bytes, head_bytes: 0, spares_head: false }
}

/// A lane of one-message runs, and a ledger that knows the persistent ones.
struct World {
    lane: Lane,
    ledger: Ledger,
    transient: Run,
    persistent: Run,
}

impl World {
    fn new() -> Self {
        Self {
            lane: Lane::default(),
            ledger: Ledger::default(),
            transient: message(false),
            persistent: message(true),
        }
    }

    fn publish(&mut self, seq: u64, persistent: bool) {
        if persistent {
            self.ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq)));
        }
        let run = if persistent { &self.persistent } else { &self.transient };
        self.lane.insert(run.numbered_from(Seq(seq)), persistent, &self.ledger);
    }

    fn numbers(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.lane.take_front(1)).map(|run| run.first_seq().0).collect()
    }

    /// How many evictions it takes until one is not cut short, and how many messages they let go of.
    fn evict(&mut self, wanted_bytes: u64, barrier: Option<Seq>) -> (usize, u64) {
        let (mut calls, mut messages) = (0, 0);
        loop {
            let evicted = self.lane.evict_tail(all_of(wanted_bytes), barrier, &self.ledger);
            calls += 1;
            messages += evicted.messages;
            if !evicted.is_cut_short {
                return (calls, messages);
            }
        }
    }
}

#[test]
fn an_eviction_gets_past_any_number_of_runs_with_others_hands_between_them() {
    for is_kept in [true, false] {
        let mut world = World::new();
        (0..100).for_each(|seq| world.publish(seq, true));
        (0..3500).for_each(|seq| world.publish(1000 + 2 * seq, is_kept));
        // The ledger knows what lies between: nothing becomes one range.
        let between = |seq: u64| (Seq(1001 + 2 * seq), Seq(1002 + 2 * seq));
        (0..3500).for_each(|seq| {
            world.ledger.insert(between(seq).0, between(seq).1, Place::Log(Lsn(10_000 + seq)));
        });
        let (calls, messages) = world.evict(u64::MAX, None);
        assert_eq!(messages, if is_kept { 3600 } else { 100 });
        assert!(calls <= 5, "{calls} calls");
    }
}

#[test]
fn what_is_read_back_of_messages_of_many_sizes_leaves_their_sum_as_it_is() {
    let mut world = World::new();
    let sized = |seq: u64| message_of(true, &vec![b'm'; 1 + 5000 / seq as usize]).numbered_from(Seq(seq));
    let all_bytes = (1..101).map(|seq| sized(seq).body_bytes()).sum::<u64>();
    for seq in 1..101 {
        world.ledger.insert(Seq(seq), Seq(seq + 1), Place::Log(Lsn(seq)));
        world.lane.insert(sized(seq), true, &world.ledger);
    }
    world.evict(u64::MAX, None);
    assert_eq!(world.lane.here_bytes(), 0);
    let mut taken_bytes = 0;
    for first in (1..101).step_by(10) {
        let runs = (first..first + 10).map(sized).collect();
        assert_eq!(world.lane.fill(Seq(first), Seq(first + 10), runs, &world.ledger), []);
        assert_eq!(world.lane.body_bytes(), all_bytes - taken_bytes);
        (0..10).for_each(|_| taken_bytes += world.lane.take_front(1).unwrap().body_bytes());
    }
    assert_eq!((taken_bytes, world.lane.body_bytes()), (all_bytes, 0));
}

#[test]
fn what_is_to_be_spilled_is_found_past_any_number_of_runs_with_gaps_between_them() {
    let mut world = World::new();
    (0..10).for_each(|seq| world.publish(seq, false));
    (0..3500).for_each(|seq| world.publish(1000 + 2 * seq, true));
    let found =
        (0..5).map(|_| world.lane.tail_to_spill(all_of(u64::MAX))).find(|found| !found.runs.is_empty());
    assert_eq!(found.unwrap().runs.len(), 10);
}

#[test]
fn all_that_was_spilled_leaves_memory() {
    let mut world = World::new();
    (1..31).for_each(|seq| world.publish(seq, false));
    let (evicted, ranges) = world.lane.evict_within(Seq(1), Seq(31), false, &world.ledger);
    assert_eq!((evicted.messages, ranges.len()), (30, 30));
    assert_eq!(away_ranges(&world.lane.list), [(1, 31, 30)]);
}

/// The numbers below `MESSAGES` in an order that jumps about.
fn scattered() -> impl Iterator<Item = u64> {
    (0..MESSAGES).map(|at| at * 28_657 % MESSAGES)
}

#[test]
fn as_many_runs_as_are_ready_come_back_in_front_of_them_in_a_few_steps_each() {
    let orders: [Box<dyn Iterator<Item = u64>>; 3] =
        [Box::new(0..MESSAGES), Box::new((0..MESSAGES).rev()), Box::new(scattered())];
    for order in orders {
        let mut world = World::new();
        (MESSAGES..2 * MESSAGES).for_each(|seq| world.publish(seq, false));
        order.for_each(|seq| world.publish(seq, false));
        let moved = world.lane.list.moved as u64;
        assert!(moved <= 100 * MESSAGES, "{moved} moves for {MESSAGES} runs");
        assert!(world.numbers().into_iter().eq(0..2 * MESSAGES));
    }
}

#[test]
fn messages_without_their_bytes_come_back_into_an_away_range_and_are_one_with_it() {
    let mut world = World::new();
    (0..100).for_each(|seq| world.publish(seq, true));
    for held in [40, 41, 60] {
        world.ledger.cut(Seq(held), Seq(held + 1));
    }
    world.lane = Lane::default();
    let run = |first, end| Away {
        returns: 0,
        first: Seq(first),
        end: Seq(end),
        count: end - first,
        body_bytes: end - first,
        persistent: true,
        redelivered: false,
    };
    world.lane.insert_away(run(0, 40), &world.ledger);
    world.lane.insert_away(run(42, 60), &world.ledger);
    world.lane.insert_away(run(61, 100), &world.ledger);
    assert_eq!(world.lane.list.bytes(), size_of_val(world.lane.list.front().unwrap()) as u64);
    world.ledger.insert(Seq(40), Seq(42), Place::Log(Lsn(1000)));
    world.ledger.insert(Seq(60), Seq(61), Place::Log(Lsn(1001)));
    world.lane.insert_away(Away { redelivered: true, ..run(40, 42) }, &world.ledger);
    world.lane.insert_away(run(60, 61), &world.ledger);
    assert_eq!((world.lane.messages(), world.lane.body_bytes()), (100, 100));
    let ranges: Vec<_> = away_ranges(&world.lane.list);
    assert_eq!(ranges, [(0, 40, 40), (40, 42, 2), (42, 100, 58)]);
}

fn away_ranges(list: &Chunks<super::Resting>) -> Vec<(u64, u64, u64)> {
    let mut at = list.partition_point(|_| false);
    let mut ranges = Vec::new();
    while let Some(resting) = list.get(at) {
        if let super::Resting::Away(away, _) = resting {
            ranges.push((away.first.0, away.end.0, away.count));
        }
        at = list.after(at);
    }
    ranges
}

#[test]
fn an_eviction_looks_at_no_run_twice_in_vain() {
    let mut world = World::new();
    world.publish(0, true);
    (1..=MESSAGES).for_each(|seq| world.publish(seq, false));
    let (calls, messages) = world.evict(u64::MAX, Some(Seq(0)));
    assert_eq!((calls, messages), (1, 0), "nothing is durable");
    let (calls, messages) = world.evict(u64::MAX, None);
    assert_eq!((calls, messages), (MESSAGES as usize / EVICT_RUNS_MAX as usize + 1, 1));
    for seq in MESSAGES + 1..MESSAGES + 2000 {
        world.publish(seq, false);
        assert_eq!(world.evict(u64::MAX, None), (1, 0));
    }
    // What the disk has is found behind, in front of, and amid what was looked at.
    world.publish(MESSAGES + 2000, true);
    assert_eq!(world.evict(u64::MAX, None), (1, 1));
    let messages = world.lane.messages();
    world.lane.evict_within(Seq(100), Seq(102), false, &world.ledger);
    world.ledger.insert(Seq(100), Seq(102), Place::Log(Lsn(1)));
    let read = [100, 101].map(|seq| world.persistent.numbered_from(Seq(seq)));
    world.lane.fill(Seq(100), Seq(102), read.into(), &world.ledger);
    assert_eq!(world.evict(1, None).1, 1);
    assert_eq!(world.evict(u64::MAX, None).1, 1);
    assert_eq!(world.lane.messages(), messages);
}

#[test]
fn what_is_to_be_spilled_is_found_behind_any_number_of_messages_that_the_disk_has() {
    let mut world = World::new();
    (0..10).for_each(|seq| world.publish(seq, false));
    (10..MESSAGES).for_each(|seq| world.publish(seq, true));
    let mut calls = 0;
    let found = loop {
        let found = world.lane.tail_to_spill(all_of(5));
        calls += 1;
        if !found.is_cut_short {
            break found;
        }
        assert!(found.runs.is_empty());
    };
    assert_eq!((calls, found.runs.len()), (MESSAGES as usize / EVICT_RUNS_MAX as usize, 5));
    assert!(!world.lane.tail_to_spill(all_of(5)).is_cut_short, "it remembers where there was nothing");
}

#[test]
fn evicted_messages_cost_a_few_words_for_many() {
    let mut world = World::new();
    (0..MESSAGES).for_each(|seq| world.publish(seq, true));
    world.evict(u64::MAX, None);
    assert_eq!((world.lane.here_bytes(), world.lane.messages()), (0, MESSAGES));
    assert!(world.lane.index_bytes() < MESSAGES, "{} bytes", world.lane.index_bytes());
}
