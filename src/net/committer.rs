//! The thread that makes the log durable: it waits for work, commits, and reports what ends the store.
//!
//! It is a thread of its own because it spends its life in one system call after the other, and everybody waits for
//! it. When it panics the process ends ([`crate::net::essential`]): nothing would ever be confirmed again.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::clock::Now;
use crate::config::Durability;
use crate::net::essential::{essential, essential_blocking};
use crate::storage::error::StoreError;
use crate::storage::log::Committed;

/// The running thread, and what it has to say.
#[derive(Debug)]
pub(super) struct Committer {
    broker: Arc<Broker>,
    thread: Option<JoinHandle<()>>,
    failures: mpsc::UnboundedReceiver<StoreError>,
    /// Keeps the channel open, so that waiting for a failure has no other end.
    failed: mpsc::UnboundedSender<StoreError>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, when it has no thread to give.
    pub(super) fn start(broker: Arc<Broker>) -> io::Result<Self> {
        // At most one failure of each kind of thread is ever sent.
        let (failed, failures) = mpsc::unbounded_channel();
        let (own, report) = (Arc::clone(&broker), failed.clone());
        let thread = thread::Builder::new().name("commit".to_owned()).spawn(move || {
            if let Err(error) = essential("the log's commits", || commit(&own)) {
                let _nobody_listens_at_the_end = report.send(error);
            }
        })?;
        Ok(Self { broker, thread: Some(thread), failures, failed })
    }

    /// Where others report what ends the store.
    pub(super) fn failures(&self) -> mpsc::UnboundedSender<StoreError> {
        self.failed.clone()
    }

    /// Why the store can take nothing more; ends only then.
    pub(super) async fn failure(&mut self) -> StoreError {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Syncs at the configured interval, where batches are not synced one by one.
    pub(super) fn syncing(&self) -> impl Future<Output = ()> + use<> {
        let (broker, failed) = (Arc::clone(&self.broker), self.failed.clone());
        async move {
            if broker.config.storage.durability != Durability::Interval {
                return;
            }
            let interval = Duration::from_millis(broker.config.storage.interval_ms);
            loop {
                tokio::time::sleep(interval).await;
                let own = Arc::clone(&broker);
                let synced = essential_blocking("the log's syncs", move || own.node.log.sync()).await;
                if let Some(Err(error)) = synced {
                    let _nobody_listens_at_the_end = failed.send(error);
                    return;
                }
            }
        }
    }

    /// Commits what is left and ends the thread. Then everything that was confirmed survives a power cut, also where
    /// batches are not synced one by one: who has stopped a broker may switch off the machine.
    ///
    /// # Errors
    /// What ends the store.
    pub(super) fn stop(mut self) -> Result<(), StoreError> {
        self.broker.node.log.close();
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "a panic has ended the process");
        }
        match self.failures.try_recv() {
            // What found no room was never confirmed.
            Ok(error) if error.is_full() => tracing::warn!(%error, "what was not confirmed is not kept"),
            Ok(error) => return Err(error),
            Err(_) => {}
        }
        self.broker.node.log.sync()
    }
}

/// Commits until the log is closed and everything in it is durable.
fn commit(broker: &Broker) -> Result<(), StoreError> {
    let log = &broker.node.log;
    let mut had_room = true;
    loop {
        // A batch that found no room is tried again, also when nobody appends anything more.
        let goes_on = if had_room { log.wait_for_work() } else { log.wait_for_room() };
        had_room = true;
        let began = Now::read().instant;
        match broker.commit() {
            Ok(Committed::Batch) => {
                let took = Now::read().instant.saturating_duration_since(began);
                broker.node.counters.commit_micros.bump(took.as_micros() as u64);
            }
            Ok(Committed::Nothing) if goes_on => {}
            Ok(Committed::Nothing) => return Ok(()),
            // Nothing is lost: publishers wait until there is room.
            Err(error) if error.is_full() && goes_on => {
                broker.on_disk_full(&error);
                had_room = false;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::broker::memory::Memory;
    use crate::config::Config;
    use crate::message::fact::{Definition, Fact};
    use crate::message::place::QueueId;
    use crate::net::essential::tests::check_ends_the_process;
    use crate::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
    use crate::storage::disk::watched::WatchedDisk;
    use crate::storage::log::{LogOptions, SyncMode};

    /// After this what did not happen never will.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < patience, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn what_found_no_room_is_committed_when_there_is_some_though_nobody_appends() {
        let disk = SimulatedDisk::new();
        let options = LogOptions { slot_bytes: 64 * 1024, ..LogOptions::default() };
        let memory = Memory::new(u64::MAX, u64::MAX);
        let opened = Broker::open(Arc::new(Config::default()), Arc::new(disk.clone()), options, memory);
        let broker = Arc::new(opened.unwrap().0);
        let log = &broker.node.log;
        // One fills most of a slot, two need another.
        let append = || {
            let (_, applying) = log.append_one(&Fact::Defined(Definition::QueueDeclared {
                queue: QueueId(1),
                vhost: "/",
                name: "q",
                auto_delete: false,
                arguments: &[0; 40_000],
            }));
            drop(applying);
        };
        let committer = Committer::start(Arc::clone(&broker)).unwrap();
        append();
        wait_until("the first is never durable", || log.durable() == log.end());
        disk.set_capacity(0);
        append();
        wait_until("nobody noticed that there is no room", || broker.node.alarms.reason().is_some());
        assert!(log.durable() < log.end());
        disk.set_capacity(u64::MAX);
        wait_until("it was forgotten", || log.durable() == log.end());
        committer.stop().unwrap();
    }

    fn open(disk: &SimulatedDisk, sync: SyncMode) -> Arc<Broker> {
        let options = LogOptions { sync, ..LogOptions::default() };
        let memory = Memory::new(u64::MAX, u64::MAX);
        let opened = Broker::open(Arc::new(Config::default()), Arc::new(disk.clone()), options, memory);
        Arc::new(opened.unwrap().0)
    }

    fn declare_queue(broker: &Broker) {
        let (_, applying) = broker.node.log.append_one(&Fact::Defined(Definition::QueueDeclared {
            queue: QueueId(1),
            vhost: "/",
            name: "q",
            auto_delete: false,
            arguments: &[],
        }));
        drop(applying);
    }

    #[test]
    fn after_a_stop_the_power_may_be_cut_in_every_mode() {
        for sync in [SyncMode::EachBatch, SyncMode::Interval, SyncMode::Never] {
            let disk = SimulatedDisk::new();
            let broker = open(&disk, sync);
            declare_queue(&broker);
            Committer::start(Arc::clone(&broker)).unwrap().stop().unwrap();
            let found = open(&disk.crash(CrashMode::NothingUnsynced, 0), SyncMode::EachBatch);
            assert!(found.vhost("/").unwrap().queue("q").is_some(), "{sync:?}");
        }
    }

    #[test]
    fn a_stop_whose_last_sync_fails_says_so() {
        for sync in [SyncMode::EachBatch, SyncMode::Interval, SyncMode::Never] {
            let disk = SimulatedDisk::new();
            let broker = open(&disk, sync);
            declare_queue(&broker);
            broker.node.log.commit_once().unwrap();
            declare_queue(&broker);
            // The write succeeds, and the sync behind it does not.
            disk.fail_at(disk.calls() + 1, Fault::SyncFails);
            assert!(Committer::start(broker).unwrap().stop().is_err(), "{sync:?}");
        }
    }

    #[test]
    fn a_panic_in_the_thread_that_commits_ends_the_process() {
        check_ends_the_process("a_panic_in_the_thread_that_commits_ends_the_process", || {
            let disk = WatchedDisk::default();
            let memory = Memory::new(u64::MAX, u64::MAX);
            let opened = Broker::open(
                Arc::new(Config::default()),
                Arc::new(disk.clone()),
                LogOptions::default(),
                memory,
            );
            let broker = Arc::new(opened.unwrap().0);
            let _committer = Committer::start(Arc::clone(&broker)).unwrap();
            disk.watch(|| panic!("injected"));
            let (_, applying) =
                broker.node.log.append_one(&Fact::Defined(Definition::QueueDeleted { queue: QueueId(1) }));
            drop(applying);
            wait_until("the process goes on", || false);
        });
    }
}
