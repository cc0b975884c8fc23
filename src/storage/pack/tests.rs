//! Packs are written, read back, damaged and removed.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use crate::message::block::{Big, BlockBuilder, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::{Marks, Stamp};
use crate::message::names::NamesBuf;
use crate::message::place::{Lsn, QueueId, Seq};
use crate::message::record::{BodyView, Content};
use crate::message::run::Run;
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::{CrashMode, SimulatedDisk};
use crate::storage::error::StoreError;
use crate::storage::pack::reader::Pack;
use crate::storage::pack::shelf::Shelf;
use crate::storage::pack::writer::{Origin, PackSummary, PackWriter, Shared};
use crate::storage::pack::{Kind, number_of};

/// The messages of one queue: number and body.
type Written = Vec<(u64, Vec<u8>)>;

fn run(first: u64, bodies: &[Vec<u8>], persistent: bool) -> Run {
    let mut names = NamesBuf::default();
    names.set(b"x", b"key");
    let stamp = Stamp { marks: Marks::of(persistent), received_ms: 1000 + first / 8 };
    if let [body] = bodies
        && body.len() > SMALL_BODY_BYTES_MAX
    {
        let pieces = [Bytes::copy_from_slice(body)].into_iter().collect();
        return Run::of_big(Big::new(names.view(), &[0, 0], pieces, stamp, &Arc::default()))
            .numbered_from(Seq(first));
    }
    let mut builder = BlockBuilder::default();
    bodies.iter().for_each(|body| builder.push(&Content { names: names.view(), properties: &[0, 0], body }));
    let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
    Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
}

fn messages(runs: &[Run]) -> Written {
    let bodies = |run: &Run| {
        let bodies = run.messages().map(|message| match message.body {
            BodyView::Slice(body) => body.to_vec(),
            BodyView::Chunks(chunks) => chunks.concat(),
        });
        (run.first_seq().0..).zip(bodies).collect::<Vec<_>>()
    };
    runs.iter().flat_map(bodies).collect()
}

fn read_queue(pack: &Pack, summary: &PackSummary, queue: u64) -> (Written, Vec<StoreError>) {
    let (mut runs, mut damaged) = (Vec::new(), Vec::new());
    for extent in summary.extents.iter().filter(|extent| extent.record.queue == QueueId(queue)) {
        let read = pack.read_extent(QueueId(queue), &extent.record.at, &Arc::default()).unwrap();
        let all = [(extent.record.at.first, extent.record.at.last.after(1))];
        let by_blocks =
            pack.read_extent_at(QueueId(queue), &extent.record.at, &all, &Arc::default()).unwrap();
        assert_eq!(messages(&by_blocks.runs), messages(&read.runs));
        let live: u64 = read.runs.iter().map(|run| u64::from(run.count())).sum();
        if read.damaged.is_empty() {
            let at = extent.record.at;
            assert_eq!(live, u64::from(at.count));
            assert_eq!(live, at.last.0 - at.first.0 + 1 - extent.gaps.len());
            assert_eq!(at.body_bytes, read.runs.iter().map(Run::body_bytes).sum::<u64>());
        }
        runs.extend(read.runs);
        damaged.extend(read.damaged);
    }
    (messages(&runs), damaged)
}

fn queues() -> impl Strategy<Value = Vec<Vec<(u64, Vec<usize>, bool)>>> {
    let sizes = proptest::collection::vec(0usize..600, 1..8);
    let big = (3_000usize..40_000).prop_map(|len| vec![len]);
    let bodies = proptest::prop_oneof![5 => sizes, 1 => big];
    proptest::collection::vec(proptest::collection::vec((0u64..3, bodies, any::<bool>()), 1..20), 1..5)
}

proptest! {
    #[test]
    fn what_is_written_is_read(queues in queues(), kind in proptest::sample::select(vec![Kind::Durable, Kind::Spill])) {
        let disk = SimulatedDisk::new();
        let mut writer = PackWriter::create(&disk, kind, 7).unwrap();
        let mut expected = Vec::new();
        for (queue, runs) in queues.iter().enumerate() {
            let mut next = 1;
            let mut written = Written::new();
            for (skipped, sizes, persistent) in runs {
                let first = next + skipped;
                let bodies: Vec<Vec<u8>> = sizes.iter().map(|&len| vec![len as u8; len]).collect();
                let run = run(first, &bodies, *persistent);
                writer.push(QueueId(queue as u64), &run).unwrap();
                written.extend((first..).zip(bodies));
                next = run.end_seq().0;
            }
            expected.push(written);
        }
        let summary = writer.finish(&disk).unwrap();
        let pack = Pack::open(&disk, kind, 7).unwrap();
        prop_assert_eq!(pack.bytes(), summary.bytes);
        let records: Vec<_> = summary.extents.iter().map(|extent| extent.record).collect();
        prop_assert_eq!(pack.index().unwrap(), records);
        for (queue, written) in expected.iter().enumerate() {
            let (read, damaged) = read_queue(&pack, &summary, queue as u64);
            prop_assert_eq!(&read, written);
            prop_assert!(damaged.is_empty());
            let blocks = summary.blocks.iter().filter(|block| block.queue == QueueId(queue as u64));
            let runs = blocks.map(|block| pack.read_block(block.queue, block.offset, &Arc::default()).unwrap());
            let runs: Vec<_> = runs.collect();
            prop_assert!(kind == Kind::Durable || messages(&runs) == *written);
        }
    }

    #[test]
    fn damage_is_found_and_never_read(at in any::<u64>(), change in 1u8..) {
        let disk = SimulatedDisk::new();
        let mut writer = PackWriter::create(&disk, Kind::Durable, 1).unwrap();
        let mut expected = Written::new();
        for first in (1..100).step_by(2) {
            let body = vec![first as u8; 9_000 * (1 + first as usize % 2)];
            writer.push(QueueId(1), &run(first, std::slice::from_ref(&body), true)).unwrap();
            expected.push((first, body));
        }
        let summary = writer.finish(&disk).unwrap();
        let file = disk.open(&Kind::Durable.file_name(1)).unwrap();
        let at = at % summary.bytes;
        let mut octet = [0];
        file.read_at(&mut octet, at).unwrap();
        file.write_at(&[IoSlice::new(&[octet[0] ^ change])], at).unwrap();
        match Pack::open(&disk, Kind::Durable, 1) {
            Err(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(pack) => {
                let (read, damaged) = read_queue(&pack, &summary, 1);
                prop_assert!(!damaged.is_empty());
                prop_assert!(read.len() < expected.len());
                prop_assert!(read.iter().all(|message| expected.contains(message)));
            }
        }
    }
}

fn push_shared(writer: &mut PackWriter, queue: u64, run: &Run, record: u64, live: &[(u64, u64)]) {
    let shared = Shared { origin: Origin::Log(Lsn(record)), first: run.first_seq(), count: run.count() };
    let live: Vec<_> = live.iter().map(|&(first, end)| (Seq(first), Seq(end))).collect();
    writer.push_shared(QueueId(queue), shared, &live, || Ok(run.clone())).unwrap();
}

/// The numbers that the extents of a queue say are live.
fn live_in(summary: &PackSummary, queue: u64) -> Vec<u64> {
    let of_queue = summary.extents.iter().filter(|extent| extent.record.queue == QueueId(queue));
    let live = of_queue.flat_map(|extent| {
        let (first, last) = (extent.record.at.first.0, extent.record.at.last.0);
        let live: Vec<u64> =
            (first..=last).filter(|seq| !extent.gaps.contains((seq - first) as u32)).collect();
        assert_eq!(live.len() as u32, extent.record.at.count);
        live
    });
    live.collect()
}

/// What lives in a queue of a block of ten messages.
fn parts_of(queue: u64, at: u64, shapes: u64) -> Vec<(u64, u64)> {
    match (queue + at) % shapes {
        0 => vec![(0, 10)],
        1 => vec![(3, 5)],
        2 => vec![(0, 2), (6, 9)],
        other => vec![(other % 5, 5), (6, 7 + other % 4)],
    }
}

#[test]
fn a_block_of_many_queues_is_written_a_few_times_whatever_lives_of_it_in_each() {
    for shapes in [1, 3, 15] {
        let disk = SimulatedDisk::new();
        let mut writer = PackWriter::create(&disk, Kind::Durable, 2).unwrap();
        let blocks: Vec<Vec<Vec<u8>>> = (0..20).map(|at| (0..10).map(|_| vec![at; 100]).collect()).collect();
        let first_of = |queue: u64, at: u64| 1 + queue + 10 * at;
        for queue in 0..50u64 {
            for (at, bodies) in (0..).zip(&blocks) {
                let first = first_of(queue, at);
                let parts =
                    parts_of(queue, at, shapes).into_iter().map(|(low, high)| (first + low, first + high));
                push_shared(&mut writer, queue, &run(first, bodies, true), at, &parts.collect::<Vec<_>>());
            }
        }
        let summary = writer.finish(&disk).unwrap();
        let few_times = 4 * 20 * 10 * 110;
        let pointers = 2 * 50 * 20 * 48;
        assert!(summary.bytes < few_times + pointers + 8192 + 100 * 76, "{}", summary.bytes);
        let pack = Pack::open(&disk, Kind::Durable, 2).unwrap();
        for queue in 0..50u64 {
            let lives = |at: u64| {
                let parts = parts_of(queue, at, shapes).into_iter();
                parts.flat_map(move |(low, high)| low..high).map(move |part| first_of(queue, at) + part)
            };
            let expected: Vec<u64> = (0..20).flat_map(lives).collect();
            assert_eq!(live_in(&summary, queue), expected, "{queue}");
            let mut read = Written::new();
            for extent in summary.extents.iter().filter(|extent| extent.record.queue == QueueId(queue)) {
                let found = pack.read_extent(QueueId(queue), &extent.record.at, &Arc::default()).unwrap();
                assert!(found.damaged.is_empty(), "{:?}", found.damaged);
                read.extend(messages(&found.runs));
            }
            read.retain(|(seq, _)| expected.contains(seq));
            let body = |seq: &u64| (*seq, vec![((seq - 1 - queue) / 10) as u8; 100]);
            assert_eq!(read, expected.iter().map(body).collect::<Written>(), "{queue}");
        }
    }
}

#[test]
fn an_extent_is_one_read_also_where_its_blocks_lie_elsewhere() {
    let disk = SimulatedDisk::new();
    let mut writer = PackWriter::create(&disk, Kind::Durable, 2).unwrap();
    for queue in 0..3 {
        for at in 0..1000 {
            let run = run(1 + at, &[vec![1; 10_000]], true);
            push_shared(&mut writer, queue, &run, at, &[(1 + at, 2 + at)]);
        }
    }
    let summary = writer.finish(&disk).unwrap();
    assert!(summary.bytes < 11_000_000, "{}", summary.bytes);
    assert!(summary.extents.iter().all(|extent| extent.record.at.body_bytes < 1_100_000));
}

#[test]
fn a_large_body_of_many_queues_is_written_once() {
    let disk = SimulatedDisk::new();
    let mut writer = PackWriter::create(&disk, Kind::Durable, 2).unwrap();
    let body = vec![5; 300_000];
    for queue in 0..10 {
        let run = run(40 + queue, std::slice::from_ref(&body), true);
        push_shared(&mut writer, queue, &run, 77, &[(run.first_seq().0, run.end_seq().0)]);
    }
    let summary = writer.finish(&disk).unwrap();
    assert!(summary.bytes < 310_000);
    let pack = Pack::open(&disk, Kind::Durable, 2).unwrap();
    for queue in 0..10 {
        assert_eq!(read_queue(&pack, &summary, queue).0, [(40 + queue, body.clone())]);
    }
    // Another queue's extent is never taken for this one's.
    let read = pack.read_extent(QueueId(3), &summary.extents[4].record.at, &Arc::default()).unwrap();
    assert_eq!((read.runs.len(), read.damaged.len()), (0, 1));
}

/// Small messages of one queue, numbered from 1.
fn small_ones(disk: &SimulatedDisk, count: u64) -> PackSummary {
    let mut writer = PackWriter::create(disk, Kind::Durable, 3).unwrap();
    for first in 1..=count {
        writer.push(QueueId(1), &run(first, &[vec![1; 100]], true)).unwrap();
    }
    writer.finish(disk).unwrap()
}

#[test]
fn single_messages_of_an_extent_are_read_without_the_rest_of_it() {
    let disk = SimulatedDisk::new();
    let summary = small_ones(&disk, 40_000);
    let pack = Pack::open(&disk, Kind::Durable, 3).unwrap();
    let read = |queue, at, numbers: &[(Seq, Seq)]| {
        pack.read_extent_at(QueueId(queue), at, numbers, &Arc::default()).unwrap()
    };
    for at in summary.extents.iter().map(|extent| &extent.record.at) {
        let few = [at.first.after(7), at.first.after(9), at.last].map(|seq| (seq, seq.after(1)));
        let found = read(1, at, &few);
        let seqs: Vec<u64> = messages(&found.runs).into_iter().map(|(seq, _)| seq).collect();
        assert!(found.damaged.is_empty() && seqs.len() < 400, "{} messages for three", seqs.len());
        assert!(few.iter().all(|(seq, _)| seqs.contains(&seq.0)));
        let other = read(2, at, &few);
        assert_eq!((other.runs.len(), other.damaged.len()), (0, 1));
    }
}

#[test]
fn small_neighbours_share_blocks_and_extents_stay_small() {
    let disk = SimulatedDisk::new();
    let summary = small_ones(&disk, 40_000);
    assert!(summary.bytes < 40_000 * 122, "{}", summary.bytes);
    assert!(summary.extents.len() >= 4);
    assert!(summary.extents.iter().all(|extent| extent.record.at.bytes < 1_100_000));
    let read = read_queue(&Pack::open(&disk, Kind::Durable, 3).unwrap(), &summary, 1).0;
    assert!(read.iter().map(|(seq, _)| *seq).eq(1..=40_000));
}

#[test]
fn a_finished_pack_survives_every_crash() {
    for mode in CrashMode::ALL {
        let disk = SimulatedDisk::new();
        let mut writer = PackWriter::create(&disk, Kind::Durable, 4).unwrap();
        writer.push(QueueId(1), &run(1, &[vec![1; 10]], true)).unwrap();
        let summary = writer.finish(&disk).unwrap();
        let disk = disk.crash(mode, 1);
        let pack = Pack::open(&disk, Kind::Durable, 4).unwrap();
        assert_eq!(read_queue(&pack, &summary, 1).0, [(1, vec![1; 10])]);
    }
}

#[test]
fn a_file_goes_when_nobody_reads_it() {
    let disk = SimulatedDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    for (kind, number) in [(Kind::Durable, 1), (Kind::Durable, 2), (Kind::Spill, 3)] {
        let mut writer = PackWriter::create(&disk, kind, number).unwrap();
        writer.push(QueueId(1), &run(1, &[vec![1; 10]], true)).unwrap();
        writer.finish(&disk).unwrap();
    }
    let shelf = Shelf::new(shared);
    let lease = shelf.lease(Kind::Durable, 1).unwrap();
    assert_eq!(shelf.doom_unknown(|number| number == 2).unwrap(), 3);
    while shelf.sweep().unwrap() {}
    assert_eq!(disk.list("pack").unwrap().iter().filter_map(|name| number_of(name)).count(), 2);
    assert!(disk.list("spill").unwrap().is_empty());
    assert!(shelf.lease(Kind::Durable, 1).is_err());
    drop(lease);
    while shelf.sweep().unwrap() {}
    assert_eq!(disk.list("pack").unwrap(), ["0000000000000002.pack"]);
}
