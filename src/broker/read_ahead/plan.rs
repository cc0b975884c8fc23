//! What one read fetches, as places are when the queue's lock is held.
//!
//! What is delivered lies together, and is read as far as a read goes. Dead letters lie apart, in the order of their times
//! and not of their places: of all that died by now as many are read as one read may visit, by place, and of what else
//! lies there nothing stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::broker::node::Node;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::read_ahead::READ_BYTES;
use crate::message::place::{Extent, Lsn, Place, Seq};
use crate::message::run::Run;
use crate::queue::classic::Part;
use crate::queue::lane::Away;
use crate::queue::ledger::{Ledger, Where};
use crate::stats::Gauge;
use crate::storage::error::StoreError;
use crate::storage::log::SlotLease;
use crate::storage::pack::Kind;
use crate::storage::pack::shelf::PackLease;

/// How many places one read visits at most.
const PLACES_MAX: usize = 1000;
/// And how many packs, all of which are open until it is over.
const PACKS_MAX: usize = 16;

/// What one read will fetch.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) wanted: Wanted,
    /// Ascending.
    pub(super) pieces: Vec<Piece>,
}

/// The messages that a read is for.
#[derive(Debug)]
pub(super) enum Wanted {
    /// All that the disk has of these numbers.
    All(Part, Seq, Seq),
    /// Dead letters: from which number on, ascending, and up to before which.
    Letters(Vec<(Seq, Seq)>),
}

/// One place, and what of it is wanted.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) at: Spot,
    /// These numbers only, ascending; none for all.
    pub(super) only: SmallVec<[(Seq, Seq); 1]>,
}

#[derive(Debug)]
pub(super) enum Spot {
    Record { start: Lsn, lease: SlotLease },
    Extent { at: Extent },
    Block { number: u64, offset: u64 },
    Lost,
}

/// What names a pack.
pub(super) type PackKey = (Kind, u64);

/// The packs of a plan, pinned; `None` is damaged.
pub(super) type Packs = BTreeMap<PackKey, Option<PackLease>>;

impl Piece {
    pub(super) fn pack(&self) -> Option<PackKey> {
        match self.at {
            Spot::Extent { at } => Some((Kind::Durable, at.pack)),
            Spot::Block { number, .. } => Some((Kind::Spill, number)),
            Spot::Record { .. } | Spot::Lost => None,
        }
    }

    pub(super) fn wants_all_of(&self, at: &Extent) -> bool {
        match self.only[..] {
            [] => true,
            [(first, end)] => first <= at.first && at.last < end,
            _ => false,
        }
    }

    /// What is wanted of a run that was read here. It keeps no more in memory than a few times its own bytes.
    pub(super) fn pick(&self, run: Run, picked: &mut Vec<Run>, gauge: &Arc<Gauge>) {
        if self.only.is_empty() {
            return picked.push(run);
        }
        let from = self.only.partition_point(|(_, end)| *end <= run.first_seq());
        let only = self.only.get(from..).unwrap_or_default().iter();
        let mut parts: Vec<Run> = only.map_while(|(first, end)| run.part(*first, *end)).collect();
        Run::compact(&mut parts.iter_mut().collect::<Vec<_>>(), gauge);
        picked.append(&mut parts);
    }
}

impl Plan {
    /// Pins the packs. `None` when one is not there: messages leave a pack before it goes, and are to be looked up again.
    /// One of those `missed` before, which is still said to have messages, is damaged.
    pub(super) fn lease(
        &self,
        node: &Node,
        missed: &mut BTreeSet<PackKey>,
    ) -> Result<Option<Packs>, StoreError> {
        let mut packs = Packs::new();
        for key in self.pieces.iter().filter_map(Piece::pack) {
            if packs.contains_key(&key) {
                continue;
            }
            let (kind, number) = key;
            let pack = match node.shelf.lease(kind, number) {
                Ok(pack) => Some(pack),
                Err(gone) if gone.is_missing() && missed.insert(key) => return Ok(None),
                Err(damage) if damage.is_damage() && kind == Kind::Durable => {
                    tracing::error!(%damage, "a pack is damaged");
                    None
                }
                Err(error) => return Err(error),
            };
            packs.insert(key, pack);
        }
        Ok(Some(packs))
    }
}

/// The places of messages, one after the other, until a read has enough.
struct Places<'a> {
    ledger: &'a Ledger,
    found: Vec<(Seq, Seq, Where)>,
    packs: BTreeSet<PackKey>,
    bytes: u64,
    /// They lie apart, and single ones are read without what lies around them.
    is_scattered: bool,
}

impl<'a> Places<'a> {
    fn of(ledger: &'a Ledger, is_scattered: bool) -> Self {
        Self { ledger, found: Vec::new(), packs: BTreeSet::new(), bytes: 0, is_scattered }
    }
}

impl Places<'_> {
    fn is_enough(&self) -> bool {
        self.bytes >= READ_BYTES || self.found.len() >= PLACES_MAX || self.packs.len() >= PACKS_MAX
    }

    /// Adds those of `from..end`, of which a message has usually so many bytes; up to where.
    fn add(&mut self, mut from: Seq, end: Seq, usual_bytes: u64) -> Seq {
        while !self.is_enough() {
            let next = self.ledger.live_ranges(from, end).next();
            let placed = next.and_then(|(first, _)| Some((first, self.ledger.place_and_end(first)?)));
            let Some((first, (place, place_end))) = placed else { return end };
            from = place_end.min(end);
            let count = from.0 - first.0;
            self.bytes += match place {
                Where::In(_) if count == 1 && self.is_scattered => usual_bytes,
                // It is read as a whole, however little of it lives. Blocks that it shares with other queues lie elsewhere.
                Where::In(at) => at.body_bytes.max(at.bytes.into()),
                Where::At(_) => usual_bytes * count,
            };
            self.packs.extend(match place {
                Where::In(at) => Some((Kind::Durable, at.pack)),
                Where::At(Place::Pack { number, .. }) => Some((Kind::Spill, number)),
                Where::At(Place::Log(_)) => None,
            });
            self.found.push((first, from, place));
        }
        from
    }
}

fn usual_bytes(away: &Away) -> u64 {
    away.body_bytes / away.count.max(1) + 1
}

impl Queue {
    /// What to read; `None` when nothing is away that is to be read. Dead letters and others take turns: where they come
    /// again and again what a start found would not be looked through, and would be late.
    pub(super) fn plan_read(&self, state: &mut State, now_ms: u64) -> Option<Plan> {
        let others = state.classic.away_first(state.wants_head(now_ms));
        let are_wanted = others.is_some() && self.wants_reading(state, now_ms);
        let is_others_turn = std::mem::take(&mut state.letters_were_read) && are_wanted;
        if !is_others_turn && let Some(plan) = self.plan_letters(state) {
            state.letters_were_read = true;
            return Some(plan);
        }
        let (part, away) = others?;
        Some(self.plan_from(state, part, away))
    }

    /// How to read the first ones of these.
    pub(super) fn plan_from(&self, state: &State, part: Part, away: Away) -> Plan {
        let mut places = Places::of(&state.classic.ledger, false);
        let end = places.add(away.first, away.end, usual_bytes(&away));
        let mut lease = None;
        let spots = places.found.into_iter().map(|(_, _, place)| self.spot(place, &mut lease));
        let pieces = spots.map(|at| Piece { at, only: SmallVec::new() }).collect();
        Plan { wanted: Wanted::All(part, away.first, end), pieces }
    }

    /// How to read the next dead letters; `None` when the next one is not away.
    fn plan_letters(&self, state: &State) -> Option<Plan> {
        let mut places = Places::of(&state.classic.ledger, true);
        let mut letters = Vec::new();
        for away in state.classic.dying_away() {
            let end = places.add(away.first, away.end, usual_bytes(away));
            if end > away.first {
                letters.push((away.first, end));
            }
            if places.is_enough() {
                break;
            }
        }
        letters.sort_unstable();
        places.found.sort_unstable_by_key(|(first, ..)| *first);
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut lease, mut last) = (None, None);
        for (first, end, place) in places.found {
            match pieces.last_mut() {
                Some(piece) if last == Some(place) => piece.only.push((first, end)),
                _ => pieces.push(Piece {
                    at: self.spot(place, &mut lease),
                    only: SmallVec::from_buf([(first, end)]),
                }),
            }
            last = Some(place);
        }
        (!letters.is_empty()).then_some(Plan { wanted: Wanted::Letters(letters), pieces })
    }

    fn spot(&self, place: Where, lease: &mut Option<SlotLease>) -> Spot {
        match place {
            Where::At(Place::Log(start)) => {
                if lease.as_ref().is_none_or(|lease| !lease.covers(start)) {
                    *lease = self.node.log.lease(start);
                }
                match lease.clone() {
                    Some(lease) => Spot::Record { start, lease },
                    // A checkpoint found it damaged and left it behind in a slot that is gone.
                    None => Spot::Lost,
                }
            }
            Where::At(Place::Pack { number, offset }) => Spot::Block { number, offset },
            Where::In(at) => Spot::Extent { at },
        }
    }
}
