//! The kinds that send a message to one of the targets that are bound.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{ArrayBuf, Table, TableBuf};
use crate::routing::consistent_hash::WEIGHT_MAX;
use crate::routing::tests::{routed, routed_by, table, text};
use crate::routing::{Bindings, ExchangeKind, Lots, MATCH_STEPS_MAX, MatchBudget, Member, stable_hash};

/// The kinds that choose one of all that are bound.
const ONE_OF_ALL: [ExchangeKind; 3] =
    [ExchangeKind::ConsistentHash, ExchangeKind::ModulusHash, ExchangeKind::Random];

/// A consistent-hash exchange with these weights, its targets numbered from zero.
fn weighted(weights: &[u16]) -> Bindings<u32> {
    let mut bindings = Bindings::new(ExchangeKind::ConsistentHash);
    (0..).zip(weights).for_each(|(target, weight)| _ = bindings.bind(&weight.to_string(), &[], target));
    bindings
}

/// Which target each of so many keys goes to.
fn placed(bindings: &Bindings<u32>, keys: u32) -> Vec<u32> {
    let none = TableBuf::new();
    let only = |found: BTreeSet<u32>| {
        assert_eq!(found.len(), 1);
        found.into_iter().next().unwrap()
    };
    (0..keys).map(|key| only(routed(bindings, &format!("key.{key}"), &none))).collect()
}

#[test]
fn where_a_value_goes_is_written_down() {
    // What these placements were yesterday they must be tomorrow: queues hold what was placed by them.
    assert_eq!(stable_hash(0, b"queue"), 7_696_508_095_806_310_800);
    assert_eq!(placed(&weighted(&[1, 2, 3]), 12), [1, 1, 1, 2, 2, 1, 2, 0, 1, 1, 1, 2]);
    assert_eq!(placed(&weighted(&[1; 100]), 12), [50, 20, 85, 19, 77, 5, 35, 3, 70, 91, 99, 21]);
}

#[test]
fn a_key_goes_to_the_binding_whose_number_its_hash_is() {
    let mut bindings = Bindings::new(ExchangeKind::ModulusHash);
    (0..10).for_each(|target| _ = bindings.bind("any", &[], target));
    let before = placed(&bindings, 1_000);
    let mut turned = Bindings::new(ExchangeKind::ModulusHash);
    (0..10).rev().for_each(|target| _ = turned.bind(&format!("other {target}"), &[], target));
    assert_eq!(placed(&turned, 1_000), before, "neither the order of binding nor its key plays a part");
    for target in 0..10 {
        let share = before.iter().filter(|placed| **placed == target).count();
        assert!((60..140).contains(&share), "{share} of 1,000");
    }
    assert_eq!(before[..8], [9, 3, 0, 2, 2, 4, 3, 1]);
}

#[test]
fn each_message_draws_a_lot_and_a_seed_tells_them_all() {
    let lots = Arc::new(Lots::new(7));
    let mut bindings = Bindings::with(ExchangeKind::Random, Table::EMPTY, &lots);
    (0..10).for_each(|target| _ = bindings.bind("any", &[], target));
    let draw = |count: usize| -> Vec<u32> {
        (0..count).flat_map(|_| routed(&bindings, "key", &TableBuf::new())).collect()
    };
    let (first, second) = (draw(1_000), draw(1_000));
    assert_ne!(first, second);
    for target in 0..10 {
        let share = first.iter().filter(|drawn| **drawn == target).count();
        assert!((60..140).contains(&share), "{share} of 1,000");
    }
    lots.reseed(7);
    assert_eq!((draw(1_000), draw(1_000)), (first.clone(), second));
    lots.reseed(8);
    assert_ne!(draw(1_000), first);
}

#[test]
fn shares_follow_weights() {
    const KEYS: u32 = 20_000;
    for weights in
        [vec![1, 1], vec![1, 2, 3, 4], vec![1; 10], vec![10_000, 10_000], vec![1, 9_999], vec![5, 5, 90]]
    {
        let mut counts = BTreeMap::<u32, u32>::new();
        placed(&weighted(&weights), KEYS)
            .into_iter()
            .for_each(|target| *counts.entry(target).or_default() += 1);
        let sum: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        for (target, weight) in (0..).zip(&weights) {
            let expected = f64::from(KEYS) * f64::from(*weight) / f64::from(sum);
            let found = f64::from(counts.get(&target).copied().unwrap_or(0));
            // Six times the deviation of so many independent draws.
            assert!(
                (found - expected).abs() < 6.0 * expected.sqrt().max(1.0),
                "{weights:?}: {found} of {expected}"
            );
        }
    }
}

#[test]
fn asking_many_targets_is_counted_and_bounded() {
    let bindings = weighted(&[1; 640]);
    let budget = &mut MatchBudget::default();
    let mut steps = 0;
    while let Ok(more) = bindings.route(b"key", Properties::EMPTY, budget, &mut |_| ()) {
        assert_eq!(more, 12, "one for 64 that are asked, one for the message, one for what it finds");
        steps += more - 1;
    }
    assert!((MATCH_STEPS_MAX - 11..=MATCH_STEPS_MAX).contains(&steps), "{steps}");
}

#[test]
fn a_message_is_placed_by_its_header_or_property() {
    let on = |name: &str, value: &str| {
        let arguments = table(&[(name, text(value))]);
        let mut bindings =
            Bindings::with(ExchangeKind::ConsistentHash, arguments.as_table(), &Arc::default());
        (0..50).for_each(|target| _ = bindings.bind("1", &[], target));
        assert!(!bindings.is_by_key());
        bindings
    };
    let placed = |bindings: &Bindings<u32>, set: &dyn Fn(&mut PropertiesBuf, u64)| {
        let by_value: Vec<_> = (0..40).map(|value| routed_by(bindings, "k", |p| set(p, value))).collect();
        for (value, found) in (0..).zip(&by_value) {
            assert_eq!(*found, routed_by(bindings, "other", |p| set(p, value)), "the key plays no part");
            assert_eq!(found.len(), 1);
        }
        by_value.into_iter().flatten().collect::<BTreeSet<_>>().len()
    };
    let (id, other_id) = (on("hash-property", "message_id"), on("hash-property", "correlation_id"));
    let (time, header) = (on("hash-property", "timestamp"), on("hash-header", "h"));
    assert!(placed(&id, &|p, value| _ = p.message_id(value.to_string())) > 10);
    assert_eq!(placed(&id, &|p, value| _ = p.correlation_id(value.to_string())), 1, "none is one value");
    assert!(placed(&other_id, &|p, value| _ = p.correlation_id(value.to_string())) > 10);
    assert!(placed(&time, &|p, value| _ = p.timestamp(value)) > 10);
    let with = |name: &'static str, field: Field<'_>| table(&[(name, field)]).into_bytes();
    let found =
        |headers: Vec<u8>| routed_by(&header, "k", |p| _ = p.headers(Table::parse(&headers).unwrap()));
    assert_eq!(found(with("h", Field::I8(7))), found(with("h", Field::I64(7))), "a number is a number");
    let set = |p: &mut PropertiesBuf, value: u64| {
        _ = p.headers(table(&[("x", Field::Void), ("h", Field::Array(array(value).as_array()))]).as_table());
    };
    assert!(placed(&header, &set) > 10, "any type");
    assert_eq!(found(with("i", Field::I8(7))), found(with("i", Field::I8(8))));
}

fn array(value: u64) -> ArrayBuf {
    let mut array = ArrayBuf::new();
    array.push(Field::Timestamp(value));
    array
}

#[test]
fn weights_are_checked_with_rabbitmqs_words() {
    let bindings = Bindings::<u32>::new(ExchangeKind::ConsistentHash);
    let refused = |key: &str| bindings.bind_allowed(key).unwrap_err().to_string();
    for key in ["1", "10000", "+5", "007"] {
        assert_eq!(bindings.bind_allowed(key), Ok(()), "{key}");
    }
    assert_eq!(refused("0"), "The binding key must be greater than 0");
    for key in ["-1", "-99999999999999999999"] {
        assert_eq!(refused(key), refused("0"));
    }
    assert_eq!(refused("a\"b"), r#"The binding key must be an integer: <<"a\"b">>"#);
    assert_eq!(refused(""), "The binding key must be an integer: <<>>");
    for key in ["1.0", " 1", "1_000", "+"] {
        assert!(refused(key).starts_with("The binding key must be an integer: "), "{key}");
    }
    for key in ["10001", "65536", "1000000000", "99999999999999999999"] {
        assert_eq!(refused(key), "The binding key must not be greater than 10000", "{key}");
    }
}

#[test]
fn what_messages_are_told_apart_by_is_checked_with_rabbitmqs_words() {
    let check = |entries: &[(&str, Field<'_>)]| {
        ExchangeKind::ConsistentHash
            .check_arguments(table(entries).as_table())
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(check(&[("hash-header", text("anything"))]), Ok(()));
    for property in ["message_id", "correlation_id", "timestamp"] {
        assert_eq!(check(&[("hash-property", text(property))]), Ok(()));
    }
    let other = ("hash-property", text("app_id"));
    assert_eq!(check(&[other]), Err("Unsupported property: app_id".into()));
    let both = Err("hash-header and hash-property are mutually exclusive".into());
    assert_eq!(check(&[("hash-header", text("h")), other]), both);
    assert_eq!(
        check(&[("hash-header", Field::I32(1))]),
        Err("invalid type 'signedint' for arg 'hash-header'".into())
    );
}

/// A target that goes while its bindings are still there.
#[derive(Clone, Debug)]
struct Mortal {
    number: u32,
    is_gone: Arc<AtomicBool>,
}

impl Mortal {
    fn new(number: u32) -> Self {
        Self { number, is_gone: Arc::default() }
    }

    fn die(&self) {
        self.is_gone.store(true, Relaxed);
    }
}

impl PartialEq for Mortal {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.is_gone, &other.is_gone)
    }
}

impl Eq for Mortal {}

impl Hash for Mortal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl Member for Mortal {
    fn place(&self) -> u64 {
        self.number.place()
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }
}

#[test]
fn what_is_gone_is_not_chosen_and_one_of_its_name_is_another() {
    for kind in ONE_OF_ALL {
        let members: Vec<_> = (0..20).map(Mortal::new).collect();
        let mut bindings = Bindings::new(kind);
        members.iter().for_each(|member| _ = bindings.bind("3", &[], member.clone()));
        let chosen = |bindings: &Bindings<Mortal>, key: u32| {
            let mut found = Vec::new();
            let (key, budget) = (key.to_string(), &mut MatchBudget::default());
            let mut find = |member: &Mortal| found.push(member.clone());
            bindings.route(key.as_bytes(), Properties::EMPTY, budget, &mut find).unwrap();
            found.pop()
        };
        let (dead, rest) = members.split_at(19);
        dead.iter().for_each(Mortal::die);
        assert!((0..100).all(|key| chosen(&bindings, key).as_ref() == rest.first()), "{kind:?}");
        let heirs: Vec<_> = (0..19).map(Mortal::new).collect();
        for (heir, dead) in heirs.iter().zip(dead) {
            assert!(bindings.bind("3", &[], heir.clone()), "{kind:?}");
            assert!(bindings.unbind("3", &[], dead));
            assert!(!bindings.unbind("3", &[], dead));
            assert!(!bindings.bind("3", &[], heir.clone()));
        }
        assert_eq!(bindings.len(), 20);
        assert!((0..100).any(|key| chosen(&bindings, key).as_ref() != rest.first()));
        heirs.iter().chain(rest).for_each(Mortal::die);
        assert_eq!(chosen(&bindings, 0), None);
    }
}

proptest! {
    #[test]
    fn a_target_that_goes_moves_its_own_values_and_no_other(
        weights in prop::collection::vec(1..=WEIGHT_MAX, 2..12),
        gone in any::<prop::sample::Index>(),
        order in any::<prop::sample::Index>(),
    ) {
        let before = placed(&weighted(&weights), 200);
        let gone = gone.index(weights.len());
        let mut after = weighted(&weights);
        after.unbind(&weights[gone].to_string(), &[], &(gone as u32));
        let moved = placed(&after, 200);
        for (before, after) in before.iter().zip(&moved) {
            prop_assert!(*before == gone as u32 || before == after);
            prop_assert!(*after != gone as u32);
        }
        let mut turned = Bindings::new(ExchangeKind::ConsistentHash);
        let first = order.index(weights.len());
        for at in (first..weights.len()).chain(0..first) {
            turned.bind(&weights[at].to_string(), &[], at as u32);
        }
        prop_assert_eq!(placed(&turned, 200), before, "the order of binding plays no part");
    }
}
