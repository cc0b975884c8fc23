//! The judge: it is told everything that was attempted and seen, and says what a broker that keeps its promise
//! could not have done.
//!
//! Messages are told apart by publisher and number, which stand in their bodies; what else is in a body follows
//! from them, so that a changed octet shows. A message routed to two queues is two things to keep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// A message: its publisher, and its number there.
pub(crate) type Id = (u32, u64);
/// A queue, by its place in the load's list.
pub(crate) type QueueNumber = usize;

/// Bodies are as long as this at most, beside a few large ones.
const SMALL_BODY_BYTES_MAX: u64 = 2000;
const LARGE_BODY_BYTES: u64 = 100_000;

/// What is known of one message in one queue.
#[derive(Debug, Default)]
struct Kept {
    persistent: bool,
    confirmed: bool,
    transaction: Option<u64>,
    deliveries: u32,
    /// It has been delivered in this life of the broker, or its acknowledgement was sent in an earlier one.
    is_accounted_for: bool,
    ack_sent: bool,
    /// The acknowledgement was committed: it must not come back.
    settled: bool,
}

/// The history, folded as it is told.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    kept: BTreeMap<(QueueNumber, Id), Kept>,
    /// Settled for good in earlier rounds.
    gone: HashSet<(QueueNumber, Id)>,
    last_first_delivery: HashMap<(QueueNumber, u32), u64>,
    violations: Vec<String>,
    figures: Figures,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    attempted: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    redelivered: u64,
    unconfirmed_and_delivered: u64,
    committed: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} attempted, {} confirmed, {} transactions committed, {} delivered ({} again), \
             {} delivered without a confirm",
            self.attempted,
            self.confirmed,
            self.committed,
            self.delivered,
            self.redelivered,
            self.unconfirmed_and_delivered
        )
    }
}

impl Checker {
    /// A publish is about to be sent; its body.
    pub(crate) fn attempt(
        &mut self,
        id: Id,
        queues: &[QueueNumber],
        persistent: bool,
        transaction: Option<u64>,
    ) -> Vec<u8> {
        self.figures.attempted += 1;
        for &queue in queues {
            self.kept.insert((queue, id), Kept { persistent, transaction, ..Kept::default() });
        }
        body(id)
    }

    /// A confirm has come for a publish to these queues.
    pub(crate) fn confirm(&mut self, id: Id, queues: &[QueueNumber]) {
        self.figures.confirmed += 1;
        for &queue in queues {
            match self.kept.get_mut(&(queue, id)) {
                Some(kept) if kept.confirmed => self.violations.push(format!("confirm: {id:?} twice")),
                Some(kept) => kept.confirmed = true,
                // Delivered and settled for good before its confirm was read.
                None if self.gone.contains(&(queue, id)) => {}
                None => self.violations.push(format!("confirm: {id:?} was never published")),
            }
        }
    }

    /// tx.commit-ok has come: each of these messages is in its queue.
    pub(crate) fn commit(&mut self, messages: &[(Id, QueueNumber)]) {
        self.figures.committed += 1;
        for &(id, queue) in messages {
            self.confirm(id, &[queue]);
        }
    }

    /// A message has come from a queue; which one it is.
    pub(crate) fn deliver(&mut self, queue: QueueNumber, bytes: &[u8], redelivered: bool) -> Option<Id> {
        self.figures.delivered += 1;
        self.figures.redelivered += u64::from(redelivered);
        let Some(id) = read_id(bytes) else {
            self.violations.push(format!("corrupt: {} bytes that name no message", bytes.len()));
            return None;
        };
        if bytes != body(id) {
            self.violations.push(format!("corrupt: {id:?} in queue {queue}"));
        }
        if self.gone.contains(&(queue, id)) {
            self.violations.push(format!("resurrected: {id:?} in queue {queue}, of an earlier round"));
            return None;
        }
        let Some(kept) = self.kept.get_mut(&(queue, id)) else {
            self.violations.push(format!("phantom: {id:?} in queue {queue}"));
            return None;
        };
        if kept.settled {
            self.violations.push(format!("resurrected: {id:?} in queue {queue}"));
        }
        if kept.deliveries > 0 && !redelivered {
            self.violations.push(format!("flag: {id:?} in queue {queue} is not marked as redelivered"));
        }
        if kept.deliveries == 0 {
            self.figures.unconfirmed_and_delivered += u64::from(!kept.confirmed);
            let last = self.last_first_delivery.insert((queue, id.0), id.1);
            if last.is_some_and(|last| last > id.1) {
                self.violations.push(format!("order: {id:?} in queue {queue} after {last:?}"));
            }
        }
        kept.deliveries += 1;
        kept.is_accounted_for = true;
        Some(id)
    }

    /// An acknowledgement is about to be sent: from now on the message may be gone.
    pub(crate) fn ack(&mut self, queue: QueueNumber, id: Id) {
        if let Some(kept) = self.kept.get_mut(&(queue, id)) {
            kept.ack_sent = true;
        }
    }

    /// The acknowledgement was committed: from now on the message must be gone.
    pub(crate) fn settle(&mut self, queue: QueueNumber, id: Id) {
        if let Some(kept) = self.kept.get_mut(&(queue, id)) {
            kept.settled = true;
        }
    }

    /// The broker has died: what was not acknowledged is owed again, what is not persistent is not.
    pub(crate) fn crash(&mut self) {
        for kept in self.kept.values_mut() {
            kept.is_accounted_for = kept.ack_sent;
        }
    }

    /// All queues were emptied: nothing may be missing, and no transaction is there in part.
    pub(crate) fn drained(&mut self) {
        let mut in_part: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (&(queue, id), kept) in &self.kept {
            if kept.confirmed && kept.persistent && !kept.is_accounted_for {
                self.violations.push(format!(
                    "lost: {id:?} in queue {queue}, confirmed, delivered {} times",
                    kept.deliveries
                ));
            }
            if let Some(transaction) = kept.transaction {
                let (there, all) = in_part.entry(transaction).or_default();
                *there += u64::from(kept.deliveries > 0);
                *all += 1;
            }
        }
        for (transaction, (there, all)) in in_part {
            if there > 0 && there < all {
                self.violations.push(format!("torn: {there} of {all} of transaction {transaction}"));
            }
        }
        self.gone.extend(self.kept.iter().filter(|(_, kept)| kept.settled).map(|(&key, _)| key));
        self.kept.clear();
    }

    /// What was seen that must not be.
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// What was counted so far.
    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }
}

/// The one body a message has.
pub(crate) fn body((publisher, number): Id) -> Vec<u8> {
    let mut state = (u64::from(publisher) << 40) ^ number;
    let mut draw = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 27)
    };
    let bytes = if draw() % 200 == 0 { LARGE_BODY_BYTES } else { draw() % SMALL_BODY_BYTES_MAX };
    let mut body = Vec::with_capacity(12 + bytes as usize);
    body.extend(publisher.to_le_bytes());
    body.extend(number.to_le_bytes());
    while (body.len() as u64) < 12 + bytes {
        body.extend(draw().to_le_bytes());
    }
    body
}

fn read_id(body: &[u8]) -> Option<Id> {
    let (publisher, rest) = body.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*publisher), u64::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::{Checker, body};

    /// Tells a story of one queue and two messages, and expects what the judge says of it.
    fn check(story: impl FnOnce(&mut Checker), expected: &[&str]) {
        let mut checker = Checker::default();
        for number in [1, 2] {
            checker.attempt((7, number), &[0], true, Some(9));
        }
        story(&mut checker);
        checker.drained();
        let told: Vec<_> = checker.violations().iter().map(|told| told.split(':').next().unwrap()).collect();
        assert_eq!(told, expected, "{:?}", checker.violations());
    }

    fn deliver(checker: &mut Checker, number: u64, redelivered: bool) {
        checker.deliver(0, &body((7, number)), redelivered);
    }

    #[test]
    fn each_broken_promise_is_seen() {
        check(|_| {}, &[]);
        check(|checker| checker.confirm((7, 1), &[0]), &["lost"]);
        check(|checker| deliver(checker, 1, false), &["torn"]);
        check(|checker| checker.confirm((7, 3), &[0]), &["confirm"]);
        let both = |checker: &mut Checker| {
            deliver(checker, 1, false);
            deliver(checker, 2, false);
        };
        check(both, &[]);
        check(
            |checker| {
                deliver(checker, 2, false);
                deliver(checker, 1, false);
            },
            &["order"],
        );
        check(
            |checker| {
                both(checker);
                deliver(checker, 1, false);
            },
            &["flag"],
        );
        check(
            |checker| {
                both(checker);
                checker.confirm((7, 2), &[0]);
                checker.crash();
            },
            &["lost"],
        );
        check(
            |checker| {
                both(checker);
                checker.confirm((7, 2), &[0]);
                checker.ack(0, (7, 2));
                checker.crash();
            },
            &[],
        );
        check(
            |checker| {
                both(checker);
                checker.settle(0, (7, 2));
                deliver(checker, 2, true);
            },
            &["resurrected"],
        );
        check(
            |checker| {
                both(checker);
                checker.deliver(0, &body((8, 1)), false);
            },
            &["phantom"],
        );
        check(
            |checker| {
                both(checker);
                let mut changed = body((7, 1));
                *changed.last_mut().unwrap() ^= 1;
                checker.deliver(0, &changed, true);
            },
            &["corrupt"],
        );
    }
}
