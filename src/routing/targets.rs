//! The targets bound under one key, each with the label that tells its bindings apart.
//!
//! A binding is identified by key, arguments and target. Where a target lies in its table says part of that
//! already; the [`Label`] is the rest. This file knows neither exchanges nor how keys match.

use std::hash::Hash;
use std::sync::Arc;

use imbl::HashSet;
use smallvec::SmallVec;

/// Up to this many targets are kept as a plain list, which is smaller and keeps the order of binding.
const FEW_MAX: usize = 16;

/// What distinguishes two bindings of one target in one place: the key, the canonical arguments, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label(Option<Arc<[u8]>>);

impl Label {
    /// The label of a binding with this key and these canonical arguments; most have neither, and cost nothing.
    pub(crate) fn new(key: &[u8], arguments: &[u8]) -> Self {
        if key.is_empty() && arguments.is_empty() {
            return Self(None);
        }
        let mut bytes = Vec::with_capacity(8 + key.len() + arguments.len());
        // The length in front keeps ("ab", "c") apart from ("a", "bc").
        bytes.extend_from_slice(&(key.len() as u64).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(arguments);
        Self(Some(bytes.into()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bound<T> {
    target: T,
    label: Label,
}

/// A persistent set of labelled targets: cloning is cheap however many there are.
#[derive(Clone)]
pub(crate) struct Targets<T>(Kept<T>);

#[derive(Clone)]
enum Kept<T> {
    Few(SmallVec<[Bound<T>; 1]>),
    Many(HashSet<Bound<T>>),
}

impl<T> Default for Targets<T> {
    fn default() -> Self {
        Self(Kept::Few(SmallVec::new()))
    }
}

impl<T: Clone + Eq + Hash> Targets<T> {
    /// Adds a target; `false` when it was there under this label already.
    pub(crate) fn insert(&mut self, label: Label, target: T) -> bool {
        let bound = Bound { target, label };
        match &mut self.0 {
            Kept::Few(list) if list.contains(&bound) => false,
            Kept::Few(list) if list.len() < FEW_MAX => {
                list.push(bound);
                true
            }
            Kept::Few(list) => {
                let mut many: HashSet<Bound<T>> = list.drain(..).collect();
                many.insert(bound);
                self.0 = Kept::Many(many);
                true
            }
            Kept::Many(many) => many.insert(bound).is_none(),
        }
    }

    /// Removes a target; `false` when it was not there under this label.
    pub(crate) fn remove(&mut self, label: &Label, target: &T) -> bool {
        match &mut self.0 {
            Kept::Few(list) => {
                let place = list.iter().position(|bound| bound.target == *target && bound.label == *label);
                place.map(|place| list.remove(place)).is_some()
            }
            Kept::Many(many) => {
                many.remove(&Bound { target: target.clone(), label: label.clone() }).is_some()
            }
        }
    }

    /// Calls `found` with each target, more than once for a target with several labels.
    pub(crate) fn visit(&self, found: &mut dyn FnMut(&T)) {
        match &self.0 {
            Kept::Few(list) => list.iter().for_each(|bound| found(&bound.target)),
            Kept::Many(many) => many.iter().for_each(|bound| found(&bound.target)),
        }
    }

    /// How many targets there are, each as often as it has labels.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Kept::Few(list) => list.len(),
            Kept::Many(many) => many.len(),
        }
    }

    /// Whether nothing is bound here.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.0 {
            Kept::Few(list) => list.is_empty(),
            Kept::Many(many) => many.is_empty(),
        }
    }
}
