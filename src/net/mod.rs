//! The async rim: sockets, tasks, timers, signals from the kernel. Below this room nothing knows tokio.
//!
//! One task a connection drives one [`crate::session::Session`]: read, feed, write, wait. [`listener`] accepts,
//! [`admission`] says who may come in, [`proxied`] for whom a proxy comes, `connection` is the task, `stream` what it reads
//! and writes and `secured` one that is encrypted, [`watermark`] how much memory there is, [`inherited`] the sockets of a
//! supervisor, `committer` and `checkpointer` the threads beside the runtime's, `essential` what happens when one of them
//! panics, `store` the data directory, `guests` who comes by WebSocket (`web`), `transfers` the turns of messages that the
//! broker moves itself.

pub mod admission;
mod checkpointer;
mod committer;
mod connection;
mod essential;
#[cfg(feature = "cli")]
pub mod guests;
pub mod inherited;
pub mod listener;
pub mod proxied;
mod secured;
mod store;
mod stream;
mod transfers;
mod trim;
pub mod watermark;
#[cfg(feature = "cli")]
mod web;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::broker::admin::SeedError;
use crate::broker::checkpoint::Checkpoint;
use crate::broker::dead_letters::Burials;
use crate::broker::memory::Memory;
use crate::broker::recover::OpenError;
use crate::clock::Now;
use crate::config::{Config, Endpoint, size};
use crate::net::admission::Admission;
use crate::net::checkpointer::Checkpointer;
use crate::net::committer::Committer;
use crate::net::essential::essential_task;
use crate::net::store::Store;
use crate::storage::error::StoreError;
use crate::tls::{self, TlsError};
use crate::transfer::board::Board;
use crate::transfer::uri::Names;

/// How long clients have to take leave when the broker stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// Unfinished messages take no more than this part of the watermark, whatever part of the memory they may.
const PARTIAL_BODIES_OF_WATERMARK: u64 = 2;
/// How often memory is compared with the watermark, beside the publishers' own looks.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is nothing to serve, or nothing any more. Each says all there is to say: none has a `source`.
#[derive(Debug, Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {endpoint}: {error}")]
    Listen {
        /// The address, or the name.
        endpoint: Endpoint,
        /// The system's own words.
        error: io::Error,
    },
    /// The certificates are not what they should be.
    #[error("{0}")]
    Tls(TlsError),
    /// The system has no thread to give.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A configured user or virtual host cannot be made.
    #[error("{0}")]
    Seed(SeedError),
    /// The broker cannot start on what is there; nothing was served.
    #[error("{}", of_directory(dir, error))]
    Open {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        error: StoreError,
    },
    /// The store failed while it served. Nothing was confirmed since, and only the next start can tell from the disk
    /// what is there.
    #[error("{dir}: {error}")]
    Store {
        /// The data directory.
        dir: String,
        /// What failed.
        error: StoreError,
    },
}

/// Some errors name the directory, others the file in it.
fn of_directory(dir: &Path, error: &StoreError) -> String {
    match error {
        StoreError::InUse(_) | StoreError::Foreign { .. } => error.to_string(),
        _ => format!("the data directory {}: {error}", dir.display()),
    }
}

/// A broker with its listening sockets open.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    transfers: Arc<Board>,
    listeners: Vec<TcpListener>,
    /// Those whose clients come by TLS, and what they are shown.
    tls_listeners: Vec<TcpListener>,
    tls: Option<Arc<tls::Store>>,
    /// Where what is durable lies; without one nothing outlives the broker.
    store: Option<Store>,
    checkpoint: Option<Checkpoint>,
    admission: Arc<Admission>,
    connections: TaskTracker,
    /// Every connection is told to end.
    stop: CancellationToken,
}

impl Server {
    /// Opens the data directory and the configured listeners. Nothing is accepted before [`Server::run`].
    ///
    /// # Errors
    /// The data that cannot be opened, the first address that cannot be listened on, named in the error, or a user
    /// that cannot be made.
    pub fn bind(config: Arc<Config>) -> Result<Self, ServeError> {
        let tls = tls::Store::open(&config.tls, Now::read().unix_ms).map_err(ServeError::Tls)?;
        let listeners = bind(&config.listeners)?;
        let tls_listeners = bind(config.tls.amqp())?;
        let memory_bytes = watermark::memory_bytes();
        let watermark_bytes = config.memory.watermark.bytes_of(memory_bytes);
        let share = (memory_bytes as f64 * config.limits.partial_bodies_fraction) as u64;
        let partial_bodies_max = share.min(watermark_bytes / PARTIAL_BODIES_OF_WATERMARK);
        let dir = config.data_dir.clone().unwrap_or_default();
        let refused = |error| ServeError::Open { dir, error };
        let opened = config.data_dir.as_deref().map(|dir| Store::open(dir, &config.storage));
        let store = match opened.transpose() {
            Ok(store) => store,
            Err(error) => return Err(refused(error)),
        };
        let (broker, checkpoint) = match &store {
            None => {
                let broker = Broker::new(config, watermark_bytes, partial_bodies_max);
                (broker.map_err(ServeError::Seed)?, None)
            }
            Some(Store { directory, log_options }) => {
                let cache_bytes = config.storage.cache_bytes(memory_bytes);
                let memory = Memory::new(watermark_bytes, partial_bodies_max).with_cache(cache_bytes);
                let disk = Arc::clone(directory.disk());
                let opened = Broker::open(config, disk, log_options.clone(), memory);
                let (broker, checkpoint) = opened.map_err(|error| match error {
                    OpenError::Store(error) => refused(error),
                    OpenError::Seed(error) => ServeError::Seed(error),
                })?;
                (broker, Some(checkpoint))
            }
        };
        broker.node.memory.usable_bytes.set(memory_bytes);
        let broker = Arc::new(broker);
        let ports = listeners.iter().filter_map(|listener| listener.local_addr().ok()).map(|own| own.port());
        let names = Names::new(&broker.config.listeners, ports.collect());
        let transfers = Board::new(Arc::clone(&broker), names);
        let store_files = store.as_ref().map_or(0, |_| store::files_max(&broker.config.storage));
        let admission = Arc::new(Admission::new(Arc::clone(&broker.node.limits), store_files));
        Ok(Self {
            broker,
            transfers,
            listeners,
            tls_listeners,
            tls,
            store,
            checkpoint,
            admission,
            connections: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The addresses it listens on: the ports the kernel chose where the configuration said zero.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.listeners)
    }

    /// Those where clients come by TLS.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.tls_listeners)
    }

    /// The certificates that they are shown, where there are any.
    pub fn tls(&self) -> Option<&Arc<tls::Store>> {
        self.tls.as_ref()
    }

    /// Says in the log where it listens, and whom it believes.
    pub fn announce(&self) {
        let proxies = &self.broker.config.proxy_protocol_from;
        if let Some(network) = proxies.iter().find(|network| network.is_everything()) {
            tracing::warn!(
                "proxy_protocol_from is {network}: whoever connects must say where they come from, and is believed; list \
                 the proxies alone, or let nobody else reach these ports"
            );
        }
        for address in self.addresses() {
            tracing::info!(%address, "listening for AMQP 0-9-1");
        }
        for tls_address in self.tls_addresses() {
            tracing::info!(%tls_address, "listening for AMQP 0-9-1 over TLS");
        }
    }

    /// Says in the log that everything is up.
    pub fn announce_up(&self) {
        let memory = &self.broker.node.memory;
        let watermark = size(memory.watermark_bytes());
        let cache = self.store.as_ref().map(|_| size(memory.cache_bytes()));
        let data_dir = self.store.as_ref().map(|store| store.directory.disk().name());
        tracing::info!(
            data_dir,
            memory.watermark = watermark,
            storage.cache = cache,
            "Server startup complete"
        );
    }

    /// The broker behind the sockets.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where those come in whom another room lets in. They are served until [`Server::run`] ends.
    #[cfg(feature = "cli")]
    pub fn guests(&self) -> guests::Guests {
        guests::Guests {
            broker: Arc::clone(&self.broker),
            admission: Arc::clone(&self.admission),
            connections: self.connections.clone(),
            stop: self.stop.clone(),
            tls: self.tls.clone(),
        }
    }

    /// Messages that are moved.
    pub fn transfers(&self) -> &Arc<Board> {
        &self.transfers
    }

    /// Serves until `shutdown`, then closes every connection with 320 and returns. When the store fails it returns at
    /// once, and whatever was not confirmed never is.
    ///
    /// # Errors
    /// [`ServeError::Store`], or that there is no thread for it.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (stop, connections, admission) = (self.stop, self.connections, self.admission);
        let mut background = JoinSet::new();
        let mut committer = None;
        let mut checkpointer = None;
        if let Some(store) = &self.store {
            let started = Committer::start(Arc::clone(&self.broker)).map_err(ServeError::Thread)?;
            let broker = || Arc::clone(&self.broker);
            let disk = Arc::clone(store.directory.disk());
            background.spawn(essential_task("the log's syncs", started.syncing()));
            background.spawn(essential_task("looks at the disk", store::watch(broker(), disk)));
            background.spawn(essential_task("evictions", checkpointer::evict(broker(), started.failures())));
            background
                .spawn(essential_task("read-ahead", checkpointer::read_ahead(broker(), started.failures())));
            if let Some(checkpoint) = self.checkpoint {
                let started = Checkpointer::start(broker(), checkpoint, started.failures());
                checkpointer = Some(started.map_err(ServeError::Thread)?);
            }
            committer = Some(started);
        }
        let broker = || Arc::clone(&self.broker);
        background.spawn(essential_task("looks at memory", watch_memory(broker())));
        background.spawn(essential_task("what ended connections left", release(broker())));
        background.spawn(essential_task("what deleted queues left", work_off_remains(broker())));
        background.spawn(essential_task("deadlines", watch_deadlines(broker())));
        background.spawn(essential_task("dead letters", bury(broker())));
        background.spawn(essential_task("transfers", transfers::run(self.transfers)));
        background.spawn(trim::trim(Arc::clone(&self.broker)));
        let mut accepting = JoinSet::new();
        let plain = self.listeners.into_iter().map(|listener| (listener, None));
        let secured = self.tls_listeners.into_iter().map(|listener| (listener, self.tls.clone()));
        for (listener, tls) in plain.chain(secured) {
            accepting.spawn(listener::accept(
                listener,
                tls,
                Arc::clone(&self.broker),
                Arc::clone(&admission),
                connections.clone(),
                stop.clone(),
            ));
        }
        let stopping = async {
            shutdown.await;
            accepting.shutdown().await;
            stop.cancel();
            connections.close();
            if tokio::time::timeout(SHUTDOWN_LIMIT, connections.wait()).await.is_err() {
                tracing::warn!(left = connections.len(), "connections did not close in time");
            }
        };
        let failed = tokio::select! {
            () = stopping => None,
            error = failure(&mut committer) => Some(error),
        };
        background.shutdown().await;
        let checkpoint = if failed.is_none() { checkpointer.and_then(Checkpointer::stop) } else { None };
        let stopped = if failed.is_none() { committer.map(Committer::stop) } else { None };
        match (failed.or_else(|| stopped?.err()), self.store) {
            (Some(error), Some(store)) => {
                Err(ServeError::Store { dir: store.directory.disk().name(), error })
            }
            _ => {
                // The log is whole without the last word: what is missing is who had seen what.
                if let Some(mut checkpoint) = checkpoint
                    && let Err(error) = checkpoint.close(&self.broker)
                {
                    tracing::error!(%error, "the last checkpoint failed: every message will be redelivered");
                }
                let node = &self.broker.node;
                tracing::info!(
                    batches = node.log.counters.batches.read(),
                    written = size(node.log.counters.bytes.read()),
                    packed_messages = node.counters.packed_messages.read(),
                    evicted_messages = node.counters.evicted_messages.read(),
                    damaged_messages = node.counters.damaged_messages.read(),
                    "stopped; what the store did"
                );
                Ok(())
            }
        }
    }
}

fn bind(endpoints: &[Endpoint]) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for endpoint in endpoints {
        let refused = |error| ServeError::Listen { endpoint: endpoint.clone(), error };
        listeners.extend(listener::bind(endpoint).map_err(refused)?);
    }
    Ok(listeners)
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// What ends the store, if there is one.
async fn failure(committer: &mut Option<Committer>) -> StoreError {
    match committer {
        Some(committer) => committer.failure().await,
        None => std::future::pending().await,
    }
}

/// Delivers what ended connections had published, when it is durable.
async fn release(broker: Arc<Broker>) {
    loop {
        std::future::poll_fn(|context| broker.poll_release(context)).await;
        broker.release(Now::read());
        tokio::task::yield_now().await;
    }
}

/// Lets go of what deleted objects left, a part at a time.
async fn work_off_remains(broker: Arc<Broker>) {
    let remains = &broker.node.remains;
    loop {
        std::future::poll_fn(|context| remains.poll(context)).await;
        remains.step();
        tokio::task::yield_now().await;
    }
}

/// Looks at queues when it is time.
async fn watch_deadlines(broker: Arc<Broker>) {
    let deadlines = &broker.node.deadlines;
    loop {
        let first = deadlines.first();
        let now = Now::read();
        let sooner = std::future::poll_fn(|context| deadlines.poll_sooner(first, context));
        match first.map(|first| Duration::from_millis(first.saturating_sub(now.steady_ms))) {
            Some(Duration::ZERO) => {
                broker.on_deadlines(now);
                tokio::task::yield_now().await;
            }
            Some(rest) => drop(tokio::time::timeout(rest, sooner).await),
            None => sooner.await,
        }
    }
}

/// Takes messages that nobody took where they are to go, a turn at a time.
async fn bury(broker: Arc<Broker>) {
    let mut burials = Burials::default();
    loop {
        std::future::poll_fn(|context| burials.poll(&broker.node, context)).await;
        burials.step(&broker, Now::read());
        tokio::task::yield_now().await;
    }
}

async fn watch_memory(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(MEMORY_CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        broker.look_at_memory(Now::read().instant);
        wake_blocked(&broker).await;
        // With a disk the eviction asks, when it has done what it can.
        let memory = &broker.node.memory;
        if !memory.has_disk() && memory.is_to_slim() {
            broker.ask_holders();
        }
    }
}

/// Lets connections that were blocked by an alarm go on, if it is over: some at a time.
async fn wake_blocked(broker: &Broker) {
    while broker.node.alarms.wake_blocked() {
        tokio::task::yield_now().await;
    }
}
