//! The consistent-hash exchange's table: each message goes to one target, those with the same value to the same one.
//!
//! The value is the routing key, a header or a property. The binding key is a weight, by which a target's share of all
//! values grows. Rendezvous hashing: for each message every target draws a number, from the value and its own name, and
//! the one with the best number gets it. So the way of a value depends on the names that are bound and nothing else, not
//! on their order or on this process; a target that goes loses its own values, evenly to all others, and no other value
//! moves. (A ring of points does so too, but its shares are uneven, or a weight of 10,000 takes a million points.)
//!
//! Drawing takes a few nanoseconds a target, so that many are counted as one step. A target that is bound more than once
//! counts once, with the largest of its weights. Without the header or property all messages go the same way.

use std::num::IntErrorKind;
use std::sync::Arc;

use imbl::OrdMap;

use crate::protocol::erlang::Pretty;
use crate::protocol::field::Field;
use crate::protocol::properties::Properties;
use crate::protocol::table::{Table, TableBuf};
use crate::routing::RoutingError;
use crate::routing::budget::{MatchBudget, TooManySteps};
use crate::routing::roll::{Member, Roll};
use crate::routing::stable_hash::{mix, stable_hash};
use crate::routing::targets::Label;

/// The largest weight of a binding.
pub const WEIGHT_MAX: u16 = 10_000;
/// Drawing for so many targets is one step.
const DRAWS_PER_STEP: usize = 64;

const HEADER_ARGUMENT: &str = "hash-header";
const PROPERTY_ARGUMENT: &str = "hash-property";

/// What messages are told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum HashOn {
    #[default]
    RoutingKey,
    Header(Arc<[u8]>),
    MessageId,
    CorrelationId,
    Timestamp,
}

/// Bindings of a consistent-hash exchange.
#[derive(Clone)]
pub struct ConsistentHash<T> {
    hash_on: HashOn,
    /// Those of equal weight need only compare what they draw.
    by_weight: OrdMap<u16, Roll<T>>,
    len: usize,
}

impl<T: Clone + Eq + Member> ConsistentHash<T> {
    /// An empty table for an exchange with these arguments, which [`check_arguments`] has accepted.
    pub(crate) fn new(arguments: Table<'_>) -> Self {
        Self { hash_on: HashOn::of(arguments).unwrap_or_default(), by_weight: OrdMap::new(), len: 0 }
    }

    /// Adds a binding; `false` when it was there already. `arguments` are canonical.
    pub(crate) fn bind(&mut self, key: &str, arguments: &[u8], target: T) -> bool {
        let Ok(weight) = weight(key) else { return false };
        // "7" and "07" are two bindings of one weight.
        let label = Label::new(key.as_bytes(), arguments);
        let added = self.by_weight.entry(weight).or_default().insert(label, target);
        self.len += usize::from(added);
        added
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &str, arguments: &[u8], target: &T) -> bool {
        let Ok(weight) = weight(key) else { return false };
        let Some(roll) = self.by_weight.get_mut(&weight) else { return false };
        let removed = roll.remove(Label::new(key.as_bytes(), arguments), target);
        if roll.is_empty() {
            self.by_weight.remove(&weight);
        }
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` with the target of the message, if there is any; returns the steps it took.
    ///
    /// # Errors
    /// [`TooManySteps`] when there are too many targets to ask.
    pub(crate) fn route(
        &self,
        key: &[u8],
        properties: Properties<'_>,
        budget: &mut MatchBudget,
        found: &mut dyn FnMut(&T),
    ) -> Result<usize, TooManySteps> {
        let value = self.hash_on.value(key, properties);
        let steps = 1 + self.len / DRAWS_PER_STEP;
        budget.take(steps)?;
        let mut chosen = self.choose(value, |_| true);
        if chosen.is_some_and(Member::is_gone) {
            chosen = self.choose(value, |target| !target.is_gone());
        }
        chosen.into_iter().for_each(found);
        Ok(steps)
    }

    /// The target that waits least.
    fn choose(&self, value: u64, is_asked: impl Fn(&T) -> bool) -> Option<&T> {
        let mut best: Option<(f64, &T)> = None;
        for (weight, roll) in &self.by_weight {
            let asked = roll.iter().filter(|(_, target)| is_asked(target));
            let draws = asked.map(|(place, target)| (mix(value ^ place), target));
            let Some((draw, target)) = draws.max_by_key(|(draw, _)| *draw) else { continue };
            let waits = wait(draw) / f64::from(*weight);
            if best.is_none_or(|(least, _)| waits < least) {
                best = Some((waits, target));
            }
        }
        best.map(|(_, target)| target)
    }

    /// Whether the key alone decides.
    pub(crate) fn is_by_key(&self) -> bool {
        self.hash_on == HashOn::RoutingKey
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl HashOn {
    fn of(arguments: Table<'_>) -> Result<Self, RoutingError> {
        match (text(arguments, HEADER_ARGUMENT)?, text(arguments, PROPERTY_ARGUMENT)?) {
            (None, None) => Ok(Self::RoutingKey),
            (Some(header), None) => Ok(Self::Header(header.into())),
            (None, Some(b"message_id")) => Ok(Self::MessageId),
            (None, Some(b"correlation_id")) => Ok(Self::CorrelationId),
            (None, Some(b"timestamp")) => Ok(Self::Timestamp),
            (None, Some(other)) => {
                Err(RoutingError::HashProperty { name: String::from_utf8_lossy(other).into_owned() })
            }
            (Some(_), Some(_)) => Err(RoutingError::HashTwice),
        }
    }

    /// The message's value, hashed. Numbers are equal whatever their width.
    fn value(&self, key: &[u8], properties: Properties<'_>) -> u64 {
        let field = match self {
            Self::RoutingKey => Some(Field::LongStr(key)),
            Self::Header(name) => header(properties, name),
            Self::MessageId => properties.message_id().map(Field::LongStr),
            Self::CorrelationId => properties.correlation_id().map(Field::LongStr),
            Self::Timestamp => properties.timestamp().map(|seconds| Field::I64(seconds as i64)),
        };
        match field {
            None => stable_hash(0, &[]),
            Some(Field::LongStr(text)) => stable_hash(1, text),
            Some(other) => match other.as_int() {
                Some(number) => stable_hash(2, &number.to_le_bytes()),
                None => stable_hash(3, TableBuf::new().insert("", other).as_table().as_bytes()),
            },
        }
    }
}

/// Checks the arguments of a new exchange.
///
/// # Errors
/// Both `hash-header` and `hash-property`, a property that is none of the three, or what is no string.
pub(crate) fn check_arguments(arguments: Table<'_>) -> Result<(), RoutingError> {
    HashOn::of(arguments).map(drop)
}

/// Checks a binding key.
///
/// # Errors
/// No integer, or one that is no weight.
pub(crate) fn check_key(key: &str) -> Result<(), RoutingError> {
    weight(key).map(drop)
}

fn weight(key: &str) -> Result<u16, RoutingError> {
    let too_large = RoutingError::WeightTooLarge { weight_max: WEIGHT_MAX };
    match key.parse::<i64>() {
        Ok(weight) if weight < 1 => Err(RoutingError::WeightTooSmall),
        Ok(weight) => u16::try_from(weight).ok().filter(|weight| *weight <= WEIGHT_MAX).ok_or(too_large),
        Err(error) => Err(match error.kind() {
            IntErrorKind::PosOverflow => too_large,
            IntErrorKind::NegOverflow => RoutingError::WeightTooSmall,
            _ => RoutingError::WeightType { key: Pretty(key.as_bytes()).to_string() },
        }),
    }
}

fn header<'a>(properties: Properties<'a>, name: &[u8]) -> Option<Field<'a>> {
    properties.headers()?.iter().find(|(key, _)| *key == name).map(|(_, field)| field)
}

fn text<'a>(arguments: Table<'a>, name: &'static str) -> Result<Option<&'a [u8]>, RoutingError> {
    match arguments.get(name) {
        None => Ok(None),
        Some(Field::LongStr(text)) => Ok(Some(text)),
        Some(other) => Err(RoutingError::ArgumentType { name, kind: other.type_name() }),
    }
}

/// How long a target of weight one waits that drew this number: the best draw waits least, and among many targets each
/// is first as often as its weight says. `-ln(draw / 2^64)`, from operations that are exact alike on every machine.
fn wait(draw: u64) -> f64 {
    const DRAWS: f64 = 18_446_744_073_709_551_616.0;
    const TERMS: u32 = 16;
    let draw = draw | 1;
    let halvings = draw.leading_zeros();
    let missing = (draw << halvings).wrapping_neg() as f64 / DRAWS;
    let ratio = missing / (2.0 - missing);
    let term = |sum: f64, n: u32| sum * ratio * ratio + 1.0 / f64::from(2 * n + 1);
    f64::from(halvings) * std::f64::consts::LN_2 + 2.0 * ratio * (0..TERMS).rev().fold(0.0, term)
}

#[cfg(test)]
mod tests {
    use super::wait;

    #[test]
    fn who_draws_more_waits_less() {
        let draws =
            [0, 1, 2, 1 << 32, u64::MAX / 3, u64::MAX / 2, u64::MAX / 2 + 2, u64::MAX - 4096, u64::MAX];
        for pair in draws.windows(2) {
            assert!(wait(pair[0]) >= wait(pair[1]), "{pair:?}");
        }
        for draw in [1, (7 << 20) + 1, u64::MAX / 3, u64::MAX / 2 + 1, u64::MAX / 10 * 9] {
            let expected = -(draw as f64 / u64::MAX as f64).ln();
            assert!((wait(draw) - expected).abs() < 1e-9, "{draw}: {} and {expected}", wait(draw));
        }
    }
}
