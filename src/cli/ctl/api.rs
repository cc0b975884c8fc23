//! The broker, asked over HTTP: by the socket of its data directory, or from elsewhere with a name and a password.

use std::cell::OnceCell;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

use crate::cli::ctl::failure::{Code, Failure};
use crate::config::Secret;

/// An answer that is longer is none of ours, in bytes: a list of a million queues is shorter.
const ANSWER_BYTES_MAX: usize = 4 << 30;
/// What need not be written otherwise in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where the broker is, and who asks.
#[derive(Debug)]
pub(super) enum Place {
    /// By a socket, as whoever may open it.
    Socket(PathBuf),
    /// At an address, as a user.
    Network { address: String, user: String, password: Secret },
    /// Nobody has told.
    Unknown(String),
}

/// The broker.
#[derive(Debug)]
pub(super) struct Api {
    place: Place,
    timeout: Duration,
    runtime: OnceCell<Runtime>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) value: Value,
}

impl Reply {
    /// Whether it was done.
    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Why it was not.
    pub(super) fn reason(&self) -> String {
        let reason = self.value.get("reason").and_then(Value::as_str);
        reason.map_or_else(|| format!("the broker answers with status {}", self.status), str::to_owned)
    }
}

/// A path of the API, of parts that may have any octet.
pub(super) fn path(parts: &[&str]) -> String {
    let parts = parts.iter().map(|part| utf8_percent_encode(part, PLAIN).to_string());
    format!("/api/{}", parts.collect::<Vec<_>>().join("/"))
}

impl Api {
    /// The broker at this place; what takes longer than this has failed.
    pub(super) fn new(place: Place, timeout: Duration) -> Self {
        Self { place, timeout, runtime: OnceCell::new() }
    }

    /// What the broker is called in sentences.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The host that is asked, when it is another machine, or may be.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Network { address, .. } => address.rsplit_once(':').map(|(host, _)| host),
            Place::Socket(_) | Place::Unknown(_) => None,
        }
    }

    /// Asks for something that must be there.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let reply = self.ask(&Method::GET, path, None, &[])?;
        if reply.is_good() { Ok(reply.value) } else { Err(Failure::refused(reply.reason())) }
    }

    /// Asks for something where a refusal says as much.
    pub(super) fn check(&self, path: &str) -> Result<Reply, Failure> {
        self.ask(&Method::GET, path, None, &[])
    }

    /// Asks for something that may not be there.
    pub(super) fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let reply = self.ask(&Method::GET, path, None, &[])?;
        match reply.status {
            404 => Ok(None),
            _ if reply.is_good() => Ok(Some(reply.value)),
            _ => Err(Failure::refused(reply.reason())),
        }
    }

    /// Sets something.
    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.ask(&Method::PUT, path, Some(body), &[])
    }

    /// Lets something happen.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.ask(&Method::POST, path, Some(body), &[])
    }

    /// Takes something away; the headers say more about it.
    pub(super) fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply, Failure> {
        self.ask(&Method::DELETE, path, None, headers)
    }

    fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Failure> {
        let request = self.request(method, path, body, headers);
        let request = request.map_err(|error| Failure::told(Code::Software, error))?;
        let asked = async { tokio::time::timeout(self.timeout, self.send(request)).await };
        match self.runtime()?.block_on(asked) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(Failure::plain(
                Code::TemporaryFailure,
                format!("Error: operation timed out. Timeout value used: {}", self.timeout.as_millis()),
            )),
        }
    }

    fn runtime(&self) -> Result<&Runtime, Failure> {
        if self.runtime.get().is_none() {
            let made = Builder::new_current_thread().enable_all().build();
            let made = made.map_err(|error| Failure::told(Code::Software, error))?;
            // Nobody else makes one.
            let _ = self.runtime.set(made);
        }
        self.runtime.get().ok_or_else(|| Failure::told(Code::Software, "there is no runtime"))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let host = match &self.place {
            Place::Network { address, .. } => address.as_str(),
            Place::Socket(_) | Place::Unknown(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Place::Network { user, password, .. } = &self.place {
            let login = STANDARD.encode([user.as_bytes(), b":", password.expose()].concat());
            request = request.header(AUTHORIZATION, format!("Basic {login}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        request.header(CONTENT_TYPE, "application/json").body(Full::new(body))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, io::Error> {
        match &self.place {
            Place::Socket(path) => exchange(UnixStream::connect(path).await?, request).await,
            Place::Network { address, .. } => exchange(TcpStream::connect(address).await?, request).await,
            Place::Unknown(why) => Err(io::Error::other(why.clone())),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let (place, advice) = match &self.place {
            Place::Socket(path) => {
                let advice = "start the broker, or name another one's --data-dir, --socket or --url; only the user \
                              who runs it and root may use its socket";
                (path.display().to_string(), advice)
            }
            Place::Network { address, .. } => (address.clone(), "see whether it runs, and its mgmt setting"),
            Place::Unknown(_) => (String::new(), "name the broker's --data-dir, --socket or --url"),
        };
        let text = format!(
            "Error: unable to perform an operation on the broker {place}: {error}\n\nMost common reasons for this are:\n\n \
             * Target node is unreachable\n * Target node is not running\n\nSuggestion: {advice}"
        );
        Failure::plain(Code::Unavailable, text)
    }
}

/// Sends a request on a connection of its own, and reads the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Reply, io::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends when the answer is read.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let bytes = body.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    let value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
    Ok(Reply { status, value })
}
