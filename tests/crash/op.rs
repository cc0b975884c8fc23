//! What a client can ask for, and how it says so in bytes.

use bytes::BytesMut;
use sluicemq::protocol::frame::put_method;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicQos, BasicRecover, ChannelClose,
    ChannelOpen, ConfirmSelect, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, Method,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, TxCommit, TxRollback, TxSelect,
};
use sluicemq::protocol::table::Table;

use crate::message::Message;
use crate::state::{Binding, Destination};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Discard,
    Requeue,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Publish(Vec<Message>),
    Settle { tag: u64, multiple: bool, verdict: Verdict },
    Get { queue: String, no_ack: bool },
    Consume { queue: String, tag: String, no_ack: bool },
    Cancel { tag: String },
    Declare { queue: String, durable: bool, passive: bool },
    Delete { queue: String, if_empty: bool },
    Purge { queue: String },
    DeclareExchange { name: String, kind: &'static str, durable: bool },
    DeleteExchange { name: String },
    Bind(Binding),
    Unbind(Binding),
    OpenChannel,
    CloseChannel,
    Qos { count: u16 },
    ConfirmSelect,
    TxSelect,
    Commit,
    Rollback,
    Recover,
}

impl Op {
    /// Appends the frames.
    pub(crate) fn encode(&self, channel: u16, out: &mut BytesMut) {
        match self {
            Self::Publish(messages) => messages.iter().for_each(|message| message.encode(channel, out)),
            other => put_method(out, channel, &other.method()),
        }
    }

    /// The answer's name, if it has one.
    pub(crate) fn answer(&self) -> Option<&'static str> {
        Some(match self {
            Self::Publish(_) | Self::Settle { .. } | Self::Get { .. } => return None,
            Self::Consume { .. } => "basic.consume-ok",
            Self::Cancel { .. } => "basic.cancel-ok",
            Self::Declare { .. } => "queue.declare-ok",
            Self::Delete { .. } => "queue.delete-ok",
            Self::Purge { .. } => "queue.purge-ok",
            Self::DeclareExchange { .. } => "exchange.declare-ok",
            Self::DeleteExchange { .. } => "exchange.delete-ok",
            Self::Bind(Binding { to: Destination::Queue(_), .. }) => "queue.bind-ok",
            Self::Bind(_) => "exchange.bind-ok",
            Self::Unbind(Binding { to: Destination::Queue(_), .. }) => "queue.unbind-ok",
            Self::Unbind(_) => "exchange.unbind-ok",
            Self::OpenChannel => "channel.open-ok",
            Self::CloseChannel => "channel.close-ok",
            Self::Qos { .. } => "basic.qos-ok",
            Self::ConfirmSelect => "confirm.select-ok",
            Self::TxSelect => "tx.select-ok",
            Self::Commit => "tx.commit-ok",
            Self::Rollback => "tx.rollback-ok",
            Self::Recover => "basic.recover-ok",
        })
    }

    fn method(&self) -> Method<'_> {
        match self {
            Self::Publish(_) => unreachable!("a publish is more than a method"),
            &Self::Settle { tag: delivery_tag, multiple, verdict } => match verdict {
                Verdict::Ack => Method::BasicAck(BasicAck { delivery_tag, multiple }),
                Verdict::Discard => Method::BasicNack(BasicNack { delivery_tag, multiple, requeue: false }),
                Verdict::Requeue => Method::BasicNack(BasicNack { delivery_tag, multiple, requeue: true }),
            },
            Self::Get { queue, no_ack } => Method::BasicGet(BasicGet { queue, no_ack: *no_ack }),
            Self::Consume { queue, tag, no_ack } => Method::BasicConsume(BasicConsume {
                queue,
                consumer_tag: tag,
                no_local: false,
                no_ack: *no_ack,
                exclusive: false,
                nowait: false,
                arguments: Table::EMPTY,
            }),
            Self::Cancel { tag } => Method::BasicCancel(BasicCancel { consumer_tag: tag, nowait: false }),
            &Self::Declare { ref queue, durable, passive } => Method::QueueDeclare(QueueDeclare {
                queue,
                passive,
                durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::EMPTY,
            }),
            &Self::Delete { ref queue, if_empty } => {
                Method::QueueDelete(QueueDelete { queue, if_unused: false, if_empty, nowait: false })
            }
            Self::Purge { queue } => Method::QueuePurge(QueuePurge { queue, nowait: false }),
            &Self::DeclareExchange { name: ref exchange, kind, durable } => {
                Method::ExchangeDeclare(ExchangeDeclare {
                    exchange,
                    kind,
                    passive: false,
                    durable,
                    auto_delete: false,
                    internal: false,
                    nowait: false,
                    arguments: Table::EMPTY,
                })
            }
            Self::DeleteExchange { name } => {
                Method::ExchangeDelete(ExchangeDelete { exchange: name, if_unused: false, nowait: false })
            }
            Self::Bind(binding) => bind(binding),
            Self::Unbind(binding) => unbind(binding),
            Self::OpenChannel => Method::ChannelOpen(ChannelOpen {}),
            Self::CloseChannel => Method::ChannelClose(ChannelClose {
                reply_code: 200,
                reply_text: "",
                class_id: 0,
                method_id: 0,
            }),
            &Self::Qos { count } => {
                Method::BasicQos(BasicQos { prefetch_size: 0, prefetch_count: count, global: false })
            }
            Self::ConfirmSelect => Method::ConfirmSelect(ConfirmSelect { nowait: false }),
            Self::TxSelect => Method::TxSelect(TxSelect {}),
            Self::Commit => Method::TxCommit(TxCommit {}),
            Self::Rollback => Method::TxRollback(TxRollback {}),
            Self::Recover => Method::BasicRecover(BasicRecover { requeue: true }),
        }
    }
}

fn bind(Binding { source, key, to }: &Binding) -> Method<'_> {
    let (nowait, arguments) = (false, Table::EMPTY);
    match to {
        Destination::Queue(queue) => {
            Method::QueueBind(QueueBind { queue, exchange: source, routing_key: key, nowait, arguments })
        }
        Destination::Exchange(destination) => {
            Method::ExchangeBind(ExchangeBind { destination, source, routing_key: key, nowait, arguments })
        }
    }
}

fn unbind(Binding { source, key, to }: &Binding) -> Method<'_> {
    let arguments = Table::EMPTY;
    match to {
        Destination::Queue(queue) => {
            Method::QueueUnbind(QueueUnbind { queue, exchange: source, routing_key: key, arguments })
        }
        Destination::Exchange(destination) => Method::ExchangeUnbind(ExchangeUnbind {
            destination,
            source,
            routing_key: key,
            nowait: false,
            arguments,
        }),
    }
}
