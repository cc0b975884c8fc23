//! Methods with everything unset that a test does not speak of; a test changes what it is about.

use sluicemq::protocol::methods::{
    BasicConsume, BasicPublish, ExchangeBind, ExchangeDeclare, ExchangeDelete, QueueBind, QueueDeclare,
    QueueDelete, QueueUnbind,
};
use sluicemq::protocol::table::Table;

pub(crate) fn queue_declare(queue: &str) -> QueueDeclare<'_> {
    QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

pub(crate) fn queue_delete(queue: &str) -> QueueDelete<'_> {
    QueueDelete { queue, if_unused: false, if_empty: false, nowait: false }
}

pub(crate) fn queue_bind<'a>(queue: &'a str, exchange: &'a str, routing_key: &'a str) -> QueueBind<'a> {
    QueueBind { queue, exchange, routing_key, nowait: false, arguments: Table::EMPTY }
}

pub(crate) fn queue_unbind<'a>(queue: &'a str, exchange: &'a str, routing_key: &'a str) -> QueueUnbind<'a> {
    QueueUnbind { queue, exchange, routing_key, arguments: Table::EMPTY }
}

pub(crate) fn exchange_declare<'a>(exchange: &'a str, kind: &'a str) -> ExchangeDeclare<'a> {
    ExchangeDeclare {
        exchange,
        kind,
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

pub(crate) fn exchange_delete(exchange: &str) -> ExchangeDelete<'_> {
    ExchangeDelete { exchange, if_unused: false, nowait: false }
}

pub(crate) fn exchange_bind<'a>(
    destination: &'a str,
    source: &'a str,
    routing_key: &'a str,
) -> ExchangeBind<'a> {
    ExchangeBind { destination, source, routing_key, nowait: false, arguments: Table::EMPTY }
}

pub(crate) fn consume(queue: &str) -> BasicConsume<'_> {
    BasicConsume {
        queue,
        consumer_tag: "",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

pub(crate) fn publish<'a>(exchange: &'a str, routing_key: &'a str) -> BasicPublish<'a> {
    BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        mandatory: false,
        immediate: false,
    }
}
