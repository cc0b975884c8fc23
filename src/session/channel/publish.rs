//! From basic.publish, a header and body frames to a message in the burst (AMQP 0-9-1 §4.2.6).
//!
//! ```text
//! Idle --publish--> Header --header--> Body --last body byte--> Idle
//!                      '-----header of an empty body-----------> Idle
//! ```

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::auth::permissions::Access;
use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::exchange::Exchange;
use crate::broker::reply_to;
use crate::broker::route::{self, Targets};
use crate::message::block::{Big, BlockBuilder, Pieces, SMALL_BODY_BYTES_MAX};
use crate::message::block_header::Stamp;
use crate::message::names::NamesBuf;
use crate::message::record::{BodyView, Content, MessageView};
use crate::message::run::Run;
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::BasicPublish;
use crate::protocol::properties::Properties;
use crate::protocol::reply::ReplyCode;
use crate::protocol::table::Table;
use crate::session::channel::Channel;
use crate::session::channel::content::{self, BASIC_CLASS};
use crate::session::channel::returns::{Unroutable, send_return};
use crate::session::channel::tx::Transaction;
use crate::session::link::{Link, Route};
use crate::session::refuse::Refusal;

/// No body is larger, whatever the configuration says.
const BODY_BYTES_CAP: u64 = 512 * 1024 * 1024;
/// A connection with less than this in unfinished bodies is not the one that fills the node with them.
const BLAMED_PARTIAL_BYTES_MIN: u64 = 1024 * 1024;

/// What each queue a message goes to takes of a transaction, in bytes.
const TARGET_BYTES: u64 = 24;

/// The delivery mode of messages that are to survive; every other one is transient.
const PERSISTENT: u8 = 2;

/// A body frame's payload.
#[derive(Debug)]
pub enum Piece<'a> {
    /// In the read buffer.
    Slice(&'a [u8]),
    /// Large, and cut out of the read buffer.
    Shared(Bytes),
}

/// A content on its way in. Its buffers are kept from one message to the next.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    stage: Stage,
    names: NamesBuf,
    mandatory: bool,
    properties: Vec<u8>,
    body_bytes: u64,
    received_bytes: u64,
    pieces: Pieces,
    joined: BytesMut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Header,
    Body,
}

impl Assembly {
    /// Whether a method would come in the middle of a content.
    pub(super) fn is_awaiting(&self) -> bool {
        self.stage != Stage::Idle
    }

    pub(super) fn unexpected_method(&self) -> Refusal {
        Refusal::unexpected_frame(match self.stage {
            Stage::Body => "expected content body, got non content body frame instead".to_owned(),
            _ => format!(
                "expected content header for class {BASIC_CLASS}, got non content header frame instead"
            ),
        })
    }

    pub(super) fn on_header(&mut self, link: &Link, header: &ContentHeader<'_>) -> Result<(), Refusal> {
        match self.stage {
            Stage::Idle => {
                return Err(Refusal::unexpected_frame("expected method frame, got non method frame instead"));
            }
            Stage::Body => return Err(self.unexpected_method()),
            Stage::Header if header.weight != 0 => return Err(self.unexpected_method()),
            Stage::Header => {}
        }
        if header.class_id != BASIC_CLASS {
            let text = format!(
                "expected content header for class {BASIC_CLASS}, got one for class {} instead",
                header.class_id
            );
            return Err(Refusal::unexpected_frame(text));
        }
        if header.body_bytes > BODY_BYTES_CAP {
            let size = header.body_bytes;
            return Err(Refusal::new(
                ReplyCode::FrameError,
                format!("content body size {size} exceeds maximum allowed size {BODY_BYTES_CAP}"),
            ));
        }
        let size_max = link.node().limits.message_bytes_max;
        if header.body_bytes > size_max {
            let text =
                format!("message size {} is larger than configured max size {size_max}", header.body_bytes);
            return Err(Refusal::precondition(text));
        }
        Properties::parse(header.properties)
            .map_err(|error| Refusal::new(ReplyCode::SyntaxError, error.to_string()))?;
        self.properties.clear();
        self.properties.extend_from_slice(header.properties);
        self.body_bytes = header.body_bytes;
        self.received_bytes = 0;
        self.stage = Stage::Body;
        Ok(())
    }

    /// Takes a piece of the body; the slice comes back when it is all of a small body, which needs no copy here.
    pub(super) fn on_body<'a>(&mut self, link: &Link, piece: Piece<'a>) -> Result<Option<&'a [u8]>, Refusal> {
        match self.stage {
            Stage::Idle => {
                return Err(Refusal::unexpected_frame("expected method frame, got non method frame instead"));
            }
            Stage::Header => return Err(self.unexpected_method()),
            Stage::Body => {}
        }
        let bytes = match &piece {
            Piece::Slice(slice) => slice.len(),
            Piece::Shared(shared) => shared.len(),
        } as u64;
        if bytes > self.body_bytes - self.received_bytes {
            let text = "content body frame exceeds remaining content size";
            return Err(Refusal::new(ReplyCode::FrameError, text));
        }
        let whole = self.received_bytes == 0 && bytes == self.body_bytes;
        self.received_bytes += bytes;
        match piece {
            Piece::Slice(slice) if whole && slice.len() <= SMALL_BODY_BYTES_MAX => return Ok(Some(slice)),
            Piece::Slice(slice) => self.joined.extend_from_slice(slice),
            Piece::Shared(shared) => {
                self.flush_joined();
                self.pieces.push(shared);
            }
        }
        self.charge(link, bytes)?;
        Ok(None)
    }

    /// Counts what has arrived of an unfinished body, so that many of them cannot fill the node.
    fn charge(&self, link: &Link, bytes: u64) -> Result<(), Refusal> {
        let memory = &link.node().memory;
        memory.partial_bodies.add(bytes);
        if memory.has_too_many_partial_bodies() && self.received_bytes >= BLAMED_PARTIAL_BYTES_MIN {
            let text = "unfinished message bodies take too much memory";
            return Err(Refusal::new(ReplyCode::ResourceError, text));
        }
        Ok(())
    }

    fn flush_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push(self.joined.split().freeze());
        }
    }

    /// Forgets an unfinished content.
    pub(super) fn abandon(&mut self, link: &Link) {
        link.node().memory.partial_bodies.sub(self.held_bytes());
        self.pieces.clear();
        self.joined = BytesMut::new();
        self.stage = Stage::Idle;
    }

    fn held_bytes(&self) -> u64 {
        (self.joined.len() + self.pieces.iter().map(Bytes::len).sum::<usize>()) as u64
    }

    fn is_whole(&self) -> bool {
        self.stage == Stage::Body && self.received_bytes == self.body_bytes
    }

    /// The body in the pieces it came in; the assembly is ready for the next content.
    fn take_pieces(&mut self, link: &Link) -> Pieces {
        link.node().memory.partial_bodies.sub(self.held_bytes());
        self.flush_joined();
        std::mem::take(&mut self.pieces)
    }
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
        let assembly = &mut self.assembly;
        assembly.names.set(publish.exchange, publish.routing_key);
        assembly.mandatory = publish.mandatory;
        assembly.stage = Stage::Header;
        Ok(())
    }

    pub(super) fn publish_when_whole(
        &mut self,
        link: &mut Link,
        whole: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        if !self.assembly.is_whole() {
            return Ok(());
        }
        let body = match whole {
            Some(slice) => Body::Slice(slice),
            None if self.assembly.body_bytes == 0 => Body::Slice(&[]),
            None => Body::Pieces(self.assembly.take_pieces(link)),
        };
        self.assembly.stage = Stage::Idle;
        self.publish(link, body)
    }

    fn publish(&mut self, link: &mut Link, body: Body<'_>) -> Result<(), Refusal> {
        link.on_publish(self.number, self.confirms.is_some());
        let Assembly { names, mandatory, properties, .. } = &self.assembly;
        let route = link.route(names.view(), check_exchange)?;
        let parsed = Properties::unchecked(properties);
        content::check(&parsed, &link.actor.user)?;
        let rewritten = content::rewrite(&parsed, self.reply_address.as_deref())?;
        let headers = parsed.headers().unwrap_or(Table::EMPTY);
        let more_keys = content::more_keys(headers)?;
        let persistent = parsed.delivery_mode() == Some(PERSISTENT);
        let properties = rewritten.as_deref().unwrap_or(properties);
        let message = Content { names: names.view(), properties, body: &[] };
        if let Some(confirms) = &mut self.confirms {
            confirms.publish();
        }
        let found;
        let targets = if route.by_headers || !more_keys.is_empty() {
            found = find_targets(link, &route, names.view().routing_key(), &more_keys, headers);
            &found
        } else {
            &route.targets
        };
        let taken = if !targets.is_empty() {
            return hand_to_burst(link, &mut self.transaction, targets, &message, body, persistent);
        } else if route.exchange.is_default() {
            reply(link, &message, &body)
        } else {
            false
        };
        if !taken && *mandatory {
            return give_back(link, &mut self.transaction, self.number, &message, body);
        }
        Ok(())
    }
}

fn hand_to_burst(
    link: &mut Link,
    transaction: &mut Option<Transaction>,
    targets: &Targets,
    message: &Content<'_>,
    body: Body<'_>,
    persistent: bool,
) -> Result<(), Refusal> {
    let received_ms = link.now.unix_ms;
    let (own, node) = link.burst();
    let burst = match transaction {
        Some(transaction) => {
            let bytes = message_bytes(message, &body) + targets.len() as u64 * TARGET_BYTES;
            transaction.count_message(bytes, &node.limits)?;
            &mut transaction.burst
        }
        None => own,
    };
    burst.received_at(received_ms);
    match body {
        Body::Slice(body) => burst.publish(node, targets, &Content { body, ..*message }, persistent),
        Body::Pieces(pieces) => {
            let stamp = burst.stamp(persistent);
            let big = Big::new(message.names, message.properties, pieces, stamp, &node.memory.messages);
            burst.publish_big(node, targets, big);
        }
    }
    Ok(())
}

/// basic.return: a mandatory message that nobody takes, at once or when its transaction commits.
fn give_back(
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
    transaction.count_message(message_bytes(message, &body), &link.node().limits)?;
    let mut names = NamesBuf::default();
    names.copy(message.names);
    let properties = message.properties.to_vec();
    transaction.unroutable.push(Unroutable { names, properties, body: body.into_pieces() });
    Ok(())
}

fn message_bytes(message: &Content<'_>, body: &Body<'_>) -> u64 {
    let head = message.names.as_bytes().len() + message.properties.len();
    (head + body.view().len()) as u64
}

/// Hands an answer to the direct reply-to consumer that the routing key addresses. `false` when it addresses none.
fn reply(link: &mut Link, message: &Content<'_>, body: &Body<'_>) -> bool {
    let key = message.names.routing_key();
    if !reply_to::is_address(key) {
        return false;
    }
    let gauge = &link.broker.node.memory.messages;
    let run = match body {
        Body::Slice(body) => {
            let mut builder = BlockBuilder::default();
            builder.push(&Content { body, ..*message });
            let (block, count, body_bytes) = builder.seal(Stamp::default(), gauge);
            Run::of_block(block, count, body_bytes)
        }
        Body::Pieces(pieces) => {
            let pieces = pieces.clone();
            Run::of_big(Big::new(message.names, message.properties, pieces, Stamp::default(), gauge))
        }
    };
    link.broker.replies.deliver(&String::from_utf8_lossy(key), run, &mut link.wakes)
}

fn view<'a>(message: &Content<'a>, body: &'a Body<'_>) -> MessageView<'a> {
    MessageView {
        exchange: message.names.exchange(),
        routing_key: message.names.routing_key(),
        properties: message.properties,
        body: body.view(),
    }
}

/// The exchange a client may publish to.
fn check_exchange(link: &Link, name: &[u8]) -> Result<Arc<Exchange>, Refusal> {
    let name = String::from_utf8_lossy(name);
    link.vhost.check_access(&link.actor, Access::Write, ResourceKind::Exchange, &name)?;
    let exchange = link.vhost.find_exchange(&name)?;
    if exchange.properties.internal {
        return Err(BrokerError::InternalExchange(exchange.resource()).into());
    }
    Ok(exchange)
}

fn find_targets(
    link: &Link,
    route: &Route,
    key: &[u8],
    more_keys: &[Vec<u8>],
    headers: Table<'_>,
) -> Targets {
    let keys: Vec<&[u8]> = std::iter::once(key).chain(more_keys.iter().map(Vec::as_slice)).collect();
    route::route(&link.vhost, &route.exchange, &keys, headers).targets
}
