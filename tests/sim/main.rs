//! A seeded simulation of the whole broker in one thread: clients, their sockets, the broker, and a model that
//! predicts what it must say.
//!
//! There is no socket and no clock. Each client is a real [`Session`](sluicemq::session::Session) that is fed what
//! the client encodes, cut anywhere, and whose output may stay unwritten for a while. A session is run only when
//! bytes arrived, its output was written, or its waker fired: a wake that is missing leaves messages where they
//! are, and the check at rest finds them.
//!
//! In reading order: [`op`] what clients do, [`draw`] how it is chosen, [`client`] a client and its socket,
//! [`world`] who moves next, [`model`] what must be true, [`scripts`] what the dice found once and must not find again.
//!
//! ```text
//! cargo test --test sim                        the seeds of every change
//! SIM_SEED=7 cargo test --test sim             one seed again
//! SIM_SEEDS=5000 cargo test --release --test sim
//! ```

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod client;
mod draw;
mod model;
mod op;
mod scripts;
mod world;

use std::panic::{self, AssertUnwindSafe};
use std::thread;

use crate::world::World;

/// Seeds of a run that names none.
const SEEDS: u64 = 600;
const THREADS: u64 = 2;

#[test]
fn every_seed_agrees_with_the_model() {
    if let Some(seed) = variable("SIM_SEED") {
        return report(seed, simulate(seed));
    }
    let seeds = variable("SIM_SEEDS").unwrap_or(SEEDS);
    let first = variable("SIM_FIRST").unwrap_or(0);
    let run = |thread: u64| {
        let mut steps = 0;
        for seed in (first..first + seeds).filter(|seed| seed % THREADS == thread) {
            let result = simulate(seed);
            steps += *result.as_ref().unwrap_or(&0);
            report(seed, result);
        }
        steps
    };
    let steps: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a seed failed; see above")).sum()
    });
    println!("{seeds} seeds, {steps} steps");
}

#[test]
fn a_seed_plays_the_same_twice() {
    let digest = |seed| {
        let mut world = World::new(seed);
        world.run();
        world.digest()
    };
    for seed in 0..20 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}

/// How many steps it took, or what led to the failure.
fn simulate(seed: u64) -> Result<u64, String> {
    let mut world = World::new(seed);
    let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| world.run())) else { return Ok(world.step()) };
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let why = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    Err(format!("seed {seed}, step {}: {why}\nthe last operations:\n{}", world.step(), world.story()))
}

fn report(seed: u64, result: Result<u64, String>) {
    if let Err(story) = result {
        panic!("{story}\nagain:\n    SIM_SEED={seed} cargo test --test sim");
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, found {text:?}")))
}
