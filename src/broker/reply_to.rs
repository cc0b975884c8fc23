//! Direct reply-to: answers that go to a waiting connection without a queue.
//!
//! A client consumes from `amq.rabbitmq.reply-to` and publishes requests with that as reply-to; the broker puts
//! an address there that stands for the consumer. Whoever has the address publishes to the default exchange with it as
//! one of the keys: the routing key, or one in CC or BCC. Each address among them gets the message once, beside the queues
//! that the others name, and as soon as it is routed: no transaction keeps it back. Where a queue sends its dead letters
//! to the default exchange, so do they.
//!
//! At most once: a consumer that is gone gets nothing, nor does one whose client leaves more unread than memory has room
//! for. No queue keeps them for it, so they may wait beyond its outbox's room. Nobody is told but the publisher of a
//! mandatory message that has no queue either: it comes back. (RabbitMQ brings it back although it was delivered: whoever
//! sends returned replies once more would send them twice.)

use std::sync::Arc;

use dashmap::DashMap;

use crate::broker::consumer::Consumer;
use crate::broker::memory::Memory;
use crate::broker::names;
use crate::broker::wakes::Wakes;
use crate::message::block::{Big, BlockBuilder};
use crate::message::block_header::Stamp;
use crate::message::record::{BodyView, Content, MessageView};
use crate::message::run::Run;
use crate::stats::Gauge;

/// The name clients consume from, and the prefix of every address.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What became of a message at the addresses among its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replied {
    /// It is on its way to one at least.
    pub is_taken: bool,
    /// At one at least too much waits for the consumer's client to read it.
    pub is_left_unread: bool,
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

    /// Hands a message to those whose addresses are among its keys.
    pub fn deliver<'a>(
        &self,
        message: &MessageView<'_>,
        keys: impl Iterator<Item = &'a [u8]>,
        memory: &Memory,
        wakes: &mut Wakes,
    ) -> Replied {
        let mut replied = Replied::default();
        let mut addresses: Vec<&[u8]> = keys.filter(|key| is_address(key)).collect();
        if addresses.is_empty() {
            return replied;
        }
        addresses.sort_unstable();
        addresses.dedup();
        let run = run_of(message, &memory.messages);
        for address in addresses {
            wakes.count(1);
            let address = String::from_utf8_lossy(address);
            let Some(consumer) = self.by_address.get(&*address).map(|entry| Arc::clone(&entry)) else {
                continue;
            };
            let mut slot = consumer.outbox.lock();
            if slot.is_closed() {
                continue;
            }
            if memory.refuses_reply(slot.bytes()) {
                replied.is_left_unread = true;
                continue;
            }
            memory.replies.add(run.delivery_bytes());
            slot.push(&consumer, run.clone(), wakes);
            replied.is_taken = true;
        }
        replied
    }
}

/// A message that no queue numbers.
fn run_of(message: &MessageView<'_>, gauge: &Arc<Gauge>) -> Run {
    let MessageView { names, properties, body } = *message;
    match body {
        BodyView::Slice(body) => {
            let mut builder = BlockBuilder::default();
            builder.push(&Content { names, properties, body });
            let (block, count, body_bytes) = builder.seal(Stamp::default(), gauge);
            Run::of_block(block, count, body_bytes)
        }
        BodyView::Chunks(pieces) => {
            Run::of_big(Big::new(names, properties, pieces.into(), Stamp::default(), gauge))
        }
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
