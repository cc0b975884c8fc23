//! Making again what was defined before the process started: nothing is checked or logged, it was then.

use std::sync::Arc;

use crate::broker::arguments;
use crate::broker::consumer::Consumer;
use crate::broker::exchange::{Destination, ExchangeProperties};
use crate::broker::queue::handle::{Queue, QueueProperties};
use crate::broker::vhost::Vhost;
use crate::broker::vhost::bindings::Label;
use crate::message::fact::{self, Definition};
use crate::message::place::{QueueId, Seq};
use crate::protocol::table::Table;
use crate::queue::classic::Classic;

impl Vhost {
    /// Makes a durable exchange. One whose kind this version does not know is left out, and said to be.
    pub(in crate::broker) fn restore_exchange(&self, definition: &Definition<'_>) {
        let Definition::ExchangeDeclared { name, kind, auto_delete, internal, arguments, .. } = *definition
        else {
            return;
        };
        let Ok(kind) = kind.parse() else {
            tracing::error!(vhost = %self.name, exchange = name, kind, "an exchange of unknown kind is left out");
            return;
        };
        let properties = ExchangeProperties {
            name: name.into(),
            vhost: Arc::clone(&self.name),
            kind,
            durable: true,
            auto_delete,
            internal,
            alternate: Table::parse(arguments).ok().and_then(arguments::declared_alternate).map(Into::into),
            arguments: arguments.into(),
        };
        self.exchanges.insert(name.into(), Arc::new(self.new_exchange(properties)));
    }

    /// Makes a durable queue with the messages it had.
    pub(in crate::broker) fn restore_queue(
        &self,
        id: QueueId,
        definition: &Definition<'_>,
        messages: Classic<Arc<Consumer>>,
        next_seq: Seq,
    ) {
        let Definition::QueueDeclared { name, auto_delete, arguments, .. } = *definition else { return };
        let properties = QueueProperties {
            name: name.into(),
            vhost: Arc::clone(&self.name),
            durable: true,
            auto_delete,
            exclusive_to: None,
            arguments: arguments.into(),
        };
        let queue = Arc::new(Queue::restored(id, properties, Arc::clone(&self.node), messages, next_seq));
        self.node.register(&queue);
        queue.look_soon();
        self.queues.insert(name.into(), queue);
    }

    /// Binds what is there to what is there.
    pub(in crate::broker) fn restore_binding(&self, binding: &fact::Binding<'_>) {
        let destination = match binding.destination {
            fact::Destination::Queue(id) => self.node.durable_queue(id).map(Destination::Queue),
            fact::Destination::Exchange(name) => self.exchange(name).map(Destination::Exchange),
        };
        let (Some(source), Some(destination)) = (self.exchange(binding.source), destination) else { return };
        let label = Label { key: binding.key.into(), arguments: binding.arguments.into() };
        let mut bindings = (**source.bindings.load()).clone();
        if bindings.bind(&label.key, &label.arguments, destination.clone()) {
            source.bindings.store(Arc::new(bindings));
            self.definitions.lock().insert(&source, destination, label);
        }
    }
}
