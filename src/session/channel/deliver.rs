//! From runs to frames: delivery tags are given here, and nowhere else.

use std::sync::Arc;

use crate::broker::consumer::{Consumer, Timeout};
use crate::broker::outbox::Item;
use crate::broker::queue::settle::Back;
use crate::message::names::Names;
use crate::message::record::{BodyView, MessageView};
use crate::message::run::Run;
use crate::protocol::delivery::DeliveryHead;
use crate::protocol::frame::FRAME_OVERHEAD;
use crate::protocol::methods::{BasicDeliver, Method};
use crate::queue::settings::OverdueAction;
use crate::session::channel::Channel;
use crate::session::channel::content::Shown;
use crate::session::channel::trace;
use crate::session::channel::unacked::{Delivered, Held, Holder, Look};
use crate::session::chore::Verdict;
use crate::session::link::Link;
use crate::session::output::Output;

impl Channel {
    /// Sends messages to a consumer. Those of a queue that is gone are skipped.
    pub fn deliver(&mut self, link: &mut Link, consumer: Arc<Consumer>, run: Run) {
        if consumer.source.as_ref().is_some_and(|source| source.queue.is_deleted()) {
            link.unreleased_bytes += run.delivery_bytes();
            link.uncount(&consumer, run.count());
            link.wakes.count(1);
            return;
        }
        if consumer.source.is_none() {
            link.node().memory.replies.sub(run.delivery_bytes());
        }
        link.keep_room(self.number, run.delivery_bytes());
        let first_tag = self.take_tags(run.count());
        let frame_max = link.frame_max;
        let mut head = std::mem::take(&mut link.delivery_head);
        let out = link.output(self.number);
        let mut writer = DeliveryWriter {
            channel: self.number,
            frame_max,
            consumer: &consumer,
            redelivered: run.is_redelivered(),
            shown: Shown {
                is_blind: run.is_blind(),
                delivery_count: Some(run.returns()).filter(|count| *count > 0),
            },
            head: &mut head,
            written_for: None,
        };
        for (delivery_tag, message) in (first_tag..).zip(run.messages()) {
            writer.write(out, delivery_tag, &message);
        }
        let shown = writer.shown;
        link.delivery_head = head;
        if link.vhost.is_traced()
            && let Some(source) = &consumer.source
        {
            trace::delivered(link, self.number, &source.queue, &run, shown);
        }
        let count = u64::from(run.count());
        if run.is_redelivered() {
            self.tally.redelivered.bump(count);
        }
        if !consumer.no_ack {
            self.tally.delivered.bump(count);
            self.hold(
                link,
                Delivered {
                    first_tag,
                    held: Held::Here(run),
                    holder: Holder::Consumer(consumer),
                    since_ms: link.now.steady_ms,
                },
            );
        } else {
            self.tally.delivered_no_ack.bump(count);
            if let Some(source) = &consumer.source {
                link.settlement(&source.queue).settled(&run);
            }
        }
    }

    /// Remembers what was delivered until it is settled. While memory holds too much, what the disk has is remembered
    /// without its bytes.
    pub(super) fn hold(&mut self, link: &mut Link, mut delivered: Delivered) {
        link.overdue.hold(delivered.holder.timeout().ms, link.now);
        if link.node().memory.is_above_cache() {
            delivered.let_go();
        }
        link.outbox.held_bytes.add(delivered.held_bytes());
        self.unacked.push(delivered);
        self.unacked.charge(&link.node().memory.unacked);
    }

    /// Whether anything waits for its acknowledgement.
    pub fn holds_any(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// Takes back what is held for too long where that is to be, and cancels consumers; how long the first one may be held
    /// that closes the channel, in milliseconds, and whether not all was looked at.
    pub fn take_back_overdue(
        &mut self,
        link: &mut Link,
        shortest_ms: u64,
        mut most: usize,
    ) -> (Option<u64>, bool) {
        loop {
            match self.unacked.look(link.now.steady_ms, shortest_ms, &mut most) {
                // Who cannot be told of it would wait for ever.
                Look::Overdue(_, Timeout { ms, action })
                    if action == OverdueAction::Close
                        || (action == OverdueAction::Cancel && !link.notify_cancel) =>
                {
                    return (Some(ms), false);
                }
                Look::Overdue(first, Timeout { action, .. }) => {
                    let Some(taken) = self.unacked.take_back(first) else { return (None, true) };
                    let holder = taken.holder.clone();
                    self.settle_now(link, taken, Verdict::Return(Back::Refused));
                    if let Holder::Consumer(consumer) = holder
                        && action == OverdueAction::Cancel
                        && self.has_consumer(&consumer)
                    {
                        self.cancel_overdue(link, &consumer);
                        return (None, true);
                    }
                }
                Look::CutShort => return (None, true),
                Look::Done => return (None, false),
            }
        }
    }

    /// Takes back what a consumer still holds that was cancelled for that, from this tag on, as far as this turn goes; where
    /// to go on.
    pub fn take_back_of(&mut self, link: &mut Link, consumer: &Consumer, from: u64) -> Option<u64> {
        let (taken, next) = self.unacked.take_back_of(consumer, from);
        for delivered in taken {
            self.settle_now(link, delivered, Verdict::Return(Back::Refused));
        }
        self.unacked.charge(&link.node().memory.unacked);
        next
    }

    /// Goes on letting go of what is held, with so many steps; whether all was gone through.
    pub fn slim(&mut self, link: &Link, steps: &mut u32) -> bool {
        let memory = &link.node().memory;
        let (freed, is_done) = self.unacked.slim(steps, memory.has_disk(), &memory.messages);
        link.outbox.held_bytes.sub(freed);
        is_done
    }

    /// Sends what waits for this channel now.
    pub(super) fn deliver_waiting(&mut self, link: &mut Link) {
        for item in link.withdraw(self.number) {
            match item {
                Item::Delivery { consumer, run } => self.deliver(link, consumer, run),
                Item::Cancelled(consumer) => self.on_cancelled(link, &consumer),
            }
        }
    }
}

/// Writes the deliveries of one run.
struct DeliveryWriter<'a> {
    channel: u16,
    frame_max: u32,
    consumer: &'a Consumer,
    redelivered: bool,
    /// How their headers are shown.
    shown: Shown,
    head: &'a mut DeliveryHead,
    /// Names, properties and length of the body that the head was written for.
    written_for: Option<(Names<'a>, &'a [u8], usize)>,
}

impl<'a> DeliveryWriter<'a> {
    #[inline]
    fn write(&mut self, out: &mut Output, delivery_tag: u64, message: &MessageView<'a>) {
        match message.body {
            BodyView::Slice(body) if body.len() + FRAME_OVERHEAD <= self.frame_max as usize => {
                if !self.is_written_for(message, body) {
                    let deliver = self.method(delivery_tag, message.names);
                    let properties = self.shown.properties(message.properties);
                    self.head.set(self.channel, &deliver, &properties, body.len() as u32);
                    self.written_for = Some((message.names, message.properties, body.len()));
                }
                out.delivery(self.head.with_tag(delivery_tag), body);
            }
            _ => {
                let deliver = self.method(delivery_tag, message.names);
                out.method(self.channel, &Method::BasicDeliver(deliver));
                let properties = &*self.shown.properties(message.properties);
                out.content(self.channel, &MessageView { properties, ..*message }, self.frame_max);
            }
        }
    }

    /// Whether the head fits this message. Names that are equal lie in one place: a block has them once for many.
    #[inline]
    fn is_written_for(&self, message: &MessageView<'_>, body: &[u8]) -> bool {
        self.written_for.is_some_and(|(names, properties, body_bytes)| {
            std::ptr::eq(names.as_bytes(), message.names.as_bytes())
                && properties == message.properties
                && body_bytes == body.len()
        })
    }

    fn method(&self, delivery_tag: u64, names: Names<'a>) -> BasicDeliver<'a> {
        BasicDeliver {
            consumer_tag: &self.consumer.tag,
            delivery_tag,
            redelivered: self.redelivered,
            exchange: names.exchange(),
            routing_key: names.routing_key(),
        }
    }
}
