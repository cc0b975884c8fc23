//! The headers exchange's table: binding arguments are compared with the message's headers.
//!
//! RabbitMQ's rules. `x-match` is `all` (the default), `any`, `all-with-x` or `any-with-x`; only the last two
//! look at keys that start with `x-`, and none at `x-match` itself. A void argument asks for the key alone.
//! Otherwise the value counts and not its type: integers of any width, timestamps and floats are numbers.
//! Bindings with the same arguments are compared once. Knows nothing of keys, which only tell bindings apart.

use std::hash::Hash;
use std::sync::Arc;

use imbl::HashMap;
use smallvec::SmallVec;

use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::routing::RoutingError;
use crate::routing::targets::{Label, Targets};
use crate::routing::term::Term;

const MATCH_KEY: &[u8] = b"x-match";

/// Bindings of a headers exchange.
#[derive(Clone)]
pub struct Headers<T> {
    rules: HashMap<Arc<[u8]>, Group<T>>,
    len: usize,
}

/// What is bound with the same arguments.
type Group<T> = (Arc<Rule>, Targets<T>);

impl<T> Default for Headers<T> {
    fn default() -> Self {
        Self { rules: HashMap::default(), len: 0 }
    }
}

impl<T: Clone + Eq + Hash> Headers<T> {
    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &[u8], arguments: TableBuf, target: T) -> bool {
        let label = Label::new(key, &[]);
        let id = arguments.as_table().as_bytes();
        let added = match self.rules.get_mut(id) {
            Some((_, targets)) => targets.insert(label, target),
            None => {
                let mut targets = Targets::default();
                let added = targets.insert(label, target);
                self.rules.insert(id.into(), (Arc::new(Rule::new(arguments)), targets));
                added
            }
        };
        self.len += usize::from(added);
        added
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        let Some((_, targets)) = self.rules.get_mut(arguments) else { return false };
        let removed = targets.remove(&Label::new(key, &[]), target);
        if targets.is_empty() {
            self.rules.remove(arguments);
        }
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` with each target whose arguments the headers meet.
    pub(crate) fn route(&self, headers: Table<'_>, found: &mut dyn FnMut(&T)) {
        if self.len == 0 {
            return;
        }
        let mut sorted: SmallVec<[(&[u8], Field<'_>); 16]> = headers.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        for (rule, targets) in self.rules.values() {
            if rule.is_met_by(&sorted) {
                targets.visit(found);
            }
        }
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Whether a headers exchange can match by these arguments.
///
/// # Errors
/// An `x-match` that is none of the four strings; the text is RabbitMQ's.
pub fn check_arguments(arguments: Table<'_>) -> Result<(), RoutingError> {
    match arguments.get("x-match") {
        None => Ok(()),
        Some(Field::LongStr(name)) if Mode::named(name).is_some() => Ok(()),
        Some(Field::LongStr(name)) => Err(RoutingError::MatchValue { value: name.to_vec() }),
        Some(other) => {
            Err(RoutingError::MatchType { kind: other.type_name(), value: Term(other).to_string() })
        }
    }
}

/// One set of binding arguments.
#[derive(Debug)]
struct Rule {
    mode: Mode,
    wanted: TableBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    any: bool,
    with_x: bool,
}

impl Mode {
    fn named(name: &[u8]) -> Option<Self> {
        let (any, with_x) = match name {
            b"all" => (false, false),
            b"any" => (true, false),
            b"all-with-x" => (false, true),
            b"any-with-x" => (true, true),
            _ => return None,
        };
        Some(Self { any, with_x })
    }
}

impl Rule {
    fn new(arguments: TableBuf) -> Self {
        let named = match arguments.as_table().get("x-match") {
            Some(Field::LongStr(name)) => Mode::named(name),
            _ => None,
        };
        Self { mode: named.unwrap_or(Mode { any: false, with_x: false }), wanted: arguments }
    }

    /// Both sides are sorted by key, so one walk over each is enough; of duplicates each is used once.
    fn is_met_by(&self, headers: &[(&[u8], Field<'_>)]) -> bool {
        let mut given = headers.iter().peekable();
        for (key, wanted) in self.wanted.as_table().iter() {
            if key == MATCH_KEY || (!self.mode.with_x && key.starts_with(b"x-")) {
                continue;
            }
            while given.next_if(|(name, _)| *name < key).is_some() {}
            let met = given
                .next_if(|(name, _)| *name == key)
                .is_some_and(|(_, value)| wanted == Field::Void || same_value(wanted, *value));
            if met == self.mode.any {
                return met;
            }
        }
        !self.mode.any
    }
}

/// Erlang's `==` between two field values: numbers by value across all their types, the rest by content.
fn same_value(one: Field<'_>, other: Field<'_>) -> bool {
    match (one, other) {
        (Field::LongStr(one) | Field::Bytes(one), Field::LongStr(other) | Field::Bytes(other)) => {
            one == other
        }
        (Field::Table(one), Field::Table(other)) => {
            one.len() == other.len()
                && one.iter().zip(other.iter()).all(|((key, one), (name, other))| {
                    key == name && one.type_name() == other.type_name() && same_value(one, other)
                })
        }
        (Field::Array(one), Field::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other.iter())
                    .all(|(one, other)| one.type_name() == other.type_name() && same_value(one, other))
        }
        _ => match (Number::of(one), Number::of(other)) {
            (Some(one), Some(other)) => one.equals(other),
            _ => one == other,
        },
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn of(field: Field<'_>) -> Option<Self> {
        match field {
            Field::Timestamp(seconds) => Some(Self::Whole(seconds.into())),
            Field::F32(value) => Some(Self::Real(value.into())),
            Field::F64(value) => Some(Self::Real(value)),
            _ => field.as_int().map(|value| Self::Whole(value.into())),
        }
    }

    /// Exact also beyond 2^53, where turning the whole number into a float would round it.
    fn equals(self, other: Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one == other,
            (Self::Real(one), Self::Real(other)) => one == other,
            (Self::Whole(whole), Self::Real(real)) | (Self::Real(real), Self::Whole(whole)) => {
                // `as` saturates, and no 64-bit number is as large as what it saturates to.
                real.fract() == 0.0 && real as i128 == whole
            }
        }
    }
}
