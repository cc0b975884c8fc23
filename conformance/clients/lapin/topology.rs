//! Exchanges and queues: declared, bound, purged, deleted.

use anyhow::{Context, Result, ensure};
use lapin::ExchangeKind;
use lapin::options::*;
use lapin::types::FieldTable;

use crate::world::*;

pub async fn declare_kinds(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    for kind in [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers] {
        let name = world.exchange(&channel, kind.clone()).await?;
        let (options, arguments) = (ExchangeDeclareOptions::default(), FieldTable::default());
        channel.exchange_declare(name.as_str().into(), kind, options, arguments).await?;
    }
    Ok(())
}

pub async fn passive_missing_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    let refusal = channel
        .exchange_declare(name.as_str().into(), ExchangeKind::Direct, options, FieldTable::default())
        .await;
    refused(refusal, 404, &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

pub async fn inequivalent_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.exchange(&connection.create_channel().await?, ExchangeKind::Direct).await?;
    let channel = connection.create_channel().await?;
    let options = ExchangeDeclareOptions::default();
    let refusal = channel
        .exchange_declare(name.as_str().into(), ExchangeKind::Fanout, options, FieldTable::default())
        .await;
    let where_ = format!("for exchange '{name}' in vhost '/': received 'fanout' but current is 'direct'");
    refused(refusal, 406, &format!("PRECONDITION_FAILED - inequivalent arg 'type' {where_}"))?;
    still_usable(&connection).await
}

pub async fn internal_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = ExchangeDeclareOptions { internal: true, ..Default::default() };
    let name = world.exchange_with(&channel, ExchangeKind::Fanout, options, FieldTable::default()).await?;
    let refusal = within("403", publish(&channel, &name, "", b"directly")).await?;
    refused(
        refusal,
        403,
        &format!("ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'"),
    )?;
    still_usable(&connection).await
}

pub async fn exchange_if_unused(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let name = world.exchange(&channel, ExchangeKind::Fanout).await?;
    world.bound(&channel, &name, "", FieldTable::default()).await?;
    let options = ExchangeDeleteOptions { if_unused: true, ..Default::default() };
    let refusal = channel.exchange_delete(name.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"))?;
    still_usable(&connection).await
}

pub async fn exchange_to_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let source = world.exchange(&channel, ExchangeKind::Direct).await?;
    let destination = world.exchange(&channel, ExchangeKind::Fanout).await?;
    let queue = world.bound(&channel, &destination, "", FieldTable::default()).await?;
    let (to, from) = (destination.as_str(), source.as_str());
    channel
        .exchange_bind(to.into(), from.into(), "key".into(), Default::default(), FieldTable::default())
        .await?;
    publish(&channel, &source, "key", b"bound").await?;
    channel
        .exchange_unbind(to.into(), from.into(), "key".into(), Default::default(), FieldTable::default())
        .await?;
    publish(&channel, &source, "key", b"unbound").await?;
    ensure!(drain(&channel, &queue).await? == ["bound"]);
    Ok(())
}

pub async fn declare_counts(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 3).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut consumer = consume(&channel, &queue).await?;
    take(&mut consumer, 1).await?;
    ensure!(counts(&channel, &queue).await? == (2, 1));
    Ok(())
}

pub async fn server_named(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let first = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let second = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    ensure!(first.name().as_str().starts_with("amq.gen-") && first.name() != second.name());
    Ok(())
}

pub async fn passive_missing_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = counts(&connection.create_channel().await?, &name).await;
    refused(refusal, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

pub async fn inequivalent_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let name = world.queue(&channel).await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let refusal = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;
    let where_ = format!("for queue '{name}' in vhost '/': received 'true' but current is 'false'");
    refused(refusal, 406, &format!("PRECONDITION_FAILED - inequivalent arg 'durable' {where_}"))?;
    still_usable(&connection).await
}

pub async fn exclusive_queue(world: &World) -> Result<()> {
    let (owner, other) = (world.connect().await?, world.connect().await?);
    let name = world.name("exclusive");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declaring = owner.create_channel().await?;
    declaring.queue_declare(name.as_str().into(), options, FieldTable::default()).await?;
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    refused(counts(&other.create_channel().await?, &name).await, 405, &text)?;
    still_usable(&other).await
}

pub async fn purge(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 5).await?;
    let held =
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    ensure!(channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await? == 4);
    held.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
    ensure!(drain(&channel, &queue).await? == ["0"]);
    Ok(())
}

pub async fn delete_count(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 3).await?;
    ensure!(channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await? == 3);
    ensure!(
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await? == 0,
        "a missing queue"
    );
    Ok(())
}

pub async fn queue_if_unused(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let _consumer = consume(&channel, &queue).await?;
    let options = QueueDeleteOptions { if_unused: true, ..Default::default() };
    let refusal = connection.create_channel().await?.queue_delete(queue.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"))?;
    still_usable(&connection).await
}

pub async fn queue_if_empty(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 1).await?;
    let options = QueueDeleteOptions { if_empty: true, ..Default::default() };
    let refusal = channel.queue_delete(queue.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"))?;
    still_usable(&connection).await
}
