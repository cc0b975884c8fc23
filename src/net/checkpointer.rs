//! The thread that lets the log's slots be used again, and the tasks that move messages between memory and disk.
//!
//! All of it may wait for the disk, none of it is waited for by a connection.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::broker::Broker;
use crate::broker::checkpoint::{Checkpoint, Progress};
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::net::essential::{essential, essential_blocking};
use crate::storage::error::StoreError;

/// How long the thread rests when there is only something to wait for.
const REST: Duration = Duration::from_millis(5);
/// How long it rests at most when there is nothing to do: each rest is twice as long as the one before.
const LONGEST_REST: Duration = Duration::from_millis(80);
/// After a full disk.
const FULL_REST: Duration = Duration::from_millis(500);
/// How often memory is compared with the share that message bytes may have of it, when there is hardly any left.
const EVICT_INTERVAL: Duration = Duration::from_millis(10);
/// The same, when there is much.
const LONGEST_EVICT_INTERVAL: Duration = Duration::from_millis(100);
/// More than is published in a second.
const BYTES_PER_SECOND: u64 = 4 << 30;
/// After a pack that the disk did not read.
const UNREADABLE_REST: Duration = Duration::from_secs(2);
/// Reads of different queues at once.
const READS_MAX: usize = 4;

/// The running thread.
#[derive(Debug)]
pub(super) struct Checkpointer {
    stop: std::sync::mpsc::Sender<()>,
    thread: JoinHandle<Checkpoint>,
}

impl Checkpointer {
    /// Starts the thread; what ends the store goes to `failed`.
    ///
    /// # Errors
    /// The system's, when it has no thread to give.
    pub(super) fn start(
        broker: Arc<Broker>,
        mut checkpoint: Checkpoint,
        failed: mpsc::UnboundedSender<StoreError>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            essential("checkpoints", || run(&broker, &mut checkpoint, &stopped, &failed));
            checkpoint
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread; the checkpoint, for its last word.
    pub(super) fn stop(self) -> Option<Checkpoint> {
        drop(self.stop);
        self.thread.join().ok()
    }
}

/// Turn after turn, until it is to stop.
fn run(
    broker: &Broker,
    checkpoint: &mut Checkpoint,
    stopped: &std::sync::mpsc::Receiver<()>,
    failed: &mpsc::UnboundedSender<StoreError>,
) {
    let mut rest = Duration::ZERO;
    while stopped.recv_timeout(rest) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        rest = match checkpoint.turn(broker) {
            Ok(Progress::Working) => {
                // As in evictions: a step is shorter than the time that the system would let it have.
                thread::yield_now();
                Duration::ZERO
            }
            Ok(Progress::Idle) => (2 * rest).clamp(REST, LONGEST_REST),
            Ok(Progress::WaitsForLog(_) | Progress::WaitsForReaders) => REST,
            Err(error) if error.is_full() => {
                broker.on_disk_full(&error);
                FULL_REST
            }
            Err(error) => {
                let _nobody_listens_at_the_end = failed.send(error);
                break;
            }
        };
    }
}

/// Lets go of message bytes when memory holds too many, for ever.
pub(super) async fn evict(broker: Arc<Broker>, failed: mpsc::UnboundedSender<StoreError>) {
    let mut is_in_vain = false;
    loop {
        let memory = &broker.node.memory;
        let room = memory.cache_bytes().saturating_sub(memory.messages.read());
        let rest = if is_in_vain { LONGEST_EVICT_INTERVAL } else { evict_interval(room) };
        tokio::time::sleep(rest).await;
        if memory.messages.read() <= memory.cache_bytes() && broker.node.spills.is_empty() {
            continue;
        }
        let own = Arc::clone(&broker);
        let evicted = essential_blocking("evictions", move || {
            let mut is_in_vain = true;
            // A thread that only computes gives others the processor as often as it lets go of a lock: a connection's
            // turn is much shorter than the time that the system would let it have.
            while own.evict(&thread::yield_now)? {
                is_in_vain = false;
            }
            Ok(is_in_vain)
        });
        match evicted.await {
            Some(Ok(in_vain)) => is_in_vain = in_vain && memory.messages.read() > memory.cache_bytes(),
            Some(Err(error)) if StoreError::is_full(&error) => broker.on_disk_full(&error),
            Some(Err(error)) => {
                let _nobody_listens_at_the_end = failed.send(error);
                return;
            }
            None => return,
        }
    }
}

/// How long it takes at least until so many bytes are published.
fn evict_interval(room: u64) -> Duration {
    let until_full = Duration::from_millis(room / (BYTES_PER_SECOND / 1000));
    until_full.clamp(EVICT_INTERVAL, LONGEST_EVICT_INTERVAL)
}

/// Reads back what queues ask for, some at a time, for ever.
pub(super) async fn read_ahead(broker: Arc<Broker>, failed: mpsc::UnboundedSender<StoreError>) {
    let permits = Arc::new(Semaphore::new(READS_MAX));
    loop {
        let queue: Arc<Queue> = std::future::poll_fn(|context| broker.node.reads.poll_take(context)).await;
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (broker, failed) = (Arc::clone(&broker), failed.clone());
        tokio::spawn(async move {
            let own = Arc::clone(&queue);
            let read = essential_blocking("read-ahead", move || {
                let mut wakes = Wakes::default();
                wakes.begin_turn(Now::read().steady_ms);
                let read = own.read_ahead(&mut wakes);
                wakes.fire();
                read
            });
            let read = read.await;
            drop(permit);
            match read {
                Some(Err(error)) if error.is_of_log() => {
                    let _nobody_listens_at_the_end = failed.send(error);
                }
                Some(Err(error)) => {
                    let (queue_name, vhost) = (&queue.properties.name, &queue.properties.vhost);
                    tracing::error!(%error, queue = %queue_name, %vhost, "the queue waits for its messages");
                    tokio::time::sleep(UNREADABLE_REST).await;
                    broker.node.reads.ask_again(&queue);
                }
                _ => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::{
        BYTES_PER_SECOND, Checkpointer, EVICT_INTERVAL, LONGEST_EVICT_INTERVAL, evict_interval, read_ahead,
    };
    use crate::broker::Broker;
    use crate::broker::checkpoint::Checkpoint;
    use crate::broker::memory::Memory;
    use crate::config::Config;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::fact::{Definition, Fact};
    use crate::message::names::Names;
    use crate::message::place::{QueueId, Seq};
    use crate::message::record::Content;
    use crate::message::run::Run;
    use crate::net::essential::tests::check_ends_the_process;
    use crate::storage::disk::watched::WatchedDisk;
    use crate::storage::log::LogOptions;

    /// After this what did not happen never will.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn open(disk: &WatchedDisk) -> (Arc<Broker>, Checkpoint) {
        let memory = Memory::new(u64::MAX, u64::MAX);
        let (config, disk) = (Arc::new(Config::default()), Arc::new(disk.clone()));
        let (broker, checkpoint) = Broker::open(config, disk, LogOptions::default(), memory).unwrap();
        (Arc::new(broker), checkpoint)
    }

    #[test]
    fn a_panic_in_the_thread_of_checkpoints_ends_the_process() {
        check_ends_the_process("a_panic_in_the_thread_of_checkpoints_ends_the_process", || {
            let disk = WatchedDisk::default();
            let (broker, checkpoint) = open(&disk);
            disk.watch(|| panic!("injected"));
            let (failed, mut failures) = mpsc::unbounded_channel();
            let _thread = Checkpointer::start(broker, checkpoint, failed).unwrap();
            // Its end of the channel goes when it does.
            assert!(failures.blocking_recv().is_none());
        });
    }

    #[test]
    fn a_panic_in_a_read_ahead_ends_the_process() {
        check_ends_the_process("a_panic_in_a_read_ahead_ends_the_process", || {
            let disk = WatchedDisk::default();
            let (broker, _checkpoint) = open(&disk);
            let (queue, vhost, name) = (QueueId(1), "/", "q");
            let log = &broker.node.log;
            let mut append = log.append();
            let (auto_delete, arguments) = (false, &[][..]);
            append.push(&Fact::Defined(Definition::QueueDeclared {
                queue,
                vhost,
                name,
                auto_delete,
                arguments,
            }));
            let mut builder = BlockBuilder::default();
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
            let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
            let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
            let run = Run::of_block(block, count, body_bytes);
            append.push(&Fact::Published { run: &run, targets: &[(queue, Seq(1))] });
            drop(append.finish());
            broker.commit().unwrap();
            drop(broker);
            let (broker, _checkpoint) = open(&disk);
            broker.node.reads.ask_again(&broker.vhost("/").unwrap().queue(name).unwrap());
            disk.watch(|| panic!("injected"));
            let (failed, _failures) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let _not_reached =
                runtime.block_on(async { tokio::time::timeout(PATIENCE, read_ahead(broker, failed)).await });
        });
    }

    #[test]
    fn memory_is_looked_at_before_it_can_be_full() {
        for room in [0, 1 << 20, 200 << 20, 1 << 30, u64::MAX] {
            let filled = evict_interval(room).as_millis() * u128::from(BYTES_PER_SECOND) / 1000;
            assert!(filled <= u128::from(room) || evict_interval(room) == EVICT_INTERVAL, "{room}");
        }
        assert_eq!(evict_interval(u64::MAX), LONGEST_EVICT_INTERVAL);
    }
}
