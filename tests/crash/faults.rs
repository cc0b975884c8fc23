//! Calls that fail without a crash: the process ends or goes on, and the promise is kept.

use std::io::ErrorKind;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use sluicemq::storage::disk::simulated::Fault;

use crate::dice::Dice;
use crate::points::text_of;
use crate::variable;
use crate::watched::watch;
use crate::world::{Death, World};

/// Faults that a run tries that says nothing else.
const FAULTS: u64 = 400;
const SEEDS: u64 = 10;
const KINDS: [Fault; 4] =
    [Fault::Error(ErrorKind::Other), Fault::NoSpace, Fault::ShortWrite, Fault::SyncFails];
/// As many deaths of checkpoints are tried.
const DEATHS: u64 = 200;
const WAYS_TO_DIE: [Death; 5] = [
    Death::Panics,
    Death::Panics,
    Death::Fails(Fault::Error(ErrorKind::Other)),
    Death::Fails(Fault::ShortWrite),
    Death::Fails(Fault::SyncFails),
];

#[test]
fn whatever_call_fails_nothing_confirmed_is_lost() {
    if let (Some(seed), Some(call)) = (variable("CRASH_SEED"), variable("CRASH_FAULT")) {
        let _ = tracing_subscriber::fmt().with_env_filter("sluicemq=info").with_test_writer().try_init();
        for kind in KINDS {
            println!("{kind:?}");
            play(seed, &format!("CRASH_FAULT={call}"), |world| world.with_fault(call, kind));
        }
        return;
    }
    let faults = variable("CRASH_FAULTS").unwrap_or(FAULTS);
    let seeds = SEEDS.max(faults / 1000);
    let (mut full, mut failed) = (0, 0);
    for seed in 0..seeds {
        let calls = play(seed, "", |world| world).all_calls.get();
        let mut dice = Dice::new(seed);
        for _ in 0..faults / seeds {
            let (call, kind) = (dice.below(calls), KINDS[dice.below(KINDS.len() as u64) as usize]);
            let world = play(seed, &format!("CRASH_FAULT={call}"), |world| world.with_fault(call, kind));
            full += u64::from(world.full.get() > 0);
            failed += u64::from(world.failed.get());
        }
        println!(
            "{} faults of {faults}: {failed} ended the process, {full} found the disk full",
            (seed + 1) * (faults / seeds)
        );
    }
    assert!(full > 0 && failed > 0, "the faults have missed what they were to hit");
}

#[test]
fn checkpoints_that_die_at_any_call_while_the_log_goes_on_cost_nothing() {
    if let (Some(seed), Some(call)) = (variable("CRASH_SEED"), variable("CRASH_DEATH")) {
        for death in WAYS_TO_DIE {
            println!("{death:?}");
            play(seed, &format!("CRASH_DEATH={call}"), |world| world.with_death(call, death));
        }
        return;
    }
    let deaths = variable("CRASH_DEATHS").unwrap_or(DEATHS);
    let seeds = SEEDS.max(deaths / 1000);
    let mut died = 0;
    for seed in 0..seeds {
        let calls = play(seed, "", |world| world).checkpoint_calls.get();
        let mut dice = Dice::new(seed);
        for _ in 0..deaths / seeds {
            let death = WAYS_TO_DIE[dice.below(WAYS_TO_DIE.len() as u64) as usize];
            let call = dice.below(calls);
            let world = play(seed, &format!("CRASH_DEATH={call}"), |world| world.with_death(call, death));
            died += u64::from(world.died.get());
        }
    }
    println!("{died} of {deaths} checkpoints died");
    assert!(died > deaths / 2, "the calls of checkpoints were missed");
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_nothing() {
    let mut full = 0;
    for seed in 0..SEEDS {
        full += play(seed, "", World::with_shortage).full.get();
    }
    assert!(full > 0, "the disk was never full");
}

fn play(seed: u64, variables: &str, how: impl FnOnce(World) -> World) -> Rc<World> {
    let world = Rc::new(how(World::new(seed, |_| false)));
    let played = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    watch(None);
    if let Err(panic) = played {
        panic!(
            "seed {seed}: {}\nagain:\n    CRASH_SEED={seed} {variables} cargo test --test crash -- --nocapture",
            text_of(&*panic)
        );
    }
    world
}
