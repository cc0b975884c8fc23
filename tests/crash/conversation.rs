//! A channel as its client knows it: what it holds, what it waits for, and what an answer then tells.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::client::{Delivery, Heard};
use crate::op::{Op, Verdict};
use crate::shadow::Shadow;

/// A message that a client has and has not settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    /// The queue's number.
    pub(crate) queue: u64,
    pub(crate) seq: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    pub(crate) is_open: bool,
    pub(crate) confirms: bool,
    pub(crate) transaction: Option<Transaction>,
    /// Received and not settled.
    pub(crate) tags: BTreeMap<u64, Holding>,
    pub(crate) consumers: BTreeMap<String, Consumer>,
    published: u64,
    /// Published and not confirmed: the state that a confirm tells of.
    unconfirmed: BTreeMap<u64, usize>,
    awaited: VecDeque<Awaited>,
}

#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// Messages, and the names of the queues they go to.
    pub(crate) published: Vec<(u32, BTreeSet<String>)>,
    pub(crate) settled: Vec<(u64, Holding, Verdict)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: u64,
    pub(crate) no_ack: bool,
    /// The last message that it was the first to see.
    last_new: u64,
}

#[derive(Debug)]
enum Awaited {
    Answer { name: &'static str, messages: Option<usize>, state: usize },
    Get { queue: u64, no_ack: bool },
}

impl Channel {
    /// One that was just opened.
    pub(crate) fn opened() -> Self {
        Self { is_open: true, ..Self::default() }
    }

    /// Whether messages of a queue may have gone for good that are heard only behind an answer.
    pub(crate) fn holds_back(&self, queue: u64) -> bool {
        !self.awaited.is_empty()
            && self.consumers.values().any(|consumer| consumer.queue == queue && consumer.no_ack)
    }

    /// Whether it consumes from a queue.
    pub(crate) fn consumes_from(&self, queue: u64) -> bool {
        self.consumers.values().any(|consumer| consumer.queue == queue)
    }

    /// Whether it waits for a basic.get: then nothing it says is understood.
    pub(crate) fn waits_for_get(&self) -> bool {
        self.awaited.iter().any(|awaited| matches!(awaited, Awaited::Get { .. }))
    }

    pub(crate) fn waits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Messages went out; the states by which the log knows them.
    pub(crate) fn published(&mut self, states: impl Iterator<Item = usize>) {
        if self.confirms {
            for state in states {
                self.published += 1;
                self.unconfirmed.insert(self.published, state);
            }
        }
    }

    pub(crate) fn take_tags(&mut self, tag: u64, multiple: bool) -> Vec<(u64, Holding)> {
        if multiple {
            let kept = self.tags.split_off(&(tag + 1));
            return std::mem::replace(&mut self.tags, kept).into_iter().collect();
        }
        self.tags.remove(&tag).map(|holding| (tag, holding)).into_iter().collect()
    }

    /// Everything it holds, also what a transaction has settled.
    pub(crate) fn take_all(&mut self) -> Vec<Holding> {
        let in_transaction = self.transaction.as_mut().map(|open| std::mem::take(&mut open.settled));
        let settled = in_transaction.unwrap_or_default().into_iter().map(|(_, holding, _)| holding);
        std::mem::take(&mut self.tags).into_values().chain(settled).collect()
    }

    /// Says something: the shadow follows, and the answer is known before it comes.
    pub(crate) fn say(&mut self, shadow: &mut Shadow, op: &Op) {
        let number = |name: &String| shadow.queues.get(name).map_or(0, |queue| queue.number);
        let ready = |name: &String| shadow.queues.get(name).map_or(0, super::shadow::Queue::ready);
        let messages = match op {
            Op::Declare { queue, .. } | Op::Delete { queue, .. } | Op::Purge { queue } => Some(ready(queue)),
            _ => None,
        };
        match op {
            Op::Get { queue, no_ack } => {
                let queue = number(queue);
                self.awaited.push_back(Awaited::Get { queue, no_ack: *no_ack });
            }
            Op::Consume { queue, tag, no_ack } => {
                let consumer = Consumer { queue: number(queue), no_ack: *no_ack, last_new: 0 };
                self.consumers.insert(tag.clone(), consumer);
            }
            _ => {}
        }
        let state = shadow.apply(self, op);
        if let Op::Cancel { tag } = op {
            self.consumers.remove(tag);
        }
        match op {
            Op::OpenChannel => self.is_open = true,
            Op::CloseChannel => {
                let awaited = std::mem::take(&mut self.awaited);
                *self = Self { awaited, ..Self::default() };
            }
            Op::ConfirmSelect => self.confirms = true,
            Op::TxSelect => self.transaction = Some(Transaction::default()),
            _ => {}
        }
        if let Some(name) = op.answer() {
            self.awaited.push_back(Awaited::Answer { name, messages, state });
        }
    }

    /// Hears something. What it should not be is the error.
    pub(crate) fn hear(&mut self, shadow: &mut Shadow, heard: Heard) -> Result<(), String> {
        match heard {
            Heard::Refused(why) => Err(format!("refused: {why}")),
            Heard::Confirmed { tag, multiple } => self.on_confirmed(shadow, tag, multiple),
            Heard::Delivered(delivery) => self.on_delivered(shadow, &delivery),
            Heard::Answered { name: "basic.get-empty", .. } => match self.awaited.pop_front() {
                Some(Awaited::Get { .. }) => Ok(()),
                other => Err(format!("get-empty where {other:?} was to come")),
            },
            Heard::Answered { name: "basic.cancel", .. } => Ok(()),
            Heard::Answered { name, messages: counted, .. } => match self.awaited.pop_front() {
                Some(Awaited::Answer { name: expected, messages, state }) if name == expected => {
                    shadow.hear(state);
                    match (messages, counted) {
                        (Some(messages), Some(counted)) if messages != counted as usize => {
                            Err(format!("{name} counts {counted} messages, and there are {messages}"))
                        }
                        _ => Ok(()),
                    }
                }
                other => Err(format!("{name} where {other:?} was to come")),
            },
        }
    }

    fn on_confirmed(&mut self, shadow: &mut Shadow, tag: u64, multiple: bool) -> Result<(), String> {
        let first = if multiple { 0 } else { tag };
        let confirmed: Vec<u64> = self.unconfirmed.range(first..=tag).map(|(tag, _)| *tag).collect();
        if confirmed.last() != Some(&tag) {
            return Err(format!("confirm of {tag}, which does not wait for one"));
        }
        for tag in confirmed {
            shadow.hear(self.unconfirmed.remove(&tag).unwrap_or_default());
        }
        Ok(())
    }

    fn on_delivered(&mut self, shadow: &mut Shadow, delivery: &Delivery) -> Result<(), String> {
        let (number, no_ack) = match &delivery.consumer {
            Some(tag) => {
                let consumer = self.consumers.get(tag).ok_or("a delivery to an unknown consumer")?;
                (consumer.queue, consumer.no_ack)
            }
            None => match self.awaited.pop_front() {
                Some(Awaited::Get { queue, no_ack }) => (queue, no_ack),
                other => return Err(format!("get-ok where {other:?} was to come")),
            },
        };
        let id = delivery.content.id().ok_or("a delivery without a number")?;
        let message = shadow.messages.get(id as usize).ok_or(format!("message {id} was never published"))?;
        let differences = message.differences(&delivery.content);
        if !differences.is_empty() {
            return Err(format!("message {id} was altered: {differences:?}"));
        }
        let queue = shadow.queue_by_number(number).ok_or("a delivery from a queue that is gone")?;
        let found = queue.entries.iter_mut().find(|(_, entry)| entry.message == id && !entry.held);
        let Some((&seq, entry)) = found else {
            return Err(format!("message {id} is delivered, and is not there to be had"));
        };
        let may_be_either = entry.perhaps_delivered && !entry.delivered;
        if entry.delivered != delivery.redelivered && !may_be_either {
            return Err(format!("message {id}: redelivered is {}", delivery.redelivered));
        }
        if let Some(consumer) = delivery.consumer.as_ref().and_then(|tag| self.consumers.get_mut(tag))
            && !delivery.redelivered
        {
            if seq < consumer.last_new {
                return Err(format!("message {id} is delivered behind a later one"));
            }
            consumer.last_new = seq;
        }
        entry.delivered = true;
        entry.held = true;
        let since = entry.since;
        shadow.hear(since);
        let holding = Holding { queue: number, seq };
        if no_ack {
            let queue = shadow.queue_by_number(number).expect("just found");
            queue.entries.remove(&seq);
            shadow.record(format!("message {id} went without acknowledgement"));
        } else {
            self.tags.insert(delivery.tag, holding);
        }
        Ok(())
    }
}
