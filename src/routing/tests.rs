//! The tables judged by naive ones: a list of bindings that is searched from end to end.

mod choosing;

use std::collections::BTreeSet;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{Table, TableBuf};
use crate::routing::stable_hash::mix;
use crate::routing::{
    Bindings, ExchangeKind, MATCH_STEPS_MAX, MatchBudget, Member, RoutingError, TooManySteps, Topic, headers,
    matches, recent_history, stable_hash, topic,
};

type Entries = Vec<(&'static str, i64)>;

fn table(entries: &[(&str, Field<'_>)]) -> TableBuf {
    let mut table = TableBuf::new();
    for (key, field) in entries {
        table.insert(key, *field);
    }
    table
}

fn routed(bindings: &Bindings<u32>, key: &str, headers: &TableBuf) -> BTreeSet<u32> {
    routed_by(bindings, key, |properties| _ = properties.headers(headers.as_table()))
}

/// Where a message with these properties goes.
fn routed_by(bindings: &Bindings<u32>, key: &str, set: impl FnOnce(&mut PropertiesBuf)) -> BTreeSet<u32> {
    let mut properties = PropertiesBuf::new();
    set(&mut properties);
    let properties = properties.into_bytes();
    let properties = Properties::parse(&properties).unwrap();
    let mut found = BTreeSet::new();
    let mut found_one = |target: &u32| _ = found.insert(*target);
    let budget = &mut MatchBudget::default();
    bindings.route(key.as_bytes(), properties, budget, &mut found_one).unwrap();
    found
}

/// A binding key for each key that a kind may not take: of those that follow each other few are the same.
fn binding_key(kind: ExchangeKind, key: &str) -> String {
    match kind {
        ExchangeKind::ConsistentHash => {
            let number = key.bytes().fold(0, |number, octet| (number * 31 + u32::from(octet)) % 997);
            format!("{}", number + 1)
        }
        _ => key.to_owned(),
    }
}

/// One binding in a headers exchange against one message.
fn headers_match(arguments: &[(&str, Field<'_>)], given: &[(&str, Field<'_>)]) -> bool {
    let mut bindings = Bindings::new(ExchangeKind::Headers);
    bindings.bind("", &table(arguments).into_bytes(), 1);
    !routed(&bindings, "", &table(given)).is_empty()
}

fn text(value: &str) -> Field<'_> {
    Field::LongStr(value.as_bytes())
}

#[test]
fn a_snapshot_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Bindings<std::sync::Arc<str>>>();
}

#[test]
fn the_length_of_a_history_is_checked_with_rabbitmqs_words() {
    let length = |field| recent_history::length(table(&[("x-recent-history-length", field)]).as_table());
    assert_eq!(recent_history::length(Table::EMPTY), Ok(20));
    assert_eq!((length(Field::U8(1)), length(Field::I64(10_000))), (Ok(1), Ok(10_000)));
    let refused = |field| length(field).unwrap_err().to_string();
    let not_positive = "Invalid argument 0, 'x-recent-history-length' must be a positive integer";
    assert_eq!(refused(Field::I32(0)), not_positive);
    assert_eq!(refused(Field::I64(-7)), not_positive.replace('0', "-7"));
    assert_eq!(refused(text("a")), not_positive.replace('0', r#"<<"a">>"#));
    let too_long = "Invalid argument 10001, 'x-recent-history-length' must not be greater than 10000";
    assert_eq!(refused(Field::I32(10_001)), too_long);
    let kind = ExchangeKind::RecentHistory;
    assert!(kind.check_arguments(table(&[("x-recent-history-length", Field::Void)]).as_table()).is_err());
    let flagged =
        |field| recent_history::is_stored(table(&[("x-recent-history-no-store", field)]).as_table());
    assert!(recent_history::is_stored(Table::EMPTY) && flagged(Field::Bool(false)) && flagged(text("true")));
    assert!(!flagged(Field::Bool(true)));
}

#[test]
fn kinds_have_the_names_clients_use() {
    for kind in ExchangeKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    let unknown = "foo".parse::<ExchangeKind>().unwrap_err();
    assert_eq!(unknown.to_string(), "unknown exchange type 'foo'");
}

#[test]
fn a_binding_is_its_key_its_arguments_in_any_order_and_its_target() {
    let ab = table(&[("a", Field::I32(1)), ("b", text("x"))]).into_bytes();
    let ba = table(&[("b", text("x")), ("a", Field::I32(1))]).into_bytes();
    let wider = table(&[("a", Field::I64(1)), ("b", text("x"))]).into_bytes();
    for kind in ExchangeKind::ALL {
        let keys = ["k", "l", "m"].map(|key| binding_key(kind, key));
        let [k, l, m] = keys.each_ref().map(String::as_str);
        let mut bindings = Bindings::<u32>::new(kind);
        assert!(bindings.bind(k, &ab, 1));
        assert!(!bindings.bind(k, &ba, 1), "{kind:?}: the order of keys does not matter");
        assert!(bindings.bind(k, &wider, 1), "{kind:?}: the type of a value does");
        assert!(bindings.bind(k, &[], 1));
        assert!(bindings.bind(l, &ab, 1));
        assert!(bindings.bind(k, &ab, 2));
        assert_eq!(bindings.len(), 5);
        assert!(!bindings.unbind(m, &ab, &1));
        assert!(bindings.unbind(k, &ba, &1));
        assert!(!bindings.unbind(k, &ab, &1));
        for (key, arguments, target) in [(k, &wider, 1), (l, &ab, 1), (k, &ab, 2)] {
            assert!(bindings.unbind(key, arguments, &target));
        }
        assert!(bindings.unbind(k, &[], &1));
        assert!(bindings.is_empty());
    }
}

#[test]
fn a_clone_keeps_what_it_had() {
    for kind in ExchangeKind::ALL {
        let key = binding_key(kind, "a.b");
        let mut bindings = Bindings::new(kind);
        bindings.bind(&key, &[], 1);
        let snapshot = bindings.clone();
        bindings.bind(&key, &[], 2);
        bindings.unbind(&key, &[], &1);
        assert_eq!(routed(&snapshot, "a.b", &TableBuf::new()), BTreeSet::from([1]), "{kind:?}");
        assert_eq!(routed(&bindings, "a.b", &TableBuf::new()), BTreeSet::from([2]), "{kind:?}");
    }
}

#[test]
fn topic_words() {
    for (pattern, key, matched) in [
        ("a.b", "a.b", true),
        ("a.b", "a.b.c", false),
        ("a.*", "a.b", true),
        ("a.*", "a", false),
        ("a.*", "a.", true),
        ("a.#", "a", true),
        ("a.#", "a.b.c", true),
        ("#.c", "c", true),
        ("#.c", "a.b.d", false),
        ("a.#.c", "a.c", true),
        ("*.#", "", false),
        ("#", "", true),
        ("*", "", false),
        ("", "", true),
        ("#", "a..b", true),
        ("a.*.b", "a..b", true),
        ("a*", "ab", false),
    ] {
        let mut topic = Bindings::new(ExchangeKind::Topic);
        topic.bind(pattern, &[], 1);
        assert_eq!(!routed(&topic, key, &TableBuf::new()).is_empty(), matched, "{pattern} {key}");
        assert_eq!(matches(pattern, key.as_bytes()), matched, "naive: {pattern} {key}");
    }
}

#[test]
fn a_run_of_hashes_is_one_to_the_trie_and_two_bindings_to_the_client() {
    let mut topic = Bindings::new(ExchangeKind::Topic);
    assert!(topic.bind("a.#", &[], 1));
    assert!(topic.bind("a.#.#", &[], 1));
    assert!(topic.unbind("a.#", &[], &1));
    assert_eq!(routed(&topic, "a.b", &TableBuf::new()), BTreeSet::from([1]));
    assert!(topic.unbind("a.#.#", &[], &1));
    assert!(topic.is_empty());
}

#[test]
fn no_pattern_makes_the_trie_explode() {
    let steps = |pattern: &str, key: &str| {
        let mut topic = Topic::default();
        assert!(topic.bind(pattern, &[], 1_u32));
        let mut found = 0;
        let steps = topic.route(key.as_bytes(), &mut MatchBudget::default(), &mut |_| found += 1).unwrap();
        assert_eq!(found == 1, matches(pattern, key.as_bytes()), "{pattern}");
        steps
    };
    let repeated = |word: &str, times: usize| vec![word; times].join(".");
    let key = repeated("a", 128);
    assert!(steps(&repeated("#", 128), &key) <= 2 * 129, "a run of # is one");
    // 128 words, 64 of them #: the bound is nodes × words, where backtracking would need 2^64 steps.
    assert!(steps(&repeated("#.a", 64), &key) <= 129 * 129);
    assert!(steps(&format!("{}.b", repeated("#.a", 63)), &key) <= 129 * 129);
    assert!(steps(&repeated("#.*", 64), &key) <= 129 * 129);
    assert!(steps(&repeated("#.a", 64), &".".repeat(255)) <= 129 * 257);
}

/// A pattern that every word of a key of `a` and `b` leads further into, unlike any other one.
fn hungry_pattern(number: u64) -> String {
    let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..40).map(|bit| if bits >> bit & 1 == 0 { "#.a." } else { "#.b." }).collect::<String>() + "#.z"
}

#[test]
fn a_message_takes_a_bounded_number_of_steps_however_many_patterns_there_are() {
    let mut topic = Topic::default();
    for number in 0..200 {
        topic.bind(&hungry_pattern(number), &[], number);
    }
    topic.bind("#", &[], 200);
    let mut found = Vec::new();
    let key = "a.b.".repeat(63) + "z";
    let steps = topic.route(key.as_bytes(), &mut MatchBudget::default(), &mut |target| found.push(*target));
    assert_eq!((steps, found.as_slice()), (Err(TooManySteps), &[][..]));

    let steps = topic.route(b"a.b.z", &mut MatchBudget::default(), &mut |target| found.push(*target));
    assert!(steps.unwrap() < 1_000);
    assert_eq!(found, [200]);
}

#[test]
fn a_budget_is_for_all_tables_that_a_message_meets() {
    let mut topic = Topic::default();
    for number in 0..2_u64 {
        topic.bind(&hungry_pattern(number), &[], number);
    }
    let key = "a.b.".repeat(63) + "z";
    let mut budget = MatchBudget::default();
    let mut found = 0;
    let mut routes = 0;
    while topic.route(key.as_bytes(), &mut budget, &mut |_| found += 1).is_ok() {
        routes += 1;
    }
    assert!((2..10).contains(&routes), "{routes} of the same steps");
    assert_eq!(found, routes * 2);
}

#[test]
fn what_a_message_finds_takes_nothing_from_its_budget() {
    let mut topic = Topic::default();
    let targets = MATCH_STEPS_MAX + 1;
    for target in 0..targets {
        topic.bind("a.#", &[], target);
    }
    let mut found = 0;
    let steps = topic.route(b"a.b", &mut MatchBudget::default(), &mut |_| found += 1);
    assert_eq!(found, targets);
    assert!(steps.unwrap() < 10);
}

#[test]
fn wide_and_deep_tries_agree_with_the_naive_matcher() {
    let words: Vec<String> = (0..40).map(|word| word.to_string()).collect();
    let mut patterns: Vec<String> = words.iter().map(|word| format!("a.{word}")).collect();
    for depth in 1..40 {
        let stars = vec!["*"; depth].join(".");
        patterns.extend([format!("{stars}.#"), format!("#.{stars}.#.39"), format!("{stars}.#.a.#")]);
    }
    let mut topic = Bindings::new(ExchangeKind::Topic);
    for (target, pattern) in (0..).zip(&patterns) {
        topic.bind(pattern, &[], target);
    }
    for key in ["a.7".to_owned(), words.join("."), words[..20].join("."), format!("{}.a", words.join("."))] {
        let expected = (0..)
            .zip(&patterns)
            .filter(|(_, pattern)| matches(pattern, key.as_bytes()))
            .map(|(t, _)| t)
            .collect();
        assert_eq!(routed(&topic, &key, &TableBuf::new()), expected, "{key}");
    }
    for (target, pattern) in (0..).zip(&patterns) {
        assert!(topic.unbind(pattern, &[], &target));
    }
    assert!(topic.is_empty());
}

#[test]
fn too_many_words_are_refused_in_a_pattern_and_harmless_in_a_key() {
    let mut topic = Bindings::new(ExchangeKind::Topic);
    let dots = ".".repeat(255);
    let refused = topic.bind_allowed(&dots).unwrap_err();
    assert_eq!(refused, RoutingError::TooManyWords { found: 256, words_max: topic::WORDS_MAX });
    assert_eq!(refused.to_string(), "binding key has 256 words; expected at most 128");
    assert!(!topic.bind(&dots, &[], 1));
    assert_eq!(topic.bind_allowed(&".".repeat(127)), Ok(()));
    topic.bind("#", &[], 2);
    topic.bind("*.*", &[], 3);
    topic.bind("#.a", &[], 4);
    assert_eq!(routed(&topic, &dots, &TableBuf::new()), BTreeSet::from([2]));
    assert_eq!(Bindings::<u32>::new(ExchangeKind::Direct).bind_allowed(&dots), Ok(()));
}

#[test]
fn headers_all_and_any() {
    let (a, b) = (("a", Field::I32(1)), ("b", text("x")));
    let mode = |name| ("x-match", text(name));
    assert!(headers_match(&[a, b], &[b, a]), "all is the default");
    assert!(!headers_match(&[a, b], &[a]));
    assert!(headers_match(&[mode("any"), a, b], &[b]));
    assert!(!headers_match(&[mode("any"), a, b], &[("b", text("y"))]));
    assert!(headers_match(&[], &[a]), "no arguments: all of none");
    assert!(!headers_match(&[mode("any")], &[a]), "no arguments: any of none");
    assert!(headers_match(&[("a", Field::Void)], &[a]), "void asks for the key");
    assert!(!headers_match(&[("a", Field::Void)], &[b]));
}

#[test]
fn headers_that_start_with_x_count_when_asked() {
    let (a, x) = (("a", Field::I32(1)), ("x-a", Field::I32(1)));
    let mode = |name| ("x-match", text(name));
    assert!(headers_match(&[mode("all"), a, x], &[a]));
    assert!(!headers_match(&[mode("all-with-x"), a, x], &[a]));
    assert!(headers_match(&[mode("all-with-x"), a, x], &[a, x]));
    assert!(!headers_match(&[mode("any"), a, x], &[x]));
    assert!(headers_match(&[mode("any-with-x"), a, x], &[x]));
    assert!(!headers_match(&[mode("any-with-x")], &[mode("any-with-x")]), "never x-match itself");
}

#[test]
fn headers_compare_values_and_not_types() {
    let same = |one, other| headers_match(&[("k", one)], &[("k", other)]);
    assert!(same(Field::I8(7), Field::I64(7)));
    assert!(same(Field::U32(7), Field::Timestamp(7)));
    assert!(same(Field::I32(1), Field::F64(1.0)), "as Erlang's ==");
    assert!(same(Field::F32(0.5), Field::F64(0.5)));
    assert!(same(text("a"), Field::Bytes(b"a")));
    assert!(!same(text("1"), Field::I32(1)));
    assert!(!same(Field::Bool(true), Field::I32(1)));
    assert!(!same(Field::I64(i64::MAX), Field::F64(i64::MAX as f64)), "exact beyond 2^53");
    assert!(!same(Field::F64(f64::NAN), Field::F64(f64::NAN)));
    assert!(!same(Field::I32(1), Field::Void), "void in the message is a value");
    let (short, long) = (table(&[("n", Field::I32(1))]), table(&[("n", Field::I64(1))]));
    assert!(same(Field::Table(short.as_table()), Field::Table(short.as_table())));
    assert!(!same(Field::Table(short.as_table()), Field::Table(long.as_table())), "types count inside");
}

#[test]
fn headers_arguments_are_checked_with_rabbitmqs_words() {
    let check = |field| headers::check_arguments(table(&[("x-match", field)]).as_table());
    assert_eq!(check(text("any-with-x")), Ok(()));
    assert_eq!(headers::check_arguments(Table::EMPTY), Ok(()));
    assert_eq!(
        check(text("foo")).unwrap_err().to_string(),
        r#"Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x"#
    );
    assert_eq!(
        check(Field::I64(3)).unwrap_err().to_string(),
        "Invalid x-match field type long (value 3); expected longstr"
    );
    let nested = table(&[("a", text("b")), ("c", Field::Void)]);
    assert_eq!(
        check(Field::Table(nested.as_table())).unwrap_err().to_string(),
        r#"Invalid x-match field type table (value [{<<"a">>,longstr,<<"b">>},{<<"c">>,void,undefined}]); expected longstr"#
    );
}

/// RabbitMQ's rule for a headers binding, one argument at a time; keys are unique here.
fn naive_headers(arguments: &Entries, mode: &str, given: &Entries) -> bool {
    let mut wanted = arguments.iter().filter(|(key, _)| mode.ends_with("-with-x") || !key.starts_with("x-"));
    match mode.starts_with("any") {
        true => wanted.any(|pair| given.contains(pair)),
        false => wanted.all(|pair| given.contains(pair)),
    }
}

fn key_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(words), 0..7).prop_map(|words| words.join("."))
}

fn entries() -> impl Strategy<Value = Entries> {
    let keys = prop::sample::subsequence(vec!["a", "b", "x-c"], 0..=3);
    (keys, prop::collection::vec(0..3_i64, 3))
        .prop_map(|(keys, values)| keys.into_iter().zip(values).collect())
}

#[derive(Clone, Debug)]
struct Step {
    bind: bool,
    key: String,
    arguments: Entries,
    mode: &'static str,
    target: u32,
}

impl Step {
    fn arguments(&self) -> Vec<u8> {
        let mut table = fields(&self.arguments);
        if self.mode != "all" {
            table.insert("x-match", text(self.mode));
        }
        table.into_bytes()
    }

    fn accepts(&self, kind: ExchangeKind, key: &str, given: &Entries) -> bool {
        match kind {
            // Without arguments it routes as a direct exchange does.
            ExchangeKind::Direct | ExchangeKind::Delayed => self.key == key,
            ExchangeKind::Topic => matches(&self.key, key.as_bytes()),
            ExchangeKind::Headers => naive_headers(&self.arguments, self.mode, given),
            _ => true,
        }
    }

    /// How long its target waits for the message, by which the one is chosen that waits least.
    fn wait(&self, key: &str) -> f64 {
        let draw = mix(stable_hash(1, key.as_bytes()) ^ self.target.place());
        -((draw | 1) as f64 / 2_f64.powi(64)).ln() / f64::from(self.key.parse::<u16>().unwrap())
    }

    fn is_binding_of(&self, other: &Self) -> bool {
        self.key == other.key && self.arguments() == other.arguments() && self.target == other.target
    }
}

/// The targets of a message among all bindings there are.
fn naively_routed(kind: ExchangeKind, list: &[Step], key: &str, given: &Entries) -> BTreeSet<u32> {
    let accepting = list.iter().filter(|step| step.accepts(kind, key, given));
    match kind {
        ExchangeKind::ConsistentHash => {
            let chosen = accepting.min_by(|one, other| one.wait(key).total_cmp(&other.wait(key)));
            chosen.into_iter().map(|step| step.target).collect()
        }
        ExchangeKind::ModulusHash => {
            let mut targets: Vec<_> = accepting.map(|step| (step.target.place(), step.target)).collect();
            targets.sort_unstable();
            let number = stable_hash(0, key.as_bytes()).checked_rem(targets.len() as u64);
            number.map(|number| targets[number as usize].1).into_iter().collect()
        }
        _ => accepting.map(|step| step.target).collect(),
    }
}

fn fields(entries: &Entries) -> TableBuf {
    table(&entries.iter().map(|&(key, value)| (key, Field::I64(value))).collect::<Vec<_>>())
}

fn step() -> impl Strategy<Value = Step> {
    let arguments = prop_oneof![2 => Just(Vec::new()), 1 => entries()];
    let modes = prop::sample::select(vec!["all", "any", "all-with-x", "any-with-x"]);
    // Few keys and targets, so that bindings meet again; many targets under one key change its shape.
    let target = prop_oneof![0..3_u32, 0..40_u32];
    (any::<bool>(), key_of(&["a", "b", "*", "#"]), arguments, modes, target)
        .prop_map(|(bind, key, arguments, mode, target)| Step { bind, key, arguments, mode, target })
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_naive_matcher(
        patterns in prop::collection::vec(key_of(&["a", "b", "", "*", "#"]), 1..30),
        keys in prop::collection::vec(key_of(&["a", "b", "c", ""]), 1..10),
    ) {
        let mut topic = Bindings::new(ExchangeKind::Topic);
        for (target, pattern) in (0..).zip(&patterns) {
            topic.bind(pattern, &[], target);
        }
        for key in &keys {
            let expected: BTreeSet<u32> =
                (0..).zip(&patterns).filter(|(_, pattern)| matches(pattern, key.as_bytes())).map(|(t, _)| t).collect();
            prop_assert_eq!(routed(&topic, key, &TableBuf::new()), expected, "{} in {:?}", key, &patterns);
        }
    }

    #[test]
    fn every_kind_agrees_with_a_list(
        kind in prop::sample::select(ExchangeKind::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..120),
        narrow in any::<bool>(),
        key in key_of(&["a", "b", "c"]),
        given in entries(),
    ) {
        let mut bindings = Bindings::new(kind);
        let mut list: Vec<Step> = Vec::new();
        for mut step in steps {
            if narrow {
                step.key.truncate(1);
            }
            step.key = binding_key(kind, &step.key);
            let known = list.iter().position(|other| other.is_binding_of(&step));
            if step.bind {
                prop_assert_eq!(bindings.bind(&step.key, &step.arguments(), step.target), known.is_none());
                if known.is_none() {
                    list.push(step);
                }
            } else {
                prop_assert_eq!(bindings.unbind(&step.key, &step.arguments(), &step.target), known.is_some());
                known.map(|place| list.remove(place));
            }
            prop_assert_eq!(bindings.len(), list.len());
        }
        let (found, expected) = (routed(&bindings, &key, &fields(&given)), naively_routed(kind, &list, &key, &given));
        if kind == ExchangeKind::Random {
            prop_assert_eq!(found.len(), expected.len().min(1));
            prop_assert!(found.is_subset(&expected));
        } else {
            prop_assert_eq!(found, expected);
        }
        for step in &list {
            prop_assert_eq!(bindings.unbind(&step.key, &step.arguments(), &step.target), true);
        }
        prop_assert_eq!(bindings.is_empty(), true);
    }
}
