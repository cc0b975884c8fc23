//! The numbers that name things: a queue, a message in it, a position in the log.

/// A position in the never-reset stream of log records; a record is durable when the durable position has
/// reached its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A message's number in its queue. Numbers are never used twice; their order is the order in which messages are
/// delivered. That is the order of publishing, and in a queue with priorities that order within each priority: the
/// highest has the lowest rank, and so nothing that keeps messages in order needs to know of priorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// The upper bits of a number are its rank, the lower ones count.
const RANK_SHIFT: u32 = 56;

impl Seq {
    /// The number `count` messages further on.
    #[must_use]
    pub const fn after(self, count: u32) -> Self {
        Self(self.0 + count as u64)
    }

    /// The number of the same count at this rank: whatever is of a lower rank comes before it.
    #[must_use]
    pub const fn of_rank(self, rank: u8) -> Self {
        Self(self.counted().0 | (rank as u64) << RANK_SHIFT)
    }

    /// Before the first number of the next rank; `None` after the last rank.
    #[must_use]
    pub const fn next_rank(self) -> Option<Self> {
        match (self.0 >> RANK_SHIFT) + 1 {
            rank if rank < 1 << (u64::BITS - RANK_SHIFT) => Some(Self(rank << RANK_SHIFT)),
            _ => None,
        }
    }

    /// The number without its rank: the count, which is what is never used twice.
    #[must_use]
    pub const fn counted(self) -> Self {
        Self(self.0 & ((1 << RANK_SHIFT) - 1))
    }
}

/// A queue's identity, never reused: a queue deleted and declared again under its name is another queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// Messages of a queue that came back equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The first number.
    pub first: Seq,
    /// The number after the last; not all in between need be messages.
    pub end: Seq,
    /// How often, from their first delivery on.
    pub returns: u16,
}

/// Where the log put a fact: the bytes `start..end` of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where its record starts: how it is found again.
    pub start: Lsn,
    /// Where its record ends: the fact is durable when the durable position has reached this.
    pub end: Lsn,
}

/// Where a message that is not in memory can be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the log, in the record that starts at this position.
    Log(Lsn),
    /// In a pack, in the block whose prefix starts at `offset`.
    Pack {
        /// The pack's number.
        number: u64,
        /// In bytes from the start of its file.
        offset: u64,
    },
}

/// A part of a pack that holds messages of one queue: one sequential read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first message's number.
    pub first: Seq,
    /// The last message's number. Not every number in between need be a message of the extent.
    pub last: Seq,
    /// The pack's number.
    pub pack: u64,
    /// Where it starts, in bytes from the start of the pack's file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u32,
    /// How many messages it was written with.
    pub count: u32,
    /// The sum of their bodies, in bytes.
    pub body_bytes: u64,
}
