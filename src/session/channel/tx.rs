//! Transactions (class tx): publishes and acknowledgements that happen together or not at all.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::broker::node::Node;
use crate::broker::publish::Burst;
use crate::broker::wakes::HOLD_STEPS;
use crate::config::Limits;
use crate::protocol::methods::{Method, TxSelectOk};
use crate::session::channel::Channel;
use crate::session::channel::unacked::Delivered;
use crate::session::chore::{Chore, Verdict};
use crate::session::link::Link;
use crate::session::refuse::{NO_ROOM, Refusal};
use crate::session::unroutable::Returns;
use crate::stats::Charge;

/// What an acknowledgement takes.
const SETTLED_BYTES: u64 = size_of::<(Delivered, Verdict)>() as u64;

/// What a transaction has collected.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) burst: Burst,
    /// How many messages it has published, which is the number of the last one.
    published: u64,
    /// What its messages take in memory and in the log.
    bytes: u64,
    /// And those of them of which the log must know.
    logged_bytes: u64,
    pub(super) returns: Returns,
    settled: VecDeque<(Delivered, Verdict)>,
    /// How many messages that is.
    settled_count: u64,
    consumed: u64,
    /// What it takes, on the node's gauge.
    charge: Option<Charge>,
    /// A queue has refused a message of the one before, which is being committed.
    pub(super) is_partial: bool,
}

impl Transaction {
    /// One more message of so many bytes, if there is a place for it: a transaction goes to the log as a whole. Its number.
    pub(super) fn count_publish(&mut self, bytes: u64, limits: &Limits, node: &Node) -> Result<u64, Refusal> {
        self.check_count(1, limits.tx_messages_max)?;
        self.published += 1;
        self.bytes += bytes;
        let bytes_max = limits.tx_bytes_max;
        if self.bytes > bytes_max {
            return Err(Refusal::precondition(format!("transaction of more than {bytes_max} bytes")));
        }
        if node.memory.refuses_in_transaction(self.charge(bytes, node)) {
            return Err(Refusal::precondition("open transactions take too much memory"));
        }
        Ok(self.published)
    }

    /// So many bytes of what was published go to the log.
    pub(super) fn count_logged(&mut self, bytes: u64) {
        self.logged_bytes += bytes;
    }

    /// Whether there is a place for so many more messages, published or settled. Settling them is what gives memory back:
    /// only their count is limited.
    pub(super) fn check_count(&self, more: u32, messages_max: usize) -> Result<(), Refusal> {
        if self.published + self.settled_count + u64::from(more) > messages_max as u64 {
            return Err(Refusal::precondition(format!("transaction of more than {messages_max} messages")));
        }
        Ok(())
    }

    /// Counts what it takes more; what it takes now.
    fn charge(&mut self, bytes: u64, node: &Node) -> u64 {
        let charge = self.charge.get_or_insert_with(|| Charge::new(&node.memory.transactions, 0));
        charge.grow(bytes);
        charge.bytes()
    }

    pub(super) fn settle(&mut self, delivered: Delivered, verdict: Verdict, node: &Node) {
        self.charge(SETTLED_BYTES, node);
        self.settled_count += u64::from(delivered.count());
        self.consumed += delivered.consumed();
        self.settled.push_back((delivered, verdict));
    }

    /// How many messages it has settled that consumers were given.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    pub(super) fn take_first_settled(&mut self) -> Option<(Delivered, Verdict)> {
        let (delivered, verdict) = self.settled.pop_front()?;
        self.settled_count -= u64::from(delivered.count());
        self.consumed -= delivered.consumed();
        Some((delivered, verdict))
    }

    /// How many steps it takes to forget what it has published.
    pub(super) fn steps(&self) -> u32 {
        u32::try_from(self.published).unwrap_or(u32::MAX)
    }
}

impl Channel {
    pub(super) fn on_tx_select(&mut self, link: &mut Link) -> Result<(), Refusal> {
        if self.confirms.is_some() {
            return Err(Refusal::precondition("cannot switch from confirm to tx mode"));
        }
        self.transaction.get_or_insert_default();
        self.tally.is_transactional.store(true, Ordering::Relaxed);
        link.send(self.number, &Method::TxSelectOk(TxSelectOk {}));
        Ok(())
    }

    /// Publishes first, then acknowledgements, all in one hold of the log. The answer waits until it is durable.
    pub(super) fn on_tx_commit(&mut self, link: &mut Link) -> Result<(), Refusal> {
        let Some(transaction) = &self.transaction else { return Err(not_transactional()) };
        let bytes = transaction.logged_bytes;
        if !link.node().room.lets_hold(bytes) {
            return Err(Refusal::precondition(format!("transaction of {bytes} bytes: {NO_ROOM}")));
        }
        link.chores.push_back(Chore::Commit { channel: self.number });
        Ok(())
    }

    /// Collects what the transaction has settled, some at a time. When that is all, what it has published is to be handed
    /// over with it, and the messages that are to be returned come back.
    pub fn collect_commit(&mut self, link: &mut Link) -> Option<Returns> {
        let Some(mut transaction) = self.transaction.take() else { return Some(Returns::default()) };
        for _ in 0..HOLD_STEPS {
            let Some((delivered, verdict)) = transaction.take_first_settled() else {
                self.transaction = Some(Transaction::default());
                let lost = link.commit(self.number, &mut transaction.burst);
                link.wakes.count(u32::try_from(lost.len()).unwrap_or(u32::MAX));
                lost.into_iter().for_each(|lost| transaction.returns.add_lost(lost));
                return Some(transaction.returns);
            };
            self.settle_now(link, delivered, verdict);
        }
        self.transaction = Some(transaction);
        None
    }

    /// What an open transaction has published will not be.
    pub(super) fn forget_publishes(&mut self, link: &mut Link) {
        if let Some(transaction) = &mut self.transaction {
            // Once: a channel that ends comes here in each turn.
            link.wakes.count(transaction.steps());
            transaction.published = 0;
            transaction.logged_bytes = 0;
            transaction.burst = Burst::default();
            transaction.returns = Returns::default();
        }
    }

    /// Publishes are forgotten, acknowledgements taken back.
    pub(super) fn on_tx_rollback(&mut self, link: &mut Link) -> Result<(), Refusal> {
        if self.transaction.is_none() {
            return Err(not_transactional());
        }
        self.forget_publishes(link);
        link.chores.push_back(Chore::RollBack { channel: self.number });
        Ok(())
    }

    /// Takes back what the transaction has acknowledged, as far as this turn goes. `true` when that is all, and the next
    /// one has begun.
    pub fn take_back(&mut self, link: &mut Link) -> bool {
        let next = |channel: &mut Self| Some(channel.transaction.as_mut()?.take_first_settled()?.0);
        let is_done = self.for_each(link, next, |channel, link, delivered| {
            link.wakes.count(1);
            link.overdue.hold(delivered.holder.timeout().ms, link.now);
            channel.unacked.push(delivered);
        });
        if is_done {
            self.transaction = Some(Transaction::default());
        }
        is_done
    }
}

fn not_transactional() -> Refusal {
    Refusal::precondition("channel is not transactional")
}
