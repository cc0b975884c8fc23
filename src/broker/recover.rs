//! From what the disk holds to a broker that goes on: the fold of facts.
//!
//! ```text
//! tables -> definitions, extents, what is settled in them
//! log    -> every fact since the tables' replay position, applied over that
//!        => queues whose messages are all ready and away: only places are in memory, no bodies
//! ```
//!
//! Applying a fact to a state that reflects it already changes nothing: numbers are absolute, what is unknown is
//! ignored. After a crash every message is marked as redelivered; after a clean stop those that had been handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::auth::users::UserError;
use crate::broker::Broker;
use crate::broker::checkpoint::{Checkpoint, PackUse};
use crate::broker::memory::Memory;
use crate::broker::node::Node;
use crate::config::Config;
use crate::message::definitions::Definitions;
use crate::message::fact::Definition;
use crate::message::fact_codec::{self, DecodedFact, FactError, Published, Target};
use crate::message::place::{Extent, Lsn, Place, QueueId, Seq};
use crate::queue::classic::Classic;
use crate::queue::extent::NewExtent;
use crate::queue::lane::Away;
use crate::queue::ledger::Ledger;
use crate::storage::ballast::Ballast;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::log::{Log, LogOptions, Replayed};
use crate::storage::meta::{Loaded, Meta, MetaState};
use crate::storage::pack::shelf::Shelf;

/// Why a broker cannot start on what is there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data cannot be read, or must not be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A configured user cannot be made.
    #[error(transparent)]
    User(#[from] UserError),
}

/// The state that facts tell, before it is a broker.
#[derive(Debug, Default)]
struct Recovered {
    definitions: Definitions,
    queues: BTreeMap<QueueId, RecoveredQueue>,
    packs: BTreeMap<u64, PackUse>,
    next_queue: u64,
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

impl Recovered {
    /// Reads the tables; where the log goes on from.
    fn load(&mut self, meta: &mut Meta) -> Result<MetaState, StoreError> {
        let state = meta.load(&mut |loaded| match loaded {
            Loaded::Defined(definition) => self.define(&definition),
            Loaded::Queue(row) => {
                // The log may be about to define it.
                let queue = self.queues.entry(row.queue).or_default();
                queue.next_seq = row.next_seq;
                queue.delivered_hi = row.delivered_hi;
            }
            Loaded::Extent { queue, at, settled, .. } => self.add_extent(queue, at, settled),
        })?;
        self.next_queue = self.next_queue.max(state.next_queue_id);
        Ok(state)
    }

    fn add_extent(&mut self, queue: QueueId, at: Extent, gaps: RoaringBitmap) {
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        let pack = self.packs.entry(at.pack).or_default();
        queue.next_seq = queue.next_seq.max(at.last.after(1).counted());
        queue.body_bytes += at.body_bytes;
        queue.messages += u64::from(at.count);
        queue.ledger.restore_extent(NewExtent { at, gaps, pack_live: Arc::clone(&pack.live) });
    }

    /// Applies one record of the log.
    fn apply(&mut self, record: &Replayed) -> Result<(), FactError> {
        match fact_codec::decode(record.kind, &record.body)? {
            DecodedFact::Published(published) => self.publish(record.start, &published),
            DecodedFact::Settled(settled) => {
                if let Some(queue) = self.queues.get_mut(&settled.queue) {
                    for (first, end) in settled.ranges() {
                        queue.ledger.cut(first, end);
                    }
                }
            }
            DecodedFact::Defined(definition) => self.define(&definition),
        }
        Ok(())
    }

    fn define(&mut self, definition: &Definition<'_>) {
        match *definition {
            Definition::QueueDeclared { queue, .. } => {
                self.next_queue = self.next_queue.max(queue.0 + 1);
                self.queues.entry(queue).or_default();
            }
            Definition::QueueDeleted { queue } => drop(self.queues.remove(&queue)),
            _ => {}
        }
        self.definitions.apply(definition);
    }

    fn publish(&mut self, start: Lsn, published: &Published<'_>) {
        for Target { queue, first, count } in published.targets() {
            let Some(queue) = self.queues.get_mut(&queue) else { continue };
            let end = first.after(count);
            queue.next_seq = queue.next_seq.max(end.counted());
            if queue.ledger.live_in(first, end) == 0 {
                queue.ledger.insert(first, end, Place::Log(start));
                queue.messages += u64::from(count);
                queue.body_bytes += published.body_bytes;
            }
        }
    }
}

impl RecoveredQueue {
    /// The queue's messages as its state machine has them. After a crash all were perhaps handed out.
    fn into_classic<C>(self, is_clean: bool) -> (Classic<C>, Seq) {
        let bounds = self.ledger.bounds();
        let hi = if is_clean { self.delivered_hi } else { bounds.map_or(self.next_seq, |(_, end)| end) };
        let usual_bytes = self.body_bytes / self.messages.max(1);
        let mut away = Vec::new();
        if let Some((first, end)) = bounds {
            for (first, end, redelivered) in [(first, end.min(hi), true), (first.max(hi), end, false)] {
                let count = self.ledger.live_in(first, end);
                if count > 0 {
                    let body_bytes = count * usual_bytes;
                    let returns = 0;
                    away.push(Away { first, end, count, body_bytes, persistent: true, redelivered, returns });
                }
            }
        }
        (Classic::restore(away, self.ledger, hi), self.next_seq)
    }
}

/// What a data directory holds, read and ready to go on.
#[derive(Debug)]
struct Found {
    recovered: Recovered,
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
        let mut recovered = Recovered::default();
        let mut meta = Meta::open(Arc::clone(disk))?;
        let state = recovered.load(&mut meta)?;
        let shelf = Shelf::new(Arc::clone(disk));
        let highest_pack = shelf.doom_unknown(|number| recovered.packs.contains_key(&number))?;
        while remedy != Remedy::Nothing && shelf.sweep()? {}
        let log = Log::open(Arc::clone(disk), log_options, state.replay, &mut |record| {
            recovered.apply(&record).map_err(|error| StoreError::Corrupt {
                file: "log".to_owned(),
                offset: record.start.0,
                problem: error.to_string(),
            })
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
        let broker = Self::with_node(config, node)?;
        let Recovered { definitions, queues, packs, .. } = recovered;
        broker.restore(&definitions, queues, is_clean).log(is_clean);
        Ok((broker, Checkpoint::new(meta, packs, highest_pack + 1)))
    }

    /// Makes what was defined, in the order in which it can be made.
    fn restore(
        &self,
        definitions: &Definitions,
        mut queues: BTreeMap<QueueId, RecoveredQueue>,
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
                    restored.bindings += 1;
                    self.vhost_or_new(binding.vhost).restore_binding(&binding);
                }
                _ => {}
            }
        }
        self.vhosts.iter().for_each(|vhost| vhost.restore_delays());
        restored
    }
}
