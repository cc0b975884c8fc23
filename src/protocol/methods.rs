//! Every method of the protocol, in one table that says all there is to say about their encoding.
//!
//! The table drives the structs, parsing and encoding (see `method_macro.rs`). Arguments the specification
//! reserves, and the ticket of its forgotten access class, are skipped when read and written as zeros; they
//! are no fields. Knows nothing of which method may come when, or from whom.
// AMQP 0-9-1 §1.4, §4.2.5; extensions: RabbitMQ's amqp-rabbitmq-0.9.1.json

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::erlang::Octets;
use super::method_macro::{method_struct, methods, rust_type};
use super::table::TableError;
use super::wire::{Reader, WireError, Writer};

/// Octets of undecodable arguments kept for the error text; more than a reply text can show.
const SHOWN_OCTETS_MAX: usize = 128;

methods! {
    10 10 "connection.start" ConnectionStart<'a> {
        version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr,
        locales: longstr,
    };
    10 11 "connection.start-ok" ConnectionStartOk<'a> {
        client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr,
    };
    10 20 "connection.secure" ConnectionSecure<'a> { challenge: longstr };
    10 21 "connection.secure-ok" ConnectionSecureOk<'a> { response: longstr };
    10 30 "connection.tune" ConnectionTune { channel_max: short, frame_max: long, heartbeat: short };
    10 31 "connection.tune-ok" ConnectionTuneOk { channel_max: short, frame_max: long, heartbeat: short };
    10 40 "connection.open" ConnectionOpen<'a> { virtual_host: shortstr } reserved(shortstr, bit);
    10 41 "connection.open-ok" ConnectionOpenOk reserved(shortstr);
    10 50 "connection.close" ConnectionClose<'a> {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short,
    };
    10 51 "connection.close-ok" ConnectionCloseOk;
    10 60 "connection.blocked" ConnectionBlocked<'a> { reason: shortstr };
    10 61 "connection.unblocked" ConnectionUnblocked;
    10 70 "connection.update-secret" ConnectionUpdateSecret<'a> { new_secret: longstr, reason: shortstr };
    10 71 "connection.update-secret-ok" ConnectionUpdateSecretOk;

    20 10 "channel.open" ChannelOpen reserved(shortstr);
    20 11 "channel.open-ok" ChannelOpenOk reserved(longstr);
    20 20 "channel.flow" ChannelFlow { active: bit };
    20 21 "channel.flow-ok" ChannelFlowOk { active: bit };
    20 40 "channel.close" ChannelClose<'a> {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short,
    };
    20 41 "channel.close-ok" ChannelCloseOk;

    30 10 "access.request" AccessRequest<'a> {
        realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit,
    };
    30 11 "access.request-ok" AccessRequestOk { ticket: short };

    40 10 "exchange.declare" ExchangeDeclare<'a> ticket(short) {
        exchange: shortstr, kind: shortstr, passive: bit, durable: bit, auto_delete: bit, internal: bit,
        nowait: bit, arguments: table,
    };
    40 11 "exchange.declare-ok" ExchangeDeclareOk;
    40 20 "exchange.delete" ExchangeDelete<'a> ticket(short) {
        exchange: shortstr, if_unused: bit, nowait: bit,
    };
    40 21 "exchange.delete-ok" ExchangeDeleteOk;
    40 30 "exchange.bind" ExchangeBind<'a> ticket(short) {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit, arguments: table,
    };
    40 31 "exchange.bind-ok" ExchangeBindOk;
    40 40 "exchange.unbind" ExchangeUnbind<'a> ticket(short) {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit, arguments: table,
    };
    40 51 "exchange.unbind-ok" ExchangeUnbindOk;

    50 10 "queue.declare" QueueDeclare<'a> ticket(short) {
        queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit, nowait: bit,
        arguments: table,
    };
    50 11 "queue.declare-ok" QueueDeclareOk<'a> {
        queue: shortstr, message_count: long, consumer_count: long,
    };
    50 20 "queue.bind" QueueBind<'a> ticket(short) {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, nowait: bit, arguments: table,
    };
    50 21 "queue.bind-ok" QueueBindOk;
    50 30 "queue.purge" QueuePurge<'a> ticket(short) { queue: shortstr, nowait: bit };
    50 31 "queue.purge-ok" QueuePurgeOk { message_count: long };
    50 40 "queue.delete" QueueDelete<'a> ticket(short) {
        queue: shortstr, if_unused: bit, if_empty: bit, nowait: bit,
    };
    50 41 "queue.delete-ok" QueueDeleteOk { message_count: long };
    50 50 "queue.unbind" QueueUnbind<'a> ticket(short) {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table,
    };
    50 51 "queue.unbind-ok" QueueUnbindOk;

    60 10 "basic.qos" BasicQos { prefetch_size: long, prefetch_count: short, global: bit };
    60 11 "basic.qos-ok" BasicQosOk;
    60 20 "basic.consume" BasicConsume<'a> ticket(short) {
        queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit, nowait: bit,
        arguments: table,
    };
    60 21 "basic.consume-ok" BasicConsumeOk<'a> { consumer_tag: shortstr };
    60 30 "basic.cancel" BasicCancel<'a> { consumer_tag: shortstr, nowait: bit };
    60 31 "basic.cancel-ok" BasicCancelOk<'a> { consumer_tag: shortstr };
    60 40 "basic.publish" BasicPublish<'a> ticket(short) {
        exchange: shortbytes, routing_key: shortbytes, mandatory: bit, immediate: bit,
    };
    60 50 "basic.return" BasicReturn<'a> {
        reply_code: short, reply_text: shortstr, exchange: shortbytes, routing_key: shortbytes,
    };
    60 60 "basic.deliver" BasicDeliver<'a> {
        consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortbytes,
        routing_key: shortbytes,
    };
    60 70 "basic.get" BasicGet<'a> ticket(short) { queue: shortstr, no_ack: bit };
    60 71 "basic.get-ok" BasicGetOk<'a> {
        delivery_tag: longlong, redelivered: bit, exchange: shortbytes, routing_key: shortbytes,
        message_count: long,
    };
    60 72 "basic.get-empty" BasicGetEmpty reserved(shortstr);
    60 80 "basic.ack" BasicAck { delivery_tag: longlong, multiple: bit };
    60 90 "basic.reject" BasicReject { delivery_tag: longlong, requeue: bit };
    60 100 "basic.recover-async" BasicRecoverAsync { requeue: bit };
    60 110 "basic.recover" BasicRecover { requeue: bit };
    60 111 "basic.recover-ok" BasicRecoverOk;
    60 120 "basic.nack" BasicNack { delivery_tag: longlong, multiple: bit, requeue: bit };

    85 10 "confirm.select" ConfirmSelect { nowait: bit };
    85 11 "confirm.select-ok" ConfirmSelectOk;

    90 10 "tx.select" TxSelect;
    90 11 "tx.select-ok" TxSelectOk;
    90 20 "tx.commit" TxCommit;
    90 21 "tx.commit-ok" TxCommitOk;
    90 30 "tx.rollback" TxRollback;
    90 31 "tx.rollback-ok" TxRollbackOk;
}

impl<'a> Method<'a> {
    /// Opens the payload of a method frame.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, MethodError> {
        let (id, arguments) = split_id(payload).ok_or_else(|| undecodable((0, 0), payload))?;
        match Self::read(id, arguments) {
            Ok(Some(method)) => Ok(method),
            Ok(None) => Err(MethodError::Unknown { class_id: id.0, method_id: id.1 }),
            Err(WireError::Length) => Err(undecodable(id, arguments)),
            Err(WireError::BadUtf8) => Err(MethodError::BadUtf8),
            Err(WireError::Table(error)) => Err(MethodError::Table(error)),
        }
    }

    /// Class id and method id of a payload, whether or not the rest can be decoded.
    pub fn peek_id(payload: &[u8]) -> Option<(u16, u16)> {
        split_id(payload).map(|(id, _)| id)
    }

    /// Appends class id, method id and arguments.
    ///
    /// What is longer than the 255 bytes of a shortstr is cut there, text on a character's boundary.
    pub fn encode(&self, out: &mut BytesMut) {
        let (class_id, method_id) = self.id();
        out.put_u16(class_id);
        out.put_u16(method_id);
        self.write(&mut Writer::new(out));
    }

    /// Whether a content header and body follow.
    pub fn has_content(&self) -> bool {
        matches!(
            self,
            Self::BasicPublish(_) | Self::BasicReturn(_) | Self::BasicDeliver(_) | Self::BasicGetOk(_)
        )
    }
}

fn split_id(payload: &[u8]) -> Option<((u16, u16), &[u8])> {
    let (&[c1, c0, m1, m0], arguments) = payload.split_first_chunk()?;
    Some(((u16::from_be_bytes([c1, c0]), u16::from_be_bytes([m1, m0])), arguments))
}

/// Why a payload is no method; the text is RabbitMQ's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MethodError {
    /// No method has this id.
    #[error("unknown method {class_id}.{method_id}")]
    Unknown {
        /// The class id sent.
        class_id: u16,
        /// The method id sent.
        method_id: u16,
    },
    /// The arguments end too early or too late.
    #[error("cannot decode {}", Octets(.arguments))]
    Undecodable {
        /// The class id sent, or 0.
        class_id: u16,
        /// The method id sent, or 0.
        method_id: u16,
        /// The first octets of the arguments.
        arguments: Vec<u8>,
    },
    /// A name is not UTF-8.
    #[error("Malformed UTF-8 in shortstr")]
    BadUtf8,
    /// A field table is broken or breaks a limit.
    #[error(transparent)]
    Table(#[from] TableError),
}

#[cold]
fn undecodable((class_id, method_id): (u16, u16), arguments: &[u8]) -> MethodError {
    let shown = arguments.iter().take(SHOWN_OCTETS_MAX).copied().collect();
    MethodError::Undecodable { class_id, method_id, arguments: shown }
}

#[cfg(test)]
mod tests;
