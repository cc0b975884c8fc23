//! From basic.publish, a header and body frames to one content (AMQP 0-9-1 §4.2.6).
//!
//! ```text
//! Idle --publish--> Header --header--> Body --last body byte--> Idle
//!                      '-----header of an empty body-----------> Idle
//! ```

use bytes::{Bytes, BytesMut};

use crate::broker::memory::Memory;
use crate::message::block::{Pieces, SMALL_BODY_BYTES_MAX};
use crate::message::names::{Names, NamesBuf};
use crate::protocol::header::ContentHeader;
use crate::protocol::methods::BasicPublish;
use crate::protocol::properties::Properties;
use crate::protocol::reply::ReplyCode;
use crate::session::channel::PUBLISH_ID;
use crate::session::channel::content::BASIC_CLASS;
use crate::session::channel::discard::Discard;
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::stats::Gauge;

/// No body is larger, whatever the configuration says.
const BODY_BYTES_CAP: u64 = 512 * 1024 * 1024;
/// From this size on what was joined of small frames is not copied once more.
const PIECE_BYTES_MIN: usize = 32 * 1024;
/// What was joined is a piece when it is so large: no more than its buffer's last doubling is to spare.
const JOINED_BYTES_MAX: usize = 1024 * 1024;

/// A body frame's payload.
#[derive(Debug)]
pub enum Piece<'a> {
    /// In the read buffer.
    Slice(&'a [u8]),
    /// Large, and cut out of the read buffer.
    Shared(Bytes),
}

impl Piece<'_> {
    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Slice(slice) => slice.len() as u64,
            Self::Shared(shared) => shared.len() as u64,
        }
    }
}

/// A part of a content, as a frame brings it.
#[derive(Debug)]
pub enum Part<'a> {
    /// Its header.
    Header(ContentHeader<'a>),
    /// Some of its body.
    Body(Piece<'a>),
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
    /// It goes on beyond the share of memory that unfinished messages have.
    is_granted: bool,
    pieces: Pieces,
    joined: BytesMut,
}

/// What comes next: a method, or a part of a content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    Header,
    Body,
}

impl Stage {
    /// Whether a method may come.
    pub(super) fn check_method(self) -> Result<(), Refusal> {
        match self {
            Self::Idle => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// Whether this header may come.
    pub(super) fn check_header(self, header: &ContentHeader<'_>) -> Result<(), Refusal> {
        if self != Self::Header || header.weight != 0 {
            return Err(self.unexpected());
        }
        if header.class_id != BASIC_CLASS {
            let text = format!(
                "expected content header for class {BASIC_CLASS}, got one for class {} instead",
                header.class_id
            );
            return Err(Refusal::unexpected_frame(text));
        }
        Ok(())
    }

    /// Whether so much of a body may come, when so much of it is missing.
    pub(super) fn check_body(self, bytes: u64, missing_bytes: u64) -> Result<(), Refusal> {
        if self != Self::Body {
            return Err(self.unexpected());
        }
        if bytes > missing_bytes {
            let text = "content body frame exceeds remaining content size";
            return Err(Refusal::new(ReplyCode::FrameError, text));
        }
        Ok(())
    }

    /// Something else has come.
    fn unexpected(self) -> Refusal {
        match self {
            Self::Idle => Refusal::unexpected_content(),
            Self::Header => Refusal::unexpected_frame(format!(
                "expected content header for class {BASIC_CLASS}, got non content header frame instead"
            )),
            Self::Body => {
                Refusal::unexpected_frame("expected content body, got non content body frame instead")
            }
        }
    }
}

impl Assembly {
    /// A content begins.
    pub(super) fn begin(&mut self, publish: &BasicPublish<'_>) {
        self.names.set(publish.exchange, publish.routing_key);
        self.mandatory = publish.mandatory;
        self.stage = Stage::Header;
    }

    /// Whether a method would come in the middle of a content.
    pub(super) fn is_awaiting(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Whether a method may come.
    pub(super) fn check_method(&self) -> Result<(), Refusal> {
        self.stage.check_method()
    }

    /// What is still to come is to be dropped.
    pub(super) fn discard(&self) -> Discard {
        Discard::new(self.stage, self.body_bytes - self.received_bytes, PUBLISH_ID)
    }

    pub(super) fn on_header(&mut self, link: &Link, header: &ContentHeader<'_>) -> Result<(), Refusal> {
        self.stage.check_header(header)?;
        if header.body_bytes > BODY_BYTES_CAP {
            let size = header.body_bytes;
            return Err(Refusal::new(
                ReplyCode::FrameError,
                format!("content body size {size} exceeds maximum allowed size {BODY_BYTES_CAP}"),
            ));
        }
        self.body_bytes = header.body_bytes;
        self.received_bytes = 0;
        self.stage = Stage::Body;
        let size_max = link.limits.message_bytes_max;
        if header.body_bytes > size_max {
            let text =
                format!("message size {} is larger than configured max size {size_max}", header.body_bytes);
            return Err(Refusal::precondition(text));
        }
        parse_properties(header.properties)?;
        self.properties.clear();
        self.properties.extend_from_slice(header.properties);
        Ok(())
    }

    /// Takes a piece of the body; the slice comes back when it is all of a small body, which needs no copy here.
    pub(super) fn on_body<'a>(&mut self, link: &Link, piece: Piece<'a>) -> Result<Option<&'a [u8]>, Refusal> {
        let bytes = piece.len();
        self.stage.check_body(bytes, self.body_bytes - self.received_bytes)?;
        let whole = self.received_bytes == 0 && bytes == self.body_bytes;
        self.received_bytes += bytes;
        match piece {
            Piece::Slice(slice) if whole && slice.len() <= SMALL_BODY_BYTES_MAX => return Ok(Some(slice)),
            Piece::Slice(slice) if whole => self.pieces.push(Bytes::copy_from_slice(slice)),
            Piece::Slice(slice) => self.join(slice),
            Piece::Shared(shared) => {
                self.flush_joined();
                self.pieces.push(shared);
            }
        }
        self.charge(link, bytes)?;
        Ok(None)
    }

    /// Whether the next so many bytes of a body must wait for room: what makes it whole never does.
    pub(super) fn keeps_waiting(&self, memory: &Memory, bytes: u64) -> bool {
        let is_unfinished = self.stage == Stage::Body && self.received_bytes + bytes < self.body_bytes;
        is_unfinished && !self.is_granted && memory.keeps_waiting(self.received_bytes)
    }

    /// It goes on, whether or not there is room, until it is whole.
    pub(super) fn grant(&mut self, memory: &Memory) {
        memory.partial_bodies.sub(self.held_bytes());
        memory.granted_bodies.add(self.held_bytes());
        self.is_granted = true;
    }

    /// Counts what has arrived of an unfinished body, so that many of them cannot fill the node.
    fn charge(&self, link: &Link, bytes: u64) -> Result<(), Refusal> {
        let memory = &link.node().memory;
        self.gauge(memory).add(bytes);
        if self.is_granted && memory.refuses_granted(self.received_bytes) {
            let text = "unfinished message bodies take too much memory";
            return Err(Refusal::new(ReplyCode::ResourceError, text));
        }
        Ok(())
    }

    fn join(&mut self, mut slice: &[u8]) {
        while self.joined.len() + slice.len() >= JOINED_BYTES_MAX {
            let (fits, rest) = slice.split_at(JOINED_BYTES_MAX - self.joined.len());
            self.joined.extend_from_slice(fits);
            self.flush_joined();
            slice = rest;
        }
        self.joined.extend_from_slice(slice);
    }

    /// What was joined becomes a piece. A small one is copied, so that the next is joined in the same room.
    fn flush_joined(&mut self) {
        if self.joined.len() >= PIECE_BYTES_MIN {
            self.pieces.push(std::mem::take(&mut self.joined).freeze());
        } else if !self.joined.is_empty() {
            self.pieces.push(Bytes::copy_from_slice(&self.joined));
            self.joined.clear();
        }
    }

    /// Forgets an unfinished content.
    pub(super) fn abandon(&mut self, link: &Link) {
        self.uncharge(link);
        self.pieces.clear();
        self.joined = BytesMut::new();
        self.stage = Stage::Idle;
    }

    fn uncharge(&mut self, link: &Link) {
        self.gauge(&link.node().memory).sub(self.held_bytes());
        self.is_granted = false;
    }

    fn gauge<'a>(&self, memory: &'a Memory) -> &'a Gauge {
        if self.is_granted { &memory.granted_bodies } else { &memory.partial_bodies }
    }

    fn held_bytes(&self) -> u64 {
        (self.joined.len() + self.pieces.iter().map(Bytes::len).sum::<usize>()) as u64
    }

    pub(super) fn is_whole(&self) -> bool {
        self.stage == Stage::Body && self.received_bytes == self.body_bytes
    }

    /// The pieces that were kept of the body; the assembly is ready for the next content.
    pub(super) fn finish(&mut self, link: &Link) -> Pieces {
        self.stage = Stage::Idle;
        self.uncharge(link);
        self.flush_joined();
        std::mem::take(&mut self.pieces)
    }

    /// Where the last content goes.
    pub(super) fn names(&self) -> Names<'_> {
        self.names.view()
    }

    /// Its properties.
    pub(super) fn properties(&self) -> &[u8] {
        &self.properties
    }

    /// Whether it comes back when nobody takes it.
    pub(super) fn is_mandatory(&self) -> bool {
        self.mandatory
    }
}

/// Looks at properties as a header brings them.
pub(super) fn parse_properties(properties: &[u8]) -> Result<Properties<'_>, Refusal> {
    Properties::parse(properties).map_err(|error| Refusal::new(ReplyCode::SyntaxError, error.to_string()))
}
