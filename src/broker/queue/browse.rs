//! Looking at what waits in a queue, and taking single messages out, for those who administer it.
//!
//! A look changes nothing: what is away stays away, nobody is served later, nothing counts as delivered. It goes on from
//! number to number, in the order in which the messages were published (by priorities, where there are any), and between
//! two holds of the lock the queue may change: what is taken meanwhile is not seen, or was.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::queue::handle::{Queue, State};
use crate::broker::queue::settle::Back;
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::message::place::{Lsn, Seq};
use crate::message::run::Run;
use crate::protocol::properties::Properties;
use crate::queue::lane::{Away, Piece};
use crate::storage::error::StoreError;

/// A look through a queue.
#[derive(Debug)]
pub struct Browser {
    queue: Arc<Queue>,
    /// The next message has this number or a higher one.
    from: Seq,
    /// What was read of those that are away: all that the disk has before `read_until`.
    read: VecDeque<Run>,
    read_until: Seq,
}

/// A message that was taken out, to be somewhere else. It goes back unless it is settled.
#[derive(Debug)]
pub struct Picked {
    queue: Arc<Queue>,
    piece: Option<Piece>,
    /// When.
    picked_ms: u64,
}

impl Browser {
    /// Looks at those whose numbers are `from` or higher.
    pub fn new(queue: Arc<Queue>, from: Seq) -> Self {
        Self { queue, from, read: VecDeque::new(), read_until: Seq(0) }
    }

    /// The next ones: as many as one hold of the lock finds, and some of what is away; `None` when there are no more. They
    /// keep their bytes in memory for as long as they are kept.
    ///
    /// # Errors
    /// When the disk does not read.
    pub fn look(&mut self) -> Result<Option<Vec<Run>>, StoreError> {
        loop {
            let mut found = Vec::new();
            let (from, queue) = (self.from, Arc::clone(&self.queue));
            let is_over = self.look_at(&queue.lock(), &mut found);
            if !found.is_empty() {
                return Ok(Some(found));
            }
            if is_over {
                return Ok(None);
            }
            if self.from > from {
                continue;
            }
            let next = |state: &State| match state.classic.piece_from(from).0 {
                Some(Piece::Away(away)) => Some(away),
                _ => None,
            };
            if let Some((read, until)) = queue.read_aside(next)? {
                (self.read, self.read_until) = (read.into(), until);
            }
        }
    }

    /// Takes in what is there, up to what must be read first. Whether nothing is behind it.
    fn look_at(&mut self, state: &State, found: &mut Vec<Run>) -> bool {
        let mut steps = 0;
        while steps < HOLD_STEPS {
            let (piece, looked_at) = state.classic.piece_from(self.from);
            steps += looked_at;
            match piece {
                None => return true,
                Some(Piece::Here(run)) => {
                    self.from = run.end_seq();
                    found.push(run);
                }
                Some(Piece::Away(away)) if away.first < self.read_until => {
                    steps += self.take_read(state, &away, found);
                }
                Some(Piece::Away(_)) => return false,
            }
        }
        false
    }

    /// Takes in those that are away and were read, as far as one hold goes; how many steps that took.
    fn take_read(&mut self, state: &State, away: &Away, found: &mut Vec<Run>) -> u32 {
        let end = away.end.min(self.read_until);
        let mut steps = 0;
        for (first, stop) in state.classic.ledger.live_ranges(away.first, end) {
            while let Some(run) = self.read.pop_front_if(|run| run.first_seq() < stop) {
                steps += 1;
                found.extend(run.part(first, stop).map(|part| as_it_waits(part, away)));
                if run.end_seq() > stop {
                    self.read.push_front(run);
                    break;
                }
            }
            self.from = stop;
            steps += 1;
            if steps >= HOLD_STEPS {
                return steps;
            }
        }
        self.from = end;
        steps
    }
}

/// What was read does not know what has happened to it.
fn as_it_waits(mut run: Run, away: &Away) -> Run {
    if away.redelivered {
        run.mark_redelivered();
    }
    run.set_returns(away.returns);
    run
}

impl Queue {
    /// The `timestamp` of the message at the head, if that is in memory and has one.
    pub fn head_timestamp(&self) -> Option<u64> {
        let state = self.lock();
        let message = state.classic.front()?.messages().next()?;
        Properties::unchecked(message.properties).timestamp()
    }

    /// Takes out a ready message. `None` when it is not there, or somebody has it.
    pub fn pick(self: &Arc<Self>, seq: Seq, wakes: &Wakes) -> Option<Picked> {
        let mut state = self.lock();
        let piece = state.classic.take_one(seq)?;
        self.note_depth(&state.classic);
        Some(Picked { queue: Arc::clone(self), piece: Some(piece), picked_ms: wakes.now_ms() })
    }
}

impl Picked {
    /// It is done with; until where the log must be durable before that may be told.
    pub fn settle(mut self, wakes: &mut Wakes) -> Lsn {
        let Some(piece) = self.piece.take() else { return Lsn::default() };
        let queue = &self.queue;
        let mut state = queue.lock();
        if queue.is_deleted() {
            return Lsn::default();
        }
        let mut gone = Vec::new();
        state.classic.drop_taken(&piece, &mut gone);
        let after = queue.log_gone(&gone);
        queue.dispatch(&mut state, wakes);
        after
    }
}

impl Drop for Picked {
    /// Back to where it was: nobody has seen it.
    fn drop(&mut self) {
        let Some(piece) = self.piece.take() else { return };
        let mut wakes = Wakes::default();
        wakes.begin_turn(self.picked_ms);
        let mut state = self.queue.lock();
        if self.queue.is_deleted() {
            return;
        }
        self.queue.take_back(&mut state, piece, Back::Untouched);
        self.queue.dispatch(&mut state, &mut wakes);
        drop(state);
        wakes.fire();
    }
}
