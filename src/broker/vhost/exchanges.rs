//! Exchanges come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::permissions::Access;
use crate::broker::arguments::{self, Equivalence};
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::{Destination, Exchange, ExchangeProperties};
use crate::broker::vhost::bindings::Definitions;
use crate::broker::vhost::{Actor, Vhost, check_new_name};
use crate::message::fact::Definition;
use crate::message::place::Lsn;
use crate::protocol::table::Table;
use crate::routing::ExchangeKind;

/// The exchanges each virtual host has from the start: name, kind, internal.
const SYSTEM_EXCHANGES: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
];

/// What exchange.declare asks for.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type, as the client wrote it.
    pub kind: &'a str,
    /// It survives a restart.
    pub durable: bool,
    /// It goes with its last binding.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// Its arguments.
    pub arguments: Table<'a>,
}

impl Vhost {
    pub(super) fn declare_system_exchanges(&self) {
        for (name, kind, internal) in SYSTEM_EXCHANGES {
            let properties = ExchangeProperties {
                name: name.into(),
                vhost: Arc::clone(&self.name),
                kind,
                durable: true,
                auto_delete: false,
                internal,
                alternate: None,
                arguments: Box::default(),
            };
            self.exchanges.insert(name.into(), Arc::new(Exchange::new(properties)));
        }
    }

    /// exchange.declare with `passive`: is it there? What the answer waits for.
    ///
    /// # Errors
    /// [`BrokerError::DefaultExchange`], [`BrokerError::NotFound`].
    pub fn check_exchange(&self, name: &str) -> Result<Lsn, BrokerError> {
        if name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        let exchange = self.find_exchange(name)?;
        Ok(self.answer_about(exchange.properties.durable))
    }

    /// exchange.declare: makes the exchange, or checks that it is as described. What the answer waits for.
    ///
    /// # Errors
    /// Every refusal of exchange.declare.
    pub fn declare_exchange(&self, actor: &Actor, request: &ExchangeRequest<'_>) -> Result<Lsn, BrokerError> {
        let kind: ExchangeKind =
            request.kind.parse().map_err(|_| BrokerError::UnknownExchangeType(request.kind.to_owned()))?;
        if request.name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        self.check_access(actor, Access::Configure, ResourceKind::Exchange, request.name)?;
        let _definitions = self.definitions.lock();
        if let Some(exchange) = self.exchange(request.name) {
            check_same(&exchange, request)?;
            return Ok(self.answer_about(exchange.properties.durable));
        }
        check_new_name(ResourceKind::Exchange, request.name)?;
        let limit = self.node.limits.exchanges_per_vhost_max as u64;
        let resource = self.resource(ResourceKind::Exchange, request.name);
        if self.exchanges.len() as u64 >= limit {
            return Err(BrokerError::ExchangeLimit(request.name.to_owned(), limit));
        }
        let alternate = arguments::alternate_exchange(request.arguments, &resource)?;
        if let Some(alternate) = alternate {
            self.check_access(actor, Access::Read, ResourceKind::Exchange, request.name)?;
            self.check_access(actor, Access::Write, ResourceKind::Exchange, alternate)?;
        }
        self.insert_exchange(request, kind, alternate);
        Ok(self.answer_about(request.durable))
    }

    fn insert_exchange(&self, request: &ExchangeRequest<'_>, kind: ExchangeKind, alternate: Option<&str>) {
        let _applying = request.durable.then(|| {
            self.log_definition(Definition::ExchangeDeclared {
                vhost: &self.name,
                name: request.name,
                kind: kind.name(),
                auto_delete: request.auto_delete,
                internal: request.internal,
                arguments: request.arguments.as_bytes(),
            })
        });
        let properties = ExchangeProperties {
            name: request.name.into(),
            vhost: Arc::clone(&self.name),
            kind,
            durable: request.durable,
            auto_delete: request.auto_delete,
            internal: request.internal,
            alternate: alternate.map(Into::into),
            arguments: request.arguments.as_bytes().into(),
        };
        self.exchanges.insert(request.name.into(), Arc::new(Exchange::new(properties)));
        self.routes_changed();
    }

    /// exchange.delete. An exchange that is not there is deleted already. What the answer waits for.
    ///
    /// # Errors
    /// Every refusal of exchange.delete.
    pub fn delete_exchange(&self, actor: &Actor, name: &str, if_unused: bool) -> Result<Lsn, BrokerError> {
        if name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        if name.starts_with("amq.") {
            return Err(BrokerError::SystemExchange(self.resource(ResourceKind::Exchange, name)));
        }
        self.check_access(actor, Access::Configure, ResourceKind::Exchange, name)?;
        let mut definitions = self.definitions.lock();
        let Some(exchange) = self.exchange(name) else { return Ok(self.last_definition()) };
        if if_unused && !exchange.bindings.load().is_empty() {
            return Err(BrokerError::InUse(exchange.resource()));
        }
        let before = self.last_definition();
        self.remove_exchange(&mut definitions, &exchange);
        Ok(self.answer_after(exchange.properties.durable, before))
    }

    /// Removes an exchange, the bindings on both sides of it, and the auto-delete exchanges that lose their
    /// last binding by it.
    pub(super) fn remove_exchange(&self, definitions: &mut Definitions, exchange: &Arc<Exchange>) {
        let mut doomed = vec![Arc::clone(exchange)];
        while let Some(exchange) = doomed.pop() {
            if exchange.deleted.load(Ordering::Acquire) {
                continue;
            }
            let name = &exchange.properties.name;
            // The fact says that the bindings on both sides go too.
            let _applying = (exchange.properties.durable)
                .then(|| self.log_definition(Definition::ExchangeDeleted { vhost: &self.name, name }));
            exchange.deleted.store(true, Ordering::Release);
            self.exchanges.remove(name);
            definitions.forget_source(name);
            exchange.unbind_everything();
            doomed.extend(self.unbind_all(definitions, &Destination::Exchange(Arc::clone(&exchange))));
        }
        self.routes_changed();
    }
}

fn check_same(exchange: &Exchange, request: &ExchangeRequest<'_>) -> Result<(), BrokerError> {
    let current = &exchange.properties;
    let same = Equivalence::of(exchange.resource());
    same.check_value("type", request.kind, current.kind.name())?;
    same.check_flag("durable", request.durable, current.durable)?;
    same.check_flag("auto_delete", request.auto_delete, current.auto_delete)?;
    same.check_flag("internal", request.internal, current.internal)?;
    same.check_arguments(&["alternate-exchange"], request.arguments, &current.arguments)
}
