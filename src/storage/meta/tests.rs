//! The checkpoint keeps what it is told, through crashes and full disks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::clock::worked;
use crate::message::fact::{Binding, Definition, Destination, Fact};
use crate::message::fact_codec;
use crate::message::place::{Extent, Lsn, QueueId, Seq};
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use crate::storage::error::StoreError;
use crate::storage::log::{LoggedDefinition, ReplayFrom};
use crate::storage::meta::{Changes, Loaded, META_FILE, Meta, MetaState, QueueRow};
use crate::storage::pack::format::ExtentRecord;
use crate::storage::pack::writer::PackedExtent;

fn logged(definition: Definition<'_>) -> LoggedDefinition {
    let fact = Fact::Defined(definition);
    let mut body = Vec::new();
    fact_codec::encode(&fact, &mut body);
    LoggedDefinition { lsn: Lsn(0), kind: fact_codec::kind(&fact), body: body.into() }
}

fn exchange(name: &str) -> LoggedDefinition {
    let (vhost, kind) = ("/", "topic");
    logged(Definition::ExchangeDeclared {
        vhost,
        name,
        kind,
        auto_delete: false,
        internal: false,
        arguments: &[],
    })
}

fn queue(id: u64) -> LoggedDefinition {
    let (queue, name) = (QueueId(id), format!("q{id}"));
    logged(Definition::QueueDeclared { queue, vhost: "/", name: &name, auto_delete: false, arguments: &[] })
}

fn binding<'a>(source: &'a str, destination: Destination<'a>) -> Binding<'a> {
    Binding { vhost: "/", source, destination, key: "k", arguments: &[] }
}

fn extent(queue: u64, pack: u64, first: u64, gaps: &[u32]) -> PackedExtent {
    let at = Extent {
        first: Seq(first),
        last: Seq(first + 9),
        pack,
        offset: 4096,
        bytes: 99,
        count: 10,
        body_bytes: 50,
    };
    let record = ExtentRecord { queue: QueueId(queue), lane: 0, at, received_min_ms: 0, received_max_ms: 0 };
    PackedExtent { record, gaps: gaps.iter().copied().collect() }
}

fn row(id: u64, next_seq: u64) -> QueueRow {
    QueueRow { queue: QueueId(id), next_seq: Seq(next_seq), delivered_hi: Seq(2) }
}

/// All that is in there, in words.
fn dump(meta: &mut Meta) -> (MetaState, Vec<String>) {
    let mut lines = Vec::new();
    let state = meta.load(&mut |loaded| {
        lines.push(match loaded {
            Loaded::Defined(Definition::ExchangeDeclared { name, .. }) => format!("exchange {name}"),
            Loaded::Defined(Definition::QueueDeclared { queue, name, .. }) => {
                format!("queue {} {name}", queue.0)
            }
            Loaded::Defined(Definition::Bound(Binding { source, destination, .. })) => {
                format!("{source} to {destination:?}")
            }
            Loaded::Queue(row) => format!("row {} {}", row.queue.0, row.next_seq.0),
            Loaded::Extent { queue, at, settled, .. } => {
                format!(
                    "extent {} {} in {} without {:?}",
                    queue.0,
                    at.first.0,
                    at.pack,
                    settled.iter().collect::<Vec<_>>()
                )
            }
            other => panic!("{other:?}"),
        });
    });
    (state.unwrap(), lines)
}

fn open(disk: &SimulatedDisk) -> Meta {
    Meta::open(Arc::new(disk.clone())).unwrap()
}

fn first_changes() -> Changes {
    Changes {
        definitions: vec![
            exchange("a"),
            exchange("b"),
            queue(1),
            queue(2),
            logged(Definition::Bound(binding("a", Destination::Queue(QueueId(1))))),
            logged(Definition::Bound(binding("a", Destination::Queue(QueueId(2))))),
            logged(Definition::Bound(binding("a", Destination::Exchange("b")))),
        ],
        queues: vec![row(1, 20), row(2, 30), row(9, 1)],
        extents: vec![
            extent(1, 1, 1, &[3]),
            extent(2, 1, 1, &[]),
            extent(2, 2, 11, &[]),
            extent(9, 2, 1, &[]),
        ],
        settled: vec![(QueueId(9), 0, Seq(1), RoaringBitmap::from_iter([1]))],
        replay: Some(ReplayFrom { sequence: 3, lsn: Lsn(300) }),
        next_queue_id: Some(10),
        ..Changes::default()
    }
}

#[test]
fn a_checkpoint_is_read_as_it_was_committed_and_without_messages_of_no_queue() {
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    assert_eq!(
        dump(&mut meta),
        (MetaState { replay: ReplayFrom::START, next_queue_id: 1, clean: None }, Vec::new())
    );
    meta.commit(&first_changes()).unwrap();
    drop(meta);
    let mut meta = open(&disk);
    let (state, lines) = dump(&mut meta);
    let replay = ReplayFrom { sequence: 3, lsn: Lsn(300) };
    assert_eq!(state, MetaState { replay, next_queue_id: 10, clean: None });
    let expected = [
        "exchange a",
        "exchange b",
        "queue 1 q1",
        "queue 2 q2",
        "a to Queue(QueueId(1))",
        "a to Queue(QueueId(2))",
        "a to Exchange(\"b\")",
        "row 1 20",
        "row 2 30",
        "row 9 1",
        "extent 1 1 in 1 without [3]",
        "extent 2 1 in 1 without []",
        "extent 2 11 in 2 without []",
    ];
    assert_eq!(lines, expected);
    assert_eq!(meta.packs().unwrap(), [1, 2]);
}

#[test]
fn what_goes_takes_with_it_what_belonged_to_it() {
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    meta.commit(&first_changes()).unwrap();
    let deleted = logged(Definition::QueueDeleted { queue: QueueId(2) });
    let settled = vec![(QueueId(1), 0, Seq(1), RoaringBitmap::from_iter([3, 4, 5]))];
    let clean = Some(Lsn(400));
    meta.commit(&Changes { definitions: vec![deleted], settled, clean, ..Changes::default() }).unwrap();
    let (state, lines) = dump(&mut meta);
    assert_eq!((state.clean, state.next_queue_id), (Some(Lsn(400)), 10));
    assert_eq!(lines.iter().filter(|line| line.contains('2')).count(), 1, "{lines:?}");
    assert!(lines.contains(&"extent 1 1 in 1 without [3, 4, 5]".to_owned()));
    assert_eq!(meta.packs().unwrap(), [1]);
    let deleted = logged(Definition::ExchangeDeleted { vhost: "/", name: "b" });
    let unbound = logged(Definition::Unbound(binding("a", Destination::Queue(QueueId(1)))));
    // A pack is merged into another: the same first number, elsewhere.
    let changes = Changes {
        definitions: vec![deleted, unbound],
        packs_forgotten: vec![1],
        extents: vec![extent(1, 3, 1, &[])],
        ..Changes::default()
    };
    meta.commit(&changes).unwrap();
    let (state, lines) = dump(&mut meta);
    assert_eq!(state.clean, None);
    let expected = ["exchange a", "queue 1 q1", "row 1 20", "row 9 1", "extent 1 1 in 3 without []"];
    assert_eq!(lines, expected);
    let forgotten = vec![(QueueId(1), 0, Seq(1))];
    meta.commit(&Changes { extents_forgotten: forgotten, ..Changes::default() }).unwrap();
    assert!(meta.packs().unwrap().is_empty());
}

#[test]
fn exchanges_that_go_are_found_among_many_bindings_without_a_look_at_all_of_them() {
    const BINDINGS: u64 = 10_000;
    const EXCHANGES: u64 = 1000;
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    let bound =
        |source: &str, to| logged(Definition::Bound(binding(source, Destination::Queue(QueueId(to)))));
    let mut took = |definitions| {
        let begins = worked();
        meta.commit(&Changes { definitions, ..Changes::default() }).unwrap();
        worked() - begins
    };
    let binding = took((0..BINDINGS).map(|queue| bound("other", queue)).collect());
    let with_their_bindings = (0..EXCHANGES).flat_map(|number| {
        let name = format!("e{number}");
        [bound(&name, number), logged(Definition::ExchangeDeleted { vhost: "/", name: &name })]
    });
    let deleting = took(with_their_bindings.collect());
    assert_eq!(dump(&mut meta).1.len() as u64, BINDINGS);
    // A look at all bindings for each takes fifty times as long as to bind them.
    assert!(deleting < 4 * binding, "{BINDINGS} bindings {binding:?}, {EXCHANGES} exchanges {deleting:?}");
}

#[test]
fn definitions_apply_twice_as_once() {
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    meta.commit(&first_changes()).unwrap();
    let before = dump(&mut meta);
    let definitions = first_changes().definitions;
    meta.commit(&Changes { definitions, ..Changes::default() }).unwrap();
    assert_eq!(dump(&mut meta), before);
}

/// Commits numbered checkpoints until a call fails; how many were acknowledged.
fn commit_until_failure(disk: &SimulatedDisk) -> (u64, Option<StoreError>) {
    let mut committed = 0;
    let mut run = || {
        let mut meta = Meta::open(Arc::new(disk.clone()))?;
        for n in 1..=3 {
            meta.commit(&Changes { definitions: vec![queue(n)], next_queue_id: Some(n), ..first_changes() })?;
            committed = n;
        }
        Ok(())
    };
    let error = run().err();
    (committed, error)
}

#[test]
fn every_call_may_be_the_last_and_no_commit_is_lost() {
    let whole = SimulatedDisk::new();
    commit_until_failure(&whole);
    let calls = whole.calls();
    let mut seen = BTreeMap::new();
    for fault in [Fault::Crash, Fault::SyncFails, Fault::Error(io::ErrorKind::Other)] {
        for call in 0..calls {
            let disk = SimulatedDisk::new();
            disk.fail_at(call, fault);
            let (committed, _) = commit_until_failure(&disk);
            for mode in CrashMode::ALL {
                let crashed = disk.crash(mode, call);
                let found = dump(&mut open(&crashed)).0;
                let found = if found.replay == ReplayFrom::START { 0 } else { found.next_queue_id };
                assert!(
                    found == committed || found == committed + 1,
                    "{fault:?} at {call}, {mode:?}: {committed} were committed, {found} found"
                );
                // What a start has seen, no later power cut takes back.
                let again = dump(&mut open(&crashed.crash(CrashMode::NothingUnsynced, 0))).0;
                let again = if again.replay == ReplayFrom::START { 0 } else { again.next_queue_id };
                assert_eq!(again, found, "{fault:?} at {call}, {mode:?}");
                *seen.entry(found).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(seen.len(), 4, "every state was seen: {seen:?}");
}

#[test]
fn an_empty_checkpoint_is_made_whole_or_not_at_all() {
    let whole = SimulatedDisk::new();
    drop(open(&whole));
    for fault in [Fault::ShortWrite, Fault::SyncFails, Fault::Error(io::ErrorKind::Other)] {
        for call in 0..whole.calls() {
            let disk = SimulatedDisk::new();
            disk.fail_at(call, fault);
            let made = Meta::open(Arc::new(disk.clone()));
            for (mode, seed) in
                CrashMode::ALL.into_iter().flat_map(|mode| (0..10).map(move |seed| (mode, seed)))
            {
                if let Err(error) = Meta::open(Arc::new(disk.crash(mode, seed))) {
                    panic!("{fault:?} at {call}, {mode:?} {seed}: {error}");
                }
            }
            drop(made);
        }
    }
}

#[test]
fn a_full_disk_changes_nothing_and_may_be_tried_again() {
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    meta.commit(&first_changes()).unwrap();
    let before = dump(&mut meta);
    let many = Changes { definitions: (100..3000).map(queue).collect(), ..Changes::default() };
    disk.set_capacity(0);
    assert!(meta.commit(&many).unwrap_err().is_full());
    assert_eq!(dump(&mut meta), before);
    disk.set_capacity(1 << 40);
    meta.commit(&many).unwrap();
    assert_eq!(dump(&mut open(&disk)).1.len(), before.1.len() + 2900);
}

#[test]
fn a_commit_that_finds_no_room_at_some_call_changes_nothing_or_ends_the_store() {
    let more = Changes { definitions: (100..130).map(queue).collect(), ..Changes::default() };
    let (mut full, mut ended) = (0, 0);
    for call in 0.. {
        let disk = SimulatedDisk::new();
        let mut meta = open(&disk);
        let before = dump(&mut meta);
        disk.fail_at(disk.calls() + call, Fault::NoSpace);
        match meta.commit(&more) {
            Ok(()) => break,
            Err(error) if error.is_full() => {
                assert_eq!(dump(&mut meta), before, "no room at {call}");
                meta.commit(&Changes::default()).unwrap();
                assert_eq!(dump(&mut meta), before, "no room at {call}, a commit later");
                full += 1;
            }
            Err(_) => ended += 1,
        }
    }
    assert!(full > 3 && ended > 0, "{full} found no room, {ended} ended the store");
}

#[test]
fn damage_is_said_and_not_read() {
    let disk = SimulatedDisk::new();
    let mut meta = open(&disk);
    meta.commit(&first_changes()).unwrap();
    drop(meta);
    disk.tamper(META_FILE, 0, &[0xff; 4096]).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    assert!(matches!(Meta::open(shared).unwrap_err(), StoreError::Corrupt { .. } | StoreError::Io { .. }));
}
