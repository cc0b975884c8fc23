//! What a published message asks for, and where it goes: into the burst of the read chunk.
//!
//! A message whose properties and names are like one's before goes there with no more than a look at both.

use std::sync::Arc;

use bytes::Bytes;

use crate::auth::permissions::Access;
use crate::broker::Broker;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::Exchange;
use crate::broker::history::Remembered;
use crate::broker::memory::Memory;
use crate::broker::publish::Receipt;
use crate::broker::route::{self, Targets};
use crate::message::block::{Big, Pieces, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::Marks;
use crate::message::names::{Names, NamesBuf};
use crate::message::record::{BodyView, Content, MessageView};
use crate::protocol::express::WholePublish;
use crate::protocol::methods::BasicPublish;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::session::channel::Channel;
use crate::session::channel::assembly::{Assembly, parse_properties};
use crate::session::channel::confirm::Confirms;
use crate::session::channel::content;
use crate::session::channel::returns::send_return;
use crate::session::channel::tx::Transaction;
use crate::session::cut::Cut;
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::session::unroutable::Unroutable;
use crate::stats::Charge;

/// What each queue a message goes to takes of a transaction, in bytes, with the message's number.
const TARGET_BYTES: u64 = 32;

/// The properties of the last message that said nothing to the broker but its marks: those of the next one need no look
/// when they are the same.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Empty when there are none; properties never are.
    properties: Vec<u8>,
    marks: Marks,
}

impl Plain {
    fn of(&self, properties: &[u8]) -> Option<Marks> {
        (!self.properties.is_empty() && self.properties == properties).then_some(self.marks)
    }

    fn remember(&mut self, properties: &[u8], marks: Marks) {
        self.properties.clear();
        self.properties.extend_from_slice(properties);
        self.marks = marks;
    }
}

/// What of a channel a publish concerns.
struct Publisher<'a> {
    channel: u16,
    plain: &'a mut Plain,
    confirms: &'a mut Option<Confirms>,
    transaction: &'a mut Option<Transaction>,
    reply_address: Option<&'a str>,
}

/// A whole body.
enum Body<'a> {
    Slice(&'a [u8]),
    Pieces(Pieces),
}

impl Body<'_> {
    fn view(&self) -> BodyView<'_> {
        match self {
            Self::Slice(slice) => BodyView::Slice(slice),
            Self::Pieces(pieces) => BodyView::Chunks(pieces),
        }
    }

    /// The message as an exchange remembers it.
    fn remember(&self, message: &Content<'_>, memory: &Memory) -> Arc<Remembered> {
        let body = match self {
            Self::Slice(slice) => Pieces::from_iter([Bytes::copy_from_slice(slice)]),
            Self::Pieces(pieces) => Cut::detach(pieces.clone()),
        };
        Remembered::new(message.names, message.properties, body, memory)
    }

    fn into_pieces(self) -> Pieces {
        match self {
            Self::Slice(slice) => Pieces::from_iter([Bytes::copy_from_slice(slice)]),
            Self::Pieces(pieces) => pieces,
        }
    }
}

impl Channel {
    pub(super) fn on_publish(&mut self, publish: &BasicPublish<'_>) -> Result<(), Refusal> {
        if publish.immediate {
            return Err(Refusal::not_implemented("immediate=true"));
        }
        self.assembly.begin(publish);
        Ok(())
    }

    /// A message whose frames arrived together.
    ///
    /// # Errors
    /// What the content is refused with.
    pub fn on_whole_publish(&mut self, link: &mut Link, publish: &WholePublish<'_>) -> Result<(), Refusal> {
        let WholePublish { names, mandatory, properties, body, .. } = *publish;
        let names = Names::of_wire(names).unwrap_or(Names::EMPTY);
        let (mut publisher, _) = self.publisher();
        let message = Content { names, properties, body };
        if publisher.publish_alike(link, &message, std::iter::once(body)) > 0 {
            return Ok(());
        }
        parse_properties(properties)?;
        publisher.publish(link, &message, mandatory, Body::Slice(body))
    }

    /// Messages behind a whole one that differ from it in nothing but the octets of their bodies. They are left alone
    /// when it takes more than a look to publish them.
    pub fn publish_alike<'a>(
        &mut self,
        link: &mut Link,
        first: &WholePublish<'_>,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) {
        let WholePublish { names, properties, body, .. } = *first;
        let names = Names::of_wire(names).unwrap_or(Names::EMPTY);
        self.publisher().0.publish_alike(link, &Content { names, properties, body }, bodies);
    }

    pub(super) fn publish_when_whole(
        &mut self,
        link: &mut Link,
        whole: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        if !self.assembly.is_whole() {
            return Ok(());
        }
        let pieces = self.assembly.finish(link);
        let body = match whole {
            Some(slice) => Body::Slice(slice),
            None if pieces.is_empty() => Body::Slice(&[]),
            None => Body::Pieces(pieces),
        };
        let (mut publisher, assembly) = self.publisher();
        let message = Content { names: assembly.names(), properties: assembly.properties(), body: &[] };
        publisher.publish(link, &message, assembly.is_mandatory(), body)
    }

    fn publisher(&mut self) -> (Publisher<'_>, &Assembly) {
        let publisher = Publisher {
            channel: self.number,
            plain: &mut self.plain,
            confirms: &mut self.confirms,
            transaction: &mut self.transaction,
            reply_address: self.reply_address.as_deref(),
        };
        (publisher, &self.assembly)
    }
}

impl Publisher<'_> {
    /// Publishes small messages with properties like those of the last one, to names that were routed before: one for
    /// each body, which is as long as that of `like`. How many; none when these are no such messages.
    fn publish_alike<'a>(
        &mut self,
        link: &mut Link,
        like: &Content<'_>,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> u64 {
        let Some(marks) = self.plain.of(like.properties) else { return 0 };
        if self.transaction.is_some() {
            return 0;
        }
        let count = link.publish_alike(like, marks, bodies);
        if count > 0 {
            link.on_publish(self.channel, self.confirms.is_some());
        }
        if let Some(confirms) = &mut self.confirms {
            confirms.publish(count);
        }
        count
    }

    /// Publishes a message: the names and properties of `message`, and this body.
    fn publish(
        &mut self,
        link: &mut Link,
        message: &Content<'_>,
        mandatory: bool,
        body: Body<'_>,
    ) -> Result<(), Refusal> {
        link.on_publish(self.channel, self.confirms.is_some());
        let route = link.route(message.names, check_exchange)?;
        let parsed = Properties::unchecked(message.properties);
        content::check(&parsed, &link.actor.user)?;
        let rewritten = content::rewrite(&parsed, self.reply_address)?;
        let headers = parsed.headers().unwrap_or(Table::EMPTY);
        let more_keys = content::more_keys(headers)?;
        content::check_delivery_mode(&parsed)?;
        let marks = content::marks(&parsed);
        if rewritten.is_none() && more_keys.is_empty() {
            self.plain.remember(message.properties, marks);
        }
        let properties = rewritten.as_deref().unwrap_or(message.properties);
        let message = Content { properties, ..*message };
        let found;
        let mut may_be_refused = route.may_be_refused;
        let targets = if route.by_message || !more_keys.is_empty() {
            let memory = Arc::clone(&link.node().memory);
            let remembered = || body.remember(&message, &memory);
            found = find_targets(link, &route.exchange, &message, &more_keys, parsed, &remembered)?;
            may_be_refused = found.iter().any(|queue| queue.rejects());
            &found
        } else {
            &route.targets
        };
        // What is refused is never confirmed.
        if let Some(confirms) = &mut self.confirms {
            confirms.publish(1);
        }
        let is_replied = route.exchange.is_default() && reply(link, &message, &more_keys, &body);
        if !targets.is_empty() {
            let publish = self.confirms.as_ref().map_or(0, Confirms::published);
            let receipt = Receipt { channel: self.channel, publish };
            let terms = Terms { mandatory, marks, may_be_refused, receipt };
            return hand_to_burst(link, self.transaction, targets, &message, body, terms);
        }
        // RabbitMQ returns a reply as well that was delivered: see `broker::reply_to` for why this one does not.
        if !is_replied && mandatory {
            return return_unroutable(link, self.transaction, self.channel, &message, body);
        }
        Ok(())
    }
}

/// How a message is published, beside where to.
#[derive(Clone, Copy)]
struct Terms {
    mandatory: bool,
    marks: Marks,
    /// One of its queues may refuse it.
    may_be_refused: bool,
    /// Who is told then.
    receipt: Receipt,
}

fn hand_to_burst(
    link: &mut Link,
    transaction: &mut Option<Transaction>,
    targets: &Targets,
    message: &Content<'_>,
    body: Body<'_>,
    terms: Terms,
) -> Result<(), Refusal> {
    let Terms { mandatory, marks, may_be_refused, receipt } = terms;
    let received_ms = link.now.steady_ms;
    let (own, node) = link.burst();
    let burst = match transaction {
        Some(transaction) => {
            let bytes = message_bytes(message, &body) + targets.len() as u64 * TARGET_BYTES;
            let number = transaction.count_publish(bytes, node)?;
            transaction.burst.returns_as(mandatory.then_some(number));
            &mut transaction.burst
        }
        None => own,
    };
    burst.received_at(received_ms);
    if may_be_refused {
        burst.open(targets, receipt);
    }
    match body {
        Body::Slice(body) => burst.publish(node, targets, &Content { body, ..*message }, marks),
        Body::Pieces(pieces) => {
            let will_rest = !targets.iter().all(|queue| queue.flows());
            let pieces = if will_rest { Cut::detach(pieces) } else { pieces };
            let stamp = burst.stamp(marks);
            let big = Big::new(message.names, message.properties, pieces, stamp, &node.memory.messages);
            burst.publish_big(node, targets, big);
        }
    }
    if may_be_refused {
        burst.close();
    }
    let steps = burst.take_steps();
    link.wakes.count(steps);
    Ok(())
}

/// basic.return: a mandatory message that nobody takes, at once or when its transaction commits.
fn return_unroutable(
    link: &mut Link,
    transaction: &mut Option<Transaction>,
    channel: u16,
    message: &Content<'_>,
    body: Body<'_>,
) -> Result<(), Refusal> {
    let Some(transaction) = transaction else {
        send_return(link, channel, &view(message, &body));
        return Ok(());
    };
    let bytes = message_bytes(message, &body);
    let number = transaction.count_publish(bytes, link.node())?;
    let mut names = NamesBuf::default();
    names.copy(message.names);
    let properties = message.properties.to_vec();
    let charge = Charge::new(&link.node().memory.messages, bytes);
    let unroutable = Unroutable::Never { names, properties, body: body.into_pieces(), charge };
    transaction.returns.insert(number, unroutable);
    Ok(())
}

fn message_bytes(message: &Content<'_>, body: &Body<'_>) -> u64 {
    let head = message.names.as_bytes().len() + message.properties.len();
    (head + body.view().len()) as u64
}

/// Hands an answer to the direct reply-to consumers whose addresses are among its keys. Whether any takes it.
fn reply(link: &mut Link, message: &Content<'_>, more_keys: &[Vec<u8>], body: &Body<'_>) -> bool {
    let keys = std::iter::once(message.names.routing_key()).chain(more_keys.iter().map(Vec::as_slice));
    let Broker { node, replies, complaints, .. } = &*link.broker;
    let replied = replies.deliver(&view(message, body), keys, &node.memory, &mut link.wakes);
    if replied.is_left_unread
        && let Some(left_out) = complaints.allow(link.now.instant)
    {
        tracing::warn!(left_out, "a direct reply is dropped: its client leaves too many unread");
    }
    replied.is_taken
}

fn view<'a>(message: &Content<'a>, body: &'a Body<'_>) -> MessageView<'a> {
    MessageView { names: message.names, properties: message.properties, body: body.view() }
}

/// The exchange a client may publish to.
fn check_exchange(link: &Link, names: Names<'_>) -> Result<Arc<Exchange>, Refusal> {
    let name = String::from_utf8_lossy(names.exchange());
    link.vhost.check_access(&link.actor, Access::Write, ResourceKind::Exchange, &name)?;
    let exchange = link.vhost.find_exchange(&name)?;
    if exchange.properties.internal {
        return Err(BrokerError::InternalExchange(exchange.resource()).into());
    }
    let key = String::from_utf8_lossy(names.routing_key());
    link.vhost.check_topic(&link.actor, Access::Write, &exchange, &key)?;
    Ok(exchange)
}

/// Where a message goes that must be looked at to know it. Exchanges on its way may remember it.
pub(super) fn find_targets(
    link: &mut Link,
    exchange: &Arc<Exchange>,
    message: &Content<'_>,
    more_keys: &[Vec<u8>],
    properties: Properties<'_>,
    remembered: &dyn Fn() -> Arc<Remembered>,
) -> Result<Targets, BrokerError> {
    let key = message.names.routing_key();
    let keys: Vec<&[u8]> = std::iter::once(key).chain(more_keys.iter().map(Vec::as_slice)).collect();
    let (vhost, wakes) = (&link.vhost, &mut link.wakes);
    Ok(route::route_message(vhost, exchange, &keys, properties, remembered, wakes)?.targets)
}

/// Publishes a message once more that an exchange has remembered.
pub(super) fn publish_again(link: &mut Link, targets: &Targets, message: &Remembered) {
    let content = Content { names: message.names.view(), properties: &message.properties, body: &[] };
    let body = match &message.body[..] {
        [body] if body.len() <= SMALL_BODY_BYTES_MAX => Body::Slice(body),
        pieces => Body::Pieces(pieces.into()),
    };
    link.has_published = true;
    let marks = content::marks(&Properties::unchecked(&message.properties));
    // That a queue refuses it is told to nobody.
    let may_be_refused = targets.iter().any(|queue| queue.rejects());
    let receipt = Receipt { channel: 0, publish: 0 };
    let terms = Terms { mandatory: false, marks, may_be_refused, receipt };
    let published = hand_to_burst(link, &mut None, targets, &content, body, terms);
    debug_assert!(published.is_ok(), "only a transaction refuses");
}
