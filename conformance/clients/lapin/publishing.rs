//! Where a message goes, and what its publisher is told.

use anyhow::{Context, Result, ensure};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::world::*;

pub async fn route_default(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    publish(&channel, "", &queue, b"by name").await?;
    ensure!(drain(&channel, &queue).await? == ["by name"]);
    Ok(())
}

/// Publishes `keys` to an exchange of this kind; each binding's queue must take exactly its own.
async fn routes(
    world: &World,
    kind: ExchangeKind,
    expected: &[(&str, &[&str])],
    keys: &[&str],
) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let exchange = world.exchange(&channel, kind).await?;
    let mut queues = Vec::new();
    for (binding, _) in expected {
        queues.push(world.bound(&channel, &exchange, binding, FieldTable::default()).await?);
    }
    for key in keys {
        publish(&channel, &exchange, key, key.as_bytes()).await?;
    }
    for ((binding, took), queue) in expected.iter().zip(&queues) {
        let bodies = drain(&channel, queue).await?;
        ensure!(bodies == *took, "{binding} took {bodies:?}, expected {took:?}");
    }
    Ok(())
}

pub async fn route_direct(world: &World) -> Result<()> {
    routes(
        world,
        ExchangeKind::Direct,
        &[("red", &["red"]), ("red", &["red"]), ("blue", &[])],
        &["red", "Red", ""],
    )
    .await
}

pub async fn route_fanout(world: &World) -> Result<()> {
    routes(world, ExchangeKind::Fanout, &[("", &["a", "b"]), ("x", &["a", "b"])], &["a", "b"]).await
}

pub async fn route_topic(world: &World) -> Result<()> {
    let all = ["order", "order.new", "order.new.eu"];
    let expected: &[(&str, &[&str])] = &[
        ("order.*", &["order.new"]),
        ("order.#", &all),
        ("#.eu", &["order.new.eu"]),
        ("*", &["order"]),
        ("#", &all),
    ];
    routes(world, ExchangeKind::Topic, expected, &all).await
}

pub async fn headers_all(world: &World) -> Result<()> {
    headers(world, "all", &["both"]).await
}

pub async fn headers_any(world: &World) -> Result<()> {
    headers(world, "any", &["both", "one"]).await
}

async fn headers(world: &World, matching: &str, expected: &[&str]) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let exchange = world.exchange(&channel, ExchangeKind::Headers).await?;
    let (shape, size) = (("shape", string("round")), ("size", AMQPValue::LongInt(3)));
    let binding = table([("x-match", string(matching)), shape.clone(), size.clone()]);
    let queue = world.bound(&channel, &exchange, "", binding).await?;
    let messages = [("both", table([shape, size.clone()])), ("one", table([size])), ("none", table([]))];
    for (body, headers) in messages {
        let properties = BasicProperties::default().with_headers(headers);
        publish_with(&channel, &exchange, "", body.as_bytes(), properties).await?;
    }
    ensure!(drain(&channel, &queue).await? == expected);
    Ok(())
}

pub async fn alternate_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let spare = world.exchange(&channel, ExchangeKind::Fanout).await?;
    let arguments = table([("alternate-exchange", string(&spare))]);
    let options = ExchangeDeclareOptions::default();
    let main = world.exchange_with(&channel, ExchangeKind::Direct, options, arguments).await?;
    let queue = world.bound(&channel, &spare, "", FieldTable::default()).await?;
    publish(&channel, &main, "unknown", b"left").await?;
    ensure!(drain(&channel, &queue).await? == ["left"]);
    Ok(())
}

pub async fn bad_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = within("404", publish(&channel(&connection).await?, &name, "", b"")).await?;
    refused(refusal, 404, &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

pub async fn immediate(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = BasicPublishOptions { immediate: true, ..Default::default() };
    let confirm = channel
        .basic_publish("".into(), "somewhere".into(), options, b"", BasicProperties::default())
        .await?;
    refused(within("540", confirm).await?, 540, "NOT_IMPLEMENTED - immediate=true")
}

pub async fn unroutable(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_message_id("7".into());
    let confirm = channel
        .basic_publish("amq.direct".into(), "nowhere".into(), options, b"come back", properties)
        .await?;
    let returned =
        within("confirm", confirm).await??.take_message().context("not returned before the confirm")?;
    ensure!((returned.reply_code, returned.reply_text.as_str()) == (312, "NO_ROUTE"));
    ensure!((returned.exchange.as_str(), returned.routing_key.as_str()) == ("amq.direct", "nowhere"));
    ensure!(returned.data == b"come back");
    ensure!(returned.properties.message_id().as_ref().is_some_and(|id| id.as_str() == "7"));
    Ok(())
}

pub async fn confirm_single(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    Ok(within("confirm", publish(&channel, "", &queue, b"one")).await??)
}

pub async fn confirm_batch(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 100).await?;
    ensure!(drain(&channel, &queue).await? == numbered(0, 100));
    Ok(())
}

pub async fn confirm_unroutable(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    Ok(within("confirm", publish(&channel, "", &world.name("nowhere"), b"lost")).await??)
}

pub async fn confirm_ten_thousand(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 10_000).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = consume_with(&channel, &queue, options, FieldTable::default()).await?;
    ensure!(texts(&take(&mut consumer, 10_000).await?) == numbered(0, 10_000));
    Ok(())
}
