//! What travels: bodies, properties, headers, requests and answers.

use anyhow::{Context, Result, bail, ensure};
use lapin::options::*;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Connection};

use crate::world::*;

pub async fn direct_reply_to(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (client, server) = (channel(&connection).await?, channel(&connection).await?);
    let requests = world.queue(&server).await?;
    let mut work = consume(&server, &requests).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut answers = consume_with(&client, "amq.rabbitmq.reply-to", options, FieldTable::default()).await?;
    let properties = BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into())
        .with_correlation_id("42".into());
    publish_with(&client, "", &requests, b"question", properties).await?;
    let [request] = &take(&mut work, 1).await?[..] else { bail!("not one request") };
    let reply_to = request.properties.reply_to().clone().context("no reply-to")?;
    let correlation = request.properties.correlation_id().clone().context("no correlation id")?;
    let properties = BasicProperties::default().with_correlation_id(correlation);
    publish_with(&server, "", reply_to.as_str(), b"answer", properties).await?;
    let [answer] = &take(&mut answers, 1).await?[..] else { bail!("not one answer") };
    ensure!(text(answer) == "answer");
    ensure!(answer.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == "42"));
    Ok(())
}

/// The properties and body of a message as a consumer gets them.
async fn through(
    world: &World,
    connection: &Connection,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(BasicProperties, Vec<u8>)> {
    let channel = channel(connection).await?;
    let queue = world.queue(&channel).await?;
    let mut consumer = consume(&channel, &queue).await?;
    publish_with(&channel, "", &queue, body, properties).await?;
    let delivery = take(&mut consumer, 1).await?.pop().context("nothing came")?;
    Ok((delivery.properties, delivery.data))
}

/// Bytes that differ from place to place, so that a lost or swapped frame shows.
fn bytes_of(size: usize) -> Vec<u8> {
    (0..size).map(|place| (place.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

pub async fn empty_body(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    ensure!(through(world, &connection, b"", BasicProperties::default()).await?.1.is_empty());
    Ok(())
}

pub async fn frame_edges(world: &World) -> Result<()> {
    for frame_max in [4096, 131_072] {
        let mut uri = world.uri.clone();
        uri.query.frame_max = Some(frame_max);
        let connection = world.connect_to(uri).await?;
        let payload = frame_max as usize - 8;
        for size in [payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1] {
            let body = bytes_of(size);
            let (_, received) = through(world, &connection, &body, BasicProperties::default()).await?;
            ensure!(received == body, "{size} bytes in frames of {frame_max} came back changed");
        }
    }
    Ok(())
}

pub async fn large_body(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let body = bytes_of(16 * 1024 * 1024);
    let received = through(world, &connection, &body, BasicProperties::default()).await?.1;
    ensure!(received == body, "16 MiB came back changed");
    Ok(())
}

pub async fn all_properties(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let sent = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_headers(table([("one", AMQPValue::LongInt(1))]))
        .with_delivery_mode(2)
        .with_priority(9)
        .with_correlation_id("correlation ü".into())
        .with_reply_to("reply".into())
        .with_expiration("60000".into())
        .with_message_id("message".into())
        .with_timestamp(1_700_000_000)
        .with_type("type".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into());
    let (received, _) = through(world, &connection, b"", sent.clone()).await?;
    ensure!(received == sent, "sent {sent:?}, got {received:?}");
    Ok(())
}

pub async fn header_types(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let sent = table([
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-7)),
        ("u8", AMQPValue::ShortShortUInt(255)),
        ("i16", AMQPValue::ShortInt(-3000)),
        ("u16", AMQPValue::ShortUInt(65_535)),
        ("i32", AMQPValue::LongInt(i32::MIN)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(-1.5e300)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", string("grün ✓")),
        ("empty", string("")),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("timestamp", AMQPValue::Timestamp(1_700_000_000)),
        ("void", AMQPValue::Void),
        ("array", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongInt(1), string("two")]))),
        ("table", AMQPValue::FieldTable(table([("deeper", AMQPValue::FieldTable(FieldTable::default()))]))),
    ]);
    let (received, _) =
        through(world, &connection, b"", BasicProperties::default().with_headers(sent.clone())).await?;
    ensure!(received.headers().as_ref() == Some(&sent), "sent {sent:?}, got {:?}", received.headers());
    Ok(())
}
