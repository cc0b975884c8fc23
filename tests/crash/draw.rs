//! What a client does next. Only what the broker must not refuse is drawn.

use crate::conversation::Channel;
use crate::dice::Dice;
use crate::message::Message;
use crate::op::{Op, Verdict};
use crate::shadow::Shadow;
use crate::state::{Binding, DIRECT, Destination, FANOUT};

/// By its first letter a name says whether it is durable.
pub(crate) const QUEUES: [&str; 9] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "t0", "t1"];
pub(crate) const EXCHANGES: [(&str, &str); 4] =
    [("dfan", FANOUT), ("ddir", DIRECT), ("tfan", FANOUT), ("dhop", FANOUT)];
pub(crate) const KEYS: [&str; 3] = ["", "a", "b"];

/// See [`QUEUES`].
pub(crate) fn is_durable(name: &str) -> bool {
    name.starts_with('d')
}

/// What is frequent in one workload and rare in another.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// Shares in percent.
    persistent: u64,
    large: u64,
    fanout: u64,
    consuming: u64,
    bursts: u64,
    confirms: u64,
}

impl Habits {
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let mut one_of = |shares: [u64; 3]| shares[dice.below(3) as usize];
        Self {
            persistent: one_of([60, 80, 100]),
            large: one_of([1, 4, 15]),
            fanout: one_of([10, 30, 60]),
            consuming: one_of([20, 40, 60]),
            bursts: one_of([5, 20, 50]),
            confirms: one_of([30, 50, 80]),
        }
    }

    /// The next operation on a channel.
    pub(crate) fn op(&self, shadow: &Shadow, channel: &Channel, dice: &mut Dice) -> Option<Op> {
        if !channel.is_open {
            return (!channel.waits()).then_some(Op::OpenChannel);
        }
        let op =
            match dice.below(100) {
                roll if roll < 88 - self.consuming => self.publish(shadow, dice),
                roll if roll < 88 => self.receive(shadow, channel, dice)?,
                88..91 if channel.transaction.is_none() && !channel.confirms => {
                    if dice.chance(self.confirms) { Op::ConfirmSelect } else { Op::TxSelect }
                }
                88..97 if channel.transaction.is_some() => {
                    if dice.chance(75) {
                        Op::Commit
                    } else {
                        Op::Rollback
                    }
                }
                88..97 => self.publish(shadow, dice),
                97 if !channel.waits() => Op::Recover,
                98 if !channel.waits() => Op::CloseChannel,
                _ => Op::Qos { count: *dice.pick(&[0, 1, 3, 10])? },
            };
        Some(op)
    }

    fn publish(&self, shadow: &Shadow, dice: &mut Dice) -> Op {
        let count = if dice.chance(self.bursts) { 2 + dice.below(12) } else { 1 };
        let first = shadow.messages.len() as u32;
        // Mostly to one place: neighbours share a block then.
        let (mut exchange, mut key) = self.place(shadow, dice);
        let messages = (0..count as u32).map(|at| {
            if dice.chance(15) {
                (exchange, key) = self.place(shadow, dice);
            }
            let bytes = if dice.chance(self.large) {
                *dice.pick(&[2049, 3000, 20_000, 33_000, 66_000, 150_000]).unwrap_or(&0)
            } else {
                dice.below(600) as usize
            };
            let persistent = dice.chance(self.persistent);
            Message { id: first + at, persistent, exchange: exchange.clone(), key: key.clone(), bytes }
        });
        Op::Publish(messages.collect())
    }

    /// An exchange that is there, and a key.
    fn place(&self, shadow: &Shadow, dice: &mut Dice) -> (String, String) {
        let exchanges: Vec<&String> = shadow.exchanges.keys().collect();
        match dice.pick(&exchanges) {
            Some(exchange) if dice.chance(self.fanout) => {
                ((*exchange).clone(), dice.pick(&KEYS).unwrap_or(&"").to_string())
            }
            _ => (String::new(), dice.pick(&QUEUES).unwrap_or(&"").to_string()),
        }
    }

    fn receive(&self, shadow: &Shadow, channel: &Channel, dice: &mut Dice) -> Option<Op> {
        let queues: Vec<&String> = shadow.queues.keys().collect();
        let in_transaction = channel.transaction.is_some();
        match dice.below(10) {
            0..6 if !channel.tags.is_empty() => {
                let tags: Vec<u64> = channel.tags.keys().copied().collect();
                let tag = if dice.chance(50) { tags[0] } else { *dice.pick(&tags)? };
                let verdict = *dice.pick(&[
                    Verdict::Ack,
                    Verdict::Ack,
                    Verdict::Ack,
                    Verdict::Discard,
                    Verdict::Requeue,
                ])?;
                Some(Op::Settle { tag, multiple: dice.chance(30), verdict })
            }
            6 if channel.consumers.len() < 2 => {
                let queue = (*dice.pick(&queues)?).clone();
                let no_ack = !in_transaction && dice.chance(10);
                Some(Op::Consume { queue, tag: format!("c{}", dice.below(1_000_000_000)), no_ack })
            }
            7 if !channel.waits() => {
                let tags: Vec<&String> = channel.consumers.keys().collect();
                Some(Op::Cancel { tag: (*dice.pick(&tags)?).clone() })
            }
            _ => {
                let no_ack = !in_transaction && dice.chance(20);
                Some(Op::Get { queue: (*dice.pick(&queues)?).clone(), no_ack })
            }
        }
    }

    /// What is missing of an exchange that all durable queues are bound to: some messages are to have many.
    fn fan_out(shadow: &Shadow) -> Option<Op> {
        let (name, kind) = EXCHANGES[0];
        if !shadow.exchanges.contains_key(name) {
            return Some(Op::DeclareExchange { name: name.to_owned(), kind, durable: true });
        }
        let durable = QUEUES.into_iter().filter(|queue| is_durable(queue)).map(str::to_owned);
        durable.into_iter().find_map(|queue| {
            if !shadow.queues.contains_key(&queue) {
                return Some(Op::Declare { queue, durable: true, passive: false });
            }
            let to = Destination::Queue(queue);
            let binding = Binding { source: name.to_owned(), key: String::new(), to };
            (!shadow.bindings.contains(&binding)).then_some(Op::Bind(binding))
        })
    }

    /// The next definition. When not all deliveries have been heard, only what counts no messages.
    pub(crate) fn definition(shadow: &Shadow, all_heard: bool, dice: &mut Dice) -> Option<Op> {
        let queue = (*dice.pick(&QUEUES)?).to_owned();
        if dice.chance(25)
            && let Some(op) = Self::fan_out(shadow)
        {
            return Some(op);
        }
        let (exchange, kind) = *dice.pick(&EXCHANGES)?;
        let known = shadow.queues.contains_key(&queue);
        match dice.below(100) {
            0..40 if !known => {
                let durable = is_durable(&queue);
                Some(Op::Declare { queue, durable, passive: false })
            }
            0..20 if all_heard => {
                let durable = is_durable(&queue);
                Some(Op::Declare { queue, durable, passive: dice.chance(50) })
            }
            20..28 if all_heard && known => Some(Op::Purge { queue }),
            28..36 if all_heard && known => {
                let if_empty = shadow.queues[&queue].ready() == 0 && dice.chance(50);
                Some(Op::Delete { queue, if_empty })
            }
            40..65 if !shadow.exchanges.contains_key(exchange) => {
                Some(Op::DeclareExchange { name: exchange.to_owned(), kind, durable: is_durable(exchange) })
            }
            65..67 => Some(Op::DeleteExchange { name: exchange.to_owned() }),
            67..97 => Some(Op::Bind(binding(shadow, (exchange, kind), queue, dice)?)),
            _ => Some(Op::Unbind(
                shadow.bindings.iter().nth(dice.below(shadow.bindings.len() as u64) as usize)?.clone(),
            )),
        }
    }
}

fn binding(shadow: &Shadow, (source, kind): (&str, &str), queue: String, dice: &mut Dice) -> Option<Binding> {
    let (other, _) = *dice.pick(&EXCHANGES)?;
    let to =
        if dice.chance(25) { Destination::Exchange(other.to_owned()) } else { Destination::Queue(queue) };
    let is_there = shadow.exchanges.contains_key(source)
        && match &to {
            Destination::Exchange(name) => shadow.exchanges.contains_key(name),
            Destination::Queue(name) => shadow.queues.contains_key(name),
        };
    // Which of several keys leads out of a fanout exchange cannot be seen from outside.
    let key = if kind == DIRECT { (*dice.pick(&KEYS)?).to_owned() } else { String::new() };
    is_there.then(|| Binding { source: source.to_owned(), key, to })
}
