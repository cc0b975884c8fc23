//! The fold of definitions: which parameters, exchanges, queues and bindings there are, after facts about them.
//!
//! Absolute and idempotent, as the facts are: what is declared twice is there once, what goes takes its bindings with
//! it, and what was never there can go as well.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::message::fact::{Binding, Definition, Destination, Fact, Parameter};
use crate::message::fact_codec::{self, DecodedFact};
use crate::message::place::QueueId;

/// Definitions in the order in which they can be made: what administrators said comes first, a binding after its ends.
#[derive(Debug, Default)]
pub struct Definitions {
    facts: BTreeMap<Key, Vec<u8>>,
    /// The bindings again, those of one exchange together.
    by_source: BTreeSet<BySource>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Parameter { vhost: Box<str>, component: Box<str>, name: Box<str> },
    Exchange { vhost: Box<str>, name: Box<str> },
    Queue(QueueId),
    Binding(Arc<BindingKey>),
}

/// By its far end first: a queue's bindings are neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BindingKey {
    to: End,
    vhost: Box<str>,
    source: Box<str>,
    key: Box<str>,
    arguments: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Queue(QueueId),
    Exchange(Box<str>),
}

/// A binding, sorted by the exchange it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BySource(Arc<BindingKey>);

impl Ord for BySource {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, two) = (&*self.0, &*other.0);
        (&one.vhost, &one.source).cmp(&(&two.vhost, &two.source)).then_with(|| one.cmp(two))
    }
}

impl PartialOrd for BySource {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Definitions {
    /// Applies one more. The work is that of what it changes, however many others there are.
    pub fn apply(&mut self, definition: &Definition<'_>) {
        match *definition {
            Definition::ExchangeDeclared { vhost, name, .. } => {
                self.put(Key::Exchange { vhost: vhost.into(), name: name.into() }, definition);
            }
            Definition::QueueDeclared { queue, .. } => self.put(Key::Queue(queue), definition),
            Definition::Bound(binding) => {
                let key = Arc::new(BindingKey::of(&binding));
                self.by_source.insert(BySource(Arc::clone(&key)));
                self.put(Key::Binding(key), definition);
            }
            Definition::Unbound(binding) => self.unbind([Arc::new(BindingKey::of(&binding))]),
            Definition::ParameterSet { parameter, .. } => self.put(Key::of(parameter), definition),
            Definition::ParameterCleared { parameter } => drop(self.facts.remove(&Key::of(parameter))),
            Definition::QueueDeleted { queue } => {
                self.facts.remove(&Key::Queue(queue));
                self.unbind(self.bindings_to(&End::Queue(queue), ""));
            }
            Definition::ExchangeDeleted { vhost, name } => {
                self.facts.remove(&Key::Exchange { vhost: vhost.into(), name: name.into() });
                self.unbind(self.bindings_to(&End::Exchange(name.into()), vhost));
                self.unbind(self.bindings_from(vhost, name));
            }
        }
    }

    fn unbind(&mut self, bindings: impl IntoIterator<Item = Arc<BindingKey>>) {
        for binding in bindings {
            self.by_source.remove(&BySource(Arc::clone(&binding)));
            self.facts.remove(&Key::Binding(binding));
        }
    }

    /// The bindings to something: to a queue whatever virtual host they are in, to an exchange those of `vhost`.
    fn bindings_to(&self, to: &End, vhost: &str) -> Vec<Arc<BindingKey>> {
        let first = Key::Binding(Arc::new(BindingKey::first(to.clone(), vhost, "")));
        let bindings = self.facts.range(first..).map_while(|(key, _)| match key {
            Key::Binding(binding) => Some(binding),
            _ => None,
        });
        let is_queue = matches!(to, End::Queue(_));
        bindings
            .take_while(|binding| binding.to == *to && (is_queue || *binding.vhost == *vhost))
            .cloned()
            .collect()
    }

    fn bindings_from(&self, vhost: &str, source: &str) -> Vec<Arc<BindingKey>> {
        let first = BySource(Arc::new(BindingKey::first(End::Queue(QueueId(0)), vhost, source)));
        let bindings = self.by_source.range(first..).map(|BySource(binding)| binding);
        bindings
            .take_while(|binding| (&*binding.vhost, &*binding.source) == (vhost, source))
            .cloned()
            .collect()
    }

    fn put(&mut self, key: Key, definition: &Definition<'_>) {
        let fact = Fact::Defined(*definition);
        let mut bytes = vec![fact_codec::kind(&fact)];
        fact_codec::encode(&fact, &mut bytes);
        self.facts.insert(key, bytes);
    }

    /// All of them: parameters, exchanges, then queues by number, then bindings.
    pub fn iter(&self) -> impl Iterator<Item = Definition<'_>> {
        self.facts.values().filter_map(|bytes| {
            let (&kind, body) = bytes.split_first()?;
            match fact_codec::decode(kind, body) {
                Ok(DecodedFact::Defined(definition)) => Some(definition),
                _ => None,
            }
        })
    }
}

impl Key {
    fn of(Parameter { vhost, component, name }: Parameter<'_>) -> Self {
        Self::Parameter { vhost: vhost.into(), component: component.into(), name: name.into() }
    }
}

impl BindingKey {
    fn of(binding: &Binding<'_>) -> Self {
        Self {
            to: match binding.destination {
                Destination::Queue(queue) => End::Queue(queue),
                Destination::Exchange(name) => End::Exchange(name.into()),
            },
            vhost: binding.vhost.into(),
            source: binding.source.into(),
            key: binding.key.into(),
            arguments: binding.arguments.into(),
        }
    }

    /// What no binding with these comes before.
    fn first(to: End, vhost: &str, source: &str) -> Self {
        let (key, arguments) = (Box::default(), Box::default());
        Self { to, vhost: vhost.into(), source: source.into(), key, arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::Definitions;
    use crate::clock::worked;
    use crate::message::fact::{Binding, Definition, Destination, Parameter};
    use crate::message::place::QueueId;

    /// So many exchanges go, each with a binding of its own, beside so many bindings of another one.
    const EXCHANGES: u64 = 2000;
    const BINDINGS: u64 = 50_000;

    fn exchange(name: &str) -> Definition<'_> {
        Definition::ExchangeDeclared {
            vhost: "/",
            name,
            kind: "fanout",
            auto_delete: false,
            internal: false,
            arguments: &[],
        }
    }

    fn queue(number: u64) -> Definition<'static> {
        Definition::QueueDeclared {
            queue: QueueId(number),
            vhost: "/",
            name: "q",
            auto_delete: false,
            arguments: &[],
        }
    }

    fn binding<'a>(source: &'a str, destination: Destination<'a>) -> Binding<'a> {
        Binding { vhost: "/", source, destination, key: "k", arguments: &[] }
    }

    #[test]
    fn a_parameter_is_what_was_said_last_and_comes_before_all_else() {
        let parameter = Parameter { vhost: "/", component: "policy", name: "p" };
        let set = |value| Definition::ParameterSet { parameter, value };
        let mut folded = Definitions::default();
        [exchange("a"), set(&[1]), set(&[2])].iter().for_each(|fact| folded.apply(fact));
        assert_eq!(folded.iter().collect::<Vec<_>>(), [set(&[2]), exchange("a")]);
        folded.apply(&Definition::ParameterCleared { parameter });
        assert_eq!(folded.iter().collect::<Vec<_>>(), [exchange("a")]);
    }

    #[test]
    fn what_goes_takes_its_bindings_with_it_and_bindings_come_after_their_ends() {
        let to_queue = binding("a", Destination::Queue(QueueId(1)));
        let to_exchange = binding("a", Destination::Exchange("b"));
        let facts = [
            Definition::Bound(to_queue),
            Definition::Bound(to_exchange),
            queue(1),
            exchange("a"),
            exchange("b"),
            exchange("a"),
        ];
        let check = |gone: Definition<'_>, expected: &[Definition<'_>]| {
            let mut folded = Definitions::default();
            facts.iter().for_each(|fact| folded.apply(fact));
            // Twice, as in a replay.
            folded.apply(&gone);
            folded.apply(&gone);
            assert_eq!(folded.iter().collect::<Vec<_>>(), expected, "{gone:?}");
        };
        let (bound, to_b) = (Definition::Bound(to_queue), Definition::Bound(to_exchange));
        check(Definition::QueueDeleted { queue: QueueId(1) }, &[exchange("a"), exchange("b"), to_b]);
        check(Definition::ExchangeDeleted { vhost: "/", name: "a" }, &[exchange("b"), queue(1)]);
        check(Definition::ExchangeDeleted { vhost: "/", name: "b" }, &[exchange("a"), queue(1), bound]);
        check(Definition::Unbound(to_queue), &[exchange("a"), exchange("b"), queue(1), to_b]);
        check(
            Definition::QueueDeleted { queue: QueueId(2) },
            &[exchange("a"), exchange("b"), queue(1), bound, to_b],
        );
    }

    #[test]
    fn what_goes_takes_nothing_of_its_neighbours() {
        let mut folded = Definitions::default();
        let mut all = Vec::new();
        for vhost in ["", "a", "b"] {
            for source in ["", "a", "b"] {
                for destination in [Destination::Exchange("a"), Destination::Exchange("b")] {
                    all.push(Binding { vhost, source, destination, key: "", arguments: &[] });
                }
            }
        }
        all.iter().for_each(|binding| folded.apply(&Definition::Bound(*binding)));
        folded.apply(&Definition::ExchangeDeleted { vhost: "a", name: "a" });
        let is_left = |binding: &Binding<'_>| {
            binding.vhost != "a"
                || (binding.source != "a" && binding.destination != Destination::Exchange("a"))
        };
        let mut found: Vec<_> = folded.iter().map(|fact| format!("{fact:?}")).collect();
        let mut expected: Vec<_> =
            all.into_iter().filter(is_left).map(|it| format!("{:?}", Definition::Bound(it))).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(folded.by_source.len(), expected.len());
    }

    #[test]
    fn exchanges_that_go_are_found_among_many_bindings_without_a_look_at_all_of_them() {
        let mut folded = Definitions::default();
        let begins = worked();
        for queue in 0..BINDINGS {
            folded.apply(&Definition::Bound(binding("other", Destination::Queue(QueueId(queue)))));
        }
        let bound = worked();
        for number in 0..EXCHANGES {
            let name = format!("e{number}");
            folded.apply(&Definition::Bound(binding(&name, Destination::Queue(QueueId(number)))));
            folded.apply(&Definition::ExchangeDeleted { vhost: "/", name: &name });
        }
        let (binding, deleting) = (bound - begins, worked() - bound);
        assert_eq!(folded.iter().count() as u64, BINDINGS);
        // A look at all bindings for each takes fifty times as long as to bind them.
        assert!(
            deleting < 4 * binding,
            "{BINDINGS} bindings {binding:?}, {EXCHANGES} exchanges {deleting:?}"
        );
    }
}
