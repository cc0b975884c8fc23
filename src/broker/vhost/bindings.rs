//! Bindings come and go: the tables of the exchanges, and the index that finds a binding by its ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::auth::permissions::Access;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::{Destination, DestinationId, Exchange, ExchangeId};
use crate::broker::history::Past;
use crate::broker::vhost::listing::Wanted;
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{Actor, Vhost, check_owner};
use crate::message::fact::{self, Definition};
use crate::message::place::{Lsn, QueueId};
use crate::protocol::table::Table;
use crate::routing::{self, ExchangeKind, headers};
use crate::stats::Charge;

/// Whether an exchange is in use is seen past so many deleted destinations whose bindings are still there. With more it
/// counts as used until they are gone, and who takes them away looks again.
const DELETED_LOOKED_AT_MAX: usize = 32;

/// What a binding takes beside its key and arguments.
const BINDING_BYTES: u64 = 512;
/// A binding is made and removed in one hold of the definitions: it has no more arguments than this, less one.
const BINDING_STEPS_MAX: u32 = 1025;

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

/// A binding was made, or was there.
#[derive(Debug)]
pub struct Bound {
    /// What the answer waits for.
    pub after: Lsn,
    /// What its destination gets now, for it was sent before.
    pub recalled: Option<Recalled>,
}

/// What an exchange remembers, for a destination that was just bound to it.
#[derive(Debug)]
pub struct Recalled {
    /// Who gets it.
    pub destination: Destination,
    /// The messages.
    pub past: Past,
}

/// All bindings of a virtual host, by both ends. Guarded by its definitions lock.
///
/// A deleted object's bindings are here until [`super::removal`] has taken them away: they lead nowhere.
#[derive(Debug)]
pub(super) struct Definitions {
    pairs: BTreeMap<(DestinationId, ExchangeId), Pair>,
    /// The same pairs from the other end.
    by_source: BTreeSet<(ExchangeId, DestinationId)>,
    count: u64,
    /// What they take, with their copies in the tables of the exchanges.
    charge: Charge,
}

/// Both ends of bindings.
pub(super) type PairId = (DestinationId, ExchangeId);

/// All bindings from one exchange to one destination; there is at least one.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) source: Arc<Exchange>,
    pub(super) destination: Destination,
    pub(super) labels: BTreeSet<Label>,
}

/// One binding, without its ends. Arguments are in canonical order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) key: Box<str>,
    pub(super) arguments: Box<[u8]>,
}

/// Bindings that were taken out of the definitions, and are still in the table of their source.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) source: Arc<Exchange>,
    pub(super) destination: Destination,
    pub(super) labels: Vec<Label>,
    /// What it takes to remove them from the table.
    pub(super) steps: u32,
}

impl Label {
    /// How many steps it takes to bind or to unbind it: an exchange may file it under each of its arguments.
    fn steps(&self) -> u32 {
        1 + Table::unchecked(&self.arguments).len() as u32
    }

    /// About what it takes, here and in the table of its exchange, which may file it under each argument.
    fn bytes(&self) -> u64 {
        BINDING_BYTES + 4 * (self.key.len() + self.arguments.len()) as u64
    }
}

impl Definitions {
    pub(super) fn new(charge: Charge) -> Self {
        Self { pairs: BTreeMap::new(), by_source: BTreeSet::new(), count: 0, charge }
    }

    pub(super) fn insert(&mut self, source: &Arc<Exchange>, destination: Destination, label: Label) {
        let id = destination.id();
        self.by_source.insert((source.id, id));
        let pair = self.pairs.entry((id, source.id)).or_insert_with(|| Pair {
            source: Arc::clone(source),
            destination,
            labels: BTreeSet::new(),
        });
        let bytes = label.bytes();
        if pair.labels.insert(label) {
            self.count += 1;
            self.charge.grow(bytes);
        }
    }

    fn remove(&mut self, source: &Exchange, destination: &Destination, label: &Label) {
        let id = destination.id();
        let Some(pair) = self.pairs.get_mut(&(id, source.id)) else { return };
        if pair.labels.remove(label) {
            self.count -= 1;
            self.charge.shrink(label.bytes());
        }
        if pair.labels.is_empty() {
            self.remove_pair(id, source.id);
        }
    }

    fn remove_pair(&mut self, destination: DestinationId, source: ExchangeId) {
        self.pairs.remove(&(destination, source));
        self.by_source.remove(&(source, destination));
    }

    /// Takes out bindings from or to an object that is gone, for about `most` steps; `None` when it has no more.
    pub(super) fn take_some(&mut self, gone: &Destination, most: u32) -> Option<Taken> {
        let (destination, source) = self.first_pair_from(gone).or_else(|| self.first_pair_to(gone))?;
        let pair = self.pairs.get_mut(&(destination, source))?;
        let (mut labels, mut steps) = (Vec::with_capacity(pair.labels.len().min(most as usize)), 0);
        while steps < most
            && let Some(label) = pair.labels.pop_first()
        {
            steps += label.steps();
            self.charge.shrink(label.bytes());
            labels.push(label);
        }
        let (source_of, destination_of) = (Arc::clone(&pair.source), pair.destination.clone());
        let taken = Taken { source: source_of, destination: destination_of, labels, steps };
        let is_empty = pair.labels.is_empty();
        self.count -= taken.labels.len() as u64;
        if is_empty {
            self.remove_pair(destination, source);
        }
        Some(taken)
    }

    fn first_pair_from(&self, gone: &Destination) -> Option<(DestinationId, ExchangeId)> {
        let Destination::Exchange(exchange) = gone else { return None };
        self.destinations_of(exchange).next().map(|destination| (destination, exchange.id))
    }

    fn first_pair_to(&self, gone: &Destination) -> Option<(DestinationId, ExchangeId)> {
        let id = gone.id();
        let mut pairs = self.pairs.range((id, ExchangeId(0))..=(id, ExchangeId(u64::MAX)));
        pairs.next().map(|(&pair, _)| pair)
    }

    fn destinations_of(&self, source: &Exchange) -> impl Iterator<Item = DestinationId> {
        let first = DestinationId::Queue(QueueId(0));
        let last = DestinationId::Exchange(ExchangeId(u64::MAX));
        let pairs = self.by_source.range((source.id, first)..=(source.id, last));
        pairs.map(|&(_, destination)| destination)
    }

    /// Whether anything that is not deleted is bound to the exchange.
    pub(super) fn is_used(&self, source: &Exchange) -> bool {
        for (looked_at, destination) in self.destinations_of(source).enumerate() {
            let pair = self.pairs.get(&(destination, source.id));
            if looked_at == DELETED_LOOKED_AT_MAX || pair.is_some_and(|pair| !pair.destination.is_deleted()) {
                return true;
            }
        }
        false
    }

    /// The bindings between these two.
    pub(super) fn pair(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(&id)
    }

    /// Where there are wanted bindings, in order, from a pair on.
    pub(super) fn pair_ids(
        &self,
        wanted: &Wanted,
        from: Option<PairId>,
    ) -> Box<dyn Iterator<Item = PairId> + '_> {
        let first = DestinationId::Queue(QueueId(0));
        match wanted {
            Wanted::All => {
                let from = from.unwrap_or((first, ExchangeId(0)));
                Box::new(self.pairs.range(from..).map(|(&pair, _)| pair))
            }
            Wanted::To(destination) => {
                let id = destination.id();
                let from = from.unwrap_or((id, ExchangeId(0)));
                Box::new(self.pairs.range(from..=(id, ExchangeId(u64::MAX))).map(|(&pair, _)| pair))
            }
            Wanted::From(source) => {
                let from = from.map_or(first, |(destination, _)| destination);
                let last = DestinationId::Exchange(ExchangeId(u64::MAX));
                let pairs = self.by_source.range((source.id, from)..=(source.id, last));
                Box::new(pairs.map(|&(source, destination)| (destination, source)))
            }
        }
    }

    /// Every exchange that anything is bound to, deleted ones too; some more than once.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Arc<Exchange>> {
        self.pairs.values().map(|pair| &pair.source)
    }
}

impl Vhost {
    /// queue.bind, exchange.bind. A binding that is there already is left as it is.
    ///
    /// # Errors
    /// Every refusal of queue.bind and exchange.bind.
    pub fn bind(&self, actor: &Actor, request: &BindingRequest<'_>) -> Result<Bound, BrokerError> {
        self.check_binding_access(actor, request)?;
        let mut definitions = self.definitions.lock();
        self.check_open()?;
        let source = self.find_exchange(request.source)?;
        self.check_topic(actor, Access::Read, &source, request.key.as_bytes())?;
        let destination = self.destination(request)?;
        if let Destination::Queue(queue) = &destination {
            check_owner(queue, actor)?;
        }
        if source.properties.kind == ExchangeKind::Headers {
            headers::check_arguments(request.arguments)
                .map_err(|error| BrokerError::Precondition(error.to_string()))?;
        }
        let label = label(request);
        if label.steps() > BINDING_STEPS_MAX {
            let text = format!("binding of more than {} arguments", BINDING_STEPS_MAX - 1);
            return Err(BrokerError::Precondition(text));
        }
        let mut bindings = (**source.bindings.load()).clone();
        bindings.bind_allowed(&label.key).map_err(|error| BrokerError::Precondition(error.to_string()))?;
        let before = self.last_definition();
        let durable = is_durable(&source, &destination);
        let mut recalled = None;
        if bindings.bind(&label.key, &label.arguments, destination.clone()) {
            self.check_room(&definitions)?;
            let fact = self.fact_of(&source, &destination, &label);
            let _applying = durable.then(|| self.log_definition(Definition::Bound(fact)));
            let bind = || source.bindings.store(Arc::new(bindings));
            match &source.history {
                Some(history) => {
                    let past = history.recall(bind);
                    recalled = Some(Recalled { destination: destination.clone(), past });
                }
                None => bind(),
            }
            definitions.insert(&source, destination, label);
            self.routes_changed();
        }
        Ok(Bound { after: self.answer_after(durable, before), recalled })
    }

    fn check_room(&self, definitions: &Definitions) -> Result<(), BrokerError> {
        let limit = self.node.limits().bindings_per_vhost_max as u64;
        if definitions.count < limit {
            return Ok(());
        }
        let text = format!("binding limit in vhost '{}' ({limit}) is reached", self.name);
        Err(BrokerError::Precondition(text))
    }

    /// queue.unbind, exchange.unbind. A binding, queue or exchange that is not there is unbound already. An auto-delete
    /// exchange goes with its last binding: what is left of that to be done knows what the answer waits for.
    ///
    /// # Errors
    /// Every refusal of queue.unbind and exchange.unbind.
    pub fn unbind(&self, actor: &Actor, request: &BindingRequest<'_>) -> Result<Removal, BrokerError> {
        self.check_binding_access(actor, request)?;
        let mut definitions = self.definitions.lock();
        let (Ok(source), Ok(destination)) = (self.find_exchange(request.source), self.destination(request))
        else {
            return Ok(Removal::nothing(self.last_definition()));
        };
        self.check_topic(actor, Access::Read, &source, request.key.as_bytes())?;
        if let Destination::Queue(queue) = &destination {
            check_owner(queue, actor)?;
        }
        let label = label(request);
        let before = self.last_definition();
        let durable = is_durable(&source, &destination);
        let removed = self.remove_binding(&mut definitions, &source, &destination, &label, durable);
        if removed && source.properties.auto_delete && !definitions.is_used(&source) {
            let delays = self.end_exchange(&source);
            return Ok(Removal::of_exchange(&source, self.answer_after(durable, before)).and(delays));
        }
        Ok(Removal::nothing(self.answer_after(durable, before)))
    }

    fn remove_binding(
        &self,
        definitions: &mut Definitions,
        source: &Arc<Exchange>,
        destination: &Destination,
        label: &Label,
        logged: bool,
    ) -> bool {
        let mut bindings = (**source.bindings.load()).clone();
        if !bindings.unbind(&label.key, &label.arguments, destination) {
            return false;
        }
        let fact = self.fact_of(source, destination, label);
        let _applying = logged.then(|| self.log_definition(Definition::Unbound(fact)));
        source.bindings.store(Arc::new(bindings));
        definitions.remove(source, destination, label);
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

    fn fact_of<'a>(
        &'a self,
        source: &'a Exchange,
        destination: &'a Destination,
        label: &'a Label,
    ) -> fact::Binding<'a> {
        let destination = match destination {
            Destination::Queue(queue) => fact::Destination::Queue(queue.id),
            Destination::Exchange(exchange) => fact::Destination::Exchange(&exchange.properties.name),
        };
        fact::Binding {
            vhost: &self.name,
            source: &source.properties.name,
            destination,
            key: &label.key,
            arguments: &label.arguments,
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

fn label(request: &BindingRequest<'_>) -> Label {
    Label {
        key: request.key.into(),
        arguments: routing::canonical(request.arguments.as_bytes()).into_bytes().into(),
    }
}
