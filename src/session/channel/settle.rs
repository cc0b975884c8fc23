//! Acknowledgements: ack, nack, reject, recover.

use crate::broker::queue::settle::Back;
use crate::broker::wakes::HOLD_STEPS;
use crate::queue::lane::Piece;
use crate::session::channel::Channel;
use crate::session::channel::unacked::{Delivered, Held, Holder};
use crate::session::chore::{Chore, Verdict};
use crate::session::link::Link;
use crate::session::refuse::Refusal;

impl Channel {
    pub(super) fn on_ack(&mut self, link: &mut Link, tag: u64, multiple: bool) -> Result<(), Refusal> {
        self.on_settle(link, tag, multiple, Verdict::Done)
    }

    /// Acknowledgements of all these deliveries one by one, outside a transaction.
    ///
    /// # Errors
    /// As that of the first that is not outstanding; those before it are done.
    pub fn on_ack_row(&mut self, link: &mut Link, first: u64, last: u64) -> Result<(), Refusal> {
        let mut next = first;
        while next <= last {
            if self.unacked.was_taken_back(next) {
                next += 1;
                continue;
            }
            let delivered = self.unacked.take_row(next, last).ok_or_else(|| unknown_tag(next))?;
            next += u64::from(delivered.count());
            self.settle(link, delivered, Verdict::Done);
        }
        self.unacked.charge(&link.node().memory.unacked);
        Ok(())
    }

    pub(super) fn on_nack(
        &mut self,
        link: &mut Link,
        tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), Refusal> {
        self.on_settle(
            link,
            tag,
            multiple,
            if requeue { Verdict::Return(Back::Refused) } else { Verdict::Reject },
        )
    }

    fn on_settle(
        &mut self,
        link: &mut Link,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        let was_taken_back = self.unacked.was_taken_back(tag);
        if was_taken_back && !multiple {
            return Ok(());
        }
        if !multiple {
            if let Some(transaction) = &self.transaction {
                transaction.check_count(1, link.limits.tx_messages_max)?;
            }
            let one = self.unacked.take_row(tag, tag).ok_or_else(|| unknown_tag(tag))?;
            self.settle(link, one, verdict);
            self.unacked.charge(&link.node().memory.unacked);
            return Ok(());
        }
        if tag != 0 && !was_taken_back && !self.unacked.contains(tag) {
            return Err(unknown_tag(tag));
        }
        let through = if tag == 0 { u64::MAX } else { tag };
        if !self.settle_through(link, through, verdict)? {
            link.hold_back(true);
            link.chores.push_back(Chore::Settle { channel: self.number, through, verdict });
        }
        Ok(())
    }

    /// Settles every delivery up to and with this tag, as far as this turn goes. `true` when all are.
    ///
    /// # Errors
    /// A transaction has no place for the next ones, which are left where they are.
    pub fn settle_through(
        &mut self,
        link: &mut Link,
        through: u64,
        verdict: Verdict,
    ) -> Result<bool, Refusal> {
        let messages_max = link.limits.tx_messages_max;
        let mut refused = Ok(());
        let next = |channel: &mut Self| {
            if let Some(transaction) = &channel.transaction {
                let count = channel.unacked.count_first_through(through)?;
                refused = transaction.check_count(count, messages_max);
                refused.as_ref().ok()?;
            }
            channel.unacked.take_first_through(through)
        };
        let settle =
            |channel: &mut Self, link: &mut Link, delivered| channel.settle(link, delivered, verdict);
        let is_done = self.for_each(link, next, settle);
        refused.map(|()| is_done)
    }

    /// Does something with a hold's worth of deliveries; `true` when there are no more.
    pub(super) fn for_each(
        &mut self,
        link: &mut Link,
        mut next: impl FnMut(&mut Self) -> Option<Delivered>,
        mut settle: impl FnMut(&mut Self, &mut Link, Delivered),
    ) -> bool {
        let mut is_done = false;
        for _ in 0..HOLD_STEPS {
            let Some(delivered) = next(self) else {
                is_done = true;
                break;
            };
            settle(self, link, delivered);
        }
        self.unacked.charge(&link.node().memory.unacked);
        is_done
    }

    /// Settles at once, or, in a transaction, when it is committed.
    fn settle(&mut self, link: &mut Link, mut delivered: Delivered, verdict: Verdict) {
        match &mut self.transaction {
            Some(transaction) => {
                link.wakes.count(1);
                if link.node().memory.is_above_cache() {
                    link.outbox.held_bytes.sub(delivered.let_go());
                }
                transaction.settle(delivered, verdict, link.node());
            }
            None => self.settle_now(link, delivered, verdict),
        }
    }

    pub(super) fn settle_now(&self, link: &mut Link, delivered: Delivered, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Return(_) if link.moves_only => Verdict::Return(Back::Untouched),
            other => other,
        };
        let count = delivered.count();
        let told = if verdict == Verdict::Done { &self.tally.acked } else { &self.tally.refused };
        told.bump(u64::from(count));
        link.wakes.count(1);
        link.outbox.held_bytes.sub(delivered.held_bytes());
        if self.has_window && matches!(delivered.holder, Holder::Consumer(_)) {
            link.credit_window(self.number, count);
        }
        let Some(queue) = delivered.queue() else { return };
        link.has_returns |= matches!(verdict, Verdict::Return(_));
        let settlement = link.settlement(queue);
        if let Holder::Consumer(consumer) = &delivered.holder
            && let Some(source) = &consumer.source
        {
            settlement.credit(source.key, count);
        }
        match (verdict, delivered.held) {
            (Verdict::Done, held) => {
                settlement.acked(count);
                match held {
                    Held::Here(run) => settlement.settled(&run),
                    Held::Away(away) => settlement.settled_away(&away),
                }
            }
            (Verdict::Reject, Held::Here(run)) => settlement.rejected(run),
            (Verdict::Reject, Held::Away(away)) => settlement.rejected_away(away),
            (Verdict::Return(back), Held::Here(run)) => settlement.returned(Piece::Here(run), back),
            (Verdict::Return(back), Held::Away(away)) => settlement.returned(Piece::Away(away), back),
        }
    }

    pub(super) fn on_recover(&mut self, link: &mut Link, requeue: bool, reply: bool) -> Result<(), Refusal> {
        if !requeue {
            return Err(Refusal::not_implemented("requeue=false"));
        }
        link.chores.push_back(Chore::Recover { channel: self.number, reply });
        Ok(())
    }

    /// Everything not acknowledged goes back, as far as this turn goes; what a transaction has acknowledged stays with
    /// it. `true` when all has.
    pub fn return_unacked(&mut self, link: &mut Link) -> bool {
        self.return_all(link, Verdict::Return(Back::Refused), |channel| {
            channel.unacked.take_first_through(u64::MAX)
        })
    }

    /// As [`Channel::return_unacked`], for a channel that ends: what a transaction had acknowledged and did not commit
    /// goes back as well, at its place among the rest.
    pub fn return_held(&mut self, link: &mut Link) -> bool {
        let settled = |channel: &mut Self| Some(channel.transaction.as_mut()?.take_first_settled()?.0);
        let is_among_the_rest = self.for_each(link, settled, |channel, link, delivered| {
            link.wakes.count(1);
            channel.unacked.push(delivered);
        });
        is_among_the_rest
            && self.return_all(link, Verdict::Return(Back::Left), |channel| {
                channel.unacked.take_first_through(u64::MAX)
            })
    }

    fn return_all(
        &mut self,
        link: &mut Link,
        verdict: Verdict,
        next: impl Fn(&mut Self) -> Option<Delivered>,
    ) -> bool {
        self.for_each(link, next, |channel, link, delivered| channel.settle_now(link, delivered, verdict))
    }
}

fn unknown_tag(tag: u64) -> Refusal {
    Refusal::precondition(format!("unknown delivery tag {tag}"))
}
