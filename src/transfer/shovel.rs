//! A shovel's parameter: what it may say, in RabbitMQ's words where it says something else, and what it means.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::users::User;
use crate::broker::Broker;
use crate::protocol::field::Field;
use crate::protocol::field_text::Term;
use crate::protocol::table::{Table, TableBuf};
use crate::transfer::message::{Stamp, Written};
use crate::transfer::plan::{AckMode, End, From, Intake, Plan, To};
use crate::transfer::uri::{Names, Place};

/// Under this key it is kept who has set it: where a URI names nobody, it is they who move messages. Nobody can say it.
const SET_BY: &str = "set-by";
/// No more are on their way, whatever is said: all of them may be answered, or tried again, in one turn.
const PREFETCH_MAX: u16 = 1000;
const REST_DEFAULT: Duration = Duration::from_secs(5);
/// Longer rests are this long.
const REST_MAX: u64 = 24 * 60 * 60;
/// The protocol of both ends.
const PROTOCOL: &str = "amqp091";

/// A shovel.
#[derive(Debug)]
pub struct Shovel {
    /// What it does.
    pub plan: Arc<Plan>,
    /// How long it rests before it begins anew; without it does not.
    pub rest: Option<Duration>,
    /// Where it takes and where it publishes, as is told of it: names and values.
    pub shown: Vec<(&'static str, String)>,
}

/// A parameter's value as it was said.
pub fn said(value: Table<'_>) -> TableBuf {
    let mut said = TableBuf::new();
    for (key, field) in value.iter().filter(|(key, _)| *key != SET_BY.as_bytes()) {
        said.insert_bytes(key, field);
    }
    said
}

/// Who has said it, where that is known.
pub fn owner(value: Table<'_>) -> Option<String> {
    match value.get(SET_BY)? {
        Field::LongStr(user) => Some(String::from_utf8_lossy(user).into_owned()),
        _ => None,
    }
}

/// What is kept of a value that this user has said.
pub fn set_by(value: Table<'_>, user: &str) -> TableBuf {
    let mut kept = said(value);
    kept.insert(SET_BY, Field::LongStr(user.as_bytes()));
    kept
}

impl Shovel {
    /// What a parameter, of this virtual host and name, says that this user has set.
    ///
    /// # Errors
    /// What is wrong with it, a line for each fault.
    pub fn read(
        (vhost, name): (&str, &str),
        said: Table<'_>,
        user: &str,
        names: &Names,
        broker: &Broker,
    ) -> Result<Self, String> {
        let mut reader = Reader { value: said, of: name, known: BTreeSet::new(), faults: Vec::new() };
        let shovel = reader.shovel((vhost, name), user, names, &broker.config.identity.cluster_name);
        match shovel {
            Some(shovel) if reader.faults.is_empty() => Ok(shovel),
            _ => Err(format!("Validation failed\n\n{}\n", reader.faults.join("\n"))),
        }
    }

    /// Whether this user may open what it moves between, where it names nobody else.
    ///
    /// # Errors
    /// They may not.
    pub fn check_user(&self, user: &User) -> Result<(), String> {
        for end in [&self.plan.source, &self.plan.sink] {
            if end.login.is_none() && !user.may_open(&end.vhost) {
                let (user, vhost) = (&user.name, &end.vhost);
                return Err(format!(
                    "Validation failed\n\nuser \"{user}\" may not connect to vhost \"{vhost}\"\n"
                ));
            }
        }
        Ok(())
    }
}

/// Reads a value, and notes all that is wrong with it.
struct Reader<'a> {
    value: Table<'a>,
    /// Whose value it is.
    of: &'a str,
    /// Keys that were asked for.
    known: BTreeSet<&'static str>,
    faults: Vec<String>,
}

impl<'a> Reader<'a> {
    fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.insert(key);
        self.value.get(key)
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    fn is_not(&mut self, key: &str, expected: &str, found: Field<'_>) {
        self.fault(format!("{key} should be {expected}, actually was {}", Term(found)));
    }

    /// A text; of several spellings the first that is there.
    fn text(&mut self, key: &'static str) -> Option<String> {
        match self.get(key)? {
            Field::LongStr(text) => Some(String::from_utf8_lossy(text).into_owned()),
            other => {
                self.is_not(key, "binary", other);
                None
            }
        }
    }

    /// A name or a key: they are short strings for clients.
    fn name(&mut self, key: &'static str) -> Option<String> {
        let name = self.text(key)?;
        if name.len() > 255 {
            self.fault(format!("{key} is longer than 255 bytes"));
        }
        Some(name)
    }

    fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.get(key)? {
            Field::Bool(flag) => Some(flag),
            other => {
                self.is_not(key, "boolean", other);
                None
            }
        }
    }

    fn number(&mut self, key: &'static str) -> Option<u64> {
        let found = self.get(key)?;
        match found.as_int() {
            Some(number) => u64::try_from(number).ok().or_else(|| {
                self.is_not(key, "a number greater than or equal to 0", found);
                None
            }),
            None => {
                self.is_not(key, "a number", found);
                None
            }
        }
    }

    fn table(&mut self, key: &'static str) -> TableBuf {
        match self.get(key) {
            None => TableBuf::new(),
            Some(Field::Table(table)) => {
                let mut copied = TableBuf::new();
                for (name, value) in table.iter() {
                    copied.insert_bytes(name, value);
                }
                copied
            }
            Some(other) => {
                self.is_not(key, "a map", other);
                TableBuf::new()
            }
        }
    }

    fn place(&mut self, key: &'static str, names: &Names) -> Option<Place> {
        let uris = match self.get(key) {
            None => {
                self.fault(format!("Key \"{key}\" not found in {}", self.of));
                return None;
            }
            Some(Field::LongStr(uri)) => vec![uri],
            Some(Field::Array(list)) => {
                let uri = |field| match field {
                    Field::LongStr(uri) => Ok(uri),
                    other => Err(other),
                };
                match list.iter().map(uri).collect::<Result<Vec<_>, _>>() {
                    Ok(uris) => uris,
                    Err(other) => {
                        self.is_not(key, "list", other);
                        return None;
                    }
                }
            }
            Some(other) => {
                self.is_not(key, "list", other);
                return None;
            }
        };
        let uris: Vec<_> = uris.into_iter().map(String::from_utf8_lossy).collect();
        match names.find_first(uris.iter().map(|uri| &**uri)) {
            Ok(place) => Some(place),
            Err(reason) => {
                self.fault(reason);
                None
            }
        }
    }

    fn protocol(&mut self, key: &'static str) {
        if let Some(protocol) = self.text(key)
            && protocol != PROTOCOL
        {
            self.fault(format!(
                "{key} should be one of [<<\"{PROTOCOL}\">>], actually was <<\"{protocol}\">>"
            ));
        }
    }

    fn shovel(
        &mut self,
        (vhost, name): (&str, &str),
        user: &str,
        names: &Names,
        cluster: &str,
    ) -> Option<Shovel> {
        self.protocol("src-protocol");
        self.protocol("dest-protocol");
        let mut shown = Vec::new();
        let from = self.from(&mut shown);
        let to = self.to(&mut shown);
        let (sink, source) = (self.place("dest-uri", names), self.place("src-uri", names));
        let ack_mode = self.ack_mode();
        let intake = self.intake(ack_mode);
        let (new, old) = (self.number("src-prefetch-count"), self.number("prefetch-count"));
        let prefetch = new.or(old).and_then(|count| u16::try_from(count).ok()).filter(|count| *count > 0);
        let rest = match self.number("reconnect-delay") {
            None => Some(REST_DEFAULT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.min(REST_MAX))),
        };
        let (forwards, is_timed) = self.headers();
        let written = self.written();
        let publisher =
            sink.as_ref().and_then(|place| place.login.as_ref()).map_or(user, |login| &login.user);
        self.check_user_id(&written, publisher);
        // What a tool says of itself.
        self.known.extend(["name", "internal"]);
        self.refuse_unknown();
        let (from, source, sink) = (from?, source?, sink?);
        shown.push(("src_uri", source.uri.to_string()));
        shown.push(("dest_uri", sink.uri.to_string()));
        let forward = forwards.then(|| forward_header((vhost, name), cluster, &shown));
        let end = |place: Place| End { vhost: place.vhost, login: place.login };
        let plan = Plan {
            name: format!("Shovel {name}"),
            user: user.into(),
            source: end(source),
            sink: end(sink),
            from,
            to,
            intake,
            prefetch: prefetch.unwrap_or(PREFETCH_MAX).min(PREFETCH_MAX),
            ack_mode,
            stamp: Stamp { forward, timestamp: is_timed, written, ..Stamp::default() },
        };
        Some(Shovel { plan: Arc::new(plan), rest, shown })
    }

    fn from(&mut self, shown: &mut Vec<(&'static str, String)>) -> Option<From> {
        let (queue, exchange) = (self.name("src-queue"), self.name("src-exchange"));
        let key = self.name("src-exchange-key");
        let (arguments, consumer) = (self.table("src-queue-args"), self.table("src-consumer-args"));
        let is_predeclared = self.flag("src-predeclared").unwrap_or(false);
        match (queue, exchange) {
            (Some(name), None) => {
                shown.push(("src_queue", name.clone()));
                Some(From::Queue { name, declared: (!is_predeclared).then_some(arguments), consumer })
            }
            (None, Some(name)) => {
                shown.push(("src_exchange", name.clone()));
                shown.extend(key.clone().map(|key| ("src_exchange_key", key)));
                Some(From::Exchange { name, key: key.unwrap_or_default() })
            }
            (None, None) => {
                if self.value.get("src-queue").is_none() && self.value.get("src-exchange").is_none() {
                    self.fault("Must specify 'src-exchange' or 'src-queue'".to_owned());
                }
                None
            }
            (Some(_), Some(_)) => {
                self.fault("Cannot specify 'src-exchange' and 'src-queue'".to_owned());
                None
            }
        }
    }

    fn to(&mut self, shown: &mut Vec<(&'static str, String)>) -> To {
        let (queue, exchange) = (self.name("dest-queue"), self.name("dest-exchange"));
        let key = self.name("dest-exchange-key");
        let is_predeclared = self.flag("dest-predeclared").unwrap_or(false);
        let arguments = self.table("dest-queue-args");
        if queue.is_some() && exchange.is_some() {
            self.fault("Cannot specify 'dest-exchange' and 'dest-queue'".to_owned());
        }
        shown.extend(queue.clone().map(|name| ("dest_queue", name)));
        shown.extend(exchange.clone().map(|name| ("dest_exchange", name)));
        shown.extend(key.clone().filter(|_| queue.is_none()).map(|key| ("dest_exchange_key", key)));
        match queue {
            Some(name) => To::Queue { name, declared: (!is_predeclared).then_some(arguments) },
            None => To::Exchange { name: exchange, key },
        }
    }

    fn ack_mode(&mut self) -> AckMode {
        let Some(found) = self.get("ack-mode") else { return AckMode::default() };
        match found {
            Field::LongStr(b"on-confirm") => AckMode::OnConfirm,
            Field::LongStr(b"on-publish") => AckMode::OnPublish,
            Field::LongStr(b"no-ack") => AckMode::NoAck,
            other => {
                self.is_not(
                    "ack-mode",
                    "one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>]",
                    other,
                );
                AckMode::default()
            }
        }
    }

    fn intake(&mut self, ack_mode: AckMode) -> Intake {
        let mut intake = Intake::All;
        for key in ["delete-after", "src-delete-after"] {
            let Some(found) = self.get(key) else { continue };
            match (found, found.as_int().map(u64::try_from)) {
                (Field::LongStr(b"never"), _) => {}
                (Field::LongStr(b"queue-length"), _) => intake = Intake::Present,
                (_, Some(Ok(_))) if ack_mode == AckMode::NoAck => {
                    self.fault("Cannot specify 'no-ack' and numerical 'delete-after'".to_owned());
                }
                (_, Some(Ok(count))) => intake = Intake::Count(count),
                _ => {
                    let expected = "a number greater than or equal to 0, \"never\" or \"queue-length\"";
                    self.is_not(key, expected, found);
                }
            }
        }
        intake
    }

    /// Whether it tells in headers where a message has been, and when.
    fn headers(&mut self) -> (bool, bool) {
        let (new, old) = (self.flag("dest-add-forward-headers"), self.flag("add-forward-headers"));
        let forwards = new.or(old).unwrap_or(false);
        let (new, old) = (self.flag("dest-add-timestamp-header"), self.flag("add-timestamp-header"));
        (forwards, new.or(old).unwrap_or(false))
    }

    fn written(&mut self) -> Vec<Written> {
        let mut written = Vec::new();
        for key in ["publish-properties", "dest-publish-properties"] {
            match self.get(key) {
                None => {}
                Some(Field::Table(table)) => {
                    for (name, value) in table.iter() {
                        written.extend(self.property(key, &String::from_utf8_lossy(name), value));
                    }
                }
                Some(other) => self.fault(format!("{key} not a list {}", Term(other))),
            }
        }
        written
    }

    /// Nobody publishes in the name of another; who has published what is moved was asked then.
    fn check_user_id(&mut self, written: &[Written], publisher: &str) {
        for property in written {
            if let Written::UserId(claimed) = property
                && claimed != publisher
            {
                let text =
                    format!("user_id property set to '{claimed}' but authenticated user was '{publisher}'");
                self.fault(text);
            }
        }
    }

    fn property(&mut self, of: &str, name: &str, value: Field<'_>) -> Option<Written> {
        let text = match value {
            Field::LongStr(text) if text.len() <= 255 => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        let number = value.as_int().and_then(|number| u64::try_from(number).ok());
        let octet = number.and_then(|number| u8::try_from(number).ok());
        let (written, expected) = match name {
            "content_type" => (text.map(Written::ContentType), "binary"),
            "content_encoding" => (text.map(Written::ContentEncoding), "binary"),
            "delivery_mode" => {
                (octet.filter(|mode| [1, 2].contains(mode)).map(Written::DeliveryMode), "1 or 2")
            }
            "priority" => (octet.map(Written::Priority), "a number"),
            "correlation_id" => (text.map(Written::CorrelationId), "binary"),
            "reply_to" => (text.map(Written::ReplyTo), "binary"),
            "expiration" => (text.map(Written::Expiration), "binary"),
            "message_id" => (text.map(Written::MessageId), "binary"),
            "timestamp" => (number.map(Written::Timestamp), "a number"),
            "type" => (text.map(Written::Kind), "binary"),
            "user_id" => (text.map(Written::UserId), "binary"),
            "app_id" => (text.map(Written::AppId), "binary"),
            "cluster_id" => (text.map(Written::ClusterId), "binary"),
            _ => {
                self.fault(format!("Unrecognised terms [{{<<\"{name}\">>,{}}}] in {of}", Term(value)));
                return None;
            }
        };
        if written.is_none() {
            self.is_not(name, expected, value);
        }
        written
    }

    fn refuse_unknown(&mut self) {
        for (key, value) in self.value.iter() {
            let key = String::from_utf8_lossy(key);
            if !self.known.contains(&*key) {
                self.fault(format!("Unrecognised terms [{{<<\"{key}\">>,{}}}] in {}", Term(value), self.of));
            }
        }
    }
}

/// What RabbitMQ's shovels write about themselves.
fn forward_header((vhost, name): (&str, &str), cluster: &str, shown: &[(&'static str, String)]) -> TableBuf {
    let mut header = TableBuf::new();
    for (key, value) in shown {
        header.insert(&key.replace('_', "-"), Field::LongStr(value.as_bytes()));
    }
    let own = [
        ("shovelled-by", cluster),
        ("shovel-type", "dynamic"),
        ("shovel-name", name),
        ("shovel-vhost", vhost),
    ];
    for (key, value) in own {
        header.insert(key, Field::LongStr(value.as_bytes()));
    }
    header
}
