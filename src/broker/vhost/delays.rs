//! Where the messages of a delayed-message exchange wait: in a queue of its own that no client reaches.
//!
//! It is a queue like others to the log, packs and a restart. Its messages are due when their delay is over, wherever they
//! are in it, and go on from there as dead letters do: routed by the exchange, and settled in the same hold of the log.

use std::sync::Arc;

use crate::broker::exchange::Exchange;
use crate::broker::queue::handle::{DELAYS_FOR, DELAYS_PREFIX, Queue, QueueProperties};
use crate::broker::vhost::Vhost;
use crate::broker::vhost::removal::Removal;
use crate::message::fact::Definition;
use crate::protocol::field::Field;
use crate::protocol::table::TableBuf;
use crate::routing::ExchangeKind;

impl Vhost {
    /// Makes the queue of an exchange that delays, under the definitions lock.
    pub(super) fn add_delays(&self, exchange: &Exchange) {
        if exchange.properties.kind != ExchangeKind::Delayed {
            return;
        }
        let (id, durable) = (self.node.next_queue_id(), exchange.properties.durable);
        let name = format!("{DELAYS_PREFIX}{}", id.0);
        let mut arguments = TableBuf::new();
        arguments.insert(DELAYS_FOR, Field::LongStr(exchange.properties.name.as_bytes()));
        let arguments = arguments.into_bytes();
        let _applying = durable.then(|| {
            self.log_definition(Definition::QueueDeclared {
                queue: id,
                vhost: &self.name,
                name: &name,
                auto_delete: false,
                arguments: &arguments,
            })
        });
        let properties = QueueProperties {
            name: name.as_str().into(),
            vhost: Arc::clone(&self.name),
            durable,
            auto_delete: false,
            exclusive_to: None,
            arguments: arguments.into(),
        };
        let queue = Arc::new(Queue::new(id, properties, Arc::clone(&self.node)));
        if durable {
            self.node.register(&queue);
        }
        self.queues.insert(name.into(), Arc::clone(&queue));
        exchange.set_delays(queue);
    }

    /// Ends the queue of an exchange that is about to end, under the definitions lock. It goes first: a start makes a new
    /// one for an exchange without.
    pub(super) fn end_delays(&self, exchange: &Exchange) -> Removal {
        let Some(queue) = exchange.delays() else { return Removal::default() };
        // Nothing is asked that could be refused.
        self.end_queue(queue, false, false).map(|(_, removal)| removal).unwrap_or_default()
    }

    /// After a start: exchanges that delay and have no queue for it, for the process ended between the two, get one.
    pub(in crate::broker) fn restore_delays(&self) {
        let _definitions = self.definitions.lock();
        let exchanges: Vec<_> = self.exchanges.iter().map(|entry| Arc::clone(&entry)).collect();
        for exchange in exchanges.iter().filter(|exchange| exchange.delays().is_none()) {
            self.add_delays(exchange);
        }
    }
}
