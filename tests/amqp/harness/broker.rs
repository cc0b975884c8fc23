//! The broker under test: one of this process that all tests share, one that a test has for itself, or another
//! one altogether.

use std::fs;
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use sluicemq::broker::Broker;
use sluicemq::config::{Config, Secret, UserConfig};
use sluicemq::net::Server;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The variable that names another broker to test.
const TARGET_VARIABLE: &str = "SLUICEMQ_WIRE_TARGET";

/// Small, so that a test meets what happens when the log goes on in its next file. What must be free is as little, so that
/// a disk that is nearly full raises no alarm.
const SLOT_BYTES: u64 = 1 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));

static TARGET: LazyLock<Target> = LazyLock::new(|| match std::env::var(TARGET_VARIABLE) {
    Ok(name) => Target::Other(
        name.to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .unwrap_or_else(|| panic!("{TARGET_VARIABLE} is no address and port: {name}")),
    ),
    Err(_) => Target::Own(OwnBroker::start(|_| {})),
});

/// One that waits for nobody long, and has a user who may go nowhere.
static IMPATIENT: LazyLock<OwnBroker> = LazyLock::new(|| {
    OwnBroker::start(|config| {
        config.limits.header_timeout_ms = 200;
        config.limits.handshake_timeout_ms = 400;
        config.limits.close_timeout_ms = 200;
        config.limits.auth_failure_delay_ms = 100;
        config.users.push(UserConfig {
            name: "nowhere".to_owned(),
            password: Secret::new("secret"),
            vhosts: Vec::new(),
            tags: Vec::new(),
        });
    })
});

enum Target {
    Own(OwnBroker),
    Other(SocketAddr),
}

/// Where the broker under test listens.
pub(crate) fn address() -> SocketAddr {
    match &*TARGET {
        Target::Own(broker) => broker.address,
        Target::Other(address) => *address,
    }
}

/// Whether the broker under test is this crate's.
pub(crate) fn is_ours() -> bool {
    matches!(&*TARGET, Target::Own(_))
}

/// The broker for tests that wait until it loses patience; RabbitMQ's takes three or ten seconds for that.
pub(crate) fn impatient() -> SocketAddr {
    if is_ours() { IMPATIENT.address } else { address() }
}

/// What is expected here, and what of RabbitMQ.
pub(crate) fn expected_of<T>(ours: T, rabbitmq: T) -> T {
    if is_ours() { ours } else { rabbitmq }
}

/// Whether to go on with a test that says nothing about RabbitMQ, and why it does not.
pub(crate) fn only_here(why: &str) -> bool {
    if !is_ours() {
        eprintln!("not asked of RabbitMQ: {why}");
    }
    is_ours()
}

/// A name no other test, run or client uses.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("wire.{}.{}.{what}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An empty directory that only this process uses; what an earlier run left there is gone.
fn fresh_data_dir() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("wire-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("what an earlier run left can go");
    }
    dir
}

/// A broker of this process; it stops when dropped.
pub(crate) struct OwnBroker {
    pub(crate) address: SocketAddr,
    pub(crate) broker: Arc<Broker>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<JoinHandle<()>>,
}

impl OwnBroker {
    /// Starts one with the defaults, changed, on a port of the kernel's choice.
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config { listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()], ..Config::default() };
        config.data_dir = Some(fresh_data_dir());
        config.storage.slot_bytes = SLOT_BYTES;
        config.storage.disk_free_limit = Some(SLOT_BYTES);
        change(&mut config);
        config.validate().expect("a test configures what is valid");
        let _runtime = RUNTIME.enter();
        let server = Server::bind(Arc::new(config)).expect("loopback has a free port");
        let address = server.addresses()[0];
        let broker = Arc::clone(server.broker());
        let (stop, shutdown) = oneshot::channel();
        let stopped = RUNTIME.spawn(run(server, shutdown));
        Self { address, broker, stop: Some(stop), stopped: Some(stopped) }
    }

    /// Stops it as a signal would, and returns at once.
    pub(crate) fn begin_stop(&mut self) {
        // Nobody listens when it has stopped already.
        drop(self.stop.take());
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(stopped) = self.stopped.take() {
            stopped.abort();
        }
    }
}

async fn run(server: Server, shutdown: impl Future) {
    server
        .run(async {
            shutdown.await;
        })
        .await
        .expect("no disk is there to fail");
}
