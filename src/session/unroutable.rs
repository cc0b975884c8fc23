//! Mandatory messages of a transaction that nobody takes.

use std::collections::{BTreeMap, VecDeque};

use crate::broker::publish::Lost;
use crate::message::block::Pieces;
use crate::message::names::NamesBuf;
use crate::stats::Charge;

/// A message, or several, that a transaction returns when it commits.
#[derive(Debug)]
pub enum Unroutable {
    /// A message that had no queue when it was published.
    Never {
        /// Where it was to go.
        names: NamesBuf,
        /// Its properties.
        properties: Vec<u8>,
        /// Its body.
        body: Pieces,
        /// What it takes, on the node's gauge.
        charge: Charge,
    },
    /// Messages whose queues are gone since.
    NoLonger(Lost),
}

/// All that a transaction returns, in the order of publishing: each is found by the number of its first message. Messages
/// of one run need not be neighbours, for others were published between them to other queues.
#[derive(Debug, Default)]
pub struct Returns {
    by_number: BTreeMap<u64, Unroutable>,
}

impl Returns {
    /// Adds what was published under this number.
    pub fn insert(&mut self, number: u64, unroutable: Unroutable) {
        let before = self.by_number.insert(number, unroutable);
        debug_assert!(before.is_none(), "a message is returned once");
    }

    /// Adds what is for nobody any more.
    pub fn add_lost(&mut self, mut lost: Lost) {
        let first = lost.numbers.pop_front();
        debug_assert!(first.is_some(), "each message that may be lost has a number");
        if let Some(number) = first {
            self.insert(number, Unroutable::NoLonger(lost));
        }
    }

    /// Takes out the message that was published first.
    pub fn take_first(&mut self) -> Option<Unroutable> {
        let (_, mut first) = self.by_number.pop_first()?;
        if let Unroutable::NoLonger(lost) = &mut first
            && lost.run.count() > 1
        {
            let run = lost.run.split_front(1);
            let rest = std::mem::replace(lost, Lost { run, numbers: VecDeque::new() });
            self.add_lost(rest);
        }
        Some(first)
    }
}
