//! Messages that are ready, looked at where they are, and one of them taken from between the others.

use crate::message::place::Seq;
use crate::queue::classic::Classic;
use crate::queue::lane::Piece;

impl<C> Classic<C> {
    /// The first ready messages whose numbers are `from` or higher, as far as they lie together, and how many steps it took
    /// to find them. What the log does not have durable yet is not there for anybody.
    pub fn piece_from(&self, from: Seq) -> (Option<Piece>, u32) {
        let (returned, steps) = match &self.returned {
            None => (None, 1),
            Some(returned) => (returned.run_from(from), 1 + returned.len()),
        };
        let ready = self.ready.piece_from(from, &self.ledger);
        let piece = match (ready, returned) {
            (Some(ready), Some(returned)) if ready.first_seq() < returned.first_seq() => {
                Some(ready.before(returned.first_seq(), &self.ledger))
            }
            (ready, returned) => returned.map(Piece::Here).or(ready),
        };
        let Some(barrier) = self.barrier() else { return (piece, steps) };
        let durable = piece.filter(|piece| piece.first_seq() < barrier);
        (durable.map(|piece| piece.before(barrier, &self.ledger)), steps)
    }

    /// Takes one ready message from between the others, wherever it is: it is unacked until it is settled or given back, and
    /// was delivered to nobody. `None` when it is not ready, or the log does not have it durable yet.
    pub fn take_one(&mut self, seq: Seq) -> Option<Piece> {
        if self.barrier().is_some_and(|barrier| barrier <= seq) {
            return None;
        }
        let returned = self.returned.as_mut().and_then(|returned| returned.take_out(seq, &mut 0));
        if let Some(run) = &returned {
            self.forget_expiry(run);
        }
        let piece = returned.map(Piece::Here).or_else(|| self.take_out(seq))?;
        self.unacked += piece.count();
        Some(piece)
    }
}
