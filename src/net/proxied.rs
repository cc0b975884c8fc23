//! Connections by a proxy: before anything else it says in a PROXY header for whom it comes. Only listed sources are
//! believed, and they must say so.
//!
//! A header is read to its last octet and no further: what is behind it may be the beginning of a TLS handshake.
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ppp::{PartialResult, v1, v2};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::net::admission::Permit;
use crate::net::{connection, secured};
use crate::tls::Store;

/// How each version begins.
const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = v2::PROTOCOL_PREFIX;
/// Where the binary one tells its length, and how long it is up to there.
const LENGTH_AT: usize = 14;
const FIXED_BYTES: usize = 16;
/// No text is longer.
const TEXT_BYTES_MAX: usize = 107;
/// Nor any other: certificates of clients may be told in one, and nobody here wants to know.
const HEADER_BYTES_MAX: usize = 2048;
/// What is shown in the log of who has none, in bytes.
const SHOWN_BYTES: usize = 8;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length.
    pub bytes: usize,
    /// For whom the proxy comes; nobody where it comes for itself, or does not know.
    pub source: Option<SocketAddr>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum Refused {
    /// It does not begin with one.
    #[error("no PROXY header, but {:?}", .0.escape_ascii().to_string())]
    Missing(Vec<u8>),
    /// It is not as it should be.
    #[error("{0}")]
    Malformed(String),
    /// It declares more than anybody has to say.
    #[error("a PROXY header of more than {TEXT_BYTES_MAX} bytes as text, or {HEADER_BYTES_MAX}")]
    TooLong,
    /// It did not come in time.
    #[error("the PROXY header took too long")]
    Late,
    /// The proxy has left: many look so whether somebody listens.
    #[error("the proxy has left")]
    Left,
}

/// Looks for a header at the beginning of these bytes; `None` where more are to come.
///
/// # Errors
/// What is wrong with it, as soon as that can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Refused> {
    if begins_like(bytes, BINARY) {
        let declared = bytes.get(LENGTH_AT..FIXED_BYTES).and_then(|length| <[u8; 2]>::try_from(length).ok());
        if declared
            .is_some_and(|length| FIXED_BYTES + usize::from(u16::from_be_bytes(length)) > HEADER_BYTES_MAX)
        {
            return Err(Refused::TooLong);
        }
        return match v2::Header::try_from(bytes) {
            Ok(header) => Ok(Some(Header { bytes: header.len(), source: of_binary(&header) })),
            Err(error) if error.is_incomplete() => Ok(None),
            Err(error) => Err(Refused::Malformed(error.to_string())),
        };
    }
    if !begins_like(bytes, TEXT) {
        return Err(Refused::Missing(bytes.get(..SHOWN_BYTES).unwrap_or(bytes).to_vec()));
    }
    let most = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
    match most.windows(2).position(|two| two == b"\r\n") {
        Some(end) => of_text(most.get(..end + 2).unwrap_or_default()).map(Some),
        None if most.len() < TEXT_BYTES_MAX => Ok(None),
        None => Err(Refused::TooLong),
    }
}

fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(octet, expected)| octet == expected)
}

fn of_text(line: &[u8]) -> Result<Header, Refused> {
    let header = v1::Header::try_from(line).map_err(|error| Refused::Malformed(error.to_string()))?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(v4) => Some((v4.source_address, v4.source_port).into()),
        v1::Addresses::Tcp6(v6) => Some((v6.source_address, v6.source_port).into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Header { bytes: line.len(), source })
}

fn of_binary(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(v4)) => Some((v4.source_address, v4.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(v6)) => Some((v6.source_address, v6.source_port).into()),
        _ => None,
    }
}

/// Reads the header of an accepted socket, and serves whoever it names until either side ends it.
pub(super) async fn serve(
    mut stream: TcpStream,
    proxy: SocketAddr,
    tls: Option<Arc<Store>>,
    broker: Arc<Broker>,
    mut permit: Permit,
    stop: CancellationToken,
) {
    let limit = Duration::from_millis(broker.node.limits().header_timeout_ms);
    let read = tokio::select! {
        read = tokio::time::timeout(limit, read(&mut stream)) => read.unwrap_or(Err(Refused::Late)),
        () = stop.cancelled() => return,
    };
    let peer = match read {
        Ok(header) => peer_of(header, proxy),
        Err(Refused::Left) => return,
        Err(refused) => {
            if let Some(left_out) = broker.complaints.allow(Instant::now()) {
                tracing::warn!(%proxy, left_out, "connection by a proxy refused: {refused}");
            }
            return;
        }
    };
    if !permit.comes_from(peer.ip(), Instant::now()) {
        if let Some(left_out) = broker.complaints.allow(Instant::now()) {
            tracing::warn!(%peer, %proxy, left_out, "connection refused: a limit on connections is reached");
        }
        return;
    }
    match tls {
        None => connection::serve(stream, peer, broker, permit, stop, None).await,
        Some(tls) => secured::serve(stream, peer, tls, broker, permit, stop).await,
    }
}

/// Whose connection it is. What is loopback to a proxy of another machine is not so to us: it is that machine.
fn peer_of(header: Header, proxy: SocketAddr) -> SocketAddr {
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    header.source.filter(|source| !is_loopback(source) || is_loopback(&proxy)).unwrap_or(proxy)
}

async fn read(stream: &mut TcpStream) -> Result<Header, Refused> {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let mut taken = 0;
    loop {
        let seen = stream.peek(bytes.get_mut(taken..).unwrap_or_default()).await.map_err(left)?;
        if seen == 0 {
            return Err(Refused::Left);
        }
        let header = parse(bytes.get(..taken + seen).unwrap_or_default())?;
        // Of what is not the whole header all belongs to it.
        let end = header.map_or(taken + seen, |header| header.bytes);
        stream.read_exact(bytes.get_mut(taken..end).unwrap_or_default()).await.map_err(left)?;
        taken = end;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

fn left(_: io::Error) -> Refused {
    Refused::Left
}

#[cfg(test)]
mod tests {
    use super::{FIXED_BYTES, HEADER_BYTES_MAX, Header, Refused, parse, peer_of};

    const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 5672\r\n";

    /// Version 2 with this command, family and payload, which is declared as so many bytes longer than it is.
    fn v2(command: u8, family: u8, payload: &[u8], more: usize) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x20 | command, family]);
        header.extend(((payload.len() + more) as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    fn v4() -> Vec<u8> {
        v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0xc7, 0x38, 0x16, 0x28], 0)
    }

    #[test]
    fn both_versions_say_for_whom() {
        let six: Vec<u8> = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let six = v2(1, 0x21, &[&six[..], &[0xc7, 0x38, 0x16, 0x28]].concat(), 0);
        let with_tlvs = v2(1, 0x11, &[&v4()[FIXED_BYTES..], &[0x20, 0, 2, 1, 2, 9]].concat(), 0);
        for (header, source) in [
            (V1, Some("203.0.113.7:51000")),
            (b"PROXY TCP6 2001:db8::1 ::1 51000 5672\r\n", Some("[2001:db8::1]:51000")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN 203.0.113.7 10.0.0.1 51000 5672\r\n", None),
            (&v4(), Some("203.0.113.7:51000")),
            (&six, Some("[2001:db8::1]:51000")),
            (&with_tlvs, Some("203.0.113.7:51000")),
            (&v2(0, 0x11, &v4()[FIXED_BYTES..], 0), None),
            (&v2(0, 0, &[], 0), None),
            (&v2(1, 0x31, &[7; 216], 0), None),
        ] {
            let source = source.map(|source| source.parse().unwrap());
            let whole = Header { bytes: header.len(), source };
            let followed = [header, b"AMQP\0\0\x09\x01\r\n"].concat();
            assert_eq!(parse(&followed).unwrap(), Some(whole), "{}", header.escape_ascii());
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]).unwrap(), None, "{cut} of {}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_none_is_refused_as_soon_as_it_can_be_told() {
        for stranger in [&b"AMQP\0\0\x09\x01"[..], b"A", b"\x16", b"PROXIED", b"\r\n\r\n\0\r\nQUIT\r"] {
            assert!(matches!(parse(stranger), Err(Refused::Missing(_))), "{}", stranger.escape_ascii());
        }
        for malformed in [
            &b"PROXY TCP4 203.0.113.300 10.0.0.1 1 2\r\n"[..],
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 65536\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n",
            b"PROXY \r\n",
            b"PROXY UNKNOWN \xff\r\n",
            &v2(2, 0x11, &v4()[FIXED_BYTES..], 0),
            &v2(1, 0x41, &v4()[FIXED_BYTES..], 0),
            &v2(1, 0x13, &v4()[FIXED_BYTES..], 0),
            &v2(1, 0x11, &[1; 11], 0),
            &v2(1, 0x21, &[1; 35], 0),
        ] {
            assert!(matches!(parse(malformed), Err(Refused::Malformed(_))), "{}", malformed.escape_ascii());
        }
        let endless = [b"PROXY UNKNOWN ", &[b' '; 200][..], b"\r\n"].concat();
        assert!(matches!(parse(&endless), Err(Refused::TooLong)));
        assert!(matches!(parse(&endless[..107]), Err(Refused::TooLong)));
        assert_eq!(parse(&endless[..106]).unwrap(), None);
        assert!(matches!(parse(&v2(1, 0x11, &[], HEADER_BYTES_MAX)), Err(Refused::TooLong)));
        assert_eq!(parse(&v2(1, 0x11, &[], HEADER_BYTES_MAX - FIXED_BYTES)).unwrap(), None);
    }

    #[test]
    fn another_machine_is_no_loopback() {
        let of = |source: &str, proxy: &str| {
            let header = Header { bytes: 0, source: source.parse().ok() };
            peer_of(header, proxy.parse().unwrap()).to_string()
        };
        assert_eq!(of("203.0.113.7:51000", "10.0.0.1:40000"), "203.0.113.7:51000");
        assert_eq!(of("", "10.0.0.1:40000"), "10.0.0.1:40000");
        assert_eq!(of("127.0.0.1:51000", "10.0.0.1:40000"), "10.0.0.1:40000");
        assert_eq!(of("[::ffff:127.0.0.1]:51000", "10.0.0.1:40000"), "10.0.0.1:40000");
        assert_eq!(of("127.0.0.1:51000", "127.0.0.1:40000"), "127.0.0.1:51000");
    }
}
