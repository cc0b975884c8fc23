//! A record of the log in which messages came, read back: one block, and which queues have it under which numbers.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::fact_codec::{self, DecodedFact, Target};
use crate::message::place::{Lsn, QueueId};
use crate::message::run::Run;
use crate::stats::Gauge;
use crate::storage::error::StoreError;
use crate::storage::log::{LogReader, SlotLease};

/// The record.
#[derive(Debug)]
pub(super) struct Record {
    start: Lsn,
    targets: Vec<Target>,
    block: Bytes,
}

impl Record {
    /// Reads the record that starts here. What its block is was not verified yet.
    ///
    /// # Errors
    /// When it cannot be read, or says something else.
    pub(super) fn read(reader: &mut LogReader, lease: &SlotLease, start: Lsn) -> Result<Self, StoreError> {
        let (kind, body) = reader.read(lease, start)?;
        let fact = fact_codec::decode(kind, &body).map_err(|error| corrupt(start, error.to_string()))?;
        let DecodedFact::Published(published) = fact else {
            return Err(corrupt(start, "messages were to be here"));
        };
        let block = body.slice(published.block_range.clone());
        Ok(Self { start, targets: published.targets().collect(), block })
    }

    /// The queues that have it.
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The same, when nothing else is wanted any more.
    pub(super) fn into_targets(self) -> Vec<Target> {
        self.targets
    }

    /// How long its block is, in bytes.
    pub(super) fn block_bytes(&self) -> usize {
        self.block.len()
    }

    /// The block's messages, all of them, numbered from zero.
    ///
    /// # Errors
    /// When it is not what was written.
    pub(super) fn run(&self, gauge: &Arc<Gauge>) -> Result<Run, StoreError> {
        Run::from_disk(&self.block, gauge).map_err(|error| corrupt(self.start, error.to_string()))
    }

    /// The messages of a queue, as it numbers them.
    ///
    /// # Errors
    /// As [`Record::run`], or when the queue has none of it.
    pub(super) fn run_of(&self, queue: QueueId, gauge: &Arc<Gauge>) -> Result<Run, StoreError> {
        let target = self.targets.iter().find(|target| target.queue == queue);
        let target =
            target.ok_or_else(|| corrupt(self.start, format!("no message of queue {} is here", queue.0)))?;
        let mut run = self.run(gauge)?.numbered_from(target.first);
        if run.count() > target.count {
            run = run.split_front(target.count);
        }
        Ok(run)
    }
}

fn corrupt(start: Lsn, problem: impl Into<String>) -> StoreError {
    StoreError::Corrupt { file: "log".to_owned(), offset: start.0, problem: problem.into() }
}
