//! Every call of every seed, or a sample of them, in each mode of crash.

use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use sluicemq::storage::disk::simulated::CrashMode;

use crate::check::check;
use crate::dice::mix;
use crate::variable;
use crate::watched::watch;
use crate::world::{Point, World};

/// Points that a run checks that says nothing else, and the seeds that any run plays at least.
const POINTS: u64 = 1400;
const SEEDS: u64 = 20;
/// A workload makes about so many calls: what a sample's density is computed from.
const CALLS_PER_SEED: u64 = 1000;
const MODES: u64 = CrashMode::ALL.len() as u64;

/// When a world's log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    EachBatch,
    Relaxed,
}

impl Pace {
    /// What is played by it.
    fn test(self) -> &'static str {
        match self {
            Self::EachBatch => "after_a_crash_at_any_call",
            Self::Relaxed => "where_batches_are_not_synced",
        }
    }
}

#[test]
fn after_a_crash_at_any_call_the_promise_is_kept() {
    check_points(Pace::EachBatch);
}

/// What is settled is never durable before what came before it, nor half of a hold of the log.
#[test]
fn where_batches_are_not_synced_one_by_one_a_crash_leaves_a_beginning_of_what_was_done() {
    check_points(Pace::Relaxed);
}

fn check_points(pace: Pace) {
    if let (Some(seed), Some(call)) = (variable("CRASH_SEED"), variable("CRASH_POINT")) {
        return again(pace, seed, call);
    }
    let wanted = variable("CRASH_POINTS").unwrap_or(POINTS);
    let first = variable("CRASH_SEED").unwrap_or(0);
    // Of so many points of a seed one is checked.
    let one_of = (SEEDS * CALLS_PER_SEED * MODES).div_ceil(wanted.max(1));
    let (mut seeds, mut done, mut calls, mut packed, mut evicted) = (0, 0, 0, 0, 0);
    while seeds < SEEDS || done < wanted {
        let seed = first + seeds;
        seeds += 1;
        let is_wanted =
            move |call: u64, mode: u64| mix(mix(seed) ^ (call * MODES + mode)).is_multiple_of(one_of);
        let (world, played) = play(pace, seed, move |call| (0..MODES).any(|mode| is_wanted(call, mode)));
        calls += world.calls.get();
        packed += world.packed.get();
        evicted += world.evicted.get();
        for point in world.points.take() {
            for (number, mode) in (0..).zip(CrashMode::ALL) {
                if is_wanted(point.call, number) {
                    check_or_tell(pace, &point, mode, &world);
                    done += 1;
                }
            }
        }
        unwrap(played);
        println!("seed {seed}: {calls} calls and {done} points so far");
    }
    println!("{done} points of {calls} calls of {seeds} seeds; {packed} messages packed, {evicted} evicted");
    assert!(packed > 0 && evicted > 0, "the workload has become too small");
}

#[test]
fn a_seed_plays_the_same_twice() {
    let digest = |seed| {
        let (world, played) = play(Pace::EachBatch, seed, |_| false);
        unwrap(played);
        let shadow = world.shadow.borrow();
        (world.calls.get(), shadow.messages.len(), shadow.states.len(), shadow.heard)
    };
    for seed in 0..3 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}

/// Plays a seed. When that fails, the points before the failure may say more of it.
fn play(pace: Pace, seed: u64, wants: impl Fn(u64) -> bool + 'static) -> (Rc<World>, Result<(), String>) {
    let world = World::new(seed, wants);
    let world = Rc::new(if pace == Pace::Relaxed { world.relaxed() } else { world });
    let played = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    watch(None);
    let played = played.map_err(|panic| {
        let command = format!("CRASH_SEED={seed} CRASH_POINT=0 cargo test --test crash {}", pace.test());
        format!("seed {seed}, while it is played: {}\nagain:\n    {command}", text_of(&*panic))
    });
    (world, played)
}

fn unwrap(played: Result<(), String>) {
    if let Err(why) = played {
        panic!("{why}");
    }
}

fn check_or_tell(pace: Pace, point: &Point, mode: CrashMode, world: &World) {
    let checked = panic::catch_unwind(AssertUnwindSafe(|| check(point, mode, world)));
    watch(None);
    let checked = checked.unwrap_or_else(|panic| Err(text_of(&*panic)));
    if let Err(why) = checked {
        let (seed, call, test) = (world.seed, point.call, pace.test());
        panic!(
            "seed {seed}, a crash at call {call}, {mode:?}: {why}\nagain:\n    \
             CRASH_SEED={seed} CRASH_POINT={call} CRASH_MODE={mode:?} cargo test --test crash {test} -- --nocapture"
        );
    }
}

pub(crate) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// One point, in one mode or all.
fn again(pace: Pace, seed: u64, call: u64) {
    let _ = tracing_subscriber::fmt().with_env_filter("sluicemq=info").with_test_writer().try_init();
    let mode = std::env::var("CRASH_MODE").ok();
    let last = variable("CRASH_LAST_POINT").unwrap_or(call);
    let (world, played) = play(pace, seed, move |other| (call..=last).contains(&other));
    for point in world.points.take() {
        for other in CrashMode::ALL {
            if mode.as_ref().is_none_or(|mode| *mode == format!("{other:?}")) {
                check_or_tell(pace, &point, other, &world);
            }
        }
    }
    unwrap(played);
}
