//! The modulus-hash exchange's table: a routing key goes to one of the bindings, the one whose number it is.
//!
//! The hash of the key, modulo the number of bindings, counts them off in the order of their targets' names: shares are
//! even, and nearly every key goes elsewhere when a binding comes or goes. Binding keys and arguments only tell bindings
//! apart.

use crate::routing::roll::{Member, Roll};
use crate::routing::stable_hash::stable_hash;
use crate::routing::targets::Label;

/// Bindings of a modulus-hash exchange.
#[derive(Clone)]
pub struct ModulusHash<T>(Roll<T>);

impl<T> Default for ModulusHash<T> {
    fn default() -> Self {
        Self(Roll::default())
    }
}

impl<T: Clone + Eq + Member> ModulusHash<T> {
    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &[u8], arguments: &[u8], target: T) -> bool {
        self.0.insert(Label::new(key, arguments), target)
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        self.0.remove(Label::new(key, arguments), target)
    }

    /// Calls `found` with the key's target, if there is any; returns the steps it took.
    pub(crate) fn route(&self, key: &[u8], found: &mut dyn FnMut(&T)) -> usize {
        self.0.count_off(stable_hash(0, key), found)
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
