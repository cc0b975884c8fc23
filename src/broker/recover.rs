//! From what the disk holds to a broker that goes on: the fold of facts ([`crate::storage::fold`]), and queues made of it
//! whose messages are all ready and away. Only places are in memory, no bodies.
//!
//! After a crash every message is marked as redelivered; after a clean stop those that had been handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::broker::Broker;
use crate::broker::admin::SeedError;
use crate::broker::checkpoint::{Checkpoint, PackUse};
use crate::broker::memory::Memory;
use crate::broker::node::Node;
use crate::config::Config;
use crate::message::definitions::Definitions;
use crate::message::fact::Definition;
use crate::message::fact_codec::{self, FactError, Target};
use crate::message::place::{Extent, Lsn, Place, QueueId, Returned, Seq};
use crate::queue::classic::Classic;
use crate::queue::extent::NewExtent;
use crate::queue::lane::Away;
use crate::queue::ledger::Ledger;
use crate::storage::ballast::Ballast;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::fold::{Fold, Messages};
use crate::storage::log::{Log, LogOptions};
use crate::storage::meta::{Meta, MetaState, QueueRow};
use crate::storage::pack::shelf::Shelf;

/// Why a broker cannot start on what is there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data cannot be read, or must not be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A configured user cannot be made.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// What is known of a queue's messages.
#[derive(Debug, Default)]
struct RecoveredQueue {
    ledger: Ledger,
    next_seq: Seq,
    delivered_hi: Seq,
    /// Of all that were ever told of, live or not: how large a message is, by and large.
    body_bytes: u64,
    messages: u64,
}

impl Messages for RecoveredQueue {
    type Shared = BTreeMap<u64, PackUse>;

    fn declare(&mut self, _vhost: &str, _name: &str) {}

    fn restore(&mut self, row: &QueueRow) {
        self.next_seq = row.next_seq;
        self.delivered_hi = row.delivered_hi;
    }

    fn add_extent(&mut self, packs: &mut Self::Shared, _lane: u32, at: Extent, gaps: RoaringBitmap) {
        let pack = packs.entry(at.pack).or_default();
        self.next_seq = self.next_seq.max(at.last.after(1).counted());
        self.body_bytes += at.body_bytes;
        self.messages += u64::from(at.count);
        self.ledger.restore_extent(NewExtent { at, gaps, pack_live: Arc::clone(&pack.live) });
    }

    fn publish(&mut self, &Target { first, count, .. }: &Target, record: Lsn, body_bytes: u64) {
        let end = first.after(count);
        self.next_seq = self.next_seq.max(end.counted());
        if self.ledger.live_in(first, end) == 0 {
            self.ledger.insert(first, end, Place::Log(record));
            self.messages += u64::from(count);
            self.body_bytes += body_bytes;
        }
    }

    fn settle(&mut self, first: Seq, end: Seq) {
        self.ledger.cut(first, end);
    }

    fn restore_returns(&mut self, returned: Returned) {
        self.ledger.restore_returns(returned);
    }

    fn note_returns(&mut self, returned: Returned) {
        self.ledger.note_returns(returned);
    }
}

impl RecoveredQueue {
    /// The numbers `first..end` in ranges that came back equally often.
    fn alike(&self, first: Seq, end: Seq) -> Vec<Returned> {
        let mut ranges: Vec<Returned> = Vec::new();
        let mut from = first;
        for returned in self.ledger.returns_in(first, end) {
            match ranges.last_mut() {
                Some(last) if last.end == returned.first && last.returns == returned.returns => {
                    last.end = returned.end;
                }
                _ => {
                    ranges.push(Returned { first: from, end: returned.first, returns: 0 });
                    ranges.push(returned);
                }
            }
            from = returned.end;
        }
        ranges.push(Returned { first: from, end, returns: 0 });
        ranges
    }

    /// The queue's messages as its state machine has them. After a crash all were perhaps handed out.
    fn into_classic<C>(self, is_clean: bool) -> (Classic<C>, Seq) {
        let bounds = self.ledger.bounds();
        let hi = if is_clean { self.delivered_hi } else { bounds.map_or(self.next_seq, |(_, end)| end) };
        let usual_bytes = self.body_bytes / self.messages.max(1);
        let mut away = Vec::new();
        if let Some((first, end)) = bounds {
            for (first, end, redelivered) in [(first, end.min(hi), true), (first.max(hi), end, false)] {
                for Returned { first, end, returns } in self.alike(first, end) {
                    let count = self.ledger.live_in(first, end);
                    if count > 0 {
                        let body_bytes = count * usual_bytes;
                        let persistent = true;
                        away.push(Away { first, end, count, body_bytes, persistent, redelivered, returns });
                    }
                }
            }
        }
        (Classic::restore(away, self.ledger, hi), self.next_seq)
    }
}

/// What a data directory holds, read and ready to go on.
#[derive(Debug)]
struct Found {
    recovered: Fold<RecoveredQueue>,
    meta: Meta,
    state: MetaState,
    shelf: Shelf,
    highest_pack: u64,
    log: Log,
}

/// What a start does first when it has found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Nothing: it has not found any.
    Nothing,
    /// Files that nobody needs are removed before the log asks for room, and not beside everything else.
    Sweep,
    /// The reserve is given up as well.
    GiveReserve,
}

impl Found {
    /// Reads what is there. Where there is no room for the start, what nobody needs goes first, and then the reserve.
    fn read(disk: &Arc<dyn Disk>, log_options: LogOptions) -> Result<Self, StoreError> {
        for remedy in [Remedy::Nothing, Remedy::Sweep] {
            let found = Self::read_after(remedy, disk, log_options.clone());
            if !found.as_ref().is_err_and(|error| error.is_full() && !error.lacks_descriptors()) {
                return found;
            }
        }
        Self::read_after(Remedy::GiveReserve, disk, log_options)
    }

    fn read_after(remedy: Remedy, disk: &Arc<dyn Disk>, log_options: LogOptions) -> Result<Self, StoreError> {
        if remedy == Remedy::GiveReserve && Ballast::new(Arc::clone(disk), 0).release()? {
            tracing::warn!("the disk is full: the reserve is used up for the start");
        }
        let mut recovered = Fold::<RecoveredQueue>::default();
        let mut meta = Meta::open(Arc::clone(disk))?;
        let state = meta.load(&mut |loaded| recovered.load(loaded))?;
        recovered.next_queue = recovered.next_queue.max(state.next_queue_id);
        let shelf = Shelf::new(Arc::clone(disk));
        let there = shelf.doom_unknown(|number| recovered.shared.contains_key(&number))?;
        // The tables may name one whose file is gone, and still wait for it.
        let named = recovered.shared.last_key_value().map_or(0, |(number, _)| *number);
        let highest_pack = there.max(named);
        if remedy != Remedy::Nothing {
            shelf.sweep_all();
        }
        let log = Log::open(Arc::clone(disk), log_options, state.replay, &mut |record| {
            let corrupt = |error: FactError| StoreError::Corrupt {
                file: "log".to_owned(),
                offset: record.start.0,
                problem: error.to_string(),
            };
            recovered.apply(record.start, &fact_codec::decode(record.kind, &record.body).map_err(corrupt)?);
            Ok(())
        })?;
        Ok(Self { recovered, meta, state, shelf, highest_pack, log })
    }
}

/// What a start has found, for the log.
#[derive(Debug, Default)]
struct Restored {
    exchanges: u64,
    queues: u64,
    bindings: u64,
    messages: u64,
}

impl Restored {
    fn log(&self, is_clean: bool) {
        let Self { exchanges, queues, bindings, messages } = *self;
        let stop = if is_clean {
            "after a clean stop"
        } else {
            "after a crash: every message is marked as redelivered"
        };
        match exchanges + queues {
            0 => tracing::info!("nothing durable was there"),
            _ => tracing::info!(exchanges, queues, bindings, messages, "recovered {stop}"),
        }
    }
}

impl Broker {
    /// Opens the broker that a data directory holds, or makes an empty one. The directory is locked by the caller.
    ///
    /// # Errors
    /// [`OpenError`]: what cannot be read, or must not be.
    pub fn open(
        config: Arc<Config>,
        disk: Arc<dyn Disk>,
        log_options: LogOptions,
        memory: Memory,
    ) -> Result<(Self, Checkpoint), OpenError> {
        let Found { recovered, meta, state, shelf, highest_pack, log } = Found::read(&disk, log_options)?;
        let is_clean = state.clean == Some(log.recovered_end());
        let node = Arc::new(Node::new(config.limits.clone(), memory, log, disk, shelf));
        node.use_queue_ids_from(recovered.next_queue);
        node.spills.number_from(highest_pack + 1);
        let broker = Self::with_node(config, node);
        let Fold { definitions, queues, shared: packs, .. } = recovered;
        let was_seeded = broker.restore_parameters(&definitions);
        broker.restore(&definitions, queues, was_seeded, is_clean).log(is_clean);
        if was_seeded {
            broker.compare_with_seed();
        } else {
            broker.seed()?;
        }
        Ok((broker, Checkpoint::new(meta, packs, highest_pack + 1)))
    }

    /// Makes what was defined, in the order in which it can be made.
    fn restore(
        &self,
        definitions: &Definitions,
        mut queues: BTreeMap<QueueId, RecoveredQueue>,
        has_vhosts: bool,
        is_clean: bool,
    ) -> Restored {
        let mut restored = Restored::default();
        for definition in definitions.iter() {
            match definition {
                Definition::ExchangeDeclared { vhost, .. } => {
                    restored.exchanges += 1;
                    self.vhost_or_new(vhost).restore_exchange(&definition);
                }
                Definition::QueueDeclared { queue, vhost, .. } => {
                    let messages = queues.remove(&queue).unwrap_or_default();
                    let (classic, next_seq) = messages.into_classic(is_clean);
                    restored.queues += 1;
                    restored.messages += classic.ready_messages();
                    self.vhost_or_new(vhost).restore_queue(queue, &definition, classic, next_seq);
                }
                Definition::Bound(binding) => {
                    // Before virtual hosts were said to be there they were by what was in them.
                    let vhost = self.vhost(binding.vhost);
                    let vhost = vhost.or_else(|| (!has_vhosts).then(|| self.vhost_or_new(binding.vhost)));
                    if let Some(vhost) = vhost {
                        restored.bindings += 1;
                        vhost.restore_binding(&binding);
                    }
                }
                _ => {}
            }
        }
        self.vhosts.iter().for_each(|vhost| vhost.restore_delays());
        restored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::RecoveredQueue;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::fact::{Definition, Fact};
    use crate::message::fact_codec;
    use crate::message::names::Names;
    use crate::message::place::{Lsn, QueueId, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::queue::ledger::Where;
    use crate::storage::fold::Fold;

    const QUEUES: u64 = 4;

    #[derive(Clone, Debug)]
    enum Step {
        /// A queue of this name goes, if it is there, and another one comes.
        Declare(u64),
        Delete(u64),
        /// So many messages for the queues whose bits are set.
        Publish(u8, u32),
        /// Some of the last numbers of a queue.
        Settle(u64, u64, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let queue = 0..QUEUES;
        let step = prop_oneof![
            1 => queue.clone().prop_map(Step::Declare),
            1 => queue.clone().prop_map(Step::Delete),
            5 => (any::<u8>(), 1u32..5).prop_map(|(queues, count)| Step::Publish(queues, count)),
            4 => (queue, 0u64..12, 1u32..6).prop_map(|(queue, back, count)| Step::Settle(queue, back, count)),
        ];
        proptest::collection::vec(step, 1..60)
    }

    fn run(count: u32) -> Run {
        let mut builder = BlockBuilder::default();
        (0..count)
            .for_each(|_| builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" }));
        let (block, count, body_bytes) =
            builder.seal(Stamp { marks: Marks::of(true), received_ms: 0 }, &std::sync::Arc::default());
        Run::of_block(block, count, body_bytes)
    }

    /// The facts of these steps, as the log has them.
    fn history(steps: &[Step]) -> Vec<(u8, Vec<u8>)> {
        let (mut queues, mut next_queue) = ([None::<(QueueId, u64)>; QUEUES as usize], 1);
        let mut facts = Vec::new();
        let mut tell = |fact: &Fact<'_>| {
            let mut body = Vec::new();
            fact_codec::encode(fact, &mut body);
            facts.push((fact_codec::kind(fact), body));
        };
        for step in steps {
            match *step {
                Step::Declare(at) => {
                    let queue = QueueId(next_queue);
                    next_queue += 1;
                    if let Some((old, _)) = queues[at as usize].replace((queue, 1)) {
                        tell(&Fact::Defined(Definition::QueueDeleted { queue: old }));
                    }
                    let name = format!("q{at}");
                    let (vhost, auto_delete, arguments) = ("/", false, &[][..]);
                    let name = name.as_str();
                    tell(&Fact::Defined(Definition::QueueDeclared {
                        queue,
                        vhost,
                        name,
                        auto_delete,
                        arguments,
                    }));
                }
                Step::Delete(at) => {
                    if let Some((queue, _)) = queues[at as usize].take() {
                        tell(&Fact::Defined(Definition::QueueDeleted { queue }));
                    }
                }
                Step::Publish(bits, count) => {
                    let mut targets = Vec::new();
                    for (at, queue) in (0..).zip(&mut queues) {
                        if let Some((queue, next)) = queue.as_mut().filter(|_| bits & 1 << at != 0) {
                            targets.push((*queue, Seq(*next)));
                            *next += u64::from(count);
                        }
                    }
                    if !targets.is_empty() {
                        tell(&Fact::Published { run: &run(count), targets: &targets });
                    }
                }
                Step::Settle(at, back, count) => {
                    if let Some((queue, next)) = queues[at as usize]
                        && next > back + 1
                    {
                        let first = Seq(next - 1 - back);
                        tell(&Fact::Settled { queue, ranges: &[(first, first.after(count).min(Seq(next)))] });
                    }
                }
            }
        }
        facts
    }

    fn apply(fold: &mut Fold<RecoveredQueue>, facts: &[(u8, Vec<u8>)], from: usize) {
        for (at, (kind, body)) in facts.iter().enumerate().skip(from) {
            // A record's place is its number.
            fold.apply(Lsn(at as u64), &fact_codec::decode(*kind, body).unwrap());
        }
    }

    /// A queue, its next number, and where each of its messages is.
    type Told = (QueueId, Seq, Vec<(u64, Option<Where>)>);

    /// All that a broker makes of it: definitions, the next queue's number, and queues.
    fn all(fold: &Fold<RecoveredQueue>) -> (Vec<String>, u64, Vec<Told>) {
        let definitions = fold.definitions.iter().map(|definition| format!("{definition:?}")).collect();
        let messages = |queue: &RecoveredQueue| {
            let live =
                queue.ledger.live_ranges(Seq(0), Seq(u64::MAX)).flat_map(|(first, end)| first.0..end.0);
            live.map(|seq| (seq, queue.ledger.place(Seq(seq)))).collect()
        };
        let queues = fold.queues.iter().map(|(id, queue)| (*id, queue.next_seq, messages(queue))).collect();
        (definitions, fold.next_queue, queues)
    }

    proptest! {
        #[test]
        fn a_history_that_is_folded_twice_comes_to_the_same(steps in steps(), again in any::<proptest::sample::Index>()) {
            let facts = history(&steps);
            let (mut once, mut twice) = (Fold::default(), Fold::default());
            apply(&mut once, &facts, 0);
            apply(&mut twice, &facts, 0);
            prop_assert_eq!(all(&once), all(&twice));
            // And so when a part of it is told to a state that reflects it already.
            apply(&mut twice, &facts, again.index(facts.len() + 1));
            prop_assert_eq!(all(&once), all(&twice));
        }
    }
}
