//! The random exchange's table: each message goes to one of the bindings, by lot.
//!
//! Key and arguments play no part in routing, only in telling bindings apart. All lots of a broker are drawn from one
//! [`Lots`], so that who knows its seed and what is routed knows where everything goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::routing::roll::{Member, Roll};
use crate::routing::stable_hash::mix;
use crate::routing::targets::Label;

/// Numbers that nobody can tell from random ones who does not know the seed.
#[derive(Debug, Default)]
pub struct Lots(AtomicU64);

impl Lots {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Begins again, with another seed.
    pub fn reseed(&self, seed: u64) {
        self.0.store(seed, Ordering::Relaxed);
    }

    fn draw(&self) -> u64 {
        mix(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Bindings of a random exchange.
#[derive(Clone)]
pub struct Random<T> {
    roll: Roll<T>,
    lots: Arc<Lots>,
}

impl<T: Clone + Eq + Member> Random<T> {
    /// An empty table that draws from these lots.
    pub(crate) fn new(lots: &Arc<Lots>) -> Self {
        Self { roll: Roll::default(), lots: Arc::clone(lots) }
    }

    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &[u8], arguments: &[u8], target: T) -> bool {
        self.roll.insert(Label::new(key, arguments), target)
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        self.roll.remove(Label::new(key, arguments), target)
    }

    /// Calls `found` with a target, if there is any; returns the steps it took.
    pub(crate) fn route(&self, found: &mut dyn FnMut(&T)) -> usize {
        self.roll.count_off(self.lots.draw(), found)
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.roll.len()
    }
}
