//! What a handler answers, and what it refuses: RabbitMQ's bodies of both.

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::message::place::Lsn;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
    location: Option<HeaderValue>,
    has_room: bool,
    /// What must be durable before it may be told.
    pub(crate) after: Lsn,
}

/// A refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

impl Answer {
    /// This value.
    pub(crate) fn json(value: &Value) -> Self {
        Self::with_status(StatusCode::OK, value)
    }

    /// A value, and not simply because all is well.
    pub(crate) fn with_status(status: StatusCode, value: &Value) -> Self {
        Self { status, ..Self::bytes(JSON, value.to_string().into_bytes()) }
    }

    /// A value that is text already.
    pub(crate) fn json_bytes(body: Vec<u8>) -> Self {
        Self::bytes(JSON, body)
    }

    /// Something else.
    pub(crate) fn bytes(content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let after = Lsn::default();
        Self {
            status: StatusCode::OK,
            content_type,
            body: body.into(),
            location: None,
            has_room: false,
            after,
        }
    }

    /// Something was made, or changed: which of the two the status tells.
    pub(crate) fn changed(status: StatusCode, after: Lsn) -> Self {
        Self { status, ..Self::done(after) }
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The same, with its body in the room that it takes.
    pub(crate) fn with_room(self, body: Bytes) -> Self {
        Self { body, has_room: true, ..self }
    }

    /// Whether it has its room already.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room
    }

    /// A change that is none to RabbitMQ's clients, also where something was made.
    pub(crate) fn into_change(self) -> Self {
        Self { status: StatusCode::NO_CONTENT, ..self }
    }

    /// What was made has this name below the path.
    pub(crate) fn at(self, name: &str) -> Self {
        Self { location: HeaderValue::from_str(name).ok(), ..self }
    }

    /// It is done, and there is nothing to tell.
    pub(crate) fn done(after: Lsn) -> Self {
        Self { status: StatusCode::NO_CONTENT, after, ..Self::bytes(JSON, Vec::new()) }
    }
}

impl From<Answer> for Response<Body> {
    fn from(answer: Answer) -> Self {
        let mut response = Self::new(Body::from(answer.body));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, answer.content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.extend(answer.location.map(|location| (LOCATION, location)));
        response
    }
}

impl Refusal {
    fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Self { status, error, reason: reason.into() }
    }

    /// There is no such thing.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
    }

    /// Nobody logs in like that.
    pub(crate) fn login_failed() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorized", "Login failed")
    }

    /// It is known who asks, and they may not.
    pub(crate) fn not_authorised(reason: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorised", reason)
    }

    /// What was asked makes no sense.
    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self::bad("bad_request", reason)
    }

    /// Likewise, by another name.
    pub(crate) fn bad(error: &'static str, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, reason)
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether what it is about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Why, in a sentence.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// It is about one of many things that came together.
    pub(crate) fn of_item(self, list: &str, number: usize) -> Self {
        let reason = format!("{list}[{number}]: {}", self.reason);
        // What is missing is missing in the body.
        let status = if self.is_not_found() { StatusCode::BAD_REQUEST } else { self.status };
        Self { status, reason, ..self }
    }

    /// The body is too large.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let reason = format!("a body of more than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", reason)
    }

    /// The body did not come in time.
    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "the body did not come in time")
    }

    /// The user has so many requests at a time.
    pub(crate) fn too_many(max: usize) -> Self {
        let reason = format!("{max} requests of yours have no answer yet");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", reason)
    }

    /// Publishers wait, and why.
    pub(crate) fn blocked(reason: &str) -> Self {
        let reason = format!("publishers are blocked: {reason}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
    }

    /// It comes from a page that is not ours.
    pub(crate) fn foreign_page() -> Self {
        let reason = "pages of this origin may not: websocket_origins lists those that may";
        Self::new(StatusCode::FORBIDDEN, "forbidden", reason)
    }

    /// A change is made, and the disk does not say that it has it.
    pub(crate) fn not_durable() -> Self {
        let reason = "it is done, and not on the disk yet: a crash may undo it";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
    }

    /// The broker stops, a handler has failed, or too much is not read by those who asked for it.
    pub(crate) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the broker cannot answer now")
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, error, reason } = refusal;
        let mut response =
            Self::from(Answer::with_status(status, &json!({"error": error, "reason": reason})));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
            // Strangers do not keep the connections that there are.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
