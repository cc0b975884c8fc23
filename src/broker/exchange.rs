//! An exchange: what it is, and where it sends.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::broker::error::{Resource, ResourceKind};
use crate::broker::history::History;
use crate::broker::memory::Memory;
use crate::broker::policy::{Applied, Policies};
use crate::broker::queue::handle::Queue;
use crate::message::place::QueueId;
use crate::protocol::table::Table;
use crate::routing::{Bindings, ExchangeKind, Lots, Member, recent_history, stable_hash};

/// An exchange's unchanging properties, as declared.
#[derive(Clone, Debug)]
pub struct ExchangeProperties {
    /// Its name.
    pub name: Box<str>,
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// How it routes.
    pub kind: ExchangeKind,
    /// It survives a restart.
    pub durable: bool,
    /// It goes when the last binding from it does.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// The exchange that gets what this one cannot route, by its arguments.
    pub alternate: Option<Box<str>>,
    /// Its arguments: a valid field table without its length.
    pub arguments: Box<[u8]>,
}

/// An exchange's identity, never used again in the process: one deleted and declared again under its name is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// An exchange.
pub struct Exchange {
    /// Its number.
    pub id: ExchangeId,
    /// What it was declared as.
    pub properties: ExchangeProperties,
    /// Where it sends: a snapshot that publishers read without a lock, replaced under the definitions lock.
    pub bindings: ArcSwap<Bindings<Destination>>,
    /// What it remembers, if it is of that kind.
    pub history: Option<History>,
    /// Where its messages wait that are to be delayed, if it is of that kind.
    delays: OnceLock<Arc<Queue>>,
    /// The policies that apply to it, and the alternate exchange by those.
    policies: ArcSwapOption<(Applied, Option<Box<str>>)>,
    /// Set once, under the definitions lock, when it is gone. Its bindings go after it, in steps.
    pub(super) deleted: AtomicBool,
}

impl Exchange {
    /// An exchange without bindings. What it leaves to chance is decided by `lots`, what it remembers counts in `memory`.
    pub fn new(
        id: ExchangeId,
        properties: ExchangeProperties,
        lots: &Arc<Lots>,
        memory: &Arc<Memory>,
    ) -> Self {
        let arguments = Table::unchecked(&properties.arguments);
        let bindings = Bindings::with(properties.kind, arguments, lots);
        let length = recent_history::length(arguments).ok();
        let length = length.filter(|_| properties.kind == ExchangeKind::RecentHistory);
        let history = length.map(|length| History::new(length, memory));
        Self {
            id,
            properties,
            bindings: ArcSwap::from_pointee(bindings),
            history,
            delays: OnceLock::new(),
            policies: ArcSwapOption::empty(),
            deleted: AtomicBool::new(false),
        }
    }

    /// Whether it was deleted; it sends nothing anywhere then, whatever its bindings say.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The policies that apply to it.
    pub fn policies(&self) -> Option<Applied> {
        self.policies.load().as_deref().map(|(applied, _)| applied.clone())
    }

    /// What its virtual host's policies say now counts from now on.
    pub(super) fn follow(&self, policies: &ArcSwap<Policies>) {
        loop {
            let followed = policies.load_full();
            let applied = followed.for_exchange(&self.properties.name);
            let alternate = applied.alternate();
            self.policies.store((!applied.is_empty()).then(|| Arc::new((applied, alternate))));
            // Somebody else may have followed later ones in between.
            if Arc::ptr_eq(&followed, &policies.load()) {
                return;
            }
        }
    }

    /// Shows the name of the exchange that gets what this one cannot route: as it was declared, or else by policy.
    pub(super) fn with_alternate<T>(&self, show: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match (&self.properties.alternate, &*self.policies.load()) {
            (Some(name), _) => show(name),
            (None, Some(policies)) => show(policies.1.as_deref()?),
            (None, None) => None,
        }
    }

    /// Where its messages wait that are to be delayed.
    pub fn delays(&self) -> Option<&Arc<Queue>> {
        self.delays.get()
    }

    /// Its messages that are to be delayed wait there. Told once.
    pub(super) fn set_delays(&self, queue: Arc<Queue>) {
        let is_first = self.delays.set(queue).is_ok();
        debug_assert!(is_first, "an exchange has one queue for what waits");
    }

    /// Whether messages with the same keys may go elsewhere.
    pub(super) fn is_by_message(&self) -> bool {
        self.properties.kind == ExchangeKind::Delayed || !self.bindings.load().is_by_key()
    }

    /// Its name for error texts.
    pub fn resource(&self) -> Resource {
        Resource {
            kind: ResourceKind::Exchange,
            name: self.properties.name.to_string(),
            vhost: Arc::clone(&self.properties.vhost),
        }
    }

    /// Lets go of everything it sends to.
    pub(super) fn unbind_everything(&self) {
        self.bindings.store(Arc::new(Bindings::new(self.properties.kind)));
    }

    /// Whether it is the one that knows every queue by its name.
    pub fn is_default(&self) -> bool {
        self.properties.name.is_empty()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("name", &self.properties.name).finish_non_exhaustive()
    }
}

/// A binding's far end. Two are equal when they are the same object, not when they have the same name.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A queue.
    Queue(Arc<Queue>),
    /// Another exchange.
    Exchange(Arc<Exchange>),
}

/// Which destination it is. Sorted by these, tables have the same order in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationId {
    /// A queue.
    Queue(QueueId),
    /// Another exchange.
    Exchange(ExchangeId),
}

impl Destination {
    /// Its number.
    pub fn id(&self) -> DestinationId {
        match self {
            Self::Queue(queue) => DestinationId::Queue(queue.id),
            Self::Exchange(exchange) => DestinationId::Exchange(exchange.id),
        }
    }

    /// Whether it was deleted; bindings to it that are still there lead nowhere.
    pub fn is_deleted(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_deleted(),
            Self::Exchange(exchange) => exchange.is_deleted(),
        }
    }
}

impl Member for Destination {
    fn place(&self) -> u64 {
        match self {
            Self::Queue(queue) => stable_hash(0, queue.properties.name.as_bytes()),
            Self::Exchange(exchange) => stable_hash(1, exchange.properties.name.as_bytes()),
        }
    }

    fn is_gone(&self) -> bool {
        self.is_deleted()
    }
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Queue(one), Self::Queue(two)) => Arc::ptr_eq(one, two),
            (Self::Exchange(one), Self::Exchange(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for Destination {}

impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Queue(queue) => Arc::as_ptr(queue).hash(state),
            Self::Exchange(exchange) => Arc::as_ptr(exchange).hash(state),
        }
    }
}
