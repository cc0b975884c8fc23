//! What must hold when every byte is written and every wake is paid: nothing sleeps for ever.

use sluicemq::broker::Broker;

use crate::model::Model;
use crate::model::state::Consumer;

impl Model {
    /// The broker's own counts agree with what is here: nothing is lost, settled twice or in two places. True at
    /// any time.
    pub(crate) fn check_depths(&self, broker: &Broker) {
        let vhost = broker.vhost("/").expect("it is configured");
        for queue in self.queues.values() {
            let name = &queue.name;
            let found = vhost.queue(name).unwrap_or_else(|| panic!("queue {name} is gone"));
            let (ready, unacked) = found.depth();
            let (unheld, held) = (queue.unheld(), queue.held());
            assert!(
                ready + unacked == unheld + held && held <= unacked,
                "queue {name}: {ready} ready and {unacked} unacknowledged, expected {unheld} and {held}"
            );
        }
    }

    /// Nothing is on its way, and all of this holds.
    pub(crate) fn check_rest(&mut self, broker: &Broker) {
        self.check_depths(broker);
        let vhost = broker.vhost("/").expect("it is configured");
        for queue in self.queues.values() {
            let (ready, unacked) = vhost.queue(&queue.name).expect("it is there").depth();
            let counts = (queue.unheld(), queue.held());
            assert!((ready, unacked) == counts, "queue {}: {ready}, {unacked}, not {counts:?}", queue.name);
            for id in queue.consumers.iter().filter(|_| ready > 0) {
                let consumer = &self.consumers[id];
                assert!(
                    !self.has_credit(consumer),
                    "queue {}: {ready} messages sleep, consumer {} has credit",
                    queue.name,
                    consumer.tag
                );
            }
        }
        for (key, channel) in &mut self.channels {
            if let Some(confirms) = &channel.confirms {
                let (published, acked) = (confirms.published, confirms.acked);
                assert!(
                    published == acked,
                    "channel {key:?}: {acked} of {published} publishes are confirmed"
                );
            }
            let told = channel.ended.is_empty() || !self.peers[&key.0].notify_cancel;
            assert!(told, "channel {key:?}: consumers {:?} were not cancelled", channel.ended);
            if let Some(window) = &mut channel.window {
                window.since = 0;
            }
        }
    }

    fn has_credit(&self, consumer: &Consumer) -> bool {
        let window = self.channels[&consumer.channel].window;
        let limit = window.map_or(u64::MAX, |window| window.limit);
        consumer.prefetch.is_none_or(|prefetch| consumer.held < prefetch)
            && self.channels[&consumer.channel].holds() < limit
    }

    /// From now on counts must be exact, or need no longer be.
    pub(crate) fn rest(&mut self, at_rest: bool) {
        self.at_rest = at_rest;
    }
}
