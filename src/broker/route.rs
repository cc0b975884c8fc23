//! From an exchange and keys to the queues that get the message: each one copy, each exchange asked once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::exchange::{Destination, Exchange, ExchangeId};
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Vhost;
use crate::message::place::QueueId;
use crate::protocol::table::Table;
use crate::routing::ExchangeKind;

/// Up to so many targets or exchanges a list is searched faster than a set.
const SCANNED_MAX: usize = 16;

/// The queues a message goes to.
pub type Targets = Arc<[Arc<Queue>]>;

/// What routing found.
#[derive(Debug)]
pub struct Routed {
    /// The queues.
    pub targets: Targets,
    /// A message with other headers may go elsewhere.
    pub by_headers: bool,
    /// How much work it was: exchanges asked, bindings visited, nodes of a pattern's table. Whoever routes several
    /// messages in a turn ends it after one that took many.
    pub steps: usize,
}

/// Finds the targets of a message published to `exchange` with these keys (the routing key, then CC and BCC).
pub fn route(vhost: &Vhost, exchange: &Arc<Exchange>, keys: &[&[u8]], headers: Table<'_>) -> Routed {
    let mut search = Search::default();
    search.visit(exchange);
    let mut next = 0;
    while let Some(exchange) = search.exchanges.get(next).cloned() {
        next += 1;
        search.ask(vhost, &exchange, keys, headers);
    }
    // Tables are hashed, and hashes differ from run to run; what a seed plays must not.
    search.targets.sort_unstable_by_key(|queue| queue.id);
    let by_headers =
        search.exchanges.iter().any(|exchange| exchange.properties.kind == ExchangeKind::Headers);
    Routed { targets: search.targets.as_slice().into(), by_headers, steps: search.steps }
}

#[derive(Default)]
struct Search {
    exchanges: SmallVec<[Arc<Exchange>; 4]>,
    targets: SmallVec<[Arc<Queue>; 1]>,
    /// The exchanges again, once there are many.
    known_exchanges: HashSet<ExchangeId, RandomState>,
    /// The targets again, once there are many.
    known_targets: HashSet<QueueId, RandomState>,
    steps: usize,
}

impl Search {
    fn ask(&mut self, vhost: &Vhost, exchange: &Arc<Exchange>, keys: &[&[u8]], headers: Table<'_>) {
        self.steps += 1;
        if exchange.is_deleted() {
            return;
        }
        let mut matched = false;
        if exchange.is_default() {
            self.steps += keys.len();
            for queue in keys.iter().filter_map(|key| vhost.queue(std::str::from_utf8(key).ok()?)) {
                if !queue.is_deleted() {
                    matched = true;
                    self.add(&queue);
                }
            }
        } else {
            let bindings = exchange.bindings.load();
            for key in keys {
                self.steps += bindings.route(key, headers, &mut |destination| {
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
            }
        }
        if !matched
            && let Some(alternate) =
                exchange.properties.alternate.as_deref().and_then(|name| vhost.exchange(name))
        {
            self.visit(&alternate);
        }
    }

    fn visit(&mut self, exchange: &Arc<Exchange>) {
        if is_new(&self.exchanges, &mut self.known_exchanges, exchange, |exchange| exchange.id) {
            self.exchanges.push(Arc::clone(exchange));
        }
    }

    fn add(&mut self, queue: &Arc<Queue>) {
        if is_new(&self.targets, &mut self.known_targets, queue, |queue| queue.id) {
            self.targets.push(Arc::clone(queue));
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

    use super::route;
    use crate::broker::Broker;
    use crate::broker::error::ResourceKind;
    use crate::broker::vhost::{Actor, BindingRequest, ExchangeRequest, QueueRequest, Vhost};
    use crate::config::Config;
    use crate::protocol::table::Table;

    /// A fanout bound to so many fanouts with a queue each, and one queue more.
    fn tree(width: usize) -> (Broker, Arc<Vhost>) {
        let broker = Broker::new(Arc::new(Config::default()), u64::MAX, u64::MAX).unwrap();
        let vhost = broker.vhost("/").unwrap();
        let user = broker.users.get("guest").unwrap();
        let actor = Actor { user, connection: broker.connect().connection() };
        let declare = |name: &str| {
            let exchange = ExchangeRequest {
                name,
                kind: "fanout",
                durable: false,
                auto_delete: false,
                internal: false,
                arguments: Table::EMPTY,
            };
            vhost.declare_exchange(&actor, &exchange).unwrap();
        };
        let bind = |source: &str, kind, destination: &str| {
            let binding = BindingRequest { source, kind, destination, key: "", arguments: Table::EMPTY };
            vhost.bind(&actor, &binding).unwrap();
        };
        declare("root");
        for branch in 0..width {
            let name = format!("branch {branch}");
            declare(&name);
            let queue = QueueRequest {
                name: &name,
                durable: false,
                exclusive: false,
                auto_delete: false,
                arguments: Table::EMPTY,
            };
            vhost.declare_queue(&actor, &queue).unwrap();
            bind("root", ResourceKind::Exchange, &name);
            bind(&name, ResourceKind::Queue, &name);
            // Every way but the first leads to what is known.
            bind(&name, ResourceKind::Queue, "branch 0");
            bind(&name, ResourceKind::Exchange, "root");
        }
        (broker, vhost)
    }

    #[test]
    fn a_message_passes_as_many_exchanges_as_there_are() {
        for width in [1, 15, 16, 17, 150] {
            let (_broker, vhost) = tree(width);
            let routed = route(&vhost, &vhost.exchange("root").unwrap(), &[b""], Table::EMPTY);
            let ids: Vec<_> = routed.targets.iter().map(|queue| queue.id).collect();
            assert_eq!(ids.len(), width);
            assert!(ids.is_sorted(), "the order does not depend on hashes");
            assert!(routed.steps >= 4 * width, "{} steps", routed.steps);
        }
    }

    #[test]
    fn the_default_exchange_is_a_step_for_each_key() {
        let (_broker, vhost) = tree(1);
        let default = vhost.exchange("").unwrap();
        let routed = route(&vhost, &default, &[b"branch 0", b"none"], Table::EMPTY);
        assert_eq!((routed.targets.len(), routed.steps), (1, 3));
    }
}
