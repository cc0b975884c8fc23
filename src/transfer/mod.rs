//! Messages that the broker moves itself: shovels, redriven dead letters, what an operator moves from here to there.
//!
//! One engine for all of it. A transfer is a consumer and a publisher, each a session like any client's ([`insider`]), so
//! that rights, limits, alarms and credit hold for it as for everybody: it takes from a queue, publishes, and acknowledges
//! what was confirmed. A crash at any moment leaves a message at its source, at its destination, or at both. What nobody
//! takes at the destination, or is refused there, stays with the source.
//!
//! Bottom up: [`insider`]; [`message`], what is carried; [`uri`], which places are this broker's; [`shovel`], what a parameter
//! says; [`redrive`], what a request says; `flight`, what was published and not answered; `mover`, one attempt as a state
//! machine; [`job`], attempts until it is done or ended; [`board`], all of them.
//!
//! No task, no thread, no clock: a rim in `net` gives each [`job::Job`] its turns, with the time.

pub mod board;
mod flight;
pub mod insider;
pub mod job;
pub mod message;
mod mover;
pub mod plan;
pub mod redrive;
pub mod shovel;
pub mod uri;

#[cfg(test)]
mod tests;

/// So many transfers are there at a time, shovels among them.
pub const TRANSFERS_MAX: usize = 100;
