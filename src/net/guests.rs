//! Clients that another room has let in: by WebSocket, after a request by HTTP. They are counted, served and sent away like
//! those of our own listeners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::net::admission::{Admission, Permit};
use crate::net::secured::Secured;
use crate::net::web::Web;
use crate::net::{connection, listener};
use crate::tls::{Store, agreed};

/// Where they come in. A handle: clones are the same place.
#[derive(Clone, Debug)]
pub struct Guests {
    pub(super) broker: Arc<Broker>,
    pub(super) admission: Arc<Admission>,
    pub(super) connections: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) tls: Option<Arc<Store>>,
}

impl Guests {
    /// A place for a client of this address, if there is one.
    pub fn admit(&self, peer: SocketAddr) -> Option<Permit> {
        let permit = self.admission.admit(peer.ip(), false, Instant::now());
        if permit.is_none()
            && let Some(left_out) = self.broker.complaints.allow(Instant::now())
        {
            tracing::warn!(%peer, left_out, "WebSocket refused: a limit on connections is reached");
        }
        permit
    }

    /// Serves a client whose handshake is over, behind which this was read already.
    pub fn serve(&self, permit: Permit, socket: TcpStream, peer: SocketAddr, read: &[u8]) {
        if prepare(&socket).is_ok() {
            let served = connection::serve(
                Web::new(socket, read),
                peer,
                Arc::clone(&self.broker),
                permit,
                self.stop.clone(),
                None,
            );
            self.connections.spawn(served);
        }
    }

    /// The same for one that came by TLS.
    pub fn serve_secured(&self, permit: Permit, stream: TlsStream<TcpStream>, peer: SocketAddr, read: &[u8]) {
        let Some(store) = &self.tls else { return };
        let (socket, tls) = stream.into_inner();
        if prepare(&socket).is_ok() {
            let encryption = agreed(&tls, store.settings());
            let served = connection::serve(
                Web::new(Secured::new(socket, tls), read),
                peer,
                Arc::clone(&self.broker),
                permit,
                self.stop.clone(),
                Some(encryption),
            );
            self.connections.spawn(served);
        }
    }
}

/// A socket as our listeners have them: who is slow to read is not gone.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_user_timeout(None)?;
    socket.set_nodelay(true)?;
    listener::keep_alive(socket)
}
