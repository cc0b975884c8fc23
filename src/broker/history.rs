//! What a recent-history exchange remembers: its last messages, which a queue gets that is bound to it later.
//!
//! It is in memory and ends with the process, as in RabbitMQ. A message is remembered when it is routed, also in a
//! transaction and when nobody is bound. That, and a look at the bindings it goes by, is one hold of the lock; so are the
//! coming of a binding and the look at what it gets. So who is bound gets each message once: as history, or as published.
//!
//! All of them together have a share of memory. Past it those that have much forget their oldest before their time.

use std::sync::Arc;

use imbl::Vector;
use parking_lot::Mutex;

use crate::broker::memory::Memory;
use crate::message::block::Pieces;
use crate::message::names::{Names, NamesBuf};
use crate::stats::Charge;

/// What a message takes beside its parts, in bytes.
const MESSAGE_BYTES: u64 = 256;
/// One that comes makes so many go, at most.
const FORGOTTEN_PER_MESSAGE: usize = 1000;

/// A message as it was published, with what its publisher's connection changed in it.
#[derive(Debug)]
pub struct Remembered {
    /// The exchange it was published to, and its routing key.
    pub names: NamesBuf,
    /// Its raw properties.
    pub properties: Box<[u8]>,
    /// Its body.
    pub body: Pieces,
    bytes: u64,
    _held: Charge,
    _of_histories: Charge,
}

impl Remembered {
    /// A copy of the head, and a body whose pieces pin little more than themselves.
    pub fn new(names: Names<'_>, properties: &[u8], body: Pieces, memory: &Memory) -> Arc<Self> {
        let head_bytes = names.as_bytes().len() + properties.len();
        let body_bytes: usize = body.iter().map(|piece| piece.len()).sum();
        let bytes = (head_bytes + body_bytes) as u64 + MESSAGE_BYTES;
        let mut copied = NamesBuf::default();
        copied.copy(names);
        Arc::new(Self {
            names: copied,
            properties: properties.into(),
            body,
            bytes,
            _held: Charge::new(&memory.messages, bytes),
            _of_histories: Charge::new(&memory.histories, bytes),
        })
    }
}

/// Messages that were remembered, the oldest first.
pub type Past = Vector<Arc<Remembered>>;

/// The last messages of one exchange.
#[derive(Debug)]
pub struct History {
    length: usize,
    memory: Arc<Memory>,
    /// Publishers and who binds meet here; a leaf.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    past: Past,
    bytes: u64,
}

impl History {
    /// One of so many messages, at most.
    pub(super) fn new(length: usize, memory: &Arc<Memory>) -> Self {
        Self { length, memory: Arc::clone(memory), kept: Mutex::default() }
    }

    /// Remembers a message, and looks at what it goes by before anything can be bound.
    pub(super) fn remember<R>(&self, message: Arc<Remembered>, look: impl FnOnce() -> R) -> R {
        let mut kept = self.kept.lock();
        kept.bytes += message.bytes;
        kept.past.push_back(message);
        for _ in 0..FORGOTTEN_PER_MESSAGE {
            if kept.past.len() <= self.length && !self.memory.refuses_history(kept.bytes) {
                break;
            }
            if !kept.forget_oldest() {
                break;
            }
        }
        look()
    }

    /// Binds before another message comes; what was remembered until then.
    pub(super) fn recall(&self, bind: impl FnOnce()) -> Past {
        let kept = self.kept.lock();
        bind();
        kept.past.clone()
    }

    /// Forgets so many messages, at most; how many there were.
    pub(super) fn forget_some(&self, most: u32) -> u32 {
        let mut kept = self.kept.lock();
        (0..most).take_while(|_| kept.forget_oldest()).count() as u32
    }
}

impl Kept {
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.past.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |message| message.bytes);
        oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{FORGOTTEN_PER_MESSAGE, History, MESSAGE_BYTES, Remembered};
    use crate::broker::memory::Memory;
    use crate::message::names::Names;

    const MIB: u64 = 1024 * 1024;

    fn message(memory: &Memory, body_bytes: u64) -> Arc<Remembered> {
        let body = [Bytes::from(vec![0; body_bytes as usize])].into_iter().collect();
        Remembered::new(Names::EMPTY, &[], body, memory)
    }

    #[test]
    fn the_last_messages_are_remembered_and_counted() {
        let memory = Arc::new(Memory::new(u64::MAX, u64::MAX));
        let history = History::new(3, &memory);
        for body_bytes in 0..10 {
            history.remember(message(&memory, body_bytes), || ());
        }
        let past = history.recall(|| ());
        assert_eq!(past.iter().map(|message| message.body[0].len()).collect::<Vec<_>>(), [7, 8, 9]);
        let bytes = 3 * (MESSAGE_BYTES + Names::EMPTY.as_bytes().len() as u64) + 7 + 8 + 9;
        assert_eq!((memory.histories.read(), memory.messages.read()), (bytes, bytes));
        assert_eq!((history.forget_some(2), history.forget_some(2), history.forget_some(2)), (2, 1, 0));
        assert_eq!(memory.histories.read(), bytes, "somebody is still getting them");
        drop(past);
        assert_eq!((memory.histories.read(), memory.messages.read()), (0, 0));
    }

    #[test]
    fn no_message_comes_between_a_binding_and_its_history() {
        let memory = Arc::new(Memory::new(u64::MAX, u64::MAX));
        let history = History::new(3, &memory);
        assert!(history.remember(message(&memory, 1), || history.kept.is_locked()), "who is bound is seen");
        let mut is_locked = false;
        let past = history.recall(|| is_locked = history.kept.is_locked());
        assert_eq!((past.len(), is_locked), (1, true));
    }

    #[test]
    fn all_histories_share_a_part_of_memory_and_who_has_little_keeps_it() {
        let memory = Arc::new(Memory::new(64 * MIB, u64::MAX));
        let (large, small) = (History::new(10_000, &memory), History::new(10_000, &memory));
        (0..5).for_each(|_| small.remember(message(&memory, 10), || ()));
        for _ in 0..100 {
            large.remember(message(&memory, MIB), || ());
        }
        assert!((6 * MIB..=8 * MIB).contains(&memory.histories.read()), "{}", memory.histories.read());
        (0..5).for_each(|_| small.remember(message(&memory, 10), || ()));
        assert_eq!(small.recall(|| ()).len(), 10);
        for _ in 0..3 * FORGOTTEN_PER_MESSAGE {
            small.remember(message(&memory, 10), || ());
        }
        large.remember(message(&memory, 9 * MIB), || ());
        assert!(memory.histories.read() < 2 * MIB, "one that does not fit is not kept at all");
    }
}
