//! What a client can do, and how it says so in bytes.

use std::fmt;
use std::rc::Rc;

use bytes::BytesMut;
use rand::Rng;
use rand::rngs::StdRng;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::frame::{FRAME_END, FRAME_OVERHEAD, put_body_head, put_header, put_method};
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, BasicRecover,
    BasicReject, ChannelClose, ChannelCloseOk, ChannelOpen, ConfirmSelect, ConnectionClose, Method,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, TxCommit, TxRollback, TxSelect,
};
use sluicemq::protocol::properties::Properties;
use sluicemq::protocol::table::{Table, TableBuf};

/// A message, known by its number, which travels as its message-id.
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) exchange: &'static str,
    pub(crate) key: String,
    /// The header that headers bindings ask for.
    pub(crate) header: Option<i32>,
    pub(crate) mandatory: bool,
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Whether it is to survive.
    pub(crate) fn is_persistent(&self) -> bool {
        Properties::parse(&self.properties).expect("properties").delivery_mode() == Some(2)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, exchange, key, header, mandatory, body, .. } = self;
        write!(f, "{id} to {exchange:?} {key:?}, {} bytes", body.len())?;
        header.map_or(Ok(()), |header| write!(f, ", header {header}"))?;
        if *mandatory { write!(f, ", mandatory") } else { Ok(()) }
    }
}

/// What a binding is known by, beside its queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern {
    pub(crate) exchange: &'static str,
    pub(crate) key: String,
    /// For the headers exchange: the value asked for.
    pub(crate) header: Option<i32>,
}

/// What becomes of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

impl Verdict {
    pub(crate) fn requeues(self) -> bool {
        matches!(self, Self::Nack { requeue: true } | Self::Reject { requeue: true })
    }
}

/// One operation on a channel.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    OpenChannel,
    CloseChannel,
    /// The answer to the broker's channel.close.
    AnswerClose,
    CloseConnection,
    Publish(Rc<Message>),
    Consume {
        queue: String,
        tag: String,
        no_ack: bool,
        exclusive: bool,
        priority: i32,
    },
    Cancel {
        tag: String,
    },
    Settle {
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    },
    Get {
        queue: String,
        no_ack: bool,
    },
    Recover,
    Purge {
        queue: String,
    },
    Delete {
        queue: String,
        if_unused: bool,
        if_empty: bool,
    },
    Declare {
        queue: String,
    },
    /// queue.declare with `passive`.
    Inspect {
        queue: String,
    },
    Bind {
        queue: String,
        pattern: Pattern,
    },
    Unbind {
        queue: String,
        pattern: Pattern,
    },
    Qos {
        count: u16,
        global: bool,
    },
    ConfirmSelect,
    TxSelect,
    TxCommit,
    TxRollback,
}

/// A queue's properties follow from its name, so that nobody declares it differently.
pub(crate) fn is_durable(queue: &str) -> bool {
    queue.starts_with('d')
}

/// See [`is_durable`].
pub(crate) fn is_auto_delete(queue: &str) -> bool {
    queue.starts_with('a')
}

/// See [`is_durable`].
pub(crate) fn is_exclusive(queue: &str) -> bool {
    queue.starts_with('e')
}

impl Op {
    /// Appends the frames.
    pub(crate) fn encode(&self, channel: u16, frame_max: u32, rng: &mut StdRng, out: &mut BytesMut) {
        match self {
            Self::Publish(message) => encode_publish(message, channel, frame_max, rng, out),
            Self::Consume { queue, tag, no_ack, exclusive, priority } => {
                let mut arguments = TableBuf::new();
                if *priority != 0 {
                    arguments.insert("x-priority", Field::I32(*priority));
                }
                let consume = BasicConsume {
                    queue,
                    consumer_tag: tag,
                    no_local: false,
                    no_ack: *no_ack,
                    exclusive: *exclusive,
                    nowait: false,
                    arguments: arguments.as_table(),
                };
                put_method(out, channel, &Method::BasicConsume(consume));
            }
            Self::Bind { queue, pattern } => {
                let arguments = header_arguments(pattern.header);
                let bind = QueueBind {
                    queue,
                    exchange: pattern.exchange,
                    routing_key: &pattern.key,
                    nowait: false,
                    arguments: arguments.as_table(),
                };
                put_method(out, channel, &Method::QueueBind(bind));
            }
            Self::Unbind { queue, pattern } => {
                let arguments = header_arguments(pattern.header);
                let unbind = QueueUnbind {
                    queue,
                    exchange: pattern.exchange,
                    routing_key: &pattern.key,
                    arguments: arguments.as_table(),
                };
                put_method(out, channel, &Method::QueueUnbind(unbind));
            }
            simple => put_method(out, channel, &simple.method()),
        }
    }

    /// The method of an operation that is nothing but one.
    fn method(&self) -> Method<'_> {
        const CODE: u16 = 200;
        match self {
            Self::OpenChannel => Method::ChannelOpen(ChannelOpen {}),
            Self::CloseChannel => Method::ChannelClose(ChannelClose {
                reply_code: CODE,
                reply_text: "",
                class_id: 0,
                method_id: 0,
            }),
            Self::AnswerClose => Method::ChannelCloseOk(ChannelCloseOk {}),
            Self::CloseConnection => Method::ConnectionClose(ConnectionClose {
                reply_code: CODE,
                reply_text: "",
                class_id: 0,
                method_id: 0,
            }),
            Self::Cancel { tag } => Method::BasicCancel(BasicCancel { consumer_tag: tag, nowait: false }),
            &Self::Settle { tag: delivery_tag, multiple, verdict } => match verdict {
                Verdict::Ack => Method::BasicAck(BasicAck { delivery_tag, multiple }),
                Verdict::Nack { requeue } => Method::BasicNack(BasicNack { delivery_tag, multiple, requeue }),
                Verdict::Reject { requeue } => Method::BasicReject(BasicReject { delivery_tag, requeue }),
            },
            Self::Get { queue, no_ack } => Method::BasicGet(BasicGet { queue, no_ack: *no_ack }),
            Self::Recover => Method::BasicRecover(BasicRecover { requeue: true }),
            Self::Purge { queue } => Method::QueuePurge(QueuePurge { queue, nowait: false }),
            &Self::Delete { ref queue, if_unused, if_empty } => {
                Method::QueueDelete(QueueDelete { queue, if_unused, if_empty, nowait: false })
            }
            Self::Declare { queue } => declare(queue, false),
            Self::Inspect { queue } => declare(queue, true),
            &Self::Qos { count, global } => {
                Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: count, global })
            }
            Self::ConfirmSelect => Method::ConfirmSelect(ConfirmSelect { nowait: false }),
            Self::TxSelect => Method::TxSelect(TxSelect {}),
            Self::TxCommit => Method::TxCommit(TxCommit {}),
            Self::TxRollback => Method::TxRollback(TxRollback {}),
            Self::Publish(_) | Self::Consume { .. } | Self::Bind { .. } | Self::Unbind { .. } => {
                unreachable!("these are more than a method")
            }
        }
    }
}

fn declare(queue: &str, passive: bool) -> Method<'_> {
    Method::QueueDeclare(QueueDeclare {
        queue,
        passive,
        durable: is_durable(queue),
        exclusive: is_exclusive(queue) && !passive,
        auto_delete: is_auto_delete(queue),
        nowait: false,
        arguments: Table::EMPTY,
    })
}

fn header_arguments(header: Option<i32>) -> TableBuf {
    let mut arguments = TableBuf::new();
    if let Some(value) = header {
        arguments.insert("h", Field::I32(value));
    }
    arguments
}

/// Method, header, and the body cut into frames of any size that is allowed.
fn encode_publish(message: &Message, channel: u16, frame_max: u32, rng: &mut StdRng, out: &mut BytesMut) {
    let publish = BasicPublish {
        exchange: message.exchange.as_bytes(),
        routing_key: message.key.as_bytes(),
        mandatory: message.mandatory,
        immediate: false,
    };
    put_method(out, channel, &Method::BasicPublish(publish));
    put_header(out, channel, message.body.len() as u64, &message.properties);
    let payload_max = frame_max as usize - FRAME_OVERHEAD;
    let mut rest = message.body.as_slice();
    while !rest.is_empty() {
        let longest = rest.len().min(payload_max);
        let bytes = if rng.random_bool(0.8) { longest } else { rng.random_range(1..=longest) };
        let (piece, after) = rest.split_at(bytes);
        put_body_head(out, channel, bytes as u32);
        out.extend_from_slice(piece);
        out.extend_from_slice(&[FRAME_END]);
        rest = after;
    }
}
