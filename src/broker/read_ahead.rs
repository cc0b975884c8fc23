//! Bringing messages back whose bytes are on the disk only.
//!
//! A queue that meets such messages at its head asks here, once, and goes on with something else. Whoever runs the
//! requests (a task that may wait for the disk, or a simulation's step) reads about a mebibyte for it, puts the
//! messages into their place and dispatches. Consumers that compete share one read, and no session knows the disk.
//!
//! ```text
//! queue: head is away -> ask -> take -> [lock: plan, lease] -> read -> [lock: fill, dispatch]
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::broker::node::Node;
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::Wakes;
use crate::message::fact_codec::{self, DecodedFact};
use crate::message::place::{Extent, Lsn, Place, QueueId, Seq};
use crate::message::run::Run;
use crate::queue::classic::Head;
use crate::queue::ledger::Where;
use crate::storage::error::StoreError;
use crate::storage::log::{LogReader, SlotLease};
use crate::storage::pack::Kind;
use crate::storage::pack::shelf::PackLease;

/// How much one read brings back, about, by what is known of the bodies' sizes.
const READ_BYTES: u64 = 1024 * 1024;
/// How many places one read visits at most.
const PLACES_MAX: usize = 1000;

/// Queues whose heads are to be read back.
#[derive(Debug, Default)]
pub struct ReadRequests {
    state: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    queues: VecDeque<Arc<Queue>>,
    waker: Option<Waker>,
}

impl ReadRequests {
    /// Takes a request in; a leaf lock, taken under the queue's.
    pub(super) fn ask(&self, queue: &Arc<Queue>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.queues.push_back(Arc::clone(queue));
        if let Some(waker) = state.waker.take() {
            wakes.owe(waker);
        }
    }

    /// Takes a request in again that could not be met.
    pub fn ask_again(&self, queue: &Arc<Queue>) {
        let mut wakes = Wakes::default();
        self.ask(queue, &mut wakes);
        wakes.fire();
    }

    /// The next request.
    pub fn take(&self) -> Option<Arc<Queue>> {
        self.state.lock().queues.pop_front()
    }

    /// The next request, or the caller is woken when there is one.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Arc<Queue>> {
        let mut state = self.state.lock();
        match state.queues.pop_front() {
            Some(queue) => Poll::Ready(queue),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What one read will fetch: planned under the queue's lock, where places are as they are said to be. The leases
/// keep them so.
#[derive(Debug)]
struct Plan {
    first: Seq,
    end: Seq,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Record { start: Lsn, lease: SlotLease },
    Extent { at: Extent, pack: PackLease },
    Block { offset: u64, pack: PackLease },
    Lost,
}

impl Queue {
    /// Reads back what is away at the head, and delivers it. What is damaged is left out and told to the log.
    ///
    /// # Errors
    /// When the disk does not read. The queue keeps its place and waits: whoever runs the request runs it again later,
    /// unless it is the log that cannot be read ([`StoreError::is_of_log`]).
    pub fn read_ahead(self: &Arc<Self>, wakes: &mut Wakes) -> Result<(), StoreError> {
        let plan = {
            let mut state = self.lock();
            match self.plan_read(&state)? {
                Some(plan) => plan,
                None => {
                    state.is_reading = false;
                    return Ok(());
                }
            }
        };
        let runs = self.read(&plan)?;
        let mut state = self.lock();
        state.is_reading = false;
        let missing = state.classic.fill(plan.first, plan.end, runs);
        if !missing.is_empty() {
            let messages: u64 = missing.iter().map(|(first, end)| end.0 - first.0).sum();
            self.node.counters.damaged_messages.add(messages);
            let (queue, vhost) = (&self.properties.name, &self.properties.vhost);
            tracing::error!(%queue, %vhost, messages, ?missing, "messages are damaged on the disk and set aside");
        }
        self.dispatch(&mut state, wakes);
        Ok(())
    }

    fn plan_read(&self, state: &State) -> Result<Option<Plan>, StoreError> {
        let Head::Away(away) = state.classic.head() else { return Ok(None) };
        let ledger = &state.classic.ledger;
        let usual_bytes = away.body_bytes / away.count.max(1) + 1;
        let mut plan = Plan { first: away.first, end: away.first, pieces: Vec::new() };
        let mut bytes = 0;
        let mut lease: Option<SlotLease> = None;
        let mut from = away.first;
        while bytes < READ_BYTES
            && plan.pieces.len() < PLACES_MAX
            && let Some((first, _)) = ledger.live_ranges(from, away.end).next()
            && let Some((place, end)) = ledger.place_and_end(first)
        {
            let end = end.min(away.end);
            let piece = match place {
                Where::At(Place::Log(start)) => {
                    if lease.as_ref().is_none_or(|lease| !lease.covers(start)) {
                        lease = self.node.log.lease(start);
                    }
                    bytes += usual_bytes * (end.0 - first.0);
                    match lease.clone() {
                        Some(lease) => Piece::Record { start, lease },
                        // A checkpoint found it damaged and left it behind in a slot that is gone.
                        None => Piece::Lost,
                    }
                }
                Where::At(Place::Pack { number, offset }) => {
                    bytes += usual_bytes * (end.0 - first.0);
                    Piece::Block { offset, pack: self.node.shelf.lease(Kind::Spill, number)? }
                }
                Where::In(at) => {
                    bytes += u64::from(at.bytes);
                    match self.node.shelf.lease(Kind::Durable, at.pack) {
                        Ok(pack) => Piece::Extent { at, pack },
                        Err(damage) if damage.is_damage() => {
                            tracing::error!(%damage, "a pack is damaged");
                            Piece::Lost
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            plan.pieces.push(piece);
            plan.end = end;
            from = end;
        }
        if plan.pieces.is_empty() {
            plan.end = away.end;
        }
        Ok(Some(plan))
    }

    fn read(&self, plan: &Plan) -> Result<Vec<Run>, StoreError> {
        let gauge = &self.node.memory.messages;
        let mut reader = LogReader::default();
        let mut runs: Vec<Run> = Vec::new();
        for piece in &plan.pieces {
            let read = match piece {
                Piece::Record { start, lease } => {
                    read_record(&mut reader, lease, *start, self.id, &self.node)
                }
                Piece::Block { offset, pack } => pack.read_block(self.id, *offset, gauge),
                Piece::Lost => continue,
                Piece::Extent { at, pack } => {
                    let read = pack.read_extent(self.id, at, gauge)?;
                    for damage in &read.damaged {
                        tracing::error!(%damage, "a pack is damaged");
                    }
                    runs.extend(read.runs);
                    continue;
                }
            };
            match read {
                Ok(run) => runs.push(run),
                Err(damage) if damage.is_damage() => tracing::error!(%damage, "a message is damaged"),
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }
}

/// The messages of a record of the log, numbered as this queue numbers them.
pub(super) fn read_record(
    reader: &mut LogReader,
    lease: &SlotLease,
    start: Lsn,
    queue: QueueId,
    node: &Node,
) -> Result<Run, StoreError> {
    let (kind, body) = reader.read(lease, start)?;
    let corrupt = |problem: String| StoreError::Corrupt { file: "log".to_owned(), offset: start.0, problem };
    let fact = fact_codec::decode(kind, &body).map_err(|error| corrupt(error.to_string()))?;
    let DecodedFact::Published(published) = fact else {
        return Err(corrupt("messages were to be here".to_owned()));
    };
    let target = published.targets().find(|target| target.queue == queue);
    let target = target.ok_or_else(|| corrupt(format!("no message of queue {} is here", queue.0)))?;
    let block: Bytes = body.slice(published.block_range.clone());
    let run = Run::from_disk(&block, &node.memory.messages).map_err(|error| corrupt(error.to_string()))?;
    let mut run = run.numbered_from(target.first);
    if run.count() > target.count {
        run = run.split_front(target.count);
    }
    Ok(run)
}
