//! What is told of messages in a virtual host that is traced: a copy of each that is published, by the key
//! `publish.EXCHANGE`, and of each that is delivered, by `deliver.QUEUE`, through the exchange `amq.rabbitmq.trace`. Headers
//! say what it was, in RabbitMQ's words.
//!
//! Copies are messages like all others, and take memory where nobody takes them. Nothing is told during an alarm, and to
//! have told something is no reason for one to concern a connection.

use std::sync::Arc;

use crate::broker::copies;
use crate::broker::exchange::Exchange;
use crate::broker::queue::handle::Queue;
use crate::broker::route::{self, Targets};
use crate::broker::vhost::TRACE_EXCHANGE;
use crate::broker::wakes::HOLD_STEPS;
use crate::message::names::{Names, NamesBuf};
use crate::message::record::{Content, MessageView};
use crate::message::run::Run;
use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{ArrayBuf, Table, TableBuf};
use crate::session::channel::content::Shown;
use crate::session::channel::publish::publish_copy;
use crate::session::link::Link;

/// A key is no longer, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// A message was published, and these queues are to have it.
pub(super) fn published(
    link: &mut Link,
    channel: u16,
    message: &MessageView<'_>,
    shown: Shown,
    targets: &Targets,
) {
    let Some(copies) = Copies::of(link, channel, (b"publish.", message.names.exchange())) else { return };
    let mut queues = ArrayBuf::new();
    for queue in targets.iter() {
        queues.push(Field::LongStr(queue.properties.name.as_bytes()));
    }
    copies.tell(link, message, shown, |headers| {
        headers.insert("routed_queues", Field::Array(queues.as_array()));
    });
}

/// Messages of a queue were delivered. Of so many that a turn is over the rest is not told.
pub(super) fn delivered(link: &mut Link, channel: u16, queue: &Arc<Queue>, run: &Run, shown: Shown) {
    let name = queue.properties.name.as_bytes();
    let Some(copies) = Copies::of(link, channel, (b"deliver.", name)) else { return };
    for message in run.messages() {
        copies.tell(link, &message, shown, |headers| {
            headers.insert("redelivered", Field::I32(run.is_redelivered().into()));
        });
        if link.wakes.steps() >= HOLD_STEPS {
            break;
        }
    }
}

/// Copies with one key.
struct Copies {
    channel: u16,
    exchange: Arc<Exchange>,
    names: NamesBuf,
    /// Where they go; more than their key decides when there is none.
    targets: Option<Targets>,
}

impl Copies {
    /// Those that are told of something by this name, if they are and somebody is to have them.
    fn of(link: &mut Link, channel: u16, (verb, name): (&[u8], &[u8])) -> Option<Self> {
        let is_told = (verb, name) == (b"publish.", TRACE_EXCHANGE.as_bytes());
        if is_told || link.node().alarms.reason().is_some() {
            return None;
        }
        let exchange = link.vhost.exchange(TRACE_EXCHANGE)?;
        let mut key = [verb, name].concat();
        key.truncate(KEY_BYTES_MAX);
        let mut names = NamesBuf::default();
        names.set(TRACE_EXCHANGE.as_bytes(), &key);
        // Patterns that would keep them for too long refuse nothing here: they are not told.
        let routed =
            route::route(&link.vhost, &exchange, &[&key], Properties::EMPTY, &mut link.wakes).ok()?;
        if !routed.by_message && routed.targets.is_empty() {
            return None;
        }
        let targets = (!routed.by_message).then_some(routed.targets);
        Some(Self { channel, exchange, names, targets })
    }

    /// Publishes one of a message, unless that is one itself.
    fn tell(&self, link: &mut Link, message: &MessageView<'_>, shown: Shown, more: impl Fn(&mut TableBuf)) {
        if message.names.exchange() == TRACE_EXCHANGE.as_bytes() {
            return;
        }
        let mut headers = describe(link, self.channel, message, shown, true);
        more(&mut headers);
        // A copy of what holds a copy is deeper than that: whoever sends them round makes none that nobody may read.
        if Table::parse(headers.as_table().as_bytes()).is_err() {
            headers = describe(link, self.channel, message, shown, false);
            more(&mut headers);
        }
        let mut properties = PropertiesBuf::new();
        properties.headers(headers.as_table());
        let properties = properties.encode();
        let content = Content { names: self.names.view(), properties: &properties, body: &[] };
        publish_copy(link, &self.exchange, self.targets.as_ref(), &content, message.body);
    }
}

/// What it was, where it was, and whose; without the headers that it had where those are too much.
fn describe(
    link: &Link,
    channel: u16,
    message: &MessageView<'_>,
    shown: Shown,
    with_headers: bool,
) -> TableBuf {
    let names: Names<'_> = message.names;
    let sent = Properties::unchecked(message.properties);
    let mut keys = ArrayBuf::new();
    keys.push(Field::LongStr(names.routing_key()));
    for key in copies::keys(sent.headers().unwrap_or(Table::EMPTY)) {
        keys.push(Field::LongStr(key));
    }
    let properties = shown.properties(message.properties);
    let properties = properties_table(&Properties::unchecked(&properties), with_headers);
    let mut told = TableBuf::new();
    told.insert("exchange_name", Field::LongStr(names.exchange()))
        .insert("routing_keys", Field::Array(keys.as_array()))
        .insert("properties", Field::Table(properties.as_table()))
        .insert("node", Field::LongStr(link.broker.node_name.as_bytes()))
        .insert("vhost", Field::LongStr(link.vhost.name().as_bytes()))
        .insert("connection", Field::LongStr(link.outbox.name().as_bytes()))
        .insert("channel", Field::I32(channel.into()))
        .insert("user", Field::LongStr(link.actor.user.name.as_bytes()));
    told
}

/// The properties that are there, as a table.
fn properties_table(properties: &Properties<'_>, with_headers: bool) -> TableBuf {
    let mut table = TableBuf::new();
    for (name, text) in properties.texts() {
        if let Some(text) = text {
            table.insert(name, Field::LongStr(text));
        }
    }
    for (name, number) in [("delivery_mode", properties.delivery_mode()), ("priority", properties.priority())]
    {
        if let Some(number) = number {
            table.insert(name, Field::I32(number.into()));
        }
    }
    if let Some(timestamp) = properties.timestamp() {
        table.insert("timestamp", Field::I64(timestamp.cast_signed()));
    }
    if let Some(headers) = properties.headers().filter(|_| with_headers) {
        table.insert("headers", Field::Table(headers));
    }
    table
}
