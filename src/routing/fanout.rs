//! The fanout exchange's table: every binding matches every message.
//!
//! Key and arguments play no part in routing, only in telling bindings apart.

use std::hash::Hash;

use crate::routing::targets::{Label, Targets};

/// Bindings of a fanout exchange.
#[derive(Clone)]
pub struct Fanout<T> {
    targets: Targets<T>,
    len: usize,
}

impl<T> Default for Fanout<T> {
    fn default() -> Self {
        Self { targets: Targets::default(), len: 0 }
    }
}

impl<T: Clone + Eq + Hash> Fanout<T> {
    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &[u8], arguments: &[u8], target: T) -> bool {
        let added = self.targets.insert(Label::new(key, arguments), target);
        self.len += usize::from(added);
        added
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        let removed = self.targets.remove(&Label::new(key, arguments), target);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` with each target.
    pub(crate) fn route(&self, found: &mut dyn FnMut(&T)) {
        self.targets.visit(found);
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
