//! `/ws`: AMQP by WebSocket, for browsers and whoever else comes through HTTP only (RFC 6455 §4.2).
//!
//! What is decided here is who may; what is spoken then is another room's, which is lent. A page of somebody else's must not
//! use its visitor's network: a browser says whose it is (`Origin`).

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, Request, Response};
use axum::routing::get;
use hyper::upgrade::{self, OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tungstenite::handshake::server::create_response_with_body;

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

/// The routes of the API, and this one.
pub(crate) fn with_web(router: Router, mgmt: &Arc<Mgmt>) -> Router {
    if !mgmt.broker.config.websocket {
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
    if !is_let_in(request.headers(), &mgmt.broker.config.websocket_origins) {
        return Err(Refusal::foreign_page());
    }
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

/// Whether it is no browser, or its page is of this place or a listed one.
fn is_let_in(headers: &HeaderMap, listed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let place = origin.split_once("://").map(|(_, place)| place);
    let is_own = place.zip(own).is_some_and(|(place, own)| place.eq_ignore_ascii_case(own));
    is_own || listed.iter().any(|listed| listed == ANY || listed.eq_ignore_ascii_case(origin))
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

    use super::is_let_in;

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
            assert_eq!(is_let_in(&headers, &listed), is_expected, "{origin:?}");
            assert!(is_let_in(&headers, &["*".to_owned()]));
        }
    }
}
