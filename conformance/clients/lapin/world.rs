//! One case's view of the broker: connections, names of its own, cleaning up, and waiting with a deadline.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind, ExchangeKind};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// Fails instead of hanging.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(DEADLINE, future).await.map_err(|_| anyhow!("{what}: not within {DEADLINE:?}"))
}

/// The connections and names of one case.
pub struct World {
    pub uri: AMQPUri,
    queues: RefCell<Vec<String>>,
    exchanges: RefCell<Vec<String>>,
    names: AtomicU32,
}

impl World {
    pub fn new(url: &str) -> Result<Self> {
        let uri = url.parse().map_err(|reason| anyhow!("{url}: {reason}"))?;
        Ok(Self { uri, queues: RefCell::default(), exchanges: RefCell::default(), names: AtomicU32::new(0) })
    }

    pub async fn connect(&self) -> Result<Connection> {
        self.connect_to(self.uri.clone()).await
    }

    pub async fn connect_to(&self, uri: AMQPUri) -> Result<Connection> {
        Ok(within("connect", Connection::connect_uri(uri, ConnectionProperties::default())).await??)
    }

    pub fn name(&self, hint: &str) -> String {
        format!("{hint}-{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn queue(&self, channel: &Channel) -> Result<String> {
        self.queue_with(channel, QueueDeclareOptions::default(), FieldTable::default()).await
    }

    pub async fn queue_with(
        &self,
        channel: &Channel,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<String> {
        let name = self.name("queue");
        self.queues.borrow_mut().push(name.clone());
        channel.queue_declare(name.as_str().into(), options, arguments).await?;
        Ok(name)
    }

    pub async fn bound(
        &self,
        channel: &Channel,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<String> {
        let name = self.queue(channel).await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(name.as_str().into(), exchange.into(), key.into(), options, arguments).await?;
        Ok(name)
    }

    pub async fn exchange(&self, channel: &Channel, kind: ExchangeKind) -> Result<String> {
        self.exchange_with(channel, kind, ExchangeDeclareOptions::default(), FieldTable::default()).await
    }

    pub async fn exchange_with(
        &self,
        channel: &Channel,
        kind: ExchangeKind,
        options: ExchangeDeclareOptions,
        arguments: FieldTable,
    ) -> Result<String> {
        let name = self.name("exchange");
        self.exchanges.borrow_mut().push(name.clone());
        channel.exchange_declare(name.as_str().into(), kind, options, arguments).await?;
        Ok(name)
    }

    /// Deletes what the case declared.
    pub async fn end(&self) -> Result<()> {
        let connection = self.connect().await?;
        let channel = connection.create_channel().await?;
        for name in self.queues.take() {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
        }
        for name in self.exchanges.take() {
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(())
    }
}

/// A channel with confirms.
pub async fn channel(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes and waits for the confirm; the broker has routed when this returns.
pub async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> lapin::Result<()> {
    publish_with(channel, exchange, key, body, BasicProperties::default()).await
}

pub async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<()> {
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
    assert!(confirm.await?.is_ack(), "not acked");
    Ok(())
}

/// Puts `count` numbered messages into the queue, all confirmed.
pub async fn fill(channel: &Channel, queue: &str, count: usize) -> Result<()> {
    let mut confirms = Vec::new();
    for body in numbered(0, count) {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        confirms.push(
            channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await?,
        );
    }
    for confirm in confirms {
        ensure!(within("confirm", confirm).await??.is_ack(), "not acked");
    }
    Ok(())
}

pub fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

pub fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.data).into_owned()
}

/// The bodies of all ready messages, in order.
pub async fn drain(channel: &Channel, queue: &str) -> Result<Vec<String>> {
    let mut bodies = Vec::new();
    while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
        bodies.push(text(&message.delivery));
    }
    Ok(bodies)
}

/// (ready messages, consumers), and a round trip: what was sent before on this channel has arrived after it.
pub async fn counts(channel: &Channel, queue: &str) -> lapin::Result<(u32, u32)> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

pub async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    consume_with(channel, queue, BasicConsumeOptions::default(), FieldTable::default()).await
}

pub async fn consume_with(
    channel: &Channel,
    queue: &str,
    options: BasicConsumeOptions,
    arguments: FieldTable,
) -> lapin::Result<Consumer> {
    channel.basic_consume(queue.into(), "".into(), options, arguments).await
}

/// The next `count` deliveries.
pub async fn take(consumer: &mut Consumer, count: usize) -> Result<Vec<Delivery>> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        let next = within("delivery", consumer.next())
            .await
            .with_context(|| format!("after {}", deliveries.len()))?;
        deliveries.push(next.context("the consumer ended")??);
    }
    Ok(deliveries)
}

pub fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

pub fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    pairs.into_iter().map(|(key, value)| (key.into(), value)).collect::<BTreeMap<_, _>>().into()
}

pub fn string(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// What the broker must say when it refuses something.
pub fn refused<T>(result: lapin::Result<T>, code: u16, explanation: &str) -> Result<()> {
    let Err(error) = result else { bail!("expected {code} {explanation}, nothing was refused") };
    let ErrorKind::ProtocolError(error) = error.kind() else {
        bail!("expected {code} {explanation}, got {error:?}")
    };
    let said = error.get_message().as_str();
    ensure!(
        error.get_id() == code && said == explanation,
        "expected {code} {explanation}, got {} {said}",
        error.get_id()
    );
    Ok(())
}

/// A channel error leaves the connection fit for work.
pub async fn still_usable(connection: &Connection) -> Result<()> {
    let channel = channel(connection).await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    publish(&channel, "", queue.name().as_str(), b"still here").await?;
    ensure!(
        drain(&channel, queue.name().as_str()).await? == ["still here"],
        "what was published is not there"
    );
    Ok(())
}
