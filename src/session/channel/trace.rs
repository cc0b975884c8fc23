//! What is told of messages in a virtual host that is traced: a copy of each that is published, by the key
//! `publish.EXCHANGE`, and of each that is delivered, by `deliver.QUEUE`, through the exchange `amq.rabbitmq.trace`. Headers
//! say what it was, in RabbitMQ's words.
//!
//! Copies are messages like all others, and cost what those cost; but who watches must not stop others. Nothing is told
//! during an alarm, and to have told something is no reason for one to concern a connection.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::copies;
use crate::broker::history::Remembered;
use crate::broker::queue::handle::Queue;
use crate::broker::route::Targets;
use crate::broker::vhost::TRACE_EXCHANGE;
use crate::message::block::Pieces;
use crate::message::names::{Names, NamesBuf};
use crate::message::record::{BodyView, Content, MessageView};
use crate::message::run::Run;
use crate::protocol::field::Field;
use crate::protocol::properties::{Properties, PropertiesBuf};
use crate::protocol::table::{ArrayBuf, Table, TableBuf};
use crate::session::channel::content::Shown;
use crate::session::channel::publish::{find_targets, publish_again};
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
    let mut queues = ArrayBuf::new();
    for queue in targets.iter() {
        queues.push(Field::LongStr(queue.properties.name.as_bytes()));
    }
    let exchange = message.names.exchange();
    tell(link, channel, (b"publish.", exchange), message, shown, |headers| {
        headers.insert("routed_queues", Field::Array(queues.as_array()));
    });
}

/// Messages of a queue were delivered.
pub(super) fn delivered(link: &mut Link, channel: u16, queue: &Arc<Queue>, run: &Run, shown: Shown) {
    let name = queue.properties.name.as_bytes();
    for message in run.messages() {
        tell(link, channel, (b"deliver.", name), &message, shown, |headers| {
            headers.insert("redelivered", Field::I32(run.is_redelivered().into()));
        });
    }
}

fn tell(
    link: &mut Link,
    channel: u16,
    (verb, of): (&[u8], &[u8]),
    message: &MessageView<'_>,
    shown: Shown,
    more: impl FnOnce(&mut TableBuf),
) {
    let is_told = message.names.exchange() == TRACE_EXCHANGE.as_bytes();
    if is_told || link.node().alarms.reason().is_some() {
        return;
    }
    let Some(exchange) = link.vhost.exchange(TRACE_EXCHANGE) else { return };
    let mut headers = describe(link, channel, message, shown);
    more(&mut headers);
    let mut key = [verb, of].concat();
    key.truncate(KEY_BYTES_MAX);
    let mut names = NamesBuf::default();
    names.set(TRACE_EXCHANGE.as_bytes(), &key);
    let mut properties = PropertiesBuf::new();
    properties.headers(headers.as_table());
    let properties = properties.encode();
    let body = match message.body {
        BodyView::Slice(body) => Pieces::from_iter([Bytes::copy_from_slice(body)]),
        BodyView::Chunks(pieces) => pieces.iter().cloned().collect(),
    };
    let copy = Remembered::new(names.view(), &properties, body, &link.node().memory);
    let content = Content { names: names.view(), properties: &properties, body: &[] };
    let parsed = Properties::unchecked(&properties);
    let found = find_targets(link, &exchange, &content, &[], parsed, &|| Arc::clone(&copy));
    // Patterns that would keep it for too long refuse nothing here: it is not told.
    if let Ok(targets) = found
        && !targets.is_empty()
    {
        publish_again(link, &targets, &copy);
    }
}

/// What it was, where it was, and whose.
fn describe(link: &Link, channel: u16, message: &MessageView<'_>, shown: Shown) -> TableBuf {
    let names: Names<'_> = message.names;
    let sent = Properties::unchecked(message.properties);
    let mut keys = ArrayBuf::new();
    keys.push(Field::LongStr(names.routing_key()));
    for key in copies::keys(sent.headers().unwrap_or(Table::EMPTY)) {
        keys.push(Field::LongStr(key));
    }
    let properties = shown.properties(message.properties);
    let properties = properties_table(&Properties::unchecked(&properties));
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
fn properties_table(properties: &Properties<'_>) -> TableBuf {
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ];
    let mut table = TableBuf::new();
    for (name, text) in texts {
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
    if let Some(headers) = properties.headers() {
        table.insert("headers", Field::Table(headers));
    }
    table
}
