//! Bindings come and go: the tables of the exchanges, and the index that finds a binding by its ends.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::auth::permissions::Access;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::{Destination, Exchange};
use crate::broker::vhost::{Actor, Vhost, check_owner};
use crate::message::fact::{self, Definition};
use crate::message::place::Lsn;
use crate::protocol::table::Table;
use crate::routing::{self, ExchangeKind, headers};

/// What queue.bind, exchange.bind and their opposites ask for.
#[derive(Clone, Copy, Debug)]
pub struct BindingRequest<'a> {
    /// The exchange messages come from.
    pub source: &'a str,
    /// A queue or an exchange.
    pub kind: ResourceKind,
    /// The destination's name.
    pub destination: &'a str,
    /// The binding key.
    pub key: &'a str,
    /// The arguments.
    pub arguments: Table<'a>,
}

/// All bindings of a virtual host, by both ends. Guarded by its definitions lock.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    by_destination: HashMap<Destination, BTreeSet<Record>>,
    by_source: HashMap<Box<str>, HashSet<(Destination, Record)>>,
    count: u64,
}

/// One binding, without the end it is found by. Arguments are in canonical order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Record {
    pub(super) source: Box<str>,
    pub(super) key: Box<str>,
    pub(super) arguments: Box<[u8]>,
}

impl Definitions {
    pub(super) fn insert(&mut self, destination: Destination, record: Record) {
        self.count += 1;
        self.by_source
            .entry(record.source.clone())
            .or_default()
            .insert((destination.clone(), record.clone()));
        self.by_destination.entry(destination).or_default().insert(record);
    }

    fn remove(&mut self, destination: &Destination, record: &Record) {
        self.count -= 1;
        if let Some(records) = self.by_destination.get_mut(destination) {
            records.remove(record);
            if records.is_empty() {
                self.by_destination.remove(destination);
            }
        }
        if let Some(records) = self.by_source.get_mut(&record.source) {
            records.remove(&(destination.clone(), record.clone()));
            if records.is_empty() {
                self.by_source.remove(&record.source);
            }
        }
    }

    /// Drops all bindings from an exchange that is going.
    pub(super) fn forget_source(&mut self, source: &str) {
        for (destination, record) in self.by_source.remove(source).unwrap_or_default() {
            self.remove(&destination, &record);
        }
    }
}

impl Vhost {
    /// queue.bind, exchange.bind. A binding that is there already is left as it is. What the answer waits for.
    ///
    /// # Errors
    /// Every refusal of queue.bind and exchange.bind.
    pub fn bind(&self, actor: &Actor, request: &BindingRequest<'_>) -> Result<Lsn, BrokerError> {
        self.check_binding_access(actor, request)?;
        let mut definitions = self.definitions.lock();
        let source = self.find_exchange(request.source)?;
        let destination = self.destination(request)?;
        if let Destination::Queue(queue) = &destination {
            check_owner(queue, actor)?;
        }
        if source.properties.kind == ExchangeKind::Headers {
            headers::check_arguments(request.arguments)
                .map_err(|error| BrokerError::Precondition(error.to_string()))?;
        }
        let limit = self.node.limits.bindings_per_vhost_max as u64;
        if definitions.count >= limit {
            return Err(BrokerError::Precondition(format!(
                "binding limit in vhost '{}' ({limit}) is reached",
                self.name
            )));
        }
        let record = record(request);
        let mut bindings = (**source.bindings.load()).clone();
        bindings.bind_allowed(&record.key).map_err(|error| BrokerError::Precondition(error.to_string()))?;
        let before = self.last_definition();
        let durable = is_durable(&source, &destination);
        if bindings.bind(&record.key, &record.arguments, destination.clone()) {
            let _applying =
                durable.then(|| self.log_definition(Definition::Bound(self.fact_of(&destination, &record))));
            source.bindings.store(Arc::new(bindings));
            definitions.insert(destination, record);
            self.routes_changed();
        }
        Ok(self.answer_after(durable, before))
    }

    /// queue.unbind, exchange.unbind. A binding, queue or exchange that is not there is unbound already. What the
    /// answer waits for.
    ///
    /// # Errors
    /// Every refusal of queue.unbind and exchange.unbind.
    pub fn unbind(&self, actor: &Actor, request: &BindingRequest<'_>) -> Result<Lsn, BrokerError> {
        self.check_binding_access(actor, request)?;
        let mut definitions = self.definitions.lock();
        let (Ok(source), Ok(destination)) = (self.find_exchange(request.source), self.destination(request))
        else {
            return Ok(self.last_definition());
        };
        if let Destination::Queue(queue) = &destination {
            check_owner(queue, actor)?;
        }
        let record = record(request);
        let before = self.last_definition();
        let durable = is_durable(&source, &destination);
        if self.remove_binding(&mut definitions, &source, &destination, &record, durable)
            && source.properties.auto_delete
            && source.bindings.load().is_empty()
        {
            self.remove_exchange(&mut definitions, &source);
        }
        Ok(self.answer_after(durable, before))
    }

    /// Removes every binding to a destination that is going; the auto-delete exchanges that lost their last. The
    /// log needs no fact for each: that the destination went says it.
    pub(super) fn unbind_all(
        &self,
        definitions: &mut Definitions,
        destination: &Destination,
    ) -> Vec<Arc<Exchange>> {
        let mut unused = Vec::new();
        for record in definitions.by_destination.get(destination).cloned().unwrap_or_default() {
            let Some(source) = self.exchange(&record.source) else { continue };
            self.remove_binding(definitions, &source, destination, &record, false);
            if source.properties.auto_delete && source.bindings.load().is_empty() {
                unused.push(source);
            }
        }
        unused
    }

    fn remove_binding(
        &self,
        definitions: &mut Definitions,
        source: &Arc<Exchange>,
        destination: &Destination,
        record: &Record,
        logged: bool,
    ) -> bool {
        let mut bindings = (**source.bindings.load()).clone();
        if !bindings.unbind(&record.key, &record.arguments, destination) {
            return false;
        }
        let _applying =
            logged.then(|| self.log_definition(Definition::Unbound(self.fact_of(destination, record))));
        source.bindings.store(Arc::new(bindings));
        definitions.remove(destination, record);
        self.routes_changed();
        true
    }

    fn check_binding_access(&self, actor: &Actor, request: &BindingRequest<'_>) -> Result<(), BrokerError> {
        self.check_access(actor, Access::Write, request.kind, request.destination)?;
        let is_default = request.kind == ResourceKind::Exchange && request.destination.is_empty();
        if is_default || request.source.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        self.check_access(actor, Access::Read, ResourceKind::Exchange, request.source)
    }

    fn destination(&self, request: &BindingRequest<'_>) -> Result<Destination, BrokerError> {
        let found = match request.kind {
            ResourceKind::Queue => self.queue(request.destination).map(Destination::Queue),
            ResourceKind::Exchange => self.exchange(request.destination).map(Destination::Exchange),
        };
        found.ok_or_else(|| BrokerError::NotFound(self.resource(request.kind, request.destination)))
    }

    fn fact_of<'a>(&'a self, destination: &'a Destination, record: &'a Record) -> fact::Binding<'a> {
        let destination = match destination {
            Destination::Queue(queue) => fact::Destination::Queue(queue.id),
            Destination::Exchange(exchange) => fact::Destination::Exchange(&exchange.properties.name),
        };
        fact::Binding {
            vhost: &self.name,
            source: &record.source,
            destination,
            key: &record.key,
            arguments: &record.arguments,
        }
    }
}

/// A binding is durable when both of its ends are.
fn is_durable(source: &Exchange, destination: &Destination) -> bool {
    source.properties.durable
        && match destination {
            Destination::Queue(queue) => queue.properties.durable,
            Destination::Exchange(exchange) => exchange.properties.durable,
        }
}

fn record(request: &BindingRequest<'_>) -> Record {
    Record {
        source: request.source.into(),
        key: request.key.into(),
        arguments: routing::canonical(request.arguments.as_bytes()).into_bytes().into(),
    }
}
