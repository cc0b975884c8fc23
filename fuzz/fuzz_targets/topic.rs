//! The topic trie against a matcher too simple to be wrong, through binds and unbinds.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sluicemq::protocol::properties::Properties;
use sluicemq::routing::{Bindings, ExchangeKind, MatchBudget, matches};

#[derive(Arbitrary, Debug)]
enum Step {
    Bind(Vec<Word>, u8),
    Unbind(Vec<Word>, u8),
    Route(Vec<Word>),
}

/// Few words, so that patterns and keys meet.
#[derive(Arbitrary, Debug)]
enum Word {
    Star,
    Hash,
    Empty,
    A,
    B,
}

fn key(words: &[Word]) -> String {
    let words: Vec<_> = (words.iter().take(140))
        .map(|word| match word {
            Word::Star => "*",
            Word::Hash => "#",
            Word::Empty => "",
            Word::A => "a",
            Word::B => "b",
        })
        .collect();
    words.join(".")
}

fuzz_target!(|steps: Vec<Step>| {
    let mut trie = Bindings::new(ExchangeKind::Topic);
    let mut list = BTreeSet::new();
    for step in &steps {
        match step {
            Step::Bind(words, target) if trie.bind_allowed(&key(words)).is_ok() => {
                let is_new = list.insert((key(words), *target));
                assert_eq!(trie.bind(&key(words), &[], *target), is_new);
            }
            Step::Bind(..) => {}
            Step::Unbind(words, target) => {
                let was_there = list.remove(&(key(words), *target));
                assert_eq!(trie.unbind(&key(words), &[], target), was_there);
            }
            Step::Route(words) if words.len() <= 128 => {
                let mut found = BTreeSet::new();
                let (key, budget) = (key(words), &mut MatchBudget::default());
                let mut find = |target: &u8| _ = found.insert(*target);
                if trie.route(key.as_bytes(), Properties::EMPTY, budget, &mut find).is_err() {
                    continue;
                }
                let expected = list.iter().filter(|(pattern, _)| matches(pattern, key.as_bytes()));
                assert_eq!(found, expected.map(|(_, target)| *target).collect());
            }
            Step::Route(words) => {
                let budget = &mut MatchBudget::default();
                _ = trie.route(key(words).as_bytes(), Properties::EMPTY, budget, &mut |_| {});
            }
        }
        assert_eq!(trie.len(), list.len());
    }
});
