//! Listening sockets, and the loop that accepts from one.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::config::Endpoint;
use crate::net::admission::Admission;
use crate::net::{connection, inherited, proxied, secured};
use crate::tls::Store;

/// Connections the kernel holds for us while we are busy.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the kernel has no more descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// After so much silence the kernel asks whether the peer is there, and again so long after each time it hears nothing.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Opens the listening sockets of an endpoint: of a name, one for each address it stands for that this machine has.
///
/// # Errors
/// The system's, to looking up the name or to listening.
pub fn bind(endpoint: &Endpoint) -> io::Result<Vec<TcpListener>> {
    let (host, port) = match endpoint {
        Endpoint::Address(address) => return Ok(vec![open(*address)?]),
        Endpoint::Name { host, port } => (host.as_str(), *port),
    };
    let mut listeners = Vec::new();
    let mut absent = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let addresses: BTreeSet<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    for address in addresses {
        match open(address) {
            Ok(listener) => listeners.push(listener),
            // Many a container knows localhost's IPv6 address and does not have it.
            Err(error) if is_absent(&error) => absent = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(absent) } else { Ok(listeners) }
}

fn is_absent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(socket) = inherited::at(address) {
        return TcpListener::from_std(socket?);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever; each connection becomes a task of `connections`. Clients of a listener with a store come by TLS.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Store>>,
    broker: Arc<Broker>,
    admission: Arc<Admission>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(left_out) = broker.complaints.allow(Instant::now()) {
                    tracing::warn!(%error, left_out, "cannot accept a connection");
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        let is_proxy = broker.config.is_proxy(peer.ip());
        let permit = match is_proxy {
            true => admission.admit_for_another(tls.is_some()),
            false => admission.admit(peer.ip(), tls.is_some(), Instant::now()),
        };
        let Some(permit) = permit else {
            if let Some(left_out) = broker.complaints.allow(Instant::now()) {
                tracing::warn!(%peer, left_out, "connection refused: a limit on connections is reached");
            }
            continue;
        };
        if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
            tracing::debug!(%peer, %error, "the peer is gone already");
            continue;
        }
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        match &tls {
            tls if is_proxy => {
                connections.spawn(proxied::serve(stream, peer, tls.clone(), broker, permit, stop))
            }
            None => connections.spawn(connection::serve(stream, peer, broker, permit, stop, None)),
            Some(tls) => {
                connections.spawn(secured::serve(stream, peer, Arc::clone(tls), broker, permit, stop))
            }
        };
    }
}

/// A peer without heartbeats that is gone, or whose host is, is noticed by the kernel some minutes later.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE).with_interval(KEEP_ALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}
