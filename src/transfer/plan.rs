//! What a transfer is to do, whoever asked for it.

use std::sync::Arc;

use crate::protocol::table::TableBuf;
use crate::transfer::message::Stamp;
use crate::transfer::redrive::Choice;
use crate::transfer::uri::Login;

/// What a transfer is to do.
#[derive(Debug)]
pub struct Plan {
    /// What its connections are called.
    pub name: String,
    /// Who asked for it: both ends are theirs, unless they say otherwise.
    pub user: Arc<str>,
    /// Where it takes.
    pub source: End,
    /// Where it publishes.
    pub sink: End,
    /// What it takes from.
    pub from: From,
    /// What it publishes to.
    pub to: To,
    /// How it takes, and how much.
    pub intake: Intake,
    /// So many messages are on their way at a time.
    pub prefetch: u16,
    /// When a message is acknowledged at the source.
    pub ack_mode: AckMode,
    /// What is changed about a message.
    pub stamp: Stamp,
}

/// One end.
#[derive(Clone, Debug)]
pub struct End {
    /// Its virtual host.
    pub vhost: String,
    /// Who is there, if that is not who asked.
    pub login: Option<Login>,
}

/// What is taken from.
#[derive(Debug)]
pub enum From {
    /// A queue.
    Queue {
        /// Its name.
        name: String,
        /// With these arguments it is declared if it is missing, unless it must be there.
        declared: Option<TableBuf>,
        /// Arguments of the consumer.
        consumer: TableBuf,
    },
    /// An exchange, by a queue of the transfer's own.
    Exchange {
        /// Its name.
        name: String,
        /// The binding's key.
        key: String,
    },
}

/// What is published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// A queue, and no other.
    Queue {
        /// Its name.
        name: String,
        /// With these arguments it is declared if it is missing, unless it must be there.
        declared: Option<TableBuf>,
    },
    /// An exchange; a name or a key that is not given is the message's own.
    Exchange {
        /// Its name.
        name: Option<String>,
        /// The key.
        key: Option<String>,
    },
    /// The queue in which the message died last before it came where it is.
    Origin,
}

/// How messages are taken, and how many.
#[derive(Debug)]
pub enum Intake {
    /// As they come.
    All,
    /// So many, as they come.
    Count(u64),
    /// As many as there are when it begins.
    Present,
    /// Each that is there when it begins is looked at once, and taken if it is chosen.
    Chosen(Choice),
}

/// When a message is acknowledged at the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// When the destination has confirmed it: none is lost.
    #[default]
    OnConfirm,
    /// When it is published: a crash may lose those on their way.
    OnPublish,
    /// Before it is delivered: likewise.
    NoAck,
}
