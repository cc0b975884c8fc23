//! Disks that fail, and data that is not what was written: what the broker does, and what a client is told.
//!
//! A test's name starts with the number of the fault that it plays.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod damage;
mod desk;
mod errors;
mod faulty;
mod process;
mod volume;
