use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{Away, Classic, Head, Part};
use crate::message::block::BlockBuilder;
use crate::message::block_header::{Marks, Stamp};
use crate::message::names::Names;
use crate::message::place::{Logged, Lsn, Place, Seq};
use crate::message::record::Content;
use crate::message::run::Run;
use crate::queue::lane::Allowance;

fn run(first: u64, count: u32) -> Run {
    run_of(first, count, true)
}

fn run_of(first: u64, count: u32, persistent: bool) -> Run {
    let mut builder = BlockBuilder::default();
    for _ in 0..count {
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
    }
    let (block, count, body_bytes) =
        builder.seal(Stamp { marks: Marks::of(persistent), received_ms: 0 }, &Arc::default());
    Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
}

fn ends_at(end: u64) -> Option<Logged> {
    Some(Logged { start: Lsn(end - 1), end: Lsn(end) })
}

/// Takes everything that may be delivered, one message at a time.
fn drain(queue: &mut Classic<()>, durable: Lsn) -> Vec<Run> {
    let mut taken = Vec::new();
    queue.on_durable(durable);
    while queue.deliverable() > 0 {
        taken.extend(queue.take(1));
    }
    taken
}

fn numbers(runs: &[Run]) -> Vec<u64> {
    runs.iter().map(|run| run.first_seq().0).collect()
}

#[test]
fn messages_come_in_order_of_their_numbers_whoever_was_quicker() {
    let mut queue = Classic::default();
    queue.enqueue(run(3, 2), None);
    queue.enqueue(run(1, 2), None);
    queue.enqueue(run(5, 1), None);
    assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [1, 2, 3, 4, 5]);
}

#[test]
fn nothing_passes_a_message_that_is_not_durable() {
    let mut queue = Classic::default();
    queue.enqueue(run(1, 1), None);
    queue.enqueue(run(2, 2), ends_at(10));
    queue.enqueue(run(4, 1), None);
    queue.enqueue(run(5, 1), ends_at(20));
    assert_eq!(numbers(&drain(&mut queue, Lsn(9))), [1]);
    assert_eq!(numbers(&drain(&mut queue, Lsn(10))), [2, 3, 4]);
    assert_eq!(numbers(&drain(&mut queue, Lsn(20))), [5]);
}

#[test]
fn what_is_given_back_returns_to_its_place() {
    let mut queue = Classic::default();
    queue.enqueue(run(1, 5), None);
    let mut taken = drain(&mut queue, Lsn(0));
    queue.give_back(taken.remove(3));
    queue.give_back(taken.remove(1));
    assert_eq!((queue.ready_messages(), queue.unacked_messages()), (2, 3));
    assert_eq!(numbers(&drain(&mut queue, Lsn(0))), [2, 4]);
}

#[test]
fn a_purge_takes_only_what_is_ready() {
    let mut queue = Classic::<()>::default();
    queue.enqueue(run(1, 4), ends_at(1));
    assert_eq!(queue.deliverable(), 0);
    queue.on_durable(Lsn(1));
    assert_eq!(queue.deliverable(), 4);
    let held = queue.take(1).unwrap();
    let purged: u64 = queue.purge(u64::MAX).iter().map(|gone| gone.end.0 - gone.first.0).sum();
    assert_eq!((purged, queue.ready_messages(), queue.unacked_messages()), (3, 0, 1));
    assert_eq!(queue.ledger.messages(), 1);
    queue.settle(held.first_seq(), held.end_seq(), true);
    assert_eq!((queue.ledger.messages(), queue.unacked_messages()), (0, 0));
}

#[test]
fn a_head_that_is_awaited_stays_however_much_is_to_go() {
    let mut queue = Classic::<()>::default();
    for first in [1, 2, 3] {
        queue.enqueue(run_of(first, 1, true), ends_at(first));
    }
    queue.on_durable(Lsn(3));
    queue.evict_tail(Allowance { wanted_bytes: u64::MAX, head_bytes: 0, spares_head: true });
    assert_eq!(queue.head(), Head::Ready(1));
    assert_eq!(queue.take(1).unwrap().first_seq(), Seq(1));
    assert!(matches!(queue.head(), Head::Away(away) if (away.first, away.end) == (Seq(2), Seq(4))));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish {
        skipped: u64,
        count: u32,
        persistent: bool,
    },
    Durable,
    Take(u32),
    GiveBack(usize),
    /// Gives back what the disk has without its bytes.
    GiveBackAway(usize),
    Settle(usize),
    Purge(u64),
    Evict {
        wanted_bytes: u64,
        head_bytes: u64,
        spares_head: bool,
    },
    Spill {
        spares_head: bool,
    },
    /// Reads the head back, so many numbers of it, after something else happened.
    Fill {
        count: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..3, 1u32..9, any::<bool>())
            .prop_map(|(skipped, count, persistent)| Step::Publish { skipped, count, persistent }),
        2 => Just(Step::Durable),
        5 => (1u32..6).prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => any::<usize>().prop_map(Step::GiveBackAway),
        2 => any::<usize>().prop_map(Step::Settle),
        1 => (1u64..10).prop_map(Step::Purge),
        3 => (1u64..30, 0u64..10, any::<bool>()).prop_map(|(wanted_bytes, head_bytes, spares_head)| {
            Step::Evict { wanted_bytes, head_bytes, spares_head }
        }),
        1 => any::<bool>().prop_map(|spares_head| Step::Spill { spares_head }),
        4 => (1u64..15).prop_map(|count| Step::Fill { count }),
    ];
    proptest::collection::vec(step, 0..80)
}

/// A queue as a map of what is ready and a list of what is taken.
#[derive(Default)]
struct World {
    queue: Classic<()>,
    /// Number to: persistent, delivered before.
    ready: BTreeMap<u64, (bool, bool)>,
    taken: Vec<Run>,
    next: u64,
    logged: u64,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { skipped, count, persistent } => self.publish(skipped, count, persistent),
            Step::Durable => drop(self.queue.on_durable(Lsn(self.logged))),
            Step::Take(count) => self.take(count),
            Step::GiveBack(at) | Step::GiveBackAway(at) if !self.taken.is_empty() => {
                let mut run = self.taken.swap_remove(at % self.taken.len());
                run.mark_redelivered();
                let (first, end) = (run.first_seq(), run.end_seq());
                self.ready.extend((first.0..end.0).map(|seq| (seq, (run.is_persistent(), true))));
                let is_known = self.queue.ledger.live_in(first, end) == end.0 - first.0;
                if is_known && matches!(step, Step::GiveBackAway(_)) {
                    self.queue.give_back_away(Away::of(&run));
                } else {
                    self.queue.give_back(run);
                }
            }
            Step::Settle(at) if !self.taken.is_empty() => {
                let run = self.taken.swap_remove(at % self.taken.len());
                self.queue.settle(run.first_seq(), run.end_seq(), run.is_persistent());
            }
            Step::GiveBack(_) | Step::GiveBackAway(_) | Step::Settle(_) => {}
            Step::Purge(count) => {
                for gone in self.queue.purge(count) {
                    for seq in gone.first.0..gone.end.0 {
                        let (first, (persistent, _)) = self.ready.pop_first().unwrap();
                        assert_eq!((first, persistent), (seq, gone.persistent));
                    }
                }
            }
            Step::Evict { wanted_bytes, head_bytes, spares_head } => {
                let before = self.queue.here_bytes();
                let evicted = self.queue.evict_tail(Allowance { wanted_bytes, head_bytes, spares_head });
                assert_eq!(self.queue.here_bytes(), before - evicted.body_bytes);
            }
            Step::Spill { spares_head } => {
                let allowance = Allowance { wanted_bytes: 20, head_bytes: 0, spares_head };
                let runs = self.queue.tail_to_spill(allowance).runs;
                self.take(2);
                for run in runs {
                    let place = Place::Pack { number: 1, offset: 0 };
                    self.queue.on_spilled(run.first_seq(), run.end_seq(), place, spares_head);
                }
            }
            Step::Fill { count } => {
                let Head::Away(away) = self.queue.head() else { return };
                let end = Seq(away.end.0.min(away.first.0 + count));
                let runs = self
                    .queue
                    .ledger
                    .live_ranges(away.first, end)
                    .map(|(first, end)| run_of(first.0, (end.0 - first.0) as u32, away.persistent));
                let runs = runs.collect();
                assert_eq!(self.queue.fill(Part::Ready, away.first, end, runs), []);
                // A second reader comes too late.
                let late = vec![run_of(away.first.0, (end.0 - away.first.0) as u32, true)];
                self.queue.fill(Part::Ready, away.first, end, late);
                assert!(!matches!(self.queue.head(), Head::Away(next) if next.first < end));
            }
        }
    }

    fn publish(&mut self, skipped: u64, count: u32, persistent: bool) {
        let first = self.next + skipped;
        self.next = first + u64::from(count);
        let logged = persistent.then(|| {
            self.logged += 1;
            Logged { start: Lsn(self.logged - 1), end: Lsn(self.logged) }
        });
        self.queue.enqueue(run_of(first, count, persistent), logged);
        self.ready.extend((first..self.next).map(|seq| (seq, (persistent, false))));
    }

    fn take(&mut self, count: u32) {
        let Head::Ready(most) = self.queue.head() else { return };
        let run = self.queue.take(count.min(most)).unwrap();
        for seq in run.first_seq().0..run.end_seq().0 {
            let expected = (seq, (run.is_persistent(), run.is_redelivered()));
            assert_eq!(self.ready.pop_first(), Some(expected));
        }
        assert_eq!(run.messages().count(), run.count() as usize);
        self.taken.push(run);
    }
}

proptest! {
    #[test]
    fn the_queue_agrees_with_a_map(steps in steps()) {
        let mut world = World { next: 1, ..World::default() };
        for step in steps {
            world.step(step);
            let unacked: u32 = world.taken.iter().map(Run::count).sum();
            prop_assert_eq!(world.queue.ready_messages(), world.ready.len() as u64);
            prop_assert_eq!(world.queue.unacked_messages(), u64::from(unacked));
        }
        world.step(Step::Durable);
        while world.queue.head() != Head::Empty {
            world.step(Step::Fill { count: 4 });
            world.step(Step::Take(3));
        }
        prop_assert!(world.ready.is_empty());
        prop_assert_eq!((world.queue.ready_bytes(), world.queue.here_bytes()), (0, 0));
        while !world.taken.is_empty() {
            world.step(Step::Settle(0));
        }
        prop_assert_eq!(world.queue.ledger.messages(), 0);
    }
}
