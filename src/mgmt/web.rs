//! `/ws`: AMQP by WebSocket, for browsers and whoever else comes through HTTP only (RFC 6455 §4.2).
//!
//! What is decided here is who may; what is spoken then is another room's, which is lent. A page of somebody else's must not
//! use its visitor's network: a browser says whose it is (`Origin`).

use std::fmt::{self, Debug};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{FORWARDED, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, VIA};
use axum::http::{HeaderMap, Request, Response};
use axum::routing::get;
use hyper::upgrade::{self, OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tungstenite::handshake::server::create_response_with_body;

use crate::clock::Now;
use crate::config::Verify;
use crate::mgmt::Mgmt;
use crate::mgmt::answer::Refusal;
use crate::mgmt::seats::Watched;
use crate::mgmt::server::Peer;

/// Where it is, as in RabbitMQ.
const PATH: &str = "/ws";
/// What it is called where clients ask by name.
const PROTOCOL: &str = "amqp";
/// Pages of any origin.
const ANY: &str = "*";

/// A client whose handshake is over.
#[derive(Debug)]
pub struct Guest {
    /// Its socket.
    pub wire: Wire,
    /// What was read from it already.
    pub read: Bytes,
    /// Where it is.
    pub peer: SocketAddr,
}

/// A socket, with or without TLS.
#[derive(Debug)]
pub enum Wire {
    /// Without.
    Plain(TcpStream),
    /// With it.
    Secured(Box<TlsStream<TcpStream>>),
}

/// Serves a guest in the place that it has.
pub type Welcome = Box<dyn FnOnce(Guest) + Send>;

/// Who serves guests: gives a place to a client of an address, if there is one.
#[derive(Clone)]
pub struct Host(Arc<dyn Fn(SocketAddr) -> Option<Welcome> + Send + Sync>);

impl Host {
    /// One that asks this for places.
    pub fn new(admit: impl Fn(SocketAddr) -> Option<Welcome> + Send + Sync + 'static) -> Self {
        Self(Arc::new(admit))
    }
}

impl Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// The routes of the API, and this one. Where every client of AMQP must show a certificate there is none: nobody is asked
/// for one here.
pub(crate) fn with_web(router: Router, mgmt: &Arc<Mgmt>) -> Router {
    let config = &mgmt.broker.config;
    if !config.websocket || config.tls.verify == Verify::Required {
        return router;
    }
    let mgmt = Arc::clone(mgmt);
    let answer = move |request: Request<Body>| {
        let answer = answer(&mgmt, request);
        async move { answer.unwrap_or_else(Response::from) }
    };
    router.route(PATH, get(answer))
}

fn answer(mgmt: &Mgmt, mut request: Request<Body>) -> Result<Response<Body>, Refusal> {
    let peer = match request.extensions().get() {
        Some(Peer::Network(peer)) => *peer,
        _ => return Err(Refusal::not_found()),
    };
    let host = mgmt.host.get().ok_or_else(Refusal::not_found)?;
    let mut response = create_response_with_body(&request, Body::empty)
        .map_err(|error| Refusal::bad_request(format!("this is for WebSockets: {error}")))?;
    let is_here = peer.ip().to_canonical().is_loopback();
    if !is_let_in(request.headers(), is_here, &mgmt.broker.config.websocket_origins) {
        if let Some(left_out) = mgmt.broker.complaints.allow(Now::read().instant) {
            let origin = request.headers().get(ORIGIN);
            tracing::warn!(%peer, ?origin, left_out, "WebSocket refused: pages of this origin may not");
        }
        return Err(Refusal::foreign_page());
    }
    let peer = if is_here && is_forwarded(request.headers()) { elsewhere(peer) } else { peer };
    if speaks(request.headers(), &SEC_WEBSOCKET_PROTOCOL) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let welcome = (host.0)(peer).ok_or_else(Refusal::unavailable)?;
    tokio::spawn(move_over(upgrade::on(&mut request), peer, welcome));
    Ok(response)
}

/// Hands a connection over when its client was answered. One that has gone is nobody's.
async fn move_over(upgraded: OnUpgrade, peer: SocketAddr, welcome: Welcome) {
    let Ok(upgraded) = upgraded.await else { return };
    if let Some((wire, read)) = taken_apart(upgraded) {
        welcome(Guest { wire, read, peer });
    }
}

fn taken_apart(upgraded: Upgraded) -> Option<(Wire, Bytes)> {
    let upgraded = match upgraded.downcast::<TokioIo<Watched<TcpStream>>>() {
        Ok(parts) => return Some((Wire::Plain(parts.io.into_inner().into_inner()), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded.downcast::<TokioIo<Watched<TlsStream<TcpStream>>>>().ok()?;
    Some((Wire::Secured(Box::new(parts.io.into_inner().into_inner())), parts.read_buf))
}

/// Whether it is no browser, or its page is of this place or a listed one. A browser on this machine is told by any name
/// that this is the place: there only the machine's own names are.
fn is_let_in(headers: &HeaderMap, is_here: bool, listed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let place = origin.split_once("://").map(|(_, place)| place);
    let is_own = place
        .zip(own)
        .is_some_and(|(place, own)| place.eq_ignore_ascii_case(own) && (!is_here || is_of_this_machine(own)));
    is_own || listed.iter().any(|listed| listed == ANY || listed.eq_ignore_ascii_case(origin))
}

/// Whether a place, with or without its port, is called as this machine calls itself.
fn is_of_this_machine(place: &str) -> bool {
    let name = match place.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => place,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a proxy has passed it on.
fn is_forwarded(headers: &HeaderMap) -> bool {
    [FORWARDED.as_str(), VIA.as_str(), "x-forwarded-for", "x-real-ip"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// Whoever a proxy of this machine comes for is somewhere else.
fn elsewhere(peer: SocketAddr) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, peer.port()).into()
}

/// Whether a client offers to speak AMQP by name.
fn speaks(headers: &HeaderMap, name: &HeaderName) -> bool {
    let offers = headers.get_all(name).iter().filter_map(|offer| offer.to_str().ok());
    offers.flat_map(|offer| offer.split(',')).any(|offer| offer.trim() == PROTOCOL)
}

#[cfg(test)]
mod tests {
    use axum::http::header::{HOST, ORIGIN};
    use axum::http::{HeaderMap, HeaderValue};

    use super::{elsewhere, is_forwarded, is_let_in};

    #[test]
    fn a_page_is_of_this_place_or_of_a_listed_one() {
        let listed = ["https://shop.example.com".to_owned()];
        for (origin, is_expected) in [
            (None, true),
            (Some("http://mq.example.com:15672"), true),
            (Some("https://MQ.example.com:15672"), true),
            (Some("https://Shop.example.com"), true),
            (Some("http://shop.example.com"), false),
            (Some("https://shop.example.com:8443"), false),
            (Some("http://mq.example.com"), false),
            (Some("http://evil.example.com:15672"), false),
            (Some("mq.example.com:15672"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("mq.example.com:15672"));
            headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
            assert_eq!(is_let_in(&headers, false, &listed), is_expected, "{origin:?}");
            assert!(is_let_in(&headers, false, &["*".to_owned()]));
        }
    }

    #[test]
    fn a_browser_on_this_machine_is_let_in_by_the_machine_s_own_names() {
        for (place, is_expected) in [
            ("localhost:15672", true),
            ("127.0.0.1:15672", true),
            ("[::1]:15672", true),
            ("localhost", true),
            ("[::1]", true),
            ("evil.example.com:15672", false),
            ("localhost.evil.example.com", false),
            ("192.0.2.1:15672", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, place.parse().unwrap());
            headers.insert(ORIGIN, format!("http://{place}").parse().unwrap());
            assert_eq!(is_let_in(&headers, true, &[]), is_expected, "{place}");
            assert!(is_let_in(&headers, false, &[]));
        }
    }

    #[test]
    fn who_comes_by_a_proxy_of_this_machine_is_not_on_it() {
        for name in ["forwarded", "via", "x-forwarded-for", "x-real-ip"] {
            let mut headers = HeaderMap::new();
            assert!(!is_forwarded(&headers));
            headers.insert(name, HeaderValue::from_static("192.0.2.1"));
            assert!(is_forwarded(&headers));
        }
        assert!(!elsewhere(([127, 0, 0, 1], 7).into()).ip().is_loopback());
    }
}
