//! Exchanges come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::permissions::Access;
use crate::broker::arguments::{self, Equivalence};
use crate::broker::error::{BrokerError, Resource, ResourceKind};
use crate::broker::exchange::{Exchange, ExchangeProperties};
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{Actor, Vhost, check_new_name};
use crate::message::fact::Definition;
use crate::message::place::Lsn;
use crate::protocol::erlang::Atom;
use crate::protocol::table::Table;
use crate::routing::ExchangeKind;

/// Where copies of messages go while a virtual host is traced.
pub const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";

/// The exchanges each virtual host has from the start: name, kind, internal.
const SYSTEM_EXCHANGES: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    (TRACE_EXCHANGE, ExchangeKind::Topic, true),
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

impl ExchangeRequest<'_> {
    /// Whether there can be such an exchange in this virtual host, where none is of its name.
    ///
    /// # Errors
    /// What [`Vhost::declare_exchange`] refuses of any virtual host and user.
    pub fn check(&self, vhost: &Arc<str>) -> Result<(), BrokerError> {
        let kind = self.known_kind()?;
        if self.name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        check_new_name(ResourceKind::Exchange, self.name)?;
        let (name, vhost) = (self.name.to_owned(), Arc::clone(vhost));
        arguments::alternate_exchange(
            self.arguments,
            &Resource { kind: ResourceKind::Exchange, name, vhost },
        )?;
        self.check_arguments(kind)
    }

    fn known_kind(&self) -> Result<ExchangeKind, BrokerError> {
        self.kind.parse().map_err(|_| BrokerError::UnknownExchangeType(self.kind.to_owned()))
    }

    fn check_arguments(&self, kind: ExchangeKind) -> Result<(), BrokerError> {
        kind.check_arguments(self.arguments).map_err(|error| BrokerError::Precondition(error.to_string()))
    }
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
            self.exchanges.insert(name.into(), Arc::new(self.new_exchange(properties)));
        }
    }

    pub(super) fn new_exchange(&self, properties: ExchangeProperties) -> Exchange {
        Exchange::new(self.node.next_exchange_id(), properties, &self.node.lots, &self.node.memory)
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
        let kind = request.known_kind()?;
        if request.name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        self.check_access(actor, Access::Configure, ResourceKind::Exchange, request.name)?;
        let _definitions = self.definitions.lock();
        if let Some(exchange) = self.exchange(request.name) {
            check_same(&exchange, request)?;
            return Ok(self.answer_about(exchange.properties.durable));
        }
        self.check_open()?;
        check_new_name(ResourceKind::Exchange, request.name)?;
        let limit = self.node.limits().exchanges_per_vhost_max as u64;
        let resource = self.resource(ResourceKind::Exchange, request.name);
        if self.exchanges.len() as u64 >= limit {
            return Err(BrokerError::ExchangeLimit(request.name.to_owned(), limit));
        }
        let alternate = arguments::alternate_exchange(request.arguments, &resource)?;
        if let Some(alternate) = alternate {
            self.check_access(actor, Access::Read, ResourceKind::Exchange, request.name)?;
            self.check_access(actor, Access::Write, ResourceKind::Exchange, alternate)?;
        }
        request.check_arguments(kind)?;
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
        let exchange = Arc::new(self.new_exchange(properties));
        exchange.follow(&self.policies);
        self.add_delays(&exchange);
        self.exchanges.insert(request.name.into(), exchange);
        self.routes_changed();
    }

    /// exchange.delete. An exchange that is not there is deleted already. It is gone at once; what is left to be done
    /// knows what the answer waits for. Bindings to what was deleted do not count as use.
    ///
    /// # Errors
    /// Every refusal of exchange.delete.
    pub fn delete_exchange(
        &self,
        actor: &Actor,
        name: &str,
        if_unused: bool,
    ) -> Result<Removal, BrokerError> {
        if name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        if name.starts_with("amq.") {
            return Err(BrokerError::SystemExchange(self.resource(ResourceKind::Exchange, name)));
        }
        self.check_access(actor, Access::Configure, ResourceKind::Exchange, name)?;
        let definitions = self.definitions.lock();
        let Some(exchange) = self.exchange(name) else {
            return Ok(Removal::nothing(self.last_definition()));
        };
        if if_unused && definitions.is_used(&exchange) {
            return Err(BrokerError::InUse(exchange.resource()));
        }
        let delays = self.end_exchange(&exchange);
        Ok(Removal::of_exchange(&exchange, self.answer_about(exchange.properties.durable)).and(delays))
    }

    /// Makes an exchange gone, under the definitions lock: nobody finds it, and it sends nothing. Its bindings, on both
    /// sides, are still there for [`Removal`] to take away; what else is left to be done.
    pub(super) fn end_exchange(&self, exchange: &Exchange) -> Removal {
        let delays = self.end_delays(exchange);
        let name = &exchange.properties.name;
        // The fact says that the bindings on both sides go too.
        let _applying = (exchange.properties.durable)
            .then(|| self.log_definition(Definition::ExchangeDeleted { vhost: &self.name, name }));
        exchange.deleted.store(true, Ordering::Release);
        self.exchanges.remove(name);
        self.routes_changed();
        delays
    }
}

fn check_same(exchange: &Exchange, request: &ExchangeRequest<'_>) -> Result<(), BrokerError> {
    let current = &exchange.properties;
    let same = Equivalence::of(exchange.resource());
    let (received, kept) = (Atom(request.kind).to_string(), Atom(current.kind.name()).to_string());
    same.check_value("type", &received, &kept)?;
    same.check_flag("durable", request.durable, current.durable)?;
    same.check_flag("auto_delete", request.auto_delete, current.auto_delete)?;
    same.check_flag("internal", request.internal, current.internal)?;
    same.check_arguments(&["alternate-exchange"], request.arguments, &current.arguments)
}
