//! From runs to frames: delivery tags are given here, and nowhere else.

use std::sync::Arc;

use crate::broker::consumer::Consumer;
use crate::broker::outbox::Item;
use crate::message::run::Run;
use crate::protocol::methods::{BasicDeliver, Method};
use crate::session::channel::Channel;
use crate::session::channel::unacked::{Delivered, Holder};
use crate::session::link::Link;

impl Channel {
    /// Sends messages to a consumer. Those of a queue that is gone are skipped.
    pub fn deliver(&mut self, link: &mut Link, consumer: Arc<Consumer>, run: Run) {
        if consumer.source.as_ref().is_some_and(|source| source.queue.is_deleted()) {
            link.unreleased_bytes += run.delivery_bytes();
            link.uncount(&consumer, run.count());
            return;
        }
        link.keep_room(self.number, run.delivery_bytes());
        let first_tag = self.take_tags(run.count());
        let frame_max = link.frame_max;
        let out = link.output(self.number);
        for (delivery_tag, message) in (first_tag..).zip(run.messages()) {
            let deliver = BasicDeliver {
                consumer_tag: &consumer.tag,
                delivery_tag,
                redelivered: run.is_redelivered(),
                exchange: message.exchange,
                routing_key: message.routing_key,
            };
            out.method(self.number, &Method::BasicDeliver(deliver));
            out.content(self.number, &message, frame_max);
        }
        if !consumer.no_ack {
            self.unacked.push(Delivered { first_tag, run, holder: Holder::Consumer(consumer) });
        } else if let Some(source) = &consumer.source {
            link.settlement(&source.queue).settled(&run);
        }
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
