//! Records of the log while a checkpoint takes them over, queue by queue.
//!
//! One that many queues have is read for the first of them. For the others it is enough to know under which numbers they
//! have it: that is kept until the checkpoint is done, no more than the slots that are taken over say themselves.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::broker::node::Node;
use crate::broker::record::Record;
use crate::message::fact_codec::Target;
use crate::message::place::{Lsn, QueueId};
use crate::message::run::Run;
use crate::storage::error::StoreError;
use crate::storage::log::LogReader;
use crate::storage::pack::writer::{Origin, Shared, is_shared};

/// Reads records, and remembers those that many queues have.
#[derive(Debug, Default)]
pub(super) struct Records {
    reader: LogReader,
    /// By where they start: the queues that have each, ascending.
    shared: HashMap<Lsn, Vec<Target>, RandomState>,
}

/// The messages of a record, as one queue has them.
#[derive(Debug)]
pub(super) enum Found {
    /// Few others have them.
    Own(Run),
    /// They are to be written once for all.
    Shared(Shared),
}

impl Records {
    /// The record that starts here, as this queue has it. `None` when its slot is gone: a damaged one was left behind.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn find(
        &mut self,
        node: &Node,
        queue: QueueId,
        start: Lsn,
    ) -> Result<Option<Found>, StoreError> {
        if let Some(targets) = self.shared.get(&start) {
            let at = targets.binary_search_by_key(&queue, |target| target.queue);
            let target = at.ok().and_then(|at| targets.get(at)).copied();
            return Ok(target.map(|target| Found::Shared(shared(start, target))));
        }
        let Some(record) = self.read(node, start)? else { return Ok(None) };
        let targets = record.targets();
        let Some(&target) = targets.iter().find(|target| target.queue == queue) else { return Ok(None) };
        let run = record.run(&node.memory.messages)?;
        if !is_shared(record.block_bytes(), targets.len())
            || targets.iter().any(|other| other.count != run.count())
        {
            return record.run_of(queue, &node.memory.messages).map(|run| Some(Found::Own(run)));
        }
        let mut targets = record.into_targets();
        targets.sort_unstable_by_key(|target| target.queue);
        self.shared.insert(start, targets);
        Ok(Some(Found::Shared(shared(start, target))))
    }

    /// The block of a record, all of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn block(&mut self, node: &Node, start: Lsn) -> Result<Run, StoreError> {
        let record = self.read(node, start)?;
        let gone = || StoreError::Corrupt {
            file: "log".to_owned(),
            offset: start.0,
            problem: "its slot is gone".to_owned(),
        };
        record.ok_or_else(gone)?.run(&node.memory.messages)
    }

    fn read(&mut self, node: &Node, start: Lsn) -> Result<Option<Record>, StoreError> {
        // The slots cannot be retired while they are being so.
        let Some(lease) = node.log.lease(start) else { return Ok(None) };
        Record::read(&mut self.reader, &lease, start).map(Some)
    }
}

fn shared(start: Lsn, target: Target) -> Shared {
    Shared { origin: Origin::Log(start), first: target.first, count: target.count }
}
