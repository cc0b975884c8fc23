//! Consecutive messages of one queue: what ready lists, outboxes and unacked lists hold.
//!
//! A run is a few words for any number of messages of one block. What differs between messages (whether it
//! is persistent, whether it was delivered before) starts a new run, so that a run is one thing everywhere.
//!
//! ```text
//! block  |r0|r1|r2|r3|r4|r5|          run {offset: r2, names_at: r0, count: 3, first_seq: 17}
//!              '------'               = the messages 17, 18, 19 of some queue
//! ```

use std::sync::Arc;

use crate::message::block::{Big, Block, BlockBuilder};
use crate::message::block_header::{BLIND, EXPIRES, HEADER_BYTES, Marks, PERSISTENT, PRIORITIZED};
use crate::message::names::Names;
use crate::message::place::Seq;
use crate::message::record::{self, BodyView, Content, MessageView};
use crate::protocol::properties::Properties;
use crate::stats::Gauge;

/// What one message costs an outbox beside its body: the frames around it.
const DELIVERY_OVERHEAD_BYTES: u64 = 64;

/// What is less than this part of the block it keeps in memory is worth a copy.
const COMPACTED_PART: u64 = 4;

#[derive(Clone, Debug)]
pub(super) enum Body {
    Block(Block),
    Big(Arc<Big>),
}

/// Consecutive messages of one queue.
#[derive(Clone, Debug)]
pub struct Run {
    pub(super) body: Body,
    /// Where the first record starts in its block.
    pub(super) offset: u32,
    /// Where the record with the names in force at `offset` starts.
    names_at: u32,
    count: u32,
    first_seq: Seq,
    body_bytes: u64,
    /// What the properties of its block's messages say, in one octet: runs are copied often.
    flags: u8,
    redelivered: bool,
    /// How often they came back, where their queue counts that.
    returns: u16,
}

impl Run {
    /// The whole of a block. Its number is given when it enters a queue.
    pub fn of_block(block: Block, count: u32, body_bytes: u64) -> Self {
        let marks = block.header().stamp.marks;
        Self::new(Body::Block(block), count, body_bytes, marks)
    }

    /// One large message.
    pub fn of_big(big: Arc<Big>) -> Self {
        let (body_bytes, marks) = (big.body_bytes(), big.header().stamp.marks);
        Self::new(Body::Big(big), 1, body_bytes, marks)
    }

    fn new(body: Body, count: u32, body_bytes: u64, marks: Marks) -> Self {
        debug_assert!(count > 0, "a run holds at least one message");
        Self {
            body,
            offset: HEADER_BYTES as u32,
            names_at: HEADER_BYTES as u32,
            count,
            first_seq: Seq(0),
            body_bytes,
            flags: marks.to_flags(),
            redelivered: false,
            returns: 0,
        }
    }

    /// Its messages are received at this time only, in milliseconds since 1970: in a copy of its block, for others may
    /// share that.
    pub fn receive_at(&mut self, received_ms: u64, gauge: &Arc<Gauge>) {
        if self.header().stamp.received_ms != received_ms {
            self.body = match &self.body {
                Body::Block(block) => Body::Block(block.received_at(received_ms, gauge)),
                Body::Big(big) => Body::Big(big.received_at(received_ms, gauge)),
            };
        }
    }

    /// The same messages as another queue counts them: bytes are shared, numbers are its own.
    #[must_use]
    pub fn numbered_from(&self, first_seq: Seq) -> Self {
        Self { first_seq, ..self.clone() }
    }

    /// How many messages, never zero.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first message's number.
    #[inline]
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The number after the last message's.
    #[inline]
    pub fn end_seq(&self) -> Seq {
        self.first_seq.after(self.count)
    }

    /// The sum of the bodies, in bytes.
    #[inline]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// What these messages will take of an outbox's room, in bytes.
    #[inline]
    pub fn delivery_bytes(&self) -> u64 {
        self.body_bytes + u64::from(self.count) * DELIVERY_OVERHEAD_BYTES
    }

    /// What the first of them will take.
    pub fn first_delivery_bytes(&self) -> u64 {
        let body_bytes = self.messages().next().map_or(0, |message| message.body.len() as u64);
        body_bytes + DELIVERY_OVERHEAD_BYTES
    }

    /// Whether these messages are to survive a restart if their queue does.
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.flags & PERSISTENT != 0
    }

    /// What the properties of its block's messages say.
    pub fn marks(&self) -> Marks {
        Marks::from_flags(self.flags).unwrap_or_default()
    }

    /// Whether one of its block's messages has an `expiration`.
    #[inline]
    pub fn expires(&self) -> bool {
        self.flags & EXPIRES != 0
    }

    /// Whether its messages have a BCC header, which nobody is to see.
    #[inline]
    pub fn is_blind(&self) -> bool {
        self.flags & BLIND != 0
    }

    /// The priority of its first message; without one it is 0.
    pub fn priority(&self) -> u8 {
        if self.flags & PRIORITIZED == 0 {
            return 0;
        }
        self.messages().next().map_or(0, |message| priority_of(&message))
    }

    /// Its parts of one priority each, in order.
    pub fn by_priority(mut self) -> Vec<Self> {
        let mut parts = Vec::new();
        while self.flags & PRIORITIZED != 0 {
            let first = self.priority();
            let alike = self.messages().take_while(|message| priority_of(message) == first).count() as u32;
            if alike >= self.count {
                break;
            }
            parts.push(self.split_front(alike));
        }
        parts.push(self);
        parts
    }

    /// Whether these messages were delivered before and came back.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// Marks the messages as delivered before.
    pub fn mark_redelivered(&mut self) {
        self.redelivered = true;
    }

    /// How often the messages came back, where their queue counts that.
    pub fn returns(&self) -> u16 {
        self.returns
    }

    /// The messages have come back so often.
    pub fn set_returns(&mut self, returns: u16) {
        self.returns = returns;
    }

    /// Cuts off and returns the first `count` messages; `self` keeps the rest.
    ///
    /// `count` must leave both sides at least one message.
    pub fn split_front(&mut self, count: u32) -> Self {
        debug_assert!(0 < count && count < self.count, "both sides of a split hold messages");
        let mut front = self.clone();
        front.count = count;
        self.count -= count;
        self.first_seq = self.first_seq.after(count);
        let (skipped, body_bytes) = front.walk();
        (self.offset, self.names_at) = skipped;
        front.body_bytes = body_bytes;
        self.body_bytes -= front.body_bytes;
        front
    }

    /// Each of its messages by itself, in order.
    pub fn into_singles(self) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || match &mut rest {
            Some(run) if run.count > 1 => Some(run.split_front(1)),
            _ => rest.take(),
        })
    }

    /// Those of its messages whose numbers lie within `first..end`.
    pub fn part(&self, first: Seq, end: Seq) -> Option<Self> {
        let (first, end) = (first.max(self.first_seq), end.min(self.end_seq()));
        if first >= end {
            return None;
        }
        let mut part = self.clone();
        if first > self.first_seq {
            part.split_front((first.0 - self.first_seq.0) as u32);
        }
        if end < self.end_seq() {
            part = part.split_front((end.0 - first.0) as u32);
        }
        Some(part)
    }

    /// Where the record after this run starts, which names are in force there, and the sum of the bodies.
    pub(super) fn walk(&self) -> ((u32, u32), u64) {
        let Body::Block(block) = &self.body else { return ((self.offset, self.names_at), self.body_bytes) };
        let mut at = self.offset as usize;
        let mut names_at = self.names_at;
        let mut body_bytes = 0;
        for _ in 0..self.count {
            let Some(record) = block.bytes().get(at..).and_then(|rest| record::read(rest, Names::EMPTY))
            else {
                break;
            };
            if record.has_names {
                names_at = at as u32;
            }
            body_bytes += record.body.len() as u64;
            at += record.wire_bytes;
        }
        ((at as u32, names_at), body_bytes)
    }

    /// How many of the first messages fit into `room` bytes of an outbox, at most `count_max`.
    pub fn count_within(&self, count_max: u32, room: u64) -> u32 {
        if self.count <= count_max && self.delivery_bytes() <= room {
            return self.count;
        }
        let mut left = room;
        let mut fitting = 0;
        for message in self.messages().take(count_max as usize) {
            let Some(rest) = left.checked_sub(message.body.len() as u64 + DELIVERY_OVERHEAD_BYTES) else {
                break;
            };
            left = rest;
            fitting += 1;
        }
        fitting
    }

    /// What its block keeps in memory, in bytes: the whole of it, however few of its messages the run has.
    pub fn pins(&self) -> u64 {
        match &self.body {
            Body::Block(block) => block.charged_bytes(),
            Body::Big(_) => self.body_bytes,
        }
    }

    /// Whether both keep the same block in memory.
    pub fn shares_block(&self, other: &Self) -> bool {
        match (&self.body, &other.body) {
            (Body::Block(block), Body::Block(other)) => block.is_same(other),
            _ => false,
        }
    }

    /// Copies runs of one block into a block of their own, if together they are only a small part of what they keep in
    /// memory. How many messages were copied.
    pub fn compact(runs: &mut [&mut Self], gauge: &Arc<Gauge>) -> u32 {
        let Some(first) = runs.first() else { return 0 };
        let Body::Block(block) = &first.body else { return 0 };
        let is_small = |bytes: u64| bytes * COMPACTED_PART < block.charged_bytes();
        // Most are told by their bodies: records are walked over only when they may be few.
        if !is_small(runs.iter().map(|run| run.body_bytes).sum())
            || !is_small(runs.iter().map(|run| u64::from(run.walk().0.0 - run.offset)).sum())
        {
            return 0;
        }
        let stamp = block.header().stamp;
        let mut builder = BlockBuilder::default();
        let mut names_at = 0;
        let mut starts = Vec::with_capacity(runs.len());
        for run in runs.iter() {
            let mut start = None;
            for MessageView { names, properties, body } in run.messages() {
                let BodyView::Slice(body) = body else { continue };
                let offset = builder.next_offset();
                if builder.needs_names(names) {
                    names_at = offset;
                }
                start.get_or_insert((offset, names_at));
                builder.push(&Content { names, properties, body });
            }
            starts.extend(start);
        }
        // One that has no messages cannot be; then all stay as they are.
        if starts.len() != runs.len() {
            return 0;
        }
        let (block, count, _) = builder.seal(stamp, gauge);
        for (run, (offset, names_at)) in runs.iter_mut().zip(starts) {
            (run.offset, run.names_at) = (offset, names_at);
            run.body = Body::Block(block.clone());
        }
        count
    }

    /// The messages in order.
    pub fn messages(&self) -> Messages<'_> {
        let names = match &self.body {
            Body::Block(block) => self.names_in(block),
            Body::Big(_) => Names::EMPTY,
        };
        Messages { run: self, at: self.offset as usize, left: self.count, names }
    }

    /// The names in force where the run starts.
    pub(super) fn names_in<'a>(&self, block: &'a Block) -> Names<'a> {
        let record = block.bytes().get(self.names_at as usize..);
        record.and_then(|rest| record::read(rest, Names::EMPTY)).map_or(Names::EMPTY, |record| record.names)
    }
}

fn priority_of(message: &MessageView<'_>) -> u8 {
    Properties::unchecked(message.properties).priority().unwrap_or(0)
}

/// Iterator over a run's messages.
#[derive(Debug)]
pub struct Messages<'a> {
    run: &'a Run,
    at: usize,
    left: u32,
    names: Names<'a>,
}

impl<'a> Iterator for Messages<'a> {
    type Item = MessageView<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match &self.run.body {
            Body::Block(block) => {
                let record = record::read(block.bytes().get(self.at..)?, self.names)?;
                self.at += record.wire_bytes;
                self.names = record.names;
                Some(MessageView {
                    names: record.names,
                    properties: record.properties,
                    body: BodyView::Slice(record.body),
                })
            }
            Body::Big(big) => {
                let (_, head) = big.record_head();
                Some(MessageView {
                    names: head.names,
                    properties: head.properties,
                    body: BodyView::Chunks(big.pieces()),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::{BodyView, Run};
    use crate::message::block::{Big, BlockBuilder};
    use crate::message::block_header::{self, HEADER_BYTES, Marks, Stamp};
    use crate::message::names::{Names, NamesBuf};
    use crate::message::record::Content;
    use crate::stats::Gauge;
    use std::sync::Arc;

    type Sample = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn run_of(samples: &[Sample], gauge: &Arc<Gauge>) -> Run {
        let mut builder = BlockBuilder::default();
        let mut names = NamesBuf::default();
        for (key, properties, body) in samples {
            names.set(b"x", key);
            builder.push(&Content { names: names.view(), properties, body });
        }
        let (block, count, body_bytes) = builder.seal(Stamp::default(), gauge);
        Run::of_block(block, count, body_bytes)
    }

    fn read(run: &Run) -> Vec<Sample> {
        run.messages()
            .map(|message| {
                let BodyView::Slice(body) = message.body else { panic!("a block's body is one slice") };
                (message.names.routing_key().to_vec(), message.properties.to_vec(), body.to_vec())
            })
            .collect()
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let key = proptest::sample::select(vec![b"a".to_vec(), b"".to_vec(), vec![b'k'; 255]]);
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        proptest::collection::vec((key, bytes(), bytes()), 1..40)
    }

    proptest! {
        #[test]
        fn what_goes_into_a_block_comes_out(samples in samples()) {
            let run = run_of(&samples, &Arc::default());
            prop_assert_eq!(read(&run), samples);
        }

        #[test]
        fn a_split_loses_and_changes_nothing(samples in samples(), cut in any::<u32>()) {
            let gauge = Arc::default();
            let mut rest = run_of(&samples, &gauge).numbered_from(crate::message::place::Seq(7));
            let whole = rest.clone();
            if rest.count() > 1 {
                let front = rest.split_front(1 + cut % (rest.count() - 1));
                prop_assert_eq!(front.end_seq(), rest.first_seq());
                prop_assert_eq!(front.body_bytes() + rest.body_bytes(), whole.body_bytes());
                let bodies: u64 = read(&front).iter().map(|(_, _, body)| body.len() as u64).sum();
                prop_assert_eq!(front.body_bytes(), bodies);
                let mut both = read(&front);
                both.extend(read(&rest));
                prop_assert_eq!(both, samples);
            }
        }

        #[test]
        fn count_within_never_passes_its_limits(samples in samples(), count in 0u32..50, room in 0u64..4000) {
            let mut run = run_of(&samples, &Arc::default());
            let fitting = run.count_within(count, room);
            prop_assert!(fitting <= count && fitting <= run.count());
            if fitting > 0 && fitting < run.count() {
                prop_assert!(run.split_front(fitting).delivery_bytes() <= room);
            }
        }
    }

    #[test]
    fn few_messages_of_a_block_keep_it_in_memory_until_they_are_copied() {
        let gauge = Arc::new(Gauge::default());
        let key = |n: u8| if n % 20 < 10 { b"a".to_vec() } else { b"b".to_vec() };
        let samples: Vec<Sample> = (0..100).map(|n| (key(n), vec![n; 2], vec![n; 200])).collect();
        for step in [50, 7, 3] {
            let mut rest = run_of(&samples, &gauge);
            let charged = gauge.read();
            assert_eq!(rest.pins(), charged);
            let mut kept = Vec::new();
            while rest.count() > step {
                rest.split_front(step - 1);
                kept.extend((rest.count() > 1).then(|| rest.split_front(1)));
            }
            drop(rest);
            assert!(kept.windows(2).all(|pair| pair[0].shares_block(&pair[1])));
            let before: Vec<_> = kept.iter().flat_map(read).collect();
            let copied = Run::compact(&mut kept.iter_mut().collect::<Vec<_>>(), &gauge);
            assert_eq!(copied > 0, step > 4, "more than a quarter stays where it is");
            assert_eq!(gauge.read() < charged / 2, copied > 0);
            assert_eq!(kept.iter().flat_map(read).collect::<Vec<_>>(), before);
            for mut run in kept.into_iter().filter(|run| run.count() > 1) {
                run.split_front(1);
            }
            assert_eq!(gauge.read(), 0);
        }
    }

    #[test]
    fn what_is_received_later_is_the_same_and_bears_the_checksum_of_it() {
        let gauge = Arc::new(Gauge::default());
        let stamp = Stamp { marks: Marks::of(true), received_ms: 5 };
        let mut builder = BlockBuilder::default();
        builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"small" });
        let (block, count, body_bytes) = builder.seal(stamp, &gauge);
        let pieces = [Bytes::from(vec![1; 5000]), Bytes::from(vec![2; 50])].into_iter().collect();
        let big = Big::new(Names::EMPTY, &[0, 0], pieces, stamp, &gauge);
        for mut run in [Run::of_block(block, count, body_bytes), Run::of_big(big)] {
            let (mut before, mut after) = (Vec::new(), Vec::new());
            run.encode(&mut before);
            run.receive_at(9, &gauge);
            run.encode(&mut after);
            let header = block_header::verify(&after).unwrap();
            assert_eq!((header.stamp, header.count), (Stamp { received_ms: 9, ..stamp }, 1));
            assert_eq!(after[HEADER_BYTES..], before[HEADER_BYTES..]);
        }
        assert_eq!(gauge.read(), 0, "what was copied is gone");
    }

    #[test]
    fn memory_is_charged_once_and_released_with_the_last_handle() {
        let gauge = Arc::new(Gauge::default());
        let run = run_of(&[(b"k".to_vec(), Vec::new(), vec![1; 100])], &gauge);
        let charged = gauge.read();
        assert!(charged >= 100);
        let copies: Vec<Run> = (0..10).map(|_| run.clone()).collect();
        drop(run);
        assert_eq!(gauge.read(), charged);
        drop(copies);
        assert_eq!(gauge.read(), 0);
    }
}
