//! One channel: its state, and which file answers which method.
//!
//! A channel knows its deliveries, its consumers' tags and what is being published; what it shares with its
//! siblings is in the [`Link`]. It never closes anything itself: it refuses, and the session decides.

mod assembly;
mod confirm;
mod consume;
mod content;
mod deliver;
pub mod discard;
mod publish;
pub mod recall;
pub mod returns;
mod settle;
mod topology;
mod trace;
mod tx;
pub mod unacked;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::assembly::Assembly;
pub use self::assembly::{Part, Piece};
use self::confirm::{Confirmation, Confirms};
use self::discard::Discard;
use self::publish::Plain;
use self::tx::Transaction;
use self::unacked::Unacked;
use crate::broker::consumer::Consumer;
use crate::broker::memory::Memory;
use crate::broker::presence::ChannelTally;
use crate::broker::queue::handle::Queue;
use crate::message::place::Lsn;
use crate::protocol::methods::{AccessRequestOk, BasicAck, BasicNack, ChannelFlow, ChannelFlowOk, Method};
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::stats::Charge;

/// A frame that breaks a content is refused in the name of the method that began it.
pub const PUBLISH_ID: (u16, u16) = (60, 40);

/// A channel that is open.
#[derive(Debug)]
pub struct Channel {
    number: u16,
    /// Its place among the channels of its user.
    _seat: Charge,
    /// What it has done, for those who watch it.
    tally: Arc<ChannelTally>,
    assembly: Assembly,
    plain: Plain,
    unacked: Unacked,
    next_tag: u64,
    /// By tag, in order: closing the channel does the same whenever it is played again.
    consumers: BTreeMap<Box<str>, Arc<Consumer>>,
    /// Prefetch of consumers started from now on; zero is no limit.
    prefetch: u16,
    /// All consumers share a prefetch, kept in the outbox.
    has_window: bool,
    /// The last queue declared, which an empty name stands for.
    last_queue: String,
    confirms: Option<Confirms>,
    transaction: Option<Transaction>,
    /// The address of the channel's reply consumer.
    reply_address: Option<String>,
}

impl Channel {
    /// A fresh channel, which counts there.
    pub fn new(number: u16, seat: Charge, tally: Arc<ChannelTally>) -> Self {
        Self {
            number,
            _seat: seat,
            tally,
            assembly: Assembly::default(),
            plain: Plain::default(),
            unacked: Unacked::default(),
            next_tag: 1,
            consumers: BTreeMap::new(),
            prefetch: 0,
            has_window: false,
            last_queue: String::new(),
            confirms: None,
            transaction: None,
            reply_address: None,
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Whether a publish waits for its header or body.
    pub fn awaits_content(&self) -> bool {
        self.assembly.is_awaiting()
    }

    /// Whether a method may come.
    ///
    /// # Errors
    /// It would be in the middle of a content.
    pub fn check_between_contents(&self) -> Result<(), Refusal> {
        self.assembly.check_method()
    }

    /// Whether acknowledgements wait for tx.commit.
    pub fn is_transactional(&self) -> bool {
        self.transaction.is_some()
    }

    /// A method of this channel.
    ///
    /// # Errors
    /// What the method is refused with; the session closes what the code says.
    pub fn on_method(&mut self, link: &mut Link, method: &Method<'_>) -> Result<(), Refusal> {
        self.check_between_contents()?;
        match method {
            Method::BasicPublish(publish) => self.on_publish(publish),
            Method::BasicAck(ack) => self.on_ack(link, ack.delivery_tag, ack.multiple),
            Method::BasicNack(nack) => self.on_nack(link, nack.delivery_tag, nack.multiple, nack.requeue),
            Method::BasicReject(reject) => self.on_nack(link, reject.delivery_tag, false, reject.requeue),
            Method::BasicRecover(recover) => self.on_recover(link, recover.requeue, true),
            Method::BasicRecoverAsync(recover) => self.on_recover(link, recover.requeue, false),
            Method::BasicQos(qos) => self.on_qos(link, qos),
            Method::BasicConsume(consume) => self.on_consume(link, consume),
            Method::BasicCancel(cancel) => self.on_cancel(link, cancel),
            Method::BasicGet(get) => self.on_get(link, get),
            Method::ConfirmSelect(select) => self.on_confirm_select(link, select.nowait),
            Method::TxSelect(_) => self.on_tx_select(link),
            Method::TxCommit(_) => self.on_tx_commit(link),
            Method::TxRollback(_) => self.on_tx_rollback(link),
            Method::ChannelFlow(flow) => self.on_flow(link, *flow),
            Method::AccessRequest(_) => {
                link.send(self.number, &Method::AccessRequestOk(AccessRequestOk { ticket: 1 }));
                Ok(())
            }
            other => self.on_topology(link, other),
        }
    }

    /// A part of a content.
    ///
    /// # Errors
    /// What the content is refused with.
    pub fn on_part(&mut self, link: &mut Link, part: Part<'_>) -> Result<(), Refusal> {
        let whole = match part {
            Part::Header(header) => {
                self.assembly.on_header(link, &header)?;
                None
            }
            Part::Body(piece) => self.assembly.on_body(link, piece)?,
        };
        self.publish_when_whole(link, whole)
    }

    /// What is still to come once the broker has closed the channel, which is dropped.
    pub fn discard(&self) -> Discard {
        self.assembly.discard()
    }

    /// Whether the next so many bytes of a body must wait until there is room for unfinished messages.
    pub fn keeps_waiting(&self, memory: &Memory, bytes: u64) -> bool {
        self.assembly.keeps_waiting(memory, bytes)
    }

    /// What is being published goes on, whether or not there is room.
    pub fn grant(&mut self, memory: &Memory) {
        self.assembly.grant(memory);
    }

    /// Everything published so far was handed over, the last fact of it at `lsn`.
    pub fn on_handed_over(&mut self, link: &mut Link, lsn: Lsn) {
        if let Some(confirms) = &mut self.confirms {
            confirms.hand_over(lsn);
            self.on_durable(link);
        }
    }

    /// A queue has refused a publish that is being handed over.
    pub fn on_refused(&mut self, publish: u64) {
        match &mut self.confirms {
            Some(confirms) => confirms.refuse(publish),
            None => self.transaction.iter_mut().for_each(|transaction| transaction.is_partial = true),
        }
    }

    /// Whether a queue has refused a message of the transaction that was just committed.
    pub fn take_partial(&mut self) -> bool {
        self.transaction.as_mut().is_some_and(|transaction| std::mem::take(&mut transaction.is_partial))
    }

    /// More of the log is durable: publishers are told.
    pub fn on_durable(&mut self, link: &mut Link) {
        let durable = link.node().log.durable();
        while let Some(Confirmation { tag, multiple, is_nack, count }) =
            self.confirms.as_mut().and_then(|confirms| confirms.take_next(durable))
        {
            self.tally.confirmed.bump(count);
            let answer = match is_nack {
                true => Method::BasicNack(BasicNack { delivery_tag: tag, multiple, requeue: false }),
                false => Method::BasicAck(BasicAck { delivery_tag: tag, multiple }),
            };
            link.send(self.number, &answer);
        }
    }

    /// The first position of the log that a confirm waits for.
    pub fn awaited(&self) -> Option<Lsn> {
        self.confirms.as_ref().and_then(Confirms::awaited)
    }

    /// The channel ends: an unfinished content is forgotten and consumers stop, as far as this turn goes. `true` when all
    /// have; queues that lost their last one by it, and go with that, are added to `unused`, and those where another one may
    /// be served, once what this one held is back, to `handed_on`.
    pub fn stop(
        &mut self,
        link: &mut Link,
        unused: &mut Vec<Arc<Queue>>,
        handed_on: &mut Vec<Arc<Queue>>,
    ) -> bool {
        self.assembly.abandon(link);
        self.close_reply_consumer(link);
        self.forget_publishes(link);
        while !link.wakes.is_turn_over()
            && let Some((_, consumer)) = self.consumers.pop_first()
        {
            link.wakes.count(1);
            unused.extend(Self::stop_consumer(&consumer, &mut link.wakes));
            let source = consumer.source.as_ref().filter(|source| source.queue.is_single_active());
            handed_on.extend(source.map(|source| Arc::clone(&source.queue)));
        }
        self.consumers.is_empty()
    }

    fn on_flow(&self, link: &mut Link, flow: ChannelFlow) -> Result<(), Refusal> {
        if !flow.active {
            return Err(Refusal::not_implemented("active=false"));
        }
        link.send(self.number, &Method::ChannelFlowOk(ChannelFlowOk { active: true }));
        Ok(())
    }

    fn take_tags(&mut self, count: u32) -> u64 {
        let first = self.next_tag;
        self.next_tag += u64::from(count);
        first
    }
}
