//! Messages on their way from where they lie to extents that a checkpoint has written, so many ranges at a time.
//!
//! ```text
//! coming ---> arrived, open ---> arrived, complete ---> among the ledger's extents
//!             '- its numbers move, in order               '- when all have moved, and what it replaces is gone
//! ```
//!
//! A number lives where it was or in the extent it has moved to, never in both: what is settled on the way is settled
//! where it lives, and what is settled before it moves never arrives. Extents of a merged pack may overlap the new ones,
//! and go when nothing lives in them any more.

use std::collections::VecDeque;

use crate::message::place::Seq;
use crate::queue::extent::{ExtentState, Extents, NewExtent};
use crate::stats::Gauge;

/// A move that is not finished.
#[derive(Debug)]
pub(super) struct Moving {
    /// Extents to which nothing has moved yet, ascending.
    coming: VecDeque<NewExtent>,
    /// The last of those that have arrived has not all of its messages.
    open: Option<Open>,
    /// Extents that messages have moved to.
    pub(super) arrived: Extents,
}

#[derive(Debug)]
struct Open {
    /// As it was written: what lives in it is to come.
    written: ExtentState,
    /// All that lives before this number has come.
    reached: Seq,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Live numbers of this range are to move, if they are of those that [`Moving::written`] has.
    Move(Seq, Seq),
    /// All have moved: this extent takes its place.
    Place(Seq, Seq),
    /// Nothing.
    Done,
}

impl Moving {
    pub(super) fn new(extents: VecDeque<NewExtent>) -> Self {
        Self { coming: extents, open: None, arrived: Extents::default() }
    }

    pub(super) fn next(&mut self) -> Next {
        if self.open.is_none()
            && let Some(NewExtent { at, gaps, pack_live }) = self.coming.pop_front()
        {
            self.arrived.insert(ExtentState::awaiting(at, pack_live));
            let written = ExtentState::new(at, gaps, Gauge::default().into());
            self.open = Some(Open { written, reached: at.first });
        }
        if let Some(open) = &self.open {
            return Next::Move(open.reached, open.written.at.last.after(1));
        }
        match self.arrived.starting_at(Seq(0)).next() {
            Some(first) => Next::Place(first.at.first, first.at.last.after(1)),
            None => Next::Done,
        }
    }

    /// The first of these live numbers that were written to the open extent, as far as they follow each other. The others
    /// stay where they are.
    pub(super) fn written(&self, first: Seq, end: Seq) -> Option<(Seq, Seq)> {
        self.open.as_ref()?.written.next_live(first, end)
    }

    /// The numbers have moved to the open extent.
    pub(super) fn take_in(&mut self, first: Seq, end: Seq) {
        if let Some(extent) = self.arrived.last_mut() {
            extent.take_in(first, end);
        }
    }

    /// All that lives before this number has moved.
    pub(super) fn reach(&mut self, seq: Seq) {
        let Some(open) = &mut self.open else { return };
        open.reached = seq;
        if seq > open.written.at.last
            && let Some(extent) = self.arrived.last_mut()
        {
            extent.complete();
            self.open = None;
        }
    }

    /// The extent to which the message has moved, and up to before which number others have.
    pub(super) fn place_and_end(&self, seq: Seq) -> Option<(&ExtentState, Seq)> {
        let extent = self.arrived.with_live(seq)?;
        let open = self.open.as_ref().filter(|open| open.written.at.first == extent.at.first);
        Some((extent, open.map_or(extent.at.last.after(1), |open| open.reached)))
    }

    /// How many extents there are.
    pub(super) fn len(&self) -> usize {
        self.coming.len() + self.arrived.len()
    }

    /// Forgets one extent and how many messages live in it.
    pub(super) fn shed_one(&mut self) -> Option<u64> {
        if self.coming.pop_front().is_some() {
            return Some(0);
        }
        self.open = None;
        self.arrived.pop_first().map(|extent| extent.live())
    }
}
