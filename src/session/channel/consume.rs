//! The receiving side: qos, consume, cancel, get.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::permissions::Access;
use crate::broker::arguments;
use crate::broker::consumer::{Consumer, Timeout};
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::names;
use crate::broker::outbox::Item;
use crate::broker::presence::Subscribed;
use crate::broker::queue::dispatch::Taken;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::lifecycle::Subscription;
use crate::broker::reply_to::REPLY_TO;
use crate::broker::wakes::Wakes;
use crate::message::record::MessageView;
use crate::protocol::methods::{
    BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicGetOk, BasicQos,
    BasicQosOk, ConfirmSelectOk, Method,
};
use crate::protocol::reply::ReplyCode;
use crate::queue::consumers::Terms;
use crate::queue::settings::QueueKind;
use crate::session::channel::Channel;
use crate::session::channel::content::Shown;
use crate::session::channel::trace;
use crate::session::channel::tx::Transaction;
use crate::session::channel::unacked::{Delivered, Held, Holder};
use crate::session::chore::Chore;
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::session::waiting::{Asked, Waiting};

impl Channel {
    pub(super) fn on_confirm_select(&mut self, link: &mut Link, nowait: bool) -> Result<(), Refusal> {
        if self.transaction.is_some() {
            return Err(Refusal::precondition("cannot switch from tx to confirm mode"));
        }
        self.confirms.get_or_insert_default();
        self.tally.confirms.store(true, Ordering::Relaxed);
        if !nowait {
            link.send(self.number, &Method::ConfirmSelectOk(ConfirmSelectOk {}));
        }
        Ok(())
    }

    /// Without `global`: the prefetch of consumers started from now on, and no shared one. With it: one prefetch
    /// for all consumers of the channel.
    pub(super) fn on_qos(&mut self, link: &mut Link, qos: &BasicQos) -> Result<(), Refusal> {
        if qos.prefetch_size != 0 {
            return Err(Refusal::not_implemented(format!("prefetch_size!=0 ({})", qos.prefetch_size)));
        }
        let count = qos.prefetch_count;
        self.has_window = qos.global && count > 0;
        let shown = if qos.global { &self.tally.shared_prefetch } else { &self.tally.prefetch };
        shown.set(u64::from(count));
        if !qos.global {
            self.prefetch = count;
        }
        if self.has_window {
            // What a transaction has settled is held until it commits.
            let in_transaction = self.transaction.as_ref().map_or(0, Transaction::consumed);
            let held = self.unacked.consumed() + in_transaction;
            let used = u32::try_from(held).unwrap_or(u32::MAX);
            let used = used.saturating_add(link.count_arriving(self.number));
            let is_awaited = link.outbox.open_window(self.number, u32::from(count), used);
            link.resume_window(self.number, is_awaited);
        } else {
            let is_awaited = link.outbox.close_window(self.number);
            link.resume_room(is_awaited);
        }
        link.send(self.number, &Method::BasicQosOk(BasicQosOk {}));
        Ok(())
    }

    pub(super) fn on_consume(&mut self, link: &mut Link, consume: &BasicConsume<'_>) -> Result<(), Refusal> {
        if consume.queue == REPLY_TO {
            return self.on_consume_replies(link, consume);
        }
        if self.consumers.contains_key(consume.consumer_tag) {
            return Err(BrokerError::TagInUse(consume.consumer_tag.to_owned()).into());
        }
        let queue_name = self.queue_or_last(consume.queue)?;
        link.vhost.check_access(&link.actor, Access::Read, ResourceKind::Queue, &queue_name)?;
        self.check_consumer_count(link)?;
        let queue = link.vhost.find_queue(&queue_name, &link.actor)?;
        if queue.kind == QueueKind::Quorum && self.has_window {
            return Err(Refusal::not_implemented(format!(
                "{} does not support global qos",
                queue.resource()
            )));
        }
        let priority = arguments::consumer_priority(consume.arguments, &queue.resource(), queue.kind)?;
        let timeout_ms = arguments::consumer_timeout(consume.arguments, &queue.resource())?;
        let overdue_action = arguments::consumer_overdue_action(consume.arguments, &queue.resource())?;
        let tag = self.tag_or_new(consume.consumer_tag);
        let prefetch = (self.prefetch > 0 && !consume.no_ack).then(|| u32::from(self.prefetch));
        let consumer = queue.subscribe(Subscription {
            tag: tag.clone(),
            channel: self.number,
            no_ack: consume.no_ack,
            timeout_ms,
            overdue_action,
            terms: Terms { priority, prefetch, exclusive: consume.exclusive },
            outbox: Arc::clone(&link.outbox),
        })?;
        self.tally.subscribed(&tag, subscribed(&consumer, consume, prefetch));
        self.consumers.insert(tag.clone(), consumer);
        if !consume.nowait {
            link.send(self.number, &Method::BasicConsumeOk(BasicConsumeOk { consumer_tag: &tag }));
        }
        queue.go_on(&mut link.wakes);
        Ok(())
    }

    fn on_consume_replies(&mut self, link: &mut Link, consume: &BasicConsume<'_>) -> Result<(), Refusal> {
        if !consume.no_ack {
            return Err(Refusal::precondition("reply consumer cannot acknowledge"));
        }
        if self.reply_address.is_some() {
            return Err(Refusal::precondition("reply consumer already set"));
        }
        if self.consumers.contains_key(consume.consumer_tag) {
            return Err(BrokerError::TagInUse(consume.consumer_tag.to_owned()).into());
        }
        let tag = self.tag_or_new(consume.consumer_tag);
        let (outbox, memory) = (Arc::clone(&link.outbox), &link.node().memory);
        let consumer = Consumer::new(tag.clone(), self.number, true, outbox, None, Timeout::NEVER, memory);
        let consumer = Arc::new(consumer);
        self.reply_address = Some(link.broker.replies.register(Arc::clone(&consumer)));
        self.tally.subscribed(&tag, subscribed(&consumer, consume, None));
        self.consumers.insert(tag.clone(), consumer);
        if !consume.nowait {
            link.send(self.number, &Method::BasicConsumeOk(BasicConsumeOk { consumer_tag: &tag }));
        }
        Ok(())
    }

    /// Stops the consumer, sends what was already taken for it, then says so: no delivery follows.
    pub(super) fn on_cancel(&mut self, link: &mut Link, cancel: &BasicCancel<'_>) -> Result<(), Refusal> {
        let cancelled = self.consumers.remove(cancel.consumer_tag);
        self.tally.unsubscribed(cancel.consumer_tag);
        let unused = match &cancelled {
            Some(consumer) if consumer.source.is_none() => {
                self.close_reply_consumer(link);
                None
            }
            Some(consumer) => {
                let unused = Self::stop_consumer(consumer, &mut link.wakes);
                let source = consumer.source.as_ref().filter(|source| source.queue.is_single_active());
                source.into_iter().for_each(|source| source.queue.go_on(&mut link.wakes));
                unused
            }
            None => None,
        };
        self.deliver_waiting(link);
        if !cancel.nowait {
            let ok = BasicCancelOk { consumer_tag: cancel.consumer_tag };
            link.send(self.number, &Method::BasicCancelOk(ok));
        }
        if let Some(queue) = unused {
            link.delete_unused(&queue);
        }
        Ok(())
    }

    /// Answers with the queue's head. While that is not durable the connection waits, and takes nothing else.
    pub fn on_get(&mut self, link: &mut Link, get: &BasicGet<'_>) -> Result<(), Refusal> {
        let queue_name = self.queue_or_last(get.queue)?;
        link.vhost.check_access(&link.actor, Access::Read, ResourceKind::Queue, &queue_name)?;
        let queue = link.vhost.find_queue(&queue_name, &link.actor)?;
        if queue.kind == QueueKind::Quorum && queue.is_single_active() {
            return Err(BrokerError::SingleActive(queue.resource()).into());
        }
        let (run, remaining) = match queue.take_one(&link.outbox, get.no_ack, &mut link.wakes) {
            Taken::Message(run, remaining) => (run, remaining),
            Taken::Empty => {
                self.tally.got_empty.bump(1);
                link.send(self.number, &Method::BasicGetEmpty(BasicGetEmpty {}));
                return Ok(());
            }
            Taken::NotYet => {
                let (channel, no_ack) = (self.number, get.no_ack);
                let asked = Asked::Get { queue: queue_name, no_ack };
                link.waiting = Some(Waiting { channel, noted_at: queue, asked });
                return Ok(());
            }
        };
        let got = if get.no_ack { &self.tally.got_no_ack } else { &self.tally.got };
        got.bump(1);
        self.tally.redelivered.bump(u64::from(run.is_redelivered()));
        let tag = self.take_tags(1);
        let shown = Shown { is_blind: run.is_blind(), delivery_count: queue.delivery_count(&run) };
        for message in run.messages() {
            let ok = BasicGetOk {
                delivery_tag: tag,
                redelivered: run.is_redelivered(),
                exchange: message.names.exchange(),
                routing_key: message.names.routing_key(),
                message_count: u32::try_from(remaining).unwrap_or(u32::MAX),
            };
            link.send(self.number, &Method::BasicGetOk(ok));
            let properties = &*shown.properties(message.properties);
            link.send_content(self.number, &MessageView { properties, ..message });
        }
        if link.vhost.is_traced() {
            trace::delivered(link, self.number, &queue, &run, shown);
        }
        if get.no_ack {
            link.settlement(&queue).settled(&run);
            return Ok(());
        }
        let since_ms = link.now.steady_ms;
        self.hold(
            link,
            Delivered { first_tag: tag, held: Held::Here(run), holder: Holder::Get(queue), since_ms },
        );
        Ok(())
    }

    /// Takes a consumer away from its queue, which is returned if it goes with its last consumer.
    pub(super) fn stop_consumer(consumer: &Consumer, wakes: &mut Wakes) -> Option<Arc<Queue>> {
        let source = consumer.source.as_ref()?;
        let is_unused = source.queue.unsubscribe(source.key, wakes);
        consumer.outbox.leave_line(consumer);
        is_unused.then(|| Arc::clone(&source.queue))
    }

    pub(super) fn close_reply_consumer(&mut self, link: &Link) {
        if let Some(address) = self.reply_address.take() {
            link.broker.replies.unregister(&address);
        }
    }

    /// The broker ended a consumer of this channel.
    pub fn on_cancelled(&mut self, link: &mut Link, consumer: &Consumer) {
        link.outbox.leave_line(consumer);
        // The client may have cancelled it, and given its tag to another one, before it heard of this.
        if !self.has_consumer(consumer) {
            return;
        }
        self.consumers.remove(&consumer.tag);
        self.tally.unsubscribed(&consumer.tag);
        if link.notify_cancel {
            let cancel = BasicCancel { consumer_tag: &consumer.tag, nowait: true };
            link.send(self.number, &Method::BasicCancel(cancel));
        }
    }

    /// A consumer holds a message for too long: it ends, and what is on its way to it goes back. What it holds is taken back
    /// next.
    pub(super) fn cancel_overdue(&mut self, link: &mut Link, consumer: &Arc<Consumer>) {
        // Nobody is served before all is back.
        link.hold_back(true);
        let unused = Self::stop_consumer(consumer, &mut link.wakes);
        self.on_cancelled(link, consumer);
        for item in link.withdraw(self.number) {
            match item {
                Item::Delivery { consumer: other, run } if !Arc::ptr_eq(&other, consumer) => {
                    self.deliver(link, other, run);
                }
                Item::Cancelled(other) => self.on_cancelled(link, &other),
                own @ Item::Delivery { .. } => link.give_back(own),
            }
        }
        let (channel, consumer) = (self.number, Arc::clone(consumer));
        link.chores.push_back(Chore::TakeBack { channel, consumer, from: 0 });
        if let Some(queue) = unused {
            link.delete_unused(&queue);
        }
    }

    fn check_consumer_count(&self, link: &Link) -> Result<(), Refusal> {
        let limit = link.limits.consumers_per_channel_max;
        if self.consumers.len() as u64 >= limit as u64 {
            return Err(BrokerError::TooManyConsumers(limit as u32).into());
        }
        if link.node().memory.refuses_consumers() {
            let text = "the node has as many consumers as it has memory for";
            return Err(Refusal::new(ReplyCode::ResourceError, text));
        }
        Ok(())
    }

    pub(super) fn has_consumer(&self, consumer: &Consumer) -> bool {
        self.consumers.get(&consumer.tag).is_some_and(|own| ptr::eq(&**own, consumer))
    }

    fn tag_or_new(&self, tag: &str) -> Box<str> {
        if tag.is_empty() { names::generate("amq.ctag-").into() } else { tag.into() }
    }
}

/// A consumer for those who watch.
fn subscribed(consumer: &Arc<Consumer>, consume: &BasicConsume<'_>, prefetch: Option<u32>) -> Subscribed {
    Subscribed {
        consumer: Arc::downgrade(consumer),
        arguments: consume.arguments.as_bytes().into(),
        prefetch: prefetch.unwrap_or(0),
        exclusive: consume.exclusive,
    }
}
