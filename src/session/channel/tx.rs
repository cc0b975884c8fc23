//! Transactions (class tx): publishes and acknowledgements that happen together or not at all.

use std::collections::VecDeque;

use crate::broker::publish::Burst;
use crate::broker::wakes::HOLD_STEPS;
use crate::config::Limits;
use crate::protocol::methods::{Method, TxRollbackOk, TxSelectOk};
use crate::session::channel::Channel;
use crate::session::channel::returns::Unroutable;
use crate::session::channel::unacked::Delivered;
use crate::session::chore::{Chore, Verdict};
use crate::session::link::Link;
use crate::session::refuse::Refusal;

/// What a transaction has collected.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) burst: Burst,
    messages: usize,
    /// What its messages take in memory and in the log.
    bytes: u64,
    pub(super) unroutable: VecDeque<Unroutable>,
    settled: VecDeque<(Delivered, Verdict)>,
}

impl Transaction {
    /// One more publish or acknowledgement, if there is a place for it.
    pub(super) fn count(&mut self, limit: usize) -> Result<(), Refusal> {
        self.messages += 1;
        if self.messages > limit {
            return Err(Refusal::precondition(format!("transaction of more than {limit} messages")));
        }
        Ok(())
    }

    /// As [`Transaction::count`], for a message: a transaction goes to the log as a whole.
    pub(super) fn count_message(&mut self, bytes: u64, limits: &Limits) -> Result<(), Refusal> {
        self.count(limits.tx_messages_max)?;
        self.bytes += bytes;
        let limit = limits.tx_bytes_max;
        if self.bytes > limit {
            return Err(Refusal::precondition(format!("transaction of more than {limit} bytes")));
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, delivered: Delivered, verdict: Verdict) {
        self.settled.push_back((delivered, verdict));
    }

    /// How many messages it has settled that consumers were given.
    pub(super) fn consumed(&self) -> u64 {
        self.settled.iter().map(|(delivered, _)| delivered.consumed()).sum()
    }

    pub(super) fn take_first_settled(&mut self) -> Option<Delivered> {
        self.settled.pop_front().map(|(delivered, _)| delivered)
    }
}

impl Channel {
    pub(super) fn on_tx_select(&mut self, link: &mut Link) -> Result<(), Refusal> {
        if self.confirms.is_some() {
            return Err(Refusal::precondition("cannot switch from confirm to tx mode"));
        }
        self.transaction.get_or_insert_default();
        link.send(self.number, &Method::TxSelectOk(TxSelectOk {}));
        Ok(())
    }

    /// Publishes first, then acknowledgements, all in one hold of the log. The answer waits until it is durable.
    pub(super) fn on_tx_commit(&mut self, link: &mut Link) -> Result<(), Refusal> {
        if self.transaction.is_none() {
            return Err(not_transactional());
        }
        link.chores.push_back(Chore::Commit { channel: self.number });
        Ok(())
    }

    /// Collects what the transaction has settled, some at a time. When that is all, what it has published is to be handed
    /// over with it, and the messages that are to be returned come back.
    pub fn collect_commit(&mut self, link: &mut Link) -> Option<VecDeque<Unroutable>> {
        let Some(mut transaction) = self.transaction.take() else { return Some(VecDeque::new()) };
        for _ in 0..HOLD_STEPS {
            let Some((delivered, verdict)) = transaction.settled.pop_front() else {
                self.transaction = Some(Transaction::default());
                let lost = link.commit(&mut transaction.burst);
                transaction.unroutable.extend(lost.into_iter().map(Unroutable::NoLonger));
                return Some(transaction.unroutable);
            };
            self.settle_now(link, delivered, verdict);
        }
        self.transaction = Some(transaction);
        None
    }

    /// Publishes are forgotten, acknowledgements taken back.
    pub(super) fn on_tx_rollback(&mut self, link: &mut Link) -> Result<(), Refusal> {
        let transaction = self.transaction.as_mut().ok_or_else(not_transactional)?;
        link.wakes.count(u32::try_from(transaction.settled.len()).unwrap_or(u32::MAX));
        for (delivered, _) in std::mem::take(transaction).settled {
            self.unacked.push(delivered);
        }
        link.send(self.number, &Method::TxRollbackOk(TxRollbackOk {}));
        Ok(())
    }
}

fn not_transactional() -> Refusal {
    Refusal::precondition("channel is not transactional")
}
