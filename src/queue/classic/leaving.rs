//! Messages that leave a queue without having been taken: their time is over, or they are too many. They are gone, or wait
//! to be dead-lettered.

use crate::message::place::Seq;
use crate::message::run::Run;
use crate::queue::classic::Classic;
use crate::queue::dying::Reason;
use crate::queue::expiry::Expiries;
use crate::queue::lane::{Gone, Piece};

impl<C> Classic<C> {
    /// The first run of each priority that is in memory, the highest first.
    pub fn fronts(&self) -> impl Iterator<Item = &Run> {
        let mut from = Some(Seq(0));
        let of_ranks = std::iter::from_fn(move || {
            let run = self.ready.run_from(from?)?;
            from = run.first_seq().next_rank();
            Some(run)
        });
        self.first_returned().into_iter().chain(of_ranks)
    }

    /// Takes a ready message that nobody is to have, wherever it is.
    pub fn take_out(&mut self, seq: Seq) -> Option<Piece> {
        let piece = self.ready.take_out(seq, &self.ledger)?;
        if let Piece::Here(run) = &piece {
            self.forget_expiry(run);
        }
        Some(piece)
    }

    /// All messages wait until their delay is over.
    pub fn delay_all(&mut self) {
        self.delays = true;
        self.expiries.get_or_insert_with(|| Box::new(Expiries::of_delays()));
    }

    #[inline]
    pub(super) fn note_expiry(&mut self, run: &Run) {
        if run.expires() || self.delays {
            self.expiries.get_or_insert_default().insert(run);
        }
    }

    #[inline]
    pub(super) fn forget_expiry(&mut self, run: &Run) {
        if let Some(expiries) = &mut self.expiries
            && (run.expires() || self.delays)
        {
            expiries.remove(run);
        }
    }

    /// Takes up to `count` ready messages from the head that nobody is to have: they are for [`Classic::doom`] or
    /// [`Classic::drop_piece`].
    pub fn take_head(&mut self, count: u32) -> Option<Piece> {
        let piece = match self.first_returned().is_some() {
            true => Piece::Here(self.returned.as_mut()?.take_front(count)?),
            false => self.ready.take_piece(count, &self.ledger)?,
        };
        if let Piece::Here(run) = &piece {
            self.forget_expiry(run);
        }
        Some(piece)
    }

    /// Takes a ready message that has had its time by `now_ms`, wherever it is; `None` when there is none. One of those
    /// that are noted may be gone: so many are looked at.
    pub fn take_expired(&mut self, now_ms: u64, steps: &mut u32) -> Option<Piece> {
        let expiries = self.expiries.as_mut()?;
        while *steps > 0
            && let Some(seq) = expiries.take_due(now_ms)
        {
            *steps -= 1;
            let returned = self.returned.as_mut().and_then(|returned| returned.take_out(seq, steps));
            let piece = returned.map(Piece::Here).or_else(|| self.ready.take_out(seq, &self.ledger));
            if piece.is_some() {
                return piece;
            }
        }
        None
    }

    /// When to look for ready messages that have had their time, by their own `expiration`.
    #[inline]
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.as_ref()?.first_time()
    }

    /// Messages that nobody has in hand are to be dead-lettered. The ledger knows the persistent ones until they are
    /// somewhere else.
    pub fn doom(&mut self, reason: Reason, piece: Piece) {
        self.dying.get_or_insert_default().insert(reason, piece, &self.ledger);
    }

    /// Messages taken before are to be dead-lettered.
    pub fn doom_taken(&mut self, reason: Reason, piece: Piece) {
        self.unacked = self.unacked.saturating_sub(piece.count());
        self.doom(reason, piece);
    }

    /// Messages that nobody has in hand are gone for good: their numbers, for the log, are added to `gone`.
    pub fn drop_piece(&mut self, piece: &Piece, gone: &mut Vec<Gone>) {
        let (first, end, persistent) = match piece {
            Piece::Here(run) => (run.first_seq(), run.end_seq(), run.is_persistent()),
            Piece::Away(away) => (away.first, away.end, away.persistent),
        };
        let before = gone.len();
        match piece {
            Piece::Here(_) => gone.push(Gone { first, end, persistent }),
            Piece::Away(_) => {
                let ranges = self.ledger.live_ranges(first, end);
                gone.extend(ranges.map(|(first, end)| Gone { first, end, persistent }));
            }
        }
        for Gone { first, end, .. } in gone.get(before..).unwrap_or_default() {
            self.ledger.cut(*first, *end);
        }
    }

    /// Messages taken before are gone for good: see [`Classic::drop_piece`].
    pub fn drop_taken(&mut self, piece: &Piece, gone: &mut Vec<Gone>) {
        self.unacked = self.unacked.saturating_sub(piece.count());
        self.drop_piece(piece, gone);
    }

    /// The next ones to be dead-lettered, at most `count`, and why. Of those whose bytes must be read back first only
    /// where they are, and they stay.
    pub fn take_dying(&mut self, count: u32) -> Option<(Reason, Piece)> {
        self.dying.as_mut()?.take(count)
    }

    /// Messages that were taken to be dead-lettered are the next ones again.
    pub fn put_back_dying(&mut self, reason: Reason, run: Run) {
        self.dying.get_or_insert_default().put_back(reason, run);
    }

    /// Messages that were taken to be dead-lettered could not go, and are tried again later.
    pub fn keep_dying(&mut self, reason: Reason, run: Run) {
        self.dying.get_or_insert_default().keep(reason, run);
    }

    /// Those that could not be dead-lettered are tried again.
    pub fn retry_kept(&mut self) {
        if let Some(dying) = &mut self.dying {
            dying.retry_kept();
        }
    }

    /// Whether messages are to be dead-lettered.
    #[inline]
    pub fn has_dying(&self) -> bool {
        self.dying.as_ref().is_some_and(|dying| dying.next().is_some())
    }

    /// Takes over what is to be dead-lettered of a queue that is gone.
    pub fn adopt_dying(&mut self, gone: &mut Self) {
        self.dying = gone.dying.take();
        self.dying.iter_mut().for_each(|dying| dying.drop_kept());
    }

    /// The bodies of messages in memory that are to be dead-lettered, in bytes.
    pub fn dying_here_bytes(&self) -> u64 {
        self.dying.as_ref().map_or(0, |dying| dying.here_bytes())
    }

    /// Whether so many could not go that the others wait as well.
    pub fn is_dying_blocked(&self) -> bool {
        self.dying.as_ref().is_some_and(|dying| dying.is_blocked())
    }

    /// The bodies of messages that are to be dead-lettered, in bytes.
    pub fn dying_bytes(&self) -> u64 {
        self.dying.as_ref().map_or(0, |dying| dying.bytes())
    }

    /// The first ones that are to be dead-lettered are dropped if they are away: whether they were.
    pub fn drop_dying_away(&mut self) -> bool {
        self.dying.as_mut().is_some_and(|dying| dying.drop_away())
    }

    /// How many messages are to be dead-lettered.
    pub fn dying_messages(&self) -> u64 {
        self.dying.as_ref().map_or(0, |dying| dying.messages())
    }

    /// Messages that were taken to be dead-lettered are somewhere else now, or nowhere.
    pub fn bury(&mut self, first: Seq, end: Seq) {
        self.ledger.cut(first, end);
        self.dying.get_or_insert_default().bury(end.0 - first.0);
    }

    /// How many messages have been dead-lettered so far, and how many will have been when all that are to be are.
    pub fn burials(&self) -> (u64, u64) {
        self.dying.as_ref().map_or((0, 0), |dying| dying.progress())
    }

    /// Drops about so many of the messages that were to be dead-lettered; `true` when none is left.
    pub fn shed_dying(&mut self, count: u64) -> bool {
        self.dying.as_mut().is_none_or(|dying| dying.shed(count))
    }

    #[cold]
    pub(super) fn bytes_aside(&self) -> u64 {
        let expiries = self.expiries.as_ref().map_or(0, |expiries| expiries.bytes());
        let returned = self.returned.as_ref().map_or(0, |returned| returned.index_bytes());
        expiries + returned + self.dying.as_ref().map_or(0, |dying| dying.index_bytes())
    }
}
