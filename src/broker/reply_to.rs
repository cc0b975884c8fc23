//! Direct reply-to: answers that go to a waiting connection without a queue.
//!
//! A client consumes from `amq.rabbitmq.reply-to` and publishes requests with that as reply-to; the broker puts
//! an address there that stands for the consumer. At most once: a consumer that is gone gets nothing, nor does one whose
//! client leaves more unread than memory has room for. No queue keeps them for it, so they may wait beyond its outbox's room.

use std::sync::Arc;

use dashmap::DashMap;

use crate::broker::consumer::Consumer;
use crate::broker::memory::Memory;
use crate::broker::names;
use crate::broker::wakes::Wakes;
use crate::message::run::Run;

/// The name clients consume from, and the prefix of every address.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is on its way.
    Taken,
    /// Nobody waits at the address.
    Nobody,
    /// Too much waits for the consumer's client to read it.
    Unread,
}

/// All waiting reply consumers, by address.
#[derive(Debug, Default)]
pub struct ReplyConsumers {
    by_address: DashMap<Box<str>, Arc<Consumer>>,
}

impl ReplyConsumers {
    /// Gives a consumer an address.
    pub fn register(&self, consumer: Arc<Consumer>) -> String {
        let address = names::generate(&format!("{REPLY_TO}."));
        self.by_address.insert(address.as_str().into(), consumer);
        address
    }

    /// Takes an address back.
    pub fn unregister(&self, address: &str) {
        self.by_address.remove(address);
    }

    /// Whether someone waits at the address.
    pub fn contains(&self, address: &str) -> bool {
        self.by_address.contains_key(address)
    }

    /// Hands a reply over.
    pub fn deliver(&self, address: &str, run: Run, memory: &Memory, wakes: &mut Wakes) -> Reply {
        let Some(consumer) = self.by_address.get(address).map(|entry| Arc::clone(&entry)) else {
            return Reply::Nobody;
        };
        let mut slot = consumer.outbox.lock();
        if slot.is_closed() {
            return Reply::Nobody;
        }
        if memory.refuses_reply(slot.bytes()) {
            return Reply::Unread;
        }
        memory.replies.add(run.delivery_bytes());
        slot.push(&consumer, run, wakes);
        Reply::Taken
    }
}

/// Whether a routing key is the address of a reply consumer.
pub fn is_address(routing_key: &[u8]) -> bool {
    routing_key.strip_prefix(REPLY_TO.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'.'))
}

/// Whether the name is a reply consumer's: the plain one or an address.
pub fn is_reply_name(name: &str) -> bool {
    name.strip_prefix(REPLY_TO).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
