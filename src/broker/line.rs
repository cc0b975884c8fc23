//! Consumers that wait for something their connection has too little of: room, or a channel's shared prefetch.
//!
//! ```text
//!   refused: push            resumed with a share: pop
//!  ----------------> [ c ... b, a ] -----------------> takes it, and waits at the end if it wants more
//! ```
//!
//! The outbox's lock guards a line. A consumer is in one line at most, and knows its place there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::consumer::Consumer;

/// What a consumer that has waited may take before those behind it are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many messages of a shared prefetch.
    Messages(u32),
    /// Room in the outbox.
    Bytes {
        /// In bytes.
        left: u64,
        /// Nothing was taken yet: one message may be, however large, if there is room for it.
        is_untouched: bool,
    },
}

impl Share {
    /// What is left of it once messages were taken.
    #[must_use]
    pub fn without(self, messages: u32, bytes: u64) -> Self {
        match self {
            Self::Messages(left) => Self::Messages(left.saturating_sub(messages)),
            Self::Bytes { left, .. } => Self::Bytes { left: left.saturating_sub(bytes), is_untouched: false },
        }
    }
}

/// Consumers in the order in which they came.
#[derive(Debug)]
pub(super) struct Line {
    waiting: BTreeMap<u64, Arc<Consumer>>,
    /// The place of the next one to come.
    next: u64,
    /// What the first one needs at least, in bytes; zero when that is not known.
    wanted_bytes: u64,
}

/// Places grow from here, and those who are let back in front have smaller ones. Zero is no place.
const FIRST_PLACE: u64 = 1 << 32;

impl Default for Line {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: FIRST_PLACE, wanted_bytes: 0 }
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How much the first one needs at least, as far as that is known.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Comes last.
    pub(super) fn push(&mut self, consumer: &Arc<Consumer>) {
        self.next += 1;
        self.put(self.next, consumer);
    }

    /// Was first, got nothing, and is first again: it needs so many bytes.
    pub(super) fn push_first(&mut self, consumer: &Arc<Consumer>, wanted_bytes: u64) {
        let first = self.waiting.keys().next().copied().unwrap_or(self.next + 1);
        self.put(first.saturating_sub(1).max(1), consumer);
        self.wanted_bytes = wanted_bytes;
    }

    fn put(&mut self, place: u64, consumer: &Arc<Consumer>) {
        consumer.place.store(place, Ordering::Relaxed);
        self.waiting.insert(place, Arc::clone(consumer));
    }

    /// The first one's turn.
    pub(super) fn pop(&mut self) -> Option<Arc<Consumer>> {
        self.wanted_bytes = 0;
        let (_, consumer) = self.waiting.pop_first()?;
        consumer.place.store(0, Ordering::Relaxed);
        Some(consumer)
    }

    /// Waits no longer. `false` when it did not wait here.
    pub(super) fn remove(&mut self, consumer: &Consumer) -> bool {
        let place = consumer.place.load(Ordering::Relaxed);
        let is_here = self.waiting.get(&place).is_some_and(|other| std::ptr::eq(&**other, consumer));
        if is_here {
            let is_first = self.waiting.keys().next() == Some(&place);
            self.wanted_bytes = if is_first { 0 } else { self.wanted_bytes };
            self.waiting.remove(&place);
            consumer.place.store(0, Ordering::Relaxed);
        }
        is_here
    }

    /// All that wait in another line come behind.
    pub(super) fn append(&mut self, other: &mut Self) {
        while let Some(consumer) = other.pop() {
            self.push(&consumer);
        }
    }
}
