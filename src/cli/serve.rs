//! Runs the broker until a signal says to stop; a second signal does not wait.

use std::io;
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::cli::definitions::Definitions;
use crate::cli::reload::Reload;
use crate::cli::{Failure, advice, logging, supervisor, web};
use crate::config::{Config, Endpoint, LocalSocket, Service};
use crate::mgmt::control::{Ask, Control};
use crate::mgmt::local::{Door, Local};
use crate::mgmt::{self, Listening};
use crate::net::{self, ServeError};

/// Turns of tasks before a worker that is busy asks which sockets are ready. A turn of ours may be long: with the
/// runtime's own 61 of them a quiet connection waited a tenth of a second beside a flooded one. Short turns pay for each
/// time it asks: after every other turn it cost a `basic.get` 4 to 10 %.
const TURNS_PER_POLL: u32 = 16;

/// Serves until SIGTERM or SIGINT, or until an administrator says so, and until every connection was told.
pub(super) fn run(config: Config, definitions: Definitions, reload: Reload) -> Result<(), Failure> {
    raise_file_limit();
    refuse_huge_pages();
    supervisor::take_sockets();
    let runtime = Builder::new_multi_thread().enable_all().event_interval(TURNS_PER_POLL).build();
    let runtime = runtime.context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let signals = Signals::new().context("cannot listen for signals")?;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let reload = Arc::new(reload);
        tokio::spawn(reload_when_asked(Arc::clone(&reload)).context("cannot listen for signals")?);
        tokio::spawn(async move {
            signals.first().await;
            supervisor::stopping();
            stopping.cancel();
        });
        tokio::spawn(supervisor::keep_telling());
        serve(config, definitions, reload, stop).await
    });
    // What still runs then has had its time: do not wait for it.
    runtime.shutdown_background();
    served
}

/// The process's life: the broker runs, and may be stopped and started by who comes by the socket.
async fn serve(
    config: Config,
    definitions: Definitions,
    reload: Arc<Reload>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let (asks, mut asked) = unbounded_channel();
    let node_name = config.identity.node_name().into();
    let lent = Arc::clone(&reload);
    let lent = Arc::new(move || lent.run());
    let control = Control { asks, can_rest: true, node_name, log_level: logging::set_level, reload: lent };
    let (server, mgmt) = bind(&Arc::new(config.clone()), &definitions)?;
    let (socket_stop, mut door, mut socket) = (CancellationToken::new(), None, None);
    if let Some(local) = bind_socket(&config, &control)? {
        local.announce();
        door = Some(local.door());
        socket = Some(tokio::spawn(local.run(socket_stop.clone())));
    }
    let mut bound = Some((server, mgmt));
    let ended = loop {
        let Some((server, mgmt)) = bound.take() else { break Ok(()) };
        reload.begin(Arc::clone(server.broker()), server.tls().cloned());
        mgmt.lend(Control { can_rest: door.is_some(), ..control.clone() });
        door.iter().for_each(|door| door.open(&mgmt));
        server.announce_up();
        supervisor::ready();
        let ended = run_broker(server, mgmt, &stop, &mut asked).await;
        reload.end();
        door.iter().for_each(|door| door.close(None));
        match ended {
            Ok(Some(config)) => bound = rest(config, &definitions, &stop, &mut asked, door.as_ref()).await,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    socket_stop.cancel();
    if let Some(socket) = socket {
        // It ends by itself soon, and has nothing to say.
        let _ = socket.await;
    }
    ended
}

/// The broker runs, with what watches it. With what to start it again, when it has ended and the process is to stay.
async fn run_broker(
    server: net::Server,
    mgmt: mgmt::server::Server,
    stop: &CancellationToken,
    asked: &mut UnboundedReceiver<Ask>,
) -> Result<Option<Config>, Failure> {
    let broker = Arc::clone(server.broker());
    let again = same_places(&server, &mgmt);
    let mgmt_stop = CancellationToken::new();
    let mgmt = tokio::spawn(mgmt.run(mgmt_stop.clone()));
    let mut rests = false;
    let served = server.run(async { rests = until_asked(stop, asked).await }).await;
    mgmt_stop.cancel();
    let _ = mgmt.await;
    match served {
        // What was reloaded since it started stays.
        Ok(()) => Ok(rests.then(|| again.with_live(&broker.in_effect.load()))),
        Err(error @ ServeError::Store { .. }) => {
            tracing::error!(%error, "the store failed: nothing more is confirmed, and the broker stops");
            Err(Failure::Store)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Ends when the broker is to end; whether only that.
async fn until_asked(stop: &CancellationToken, asked: &mut UnboundedReceiver<Ask>) -> bool {
    loop {
        tokio::select! {
            () = stop.cancelled() => return false,
            ask = asked.recv() => match ask {
                Some(Ask::StopApp) => return true,
                Some(Ask::StartApp) => {}
                Some(Ask::Stop) | None => return false,
            },
        }
    }
}

/// Waits to be asked to start the broker again, and opens everything; nothing when the process is to end.
async fn rest(
    config: Config,
    definitions: &Definitions,
    stop: &CancellationToken,
    asked: &mut UnboundedReceiver<Ask>,
    door: Option<&Door>,
) -> Option<(net::Server, mgmt::server::Server)> {
    tracing::info!("the broker is stopped, and the process waits to start it again");
    let config = Arc::new(config);
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            ask = asked.recv() => match ask {
                Some(Ask::StartApp) => match bind(&config, definitions) {
                    Ok(bound) => return Some(bound),
                    Err(failure) => {
                        let why = failure.to_string();
                        tracing::error!(why, "the broker cannot start");
                        door.into_iter().for_each(|door| door.close(Some(why.clone())));
                    }
                },
                Some(Ask::StopApp) => {}
                Some(Ask::Stop) | None => return None,
            },
        }
    }
}

/// The configuration of the next start: where the system had chosen a port it is the same one again.
fn same_places(server: &net::Server, mgmt: &mgmt::server::Server) -> Config {
    let mut config = Config::clone(&server.broker().config);
    config.listeners = same_endpoints(config.listeners, server.addresses());
    if config.tls.is_on() {
        config.tls.listeners = same_endpoints(config.tls.listeners, server.tls_addresses());
    }
    let listening = mgmt.listening();
    for (service, addresses) in [
        (&mut config.mgmt, &listening.mgmt),
        (&mut config.prometheus, &listening.prometheus),
        (&mut config.tls.mgmt, &listening.mgmt_tls),
        (&mut config.tls.prometheus, &listening.prometheus_tls),
    ] {
        if let Service::At(endpoint) = &mut *service {
            let same = same_endpoints(vec![endpoint.clone()], addresses.clone());
            same.into_iter().take(1).for_each(|same| *endpoint = same);
        }
    }
    config
}

/// What was asked for, as it was: shovels know this broker by these names too. Where the system was to choose a port it is
/// what it has chosen.
fn same_endpoints(asked: Vec<Endpoint>, addresses: Vec<SocketAddr>) -> Vec<Endpoint> {
    match asked.iter().all(|endpoint| endpoint.port() != 0) {
        true => asked,
        false => addresses.into_iter().map(Endpoint::Address).collect(),
    }
}

/// Opens everything, and says so: the broker, with the definitions that a start adds, and what watches it beside it.
fn bind(
    config: &Arc<Config>,
    definitions: &Definitions,
) -> Result<(net::Server, mgmt::server::Server), Failure> {
    let server = net::Server::bind(Arc::clone(config)).map_err(|error| refused(&error))?;
    server.announce();
    supervisor::complain_of_sockets(&[server.addresses(), server.tls_addresses()].concat());
    let amqp =
        Listening { amqp: server.addresses(), amqp_tls: server.tls_addresses(), ..Listening::default() };
    let mgmt = mgmt::server::Server::bind(config, server.transfers(), amqp, server.tls().cloned());
    let mgmt = mgmt.map_err(|error| anyhow::Error::msg(advice::of_service(&error)))?;
    mgmt.lend_host(web::host(server.guests()));
    mgmt.announce();
    definitions.add(&mgmt)?;
    Ok((server, mgmt))
}

/// Opens the socket of this machine's administrator, if there is to be one. The data directory is this process's by now,
/// and what lies in it is no other broker's.
fn bind_socket(config: &Config, control: &Control) -> Result<Option<Local>, Failure> {
    let Some(path) = config.socket.path(config.data_dir.as_deref()) else { return Ok(None) };
    match Local::bind(&path, control.clone()) {
        Ok(local) => Ok(Some(local)),
        Err(error) if config.socket == LocalSocket::Usual => {
            tracing::warn!("{error}: `sluicemq ctl` needs --url; another place is named by --socket");
            Ok(None)
        }
        Err(error) => Err(anyhow::Error::msg(format!("{error}: choose another place with --socket")).into()),
    }
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

/// Reloads at each SIGHUP, for ever. From here on it no longer kills the process.
fn reload_when_asked(reload: Arc<Reload>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let reload = Arc::clone(&reload);
            // The log has said what came of it.
            let _ = tokio::task::spawn_blocking(move || reload.run()).await;
        }
    })
}

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

#[cfg(test)]
mod tests {
    use crate::cli::serve::same_endpoints;
    use crate::config::Endpoint;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn a_broker_that_is_started_again_has_the_names_that_it_had() {
        let bound = vec!["127.0.0.1:5672".parse().unwrap(), "127.0.0.2:5672".parse().unwrap()];
        let named = vec![endpoint("mq.example:5672")];
        assert_eq!(same_endpoints(named.clone(), bound.clone()), named);
        let chosen = same_endpoints(vec![endpoint("mq.example:0")], bound);
        assert_eq!(chosen, [endpoint("127.0.0.1:5672"), endpoint("127.0.0.2:5672")]);
    }
}
