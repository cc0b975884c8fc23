//! Runs the broker until a signal says to stop; a second signal does not wait.

use std::io;
use std::process;
use std::sync::Arc;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Failure, advice};
use crate::config::Config;
use crate::mgmt;
use crate::net::{self, ServeError};

/// Turns of tasks before a worker that is busy asks which sockets are ready. A turn of ours may be long: with the
/// runtime's own 61 of them a quiet connection waited a tenth of a second beside a flooded one. Short turns pay for each
/// time it asks: after every other turn it cost a `basic.get` 4 to 10 %.
const TURNS_PER_POLL: u32 = 16;

/// Serves until SIGTERM or SIGINT, and until every connection was told.
pub(super) fn run(config: Config) -> Result<(), Failure> {
    raise_file_limit();
    refuse_huge_pages();
    let runtime = Builder::new_multi_thread().enable_all().event_interval(TURNS_PER_POLL).build();
    let runtime = runtime.context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let signals = Signals::new().context("cannot listen for signals")?;
        let mgmt_stop = CancellationToken::new();
        let (server, mgmt) = bind(&Arc::new(config))?;
        let mgmt = tokio::spawn(mgmt.run(mgmt_stop.clone()));
        let served = server.run(signals.first()).await;
        mgmt_stop.cancel();
        // It ends by itself soon, and has nothing to say.
        let _ = mgmt.await;
        match served {
            Ok(()) => Ok(()),
            Err(error @ ServeError::Store { .. }) => {
                tracing::error!(%error, "the store failed: nothing more is confirmed, and the broker stops");
                Err(Failure::Store)
            }
            Err(error) => Err(refused(&error)),
        }
    });
    // What still runs then has had its time: do not wait for it.
    runtime.shutdown_background();
    served
}

/// Opens everything, and says so: the broker, and what watches it beside it.
fn bind(config: &Arc<Config>) -> Result<(net::Server, mgmt::server::Server), Failure> {
    let server = net::Server::bind(Arc::clone(config)).map_err(|error| refused(&error))?;
    server.announce();
    let mgmt = mgmt::server::Server::bind(config, server.transfers(), server.addresses());
    let mgmt = mgmt.map_err(|error| anyhow::Error::msg(advice::of_service(&error)))?;
    mgmt.announce();
    server.announce_up();
    Ok((server, mgmt))
}

fn refused(error: &ServeError) -> Failure {
    anyhow::Error::msg(advice::sentence(error)).into()
}

/// Every connection is a file descriptor, and many systems start a process with a soft limit of 1024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, soft_limit = limit.current, "cannot raise the limit on open files");
    }
}

/// A page of 2 MiB stays in memory for as long as anything in it is used, and the system makes them of small ones behind
/// our back: when a flood is over hardly any of what it took would go back. Nothing was faster with them.
#[cfg(target_os = "linux")]
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "memory may be in huge pages, and more of it is kept than is used");
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_huge_pages() {}

/// The signals that ask to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on the signals no longer kill the process.
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Ends at the first signal, and from then on a second one ends the process.
    async fn first(mut self) {
        let name = self.next().await;
        tracing::info!(signal = name, "stopping");
        tokio::spawn(async move {
            let name = self.next().await;
            tracing::warn!(signal = name, "stopping at once");
            process::exit(1);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
