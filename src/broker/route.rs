//! From an exchange and keys to the queues that get the message: each one copy, each exchange asked once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use arc_swap::Guard;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::error::BrokerError;
use crate::broker::exchange::{Destination, Exchange, ExchangeId};
use crate::broker::history::Remembered;
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Vhost;
use crate::broker::wakes::Wakes;
use crate::message::place::QueueId;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::routing::{Bindings, MATCH_STEPS_MAX, MatchBudget, delayed, recent_history};

/// Up to so many targets or exchanges a list is searched faster than a set.
const SCANNED_MAX: usize = 16;

/// The queues a message goes to.
pub type Targets = Arc<[Arc<Queue>]>;

/// What routing found.
#[derive(Debug)]
pub struct Routed {
    /// The queues.
    pub targets: Targets,
    /// A message with the same keys may go elsewhere.
    pub by_message: bool,
}

/// Finds the targets of a message published to `exchange` with these keys (the routing key, then CC and BCC). How much
/// work it was (exchanges asked, bindings visited, nodes of a pattern's table) is counted: whoever routes several
/// messages in a turn ends it after one that took many.
///
/// # Errors
/// [`BrokerError::TooManyPatterns`] when the patterns it meets take more than [`MATCH_STEPS_MAX`] steps together.
pub fn route(
    vhost: &Vhost,
    exchange: &Arc<Exchange>,
    keys: &[&[u8]],
    properties: Properties<'_>,
    wakes: &mut Wakes,
) -> Result<Routed, BrokerError> {
    search(Search::default(), vhost, exchange, keys, properties, wakes)
}

/// The same for a message that goes there: exchanges on the way that remember what they are sent do so. `message` makes
/// what they remember, if there are any.
///
/// # Errors
/// Those of [`route`].
pub fn route_message(
    vhost: &Vhost,
    exchange: &Arc<Exchange>,
    keys: &[&[u8]],
    properties: Properties<'_>,
    message: &dyn Fn() -> Arc<Remembered>,
    wakes: &mut Wakes,
) -> Result<Routed, BrokerError> {
    let remembering = Search { message: Some(message), ..Search::default() };
    search(remembering, vhost, exchange, keys, properties, wakes)
}

fn search(
    mut search: Search<'_>,
    vhost: &Vhost,
    exchange: &Arc<Exchange>,
    keys: &[&[u8]],
    properties: Properties<'_>,
    wakes: &mut Wakes,
) -> Result<Routed, BrokerError> {
    let asked = search.ask_all(vhost, exchange, &distinct(keys), properties);
    wakes.count(u32::try_from(search.steps).unwrap_or(u32::MAX));
    asked?;
    // Tables are hashed, and hashes differ from run to run; what a seed plays must not.
    search.targets.sort_unstable_by_key(|queue| queue.id);
    let by_message = search.exchanges.iter().any(|exchange| exchange.is_by_message());
    Ok(Routed { targets: search.targets.as_slice().into(), by_message })
}

/// Each key once: the same again finds the same again.
fn distinct<'k>(keys: &[&'k [u8]]) -> SmallVec<[&'k [u8]; 4]> {
    if let [_] = keys {
        return keys.into();
    }
    let mut known = HashSet::with_capacity_and_hasher(keys.len(), RandomState::default());
    keys.iter().copied().filter(|key| known.insert(*key)).collect()
}

#[derive(Default)]
struct Search<'a> {
    /// What makes the message that is to be remembered.
    message: Option<&'a dyn Fn() -> Arc<Remembered>>,
    /// The message, once an exchange remembers it.
    remembered: Option<Arc<Remembered>>,
    exchanges: SmallVec<[Arc<Exchange>; 4]>,
    targets: SmallVec<[Arc<Queue>; 1]>,
    /// The exchanges again, once there are many.
    known_exchanges: HashSet<ExchangeId, RandomState>,
    /// The targets again, once there are many.
    known_targets: HashSet<QueueId, RandomState>,
    /// How many that were known were found again.
    known: usize,
    steps: usize,
}

impl Search<'_> {
    fn ask_all(
        &mut self,
        vhost: &Vhost,
        exchange: &Arc<Exchange>,
        keys: &[&[u8]],
        properties: Properties<'_>,
    ) -> Result<(), BrokerError> {
        let mut budget = MatchBudget::default();
        self.visit(exchange);
        let mut next = 0;
        while let Some(exchange) = self.exchanges.get(next).cloned() {
            next += 1;
            self.ask(vhost, &exchange, keys, properties, &mut budget)?;
        }
        Ok(())
    }

    fn ask(
        &mut self,
        vhost: &Vhost,
        exchange: &Arc<Exchange>,
        keys: &[&[u8]],
        properties: Properties<'_>,
        budget: &mut MatchBudget,
    ) -> Result<(), BrokerError> {
        self.steps += 1;
        if exchange.is_deleted() {
            return Ok(());
        }
        if let Some(delays) = exchange.delays()
            && delayed::delay_ms(properties).is_some()
        {
            self.add(delays);
            return Ok(());
        }
        let mut matched = false;
        if exchange.is_default() {
            self.steps += keys.len();
            for queue in keys.iter().filter_map(|key| vhost.queue(std::str::from_utf8(key).ok()?)) {
                if !queue.is_deleted() && queue.delays_for().is_none() {
                    matched = true;
                    self.add(&queue);
                }
            }
        } else {
            let bindings = self.pass(exchange, properties);
            let keys = if bindings.takes_first_key() { keys.get(..1).unwrap_or_default() } else { keys };
            for key in keys {
                let known = self.known;
                let steps = bindings.route(key, properties, budget, &mut |destination| {
                    // Bindings of what was deleted go one by one, and lead nowhere until then.
                    if destination.is_deleted() {
                        return;
                    }
                    matched = true;
                    match destination {
                        Destination::Queue(queue) => self.add(queue),
                        Destination::Exchange(exchange) => self.visit(exchange),
                    }
                });
                self.steps += steps.unwrap_or(MATCH_STEPS_MAX);
                // What one key after the other, or one exchange after the other, finds again is as much work.
                if steps.and_then(|_| budget.take(self.known - known)).is_err() {
                    let key = String::from_utf8_lossy(key).into_owned();
                    return Err(BrokerError::TooManyPatterns { exchange: exchange.resource(), key });
                }
            }
        }
        if !matched && let Some(alternate) = exchange.with_alternate(|name| vhost.exchange(name)) {
            self.visit(&alternate);
        }
        Ok(())
    }

    /// The bindings by which the message goes on from an exchange, which may remember it.
    fn pass(&mut self, exchange: &Exchange, properties: Properties<'_>) -> Guard<Arc<Bindings<Destination>>> {
        let load = || exchange.bindings.load();
        match (&exchange.history, self.message) {
            (Some(history), Some(message))
                if recent_history::is_stored(properties.headers().unwrap_or(Table::EMPTY)) =>
            {
                let remembered = self.remembered.get_or_insert_with(message);
                history.remember(Arc::clone(remembered), load)
            }
            _ => load(),
        }
    }

    fn visit(&mut self, exchange: &Arc<Exchange>) {
        match is_new(&self.exchanges, &mut self.known_exchanges, exchange, |exchange| exchange.id) {
            true => self.exchanges.push(Arc::clone(exchange)),
            false => self.known += 1,
        }
    }

    fn add(&mut self, queue: &Arc<Queue>) {
        match is_new(&self.targets, &mut self.known_targets, queue, |queue| queue.id) {
            true => self.targets.push(Arc::clone(queue)),
            false => self.known += 1,
        }
    }
}

/// Whether `one` is not in the list yet; once that is long, the set has all of it, and learns of `one`.
fn is_new<T, I: Eq + Hash>(
    list: &[Arc<T>],
    known: &mut HashSet<I, RandomState>,
    one: &T,
    id: impl Fn(&T) -> I,
) -> bool {
    if list.len() < SCANNED_MAX {
        return list.iter().all(|other| id(other) != id(one));
    }
    if known.is_empty() {
        known.extend(list.iter().map(|other| id(other)));
    }
    known.insert(id(one))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Routed, route};
    use crate::broker::Broker;
    use crate::broker::error::{BrokerError, ResourceKind};
    use crate::broker::vhost::{Actor, BindingRequest, ExchangeRequest, QueueRequest, Vhost};
    use crate::broker::wakes::Wakes;
    use crate::config::Config;
    use crate::protocol::properties::Properties;
    use crate::protocol::table::Table;
    use crate::routing::MATCH_STEPS_MAX;

    /// A broker, and somebody who may do everything in its virtual host.
    struct Place {
        vhost: Arc<Vhost>,
        actor: Actor,
        _broker: Broker,
    }

    impl Place {
        fn new() -> Self {
            let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
            let vhost = broker.vhost("/").unwrap();
            let user = broker.users.get("guest").unwrap();
            let actor = Actor { user, connection: broker.connect().connection() };
            Self { vhost, actor, _broker: broker }
        }

        fn exchange(&self, name: &str, kind: &str) {
            let exchange = ExchangeRequest {
                name,
                kind,
                durable: false,
                auto_delete: false,
                internal: false,
                arguments: Table::EMPTY,
            };
            self.vhost.declare_exchange(&self.actor, &exchange).unwrap();
        }

        fn queue(&self, name: &str) {
            let queue = QueueRequest {
                name,
                durable: false,
                exclusive: false,
                auto_delete: false,
                arguments: Table::EMPTY,
            };
            self.vhost.declare_queue(&self.actor, &queue).unwrap();
        }

        fn bind(&self, source: &str, kind: ResourceKind, destination: &str, key: &str) {
            let binding = BindingRequest { source, kind, destination, key, arguments: Table::EMPTY };
            self.vhost.bind(&self.actor, &binding).unwrap();
        }

        /// What a message with these keys finds, and in how many steps.
        fn route(&self, exchange: &str, keys: &[&[u8]]) -> (Result<Routed, BrokerError>, usize) {
            let mut wakes = Wakes::default();
            let exchange = self.vhost.exchange(exchange).unwrap();
            let routed = route(&self.vhost, &exchange, keys, Properties::EMPTY, &mut wakes);
            (routed, wakes.steps() as usize)
        }
    }

    /// A fanout bound to so many fanouts with a queue each, and one queue more.
    fn tree(width: usize) -> Place {
        let place = Place::new();
        place.exchange("root", "fanout");
        for branch in 0..width {
            let name = format!("branch {branch}");
            place.exchange(&name, "fanout");
            place.queue(&name);
            place.bind("root", ResourceKind::Exchange, &name, "");
            place.bind(&name, ResourceKind::Queue, &name, "");
            // Every way but the first leads to what is known.
            place.bind(&name, ResourceKind::Queue, "branch 0", "");
            place.bind(&name, ResourceKind::Exchange, "root", "");
        }
        place
    }

    #[test]
    fn a_message_passes_as_many_exchanges_as_there_are() {
        for width in [1, 15, 16, 17, 150] {
            let (routed, steps) = tree(width).route("root", &[b""]);
            let routed = routed.unwrap();
            let ids: Vec<_> = routed.targets.iter().map(|queue| queue.id).collect();
            assert_eq!(ids.len(), width);
            assert!(ids.is_sorted(), "the order does not depend on hashes");
            assert!(steps >= 4 * width, "{steps} steps");
        }
    }

    #[test]
    fn the_default_exchange_is_a_step_for_each_key() {
        let (routed, steps) = tree(1).route("", &[b"branch 0", b"none"]);
        assert_eq!((routed.unwrap().targets.len(), steps), (1, 3));
    }

    #[test]
    fn patterns_take_a_bounded_number_of_steps_over_all_exchanges_and_keys() {
        let place = Place::new();
        place.queue("q");
        place.exchange("start", "fanout");
        for name in ["first", "second"] {
            place.exchange(name, "topic");
            place.bind("start", ResourceKind::Exchange, name, "");
            for number in 0..7_u64 {
                place.bind(name, ResourceKind::Queue, "q", &hungry_pattern(number));
            }
        }
        let key = ["a.b.".repeat(63), "z".into()].concat();
        let key = key.as_bytes();
        let (routed, one) = place.route("first", &[key]);
        assert_eq!(routed.unwrap().targets.len(), 1);
        assert!((MATCH_STEPS_MAX / 2..MATCH_STEPS_MAX).contains(&one), "{one} steps of {MATCH_STEPS_MAX}");

        let (twice, steps) = place.route("start", &[key]);
        let refused = BrokerError::TooManyPatterns {
            exchange: place.vhost.exchange("second").unwrap().resource(),
            key: String::from_utf8_lossy(key).into_owned(),
        };
        assert_eq!(twice.unwrap_err(), refused);
        assert!(steps >= MATCH_STEPS_MAX, "what is refused was work, too");
        let other = ["a.b.".repeat(62), "b.b.z".into()].concat();
        let (twice, _) = place.route("first", &[key, other.as_bytes()]);
        assert!(twice.is_err());
    }

    #[test]
    fn what_one_key_after_the_other_finds_is_as_much_work_as_patterns() {
        let place = Place::new();
        place.exchange("all", "fanout");
        place.exchange("any", "topic");
        for number in 0..1000 {
            let queue = format!("q{number}");
            place.queue(&queue);
            place.bind("all", ResourceKind::Queue, &queue, "");
            place.bind("any", ResourceKind::Queue, &queue, "#");
        }
        let keys: Vec<String> = (0..100).map(|number| format!("key {number}")).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let (routed, steps) = place.route("all", &keys);
        assert_eq!(routed.unwrap().targets.len(), 1000);
        assert!(steps < 1100, "keys mean nothing to a fanout: {steps}");
        assert!(place.route("any", &keys).0.is_err());
        let (routed, steps) = place.route("any", &[&b"same"[..]; 100]);
        assert_eq!(routed.unwrap().targets.len(), 1000);
        assert!(steps < 3000, "{steps}");
        assert!(place.route("any", &keys[..10]).0.is_ok(), "an honest message is not refused");
    }

    /// Half of nearly every key matches it, and the rest again: see the tests of [`crate::routing`].
    fn hungry_pattern(number: u64) -> String {
        let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..40).map(|bit| if bits >> bit & 1 == 0 { "#.a." } else { "#.b." }).collect::<String>() + "z"
    }
}
