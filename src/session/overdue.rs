//! Consumers that hold a message for too long: their channel is closed, and what it held goes to others. Where queue or
//! consumer say so only that message does, or what the consumer holds, and that is cancelled.
//!
//! It is looked for now and then, not at the moment: a message may be held a tenth longer, or a minute, and a little more
//! behind tens of thousands of others.

use std::time::{Duration, Instant};

use crate::broker::wakes::HOLD_STEPS;
use crate::clock::Now;
use crate::session::refuse::Refusal;
use crate::session::running::{Running, Slot};

/// How long is waited between two looks: a part of the shortest time a message may be held, within these.
const LOOKS_IN_TIME: u32 = 10;
const SHORTEST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Of each channel so many of the oldest deliveries are looked at, with very many channels.
const ROWS_MIN: usize = 4;

/// When to look at what is held, and why.
#[derive(Debug)]
pub struct Overdue {
    at: Option<Instant>,
    /// The shortest time that anything held may be held, in milliseconds.
    shortest_ms: u64,
}

impl Default for Overdue {
    fn default() -> Self {
        Self { at: None, shortest_ms: u64::MAX }
    }
}

impl Overdue {
    /// Something is held that may be so for `timeout_ms`.
    #[inline]
    pub fn hold(&mut self, timeout_ms: u64, now: Now) {
        if self.at.is_none() || timeout_ms < self.shortest_ms {
            self.look_again(timeout_ms.min(self.shortest_ms), now);
        }
    }

    fn look_again(&mut self, shortest_ms: u64, now: Now) {
        self.shortest_ms = shortest_ms;
        let rest = Duration::from_millis(shortest_ms) / LOOKS_IN_TIME;
        self.at = now.instant.checked_add(rest.clamp(SHORTEST_REST, LONGEST_REST));
    }

    /// Not all that is held was looked at.
    fn look_soon(&mut self, now: Now) {
        self.at = now.instant.checked_add(SHORTEST_REST);
    }

    /// When to look.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }
}

impl Running {
    /// Takes back what consumers hold for longer than they may, or closes the channel of one, if it is time to look. There
    /// may be more: then the next look is soon.
    pub(super) fn look_for_overdue(&mut self, now: Now) {
        let is_time = self.link.overdue.at().is_some_and(|at| at <= now.instant);
        if !is_time {
            return;
        }
        if self.link.moves_only {
            self.link.overdue = Overdue::default();
            return;
        }
        let shortest_ms = self.link.overdue.shortest_ms;
        // What was begun is finished first: a commit is not to be cut in two, nor what is handed over to be added to.
        if self.is_behind || self.closing.is_some() || !self.link.chores.is_empty() {
            return self.link.overdue.look_soon(now);
        }
        self.link.now = now;
        self.link.wakes.count(self.channels.len() as u32);
        self.link.overdue = Overdue::default();
        let most = (HOLD_STEPS as usize / self.channels.len().max(1)).max(ROWS_MIN);
        let (mut overdue, mut is_cut_short) = (None, false);
        for (number, slot) in &mut self.channels {
            let Slot::Open(channel) = slot else { continue };
            // Who was cancelled, and what it held, goes first.
            if !self.link.chores.is_empty() {
                is_cut_short = true;
                self.link.overdue.hold(shortest_ms, now);
                break;
            }
            if channel.holds_any() {
                self.link.overdue.hold(shortest_ms, now);
                if overdue.is_none() {
                    let (found, is_cut) = channel.take_back_overdue(&mut self.link, shortest_ms, most);
                    overdue = found.map(|timeout_ms| (*number, timeout_ms));
                    is_cut_short |= is_cut;
                }
            }
        }
        // What was taken back is for others.
        self.pump();
        if is_cut_short {
            self.link.overdue.look_soon(now);
        }
        let Some((number, timeout_ms)) = overdue else { return };
        let refusal = Refusal::precondition(format!(
            "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout_ms} ms. This timeout \
             value can be configured, see consumers doc guide to learn more"
        ));
        self.close_refused(number, &refusal, (0, 0));
        self.work_if_begun();
    }
}
