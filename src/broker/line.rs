//! Consumers that wait for something their connection has too little of: room, or a channel's shared prefetch.
//!
//! Queues take turns, as far as they have consumers that wait; from a queue the one with the highest priority is next,
//! and of several the one that has waited longest.
//!
//! ```text
//!   refused: push                                       resumed with a share: pop
//!  --------------> [ queue r: consumers by priority ] ----------------------------> takes it, and waits again if
//!                  [ queue q: ...                   ]    of the first queue, which   it wants more
//!                                                        is last then
//! ```
//!
//! The outbox's lock guards a line. A consumer is in one line at most, and knows its number there.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::broker::consumer::Consumer;
use crate::message::place::QueueId;

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

/// Queues whose consumers wait, in the order of their turns.
#[derive(Debug)]
pub(super) struct Line {
    turns: BTreeMap<u64, Turn>,
    /// Each queue's place among the turns.
    places: BTreeMap<Option<QueueId>, u64>,
    /// How many consumers wait.
    len: usize,
    /// The last number given to who comes behind all others, and to who is let back in front of them.
    last: u64,
    first: u64,
    /// What the first one needs at least, in bytes; zero when that is not known.
    wanted_bytes: u64,
}

/// The consumers of one queue that wait: nearly always one.
#[derive(Debug)]
struct Turn {
    next: Arc<Consumer>,
    others: BTreeMap<Rank, Arc<Consumer>>,
}

/// Among the consumers of a queue: by priority, then in order of arrival.
type Rank = (Reverse<i64>, u64);

/// Where numbers begin. Zero is none.
const MIDDLE: u64 = 1 << 63;

impl Default for Line {
    fn default() -> Self {
        let (turns, places) = (BTreeMap::new(), BTreeMap::new());
        Self { turns, places, len: 0, last: MIDDLE, first: MIDDLE, wanted_bytes: 0 }
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many consumers wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How much the first one needs at least, as far as that is known.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Comes last among those of its priority. Its queue, if it has no turn to come yet, is last of all.
    pub(super) fn push(&mut self, consumer: &Arc<Consumer>) {
        self.last += 1;
        self.put(self.last, consumer);
    }

    /// Was first, got nothing, and is first again: it needs so many bytes.
    pub(super) fn push_first(&mut self, consumer: &Arc<Consumer>, wanted_bytes: u64) {
        self.first -= 1;
        self.move_turn(queue_of(consumer), self.first);
        self.put(self.first, consumer);
        self.wanted_bytes = wanted_bytes;
    }

    fn move_turn(&mut self, queue: Option<QueueId>, to: u64) {
        if let Some(place) = self.places.get_mut(&queue)
            && let Some(turn) = self.turns.remove(place)
        {
            *place = to;
            self.turns.insert(to, turn);
        }
    }

    fn put(&mut self, number: u64, consumer: &Arc<Consumer>) {
        consumer.place.store(number, Ordering::Relaxed);
        self.len += 1;
        let queue = queue_of(consumer);
        match self.places.get(&queue).and_then(|place| self.turns.get_mut(place)) {
            Some(turn) => turn.add(Arc::clone(consumer)),
            None => {
                self.places.insert(queue, number);
                let turn = Turn { next: Arc::clone(consumer), others: BTreeMap::new() };
                self.turns.insert(number, turn);
            }
        }
    }

    /// One of the queue whose turn it is. If others wait there, it has another turn after all other queues.
    pub(super) fn pop(&mut self) -> Option<Arc<Consumer>> {
        let (&place, turn) = self.turns.first_key_value()?;
        let consumer = Arc::clone(&turn.next);
        self.take_next(place);
        self.last += 1;
        self.move_turn(queue_of(&consumer), self.last);
        self.wanted_bytes = 0;
        Some(consumer)
    }

    /// Waits no longer. `false` when it did not wait here.
    pub(super) fn remove(&mut self, consumer: &Consumer) -> bool {
        let Some(&place) = self.places.get(&queue_of(consumer)) else { return false };
        let is_first = self.turns.keys().next() == Some(&place);
        let Some(turn) = self.turns.get_mut(&place) else { return false };
        if !ptr::eq(&*turn.next, consumer) {
            let is_here = turn.remove_other(consumer);
            self.len -= usize::from(is_here);
            return is_here;
        }
        self.take_next(place);
        self.wanted_bytes = if is_first { 0 } else { self.wanted_bytes };
        true
    }

    /// Takes out who is next at its queue, and the queue with it if nobody else waits there.
    fn take_next(&mut self, place: u64) {
        let Some(turn) = self.turns.get_mut(&place) else { return };
        turn.next.place.store(0, Ordering::Relaxed);
        self.len -= 1;
        if let Some((_, other)) = turn.others.pop_first() {
            turn.next = other;
        } else {
            self.places.remove(&queue_of(&turn.next));
            self.turns.remove(&place);
        }
    }

    /// All that wait in another line come behind.
    pub(super) fn append(&mut self, other: &mut Self) {
        while let Some(consumer) = other.pop() {
            self.push(&consumer);
        }
    }
}

impl Turn {
    fn add(&mut self, mut consumer: Arc<Consumer>) {
        if rank(&consumer) < rank(&self.next) {
            std::mem::swap(&mut consumer, &mut self.next);
        }
        self.others.insert(rank(&consumer), consumer);
    }

    fn remove_other(&mut self, consumer: &Consumer) -> bool {
        let rank = rank(consumer);
        // In another line it may have the same number.
        let is_here = self.others.get(&rank).is_some_and(|other| ptr::eq(&**other, consumer));
        if is_here {
            self.others.remove(&rank);
            consumer.place.store(0, Ordering::Relaxed);
        }
        is_here
    }
}

fn rank(consumer: &Consumer) -> Rank {
    let priority = consumer.source.as_ref().map_or(0, |source| source.priority);
    (Reverse(priority), consumer.place.load(Ordering::Relaxed))
}

fn queue_of(consumer: &Consumer) -> Option<QueueId> {
    consumer.source.as_ref().map(|source| source.queue.id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Line;
    use crate::broker::Broker;
    use crate::broker::consumer::Consumer;
    use crate::broker::outbox::Outbox;
    use crate::broker::queue::lifecycle::Subscription;
    use crate::broker::vhost::{Actor, QueueRequest};
    use crate::config::Config;
    use crate::protocol::table::Table;
    use crate::queue::consumers::Terms;

    /// Who waits: named by queue, number and priority.
    struct Waiting {
        broker: Broker,
        outbox: Arc<Outbox>,
        line: Line,
    }

    impl Waiting {
        fn new(consumers: &[(&str, &str, i64)]) -> (Self, Vec<Arc<Consumer>>) {
            let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
            let outbox = broker.connect();
            let mut waiting = Self { broker, outbox, line: Line::default() };
            let consumers: Vec<_> = consumers
                .iter()
                .map(|(queue, tag, priority)| waiting.consumer(queue, tag, *priority))
                .collect();
            consumers.iter().for_each(|consumer| waiting.line.push(consumer));
            (waiting, consumers)
        }

        fn consumer(&mut self, queue: &str, tag: &str, priority: i64) -> Arc<Consumer> {
            let vhost = self.broker.vhost("/").unwrap();
            let user = self.broker.users.get("guest").unwrap();
            let actor = Actor { user, connection: self.outbox.connection() };
            let request = QueueRequest {
                name: queue,
                durable: false,
                exclusive: false,
                auto_delete: false,
                arguments: Table::EMPTY,
            };
            vhost.declare_queue(&actor, &request).unwrap();
            let subscription = Subscription {
                tag: tag.into(),
                channel: 1,
                timeout_ms: None,
                overdue_action: None,
                no_ack: true,
                terms: Terms { priority, prefetch: None, exclusive: false },
                outbox: Arc::clone(&self.outbox),
            };
            vhost.find_queue(queue, &actor).unwrap().subscribe(subscription).unwrap()
        }

        /// Serves so many, each of which waits again.
        fn serve(&mut self, turns: usize) -> String {
            let served = (0..turns).filter_map(|_| {
                let consumer = self.line.pop()?;
                self.line.push(&consumer);
                Some(consumer.tag.to_string())
            });
            served.collect()
        }

        /// Serves all, none of which waits again.
        fn leave(&mut self) -> String {
            std::iter::from_fn(|| self.line.pop()).map(|consumer| consumer.tag.to_string()).collect()
        }
    }

    #[test]
    fn queues_take_turns_and_send_their_best() {
        let consumers = [("q", "l", 0), ("q", "h", 5), ("r", "r", 0), ("q", "H", 5)];
        let (mut waiting, _) = Waiting::new(&consumers);
        assert_eq!(waiting.serve(6), "hrHrhr");
        assert_eq!((waiting.line.len(), waiting.leave()), (4, "Hrhl".to_owned()));
        assert!(waiting.line.is_empty());
    }

    #[test]
    fn who_is_let_back_in_front_is_first_with_its_queue() {
        let (mut waiting, _) = Waiting::new(&[("q", "a", 0), ("q", "b", 0), ("r", "r", 0)]);
        let first = waiting.line.pop().unwrap();
        waiting.line.push_first(&first, 7);
        assert_eq!(waiting.line.wanted_bytes(), 7);
        assert_eq!(waiting.serve(4), "arbr");
        assert_eq!(waiting.line.wanted_bytes(), 0, "it is known of the first one only");
    }

    #[test]
    fn who_leaves_is_passed_over_and_the_others_keep_their_places() {
        let consumers = [("q", "a", 0), ("q", "b", 0), ("q", "c", -1), ("r", "r", 0)];
        let (mut waiting, consumers) = Waiting::new(&consumers);
        let [a, b, c, r] = consumers.try_into().unwrap();
        let mut elsewhere = Line::default();
        elsewhere.push(&waiting.consumer("q", "x", 0));
        assert!(!elsewhere.remove(&b) && !elsewhere.remove(&a) && !elsewhere.remove(&r));
        assert!(waiting.line.remove(&b) && !waiting.line.remove(&b));
        assert_eq!(waiting.serve(2), "ar");
        assert!(waiting.line.remove(&a) && waiting.line.remove(&r));
        waiting.line.push(&r);
        assert_eq!(waiting.serve(2), "cr");
        assert!(waiting.line.remove(&c));
        assert_eq!((waiting.line.len(), waiting.leave()), (1, "r".to_owned()));
        assert!(!waiting.line.remove(&c));
    }

    #[test]
    fn a_line_that_comes_behind_another_brings_its_queues_together() {
        let (mut waiting, _) = Waiting::new(&[("q", "q", 0), ("r", "r", 0)]);
        let mut window = Line::default();
        window.push(&waiting.consumer("q", "h", 5));
        window.push(&waiting.consumer("s", "s", 0));
        waiting.line.append(&mut window);
        assert!(window.is_empty());
        assert_eq!(waiting.leave(), "hrsq");
    }
}
