//! Deliveries a channel waits to have acknowledged, by delivery tag.
//!
//! Runs stay whole: an ack of many pops runs, an ack of one cuts one out. The map's key is a run's *last* tag, so
//! that taking from a run's front, which is what consumers do, moves no key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::consumer::Consumer;
use crate::broker::queue::handle::Queue;
use crate::message::run::Run;

/// Who a delivery was for.
#[derive(Clone, Debug)]
pub enum Holder {
    /// A consumer, whose credit it takes up.
    Consumer(Arc<Consumer>),
    /// A basic.get, which has no credit.
    Get(Arc<Queue>),
}

/// Consecutive deliveries of one run.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The tag of the run's first message.
    pub first_tag: u64,
    /// The messages.
    pub run: Run,
    /// Who has them.
    pub holder: Holder,
}

/// The unacknowledged deliveries of one channel.
#[derive(Debug, Default)]
pub struct Unacked {
    by_last_tag: BTreeMap<u64, Delivered>,
    messages: u64,
}

impl Unacked {
    /// Remembers deliveries; tags only rise.
    pub fn push(&mut self, delivered: Delivered) {
        self.messages += u64::from(delivered.run.count());
        self.by_last_tag.insert(delivered.last_tag(), delivered);
    }

    /// How many messages wait.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes the delivery with the tag `first`, and those behind it up to `last` that are of the same run. `None` when
    /// `first` is not outstanding.
    pub fn take_row(&mut self, first: u64, last: u64) -> Option<Delivered> {
        let last_tag = self.find(first)?;
        let mut taken = self.by_last_tag.remove(&last_tag)?;
        if taken.first_tag < first {
            let before = taken.split_before(first);
            self.by_last_tag.insert(before.last_tag(), before);
        }
        if last_tag > last {
            let row = taken.split_before(last + 1);
            self.by_last_tag.insert(last_tag, taken);
            taken = row;
        }
        self.messages -= u64::from(taken.run.count());
        Some(taken)
    }

    /// Whether the tag is outstanding.
    pub fn contains(&self, tag: u64) -> bool {
        self.find(tag).is_some()
    }

    /// Takes the first run of deliveries, and of it no more than those up to and with this tag. `None` when there are
    /// none.
    pub fn take_first_through(&mut self, tag: u64) -> Option<Delivered> {
        let entry = self.by_last_tag.first_entry()?;
        if entry.get().first_tag > tag {
            return None;
        }
        let taken = if *entry.key() <= tag { entry.remove() } else { entry.into_mut().split_before(tag + 1) };
        self.messages -= u64::from(taken.run.count());
        Some(taken)
    }

    /// The key of the run that holds this tag.
    fn find(&self, tag: u64) -> Option<u64> {
        let (&last_tag, delivered) = self.by_last_tag.range(tag..).next()?;
        (delivered.first_tag <= tag).then_some(last_tag)
    }
}

impl Delivered {
    fn last_tag(&self) -> u64 {
        self.first_tag + u64::from(self.run.count()) - 1
    }

    /// Cuts off what has tags below `tag`, which must lie inside.
    fn split_before(&mut self, tag: u64) -> Self {
        let count = (tag - self.first_tag) as u32;
        let run = self.run.split_front(count);
        let before = Self { first_tag: self.first_tag, run, holder: self.holder.clone() };
        self.first_tag = tag;
        before
    }

    /// The queue the messages came from; `None` for a direct reply.
    pub fn queue(&self) -> Option<&Arc<Queue>> {
        match &self.holder {
            Holder::Get(queue) => Some(queue),
            Holder::Consumer(consumer) => consumer.source.as_ref().map(|source| &source.queue),
        }
    }
}
