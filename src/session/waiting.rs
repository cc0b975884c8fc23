//! A method that cannot be answered before its queue is ready for it: it is tried again when the queue says so.

use std::sync::Arc;

use crate::broker::queue::handle::Queue;
use crate::broker::queue::letters::LettersDue;
use crate::protocol::methods::BasicGet;
use crate::session::running::{Failure, Running, Slot, Step};

/// Methods by their ids.
const BASIC_GET: (u16, u16) = (60, 70);
const QUEUE_DELETE: (u16, u16) = (50, 40);

/// A method that was not answered yet.
#[derive(Debug)]
pub struct Waiting {
    /// Its channel.
    pub channel: u16,
    /// Where the connection is noted.
    pub noted_at: Arc<Queue>,
    /// What it asks for. Queues go by their names: one may be another queue when the method is tried again.
    pub asked: Asked,
}

/// What is waited for.
#[derive(Debug)]
pub enum Asked {
    /// basic.get, for the queue's head.
    Get {
        /// The queue.
        queue: String,
        /// It needs no acknowledgement.
        no_ack: bool,
    },
    /// queue.delete, for the queue's dead letters to go.
    Delete(Deletion),
}

/// A queue.delete.
#[derive(Debug)]
pub struct Deletion {
    /// The queue.
    pub queue: String,
    /// Not if it has consumers.
    pub if_unused: bool,
    /// Not if it has messages.
    pub if_empty: bool,
    /// Nobody waits for an answer.
    pub nowait: bool,
    /// What it waits for.
    pub due: LettersDue,
}

impl Asked {
    fn method_id(&self) -> (u16, u16) {
        match self {
            Self::Get { .. } => BASIC_GET,
            Self::Delete(_) => QUEUE_DELETE,
        }
    }
}

impl Running {
    /// Tries a method again that waits for its queue, once all that came before is done.
    ///
    /// # Errors
    /// As [`Running::on_frame`].
    pub fn retry(&mut self) -> Result<Step, Failure> {
        self.tries_again |= self.link.waiting.is_some();
        if !self.work() || !std::mem::take(&mut self.tries_again) {
            return Ok(Step::Continue);
        }
        let Some(Waiting { channel: number, noted_at, asked }) = self.link.waiting.take() else {
            return Ok(Step::Continue);
        };
        let at = self.find(number).ok();
        let Some((_, Slot::Open(channel))) = at.and_then(|at| self.channels.get_mut(at)) else {
            noted_at.forget_waiter(&self.link.outbox);
            return Ok(Step::Continue);
        };
        let id = asked.method_id();
        let answered = match asked {
            Asked::Get { queue, no_ack } => {
                channel.on_get(&mut self.link, &BasicGet { queue: &queue, no_ack })
            }
            Asked::Delete(deletion) => channel.go_on_deleting(&mut self.link, deletion, &noted_at),
        };
        match answered {
            Ok(()) => Ok(Step::Continue),
            Err(refusal) => {
                noted_at.forget_waiter(&self.link.outbox);
                self.refuse(number, refusal, id)
            }
        }
    }
}
