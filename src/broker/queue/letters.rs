//! A queue goes after its dead letters: once it is gone nobody knows any more where on the disk they are.
//!
//! One that goes by itself looks now and then whether they have gone. Who deletes one is noted here, and asks again when
//! they have, or a little later: what dies meanwhile keeps nobody waiting.

use std::sync::Arc;

use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::queue::classic::Head;
use crate::queue::expiry;

/// A queue that waits for its dead letters looks again after so many milliseconds.
pub(super) const LETTERS_MS: u64 = 100;
/// What a deletion waits for: those that were dead when it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct LettersDue {
    /// It waits no longer: they may be on a disk that does not read, or have no room where they go.
    patience_ms: u64,
    asked_ms: Option<u64>,
    /// So many must have been buried since the queue began to.
    burials: Option<u64>,
}

impl LettersDue {
    /// What is waited for from now on, for so long at most.
    pub fn within(patience_ms: u64) -> Self {
        Self { patience_ms, asked_ms: None, burials: None }
    }
}

impl State {
    /// Whether messages of it are dead and not where they are to go; not those that may have to stay for ever.
    pub(super) fn has_letters(&self, now_ms: u64) -> bool {
        let (buried, due) = self.classic.burials();
        self.sends_letters() && (buried < due || self.has_overdue(now_ms))
    }

    fn sends_letters(&self) -> bool {
        self.settings.dead_letter.is_some() && !self.settings.keeps_dead_letters
    }

    /// Whether ready messages had their time by then, or may have.
    fn has_overdue(&self, then_ms: u64) -> bool {
        let (settings, classic) = (&self.settings, &self.classic);
        let is_over = |time_ms: Option<u64>| time_ms.is_some_and(|time_ms| time_ms <= then_ms);
        let first_ms = || Some(expiry::time_of(classic.fronts().next()?, settings.message_ttl_ms?));
        // What has left memory may be over from then on.
        let may_be_over = || {
            matches!(classic.head(), Head::Away(_))
                && settings.message_ttl_ms.is_some()
                && then_ms >= self.fresh_until_ms
        };
        is_over(classic.next_expiry()) || is_over(first_ms()) || may_be_over()
    }

    fn owes(&self, due: &mut LettersDue, now_ms: u64) -> bool {
        let asked_ms = *due.asked_ms.get_or_insert(now_ms);
        if !self.sends_letters() || now_ms.saturating_sub(asked_ms) > due.patience_ms {
            return false;
        }
        let (buried, in_all) = self.classic.burials();
        if due.burials.is_none() {
            if self.has_overdue(asked_ms) {
                return true;
            }
            due.burials = Some(in_all);
        }
        due.burials.is_some_and(|due| buried < due)
    }

    /// When those who wait to delete it are to ask again at the latest.
    pub(super) fn leavers_look_ms(&self, now_ms: u64) -> Option<u64> {
        (!self.leavers.is_empty()).then(|| now_ms + LETTERS_MS)
    }

    /// Those who wait to delete it ask again, as many as one hold of the lock allows; the others at the next look.
    pub(super) fn wake_leavers(&mut self, wakes: &mut Wakes) {
        let first = std::iter::from_fn(|| self.leavers.pop_first()).take(HOLD_STEPS as usize);
        let leavers: Vec<_> = first.map(|(_, leaver)| leaver).collect();
        wakes.count(u32::try_from(leavers.len()).unwrap_or(u32::MAX));
        wakes.owe_signals(leavers);
    }
}

impl Queue {
    /// Whether a queue that is to go with its last consumer does so only when its dead letters have gone.
    pub fn outlasts_its_use(self: &Arc<Self>, wakes: &mut Wakes) -> bool {
        let state = &mut *self.lock();
        state.ends_unused = state.has_letters(wakes.now_ms());
        if state.ends_unused {
            self.note_deadline(state, wakes);
        }
        state.ends_unused
    }

    /// Whether who deletes it is to wait for dead letters that are `due`; `leaver` is signalled then when to ask again.
    pub(in crate::broker) fn owes_letters(
        self: &Arc<Self>,
        due: &mut LettersDue,
        leaver: Option<&Arc<Outbox>>,
        wakes: &mut Wakes,
    ) -> bool {
        let state = &mut *self.lock();
        let owes = !self.is_deleted() && state.owes(due, wakes.now_ms());
        if owes && let Some(leaver) = leaver {
            state.leavers.insert(leaver.connection(), Arc::clone(leaver));
            self.note_deadline(state, wakes);
        }
        owes
    }
}
