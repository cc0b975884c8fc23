//! When messages expire: by their queue's time to live, by their own `expiration`, or by the shorter of both.
//!
//! A queue whose messages live equally long needs no index: the one at the head is the first to go. Only those that have
//! an `expiration` of their own, and may have to leave from behind others, are noted here, by a time a little later:
//!
//! ```text
//!   time, coarser the longer they live --> numbers of the queue, a bitmap
//! ```
//!
//! What is noted is where to look. Whether a message may still be delivered says [`fresh`], to the millisecond.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use crate::message::place::Seq;
use crate::message::record::MessageView;
use crate::message::run::Run;
use crate::protocol::properties::Properties;
use crate::routing::delayed;

/// A message leaves no later than this after its time, in milliseconds, or than this share of its life.
const LATE_MS_MIN: u64 = 64;
const LATE_SHARE: u64 = 128;
/// A message that was to be delayed is awaited.
const DELAYED_LATE_SHARE: u64 = 4096;
/// What a time costs in memory beside its bitmap, in bytes, and what a message costs in that, about.
const TIME_BYTES: u64 = 128;
const MESSAGE_BYTES: u64 = 4;

/// How long this message may wait in a queue with this time to live, in milliseconds; `None` is for ever.
fn life_ms(message: &MessageView<'_>, ttl_ms: Option<u64>) -> Option<u64> {
    let own = Properties::unchecked(message.properties).expiration().and_then(milliseconds);
    own.into_iter().chain(ttl_ms).min()
}

/// An `expiration`, which was checked when it was published.
fn milliseconds(expiration: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(expiration).ok()?;
    text.strip_prefix('-').unwrap_or(text).parse().ok()
}

/// How many of the first `count` messages may be delivered at `now_ms`. What lives for no time at all may be when it
/// comes, and not when it comes back: whoever takes it at once is to have it.
pub fn fresh(run: &Run, count: u32, ttl_ms: Option<u64>, now_ms: u64) -> u32 {
    let received_ms = run.header().stamp.received_ms;
    let lives = |life_ms: u64| life_ms == 0 && !run.is_redelivered();
    let is_over = |life_ms: u64| !lives(life_ms) && received_ms.saturating_add(life_ms) <= now_ms;
    if !run.header().stamp.marks.expires {
        return if ttl_ms.is_some_and(is_over) { 0 } else { count };
    }
    let fresh = run.messages().take(count as usize);
    fresh.take_while(|message| !life_ms(message, ttl_ms).is_some_and(is_over)).count() as u32
}

/// How many of the first `count` messages have had their time at `now_ms`.
pub fn overdue(run: &Run, count: u32, ttl_ms: Option<u64>, now_ms: u64) -> u32 {
    let received_ms = run.header().stamp.received_ms;
    let is_over = |life_ms: u64| received_ms.saturating_add(life_ms) <= now_ms;
    if !run.header().stamp.marks.expires {
        return if ttl_ms.is_some_and(is_over) { count } else { 0 };
    }
    let overdue = run.messages().take(count as usize);
    overdue.take_while(|message| life_ms(message, ttl_ms).is_some_and(is_over)).count() as u32
}

/// When the first message of the run goes by the queue's time to live.
pub fn time_of(run: &Run, ttl_ms: u64) -> u64 {
    run.header().stamp.received_ms.saturating_add(ttl_ms)
}

/// Ready messages with an `expiration`, or with a delay, by when they are to go.
#[derive(Debug, Default)]
pub struct Expiries {
    by_time: BTreeMap<u64, RoaringTreemap>,
    messages: u64,
    /// It is their delay that counts.
    is_of_delays: bool,
}

impl Expiries {
    /// None yet, of messages that are to be delayed.
    pub fn of_delays() -> Self {
        Self { is_of_delays: true, ..Self::default() }
    }

    /// Messages came to the ready ones.
    pub fn insert(&mut self, run: &Run) {
        for (seq, time) in times(run, self.is_of_delays) {
            let is_new = self.by_time.entry(time).or_default().insert(seq);
            self.messages += u64::from(is_new);
        }
    }

    /// Messages left the ready ones.
    pub fn remove(&mut self, run: &Run) {
        for (seq, time) in times(run, self.is_of_delays) {
            let Some(numbers) = self.by_time.get_mut(&time) else { continue };
            self.messages -= u64::from(numbers.remove(seq));
            if numbers.is_empty() {
                self.by_time.remove(&time);
            }
        }
    }

    /// Forgets all: nothing is ready.
    pub fn clear(&mut self) {
        *self = Self { is_of_delays: self.is_of_delays, ..Self::default() };
    }

    /// When the first ones are to go.
    pub fn first_time(&self) -> Option<u64> {
        self.by_time.keys().next().copied()
    }

    /// One that is to go by `now_ms`, and whether it is ready or was.
    pub fn take_due(&mut self, now_ms: u64) -> Option<Seq> {
        let mut first = self.by_time.first_entry()?;
        if *first.key() > now_ms {
            return None;
        }
        let seq = first.get().min()?;
        first.get_mut().remove(seq);
        if first.get().is_empty() {
            first.remove();
        }
        self.messages -= 1;
        Some(Seq(seq))
    }

    /// What it costs in memory, in bytes, about.
    pub fn bytes(&self) -> u64 {
        self.by_time.len() as u64 * TIME_BYTES + self.messages * MESSAGE_BYTES
    }
}

/// The numbers of the messages that have an `expiration`, or a delay, and when each is looked for.
fn times(run: &Run, is_of_delays: bool) -> impl Iterator<Item = (u64, u64)> {
    let (received_ms, first) = (run.header().stamp.received_ms, run.first_seq().0);
    let lives = run.messages().map(move |message| match is_of_delays {
        true => delayed::delay_ms(Properties::unchecked(message.properties)),
        false => life_ms(&message, None),
    });
    let late_share = if is_of_delays { DELAYED_LATE_SHARE } else { LATE_SHARE };
    (first..).zip(lives).filter_map(move |(seq, life_ms)| {
        let life_ms = life_ms?;
        let step = (life_ms / late_share).max(LATE_MS_MIN);
        let step = 1 << step.ilog2();
        Some((seq, received_ms.saturating_add(life_ms).next_multiple_of(step)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Expiries, fresh, overdue};
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::Seq;
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::protocol::properties::PropertiesBuf;

    /// Messages received at 1000 with these expirations, numbered from 10.
    fn run(lives: &[Option<u64>]) -> Run {
        let mut builder = BlockBuilder::default();
        for life in lives {
            let mut properties = PropertiesBuf::new();
            if let Some(ms) = life {
                properties.expiration(ms.to_string());
            }
            builder.push(&Content { names: Names::EMPTY, properties: &properties.encode(), body: b"m" });
        }
        let marks = Marks { expires: lives.iter().any(Option::is_some), ..Marks::default() };
        let (block, count, bytes) = builder.seal(Stamp { marks, received_ms: 1000 }, &Arc::default());
        Run::of_block(block, count, bytes).numbered_from(Seq(10))
    }

    #[test]
    fn the_shorter_life_counts() {
        let mixed = run(&[Some(50), None, Some(5), Some(500)]);
        assert_eq!(fresh(&mixed, 4, None, 1004), 4);
        assert_eq!(fresh(&mixed, 4, None, 1005), 2);
        assert_eq!(fresh(&mixed, 4, Some(20), 1020), 0);
        assert_eq!((overdue(&mixed, 4, None, 1050), overdue(&mixed, 4, Some(20), 1050)), (1, 4));
        let alike = run(&[None, None]);
        assert_eq!((fresh(&alike, 2, Some(7), 1006), fresh(&alike, 2, Some(7), 1007)), (2, 0));
        assert_eq!((overdue(&alike, 2, Some(7), 1006), overdue(&alike, 2, Some(7), 1007)), (0, 2));
    }

    #[test]
    fn what_lives_for_no_time_goes_to_whoever_takes_it_at_once() {
        let none = run(&[Some(0)]);
        assert_eq!((fresh(&none, 1, None, 5000), overdue(&none, 1, None, 1000)), (1, 1));
        let mut again = none;
        again.mark_redelivered();
        assert_eq!(fresh(&again, 1, None, 5000), 0, "who took it did not want it");
    }

    #[test]
    fn none_goes_early_and_none_a_hundredth_of_its_life_late() {
        for life in [0, 1, 63, 64, 1000, 6400, 100_000, 86_400_000, 315_360_000_000] {
            let mut expiries = Expiries::default();
            expiries.insert(&run(&[None, Some(life)]));
            let time = expiries.first_time().unwrap();
            let due = 1000 + life;
            assert!(time >= due && time - due <= (life / 100).max(100), "{life}: {time}");
            assert_eq!(expiries.take_due(time - 1), None);
            assert_eq!((expiries.take_due(time), expiries.take_due(u64::MAX)), (Some(Seq(11)), None));
        }
    }

    #[test]
    fn what_leaves_is_forgotten() {
        let mut expiries = Expiries::default();
        let mut lives = run(&[Some(100), Some(5000), Some(100), None]);
        expiries.insert(&lives);
        expiries.remove(&lives.split_front(2));
        assert_eq!((expiries.take_due(u64::MAX), expiries.first_time()), (Some(Seq(12)), None));
        assert_eq!(expiries.bytes(), 0);
    }
}
