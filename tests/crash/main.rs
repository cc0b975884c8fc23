//! Crashes at every call to the disk: a seeded workload of the whole broker on a simulated disk, and after each crash
//! a look at whether the promise was kept.
//!
//! ```text
//! workload --(every call that changes the disk)--> copies of the disk --(each mode of crash)--> start --> look
//!          '--> the shadow: every durable state, how far clients have heard, how far the log is durable
//! ```
//!
//! The workload is played once for each seed; a copy of the disk before a call is what a crash at that call finds.
//! After a crash there must be one of the states since the last one heard of, whole, and it must stay: the machine
//! crashes again while the broker starts, when it has started, and when it has gone on. The same worlds are played with
//! a log that is not synced batch by batch: there a power cut may leave less, but always a beginning of what was done.
//!
//! In reading order: [`op`] what clients do, [`draw`] how it is chosen, [`message`], [`client`] a session without a
//! socket, [`conversation`] and [`party`] what a client knows, [`shadow`] and [`state`] what the broker must hold,
//! [`life`] a process, [`watched`] the disk, [`world`] who moves next, [`world::lives`] how processes end, [`survivor`] and [`check`] what must be true
//! afterwards.
//!
//! ```text
//! cargo test --test crash                                             a sample of the points of some seeds
//! CRASH_POINTS=200000 cargo test --release --test crash -- --nocapture
//! CRASH_SEED=7 CRASH_POINT=321 CRASH_MODE=RandomPages cargo test --test crash     one point again
//! ```

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod administration;
mod check;
mod client;
mod conversation;
mod dead_letters;
mod dice;
mod draw;
mod faults;
mod life;
mod message;
mod op;
mod party;
mod points;
mod rules;
mod scripts;
mod shadow;
mod state;
mod survivor;
mod watched;
mod world;

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, found {text:?}")))
}
