//! From the protocol header to an open virtual host (AMQP 0-9-1 §2.2.4).
//!
//! ```text
//! header -> start -> start-ok -> (password checked elsewhere) -> tune -> tune-ok -> open -> open-ok
//! ```
//!
//! It knows nothing of channels. Until it is done a client has proved nothing: frames are small, and time is short.

use std::sync::Arc;

use crate::auth::sasl::{self, Credentials, Mechanism, Offer};
use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::presence::Presence;
use crate::broker::vhost::Vhost;
use crate::config::{Config, Limits};
use crate::protocol::field::Field;
use crate::protocol::frame::{FRAME_MAX_FLOOR, FrameKind, FrameView};
use crate::protocol::methods::{
    ConnectionOpen, ConnectionOpenOk, ConnectionStart, ConnectionStartOk, ConnectionTune, ConnectionTuneOk,
    Method,
};
use crate::protocol::reply::ReplyCode;
use crate::protocol::table::{Table, TableBuf};
use crate::session::output::Output;
use crate::session::refuse::Refusal;
use crate::stats::Charge;

/// What the server can do beyond the specification; clients look for each of these.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// What is kept of a client's name.
const NAME_CHARS_MAX: usize = 128;

/// A client that is not yet let in.
#[derive(Debug)]
pub struct Handshake {
    stage: Stage,
    offer: Offer,
    client: Client,
    /// What the client calls itself.
    name: String,
    said: Said,
}

/// What a client has said of itself, as far as only those care who watch.
#[derive(Clone, Debug)]
pub struct Said {
    /// The mechanism it logged in with.
    pub mechanism: Mechanism,
    /// Its properties: a valid field table without its length.
    pub properties: Box<[u8]>,
}

#[derive(Debug)]
enum Stage {
    /// connection.start is sent.
    Start,
    /// A password is being checked.
    Verify(Mechanism),
    /// connection.tune is sent.
    Tune(Arc<User>, Arc<Limits>),
    /// Limits are agreed.
    Open(Arc<User>, Tuned),
}

/// What the client said it can take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    /// basic.cancel from the server.
    pub consumer_cancel_notify: bool,
    /// connection.blocked and unblocked.
    pub connection_blocked: bool,
    /// connection.close when the login fails.
    pub authentication_failure_close: bool,
}

/// What was agreed.
#[derive(Clone, Copy, Debug)]
pub struct Tuned {
    /// Frames are no larger, in bytes.
    pub frame_max: u32,
    /// No more channels are open at a time.
    pub channel_max: u16,
    /// The client's heartbeat interval in seconds; zero for none.
    pub heartbeat: u16,
}

/// What follows from a frame.
#[derive(Debug)]
pub enum Step {
    /// The next frame.
    Continue,
    /// Someone must check these, and call [`Handshake::on_verified`].
    Verify(Credentials),
    /// The client is in.
    Opened {
        /// Who it is.
        user: Arc<User>,
        /// Where it is.
        vhost: Arc<Vhost>,
        /// Its places among the connections of both.
        seats: [Charge; 2],
        /// What was agreed.
        tuned: Tuned,
        /// What it can take.
        client: Client,
        /// What it calls itself.
        name: String,
        /// What else it said.
        said: Said,
    },
    /// It is told why, and closed.
    Refused(Refusal),
    /// It is closed without a word, after a while; the reason is for the log.
    Dropped(&'static str),
    /// It closes the connection itself.
    Closed,
}

impl Handshake {
    /// Answers the protocol header of a client that came like this.
    pub fn start(config: &Config, presence: &Presence, out: &mut Output) -> Self {
        let properties = server_properties(config);
        let certificate = presence.encryption().and_then(|encryption| encryption.certificate.as_ref());
        let offer = Offer {
            external: certificate.and_then(|certificate| certificate.login.clone()),
            anonymous: config.anonymous_login_user.clone(),
        };
        out.method(
            0,
            &Method::ConnectionStart(ConnectionStart {
                version_major: 0,
                version_minor: 9,
                server_properties: properties.as_table(),
                mechanisms: offer.mechanisms().as_bytes(),
                locales: b"en_US",
            }),
        );
        let (client, name, said) = (Client::default(), String::new(), Said::default());
        Self { stage: Stage::Start, offer, client, name, said }
    }

    /// Whether a password is being checked: nothing is read meanwhile.
    pub fn is_verifying(&self) -> bool {
        matches!(self.stage, Stage::Verify(_))
    }

    /// What the client said it can take.
    pub fn client(&self) -> Client {
        self.client
    }

    /// A frame of a client that is not yet in.
    pub fn on_frame(&mut self, broker: &Broker, frame: &FrameView<'_>, out: &mut Output) -> Step {
        if frame.channel != 0 {
            return Step::Refused(unexpected(frame));
        }
        let method = match frame.kind {
            FrameKind::Heartbeat => return Step::Continue,
            FrameKind::Method => Method::parse(frame.payload),
            FrameKind::Header | FrameKind::Body => return Step::Refused(unexpected(frame)),
        };
        match (method, &self.stage) {
            (Err(error), _) => Step::Refused(error.into()),
            (Ok(Method::ConnectionClose(_)), _) => Step::Closed,
            (Ok(Method::ConnectionStartOk(start_ok)), Stage::Start) => self.on_start_ok(&start_ok),
            (Ok(Method::ConnectionTuneOk(tune_ok)), Stage::Tune(user, offered)) => {
                let (user, offered) = (Arc::clone(user), Arc::clone(offered));
                self.on_tune_ok(&offered, user, tune_ok)
            }
            (Ok(Method::ConnectionOpen(open)), Stage::Open(user, tuned)) => {
                self.on_open(broker, user, *tuned, open, out)
            }
            (Ok(_), stage) => {
                let text = format!("unexpected method in connection state {}", stage.name());
                Step::Refused(Refusal::channel_error(text))
            }
        }
    }

    fn on_start_ok(&mut self, start_ok: &ConnectionStartOk<'_>) -> Step {
        self.client = Client::from_properties(start_ok.client_properties);
        self.name = name_of(start_ok.client_properties);
        let Ok(mechanism) = self.offer.find(start_ok.mechanism) else {
            return Step::Dropped("unknown authentication mechanism");
        };
        self.said = Said { mechanism, properties: start_ok.client_properties.as_bytes().into() };
        match sasl::parse_response(&self.offer, mechanism, start_ok.response) {
            Ok(credentials) => {
                self.stage = Stage::Verify(mechanism);
                Step::Verify(credentials)
            }
            Err(error) => Step::Refused(Refusal::new(ReplyCode::SyntaxError, error.to_string())),
        }
    }

    /// The password was checked; `None` when the login fails.
    pub fn on_verified(&mut self, user: Option<Arc<User>>, limits: Arc<Limits>, out: &mut Output) -> Step {
        let Stage::Verify(mechanism) = self.stage else { return Step::Continue };
        let Some(user) = user else {
            if !self.client.authentication_failure_close {
                return Step::Dropped("login refused");
            }
            let text = format!(
                "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                mechanism.name()
            );
            return Step::Refused(Refusal::new(ReplyCode::AccessRefused, text));
        };
        out.method(
            0,
            &Method::ConnectionTune(ConnectionTune {
                channel_max: limits.channel_max,
                frame_max: limits.frame_max_bytes,
                heartbeat: limits.heartbeat_seconds,
            }),
        );
        self.stage = Stage::Tune(user, limits);
        Step::Continue
    }

    fn on_tune_ok(&mut self, limits: &Limits, user: Arc<User>, tune_ok: ConnectionTuneOk) -> Step {
        let ConnectionTuneOk { channel_max, frame_max, heartbeat } = tune_ok;
        let checked = check_tuned(
            "frame_max",
            u64::from(frame_max),
            u64::from(FRAME_MAX_FLOOR),
            u64::from(limits.frame_max_bytes),
        )
        .and_then(|()| check_tuned("channel_max", u64::from(channel_max), 1, u64::from(limits.channel_max)));
        match checked {
            Ok(()) => {
                self.stage = Stage::Open(user, Tuned { frame_max, channel_max, heartbeat });
                Step::Continue
            }
            Err(refusal) => Step::Refused(refusal),
        }
    }

    fn on_open(
        &self,
        broker: &Broker,
        user: &Arc<User>,
        tuned: Tuned,
        open: ConnectionOpen<'_>,
        out: &mut Output,
    ) -> Step {
        let name = open.virtual_host;
        let Some(vhost) = broker.vhost(name) else {
            return Step::Refused(Refusal::not_allowed(format!("vhost {name} not found")));
        };
        if vhost.is_closing() {
            return Step::Refused(Refusal::not_allowed(format!("vhost {name} not found")));
        }
        if !user.may_open(name) {
            let text = format!("access to vhost '{name}' refused for user '{}'", user.name);
            return Step::Refused(Refusal::not_allowed(text));
        }
        let seats = match take_seats(user, &vhost) {
            Ok(seats) => seats,
            Err(refused) => return Step::Refused(Refusal::not_allowed(refused)),
        };
        out.method(0, &Method::ConnectionOpenOk(ConnectionOpenOk {}));
        let (user, name, said) = (Arc::clone(user), self.name.clone(), self.said.clone());
        Step::Opened { user, vhost, seats, tuned, client: self.client, name, said }
    }
}

impl Default for Said {
    fn default() -> Self {
        Self { mechanism: Mechanism::Plain, properties: Box::default() }
    }
}

impl Stage {
    /// The state's name in RabbitMQ's error texts.
    fn name(&self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Verify(_) => "securing",
            Self::Tune(..) => "tuning",
            Self::Open(..) => "opening",
        }
    }
}

impl Client {
    fn from_properties(properties: Table<'_>) -> Self {
        let Some(Field::Table(capabilities)) = properties.get("capabilities") else { return Self::default() };
        let can = |name| capabilities.get(name) == Some(Field::Bool(true));
        Self {
            consumer_cancel_notify: can("consumer_cancel_notify"),
            connection_blocked: can("connection.blocked"),
            authentication_failure_close: can("authentication_failure_close"),
        }
    }
}

/// The name a person gave the connection, or else the library's.
fn name_of(properties: Table<'_>) -> String {
    let text = |key| match properties.get(key) {
        Some(Field::LongStr(text)) if !text.is_empty() => {
            Some(String::from_utf8_lossy(text).chars().take(NAME_CHARS_MAX).collect())
        }
        _ => None,
    };
    text("connection_name").or_else(|| text("product")).unwrap_or_default()
}

/// The places of one more connection of the user's and in the virtual host, or why there is none.
fn take_seats(user: &User, vhost: &Vhost) -> Result<[Charge; 2], String> {
    let (of_vhost, of_user) = (vhost.limits().connections_max, user.profile().connections_max);
    let in_vhost = Charge::within(&vhost.opened, 1, of_vhost).ok_or_else(|| {
        let (name, limit) = (vhost.name(), of_vhost.unwrap_or_default());
        let text = format!("access to vhost '{name}' refused for user '{}'", user.name);
        format!("{text}: connection limit ({limit}) is reached")
    })?;
    let of_users = Charge::within(&user.connections, 1, of_user).ok_or_else(|| {
        let limit = of_user.unwrap_or_default();
        format!("Connection refused for user '{}': user connection limit ({limit}) is reached", user.name)
    })?;
    Ok([of_users, in_vhost])
}

/// A frame that has no place before the connection is open.
fn unexpected(frame: &FrameView<'_>) -> Refusal {
    Refusal::unexpected_frame(frame.to_string())
}

/// A value of tune-ok: zero would mean no limit, which the server does not allow.
fn check_tuned(name: &str, value: u64, min: u64, max: u64) -> Result<(), Refusal> {
    if value == 0 || value > max {
        let no_limit = if value == 0 { " (no limit)" } else { "" };
        return Err(Refusal::not_allowed(format!(
            "negotiated {name} = {value}{no_limit} is higher than the maximum allowed value ({max})"
        )));
    }
    if value < min {
        return Err(Refusal::not_allowed(format!(
            "negotiated {name} = {value} is lower than the minimum allowed value ({min})"
        )));
    }
    Ok(())
}

/// Clients decide by `product` and `version` how to behave; ours is named beside them.
fn server_properties(config: &Config) -> TableBuf {
    let mut capabilities = TableBuf::new();
    for name in CAPABILITIES {
        capabilities.insert(name, Field::Bool(true));
    }
    let identity = &config.identity;
    let platform = concat!("SluiceMQ ", env!("CARGO_PKG_VERSION"));
    let mut properties = TableBuf::new();
    properties
        .insert("capabilities", Field::Table(capabilities.as_table()))
        .insert("cluster_name", Field::LongStr(identity.cluster_name.as_bytes()))
        .insert("copyright", Field::LongStr(b"The SluiceMQ authors"))
        .insert("information", Field::LongStr(b"SluiceMQ, a message broker for AMQP 0-9-1"))
        .insert("platform", Field::LongStr(platform.as_bytes()))
        .insert("product", Field::LongStr(identity.product.as_bytes()))
        .insert("version", Field::LongStr(identity.version.as_bytes()));
    properties
}
