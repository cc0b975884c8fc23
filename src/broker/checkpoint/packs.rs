//! Which packs there are, and which of them to merge: those of which little lives go into a new one together.
//!
//! What a merge writes is bounded before it begins, by what is free and by a slot's length: the smallest go first, and
//! one that has more than that goes alone. What lives of a pack is guessed from its share of the messages; where the
//! guess is wrong the merge is given up, and tried again when twice as much is free.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::broker::node::Node;
use crate::broker::room::Means;
use crate::message::place::QueueId;
use crate::stats::Gauge;
use crate::storage::error::StoreError;
use crate::storage::pack::Kind;

/// Packs of an earlier process whose index is read in one step, to know how much they were written with.
const LEARNT_PER_STEP: usize = 4;
/// Packs that one merge takes at most: what it holds in memory of each is its index.
const MERGED_MAX: usize = 64;
/// After a pack that the disk did not read it is left alone for so many looks, and for twice as many after each next time:
/// some seconds when there is nothing else to do.
const RESTING_LOOKS: u32 = 32;
/// Twice no more often than that.
const DOUBLINGS_MAX: u32 = 8;

/// What is known of a pack.
#[derive(Debug, Default)]
pub(in crate::broker) struct PackUse {
    /// Messages of it that live.
    pub(in crate::broker) live: Arc<Gauge>,
    /// What it was written with; the tables of an earlier process do not tell.
    written: Option<Written>,
    /// So much must be free before it is merged: less was not enough.
    wanted_bytes: u64,
    /// How often the disk did not read it in a row, and for how many looks it is left alone.
    refusals: u32,
    resting_looks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    messages: u64,
    bytes: u64,
}

/// The packs of a broker.
#[derive(Debug)]
pub(super) struct Packs {
    by_number: BTreeMap<u64, PackUse>,
    /// Those that are damaged: they stay for whoever repairs them, however little of them lives.
    damaged: BTreeSet<u64>,
}

/// Packs that go into a new one, and whose messages they have.
#[derive(Debug, Default)]
pub(super) struct Merge {
    pub(super) packs: BTreeSet<u64>,
    pub(super) queues: BTreeSet<QueueId>,
}

impl PackUse {
    fn live_bytes(&self, written: Written) -> u64 {
        let share =
            u128::from(written.bytes) * u128::from(self.live.read()) / u128::from(written.messages.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

impl Packs {
    pub(super) fn new(by_number: BTreeMap<u64, PackUse>) -> Self {
        Self { by_number, damaged: BTreeSet::new() }
    }

    /// A pack that was written with so much; the count of those of its messages that live.
    pub(super) fn add(&mut self, number: u64, messages: u64, bytes: u64) -> Arc<Gauge> {
        let new = PackUse { written: Some(Written { messages, bytes }), ..PackUse::default() };
        let live = Arc::clone(&new.live);
        self.by_number.insert(number, new);
        live
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.by_number.remove(&number);
        self.damaged.remove(&number);
    }

    /// Those in which nothing lives.
    pub(super) fn dead(&self) -> impl Iterator<Item = u64> {
        self.by_number.iter().filter(|(_, pack)| pack.live.read() == 0).map(|(number, _)| *number)
    }

    /// The pack could not be read as a whole. One that is damaged stays as it is; otherwise it is tried again, later.
    pub(super) fn complain(&mut self, number: u64, error: &StoreError) {
        if error.is_damage() {
            tracing::error!(%error, "a pack is damaged, and stays as it is");
            self.damaged.insert(number);
        } else if let Some(pack) = self.by_number.get_mut(&number) {
            tracing::warn!(%error, "a pack cannot be read, and is tried again");
            pack.resting_looks = RESTING_LOOKS << pack.refusals;
            pack.refusals = DOUBLINGS_MAX.min(pack.refusals + 1);
        }
    }

    /// A merge of these did not fit into `tried_bytes`.
    pub(super) fn want_more(&mut self, packs: &BTreeSet<u64>, tried_bytes: u64) {
        for number in packs {
            if let Some(pack) = self.by_number.get_mut(number) {
                pack.wanted_bytes = tried_bytes.max(pack.wanted_bytes).saturating_mul(2).max(1);
            }
        }
    }

    /// Room may have come in a way that is not seen: everything may be tried again.
    pub(super) fn try_all_again(&mut self) {
        self.by_number.values_mut().for_each(|pack| pack.wanted_bytes = 0);
    }

    /// Which packs a merge takes now; none when there is nothing to merge, or no room for what lives in it. `true` when
    /// there may be more to say in a moment.
    pub(super) fn choose(&mut self, node: &Node, means: &Means) -> (Merge, bool) {
        self.by_number
            .values_mut()
            .for_each(|pack| pack.resting_looks = pack.resting_looks.saturating_sub(1));
        let is_learning = self.learn(node);
        let mut sparse: Vec<(u64, u64)> = Vec::new();
        for (&number, pack) in &self.by_number {
            if let Some(written) = pack.written
                && means.is_sparse(pack.live.read(), written.messages)
                && pack.wanted_bytes <= means.spare_bytes()
                && self.is_tried(number, pack)
            {
                sparse.push((pack.live_bytes(written), number));
            }
        }
        sparse.sort_unstable();
        let mut merge = Merge::default();
        let mut bytes = 0;
        for (live_bytes, number) in sparse.into_iter().take(MERGED_MAX) {
            bytes += live_bytes;
            let fits = bytes <= means.merge_bytes();
            if !fits && (!merge.packs.is_empty() || bytes > means.spare_bytes()) {
                break;
            }
            match queues_in(node, number) {
                Ok(queues) => {
                    merge.queues.extend(queues);
                    merge.packs.insert(number);
                }
                Err(error) => self.complain(number, &error),
            }
        }
        (merge, is_learning)
    }

    fn is_tried(&self, number: u64, pack: &PackUse) -> bool {
        pack.resting_looks == 0 && !self.damaged.contains(&number)
    }

    /// Reads what some packs of an earlier process were written with. Whether there were any.
    fn learn(&mut self, node: &Node) -> bool {
        let is_unknown =
            |(number, pack): &(&u64, &PackUse)| pack.written.is_none() && self.is_tried(**number, pack);
        let unknown: Vec<u64> = self
            .by_number
            .iter()
            .filter(is_unknown)
            .map(|(number, _)| *number)
            .take(LEARNT_PER_STEP)
            .collect();
        for &number in &unknown {
            match written(node, number) {
                Ok(written) => {
                    if let Some(pack) = self.by_number.get_mut(&number) {
                        pack.written = Some(written);
                    }
                }
                Err(error) => self.complain(number, &error),
            }
        }
        !unknown.is_empty()
    }
}

fn written(node: &Node, number: u64) -> Result<Written, StoreError> {
    let pack = node.shelf.lease(Kind::Durable, number)?;
    let messages = pack.index()?.iter().map(|record| u64::from(record.at.count)).sum();
    Ok(Written { messages, bytes: pack.bytes() })
}

fn queues_in(node: &Node, number: u64) -> Result<Vec<QueueId>, StoreError> {
    let index = node.shelf.lease(Kind::Durable, number)?.index()?;
    Ok(index.iter().map(|record| record.queue).collect())
}
