//! Bindings in an order that depends on nothing but their names: for the kinds that choose one of several.
//!
//! However the bindings came about, on whatever machine, the same ones have the same order. This file knows neither
//! exchanges nor how one is chosen.

use std::cmp::Ordering::{Greater, Less};

use imbl::Vector;

use crate::routing::stable_hash::stable_hash;
use crate::routing::targets::Label;

/// What a binding leads to, where one of several is chosen.
pub trait Member {
    /// Its name as a number: the same for the same name, whenever and wherever it was made.
    fn place(&self) -> u64;

    /// Whether it is gone while its bindings are still there. Then another one is chosen.
    fn is_gone(&self) -> bool {
        false
    }
}

/// Numbers stand for targets in tests and tools.
macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Member for $number {
            fn place(&self) -> u64 {
                stable_hash(0, &(*self as u64).to_le_bytes())
            }
        })*
    };
}

numbers!(u8 u32 u64 usize);

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound<T> {
    place: u64,
    label: Label,
    target: T,
}

/// A persistent list of bindings, sorted by the places of their targets.
#[derive(Clone)]
pub(crate) struct Roll<T>(Vector<Bound<T>>);

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Self(Vector::new())
    }
}

impl<T: Clone + Eq + Member> Roll<T> {
    /// Adds a target; `false` when it was there under this label already.
    pub(crate) fn insert(&mut self, label: Label, target: T) -> bool {
        let bound = Bound { place: target.place(), label, target };
        let at = self.first_at(&bound);
        if self.find(at, &bound).is_some() {
            return false;
        }
        self.0.insert(at, bound);
        true
    }

    /// Removes a target; `false` when it was not there under this label.
    pub(crate) fn remove(&mut self, label: Label, target: &T) -> bool {
        let bound = Bound { place: target.place(), label, target: target.clone() };
        let found = self.find(self.first_at(&bound), &bound);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// Where the first that is not before this one stands.
    fn first_at(&self, bound: &Bound<T>) -> usize {
        let is_before = |other: &Bound<T>| (other.place, &other.label) < (bound.place, &bound.label);
        let order = |other: &Bound<T>| if is_before(other) { Less } else { Greater };
        self.0.binary_search_by(order).unwrap_or_else(|at| at)
    }

    /// Two targets have one place when one of them is gone and the other has its name.
    fn find(&self, first: usize, bound: &Bound<T>) -> Option<usize> {
        let alike = (first..).map_while(|at| self.0.get(at));
        let mut alike = alike.take_while(|other| (other.place, &other.label) == (bound.place, &bound.label));
        alike.position(|other| other == bound).map(|at| first + at)
    }

    /// Each target with its place, in order; more than once when it has several labels.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.0.iter().map(|bound| (bound.place, &bound.target))
    }

    /// Calls `found` with the target whose number this is, counted round and round, or the next one if that is gone;
    /// with none when all are. Returns the steps it took.
    pub(crate) fn count_off(&self, number: u64, found: &mut dyn FnMut(&T)) -> usize {
        let Some(first) = number.checked_rem(self.0.len() as u64) else { return 1 };
        let mut steps = 0;
        let living = (first as usize..self.0.len()).chain(0..first as usize).find_map(|at| {
            steps += 1;
            self.0.get(at).filter(|bound| !bound.target.is_gone())
        });
        living.into_iter().for_each(|bound| found(&bound.target));
        steps
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is bound.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
