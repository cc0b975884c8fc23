//! Packs: messages that outlived the log's window, and transient ones that must leave memory.
//!
//! A pack is written once, by one checkpoint, and never changed; when all that is in it is settled it is forgotten by
//! the checkpoint's tables first and unlinked later. Messages lie in it by queue and number, so that a queue's part is
//! one sequential read. Packs of transient messages are the same, but never synced, in a directory of their own that a
//! start empties.
//!
//! [`mod@format`] is what the bytes are, [`writer`] makes a pack, [`reader`] verifies and reads one, [`copy`] brings what
//! lives of one into another, [`shelf`] keeps packs open, pinned while they are read, and removes those that nobody needs.

pub mod copy;
pub mod format;
pub mod reader;
pub mod shelf;
pub mod writer;

#[cfg(test)]
mod tests;

/// The directory of packs.
pub const PACK_DIR: &str = "pack";
/// The directory of packs of transient messages: nothing in it outlives the process.
pub const SPILL_DIR: &str = "spill";

/// What a pack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Persistent messages: synced before anyone relies on it.
    Durable,
    /// Transient messages: never synced, gone at the next start.
    Spill,
}

impl Kind {
    /// The directory of such packs.
    pub fn dir(self) -> &'static str {
        match self {
            Self::Durable => PACK_DIR,
            Self::Spill => SPILL_DIR,
        }
    }

    /// The name of such a pack's file.
    pub fn file_name(self, number: u64) -> String {
        format!("{}/{number:016x}.pack", self.dir())
    }
}

/// The number of the pack with this file name (without a directory).
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".pack").filter(|number| number.len() == 16)?;
    u64::from_str_radix(number, 16).ok()
}
