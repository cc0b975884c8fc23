//! The direct exchange's table: a binding matches when its key equals the routing key.
//!
//! One lookup in a persistent hash map, whatever the number of bindings. Arguments only tell bindings apart.

use std::hash::Hash;
use std::sync::Arc;

use imbl::HashMap;

use crate::routing::targets::{Label, Targets};

/// Bindings of a direct exchange.
#[derive(Clone)]
pub struct Direct<T> {
    keys: HashMap<Arc<[u8]>, Targets<T>>,
    len: usize,
}

impl<T> Default for Direct<T> {
    fn default() -> Self {
        Self { keys: HashMap::default(), len: 0 }
    }
}

impl<T: Clone + Eq + Hash> Direct<T> {
    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &[u8], arguments: &[u8], target: T) -> bool {
        let label = Label::new(&[], arguments);
        let added = match self.keys.get_mut(key) {
            Some(targets) => targets.insert(label, target),
            None => {
                let mut targets = Targets::default();
                let added = targets.insert(label, target);
                self.keys.insert(key.into(), targets);
                added
            }
        };
        self.len += usize::from(added);
        added
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        let Some(targets) = self.keys.get_mut(key) else { return false };
        let removed = targets.remove(&Label::new(&[], arguments), target);
        if targets.is_empty() {
            self.keys.remove(key);
        }
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` with each target bound by exactly this key.
    pub(crate) fn route(&self, key: &[u8], found: &mut dyn FnMut(&T)) {
        if let Some(targets) = self.keys.get(key) {
            targets.visit(found);
        }
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
