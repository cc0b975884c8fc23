//! A client with what it knows of its channels.

use crate::client::Client;
use crate::conversation::Channel;
use crate::shadow::Shadow;

pub(crate) struct Party {
    pub(crate) client: Client,
    pub(crate) channels: Vec<Channel>,
}

impl Party {
    /// Whether it consumes from a queue, by the queue's number.
    pub(crate) fn consumes_from(&self, queue: u64) -> bool {
        self.channels.iter().any(|channel| channel.consumes_from(queue))
    }

    /// Of a queue that is gone nothing is known any more.
    pub(crate) fn forget_queues(&mut self, shadow: &Shadow) {
        for channel in &mut self.channels {
            channel.consumers.retain(|_, consumer| shadow.has_queue(consumer.queue));
        }
    }
}
