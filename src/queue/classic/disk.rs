//! What a queue asks of the disk, and what it makes of the answer: bytes that leave memory, and bytes that come back.

use crate::message::place::{Place, Seq};
use crate::message::run::Run;
use crate::queue::classic::{Classic, Head, Part};
use crate::queue::lane::{Allowance, Away, Evicted, ToSpill};

/// After so many messages without an `expiration` the rest is not looked through for one.
const SEEN_IN_VAIN_MAX: u64 = 10_000;

impl<C> Classic<C> {
    /// Messages to be read next, after those that are to be dead-lettered: those at the head if somebody wants them, those
    /// that nobody has seen, and then those at the head all the same.
    pub fn away_first(&self, is_head_wanted: bool) -> Option<(Part, Away)> {
        let at_head = match self.head() {
            Head::Away(away) => Some((Part::Ready, away)),
            _ => None,
        };
        let unseen = self.unseen.filter(|_| !is_head_wanted || at_head.is_none());
        let unseen = unseen.and_then(|from| self.ready.away_from(from, &self.ledger));
        unseen.map(|away| (Part::Unseen, away)).or(at_head)
    }

    /// What a start found away is to be looked at: some may have had their time.
    pub fn look_through(&mut self) {
        self.unseen = (self.ready.messages() > 0).then_some(Seq(0));
    }

    /// Nothing is left to be looked at.
    pub fn look_no_further(&mut self) {
        self.unseen = None;
    }

    /// Whether there may be messages that are to be looked at.
    #[inline]
    pub fn has_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    /// Notes which of the messages before `end` expire. A queue whose first ones do not is not looked through: what
    /// expires in it all the same does so when it comes to the head.
    fn see(&mut self, end: Seq, runs: &[Run]) {
        for run in runs {
            self.note_expiry(run);
            if !run.expires() {
                self.seen_in_vain += u64::from(run.count());
            }
        }
        if std::mem::take(&mut self.is_unseen_behind) {
            // Something came back before what was being read, meanwhile or just before.
            return;
        }
        let is_in_vain = self.expiries.is_none() && self.seen_in_vain >= SEEN_IN_VAIN_MAX;
        self.unseen =
            (!is_in_vain).then_some(end).filter(|end| self.ready.away_from(*end, &self.ledger).is_some());
    }

    /// Lets go of the bytes of ready messages that are durable on the disk, from the far tail on, as many as may go.
    /// Bounded work: ask again.
    pub fn evict_tail(&mut self, allowance: Allowance) -> Evicted {
        self.ready.evict_tail(allowance, self.barrier(), &self.ledger)
    }

    /// Runs at the far tail that must be written to a spill pack before they can go, newest first. Bounded work: ask
    /// again.
    pub fn tail_to_spill(&mut self, allowance: Allowance) -> ToSpill {
        self.ready.tail_to_spill(allowance)
    }

    /// The numbers `first..end` of [`Classic::tail_to_spill`] were written to `place`: what is still ready of them
    /// needs its bytes no longer, but for the very first if it `spares_head`.
    pub fn on_spilled(&mut self, first: Seq, end: Seq, place: Place, spares_head: bool) -> Evicted {
        let (evicted, ranges) = self.ready.evict_within(first, end, spares_head, &self.ledger);
        for (first, end) in ranges {
            self.has_spilled = true;
            self.ledger.insert(first, end, place);
        }
        evicted
    }

    /// Whether the disk has all of the numbers `first..end`, of which none is settled.
    pub fn has_on_disk(&self, first: Seq, end: Seq) -> bool {
        self.has_spilled && self.ledger.live_in(first, end) == end.0 - first.0
    }

    /// Puts messages that were read back into their place: all that the disk has of `first..end`. Live numbers that
    /// could not be read are returned; they are no longer ready, and the ledger still knows them.
    pub fn fill(&mut self, part: Part, first: Seq, end: Seq, runs: Vec<Run>) -> Vec<(Seq, Seq)> {
        match part {
            Part::Ready => {
                // Those that are no longer away are noted for nothing: who looks for them finds them gone.
                runs.iter().for_each(|run| self.note_expiry(run));
                self.ready.fill(first, end, runs, &self.ledger)
            }
            Part::Unseen => {
                self.see(end, &runs);
                Vec::new()
            }
        }
    }
    /// Those that are to be dead-lettered and must be read back: see [`Dying::away`](crate::queue::dying::Dying::away).
    pub fn dying_away(&self) -> impl Iterator<Item = &Away> {
        self.dying.iter().flat_map(|dying| dying.away())
    }

    /// As [`Classic::fill`], for those that are to be dead-lettered: see
    /// [`Dying::fill`](crate::queue::dying::Dying::fill).
    pub fn fill_dying(&mut self, letters: &[(Seq, Seq)], runs: &[Run]) -> Vec<(Seq, Seq)> {
        self.dying.get_or_insert_default().fill(letters, runs, &self.ledger)
    }
}
