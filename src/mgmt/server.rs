//! The sockets, and the bounds of what comes in by them: one task a connection, and a few requests at work at a time.
//!
//! ```text
//! accept (so many at a time) -> head (so long, so large) -> body (likewise) -> a thread beside the workers -> answer
//! ```

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::{HeaderMap, Request, Response, Uri};
use axum::routing::{MethodFilter, on};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

use crate::auth::users::User;
use crate::clock::Now;
use crate::config::tls::{TLS_MGMT_DEFAULT, TLS_PROMETHEUS_DEFAULT};
use crate::config::{Config, Endpoint, MGMT_DEFAULT, PROMETHEUS_DEFAULT, Service};
use crate::message::place::Lsn;
use crate::mgmt::access::{check_still, check_user, check_vhost, credentials};
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::audit;
use crate::mgmt::call::Call;
use crate::mgmt::control::Control;
use crate::mgmt::places::Places;
use crate::mgmt::rates::{self, SAMPLE_INTERVAL};
use crate::mgmt::routes::{METRICS, ROUTES, Route, Verb};
use crate::mgmt::seats::{Seat, Seats};
use crate::mgmt::views::definitions;
use crate::mgmt::web::{Host, with_web};
use crate::mgmt::{CONNECTIONS_MAX, Listening, Mgmt};
use crate::tls::Store;
use crate::tls::handshake::{self, Speaks};
use crate::transfer::board::Board;

/// A request's line and headers are no larger, in bytes, and no more.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// The head of a request must have come in this time, counted from when the one before was answered.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Before it, where there is TLS, the handshake in this.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers of so many bytes are compressed for who asks for it.
const COMPRESSED_BYTES_MIN: u64 = 32;
const COMPRESSED_BYTES_MAX: u64 = 256 * 1024;
/// And its body in this.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes nothing of its answer for so long is gone.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// What was changed is told when a crash cannot take it back, or, after so long, that nobody knows.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Accepting rests for so long when the kernel has no more descriptors.
pub(crate) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Connections have so long to end when the broker stops.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// An address that was asked for and cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {endpoint} for {what}: {error}")]
pub struct ListenError {
    /// The address, or the name.
    pub endpoint: Endpoint,
    /// What was to be served there.
    pub what: &'static str,
    /// The flag, or the setting, that names another place.
    pub flag: &'static str,
    /// The system's own words.
    pub error: io::Error,
}

/// The API's sockets, open. Nothing is accepted before [`Server::run`].
#[derive(Debug)]
pub struct Server {
    mgmt: Arc<Mgmt>,
    api: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
    /// The same over TLS.
    api_tls: Vec<TcpListener>,
    metrics_tls: Vec<TcpListener>,
}

impl Server {
    /// Opens what the configuration says, for a broker that listens for AMQP where it says, what moves messages in it, and
    /// the certificates that it shows. A usual place that is taken is left alone, and a line says so.
    ///
    /// # Errors
    /// A place that was asked for and cannot be had.
    pub fn bind(
        config: &Config,
        transfers: &Arc<Board>,
        amqp: Listening,
        tls: Option<Arc<Store>>,
    ) -> Result<Self, ListenError> {
        let api = bind(&config.mgmt, MGMT_DEFAULT, "the management API", "--mgmt")?;
        let metrics = bind(&config.prometheus, PROMETHEUS_DEFAULT, "metrics", "--prometheus")?;
        let of_tls = |service, usual, what, setting| match tls {
            Some(_) => bind(service, usual, what, setting),
            None => Ok(Vec::new()),
        };
        let (of_api, of_metrics) = (&config.tls.mgmt, &config.tls.prometheus);
        let api_tls = of_tls(of_api, TLS_MGMT_DEFAULT, "the management API over TLS", "tls.mgmt")?;
        let metrics_tls = of_tls(of_metrics, TLS_PROMETHEUS_DEFAULT, "metrics over TLS", "tls.prometheus")?;
        let addresses = |listeners: &[TcpListener]| {
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect::<Vec<_>>()
        };
        let listening = Listening {
            mgmt: addresses(&api),
            prometheus: addresses(&metrics),
            mgmt_tls: addresses(&api_tls),
            prometheus_tls: addresses(&metrics_tls),
            ..amqp
        };
        let mgmt = Arc::new(Mgmt::new(Arc::clone(transfers), listening, tls));
        Ok(Self { mgmt, api, metrics, api_tls, metrics_tls })
    }

    /// What this process listens on.
    pub fn listening(&self) -> &Listening {
        &self.mgmt.listening
    }

    /// Lends it what only the process can do.
    pub fn lend(&self, control: Control) {
        // It is lent once.
        let _ = self.mgmt.control.set(control);
    }

    /// Lends it who serves those who come by WebSocket. Without one there are none.
    pub fn lend_host(&self, host: Host) {
        // Likewise.
        let _ = self.mgmt.host.set(host);
    }

    /// Adds definitions to what is there, as an administrator does. They are durable some time after.
    ///
    /// # Errors
    /// A sentence that says what cannot be made.
    pub fn import(&self, definitions: &Map<String, Value>) -> Result<(), String> {
        let call = Call {
            mgmt: &self.mgmt,
            places: &Places::new(),
            user: Some(self.mgmt.broker.local_administrator()),
            parts: Vec::new(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        definitions::import_these(&call, definitions).map(drop).map_err(|refusal| refusal.reason().to_owned())
    }

    /// The API for those who need no password, with turns of its own: they come in when strangers take all of the others.
    pub(crate) fn local_router(&self) -> Router {
        router(&self.mgmt, &Places::new(), ROUTES)
    }

    /// Says in the log where it listens.
    pub fn announce(&self) {
        for mgmt in &self.listening().mgmt {
            tracing::info!(%mgmt, "listening for the management API");
        }
        for prometheus in &self.listening().prometheus {
            tracing::info!(%prometheus, "listening for metrics");
        }
        for mgmt_tls in &self.listening().mgmt_tls {
            tracing::info!(%mgmt_tls, "listening for the management API over TLS");
        }
        for prometheus_tls in &self.listening().prometheus_tls {
            tracing::info!(%prometheus_tls, "listening for metrics over TLS");
        }
    }

    /// Serves until `stop`, then lets requests that are at work end.
    pub async fn run(self, stop: CancellationToken) {
        let (connections, places) = (TaskTracker::new(), Places::new());
        let mut tasks = JoinSet::new();
        let api = with_web(router(&self.mgmt, &places, ROUTES), &self.mgmt);
        // Who needs no password takes no places from who does.
        let metrics = router(&self.mgmt, &Places::new(), METRICS);
        let tls = &self.mgmt.tls;
        for (listeners, tls, router) in [
            (self.api, &None, &api),
            (self.metrics, &None, &metrics),
            (self.api_tls, tls, &api),
            (self.metrics_tls, tls, &metrics),
        ] {
            let router = router.clone().layer(CompressionLayer::new().compress_when(Quick));
            for listener in listeners {
                let (connections, stop) = (connections.clone(), stop.clone());
                tasks.spawn(accept(listener, tls.clone(), router.clone(), connections, stop));
            }
        }
        tasks.spawn(sample(self.mgmt));
        stop.cancelled().await;
        tasks.shutdown().await;
        connections.close();
        // What still runs then is not waited for.
        let _ = tokio::time::timeout(SHUTDOWN_LIMIT, connections.wait()).await;
    }
}

fn bind(
    service: &Service,
    usual: &str,
    what: &'static str,
    flag: &'static str,
) -> Result<Vec<TcpListener>, ListenError> {
    let (endpoint, is_asked_for) = match service {
        Service::Nowhere => return Ok(Vec::new()),
        Service::At(endpoint) => (Some(endpoint.clone()), true),
        Service::Usual => (usual.parse().ok(), false),
    };
    let Some(endpoint) = endpoint else { return Ok(Vec::new()) };
    match listen(&endpoint) {
        Ok(listener) => Ok(vec![listener]),
        Err(error) if is_asked_for => Err(ListenError { endpoint, what, flag, error }),
        Err(error) => {
            tracing::warn!(
                "{what} is not served: {endpoint} cannot be had ({error}): choose another with {flag}"
            );
            Ok(Vec::new())
        }
    }
}

fn listen(endpoint: &Endpoint) -> io::Result<TcpListener> {
    let bound = match endpoint {
        Endpoint::Address(address) => std::net::TcpListener::bind(address),
        Endpoint::Name { host, port } => std::net::TcpListener::bind((host.as_str(), *port)),
    }?;
    bound.set_nonblocking(true)?;
    TcpListener::from_std(bound)
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Store>>,
    router: Router,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let seats = Seats::new(CONNECTIONS_MAX);
    while let Some(seat) = seats.take().await {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        seat.end();
        connections.spawn(async move {
            give_up_on_silence(&stream);
            let peer = Peer::Network(peer);
            match tls {
                None => serve(stream, peer, router, seat, stop).await,
                Some(tls) => {
                    let shaken = tokio::select! {
                        shaken = handshake::accept(&tls, stream, Speaks::Http, TLS_TIMEOUT) => shaken,
                        () = seat.is_wanted() => return,
                        () = stop.cancelled() => return,
                    };
                    seat.end();
                    // As of all else that a stranger does wrong nobody else is told.
                    if let Ok(stream) = shaken {
                        serve(stream, peer, router, seat, stop).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection until either side ends it, or others want its place.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    seat: Seat,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let asked = seat.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        asked.begin();
        let (answer, asked) = (router.call(request), asked.clone());
        async move {
            let answer = answer.await;
            asked.end();
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let connection = builder.serve_connection(TokioIo::new(seat.watched(stream)), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What a stranger does wrong is told to them, and to nobody else.
        _ = connection.as_mut() => return,
        () = seat.is_wanted() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// From this address.
    Network(SocketAddr),
    /// By the socket that only who owns the process can open.
    Local,
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(from) => from.ip().to_canonical().fmt(f),
            Self::Local => f.write_str("socket"),
        }
    }
}

#[cfg(target_os = "linux")]
fn give_up_on_silence(stream: &TcpStream) {
    // Without it whoever reads no answer keeps a place for as long as they like.
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
    let _ = stream.set_nodelay(true);
}

#[cfg(not(target_os = "linux"))]
fn give_up_on_silence(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// A router of these routes; what is on none of them is not found.
fn router(mgmt: &Arc<Mgmt>, places: &Places, routes: &'static [Route]) -> Router {
    let mut router = Router::new();
    for route in routes {
        let (mgmt, places) = (Arc::clone(mgmt), places.clone());
        let answer = move |request: Request<Body>| {
            let (mgmt, places) = (Arc::clone(&mgmt), places.clone());
            async move { respond(mgmt, places, route, request).await }
        };
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Put => MethodFilter::PUT,
            Verb::Post => MethodFilter::POST,
            Verb::Delete => MethodFilter::DELETE,
        };
        // With a slash behind it, it is the same to RabbitMQ; so Celery's Flower asks.
        let same = format!("{}/", route.path);
        router = router.route(route.path, on(filter, answer.clone())).route(&same, on(filter, answer));
    }
    router.fallback(not_found)
}

async fn not_found(_: Uri) -> Response<Body> {
    Refusal::not_found().into()
}

async fn respond(
    mgmt: Arc<Mgmt>,
    places: Places,
    route: &'static Route,
    request: Request<Body>,
) -> Response<Body> {
    match answer(mgmt, &places, route, request).await.and_then(|answer| places.keep(answer)) {
        Ok(answer) => answer.into(),
        Err(refusal) => refusal.into(),
    }
}

async fn answer(
    mgmt: Arc<Mgmt>,
    places: &Places,
    route: &'static Route,
    request: Request<Body>,
) -> Result<Answer, Refusal> {
    let (mut head, body) = request.into_parts();
    let no_text = |_| Refusal::bad_request("the path or the query is no text");
    let parts = RawPathParams::from_request_parts(&mut head, &()).await.map_err(|_| Refusal::not_found())?;
    let parts = parts.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let query = Query::<Vec<(String, String)>>::try_from_uri(&head.uri).map_err(no_text)?.0;
    let peer = head.extensions.get::<Peer>().copied();
    let span = tracing::error_span!("request", peer = peer.map(tracing::field::display));
    // Who may not ask is not read any further.
    let credentials = credentials(&head.headers);
    // A hash takes a microsecond: that is no work to stand in a line for.
    let user = match peer {
        Some(Peer::Local) => Some(mgmt.broker.local_administrator()),
        Some(Peer::Network(from)) => {
            let check =
                || check_user(&mgmt.broker, route.who, credentials.as_ref(), from.ip(), Now::read().instant);
            span.in_scope(check)?
        }
        None => return Err(Refusal::unavailable()),
    };
    let turns_of = turns_of(user.as_deref(), peer);
    let _request = places.begin(&turns_of)?;
    // Who only asks has nothing to say, and keeps nobody waiting for it.
    let body = match route.verb {
        Verb::Get => Bytes::new(),
        _ => read_body(body, route.body_bytes_max).await?,
    };
    let (own, own_places) = (Arc::clone(&mgmt), places.clone());
    let answered = places.run(route.work, &turns_of, move || {
        let _within = span.enter();
        let call = Call { mgmt: &own, places: &own_places, user, parts, query, headers: head.headers, body };
        let answered = handle(route, &call, peer);
        if audit::is_told(route) {
            let user = call.user.as_deref();
            audit::tell(&own.broker.audit, route, user, head.uri.path(), &call.body, &answered);
        }
        answered
    });
    let answer = answered.await??;
    let is_durable = tokio::time::timeout(DURABLE_TIMEOUT, durable(&mgmt, answer.after)).await;
    is_durable.map_err(|_| Refusal::not_durable()).map(|()| answer)
}

/// It is this request's turn.
fn handle(route: &Route, call: &Call<'_>, peer: Option<Peer>) -> Result<Answer, Refusal> {
    let broker = &call.mgmt.broker;
    // The body may have taken its time, and this its turn: what was true then is asked again.
    if !matches!(peer, Some(Peer::Local)) {
        check_still(broker, route.who, call.user.as_ref())?;
    }
    check_vhost(broker, call.user.as_deref(), route.within, call.part("vhost"))?;
    (route.handler)(call)
}

/// Whose turn it is when it is this request's: a user's, or that of the address of who need not be one.
fn turns_of(user: Option<&User>, peer: Option<Peer>) -> Arc<str> {
    match (user, peer) {
        (Some(user), _) => Arc::from(user.name.as_str()),
        (None, Some(Peer::Network(from))) => Arc::from(from.ip().to_string()),
        (None, _) => Arc::from(""),
    }
}

/// What is compressed in some milliseconds: it is done by a worker that connections wait for.
#[derive(Clone, Copy, Debug)]
struct Quick;

impl Predicate for Quick {
    fn should_compress<B: HttpBody>(&self, answer: &Response<B>) -> bool {
        let bytes = answer.body().size_hint().upper();
        bytes.is_some_and(|bytes| (COMPRESSED_BYTES_MIN..=COMPRESSED_BYTES_MAX).contains(&bytes))
    }
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Refusal::too_large(bytes_max)),
        Err(_) => Err(Refusal::too_slow()),
    }
}

/// Waits until the log is durable up to here: what was answered a crash must not take back.
async fn durable(mgmt: &Mgmt, after: Lsn) {
    let log = &mgmt.broker.node.log;
    std::future::poll_fn(|context| {
        if after <= log.durable() {
            return std::task::Poll::Ready(());
        }
        log.wake_when_durable(after, context.waker());
        match after <= log.durable() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

/// Reads counters for rates, for ever.
async fn sample(mgmt: Arc<Mgmt>) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        let own = Arc::clone(&mgmt);
        let sampled = tokio::task::spawn_blocking(move || {
            let now = Now::read().instant;
            rates::watch_node(&own.rates, &own.broker, now);
            own.rates.sample(now);
        });
        if let Err(error) = sampled.await {
            tracing::error!(%error, "rates are not told any more");
            return;
        }
    }
}
