use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{DecodedFact, FactError, decode, encode, is_definition, kind, queues_named};
use crate::message::block::{Big, BlockBuilder};
use crate::message::block_header::{BlockError, Marks, Stamp};
use crate::message::fact::{Binding, Definition, Destination, Fact, Parameter};
use crate::message::names::NamesBuf;
use crate::message::place::{QueueId, Returned, Seq};
use crate::message::record::{BodyView, Content};
use crate::message::run::Run;

type Read = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

fn read(run: &Run) -> Vec<Read> {
    run.messages()
        .map(|message| {
            let body = match message.body {
                BodyView::Slice(body) => body.to_vec(),
                BodyView::Chunks(chunks) => chunks.concat(),
            };
            (
                message.names.exchange().to_vec(),
                message.names.routing_key().to_vec(),
                message.properties.to_vec(),
                body,
            )
        })
        .collect()
}

fn small_run(samples: &[(bool, Vec<u8>)], persistent: bool) -> Run {
    let mut builder = BlockBuilder::default();
    let mut names = NamesBuf::default();
    for (other, body) in samples {
        names.set(b"x", if *other { b"other" } else { b"key" });
        builder.push(&Content { names: names.view(), properties: &[1, 2], body });
    }
    let stamp = Stamp { marks: Marks::of(persistent), received_ms: 77 };
    let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
    Run::of_block(block, count, body_bytes)
}

fn big_run(pieces: &[usize], persistent: bool) -> Run {
    let pieces = pieces.iter().map(|&len| Bytes::from(vec![7; len])).collect();
    let stamp = Stamp { marks: Marks::of(persistent), received_ms: 78 };
    let mut names = NamesBuf::default();
    names.set(b"x", b"large");
    Run::of_big(Big::new(names.view(), &[3, 4], pieces, stamp, &Arc::default()))
}

fn runs() -> impl Strategy<Value = Run> {
    let body = proptest::collection::vec(any::<u8>(), 0..100);
    let samples = proptest::collection::vec((any::<bool>(), body), 1..30);
    let small = (samples, any::<bool>(), any::<(u32, u32)>()).prop_map(|(samples, persistent, cuts)| {
        let mut run = small_run(&samples, persistent);
        if run.count() > 1 && cuts.0 % 2 == 0 {
            run.split_front(1 + cuts.0 % (run.count() - 1));
        }
        if run.count() > 1 && cuts.1 % 2 == 0 {
            run = run.split_front(1 + cuts.1 % (run.count() - 1));
        }
        run
    });
    let pieces = proptest::collection::vec(3_000usize..200_000, 1..4);
    let big = (pieces, any::<bool>()).prop_map(|(pieces, persistent)| big_run(&pieces, persistent));
    prop_oneof![small, big]
}

fn check_definition(definition: Definition<'_>) {
    let fact = Fact::Defined(definition);
    let mut body = Vec::new();
    encode(&fact, &mut body);
    assert!(is_definition(kind(&fact)));
    assert_eq!(decode(kind(&fact), &body), Ok(DecodedFact::Defined(definition)));
    for len in 0..body.len() {
        assert!(decode(kind(&fact), &body[..len]).is_err());
    }
    body.push(0);
    assert!(decode(kind(&fact), &body).is_err());
}

#[test]
fn definitions_come_back_whole_or_not_at_all() {
    check_definition(Definition::ExchangeDeclared {
        vhost: "/",
        name: "x",
        kind: "topic",
        auto_delete: true,
        internal: true,
        arguments: &[1, 2, 3],
    });
    check_definition(Definition::ExchangeDeleted { vhost: "/", name: "" });
    let parameter = Parameter { vhost: "", component: "user", name: "guest" };
    check_definition(Definition::ParameterSet { parameter, value: &[1, 2] });
    check_definition(Definition::ParameterCleared { parameter });
    let queue = QueueId(u64::MAX);
    check_definition(Definition::QueueDeclared {
        queue,
        vhost: "v",
        name: "ü",
        auto_delete: false,
        arguments: &[],
    });
    check_definition(Definition::QueueDeleted { queue });
    let binding = Binding {
        vhost: "/",
        source: "x",
        destination: Destination::Queue(queue),
        key: "k",
        arguments: &[9],
    };
    check_definition(Definition::Bound(binding));
    check_definition(Definition::Unbound(Binding { destination: Destination::Exchange("y"), ..binding }));
}

proptest! {
    #[test]
    fn published_messages_come_back_as_they_were(run in runs(), queues in proptest::collection::vec(any::<u32>(), 1..5)) {
        let targets: Vec<_> = queues.iter().map(|&n| (QueueId(u64::from(n)), Seq(u64::from(n) * 3))).collect();
        let mut body = Vec::new();
        encode(&Fact::Published { run: &run, targets: &targets }, &mut body);
        let Ok(DecodedFact::Published(published)) = decode(1, &body) else { panic!("not as it was written") };
        prop_assert_eq!(published.body_bytes, run.body_bytes());
        let decoded: Vec<_> = published.targets().map(|target| (target.queue, target.first)).collect();
        prop_assert_eq!(&decoded, &targets);
        prop_assert!(published.targets().all(|target| target.count == run.count()));
        prop_assert!(queues_named(1, &body).eq(targets.iter().map(|target| target.0)));
        let block = Bytes::copy_from_slice(&body[published.block_range.clone()]);
        let back = Run::from_disk(&block, &Arc::default()).unwrap();
        prop_assert_eq!(read(&back), read(&run));
        prop_assert_eq!(back.body_bytes(), run.body_bytes());
        prop_assert_eq!(back.is_persistent(), run.is_persistent());
    }

    #[test]
    fn a_changed_octet_of_a_block_is_found(run in runs(), at in any::<usize>(), change in 1u8..) {
        let mut block = Vec::new();
        run.encode(&mut block);
        let at = at % block.len();
        block[at] ^= change;
        prop_assert!(Run::from_disk(&block.into(), &Arc::default()).is_err());
    }

    #[test]
    fn settled_ranges_come_back(ranges in proptest::collection::vec((any::<u32>(), 1u64..9), 0..9)) {
        let ranges: Vec<_> =
            ranges.into_iter().map(|(first, n)| (Seq(u64::from(first)), Seq(u64::from(first) + n))).collect();
        let fact = Fact::Settled { queue: QueueId(4), ranges: &ranges };
        let mut body = Vec::new();
        encode(&fact, &mut body);
        let Ok(DecodedFact::Settled(settled)) = decode(kind(&fact), &body) else { panic!("not as it was written") };
        prop_assert_eq!(&settled.ranges().collect::<Vec<_>>(), &ranges);
        prop_assert!(queues_named(kind(&fact), &body).eq([QueueId(4)]));
    }

    #[test]
    fn counts_of_returns_come_back(ranges in proptest::collection::vec((any::<u32>(), 1u64..9, any::<u16>()), 0..9)) {
        let returned = |(first, count, returns)| {
            let first = Seq(u64::from(first));
            Returned { first, end: Seq(first.0 + count), returns }
        };
        let ranges: Vec<Returned> = ranges.into_iter().map(returned).collect();
        let fact = Fact::Returned { queue: QueueId(4), ranges: &ranges };
        let mut body = Vec::new();
        encode(&fact, &mut body);
        let Ok(DecodedFact::Returned(returned)) = decode(kind(&fact), &body) else { panic!("not as it was written") };
        prop_assert_eq!(&returned.ranges().collect::<Vec<_>>(), &ranges);
        prop_assert!(queues_named(kind(&fact), &body).eq([QueueId(4)]));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0u8..12, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(DecodedFact::Published(published)) = decode(kind, &body) {
            let _ = Run::from_disk(&Bytes::copy_from_slice(published.block), &Arc::default());
        }
        queues_named(kind, &body).for_each(drop);
    }

    #[test]
    fn no_change_of_a_fact_makes_the_reader_panic(run in runs(), changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..9)) {
        let mut body = Vec::new();
        encode(&Fact::Published { run: &run, targets: &[(QueueId(1), Seq(1))] }, &mut body);
        for (at, octet) in changes {
            let at = at % body.len().min(120);
            body[at] = octet;
        }
        if let Ok(DecodedFact::Published(published)) = decode(1, &body) {
            let _ = Run::from_disk(&Bytes::copy_from_slice(published.block), &Arc::default());
        }
    }
}

#[test]
fn what_is_not_known_is_refused() {
    assert_eq!(decode(0, &[]), Err(FactError::UnknownKind(0)));
    assert_eq!(decode(32, &[]), Err(FactError::UnknownKind(32)));
    let mut block = Vec::new();
    small_run(&[(true, vec![1])], true).encode(&mut block);
    block[8] = 9;
    assert_eq!(Run::from_disk(&block.into(), &Arc::default()).unwrap_err(), BlockError::Version(9));
}
