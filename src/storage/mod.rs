//! What outlives the process, and the only room that touches files.
//!
//! In reading order: [`disk`] what a disk can do, and one that fails on demand; [`directory`] whose data it is; [`slot`]
//! and [`batch`] how the log lies on disk; [`log`] itself; [`pack`] messages that outlive the log's window; [`meta`] the
//! checkpoint of everything else; [`fold`] what both tell together; [`ballast`] room for when there is none; [`check`] all of it read without a broker, and repaired. No queue, session or broker is known here.

pub mod ballast;
pub mod batch;
pub mod check;
pub mod directory;
pub mod disk;
pub mod error;
pub mod fold;
pub mod log;
pub mod meta;
pub mod pack;
pub mod slot;
