//! What must outlive a crash: durable exchanges and queues, the bindings between them, and the persistent messages
//! of the queues, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The kinds of exchange the workload uses.
pub(crate) const FANOUT: &str = "fanout";
pub(crate) const DIRECT: &str = "direct";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// By name: the kind.
    pub(crate) exchanges: BTreeMap<String, &'static str>,
    /// By name: the messages.
    pub(crate) queues: BTreeMap<String, Vec<u32>>,
    pub(crate) bindings: BTreeSet<Binding>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) to: Destination,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    Queue(String),
    Exchange(String),
}

/// The queues that bindings lead to.
pub(crate) fn route(
    kinds: &BTreeMap<String, &'static str>,
    bindings: &BTreeSet<Binding>,
    exchange: &str,
    key: &str,
) -> BTreeSet<String> {
    let mut visited = BTreeSet::new();
    let mut to_visit = vec![exchange.to_owned()];
    let mut queues = BTreeSet::new();
    while let Some(exchange) = to_visit.pop() {
        let Some(kind) = kinds.get(&exchange).filter(|_| visited.insert(exchange.clone())) else { continue };
        for binding in bindings.iter().filter(|binding| binding.source == exchange) {
            match &binding.to {
                _ if *kind == DIRECT && binding.key != key => {}
                Destination::Queue(queue) => drop(queues.insert(queue.clone())),
                Destination::Exchange(next) => to_visit.push(next.clone()),
            }
        }
    }
    queues
}

impl State {
    /// In what another differs from it, in a few lines.
    pub(crate) fn difference(&self, found: &Self) -> String {
        let mut text = String::new();
        if self.exchanges != found.exchanges {
            let _ = writeln!(text, "  exchanges {:?}, found {:?}", self.exchanges, found.exchanges);
        }
        for name in self.queues.keys().chain(found.queues.keys()).collect::<BTreeSet<_>>() {
            match (self.queues.get(name), found.queues.get(name)) {
                (Some(_), None) => drop(writeln!(text, "  queue {name} is not there")),
                (None, Some(_)) => drop(writeln!(text, "  queue {name} should not be there")),
                (Some(wanted), Some(got)) if wanted != got => {
                    let lost: Vec<_> = wanted.iter().filter(|id| !got.contains(id)).collect();
                    let back: Vec<_> = got.iter().filter(|id| !wanted.contains(id)).collect();
                    let _ = writeln!(text, "  queue {name}: missing {lost:?}, too many {back:?}");
                    if lost.is_empty() && back.is_empty() {
                        let _ = writeln!(text, "    in order {wanted:?}, found {got:?}");
                    }
                }
                _ => {}
            }
        }
        if self.bindings != found.bindings {
            let _ = writeln!(text, "  bindings {:?}, found {:?}", self.bindings, found.bindings);
        }
        text
    }
}
