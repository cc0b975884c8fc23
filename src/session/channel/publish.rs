//! What a published message asks for, and where it goes: into the burst of the read chunk.
//!
//! A message whose properties and names are like one's before goes there with no more than a look at both.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::auth::permissions::Access;
use crate::broker::Broker;
use crate::broker::copies::BCC;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::Exchange;
use crate::broker::history::Remembered;
use crate::broker::memory::Memory;
use crate::broker::presence::ChannelTally;
use crate::broker::publish::Receipt;
use crate::broker::reply_to;
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
use crate::session::channel::content::{self, MoreKeys, Shown};
use crate::session::channel::returns::send_return;
use crate::session::channel::trace;
use crate::session::channel::tx::Transaction;
use crate::session::cut::Cut;
use crate::session::link::Link;
use crate::session::refuse::{NO_ROOM, Refusal};
use crate::session::unroutable::Unroutable;
use crate::stats::Charge;

/// What each queue a message goes to takes of a transaction, in bytes, with the message's number.
const TARGET_BYTES: u64 = 32;
/// What the name of a queue that is not there takes of it beside its letters.
const ABSENT_BYTES: u64 = 64;
/// Names of queues are short strings on the wire.
const NAME_BYTES_MAX: usize = 255;

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
    tally: &'a ChannelTally,
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
            tally: &self.tally,
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
            self.tally.published.bump(count);
        }
        if let Some(confirms) = &mut self.confirms {
            confirms.publish(count);
            self.tally.to_confirm.bump(count);
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
        content::check(&parsed, (!link.moves_only).then_some(&*link.actor.user))?;
        let rewritten = content::rewrite(&parsed, self.reply_address)?;
        let headers = parsed.headers().unwrap_or(Table::EMPTY);
        let MoreKeys { keys: more_keys, is_blind } = content::more_keys(headers)?;
        content::check_delivery_mode(&parsed)?;
        let marks = content::marks(&parsed, is_blind);
        let is_checked_once = || link.moves_only || !content::is_for_another(&parsed, &link.actor.user);
        if rewritten.is_none() && more_keys.is_empty() && is_checked_once() {
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
        if matches!(body, Body::Pieces(_)) && self.transaction.is_none() && is_logged(targets, marks) {
            let bytes = message_bytes(&message, &body);
            if !link.node().room.lets_hold(bytes) {
                return Err(Refusal::precondition(format!("message of {bytes} bytes: {NO_ROOM}")));
            }
        }
        if link.vhost.is_traced() {
            trace::published(link, self.channel, &view(&message, &body), Shown::of(marks), targets);
        }
        self.tally.published.bump(1);
        // What is refused is never confirmed.
        if let Some(confirms) = &mut self.confirms {
            confirms.publish(1);
            self.tally.to_confirm.bump(1);
        }
        let is_default = route.exchange.is_default();
        let is_replied = is_default && reply(link, &message, marks, &more_keys, &body);
        let absent = match is_default && self.transaction.is_some() {
            true => absent_names(&message, &more_keys, targets),
            false => Vec::new(),
        };
        // RabbitMQ returns a reply as well that was delivered: see `broker::reply_to` for why this one does not.
        let mandatory = mandatory && !is_replied;
        if !targets.is_empty() || !absent.is_empty() {
            let publish = self.confirms.as_ref().map_or(0, Confirms::published);
            let receipt = may_be_refused.then_some(Receipt { channel: self.channel, publish });
            let terms = Terms { mandatory, marks, receipt, absent: &absent };
            return hand_to_burst(link, self.transaction, targets, &message, body, terms);
        }
        if !is_replied {
            let unroutable = if mandatory { &self.tally.returned } else { &self.tally.dropped };
            unroutable.bump(1);
        }
        if mandatory {
            let shown = Shown::of(marks).properties(message.properties);
            let message = Content { properties: &shown, ..message };
            return return_unroutable(link, self.transaction, self.channel, &message, body);
        }
        Ok(())
    }
}

/// How a message is published, beside where to.
#[derive(Clone, Copy)]
struct Terms<'a> {
    mandatory: bool,
    marks: Marks,
    /// Who is told when one of its queues refuses it, if any may.
    receipt: Option<Receipt>,
    /// Names of queues that are to have it as well, if they are there when its transaction commits.
    absent: &'a [&'a str],
}

fn hand_to_burst(
    link: &mut Link,
    transaction: &mut Option<Transaction>,
    targets: &Targets,
    message: &Content<'_>,
    body: Body<'_>,
    terms: Terms<'_>,
) -> Result<(), Refusal> {
    let Terms { mandatory, marks, receipt, absent } = terms;
    let received_ms = link.now.steady_ms;
    let (own, node, limits) = link.burst();
    let burst = match transaction {
        Some(transaction) => {
            let names = absent.iter().map(|name| name.len() as u64 + ABSENT_BYTES).sum::<u64>();
            let bytes = message_bytes(message, &body) + targets.len() as u64 * TARGET_BYTES + names;
            let number = transaction.count_publish(bytes, limits, node)?;
            if !absent.is_empty() || is_logged(targets, marks) {
                transaction.count_logged(bytes);
            }
            transaction.burst.returns_as(mandatory.then_some(number));
            &mut transaction.burst
        }
        None => own,
    };
    burst.received_at(received_ms);
    let stays_apart = !targets.is_empty() && (receipt.is_some() || !absent.is_empty());
    if stays_apart {
        burst.open(targets, receipt, absent);
    } else if !absent.is_empty() {
        burst.open_for_names(absent);
    }
    match body {
        Body::Slice(body) => burst.publish(node, targets, &Content { body, ..*message }, marks),
        Body::Pieces(pieces) => {
            let will_rest = !absent.is_empty() || !targets.iter().all(|queue| queue.flows());
            let pieces = if will_rest { Cut::detach(pieces) } else { pieces };
            let stamp = burst.stamp(marks);
            let big = Big::new(message.names, message.properties, pieces, stamp, &node.memory.messages);
            burst.publish_big(node, targets, big);
        }
    }
    if stays_apart {
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
    let number = transaction.count_publish(bytes, &link.limits, link.node())?;
    let mut names = NamesBuf::default();
    names.copy(message.names);
    let properties = message.properties.to_vec();
    let charge = Charge::new(&link.node().memory.messages, bytes);
    let unroutable = Unroutable::Never { names, properties, body: body.into_pieces(), charge };
    transaction.returns.insert(number, unroutable);
    Ok(())
}

/// Whether the log must know of a message for these queues.
fn is_logged(targets: &Targets, marks: Marks) -> bool {
    targets.iter().any(|queue| queue.logs(marks.persistent))
}

fn message_bytes(message: &Content<'_>, body: &Body<'_>) -> u64 {
    let head = message.names.as_bytes().len() + message.properties.len();
    (head + body.view().len()) as u64
}

/// Hands an answer to the direct reply-to consumers whose addresses are among its keys. Whether any takes it.
fn reply(link: &mut Link, message: &Content<'_>, marks: Marks, more_keys: &[&[u8]], body: &Body<'_>) -> bool {
    let mut addresses = all_keys(message, more_keys).filter(|key| reply_to::is_address(key)).peekable();
    if addresses.peek().is_none() {
        return false;
    }
    let Broker { node, replies, complaints, .. } = &*link.broker;
    let shown = Shown::of(marks).properties(message.properties);
    let message = MessageView { names: message.names, properties: &shown, body: body.view() };
    let replied = replies.deliver(&message, addresses, &node.memory, &mut link.wakes);
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
    link.vhost.check_topic(&link.actor, Access::Write, &exchange, names.routing_key())?;
    Ok(exchange)
}

/// The routing key, and those of CC and BCC.
fn all_keys<'k>(message: &Content<'k>, more_keys: &[&'k [u8]]) -> impl Iterator<Item = &'k [u8]> {
    std::iter::once(message.names.routing_key()).chain(more_keys.iter().copied())
}

/// The keys that would be the names of queues if those were there. In a transaction they may come until it commits.
fn absent_names<'k>(message: &Content<'k>, more_keys: &[&'k [u8]], targets: &Targets) -> Vec<&'k str> {
    if more_keys.is_empty() && !targets.is_empty() {
        return Vec::new();
    }
    let mut known: HashSet<&str, RandomState> = targets.iter().map(|queue| &*queue.properties.name).collect();
    let may_be_names = all_keys(message, more_keys)
        .filter(|key| key.len() <= NAME_BYTES_MAX && !reply_to::is_address(key))
        .filter_map(|key| std::str::from_utf8(key).ok());
    may_be_names.filter(|name| known.insert(name)).collect()
}

/// Where a message goes that must be looked at to know it. Exchanges on its way may remember it.
pub(super) fn find_targets(
    link: &mut Link,
    exchange: &Arc<Exchange>,
    message: &Content<'_>,
    more_keys: &[&[u8]],
    properties: Properties<'_>,
    remembered: &dyn Fn() -> Arc<Remembered>,
) -> Result<Targets, BrokerError> {
    let keys: Vec<&[u8]> = all_keys(message, more_keys).collect();
    let (vhost, wakes) = (&link.vhost, &mut link.wakes);
    Ok(route::route_message(vhost, exchange, &keys, properties, remembered, wakes)?.targets)
}

/// Publishes a copy of a message to these queues, or to those that are found for it. Exchanges on the way may remember it
/// where they are looked for.
pub(super) fn publish_copy(
    link: &mut Link,
    exchange: &Arc<Exchange>,
    targets: Option<&Targets>,
    copy: &Content<'_>,
    body: BodyView<'_>,
) {
    let body = match body {
        BodyView::Slice(body) => Body::Slice(body),
        BodyView::Chunks(pieces) => Body::Pieces(pieces.into()),
    };
    let found = match targets {
        Some(targets) => Ok(Targets::clone(targets)),
        None => {
            let memory = Arc::clone(&link.node().memory);
            let remembered = || body.remember(copy, &memory);
            find_targets(link, exchange, copy, &[], Properties::unchecked(copy.properties), &remembered)
        }
    };
    if let Ok(targets) = found
        && !targets.is_empty()
    {
        publish_to(link, &targets, copy, body);
    }
}

/// Publishes a message once more that an exchange has remembered.
pub(super) fn publish_again(link: &mut Link, targets: &Targets, message: &Remembered) {
    let content = Content { names: message.names.view(), properties: &message.properties, body: &[] };
    let body = match &message.body[..] {
        [body] if body.len() <= SMALL_BODY_BYTES_MAX => Body::Slice(body),
        pieces => Body::Pieces(pieces.into()),
    };
    publish_to(link, targets, &content, body);
}

/// Publishes what no client has just sent: that a queue refuses it is told to nobody.
fn publish_to(link: &mut Link, targets: &Targets, content: &Content<'_>, body: Body<'_>) {
    let properties = Properties::unchecked(content.properties);
    let is_blind = properties.headers().is_some_and(|headers| headers.get(BCC).is_some());
    let marks = content::marks(&properties, is_blind);
    let may_be_refused = targets.iter().any(|queue| queue.rejects());
    let receipt = may_be_refused.then_some(Receipt { channel: 0, publish: 0 });
    let terms = Terms { mandatory: false, marks, receipt, absent: &[] };
    let published = hand_to_burst(link, &mut None, targets, content, body, terms);
    debug_assert!(published.is_ok(), "only a transaction refuses");
}
