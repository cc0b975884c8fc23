//! The memory watermark: what the node holds, against what it may.
//!
//! Whoever publishes past the watermark raises the alarm at once, and a periodic look clears it when memory has
//! fallen well below it. What an alarm means, [`crate::broker::alarms`] says.

use std::sync::Arc;

use crate::broker::alarms::Level;
use crate::stats::Gauge;

/// An alarm ends when less than this share of the watermark is held, in tenths.
const PLENTY_TENTHS: u64 = 9;
/// The cache is at most this part of the watermark, whatever is configured: with more, publishers would wait for room
/// that what lies on the disk as well takes up.
const CACHE_OF_WATERMARK: u64 = 2;

/// Open transactions may take this part of the watermark before large ones are refused.
const TRANSACTIONS_OF_WATERMARK: u64 = 8;
/// Direct replies may take this part of it before those for whom many wait get no more.
const REPLIES_OF_WATERMARK: u64 = 8;
/// What exchanges remember may take this part of it before those that remember much forget some, and this part of the
/// cache: nothing of it can be let go of, and what queues hold would go instead.
const HISTORIES_OF_WATERMARK: u64 = 8;
const HISTORIES_OF_CACHE: u64 = 4;
/// Messages that go back may take this part of it unread before those to whom many go are not read any more.
const RETURNS_OF_WATERMARK: u64 = 4;
/// Messages that the broker moves may take this part of it before no more are taken.
const TRANSFERS_OF_WATERMARK: u64 = 16;
/// Consumers may take this part of it before there are no more.
const CONSUMERS_OF_WATERMARK: u64 = 4;
/// Who has less than this, in bytes, is not the one that takes up a share.
const BLAMED_BYTES_MIN: u64 = 1024 * 1024;

/// Bytes the node holds for messages, against the bytes it may.
#[derive(Debug)]
pub struct Memory {
    /// Message bytes: every block and large message charges itself here.
    pub messages: Arc<Gauge>,
    /// What the queues' lists cost: each adds and takes back what changes.
    pub index: Gauge,
    /// Parts of messages that have not arrived whole.
    pub partial_bodies: Gauge,
    /// The same of messages that go on beyond the share that those have: see [`crate::broker::uploads`].
    pub granted_bodies: Gauge,
    /// The routes that connections keep.
    pub routes: Arc<Gauge>,
    /// What connections remember of messages that wait for an acknowledgement, beside their bytes.
    pub unacked: Arc<Gauge>,
    /// Bindings, and queues without their messages.
    pub definitions: Arc<Gauge>,
    /// Consumers.
    pub consumers: Arc<Gauge>,
    /// Messages that go back to their publishers and are not read yet.
    pub returns: Arc<Gauge>,
    /// Direct replies that wait for their connections; [`Memory::messages`] counts them as well.
    pub replies: Gauge,
    /// What recent-history exchanges remember; [`Memory::messages`] counts it as well.
    pub histories: Arc<Gauge>,
    /// Messages that the broker moves, until their destinations have answered for them.
    pub transfers: Arc<Gauge>,
    /// What open transactions hold. Publishers that wait for the end of an alarm cannot end theirs: it raises none.
    pub transactions: Arc<Gauge>,
    /// What the process may use in all, in bytes; 0 where nobody has told.
    pub usable_bytes: Gauge,
    watermark_bytes: Gauge,
    partial_bodies_max: u64,
    /// What was configured; none without a disk.
    cache_bytes_max: Option<u64>,
}

impl Memory {
    /// Nothing held.
    pub fn new(watermark_bytes: u64, partial_bodies_max: u64) -> Self {
        Self {
            messages: Arc::default(),
            index: Gauge::default(),
            partial_bodies: Gauge::default(),
            granted_bodies: Gauge::default(),
            routes: Arc::default(),
            unacked: Arc::default(),
            definitions: Arc::default(),
            consumers: Arc::default(),
            returns: Arc::default(),
            replies: Gauge::default(),
            histories: Arc::default(),
            transfers: Arc::default(),
            transactions: Arc::default(),
            usable_bytes: Gauge::default(),
            watermark_bytes: Gauge::of(watermark_bytes),
            partial_bodies_max,
            cache_bytes_max: None,
        }
    }

    /// The same, and message bytes above `cache_bytes`, or above half of the watermark, are to be let go of when the
    /// disk has them.
    #[must_use]
    pub fn with_cache(self, cache_bytes: u64) -> Self {
        Self { cache_bytes_max: Some(cache_bytes), ..self }
    }

    /// Message bytes above this are to be let go of when the disk has them.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes_max.map_or(u64::MAX, |max| max.min(self.watermark_bytes() / CACHE_OF_WATERMARK))
    }

    /// Whether message bytes that the disk has are to be let go of.
    pub fn is_above_cache(&self) -> bool {
        self.messages.read() > self.cache_bytes()
    }

    /// Whether messages need not be in memory: there is a disk that has them.
    pub fn has_disk(&self) -> bool {
        self.cache_bytes_max.is_some()
    }

    /// Whether who holds message bytes should hold fewer: as [`Memory::is_above_cache`], and without a disk from half of
    /// the watermark on.
    pub fn is_to_slim(&self) -> bool {
        self.messages.read() > self.cache_bytes().min(self.watermark_bytes() / CACHE_OF_WATERMARK)
    }

    /// Whether as much is held as may be.
    pub fn is_short(&self) -> bool {
        self.held_bytes() >= self.watermark_bytes()
    }

    /// How what is held compares with the watermark.
    pub fn level(&self) -> Level {
        let held_bytes = self.held_bytes();
        if held_bytes >= self.watermark_bytes() {
            Level::Short
        } else if held_bytes < self.watermark_bytes() / 10 * PLENTY_TENTHS {
            Level::Plenty
        } else {
            Level::Between
        }
    }

    /// Whether unfinished messages take more than their share.
    pub fn is_short_of_parts(&self) -> bool {
        self.partial_bodies.read() > self.partial_bodies_max
    }

    /// Whether there is plenty of that share.
    pub fn has_plenty_for_parts(&self) -> bool {
        self.partial_bodies.read() < self.partial_bodies_max / 10 * PLENTY_TENTHS
    }

    /// Whether an unfinished message that has this much of that share must wait for more: a large one past it, any past
    /// half as much again.
    pub fn keeps_waiting(&self, own_bytes: u64) -> bool {
        let (held_bytes, share_bytes) = (self.partial_bodies.read(), self.partial_bodies_max);
        held_bytes > share_bytes
            && (own_bytes >= BLAMED_BYTES_MIN || held_bytes - share_bytes > share_bytes / 2)
    }

    /// Whether messages that went on beyond that share take twice as much, beside one that has this much of it: one alone
    /// may be as large as any.
    pub fn refuses_granted(&self, own_bytes: u64) -> bool {
        self.granted_bodies.read().saturating_sub(own_bytes) / 2 > self.partial_bodies_max
    }

    /// Whether open transactions take more than their share, for one that has this much of it.
    pub fn refuses_in_transaction(&self, own_bytes: u64) -> bool {
        refuses(self.transactions.read(), self.watermark_bytes() / TRANSACTIONS_OF_WATERMARK, own_bytes)
    }

    /// Whether messages that go back take more than their share, for a client that has this much of it unread.
    pub fn refuses_returns(&self, own_bytes: u64) -> bool {
        refuses(self.returns.read(), self.watermark_bytes() / RETURNS_OF_WATERMARK, own_bytes)
    }

    /// Whether direct replies that wait take more than their share, for a connection for which this much waits.
    pub fn refuses_reply(&self, own_bytes: u64) -> bool {
        refuses(self.replies.read(), self.watermark_bytes() / REPLIES_OF_WATERMARK, own_bytes)
    }

    /// Whether messages that are moved take so much that no more are to be taken: each is held more than once on its
    /// way.
    pub fn refuses_transfers(&self) -> bool {
        self.transfers.read() > self.watermark_bytes() / TRANSFERS_OF_WATERMARK
    }

    /// Whether consumers take so much that there may be no more.
    pub fn refuses_consumers(&self) -> bool {
        self.consumers.read() > self.watermark_bytes() / CONSUMERS_OF_WATERMARK
    }

    /// Whether what exchanges remember takes more than its share, for one that has this much of it.
    pub fn refuses_history(&self, own_bytes: u64) -> bool {
        let share = self.watermark_bytes() / HISTORIES_OF_WATERMARK;
        refuses(self.histories.read(), share.min(self.cache_bytes() / HISTORIES_OF_CACHE), own_bytes)
    }

    /// The sum of everything counted, in bytes, but for what open transactions may hold: what they count beside their
    /// messages, a few octets for each acknowledgement, comes off the messages of others.
    pub fn held_bytes(&self) -> u64 {
        let share = 2 * (self.watermark_bytes() / TRANSACTIONS_OF_WATERMARK);
        let messages = self.messages.read().saturating_sub(self.transactions.read().min(share));
        let shared =
            [&self.routes, &self.unacked, &self.definitions, &self.consumers, &self.returns, &self.transfers];
        let counted = shared.map(Arc::as_ref);
        let parts = [&self.partial_bodies, &self.granted_bodies];
        let beside = parts.into_iter().chain([&self.index]).chain(counted);
        messages + beside.map(Gauge::read).sum::<u64>()
    }

    /// The watermark, in bytes.
    pub fn watermark_bytes(&self) -> u64 {
        self.watermark_bytes.read()
    }

    /// Moves the watermark, until the process ends: whoever compares next sees it.
    pub fn set_watermark(&self, bytes: u64) {
        self.watermark_bytes.set(bytes);
    }
}

/// Past a share whoever has much of it is refused more, and past twice as much anyone.
fn refuses(held_bytes: u64, share_bytes: u64, own_bytes: u64) -> bool {
    held_bytes > share_bytes && (own_bytes >= BLAMED_BYTES_MIN || held_bytes / 2 > share_bytes)
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::broker::alarms::Level;

    #[test]
    fn there_is_plenty_only_well_below_the_watermark() {
        let memory = Memory::new(1000, 1000);
        for (held_bytes, expected) in
            [(0, Level::Plenty), (899, Level::Plenty), (900, Level::Between), (999, Level::Between)]
        {
            memory.index.set(held_bytes);
            assert_eq!((memory.level(), memory.is_short()), (expected, false), "{held_bytes}");
        }
        memory.index.set(1000);
        assert_eq!((memory.level(), memory.is_short()), (Level::Short, true));
    }

    #[test]
    fn what_exchanges_remember_has_a_share_of_the_watermark_and_of_the_cache() {
        const MIB: u64 = 1024 * 1024;
        for (cache_bytes, share) in [(u64::MAX, 128 * MIB), (64 * MIB, 16 * MIB)] {
            let memory = match cache_bytes {
                u64::MAX => Memory::new(1024 * MIB, 0),
                some => Memory::new(1024 * MIB, 0).with_cache(some),
            };
            memory.histories.add(share);
            assert!(!memory.refuses_history(MIB));
            memory.histories.add(1);
            assert!(memory.refuses_history(MIB) && !memory.refuses_history(MIB - 1));
            memory.histories.add(share + 1);
            assert!(memory.refuses_history(1));
        }
    }

    #[test]
    fn the_cache_follows_the_watermark() {
        for (configured, expected) in [(u64::MAX, 500), (800, 500), (300, 300)] {
            assert_eq!(Memory::new(1000, 1000).with_cache(configured).cache_bytes(), expected);
        }
    }
}
