//! What is declared, for those who want to see all of it: snapshots, and no lock is held for longer than a part of one.

use std::ops::Bound;
use std::sync::Arc;

use crate::broker::exchange::{Destination, Exchange};
use crate::broker::queue::handle::Queue;
use crate::broker::vhost::Vhost;
use crate::broker::vhost::bindings::{Definitions, Label, PairId};

/// So many bindings are listed in one hold of the definitions.
const BINDINGS_PER_HOLD: usize = 500;

/// A binding, as it was when it was listed.
#[derive(Clone, Debug)]
pub struct ListedBinding {
    /// Where messages come from.
    pub source: Arc<Exchange>,
    /// Where they go.
    pub destination: Destination,
    /// The binding key.
    pub key: Box<str>,
    /// The arguments, in canonical order: a valid field table without its length.
    pub arguments: Box<[u8]>,
}

/// Which bindings are wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// All.
    All,
    /// Those to one queue or exchange.
    To(Destination),
    /// Those from one exchange.
    From(Arc<Exchange>),
}

impl Vhost {
    /// Every queue that a client may know of, in no order.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        let queues = self.queues.iter().map(|queue| Arc::clone(&queue));
        queues.filter(|queue| queue.delays_for().is_none()).collect()
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Every exchange, in no order.
    pub fn exchanges(&self) -> Vec<Arc<Exchange>> {
        self.exchanges.iter().map(|exchange| Arc::clone(&exchange)).collect()
    }

    /// How many exchanges there are.
    pub fn exchange_count(&self) -> usize {
        self.exchanges.len()
    }

    /// Bindings, a part in each hold of the definitions: what comes and goes meanwhile may be among them or not. Those to
    /// or from what is deleted are not.
    pub fn bindings(&self, wanted: &Wanted) -> Vec<ListedBinding> {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let definitions = self.definitions.lock();
            after = definitions.list_some(wanted, after.as_ref(), BINDINGS_PER_HOLD, &mut listed);
            drop(definitions);
            if after.is_none() {
                listed.retain(|binding| !binding.source.is_deleted() && !binding.destination.is_deleted());
                return listed;
            }
        }
    }
}

/// The last binding that was listed.
pub(super) type Cursor = (PairId, Option<Label>);

impl Definitions {
    /// Lists about `most` bindings behind the one of the cursor; the last one of them, unless there are no more.
    fn list_some(
        &self,
        wanted: &Wanted,
        after: Option<&Cursor>,
        most: usize,
        listed: &mut Vec<ListedBinding>,
    ) -> Option<Cursor> {
        let mut left = most;
        for pair_id in self.pair_ids(wanted, after.map(|(pair, _)| *pair)) {
            let Some(pair) = self.pair(pair_id) else { continue };
            let label = after.filter(|(last, _)| *last == pair_id).and_then(|(_, label)| label.as_ref());
            let first = label.map_or(Bound::Unbounded, Bound::Excluded);
            for label in pair.labels.range::<Label, _>((first, Bound::Unbounded)) {
                listed.push(ListedBinding {
                    source: Arc::clone(&pair.source),
                    destination: pair.destination.clone(),
                    key: label.key.clone(),
                    arguments: label.arguments.clone(),
                });
                left -= 1;
                if left == 0 {
                    return Some((pair_id, Some(label.clone())));
                }
            }
        }
        None
    }
}
