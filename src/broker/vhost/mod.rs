//! A virtual host: a namespace of exchanges, queues and the bindings between them.
//!
//! Reading is free of locks that matter; every change takes the one definitions lock, writes the log, then the
//! registries, then raises [`Vhost::version`], by which cached routes know that they are old.
//!
//! Answers come with the position of the log that must be durable before a client may hear them: what was answered
//! must not be undone by a crash, whoever caused it.

mod bindings;
mod delays;
mod exchanges;
pub mod listing;
mod policies;
mod queues;
pub mod removal;
mod restore;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

pub use self::bindings::{BindingRequest, Bound, Recalled};
pub use self::exchanges::{ExchangeRequest, TRACE_EXCHANGE};
pub use self::policies::Following;
pub use self::queues::{DeclaredQueue, QueueRequest};
use crate::auth::permissions::Access;
use crate::auth::users::User;
use crate::broker::error::{BrokerError, Resource, ResourceKind};
use crate::broker::exchange::Exchange;
use crate::broker::node::{ConnectionId, Node};
use crate::broker::policy::Policies;
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::bindings::Definitions;
use crate::broker::vhost::removal::Removal;
use crate::message::fact::{Definition, Fact};
use crate::message::place::Lsn;
use crate::queue::settings::QueueKind;
use crate::routing::ExchangeKind;
use crate::stats::{Charge, Gauge};
use crate::storage::log::Applying;

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    name: Arc<str>,
    node: Arc<Node>,
    exchanges: DashMap<Box<str>, Arc<Exchange>>,
    queues: DashMap<Box<str>, Arc<Queue>>,
    version: AtomicU64,
    /// Where the last definition lies in the log. Raised under the definitions lock, before the change can be seen.
    last_definition: AtomicU64,
    definitions: Mutex<Definitions>,
    /// What administrators say about its objects.
    policies: ArcSwap<Policies>,
    /// How much there may be in it.
    limits: ArcSwap<VhostLimits>,
    /// How many connections have opened it.
    pub opened: Arc<Gauge>,
    /// It is being deleted: nothing new comes in.
    closing: AtomicBool,
    /// Copies of its messages go to [`TRACE_EXCHANGE`].
    traced: AtomicBool,
}

/// What a virtual host is limited to, and its defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VhostLimits {
    /// How many queues it may have.
    pub queues_max: Option<u64>,
    /// How many connections it may have.
    pub connections_max: Option<u64>,
    /// The kind of a queue that is declared without one.
    pub default_queue_kind: QueueKind,
}

/// Who asks for something.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The user, with its permissions.
    pub user: Arc<User>,
    /// The connection, for what is exclusive to it.
    pub connection: ConnectionId,
}

impl Vhost {
    /// A virtual host with the exchanges every client expects.
    pub fn new(name: &str, node: Arc<Node>) -> Self {
        let charge = Charge::new(&node.memory.definitions, 0);
        let vhost = Self {
            name: name.into(),
            node,
            exchanges: DashMap::new(),
            queues: DashMap::new(),
            version: AtomicU64::new(1),
            last_definition: AtomicU64::new(0),
            definitions: Mutex::new(Definitions::new(charge)),
            policies: ArcSwap::default(),
            limits: ArcSwap::default(),
            opened: Arc::default(),
            closing: AtomicBool::new(false),
            traced: AtomicBool::new(false),
        };
        vhost.declare_system_exchanges();
        vhost
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Rises with every change that may alter a route.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The exchange of this name.
    pub fn exchange(&self, name: &str) -> Option<Arc<Exchange>> {
        self.exchanges.get(name).map(|entry| Arc::clone(&entry))
    }

    /// The queue of this name.
    pub fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        self.queues.get(name).map(|entry| Arc::clone(&entry))
    }

    /// Shows every queue.
    pub(in crate::broker) fn each_queue(&self, mut show: impl FnMut(&Arc<Queue>)) {
        self.queues.iter().for_each(|queue| show(&queue));
    }

    /// The exchange of this name, or the refusal a client gets.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`].
    pub fn find_exchange(&self, name: &str) -> Result<Arc<Exchange>, BrokerError> {
        self.exchange(name).ok_or_else(|| BrokerError::NotFound(self.resource(ResourceKind::Exchange, name)))
    }

    /// The queue of this name, if this connection may touch it.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Locked`].
    pub fn find_queue(&self, name: &str, actor: &Actor) -> Result<Arc<Queue>, BrokerError> {
        let queue = self
            .queue(name)
            .ok_or_else(|| BrokerError::NotFound(self.resource(ResourceKind::Queue, name)))?;
        check_owner(&queue, actor)?;
        Ok(queue)
    }

    /// Whether the user may do this to the named object.
    ///
    /// # Errors
    /// [`BrokerError::AccessRefused`].
    pub fn check_access(
        &self,
        actor: &Actor,
        access: Access,
        kind: ResourceKind,
        name: &str,
    ) -> Result<(), BrokerError> {
        let checked = if kind == ResourceKind::Exchange && name.is_empty() { "amq.default" } else { name };
        if actor.user.allows(&self.name, access, checked) {
            return Ok(());
        }
        Err(BrokerError::AccessRefused {
            access: access.name(),
            resource: self.resource(kind, name),
            user: actor.user.name.to_string(),
        })
    }

    /// Whether the user may use this key at this exchange, for which it matters where that routes by topics.
    ///
    /// # Errors
    /// [`BrokerError::TopicRefused`].
    pub fn check_topic(
        &self,
        actor: &Actor,
        access: Access,
        exchange: &Exchange,
        key: &[u8],
    ) -> Result<(), BrokerError> {
        if exchange.properties.kind != ExchangeKind::Topic || !actor.user.has_topic_permissions() {
            return Ok(());
        }
        let key = String::from_utf8_lossy(key);
        if actor.user.allows_topic(&self.name, access, &exchange.properties.name, &key) {
            return Ok(());
        }
        Err(BrokerError::TopicRefused {
            access: access.name(),
            key: key.into_owned(),
            exchange: exchange.resource(),
            user: actor.user.name.to_string(),
        })
    }

    /// Deletes those of the named queues that belong to a connection, when it ends: all of that is still to be done.
    pub fn delete_exclusive_queues(&self, owner: ConnectionId, names: Vec<Box<str>>) -> Removal {
        Removal::of_connection(owner, names)
    }

    fn resource(&self, kind: ResourceKind, name: &str) -> Resource {
        Resource { kind, name: name.to_owned(), vhost: Arc::clone(&self.name) }
    }

    /// Tells the log of a definition, before anything is changed; what it returns is kept until the change is made.
    fn log_definition(&self, definition: Definition<'_>) -> Applying {
        let (logged, applying) = self.node.log.append_one(&Fact::Defined(definition));
        self.note_definition(logged.end);
        applying
    }

    fn note_definition(&self, end: Lsn) {
        self.last_definition.fetch_max(end.0, Ordering::AcqRel);
    }

    /// Where the last definition ends: what an answer about something durable, or about something that may just
    /// have been deleted, waits for. It may wait for more than its own object, and never longer than one sync.
    pub fn last_definition(&self) -> Lsn {
        Lsn(self.last_definition.load(Ordering::Acquire))
    }

    /// What an answer about something waits for: nothing, when that is not durable.
    fn answer_about(&self, durable: bool) -> Lsn {
        if durable { self.last_definition() } else { Lsn::default() }
    }

    /// As [`Vhost::answer_about`], after a change that may have logged what became of others, by which the last
    /// definition is no longer the one of `before`.
    fn answer_after(&self, durable: bool, before: Lsn) -> Lsn {
        self.answer_about(durable || self.last_definition() > before)
    }

    /// Whether copies of its messages go to [`TRACE_EXCHANGE`].
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Begins to send copies of its messages, or ends it: with the next message of each connection, and until the process
    /// ends.
    pub fn trace(&self, on: bool) {
        self.traced.store(on, Ordering::Relaxed);
        self.routes_changed();
    }

    /// Cached routes, and what users were found to be allowed, are asked again.
    pub(in crate::broker) fn routes_changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Vhost {
    /// Exchanges bound in a ring hold each other; whoever drops the registry must let go of all of them.
    fn drop(&mut self) {
        for exchange in &self.exchanges {
            exchange.unbind_everything();
        }
        for exchange in self.definitions.get_mut().sources() {
            exchange.unbind_everything();
        }
    }
}

fn check_owner(queue: &Queue, actor: &Actor) -> Result<(), BrokerError> {
    match queue.properties.exclusive_to {
        Some(owner) if owner != actor.connection => Err(BrokerError::Locked(queue.resource())),
        _ if queue.delays_for().is_some() => Err(BrokerError::Locked(queue.resource())),
        _ => Ok(()),
    }
}

/// Refuses names that are the broker's, or that no object may have.
fn check_new_name(kind: ResourceKind, name: &str) -> Result<(), BrokerError> {
    if name.starts_with("amq.") {
        return Err(BrokerError::ReservedPrefix(kind, name.to_owned()));
    }
    if name.chars().any(char::is_control) {
        return Err(BrokerError::InvalidName(kind, "control characters are not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Actor, BindingRequest, ExchangeRequest};
    use crate::broker::Broker;
    use crate::broker::error::ResourceKind;
    use crate::config::Config;
    use crate::protocol::table::Table;

    #[test]
    fn exchanges_in_a_ring_go_with_their_broker() {
        let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
        let vhost = broker.vhost("/").unwrap();
        let user = broker.users.get("guest").unwrap();
        let actor = Actor { user, connection: broker.connect().connection() };
        let exchange = ExchangeRequest {
            name: "ring",
            kind: "fanout",
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Table::EMPTY,
        };
        vhost.declare_exchange(&actor, &exchange).unwrap();
        let binding = BindingRequest {
            source: "ring",
            kind: ResourceKind::Exchange,
            destination: "ring",
            key: "",
            arguments: Table::EMPTY,
        };
        vhost.bind(&actor, &binding).unwrap();
        let ring = Arc::downgrade(&vhost.exchange("ring").unwrap());
        drop((vhost, broker));
        assert!(ring.upgrade().is_none());
    }
}
