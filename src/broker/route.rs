//! From an exchange and keys to the queues that get the message: each one copy, each exchange asked once.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::broker::exchange::{Destination, Exchange};
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Vhost;
use crate::message::place::QueueId;
use crate::protocol::table::Table;
use crate::routing::ExchangeKind;

/// How many exchanges one message may pass.
const EXCHANGES_MAX: usize = 100;
/// Up to so many targets a list is searched faster than a set.
const SCANNED_TARGETS_MAX: usize = 16;

/// The queues a message goes to.
pub type Targets = Arc<[Arc<Queue>]>;

/// What routing found.
#[derive(Debug)]
pub struct Routed {
    /// The queues.
    pub targets: Targets,
    /// A message with other headers may go elsewhere.
    pub by_headers: bool,
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
    Routed { targets: search.targets.as_slice().into(), by_headers }
}

#[derive(Default)]
struct Search {
    exchanges: SmallVec<[Arc<Exchange>; 4]>,
    targets: SmallVec<[Arc<Queue>; 1]>,
    /// The targets again, once there are many.
    seen: HashSet<QueueId>,
}

impl Search {
    fn ask(&mut self, vhost: &Vhost, exchange: &Arc<Exchange>, keys: &[&[u8]], headers: Table<'_>) {
        if exchange.is_deleted() {
            return;
        }
        let mut matched = false;
        if exchange.is_default() {
            for queue in keys.iter().filter_map(|key| vhost.queue(std::str::from_utf8(key).ok()?)) {
                if !queue.is_deleted() {
                    matched = true;
                    self.add(&queue);
                }
            }
        } else {
            let bindings = exchange.bindings.load();
            for key in keys {
                bindings.route(key, headers, &mut |destination| {
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
        let known = self.exchanges.iter().any(|other| Arc::ptr_eq(other, exchange));
        if !known && self.exchanges.len() < EXCHANGES_MAX {
            self.exchanges.push(Arc::clone(exchange));
        }
    }

    fn add(&mut self, queue: &Arc<Queue>) {
        if self.targets.len() < SCANNED_TARGETS_MAX {
            if self.targets.iter().any(|other| other.id == queue.id) {
                return;
            }
        } else {
            if self.seen.is_empty() {
                self.seen.extend(self.targets.iter().map(|other| other.id));
            }
            if !self.seen.insert(queue.id) {
                return;
            }
        }
        self.targets.push(Arc::clone(queue));
    }
}
