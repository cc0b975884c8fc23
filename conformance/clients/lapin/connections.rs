//! Connections and channels: opening, heartbeats, closing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::uri::SASLMechanism;
use lapin::{Connection, Event};

use crate::world::*;

pub async fn vhost_not_found(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.vhost = "nowhere".into();
    let refusal = Connection::connect_uri(uri, Default::default()).await;
    refused(refusal, 530, "NOT_ALLOWED - vhost nowhere not found")
}

pub async fn bad_password(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.authority.userinfo.password = "wrong".into();
    uri.query.auth_mechanism = Some(SASLMechanism::Plain);
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    refused(Connection::connect_uri(uri, Default::default()).await, 403, text)
}

pub async fn unacked_to_others(world: &World) -> Result<()> {
    let (first, second) = (world.connect().await?, world.connect().await?);
    let (holder, other) = (channel(&first).await?, channel(&second).await?);
    let queue = world.queue(&other).await?;
    fill(&other, &queue, 3).await?;
    let mut held = consume(&holder, &queue).await?;
    take(&mut held, 3).await?[0].ack(BasicAckOptions::default()).await?;
    let mut next = consume(&other, &queue).await?;
    first.close(200, "done".into()).await?;
    let deliveries = take(&mut next, 2).await?;
    ensure!(texts(&deliveries) == ["1", "2"] && deliveries.iter().all(|delivery| delivery.redelivered));
    Ok(())
}

pub async fn exclusive_queue_gone(world: &World) -> Result<()> {
    let (owner, other) = (world.connect().await?, world.connect().await?);
    let name = world.name("exclusive");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declaring = owner.create_channel().await?;
    declaring.queue_declare(name.as_str().into(), options, FieldTable::default()).await?;
    owner.close(200, "done".into()).await?;
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    refused(counts(&other.create_channel().await?, &name).await, 404, &text)
}

pub async fn update_secret(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    within("update-secret-ok", connection.update_secret("guest".into(), "conformance".into())).await??;
    still_usable(&connection).await
}

pub async fn heartbeat_negotiated(world: &World) -> Result<()> {
    // lapin takes the lower of both, and zero for the server's.
    for (asked, used) in [(120, 60), (1, 1)] {
        let mut uri = world.uri.clone();
        uri.query.heartbeat = Some(asked);
        let connection = world.connect_to(uri).await?;
        let negotiated = connection.configuration().heartbeat();
        ensure!(negotiated == used, "asked {asked}, expected {used}, got {negotiated}");
        still_usable(&connection).await?;
    }
    Ok(())
}

pub async fn heartbeat_idle(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.query.heartbeat = Some(2);
    let connection = world.connect_to(uri).await?;
    let mut events = connection.events_listener();
    let idle_since = Instant::now();
    while let Ok(event) =
        tokio::time::timeout(Duration::from_secs(6).saturating_sub(idle_since.elapsed()), events.next()).await
    {
        if let Some(Event::Error(error)) = event {
            bail!("while idle: {error}");
        }
    }
    still_usable(&connection).await
}

pub async fn many_channels(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let mut channels = Vec::new();
    for _ in 0..100 {
        let channel = channel(&connection).await?;
        let queue = world.queue(&channel).await?;
        publish(&channel, "", &queue, queue.as_bytes()).await?;
        channels.push((channel, queue));
    }
    for (channel, queue) in &channels {
        ensure!(drain(channel, queue).await? == [queue.clone()]);
    }
    Ok(())
}

pub async fn flow_inactive(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let refusal = within("540", channel.channel_flow(ChannelFlowOptions { active: false })).await?;
    refused(refusal, 540, "NOT_IMPLEMENTED - active=false")
}

pub async fn channel_close_requeues(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (holder, other) = (channel(&connection).await?, channel(&connection).await?);
    let queue = world.queue(&other).await?;
    fill(&other, &queue, 3).await?;
    let mut held = consume(&holder, &queue).await?;
    take(&mut held, 3).await?;
    holder.close(200, "done".into()).await?;
    let first = other
        .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })
        .await?
        .context("nothing came back")?;
    ensure!(first.redelivered && text(&first.delivery) == "0");
    ensure!(drain(&other, &queue).await? == ["1", "2"]);
    Ok(())
}
