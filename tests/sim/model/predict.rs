//! How an operation will be answered.

use sluicemq::protocol::reply::ReplyCode;

use crate::model::state::{Channel, Queue};
use crate::model::{ChannelKey, Model};
use crate::op::{Op, is_exclusive};

/// What the broker says to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prediction {
    Nothing,
    /// Its ok, or what it asks for.
    Answer,
    /// The channel is closed.
    Refusal(ReplyCode),
    /// One or the other: it depends on what is on its way to consumers.
    AnswerOr(ReplyCode),
}

use Prediction::{Answer, AnswerOr, Nothing, Refusal};

impl Model {
    pub(super) fn is_silent(&self, key: ChannelKey, op: &Op) -> bool {
        self.predict(key, op) == Nothing
    }

    pub(super) fn predict(&self, key: ChannelKey, op: &Op) -> Prediction {
        let Some(channel) = self.channels.get(&key) else { return Answer };
        if channel.refused {
            let is_answered = matches!(op, Op::CloseChannel | Op::CloseConnection);
            return if is_answered { Answer } else { Nothing };
        }
        match op {
            Op::Publish(message) => match self.route(message) {
                None => Refusal(ReplyCode::NotFound),
                Some(queues) if queues.is_empty() && message.mandatory && channel.tx.is_none() => Answer,
                Some(_) => Nothing,
            },
            Op::Settle { tag, multiple, .. } => {
                let known = channel.unacked.contains_key(tag) || (*multiple && *tag == 0);
                if known { Nothing } else { Refusal(ReplyCode::PreconditionFailed) }
            }
            Op::AnswerClose => Nothing,
            Op::TxCommit | Op::TxRollback if channel.tx.is_none() => Refusal(ReplyCode::PreconditionFailed),
            Op::TxSelect if channel.confirms.is_some() => Refusal(ReplyCode::PreconditionFailed),
            Op::ConfirmSelect if channel.tx.is_some() => Refusal(ReplyCode::PreconditionFailed),
            Op::Declare { queue } => self.predict_declare(key, queue),
            Op::Inspect { queue } | Op::Get { queue, .. } | Op::Purge { queue } => {
                self.usable(key, queue).map_or_else(Refusal, |_| Answer)
            }
            Op::Bind { queue, .. } | Op::Unbind { queue, .. } => self.predict_bind(key, op, queue),
            Op::Consume { queue, exclusive, .. } => match self.usable(key, queue) {
                Ok(found) if self.is_in_exclusive_use(found, *exclusive) => Refusal(ReplyCode::AccessRefused),
                found => found.map_or_else(Refusal, |_| Answer),
            },
            &Op::Delete { ref queue, if_unused, if_empty } => {
                self.predict_delete(key, queue, if_unused, if_empty)
            }
            _ => Answer,
        }
    }

    fn predict_declare(&self, key: ChannelKey, queue: &str) -> Prediction {
        match self.names.get(queue).and_then(|id| self.queues.get(id)) {
            Some(found) if is_exclusive(queue) && found.owner != Some(key.0) => {
                Refusal(ReplyCode::ResourceLocked)
            }
            _ => Answer,
        }
    }

    fn predict_bind(&self, key: ChannelKey, op: &Op, queue: &str) -> Prediction {
        match self.usable(key, queue) {
            // What is not there is unbound already.
            Err(ReplyCode::NotFound) if matches!(op, Op::Unbind { .. }) => Answer,
            found => found.map_or_else(Refusal, |_| Answer),
        }
    }

    fn predict_delete(&self, key: ChannelKey, queue: &str, if_unused: bool, if_empty: bool) -> Prediction {
        let found = match self.usable(key, queue) {
            Err(ReplyCode::NotFound) => return Answer,
            Err(code) => return Refusal(code),
            Ok(found) => found,
        };
        if if_unused && !found.consumers.is_empty() {
            return Refusal(ReplyCode::PreconditionFailed);
        }
        match if_empty && found.unheld() > 0 {
            false => Answer,
            true if found.consumers.is_empty() => Refusal(ReplyCode::PreconditionFailed),
            true => AnswerOr(ReplyCode::PreconditionFailed),
        }
    }

    /// The queue, if it is there and not another connection's.
    fn usable(&self, key: ChannelKey, name: &str) -> Result<&Queue, ReplyCode> {
        let found = self.names.get(name).and_then(|id| self.queues.get(id)).ok_or(ReplyCode::NotFound)?;
        match found.owner {
            Some(owner) if owner != key.0 => Err(ReplyCode::ResourceLocked),
            _ => Ok(found),
        }
    }

    fn is_in_exclusive_use(&self, queue: &Queue, exclusive: bool) -> bool {
        let taken = queue.consumers.iter().any(|id| self.consumers[id].exclusive);
        taken || (exclusive && !queue.consumers.is_empty())
    }

    pub(super) fn channel(&mut self, key: ChannelKey) -> &mut Channel {
        self.channels.get_mut(&key).expect("the channel is open")
    }
}
