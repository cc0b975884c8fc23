//! The handshake of a stranger: so long, and beside the runtime's workers where it takes more than a moment.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::store::{Loaded, Store};

/// What a record of a handshake begins with.
const HANDSHAKE: u8 = 0x16;
/// What is looked at of who does not begin so.
const LOOKED_AT_BYTES: usize = 8;

/// What is spoken behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// AMQP: clients may be asked for certificates.
    Amqp,
    /// HTTP.
    Http,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum Refused {
    /// Too slow.
    #[error("the handshake took too long")]
    Late,
    /// The client has left before it said anything.
    #[error("the client has left")]
    Left,
    /// It did not begin with a handshake.
    #[error("{} on a port of TLS", speaks(.0))]
    Stranger(Vec<u8>),
    /// The handshake failed: it has told the client.
    #[error("{0}")]
    Failed(io::Error),
}

/// Does the server's side. A stream that comes from here has proved all that the store asks for.
///
/// # Errors
/// Why not; the socket is closed by then.
pub async fn accept(
    store: &Store,
    stream: TcpStream,
    speaks: Speaks,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Refused> {
    tokio::time::timeout(limit, shake(store, stream, speaks)).await.unwrap_or(Err(Refused::Late))
}

async fn shake(store: &Store, stream: TcpStream, speaks: Speaks) -> Result<TlsStream<TcpStream>, Refused> {
    let mut first = [0; LOOKED_AT_BYTES];
    let count = stream.peek(&mut first).await.map_err(|_| Refused::Left)?;
    match first.get(..count).unwrap_or_default() {
        [] => return Err(Refused::Left),
        [HANDSHAKE, ..] => {}
        other => return Err(Refused::Stranger(other.to_vec())),
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(Refused::Failed)?;
    let server = config(&store.current(), speaks, &begun.client_hello());
    let turn = Arc::clone(&store.turns).acquire_owned().await;
    // The answer to the client's hello is signed here, also when nobody waits for it any more.
    let shake = move || {
        let _turn = turn;
        begun.into_stream(server)
    };
    let rest = tokio::task::spawn_blocking(shake).await;
    rest.map_err(|_| Refused::Left)?.await.map_err(Refused::Failed)
}

/// By the standard who names what they speak, and not what we do, is refused; RabbitMQ does not ask, and nobody is here who
/// speaks anything else.
fn config(loaded: &Loaded, speaks: Speaks, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
    let amqp = &loaded.amqp;
    let is_named = || {
        let mut offered = hello.alpn().into_iter().flatten();
        offered.any(|name| amqp.alpn_protocols.iter().any(|own| own == name))
    };
    match speaks {
        Speaks::Http => &loaded.http,
        Speaks::Amqp if is_named() => amqp,
        Speaks::Amqp => &loaded.amqp_unnamed,
    }
    .clone()
}

fn speaks(first: &[u8]) -> &'static str {
    match first {
        [b'A', b'M', b'Q', b'P', ..] => "AMQP without TLS",
        [b'P', b'R', b'O', ..] | [b'\r', b'\n', ..] => {
            "a PROXY header, from where none is taken (proxy_protocol_from),"
        }
        [b'G' | b'P' | b'H', ..] => "HTTP without TLS",
        _ => "something that is no TLS",
    }
}
