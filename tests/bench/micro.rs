//! What the parts of a message's way cost by themselves, each on one thread with nothing around it.
//!
//! `cargo bench --bench micro [-- FILTER]`

use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// Messages of a burst.
const BURST: usize = 1000;

/// Counts by the message instead of by the call.
fn per_message<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher.counter(ItemsCount::new(BURST))
}

mod decode {
    use bytes::BytesMut;
    use divan::{Bencher, black_box};
    use sluicemq::protocol::express::{AckRow, PublishReader};
    use sluicemq::protocol::frame::{self, FRAME_END, FrameKind};
    use sluicemq::protocol::methods::{BasicAck, BasicPublish, Method};

    use crate::{BURST, per_message};

    const FRAME_MAX: u32 = 131_072;
    const BODY_BYTES_MAX: usize = 2048;

    fn publishes(body_bytes: usize) -> BytesMut {
        let mut out = BytesMut::new();
        for _ in 0..BURST {
            let publish =
                BasicPublish { exchange: b"", routing_key: b"queue", mandatory: false, immediate: false };
            frame::put_method(&mut out, 1, &Method::BasicPublish(publish));
            frame::put_header(&mut out, 1, body_bytes as u64, &[0, 0]);
            frame::put_body_head(&mut out, 1, body_bytes as u32);
            out.resize(out.len() + body_bytes, 42);
            out.extend_from_slice(&[FRAME_END]);
        }
        out
    }

    /// The general way: frame by frame, method by method.
    #[divan::bench(args = [16, 1024])]
    fn publish_by_frames(bencher: Bencher<'_, '_>, body_bytes: usize) {
        let input = publishes(body_bytes);
        per_message(bencher).bench(|| {
            let mut rest = &input[..];
            while let Ok(Some(frame)) = frame::peek(rest, FRAME_MAX) {
                if frame.kind == FrameKind::Method {
                    black_box(Method::parse(frame.payload).expect("it is a publish"));
                }
                rest = rest.split_at(frame.wire_bytes()).1;
            }
            assert!(rest.is_empty());
        });
    }

    /// Publishes that begin like the one before.
    #[divan::bench(args = [16, 1024])]
    fn publish_alike(bencher: Bencher<'_, '_>, body_bytes: usize) {
        let input = publishes(body_bytes);
        let mut reader = PublishReader::default();
        per_message(bencher).bench_local(|| {
            let first = reader.read(&input, FRAME_MAX, BODY_BYTES_MAX).expect("it is whole");
            let mut at = first.wire_bytes;
            reader.alike(&input, &mut at).for_each(|body| _ = black_box(body));
            assert_eq!(at, input.len());
        });
    }

    #[divan::bench]
    fn acks_in_a_row(bencher: Bencher<'_, '_>) {
        let mut input = BytesMut::new();
        for delivery_tag in 1..=BURST as u64 {
            frame::put_method(&mut input, 1, &Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
        }
        per_message(bencher).bench(|| AckRow::peek(&input).expect("they are acknowledgements").last);
    }
}

mod encode {
    use bytes::BytesMut;
    use divan::{Bencher, black_box};
    use sluicemq::protocol::delivery::DeliveryHead;
    use sluicemq::protocol::frame::{self, FRAME_END};
    use sluicemq::protocol::methods::{BasicDeliver, Method};

    use crate::{BURST, per_message};

    const BODY: [u8; 16] = [42; 16];

    fn deliver(delivery_tag: u64) -> BasicDeliver<'static> {
        let (exchange, routing_key): (&[u8], &[u8]) = (b"", b"queue");
        BasicDeliver { consumer_tag: "consumer-1", delivery_tag, redelivered: false, exchange, routing_key }
    }

    /// Each delivery for itself.
    #[divan::bench]
    fn deliver_by_frames(bencher: Bencher<'_, '_>) {
        let mut out = BytesMut::new();
        per_message(bencher).bench_local(|| {
            out.clear();
            for tag in 0..BURST as u64 {
                frame::put_method(&mut out, 1, &Method::BasicDeliver(deliver(tag)));
                frame::put_header(&mut out, 1, BODY.len() as u64, &[0, 0]);
                frame::put_body_head(&mut out, 1, BODY.len() as u32);
                out.extend_from_slice(&BODY);
                out.extend_from_slice(&[FRAME_END]);
            }
            black_box(&out);
        });
    }

    /// Deliveries that differ from the one before in tag and body.
    #[divan::bench]
    fn deliver_alike(bencher: Bencher<'_, '_>) {
        let mut out = BytesMut::new();
        let mut head = DeliveryHead::default();
        per_message(bencher).bench_local(|| {
            out.clear();
            head.set(1, &deliver(0), &[0, 0], BODY.len() as u32);
            for tag in 0..BURST as u64 {
                out.extend_from_slice(head.with_tag(tag));
                out.extend_from_slice(&BODY);
                out.extend_from_slice(&[FRAME_END]);
            }
            black_box(&out);
        });
    }
}

mod route {
    use divan::Bencher;
    use sluicemq::protocol::properties::Properties;
    use sluicemq::routing::{Bindings, ExchangeKind, MatchBudget};

    use crate::{BURST, per_message};

    const BINDINGS: usize = 10_000;

    /// The key of the `n`-th message, far from the one before.
    fn key(n: usize) -> String {
        format!("{}.x.{}", n * 7919 % BINDINGS, n % 10)
    }

    fn bench(bencher: Bencher<'_, '_>, kind: ExchangeKind, binding_key: impl Fn(usize) -> String) {
        let mut bindings = Bindings::new(kind);
        (0..BINDINGS).for_each(|n| _ = bindings.bind(&binding_key(n), &[], n));
        let keys: Vec<_> = (0..BURST).map(key).collect();
        per_message(bencher).bench(|| {
            let mut found = 0;
            for key in &keys {
                let budget = &mut MatchBudget::default();
                _ = bindings.route(key.as_bytes(), Properties::EMPTY, budget, &mut |_| found += 1);
            }
            found
        });
    }

    #[divan::bench]
    fn direct(bencher: Bencher<'_, '_>) {
        bench(bencher, ExchangeKind::Direct, key);
    }

    /// A third of the patterns exact, a third `*.x.*`, a third `....#`.
    #[divan::bench]
    fn topic(bencher: Bencher<'_, '_>) {
        bench(bencher, ExchangeKind::Topic, |n| match n % 3 {
            0 => key(n),
            1 => format!("*.x{n}.*"),
            _ => format!("{n}.#"),
        });
    }
}

/// Runs of so many messages each, as publishers that publish one by one or in bursts leave them.
const RUNS: [usize; 3] = [1, 100, BURST];

mod messages {
    use std::sync::Arc;

    use sluicemq::message::block::BlockBuilder;
    use sluicemq::message::block_header::{Marks, Stamp};
    use sluicemq::message::names::NamesBuf;
    use sluicemq::message::record::Content;
    use sluicemq::message::run::Run;
    use sluicemq::stats::Gauge;

    /// A run of `count` messages of `body_bytes` each.
    pub(crate) fn run(count: usize, body_bytes: usize, persistent: bool) -> Run {
        let mut names = NamesBuf::default();
        names.set(b"", b"queue");
        let body = vec![42; body_bytes];
        let mut builder = BlockBuilder::default();
        (0..count).for_each(|_| {
            builder.push(&Content { names: names.view(), properties: &[0, 0], body: &body });
        });
        let gauge = Arc::new(Gauge::default());
        let (block, count, bytes) =
            builder.seal(Stamp { marks: Marks::of(persistent), received_ms: 0 }, &gauge);
        Run::of_block(block, count, bytes)
    }
}

mod queue {
    use divan::Bencher;
    use sluicemq::message::place::Seq;
    use sluicemq::queue::classic::Classic;

    use crate::{BURST, RUNS, messages, per_message};

    /// A burst comes in, goes out and is acknowledged.
    #[divan::bench(args = RUNS)]
    fn enqueue_deliver_settle(bencher: Bencher<'_, '_>, run_messages: usize) {
        let run = messages::run(run_messages, 16, false);
        let mut queue = Classic::<()>::default();
        let mut next = 1;
        per_message(bencher).bench_local(|| {
            for _ in 0..BURST / run_messages {
                queue.enqueue(run.numbered_from(Seq(next)), None);
                next += run_messages as u64;
            }
            while let Some(taken) = queue.take(u32::MAX) {
                queue.settle(taken.first_seq(), taken.end_seq(), false);
            }
        });
    }
}

mod log {
    use divan::Bencher;
    use sluicemq::message::fact::Fact;
    use sluicemq::message::place::{QueueId, Seq};
    use sluicemq::storage::log::Log;

    use crate::{BURST, RUNS, messages, per_message};

    fn append(bencher: Bencher<'_, '_>, run_messages: usize, body_bytes: usize) {
        let log = Log::default();
        let run = messages::run(run_messages, body_bytes, true);
        let mut next = 1;
        per_message(bencher).bench_local(|| {
            let mut append = log.append();
            for _ in 0..BURST / run_messages {
                append.push(&Fact::Published { run: &run, targets: &[(QueueId(1), Seq(next))] });
                next += run_messages as u64;
            }
            drop(append.finish());
        });
    }

    /// With the checksum of the batch and a disk in memory.
    #[divan::bench(args = RUNS)]
    fn append_16(bencher: Bencher<'_, '_>, run_messages: usize) {
        append(bencher, run_messages, 16);
    }

    #[divan::bench(args = [1, 20])]
    fn append_1k(bencher: Bencher<'_, '_>, run_messages: usize) {
        append(bencher, run_messages, 1024);
    }
}
