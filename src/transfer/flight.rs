//! What was published and not answered, by the numbers with which it is confirmed, and what was refused and is to be
//! published once more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::stats::{Charge, Gauge};
use crate::transfer::message::Message;

/// A message that is taken and not yet anywhere else.
#[derive(Debug)]
pub(super) struct Flight {
    /// By which the source knows it; `None` when it is acknowledged there.
    pub(super) tag: Option<u64>,
    pub(super) message: Message,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Flights {
    published: BTreeMap<u64, Flight>,
    last: u64,
    refused: VecDeque<Flight>,
    charge: Charge,
}

impl Flights {
    /// None; what they take is on this gauge.
    pub(super) fn new(gauge: &Arc<Gauge>) -> Self {
        Self { published: BTreeMap::new(), last: 0, refused: VecDeque::new(), charge: Charge::new(gauge, 0) }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.published.len() + self.refused.len()
    }

    /// Those that were published and not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.published.len()
    }

    /// What they take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// One is published.
    pub(super) fn publish(&mut self, flight: Flight) {
        self.charge.grow(flight.message.bytes());
        self.last += 1;
        self.published.insert(self.last, flight);
    }

    /// The broker has answered for this number, or for all up to it.
    pub(super) fn answered(&mut self, number: u64, multiple: bool) -> Vec<Flight> {
        let answered = match multiple {
            false => self.published.remove(&number).into_iter().collect(),
            true => {
                let through = if number == 0 { u64::MAX } else { number };
                let rest = self.published.split_off(&through.saturating_add(1));
                std::mem::replace(&mut self.published, rest).into_values().collect::<Vec<_>>()
            }
        };
        answered.iter().for_each(|flight| self.charge.shrink(flight.message.bytes()));
        answered
    }

    /// A message has come back, for no queue takes it. Which one it was the broker does not say: of those that are alike
    /// any will do.
    pub(super) fn returned(
        &mut self,
        exchange: &[u8],
        key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> Option<Flight> {
        let is_it = |message: &Message| {
            message.exchange == exchange
                && message.key == key
                && message.properties == properties
                && message.body == body
        };
        let (&number, _) = self.published.iter().find(|(_, flight)| is_it(&flight.message))?;
        let flight = self.published.remove(&number)?;
        self.charge.shrink(flight.message.bytes());
        Some(flight)
    }

    /// One that was refused is kept, to be published once more.
    pub(super) fn keep(&mut self, flight: Flight) {
        self.charge.grow(flight.message.bytes());
        self.refused.push_back(flight);
    }

    /// The next of those.
    pub(super) fn take_refused(&mut self) -> Option<Flight> {
        let flight = self.refused.pop_front()?;
        self.charge.shrink(flight.message.bytes());
        Some(flight)
    }
}
