//! Mandatory messages of a transaction that nobody takes.

use crate::message::block::Pieces;
use crate::message::names::NamesBuf;
use crate::message::run::Run;
use crate::stats::Charge;

/// What a transaction returns when it commits.
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
    NoLonger(Run),
}
