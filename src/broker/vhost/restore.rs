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
        let exchange = self.new_exchange(properties);
        exchange.follow(&self.policies);
        self.exchanges.insert(name.into(), Arc::new(exchange));
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
        queue.begin_under(&self.policies);
        queue.look_soon();
        if let Some(exchange) = queue.delays_for().and_then(|name| self.exchange(name)) {
            exchange.set_delays(Arc::clone(&queue));
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::broker::Broker;
    use crate::broker::error::ResourceKind;
    use crate::broker::memory::Memory;
    use crate::broker::route::route;
    use crate::broker::vhost::{Actor, BindingRequest, ExchangeRequest, QueueRequest, Vhost};
    use crate::broker::wakes::Wakes;
    use crate::config::Config;
    use crate::protocol::field::Field;
    use crate::protocol::properties::{Properties, PropertiesBuf};
    use crate::protocol::table::{Table, TableBuf};
    use crate::storage::disk::simulated::SimulatedDisk;
    use crate::storage::log::{Committed, LogOptions};

    const QUEUES: [&str; 4] = ["one", "two", "three", "four"];
    const EXCHANGES: [&str; 3] = ["by key", "by id", "by number"];
    const MESSAGES: u64 = 100;

    fn open(disk: &Arc<SimulatedDisk>, epoch_seed: u64) -> Broker {
        let (config, memory) = (Arc::new(Config::default()), Memory::new(u64::MAX, u64::MAX));
        let options =
            LogOptions { epoch_seed: Some(epoch_seed), slot_bytes: 1 << 20, ..LogOptions::default() };
        Broker::open(config, Arc::<SimulatedDisk>::clone(disk), options, memory).unwrap().0
    }

    fn declare(vhost: &Vhost, actor: &Actor, exchange: &str, kind: &str, arguments: Table<'_>) {
        let request = ExchangeRequest {
            name: exchange,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments,
        };
        vhost.declare_exchange(actor, &request).unwrap();
        for (queue, key) in QUEUES.into_iter().zip(["1", "2", "3", "4"]) {
            let binding = BindingRequest {
                source: exchange,
                kind: ResourceKind::Queue,
                destination: queue,
                key,
                arguments: Table::EMPTY,
            };
            vhost.bind(actor, &binding).unwrap();
        }
    }

    /// Where messages with numbers as keys and as message-ids go.
    fn ways(vhost: &Vhost, exchange: &str) -> BTreeMap<u64, Vec<String>> {
        let exchange = vhost.exchange(exchange).unwrap();
        let way = |number: u64| {
            let mut properties = PropertiesBuf::new();
            properties.message_id(number.to_string());
            let (properties, key) = (properties.into_bytes(), number.to_string());
            let properties = Properties::parse(&properties).unwrap();
            let routed =
                route(vhost, &exchange, &[key.as_bytes()], properties, &mut Wakes::default()).unwrap();
            (number, routed.targets.iter().map(|queue| queue.properties.name.to_string()).collect())
        };
        (0..MESSAGES).map(way).collect()
    }

    #[test]
    fn messages_are_placed_after_a_restart_where_they_were_before() {
        let disk = Arc::new(SimulatedDisk::new());
        let before = {
            let broker = open(&disk, 1);
            let vhost = broker.vhost("/").unwrap();
            let user = broker.users.get("guest").unwrap();
            let actor = Actor { user, connection: broker.connect().connection() };
            for name in QUEUES {
                let queue = QueueRequest {
                    name,
                    durable: true,
                    exclusive: false,
                    auto_delete: false,
                    arguments: Table::EMPTY,
                };
                vhost.declare_queue(&actor, &queue).unwrap();
            }
            let mut by_id = TableBuf::new();
            by_id.insert("hash-property", Field::LongStr(b"message_id"));
            declare(&vhost, &actor, "by key", "x-consistent-hash", Table::EMPTY);
            declare(&vhost, &actor, "by id", "x-consistent-hash", by_id.as_table());
            let mut short = TableBuf::new();
            short.insert("x-recent-history-length", Field::I32(1));
            declare(&vhost, &actor, "recent", "x-recent-history", short.as_table());
            declare(&vhost, &actor, "by number", "x-modulus-hash", Table::EMPTY);
            while broker.node.log.commit_once().unwrap() == Committed::Batch {}
            EXCHANGES.map(|exchange| ways(&vhost, exchange))
        };
        assert_eq!(before[0], before[1], "keys and message-ids are the same");
        let one_each = before.iter().flat_map(BTreeMap::values).all(|queues| queues.len() == 1);
        assert!(one_each && before[0].values().any(|queues| *queues != before[0][&0]));
        let broker = open(&disk, 2);
        let vhost = broker.vhost("/").unwrap();
        assert_eq!(EXCHANGES.map(|exchange| ways(&vhost, exchange)), before);
        assert!(ways(&vhost, "recent").values().all(|queues| queues.len() == QUEUES.len()));
        assert!(vhost.exchange("recent").unwrap().history.as_ref().unwrap().recall(|| ()).is_empty());
    }
}
