//! Who is next: round robin among the ready consumers of the highest priority.
//!
//! A consumer is *ready* while it has credit and its connection has room. It leaves the rota when either runs out. With
//! new credit it comes back at the end, and at the front when it has waited for room, which is for it:
//!
//! ```text
//!          credit spent                    credited
//!   Ready ------------> Spent  ------------------------> Ready
//!     '-- no room ----> Stalled ---- resumed, by key -----'
//! ```
//!
//! Whatever is done here takes no more steps than finding a place among those that are ready.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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

/// Why a consumer cannot be given more, although it has credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The prefetch that its channel shares is used up.
    Window,
    /// Its connection has enough on the way.
    Room,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the rota, at this place.
    Ready(Place),
    Spent,
    Stalled(Stall),
    /// Another one is served alone. This is its place among those that wait.
    Inactive(Place),
}

/// A place in the rota: by priority, then in order of arrival; who waited in a line elsewhere has numbers below zero.
type Place = (Reverse<i64>, i64);

/// Where only one consumer is served at a time: who that is, and who waits to be it, the next one first.
#[derive(Debug, Default)]
struct Single {
    is_wanted: bool,
    active: Option<usize>,
    waiting: BTreeMap<Place, usize>,
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
    /// The slots of ready consumers, in the order of their turns.
    rota: BTreeMap<Place, usize>,
    /// Counts consumers and places in the rota: none is given twice.
    numbers: u64,
    /// Whether one that is there is to be alone.
    is_exclusive: bool,
    single: Single,
    short_of_room: usize,
}

impl<C> Default for Consumers<C> {
    fn default() -> Self {
        Self {
            slots: Slab::new(),
            rota: BTreeMap::new(),
            numbers: 0,
            is_exclusive: false,
            single: Single::default(),
            short_of_room: 0,
        }
    }
}

impl<C> Consumers<C> {
    /// Adds a consumer, last in its turn; `make` is given its key.
    ///
    /// # Errors
    /// [`InExclusiveUse`] when it asks to be alone and is not, or another one is to be.
    pub fn add(&mut self, terms: Terms, make: impl FnOnce(ConsumerKey) -> C) -> Result<&C, InExclusiveUse> {
        self.check_exclusive(terms.exclusive)?;
        self.is_exclusive = terms.exclusive;
        let generation = self.next_number();
        let place = (Reverse(terms.priority), self.next_number() as i64);
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        let handle = make(ConsumerKey { slot, generation });
        let state = if self.single.is_wanted && self.single.active.is_some() {
            self.single.waiting.insert(place, slot);
            State::Inactive(place)
        } else {
            self.single.active = Some(slot);
            self.rota.insert(place, slot);
            State::Ready(place)
        };
        Ok(&entry.insert(Consumer { generation, handle, terms, in_flight: 0, state }).handle)
    }

    /// Whether a consumer with this wish for exclusivity would be let in.
    ///
    /// # Errors
    /// [`InExclusiveUse`] as [`Consumers::add`].
    pub fn check_exclusive(&self, exclusive: bool) -> Result<(), InExclusiveUse> {
        let is_alone = self.slots.is_empty() && !self.single.is_wanted;
        let is_taken = self.is_exclusive || (exclusive && !is_alone);
        if is_taken { Err(InExclusiveUse) } else { Ok(()) }
    }

    /// Removes a consumer. `None` when it is gone already.
    pub fn remove(&mut self, key: ConsumerKey) -> Option<C> {
        let consumer = self.find(key)?;
        match consumer.state {
            State::Ready(place) => drop(self.rota.remove(&place)),
            State::Stalled(Stall::Room) => self.short_of_room -= 1,
            State::Inactive(place) => drop(self.single.waiting.remove(&place)),
            State::Stalled(Stall::Window) | State::Spent => {}
        }
        let removed = self.slots.remove(key.slot);
        // Who is to be alone is alone.
        self.is_exclusive &= !removed.terms.exclusive;
        if self.single.active == Some(key.slot) {
            self.hand_over();
        }
        Some(removed.handle)
    }

    /// Whether only one consumer is served at a time. Before there is any.
    pub fn set_single_active(&mut self, is_wanted: bool) {
        self.single.is_wanted = is_wanted;
    }

    /// Whether a consumer is the one that is served, or all are.
    pub fn is_active(&self, key: ConsumerKey) -> bool {
        !self.single.is_wanted || self.single.active == Some(key.slot)
    }

    /// The one that was served alone is gone: the next one is.
    fn hand_over(&mut self) {
        let next = self.single.waiting.pop_first();
        self.single.active = next.map(|(_, slot)| slot);
        if let Some((place, slot)) = next {
            self.move_to(slot, Some(place));
        }
    }

    /// Removes all consumers.
    pub fn remove_all(&mut self) -> Vec<C> {
        let removed = std::mem::take(self);
        self.numbers = removed.numbers;
        removed.slots.into_iter().map(|(_, consumer)| consumer.handle).collect()
    }

    /// How many more messages the prefetch of the one allows whose turn it is; none when it is nobody's.
    pub fn next_credit(&self) -> u32 {
        let next = self.rota.first_key_value().and_then(|(_, slot)| self.slots.get(*slot));
        next.map_or(0, Consumer::credit)
    }

    /// The consumer whose turn it is.
    #[inline]
    pub fn next(&self) -> Option<Turn<'_, C>> {
        let ((priority, _), slot) = self.rota.first_key_value()?;
        let consumer = self.slots.get(*slot)?;
        let is_alone =
            self.rota.len() == 1 || self.rota.keys().nth(1).is_none_or(|(other, _)| other != priority);
        Some(Turn { handle: &consumer.handle, credit: consumer.credit(), is_alone })
    }

    /// The consumer whose turn it was took `count` messages that will be settled later. Others of its priority are next.
    pub fn took(&mut self, count: u32) {
        let Some((&place, &slot)) = self.rota.first_key_value() else { return };
        let Some(consumer) = self.slots.get_mut(slot) else { return };
        consumer.in_flight += count;
        let is_spent = consumer.credit() == 0;
        if is_spent || self.rota.len() > 1 {
            self.rota.pop_first();
            let last = self.next_number() as i64;
            self.move_to(slot, (!is_spent).then_some((place.0, last)));
        }
    }

    /// The consumer whose turn it was cannot take a message until [`Consumers::resume`].
    pub fn stall(&mut self, why: Stall) {
        let Some((_, slot)) = self.rota.pop_first() else { return };
        if let Some(consumer) = self.slots.get_mut(slot) {
            consumer.state = State::Stalled(why);
            self.short_of_room += usize::from(why == Stall::Room);
        }
    }

    /// A consumer that was stalled may try again, before others of its priority. `false` when it is gone, or was not.
    pub fn resume(&mut self, key: ConsumerKey) -> bool {
        let Some(consumer) = self.find(key) else { return false };
        let State::Stalled(why) = consumer.state else { return false };
        let priority = Reverse(consumer.terms.priority);
        self.short_of_room -= usize::from(why == Stall::Room);
        let first = -(self.next_number() as i64);
        self.move_to(key.slot, Some((priority, first)));
        true
    }

    /// `count` messages a consumer held were settled or came back.
    pub fn credited(&mut self, key: ConsumerKey, count: u32) {
        let Some(consumer) = self.find(key) else { return };
        consumer.in_flight = consumer.in_flight.saturating_sub(count);
        if consumer.state == State::Spent && consumer.credit() > 0 {
            let priority = Reverse(consumer.terms.priority);
            let last = self.next_number() as i64;
            self.move_to(key.slot, Some((priority, last)));
        }
    }

    /// Whether it is anybody's turn.
    pub fn has_ready(&self) -> bool {
        !self.rota.is_empty()
    }

    /// Whether a consumer would be given more if its connection had room.
    pub fn lack_room(&self) -> bool {
        self.short_of_room > 0
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

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Puts a consumer that is not in the rota there, or says that it is spent.
    fn move_to(&mut self, slot: usize, place: Option<Place>) {
        if let Some(place) = place {
            self.rota.insert(place, slot);
        }
        if let Some(consumer) = self.slots.get_mut(slot) {
            consumer.state = place.map_or(State::Spent, State::Ready);
        }
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
    use super::{ConsumerKey, Consumers, InExclusiveUse, Stall, Terms};

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
        for why in [Stall::Room, Stall::Window] {
            consumers.stall(why);
            assert_eq!(consumers.lack_room(), why == Stall::Room);
            consumers.credited(stalled, 1);
            assert_eq!(serve(&mut consumers, 2), "bb");
            assert!(consumers.resume(stalled) && !consumers.resume(stalled));
            assert_eq!(serve(&mut consumers, 3), "aba", "it has waited");
            serve(&mut consumers, 1);
        }
        consumers.stall(Stall::Room);
        consumers.remove(stalled);
        assert!(!consumers.lack_room() && !consumers.resume(stalled));
    }

    #[test]
    fn a_single_active_consumer_is_served_alone_until_it_goes() {
        let mut consumers = Consumers::default();
        consumers.set_single_active(true);
        let first = add(&mut consumers, 'a', terms(0, Some(2)));
        let second = add(&mut consumers, 'b', terms(0, None));
        let third = add(&mut consumers, 'c', terms(7, None));
        assert_eq!(serve(&mut consumers, 5), "aa", "nobody steps in for one that has enough");
        consumers.credited(first, 1);
        assert_eq!(serve(&mut consumers, 5), "a");
        assert!(consumers.is_active(first) && !consumers.is_active(second));
        consumers.remove(second);
        consumers.remove(first);
        assert!(consumers.is_active(third));
        assert_eq!(serve(&mut consumers, 2), "cc");
        add(&mut consumers, 'd', terms(0, None));
        consumers.remove(third);
        assert_eq!(serve(&mut consumers, 1), "d");
        let alone = Terms { exclusive: true, ..terms(0, None) };
        assert_eq!(consumers.add(alone, |_| 'e'), Err(InExclusiveUse));
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
