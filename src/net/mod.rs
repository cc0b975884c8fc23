//! The async rim: sockets, tasks, timers, signals from the kernel. Below this room nothing knows tokio.
//!
//! One task a connection drives one [`crate::session::Session`]: read, feed, write, wait. [`listener`] accepts,
//! [`admission`] says who may come in, [`connection`] is the task, [`watermark`] how much memory there is.

pub mod admission;
pub mod connection;
pub mod listener;
pub mod watermark;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::config::Config;
use crate::net::admission::Admission;

/// How long clients have to take leave when the broker stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// How often memory is compared with the watermark, beside the publishers' own looks.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A broker with its listening sockets open.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    listeners: Vec<TcpListener>,
}

impl Server {
    /// Opens the configured listeners. Nothing is accepted before [`Server::run`].
    ///
    /// # Errors
    /// The first address that cannot be listened on, named in the error, or a user that cannot be made.
    pub fn bind(config: Arc<Config>) -> io::Result<Self> {
        let listeners =
            config.listeners.iter().map(|&address| listener::bind(address)).collect::<Result<_, _>>()?;
        let memory_bytes = watermark::memory_bytes();
        let watermark_bytes = config.memory.watermark.bytes_of(memory_bytes);
        let partial_bodies_max = (memory_bytes as f64 * config.limits.partial_bodies_fraction) as u64;
        let broker = Broker::new(config, watermark_bytes, partial_bodies_max)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { broker: Arc::new(broker), listeners })
    }

    /// The addresses it listens on: the ports the kernel chose where the configuration said zero.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The broker behind the sockets.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Serves until `shutdown`, then closes every connection with 320 and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let admission = Arc::new(Admission::new(&self.broker.config.limits));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(listener::accept(
                listener,
                Arc::clone(&self.broker),
                Arc::clone(&admission),
                connections.clone(),
                stop.clone(),
            ));
        }
        accepting.spawn(watch_memory(Arc::clone(&self.broker)));
        accepting.spawn(release(Arc::clone(&self.broker)));
        shutdown.await;
        accepting.shutdown().await;
        stop.cancel();
        connections.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections did not close in time");
        }
    }
}

/// Serves the configuration until `shutdown`.
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(config: Arc<Config>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let server = Server::bind(config)?;
    for address in server.addresses() {
        tracing::info!(%address, "listening for AMQP 0-9-1");
    }
    let watermark_bytes = server.broker.node.memory.watermark_bytes();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), watermark_bytes, "Server startup complete");
    server.run(shutdown).await;
    Ok(())
}

/// Delivers what ended connections had published, when it is durable.
async fn release(broker: Arc<Broker>) {
    loop {
        std::future::poll_fn(|context| broker.poll_release(context)).await;
        broker.release();
    }
}

async fn watch_memory(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(MEMORY_CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        broker.measure_index();
        broker.check_memory();
    }
}
