//! Who is next: round robin among the ready consumers of the highest priority.
//!
//! A consumer is *ready* while it has credit and its connection has room. It leaves the rota when either
//! runs out and comes back, at the end, when that changes:
//!
//! ```text
//!          credit spent                    credited
//!   Ready ------------> Spent  ------------------------> Ready
//!     '-- no room ----> Stalled -- resumed (room again) --'
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

/// Names a consumer of one queue. A key that was removed never names another consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    slot: usize,
    generation: u64,
}

/// How a consumer wishes to be served.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Higher is served first; `x-priority` of basic.consume.
    pub priority: i64,
    /// Unacknowledged messages allowed at a time; `None` is no limit.
    pub prefetch: Option<u32>,
    /// No other consumer is allowed beside it.
    pub exclusive: bool,
}

/// Why a consumer cannot be added: it, or one that is there, is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InExclusiveUse;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Spent,
    Stalled,
}

#[derive(Debug)]
struct Consumer<C> {
    generation: u64,
    handle: C,
    terms: Terms,
    in_flight: u32,
    state: State,
}

impl<C> Consumer<C> {
    fn credit(&self) -> u32 {
        self.terms.prefetch.map_or(u32::MAX, |prefetch| prefetch.saturating_sub(self.in_flight))
    }
}

/// The consumers of one queue. `C` is what their owner needs to reach them.
#[derive(Debug)]
pub struct Consumers<C> {
    slots: Slab<Consumer<C>>,
    /// The slots of ready consumers by priority, each level in the order of its turns. No level is empty.
    rota: BTreeMap<Reverse<i64>, VecDeque<usize>>,
    generations: u64,
}

impl<C> Default for Consumers<C> {
    fn default() -> Self {
        Self { slots: Slab::new(), rota: BTreeMap::new(), generations: 0 }
    }
}

impl<C> Consumers<C> {
    /// Adds a consumer, last in its turn; `make` is given its key.
    ///
    /// # Errors
    /// [`InExclusiveUse`] when it asks to be alone and is not, or another one is to be.
    pub fn add(&mut self, terms: Terms, make: impl FnOnce(ConsumerKey) -> C) -> Result<&C, InExclusiveUse> {
        self.check_exclusive(terms.exclusive)?;
        self.generations += 1;
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        let generation = self.generations;
        let handle = make(ConsumerKey { slot, generation });
        let consumer =
            entry.insert(Consumer { generation, handle, terms, in_flight: 0, state: State::Ready });
        self.rota.entry(Reverse(terms.priority)).or_default().push_back(slot);
        Ok(&consumer.handle)
    }

    /// Whether a consumer with this wish for exclusivity would be let in.
    ///
    /// # Errors
    /// [`InExclusiveUse`] as [`Consumers::add`].
    pub fn check_exclusive(&self, exclusive: bool) -> Result<(), InExclusiveUse> {
        let taken = self.slots.iter().any(|(_, consumer)| consumer.terms.exclusive);
        if taken || (exclusive && !self.slots.is_empty()) { Err(InExclusiveUse) } else { Ok(()) }
    }

    /// Removes a consumer. `None` when it is gone already.
    pub fn remove(&mut self, key: ConsumerKey) -> Option<C> {
        self.find(key)?;
        self.leave_rota(key.slot);
        Some(self.slots.remove(key.slot).handle)
    }

    /// Removes all consumers.
    pub fn remove_all(&mut self) -> Vec<C> {
        self.rota.clear();
        self.slots.drain().map(|consumer| consumer.handle).collect()
    }

    /// The consumer whose turn it is.
    pub fn next(&self) -> Option<Turn<'_, C>> {
        let (_, level) = self.rota.first_key_value()?;
        let consumer = self.slots.get(*level.front()?)?;
        Some(Turn { handle: &consumer.handle, credit: consumer.credit(), is_alone: level.len() == 1 })
    }

    /// The consumer whose turn it was took `count` messages that will be settled later.
    pub fn took(&mut self, count: u32) {
        let Some(mut first) = self.rota.first_entry() else { return };
        let level = first.get_mut();
        let Some(slot) = level.pop_front() else { return };
        let Some(consumer) = self.slots.get_mut(slot) else { return };
        consumer.in_flight += count;
        if consumer.credit() > 0 {
            level.push_back(slot);
        } else {
            consumer.state = State::Spent;
            if level.is_empty() {
                first.remove();
            }
        }
    }

    /// The consumer whose turn it was cannot take a message until [`Consumers::resume`].
    pub fn stall(&mut self) {
        let Some(mut first) = self.rota.first_entry() else { return };
        let Some(slot) = first.get_mut().pop_front() else { return };
        if let Some(consumer) = self.slots.get_mut(slot) {
            consumer.state = State::Stalled;
        }
        if first.get().is_empty() {
            first.remove();
        }
    }

    /// Consumers that were stalled may try again.
    pub fn resume(&mut self) {
        for (slot, consumer) in &mut self.slots {
            if consumer.state == State::Stalled {
                consumer.state = State::Ready;
                self.rota.entry(Reverse(consumer.terms.priority)).or_default().push_back(slot);
            }
        }
    }

    /// `count` messages a consumer held were settled or came back.
    pub fn credited(&mut self, key: ConsumerKey, count: u32) {
        let Some(consumer) = self.find(key) else { return };
        consumer.in_flight = consumer.in_flight.saturating_sub(count);
        if consumer.state == State::Spent && consumer.credit() > 0 {
            consumer.state = State::Ready;
            let priority = consumer.terms.priority;
            self.rota.entry(Reverse(priority)).or_default().push_back(key.slot);
        }
    }

    /// How many consumers there are, ready or not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn find(&mut self, key: ConsumerKey) -> Option<&mut Consumer<C>> {
        self.slots.get_mut(key.slot).filter(|consumer| consumer.generation == key.generation)
    }

    fn leave_rota(&mut self, slot: usize) {
        self.rota.retain(|_, level| {
            level.retain(|&other| other != slot);
            !level.is_empty()
        });
    }
}

/// A consumer whose turn it is.
#[derive(Debug)]
pub struct Turn<'a, C> {
    /// The consumer.
    pub handle: &'a C,
    /// How many more messages its prefetch allows, never zero.
    pub credit: u32,
    /// Whether nobody of its priority is ready beside it, so that it may take many at once.
    pub is_alone: bool,
}

#[cfg(test)]
mod tests {
    use super::{ConsumerKey, Consumers, InExclusiveUse, Terms};

    fn terms(priority: i64, prefetch: Option<u32>) -> Terms {
        Terms { priority, prefetch, exclusive: false }
    }

    /// Serves one message at a time and says who got them.
    fn serve(consumers: &mut Consumers<char>, messages: usize) -> String {
        let mut served = String::new();
        for _ in 0..messages {
            let Some(turn) = consumers.next() else { break };
            served.push(*turn.handle);
            consumers.took(1);
        }
        served
    }

    fn add(consumers: &mut Consumers<char>, name: char, terms: Terms) -> ConsumerKey {
        let mut given = None;
        consumers
            .add(terms, |key| {
                given = Some(key);
                name
            })
            .unwrap();
        given.unwrap()
    }

    #[test]
    fn ready_consumers_take_turns() {
        let mut consumers = Consumers::default();
        for name in ['a', 'b', 'c'] {
            add(&mut consumers, name, terms(0, None));
        }
        assert_eq!(serve(&mut consumers, 7), "abcabca");
    }

    #[test]
    fn a_lower_priority_gets_what_the_higher_cannot_take() {
        let mut consumers = Consumers::default();
        add(&mut consumers, 'l', terms(-1, None));
        let high = add(&mut consumers, 'h', terms(5, Some(2)));
        assert_eq!(serve(&mut consumers, 4), "hhll");
        consumers.credited(high, 1);
        assert_eq!(serve(&mut consumers, 2), "hl");
    }

    #[test]
    fn a_key_of_a_removed_consumer_never_credits_its_successor() {
        let mut consumers = Consumers::default();
        let old = add(&mut consumers, 'o', terms(0, Some(1)));
        assert_eq!(consumers.remove(old), Some('o'));
        add(&mut consumers, 'n', terms(0, Some(1)));
        assert_eq!(serve(&mut consumers, 2), "n");
        consumers.credited(old, 1);
        assert_eq!(serve(&mut consumers, 1), "");
        assert_eq!(consumers.remove(old), None);
    }

    #[test]
    fn a_stalled_consumer_is_passed_over_until_resumed() {
        let mut consumers = Consumers::default();
        let stalled = add(&mut consumers, 'a', terms(0, Some(9)));
        add(&mut consumers, 'b', terms(0, None));
        consumers.stall();
        consumers.credited(stalled, 1);
        assert_eq!(serve(&mut consumers, 2), "bb");
        consumers.resume();
        assert_eq!(serve(&mut consumers, 3), "bab");
    }

    #[test]
    fn exclusive_means_alone() {
        let mut consumers = Consumers::default();
        let alone = Terms { exclusive: true, ..terms(0, None) };
        let first = add(&mut consumers, 'a', alone);
        assert_eq!(consumers.add(terms(0, None), |_| 'b'), Err(InExclusiveUse));
        consumers.remove(first);
        add(&mut consumers, 'c', terms(0, None));
        assert_eq!(consumers.add(alone, |_| 'd'), Err(InExclusiveUse));
    }
}
