//! The fold of definitions: which exchanges, queues and bindings there are, after facts about them.
//!
//! Absolute and idempotent, as the facts are: what is declared twice is there once, what goes takes its bindings with
//! it, and what was never there can go as well.

use std::collections::BTreeMap;

use crate::message::fact::{Binding, Definition, Destination, Fact};
use crate::message::fact_codec::{self, DecodedFact};
use crate::message::place::QueueId;

/// Definitions in the order in which they can be made: a binding comes after its ends.
#[derive(Debug, Default)]
pub struct Definitions {
    facts: BTreeMap<Key, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Exchange {
        vhost: Box<str>,
        name: Box<str>,
    },
    Queue(QueueId),
    /// By its far end first: a queue's bindings are neighbours.
    Binding {
        to: End,
        vhost: Box<str>,
        source: Box<str>,
        key: Box<str>,
        arguments: Box<[u8]>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Queue(QueueId),
    Exchange(Box<str>),
}

impl Definitions {
    /// Applies one more.
    pub fn apply(&mut self, definition: &Definition<'_>) {
        match *definition {
            Definition::ExchangeDeclared { vhost, name, .. } => {
                self.put(Key::Exchange { vhost: vhost.into(), name: name.into() }, definition);
            }
            Definition::QueueDeclared { queue, .. } => self.put(Key::Queue(queue), definition),
            Definition::Bound(binding) => self.put(Key::of(&binding), definition),
            Definition::Unbound(binding) => drop(self.facts.remove(&Key::of(&binding))),
            Definition::QueueDeleted { queue } => self.remove_queue(queue),
            Definition::ExchangeDeleted { vhost, name } => self.facts.retain(|key, _| match key {
                Key::Exchange { vhost: its, name: own } => (&**its, &**own) != (vhost, name),
                Key::Binding { vhost: its, source, to, .. } => {
                    &**its != vhost || (&**source != name && !to.is_exchange(name))
                }
                Key::Queue(_) => true,
            }),
        }
    }

    fn remove_queue(&mut self, queue: QueueId) {
        self.facts.remove(&Key::Queue(queue));
        let to = End::Queue(queue);
        let first = Key::Binding {
            to: to.clone(),
            vhost: Box::default(),
            source: Box::default(),
            key: Box::default(),
            arguments: Box::default(),
        };
        let bound: Vec<Key> = (self.facts.range(first..))
            .map(|(key, _)| key)
            .take_while(|key| matches!(key, Key::Binding { to: end, .. } if *end == to))
            .cloned()
            .collect();
        bound.iter().for_each(|key| drop(self.facts.remove(key)));
    }

    fn put(&mut self, key: Key, definition: &Definition<'_>) {
        let fact = Fact::Defined(*definition);
        let mut bytes = vec![fact_codec::kind(&fact)];
        fact_codec::encode(&fact, &mut bytes);
        self.facts.insert(key, bytes);
    }

    /// All of them: exchanges, then queues by number, then bindings.
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
    fn of(binding: &Binding<'_>) -> Self {
        Self::Binding {
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
}

impl End {
    fn is_exchange(&self, name: &str) -> bool {
        matches!(self, Self::Exchange(own) if **own == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::Definitions;
    use crate::message::fact::{Binding, Definition, Destination};
    use crate::message::place::QueueId;

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
}
