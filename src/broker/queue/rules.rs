//! What a queue's settings make of messages that nobody took: those that are too old, and those that are too many.
//!
//! They leave the ready ones under the queue's lock and are either gone, which the log hears at once, or wait to be
//! dead-lettered ([`crate::broker::dead_letters`]). A hold of the lock lets so many go and no more; the queue is asked to
//! go on then.

use std::sync::Arc;

use crate::broker::queue::handle::{Queue, State};
use crate::broker::queue::letters::LETTERS_MS;
use crate::broker::queue::settle::Back;
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::message::fact::Fact;
use crate::message::place::{Lsn, Seq};
use crate::message::run::Run;
use crate::queue::classic::Head;
use crate::queue::dying::Reason;
use crate::queue::expiry;
use crate::queue::lane::{Gone, Piece};
use crate::queue::settings::{Overflow, Settings};

/// A queue that waits for its dead letters before it goes looks again less and less often.
const LETTERS_MS_MAX: u64 = 5000;
/// It waits no longer, for there may always be new ones.
const LETTERS_WAIT_MS: u64 = 10 * 60 * 1000;
/// With more dead letters in memory, in bytes, nothing more is read for them.
const DYING_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// There is no place for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) struct Refused {
    /// It is to be dead-lettered.
    pub(in crate::broker) is_buried: bool,
}

impl State {
    /// Whether somebody is about to take what is at the head.
    pub(in crate::broker) fn is_head_awaited(&self) -> bool {
        !self.getters.is_empty() || !self.called.is_empty() || self.classic.consumers.has_ready()
    }

    /// Whether what is at the head is wanted in memory: by who takes it, or because it may have had its time. Not while
    /// much that was read is still to be dead-lettered: a backlog that has expired would all be in memory.
    pub(in crate::broker) fn wants_head(&self, now_ms: u64) -> bool {
        let may_be_over = self.settings.message_ttl_ms.is_some() && now_ms >= self.fresh_until_ms;
        let is_wanted = self.is_head_awaited() || may_be_over;
        // Those that cannot go hold up nobody but each other.
        let is_much = self.classic.dying_here_bytes() > DYING_BYTES_MAX && !self.classic.is_dying_blocked();
        is_wanted && !is_much
    }

    /// What is at the head goes then by the queue's time to live. When it has left memory that is still known, and it is
    /// not read back before. With priorities others come in front of it.
    fn remember_ttl(&mut self, by_ttl: Option<u64>, now_ms: u64) -> Option<u64> {
        if self.settings.priority_max.is_some() || self.classic.ready_messages() == 0 {
            return by_ttl;
        }
        if let Some(time) = by_ttl {
            self.fresh_until_ms = time;
        }
        by_ttl.or(Some(self.fresh_until_ms).filter(|time| *time > now_ms))
    }

    /// Whether consumers are ready for what is at the head and the log is not: it is theirs, then, and does not wait.
    fn is_on_its_way(&self) -> bool {
        self.classic.consumers.has_ready() && self.classic.head() == Head::NotDurable
    }

    /// Looks whether what is at the head is on its way now, where messages may have their time.
    #[inline]
    pub(super) fn keep_promise(&mut self, may_expire: bool, now_ms: u64) {
        let is_promised = may_expire && self.is_on_its_way();
        self.promised_ms = is_promised.then(|| self.promised_ms.unwrap_or(now_ms));
    }
}

/// Why the first of these messages, which had their time, go, and how many of them for the same reason. What is too much
/// by itself, and expires as it comes, has been dropped before it could.
fn reason_of_overdue(settings: &Settings, front: &Run, overdue: u32) -> (Reason, u32) {
    let may_be_too_much = settings.length_max == Some(0) || settings.bytes_max.is_some();
    if !may_be_too_much || settings.overflow != Overflow::DropHead {
        return (Reason::Expired, overdue);
    }
    let first = front.messages().take(overdue as usize);
    let mut are_too_much = first.map(|message| settings.is_exceeded_by(1, message.body.len() as u64));
    let is_too_much = are_too_much.next().unwrap_or(false);
    let reason = if is_too_much { Reason::MaxLen } else { Reason::Expired };
    (reason, 1 + are_too_much.take_while(|other| *other == is_too_much).count() as u32)
}

impl Queue {
    /// Lets go of ready messages that had their time and of those that are too many, after what can be delivered was.
    /// Whether there is more to do; `goes_on` says that there is anyway.
    pub(super) fn keep_rules(self: &Arc<Self>, state: &mut State, goes_on: bool, wakes: &mut Wakes) -> bool {
        let mut gone = Vec::new();
        let mut steps = HOLD_STEPS;
        if state.promised_ms.is_none() {
            while let Some(piece) = state.classic.take_expired(wakes.now_ms(), &mut steps) {
                let reason = match &piece {
                    Piece::Here(run) => reason_of_overdue(&state.settings, run, 1).0,
                    Piece::Away(_) => Reason::Expired,
                };
                self.part_with(state, piece, reason, &mut gone, wakes);
            }
            while steps > 0
                && let taken @ 1.. = self.take_overdue(state, steps, &mut gone, wakes)
            {
                steps -= taken;
            }
            if state.settings.priority_max.is_some() {
                self.take_overdue_behind(state, &mut steps, &mut gone, wakes);
            }
            // Who refuses the newest keeps the others, also when what somebody held makes them too many.
            if !goes_on && state.settings.overflow == Overflow::DropHead {
                self.shorten(state, &mut steps, &mut gone, wakes);
            }
        }
        self.log_gone(&gone);
        wakes.count(HOLD_STEPS - steps);
        self.note_deadline(state, wakes);
        steps == 0
    }

    /// What came back may be too much: as in RabbitMQ the first ones of a classic queue make room before anybody is served.
    pub(super) fn make_room(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        if !state.has_rules || state.settings.overflow != Overflow::DropHead || self.counts_returns() {
            return;
        }
        let (mut gone, mut steps) = (Vec::new(), HOLD_STEPS);
        self.shorten(state, &mut steps, &mut gone, wakes);
        self.log_gone(&gone);
        wakes.count(HOLD_STEPS - steps);
    }

    /// Whether the message at the head may not be delivered any more.
    pub(super) fn is_front_overdue(&self, state: &State, wakes: &Wakes) -> bool {
        let Some(front) = state.classic.front() else { return false };
        let may_expire = state.has_rules || front.expires();
        may_expire && expiry::fresh(front, 1, state.settings.message_ttl_ms, wakes.now_ms()) == 0
    }

    /// What is at the head is known to have had its time: `true`, for there may be more behind it.
    pub(super) fn drop_overdue(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) -> bool {
        let mut gone = Vec::new();
        let taken = self.take_overdue(state, HOLD_STEPS, &mut gone, wakes);
        wakes.count(taken);
        self.log_gone(&gone);
        true
    }

    /// Takes messages that had their time off the front run, if it has such, and at most so many; how many.
    fn take_overdue(
        self: &Arc<Self>,
        state: &mut State,
        most: u32,
        gone: &mut Vec<Gone>,
        wakes: &mut Wakes,
    ) -> u32 {
        let Some(front) = state.classic.front() else { return 0 };
        let most = most.min(front.count());
        let overdue = expiry::overdue(front, most, state.settings.message_ttl_ms, wakes.now_ms());
        if overdue == 0 {
            return 0;
        }
        let (reason, alike) = reason_of_overdue(&state.settings, front, overdue);
        let Some(piece) = state.classic.take_head(alike) else { return 0 };
        self.part_with(state, piece, reason, gone, wakes);
        alike
    }

    /// Takes those that had their time though others of a higher priority go before them and did not.
    fn take_overdue_behind(
        self: &Arc<Self>,
        state: &mut State,
        steps: &mut u32,
        gone: &mut Vec<Gone>,
        wakes: &mut Wakes,
    ) {
        let ttl_ms = state.settings.message_ttl_ms;
        while *steps > 0 {
            let is_overdue = |run: &&Run| expiry::overdue(run, 1, ttl_ms, wakes.now_ms()) > 0;
            let Some(front) = state.classic.fronts().find(is_overdue) else { break };
            let (seq, (reason, _)) = (front.first_seq(), reason_of_overdue(&state.settings, front, 1));
            let Some(piece) = state.classic.take_out(seq) else { break };
            *steps -= 1;
            self.part_with(state, piece, reason, gone, wakes);
        }
    }

    /// Drops the first ones until what is ready is within its limits.
    fn shorten(
        self: &Arc<Self>,
        state: &mut State,
        steps: &mut u32,
        gone: &mut Vec<Gone>,
        wakes: &mut Wakes,
    ) {
        while *steps > 0 {
            let (messages, bytes) = (state.classic.ready_messages(), state.classic.ready_bytes());
            if !state.settings.is_exceeded_by(messages, bytes) {
                break;
            }
            let too_many = state.settings.length_max.map_or(0, |max| messages.saturating_sub(max));
            // By their bytes they go one by one: it is not known how large the first ones are.
            let count = u32::try_from(too_many.max(1)).unwrap_or(u32::MAX).min(*steps);
            let Some(piece) = state.classic.take_head(count) else { break };
            *steps -= u32::try_from(piece.count()).unwrap_or(u32::MAX).min(*steps);
            self.part_with(state, piece, Reason::MaxLen, gone, wakes);
        }
    }

    /// Nobody is to have these messages: they are dead-lettered, or gone.
    fn part_with(
        self: &Arc<Self>,
        state: &mut State,
        piece: Piece,
        reason: Reason,
        gone: &mut Vec<Gone>,
        wakes: &mut Wakes,
    ) {
        self.node.dead.count(&state.settings, reason, piece.count());
        if state.settings.buries() {
            let reason = if state.settings.delays { Reason::Delayed } else { reason };
            state.classic.doom(reason, piece);
            self.ask_for_burial(state, wakes);
        } else {
            state.classic.drop_piece(&piece, gone);
        }
    }

    /// Dead letters wait: whoever takes them on is to know.
    pub(in crate::broker) fn ask_for_burial(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        if !std::mem::replace(&mut state.is_burying, true) {
            self.node.dead_letters.ask(self, wakes);
        }
    }

    /// Tells the log what is gone. That is after it was taken out, and nobody can tell: a checkpoint captures under the
    /// queue's lock, which is held until the fact has its position. Up to where the log is to be durable before it may be
    /// told.
    pub(super) fn log_gone(&self, gone: &[Gone]) -> Lsn {
        let logged = gone.iter().filter(|gone| self.logs(gone.persistent));
        let ranges: Vec<_> = logged.map(|gone| (gone.first, gone.end)).collect();
        if ranges.is_empty() {
            return Lsn::default();
        }
        self.node.log.append_one(&Fact::Settled { queue: self.id, ranges: &ranges }).0.end
    }

    /// Messages that were taken come back, unless they did so too often.
    pub(super) fn take_back(&self, state: &mut State, piece: Piece, back: Back) {
        if self.counts_returns() && back != Back::Untouched {
            let counted = piece.counted();
            let is_over = |limit| u64::from(counted.returns) > limit;
            if state.settings.delivery_limit.is_some_and(is_over) {
                return self.give_up(state, piece);
            }
            state.classic.ledger.note_returns(counted);
            if let Piece::Here(run) = piece {
                // As in RabbitMQ: first where a limit ends it or nobody refused them, and otherwise last of those that
                // are there.
                let is_first = back == Back::Left || state.settings.delivery_limit.is_some();
                let before = if is_first { Seq(0) } else { self.peek_seq() };
                return state.classic.give_back_before(Some(before), run);
            }
        }
        match piece {
            Piece::Here(run) => state.classic.give_back(run),
            Piece::Away(away) => {
                state.classic.give_back_away(away);
                // It may be at the head now, and older than what was there.
                state.fresh_until_ms = 0;
            }
        }
    }

    /// Messages that were taken have come back too often.
    fn give_up(&self, state: &mut State, piece: Piece) {
        self.node.dead.count(&state.settings, Reason::DeliveryLimit, piece.count());
        if state.settings.dead_letter.is_some() {
            return state.classic.doom_taken(Reason::DeliveryLimit, piece);
        }
        let mut gone = Vec::new();
        state.classic.drop_taken(&piece, &mut gone);
        self.log_gone(&gone);
    }

    /// Keeps a place for a message, if there is one, also beside those that others were given: asked before anything is
    /// appended to the log, and followed by an enqueue. A deleted queue drops what comes, and refuses nothing.
    pub(in crate::broker) fn reserve(&self, run: &Run) -> Result<(), Refused> {
        let state = &mut *self.lock();
        let (count, bytes) = (u64::from(run.count()), run.body_bytes());
        // What a consumer waits for does not wait itself: it has come and gone before the next one.
        let credit = u64::from(state.classic.consumers.next_credit());
        // Those that must not be lost, and have not gone, are there still.
        let (dying, dying_bytes) = match state.settings.keeps_dead_letters {
            true => (state.classic.dying_messages(), state.classic.dying_bytes()),
            false => (0, 0),
        };
        let before = state.classic.ready_messages() + state.reserved.messages + dying;
        let messages = before.saturating_sub(credit) + count;
        let bytes_before = state.classic.ready_bytes() + state.reserved.bytes + dying_bytes;
        let all_bytes = if before <= credit { bytes } else { bytes_before + bytes };
        if state.settings.rejects()
            && state.settings.is_exceeded_by(messages, all_bytes)
            && !self.is_deleted()
        {
            let is_buried = state.settings.overflow == Overflow::RejectPublishDeadLetter;
            return Err(Refused { is_buried: is_buried && state.settings.dead_letter.is_some() });
        }
        state.reserved.messages += count;
        state.reserved.bytes += bytes;
        Ok(())
    }

    /// The message that a place was kept for does not come.
    pub(in crate::broker) fn give_up_place(&self, run: &Run) {
        self.lock().reserved.release(run);
    }

    /// When to look again: earlier than was noted, perhaps. A later time is noted when the earlier one has come.
    pub(in crate::broker) fn note_deadline(self: &Arc<Self>, state: &mut State, wakes: &mut Wakes) {
        let by_ttl = match state.settings.message_ttl_ms {
            Some(ttl_ms) if state.promised_ms.is_none() => {
                let fronts = if state.settings.priority_max.is_some() { usize::MAX } else { 1 };
                state.classic.fronts().take(fronts).map(|front| expiry::time_of(front, ttl_ms)).min()
            }
            _ => None,
        };
        let by_ttl = state.remember_ttl(by_ttl, wakes.now_ms());
        let by_lease = state.lease_end_ms().map(|end_ms| match end_ms <= wakes.now_ms() {
            true if state.has_letters(wakes.now_ms()) => {
                wakes.now_ms() + (wakes.now_ms() - end_ms).clamp(LETTERS_MS, LETTERS_MS_MAX)
            }
            _ => end_ms,
        });
        let by_queue = [by_ttl, by_lease, state.retry_ms, state.leavers_look_ms(wakes.now_ms())];
        let by_own = state.classic.next_expiry().filter(|_| state.promised_ms.is_none());
        let next = by_queue.into_iter().chain([by_own]).flatten().min();
        if let Some(next) = next
            && state.deadline.is_none_or(|noted| next < noted)
        {
            self.node.deadlines.note(self, state.deadline.replace(next), next, wakes);
        }
    }

    /// It was found on the disk, where messages may have had their time: it is looked at as soon as time is told.
    pub(in crate::broker) fn look_soon(self: &Arc<Self>) {
        let state = &mut *self.lock();
        if state.settings.buries() {
            state.classic.look_through();
        }
        self.give_up_restored(state);
        let is_awaited = state.has_rules && state.classic.ready_messages() > 0;
        if state.settings.expires_ms.is_some() || is_awaited || state.classic.has_unseen() {
            self.node.deadlines.note(self, state.deadline.replace(0), 0, &mut Wakes::default());
        }
    }

    /// What had come back too often when the process ended has done so still: nobody is to have it.
    fn give_up_restored(self: &Arc<Self>, state: &mut State) {
        let Some(limit) = state.settings.delivery_limit else { return };
        let ledger = &state.classic.ledger;
        let over = ledger.returns_in(Seq(0), Seq(u64::MAX)).filter(|range| u64::from(range.returns) > limit);
        let over: Vec<_> = over.flat_map(|range| ledger.live_ranges(range.first, range.end)).collect();
        let mut gone = Vec::new();
        for seq in over.into_iter().flat_map(|(first, end)| first.0..end.0) {
            if let Some(piece) = state.classic.take_out(Seq(seq)) {
                self.part_with(state, piece, Reason::DeliveryLimit, &mut gone, &mut Wakes::default());
            }
        }
        self.log_gone(&gone);
    }

    /// The time that was noted has come. Whether the queue has been unused for as long as it may.
    pub(in crate::broker) fn on_deadline(self: &Arc<Self>, wakes: &mut Wakes) -> bool {
        let state = &mut *self.lock();
        if self.is_deleted() {
            return false;
        }
        state.deadline = None;
        if state.used_ms == 0 {
            state.used_ms = wakes.now_ms();
        }
        if state.retry_ms.is_some_and(|retry_ms| retry_ms <= wakes.now_ms()) {
            state.retry_ms = None;
            state.classic.retry_kept();
            self.ask_for_burial(state, wakes);
        }
        state.wake_leavers(wakes);
        self.dispatch(state, wakes);
        self.note_deadline(state, wakes);
        state.is_lease_over(wakes.now_ms())
    }

    /// It was declared, again perhaps: its time to be unused begins anew.
    pub fn renew_lease(self: &Arc<Self>, wakes: &mut Wakes) {
        if self.is_leased() {
            let state = &mut *self.lock();
            state.used_ms = wakes.now_ms();
            self.note_deadline(state, wakes);
        }
    }

    /// Whether it has been unused for as long as it may.
    pub(in crate::broker) fn has_expired(&self, now_ms: u64) -> bool {
        self.lock().is_lease_over(now_ms)
    }
}

impl State {
    /// When it will have been unused for as long as it may, if nobody uses it.
    fn lease_end_ms(&self) -> Option<u64> {
        let expires_ms = if self.ends_unused { Some(0) } else { self.settings.expires_ms };
        let end_ms = expires_ms.map(|expires_ms| self.used_ms.saturating_add(expires_ms));
        end_ms.filter(|_| self.classic.consumers.is_empty())
    }

    fn is_lease_over(&self, now_ms: u64) -> bool {
        let Some(over_ms) = self.lease_end_ms().and_then(|end_ms| now_ms.checked_sub(end_ms)) else {
            return false;
        };
        over_ms > LETTERS_WAIT_MS || !self.has_letters(now_ms)
    }
}
