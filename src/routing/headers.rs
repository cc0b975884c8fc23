//! The headers exchange's table: binding arguments are compared with the message's headers.
//!
//! RabbitMQ's rules. `x-match` is `all` (the default), `any`, `all-with-x` or `any-with-x`; only the last two
//! look at keys that start with `x-`, and none at `x-match` itself. A void argument asks for the key alone.
//! Otherwise the value counts and not its type: integers of any width, timestamps and floats are numbers.
//! Bindings with the same arguments are compared once. Knows nothing of keys, which only tell bindings apart.
//!
//! A message looks only at the rules that are filed under something it has:
//!
//! ```text
//!  all  a=1 b=2     under one of its pairs, the one that fewest others are under
//!  any  a=1 b=2     under each of its pairs
//!  all  b=void      under the key alone
//!  all              nothing asked for: every message meets it
//! ```

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
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
    /// The rules that a message with this label may meet, by [`label_of`].
    filed: HashMap<Arc<[u8]>, Rules>,
    /// The rule that asks for nothing.
    always: Rules,
    len: usize,
}

/// What is bound with the same arguments.
type Group<T> = (Filed, Targets<T>);
type Rules = Targets<Filed>;

impl<T> Default for Headers<T> {
    fn default() -> Self {
        Self { rules: HashMap::default(), filed: HashMap::default(), always: Rules::default(), len: 0 }
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
                let id = id.into();
                let rule = self.file(Rule::new(arguments));
                self.rules.insert(id, (rule, targets));
                added
            }
        };
        self.len += usize::from(added);
        added
    }

    /// Removes a binding; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &[u8], arguments: &[u8], target: &T) -> bool {
        let Some((rule, targets)) = self.rules.get_mut(arguments) else { return false };
        let removed = targets.remove(&Label::new(key, &[]), target);
        if targets.is_empty() {
            let rule = rule.clone();
            self.rules.remove(arguments);
            self.take_out(&rule);
        }
        self.len -= usize::from(removed);
        removed
    }

    fn file(&mut self, mut rule: Rule) -> Filed {
        let mut labels: Vec<Arc<[u8]>> = rule.asked_for().map(|(key, value)| label_of(key, value)).collect();
        if !rule.mode.any {
            let fewest = |label: &Arc<[u8]>| self.filed.get(label).map_or(0, Rules::len);
            labels = labels.into_iter().min_by_key(fewest).into_iter().collect();
        }
        labels.sort_unstable();
        labels.dedup();
        rule.labels = labels.into();
        let rule = Filed(Arc::new(rule));
        if rule.0.labels.is_empty() && !rule.0.mode.any {
            self.always.insert(Label::default(), rule.clone());
        }
        for label in &rule.0.labels {
            self.filed.entry(Arc::clone(label)).or_default().insert(Label::default(), rule.clone());
        }
        rule
    }

    fn take_out(&mut self, rule: &Filed) {
        self.always.remove(&Label::default(), rule);
        for label in &rule.0.labels {
            if let Some(rules) = self.filed.get_mut(label) {
                rules.remove(&Label::default(), rule);
                if rules.is_empty() {
                    self.filed.remove(label);
                }
            }
        }
    }

    /// Calls `found` with each target whose arguments the headers meet; returns the steps it took: headers, and
    /// arguments they were compared with.
    pub(crate) fn route(&self, headers: Table<'_>, found: &mut dyn FnMut(&T)) -> usize {
        if self.len == 0 {
            return 0;
        }
        let mut sorted: SmallVec<[(&[u8], Field<'_>); 16]> = headers.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        let mut steps = sorted.len();
        let mut judge = |rule: &Filed, is_met: bool| {
            if (is_met || rule.0.is_met_by(&sorted, &mut steps))
                && let Some((_, targets)) = self.rules.get(rule.0.wanted.as_table().as_bytes())
            {
                targets.visit(found);
            }
        };
        self.always.visit(&mut |rule| judge(rule, true));
        let mut looked_at = LookedAt::default();
        let mut label = Vec::new();
        for (at, (key, value)) in sorted.iter().enumerate() {
            let is_key_of = |(other, _): &(&[u8], Field<'_>)| other == key;
            let is_alone = !at.checked_sub(1).and_then(|at| sorted.get(at)).is_some_and(is_key_of)
                && !sorted.get(at + 1).is_some_and(is_key_of);
            for asked_for in [*value, Field::Void] {
                write_label(&mut label, key, asked_for);
                if let Some(rules) = self.filed.get(label.as_slice())
                    && looked_at.is_new(rules)
                {
                    // One pair is enough for `any`, and a rule may have a thousand others.
                    let is_enough = is_alone && is_label_exact(asked_for);
                    rules.visit(&mut |rule| {
                        let any = rule.0.mode.any;
                        if !any || looked_at.any.insert(Arc::as_ptr(&rule.0)) {
                            judge(rule, is_enough && any && rule.0.keys_differ);
                        }
                    });
                }
            }
        }
        steps
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// What one message has been compared with: headers may have the same key, and rules be filed under several.
#[derive(Default)]
struct LookedAt {
    rules: std::collections::HashSet<*const Rules, RandomState>,
    any: std::collections::HashSet<*const Rule, RandomState>,
}

impl LookedAt {
    fn is_new(&mut self, rules: &Rules) -> bool {
        self.rules.insert(rules)
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
    /// No key is asked for twice.
    keys_differ: bool,
    /// What it is filed under.
    labels: Box<[Arc<[u8]>]>,
}

/// A rule in a set: it is itself, whatever it says.
#[derive(Clone, Debug)]
struct Filed(Arc<Rule>);

impl PartialEq for Filed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Filed {}

impl Hash for Filed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
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
        let mode = named.unwrap_or(Mode { any: false, with_x: false });
        let mut rule = Self { mode, wanted: arguments, keys_differ: true, labels: Box::default() };
        rule.keys_differ = rule.asked_for().map(|(key, _)| key).is_sorted_by(|one, other| one < other);
        rule
    }

    /// The arguments that count, sorted by key.
    fn asked_for(&self) -> impl Iterator<Item = (&[u8], Field<'_>)> {
        let with_x = self.mode.with_x;
        let all = self.wanted.as_table().iter();
        all.filter(move |(key, _)| *key != MATCH_KEY && (with_x || !key.starts_with(b"x-")))
    }

    /// The headers are sorted by key; of duplicates each is used once, in their order.
    fn is_met_by(&self, headers: &[(&[u8], Field<'_>)], steps: &mut usize) -> bool {
        let mut at = 0;
        let mut last: Option<&[u8]> = None;
        for (key, wanted) in self.asked_for() {
            *steps += 1;
            at = if last == Some(key) { at + 1 } else { headers.partition_point(|(name, _)| *name < key) };
            last = Some(key);
            let met = (headers.get(at).filter(|(name, _)| *name == key))
                .is_some_and(|(_, value)| wanted == Field::Void || same_value(wanted, *value));
            if met == self.mode.any {
                return met;
            }
        }
        !self.mode.any
    }
}

/// What a pair is filed under: equal for values that [`same_value`] takes as the same. A void value stands for the key
/// alone.
fn label_of(key: &[u8], value: Field<'_>) -> Arc<[u8]> {
    let mut label = Vec::new();
    write_label(&mut label, key, value);
    label.into()
}

/// Values that few ask for share one label for all of them: they are compared anyway.
fn write_label(label: &mut Vec<u8>, key: &[u8], value: Field<'_>) {
    label.clear();
    label.extend_from_slice(&(key.len() as u64).to_be_bytes());
    label.extend_from_slice(key);
    match value {
        Field::Void => label.push(b'V'),
        Field::LongStr(bytes) | Field::Bytes(bytes) => {
            label.push(b'S');
            label.extend_from_slice(bytes);
        }
        Field::Bool(value) => label.extend_from_slice(&[b't', value.into()]),
        Field::Decimal { .. } => label.push(b'D'),
        Field::Table(_) => label.push(b'F'),
        Field::Array(_) => label.push(b'A'),
        number => match Number::of(number) {
            Some(Number::Real(real)) if real.fract() != 0.0 => {
                label.push(b'd');
                label.extend_from_slice(&real.to_bits().to_be_bytes());
            }
            // `as` saturates: whole numbers too large for it share a label.
            Some(Number::Real(real)) => write_whole(label, real as i128),
            Some(Number::Whole(whole)) => write_whole(label, whole),
            None => label.push(b'?'),
        },
    }
}

/// Whether only values that are the same have the label of this one.
fn is_label_exact(value: Field<'_>) -> bool {
    !matches!(
        value,
        Field::F32(_) | Field::F64(_) | Field::Decimal { .. } | Field::Table(_) | Field::Array(_)
    )
}

fn write_whole(label: &mut Vec<u8>, whole: i128) {
    label.push(b'i');
    label.extend_from_slice(&whole.to_be_bytes());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{Field, Headers, Rule, Table, TableBuf};
    use crate::protocol::table::ArrayBuf;
    use crate::routing::canonical;

    /// Values of which many are the same to a headers exchange, and of different types.
    #[derive(Clone, Copy, Debug)]
    enum Value {
        Plain(Field<'static>),
        Nested(i64),
        List(i64),
    }

    type Entries = Vec<(&'static str, Value)>;

    fn values() -> impl Strategy<Value = Value> {
        let plain = [
            Field::Bool(true),
            Field::I8(1),
            Field::I64(1),
            Field::U32(1),
            Field::Timestamp(1),
            Field::F32(1.0),
            Field::F64(1.0),
            Field::F64(0.5),
            Field::F32(0.5),
            Field::F64(-0.0),
            Field::I16(0),
            Field::F64(f64::NAN),
            Field::F64(f64::INFINITY),
            Field::F64(1e300),
            Field::I64(i64::MAX),
            Field::F64(i64::MAX as f64),
            Field::Decimal { scale: 1, value: 10 },
            Field::LongStr(b"1"),
            Field::Bytes(b"1"),
            Field::Void,
        ];
        prop_oneof![
            8 => prop::sample::select(plain.to_vec()).prop_map(Value::Plain),
            1 => (0..2_i64).prop_map(Value::Nested),
            1 => (0..2_i64).prop_map(Value::List),
        ]
    }

    fn entries() -> impl Strategy<Value = Entries> {
        prop::collection::vec((prop::sample::select(vec!["a", "b", "c", "x-d"]), values()), 0..6)
    }

    fn arguments() -> impl Strategy<Value = TableBuf> {
        let modes = prop::sample::select(vec!["all", "any", "all-with-x", "any-with-x"]);
        (prop_oneof![Just(None), modes.prop_map(Some)], entries()).prop_map(|(mode, entries)| {
            let mut table = table(&entries);
            if let Some(mode) = mode {
                table.insert("x-match", Field::LongStr(mode.as_bytes()));
            }
            canonical(table.as_table().as_bytes())
        })
    }

    fn table(entries: &Entries) -> TableBuf {
        let mut table = TableBuf::new();
        for &(key, value) in entries {
            match value {
                Value::Plain(field) => table.insert(key, field),
                Value::Nested(number) => table
                    .insert(key, Field::Table(TableBuf::new().insert("n", Field::I64(number)).as_table())),
                Value::List(number) => {
                    table.insert(key, Field::Array(ArrayBuf::new().push(Field::I64(number)).as_array()))
                }
            };
        }
        table
    }

    /// Each rule compared with the message.
    fn scan<'a>(rules: impl Iterator<Item = (u32, &'a TableBuf)>, given: Table<'_>) -> BTreeSet<u32> {
        let mut sorted: Vec<_> = given.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        rules
            .filter(|(_, rule)| Rule::new((*rule).clone()).is_met_by(&sorted, &mut 0))
            .map(|(target, _)| target)
            .collect()
    }

    proptest! {
        #[test]
        fn a_message_finds_the_rules_that_a_scan_finds(
            rules in prop::collection::vec((arguments(), any::<bool>()), 0..60),
            messages in prop::collection::vec(entries(), 1..10),
        ) {
            let mut headers = Headers::default();
            for (target, (rule, _)) in (0_u32..).zip(&rules) {
                headers.bind(b"", rule.clone(), target);
            }
            let snapshot = headers.clone();
            for (target, (rule, stays)) in (0_u32..).zip(&rules) {
                let removed = !stays && headers.unbind(b"", rule.as_table().as_bytes(), &target);
                prop_assert!(*stays || removed);
            }
            let all = || (0_u32..).zip(rules.iter().map(|(rule, _)| rule));
            let stay = || (0_u32..).zip(&rules).filter(|(_, (_, stays))| *stays).map(|(at, (rule, _))| (at, rule));
            for message in messages {
                let message = table(&message);
                for (table, expected) in [
                    (&snapshot, scan(all(), message.as_table())),
                    (&headers, scan(stay(), message.as_table())),
                ] {
                    let mut found = BTreeSet::new();
                    table.route(message.as_table(), &mut |target| _ = found.insert(*target));
                    prop_assert_eq!(found, expected);
                }
            }
            for (target, (rule, _)) in (0_u32..).zip(&rules).filter(|(_, (_, stays))| *stays) {
                headers.unbind(b"", rule.as_table().as_bytes(), &target);
            }
            prop_assert!(headers.filed.is_empty() && headers.rules.is_empty() && headers.always.is_empty());
        }
    }

    /// Ten thousand rules that agree in one argument and differ in the other.
    fn many(mode: &str) -> Headers<u32> {
        let mut headers = Headers::default();
        for rule in 0..10_000_u32 {
            let mut table = TableBuf::new();
            table.insert("x-match", Field::LongStr(mode.as_bytes()));
            if mode == "all" {
                table.insert("type", Field::LongStr(b"order"));
            }
            table.insert("number", Field::U32(rule));
            headers.bind(b"", canonical(table.as_table().as_bytes()), rule);
        }
        headers
    }

    #[test]
    fn the_steps_do_not_grow_with_the_rules_that_ask_for_something_else() {
        for mode in ["all", "any"] {
            let headers = many(mode);
            let mut message = TableBuf::new();
            message.insert("type", Field::LongStr(b"order")).insert("number", Field::I64(7));
            let mut found = Vec::new();
            let steps = headers.route(message.as_table(), &mut |target| found.push(*target));
            assert_eq!(found, [7], "{mode}");
            assert!(steps <= 8, "{mode}: {steps} steps");
        }
    }

    #[test]
    fn one_pair_is_enough_for_a_rule_that_asks_for_any_of_a_thousand() {
        let mut headers = Headers::default();
        for rule in 0..100_u32 {
            let mut table = TableBuf::new();
            table.insert("x-match", Field::LongStr(b"any")).insert("z", Field::Bool(true));
            for key in 0..1000 {
                table.insert(&key.to_string(), Field::U32(rule));
            }
            headers.bind(b"", canonical(table.as_table().as_bytes()), rule);
        }
        let mut found = 0;
        let steps =
            headers.route(TableBuf::new().insert("z", Field::Bool(true)).as_table(), &mut |_| found += 1);
        assert_eq!((found, steps), (100, 1));
    }

    #[test]
    fn many_headers_are_looked_up_and_not_multiplied_by_the_rules() {
        let headers = many("any");
        let mut message = TableBuf::new();
        for key in 0..1024 {
            message.insert(&key.to_string(), Field::U32(key));
            message.insert("number", Field::U32(3));
        }
        let mut found = Vec::new();
        let steps = headers.route(message.as_table(), &mut |target| found.push(*target));
        assert_eq!(found, [3]);
        assert!(steps <= 2 * 1024 + 2, "{steps} steps");
    }
}
