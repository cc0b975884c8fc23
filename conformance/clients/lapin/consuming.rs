//! Consumers, and what becomes of a delivered message.

use anyhow::{Context, Result, ensure};
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ErrorKind, Event};

use crate::world::*;

pub async fn prefetch_per_consumer(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    channel.basic_qos(3, BasicQosOptions::default()).await?;
    let mut consumers = [consume(&channel, &queue).await?, consume(&channel, &queue).await?];
    fill(&channel, &queue, 10).await?;
    let held = take(&mut consumers[0], 3).await?;
    take(&mut consumers[1], 3).await?;
    ensure!(counts(&channel, &queue).await? == (4, 2));
    held[0].ack(BasicAckOptions::default()).await?;
    take(&mut consumers[0], 1).await?;
    ensure!(counts(&channel, &queue).await? == (3, 2));
    Ok(())
}

pub async fn prefetch_per_channel(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    channel.basic_qos(3, BasicQosOptions { global: true }).await?;
    let _consumers = [consume(&channel, &queue).await?, consume(&channel, &queue).await?];
    fill(&channel, &queue, 10).await?;
    ensure!(counts(&channel, &queue).await? == (7, 2));
    Ok(())
}

pub async fn consume_order(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    let mut consumer = consume(&channel, &queue).await?;
    fill(&channel, &queue, 500).await?;
    let deliveries = take(&mut consumer, 500).await?;
    ensure!(texts(&deliveries) == numbered(0, 500));
    ensure!(deliveries.iter().map(|delivery| delivery.delivery_tag).eq(1..=500));
    Ok(())
}

pub async fn consume_missing_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = consume(&connection.create_channel().await?, &name).await;
    refused(refusal, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

pub async fn consume_exclusive(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    let _holder = consume_with(&channel, &queue, options, FieldTable::default()).await?;
    let refusal = consume(&connection.create_channel().await?, &queue).await;
    refused(refusal, 403, &format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"))?;
    still_usable(&connection).await
}

pub async fn consumer_priority(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    channel.basic_qos(3, BasicQosOptions::default()).await?;
    let mut low = consume(&channel, &queue).await?;
    let arguments = table([("x-priority", AMQPValue::LongInt(10))]);
    let mut high = consume_with(&channel, &queue, BasicConsumeOptions::default(), arguments).await?;
    fill(&channel, &queue, 5).await?;
    ensure!(texts(&take(&mut high, 3).await?) == ["0", "1", "2"]);
    ensure!(texts(&take(&mut low, 2).await?) == ["3", "4"]);
    Ok(())
}

pub async fn competing(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let publisher = channel(&connection).await?;
    let queue = world.queue(&publisher).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let channel = connection.create_channel().await?;
        let consumer = consume_with(&channel, &queue, options, FieldTable::default()).await?;
        consumers.push((channel, consumer));
    }
    fill(&publisher, &queue, 400).await?;
    let mut seen = Vec::new();
    for (_, consumer) in &mut consumers {
        seen.extend(texts(&take(consumer, 100).await?));
    }
    seen.sort_by_key(|body| body.parse::<usize>().unwrap_or(usize::MAX));
    ensure!(seen == numbered(0, 400), "not each message once");
    Ok(())
}

pub async fn cancel_by_client(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    channel.basic_qos(2, BasicQosOptions::default()).await?;
    let mut consumer = consume(&channel, &queue).await?;
    fill(&channel, &queue, 5).await?;
    let held = take(&mut consumer, 2).await?;
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    held[1].ack(BasicAckOptions { multiple: true }).await?;
    ensure!(counts(&channel, &queue).await? == (3, 0));
    ensure!(
        within("the end of the consumer", consumer.next()).await?.is_none(),
        "a delivery after cancel-ok"
    );
    Ok(())
}

pub async fn cancel_by_server(world: &World) -> Result<()> {
    let (connection, other) = (world.connect().await?, world.connect().await?);
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let mut consumer = consume(&channel, &queue).await?;
    let deleting = other.create_channel().await?;
    deleting.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    ensure!(within("the consumer is told", consumer.next()).await?.is_none());
    still_usable(&connection).await
}

pub async fn get_message_count(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    ensure!(channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.is_none());
    fill(&channel, &queue, 2).await?;
    for left in [1, 0] {
        let message =
            channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
        ensure!(message.message_count == left && !message.redelivered);
    }
    Ok(())
}

pub async fn ack_multiple(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (holder, other) = (channel(&connection).await?, channel(&connection).await?);
    let queue = world.queue(&other).await?;
    fill(&other, &queue, 5).await?;
    let mut consumer = consume(&holder, &queue).await?;
    take(&mut consumer, 5).await?[2].ack(BasicAckOptions { multiple: true }).await?;
    holder.close(200, "done".into()).await?;
    ensure!(drain(&other, &queue).await? == ["3", "4"]);
    Ok(())
}

pub async fn ack_unknown(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let mut events = connection.events_listener();
    let channel = connection.create_channel().await?;
    channel.basic_ack(7, BasicAckOptions::default()).await?;
    let told = within("406", async {
        loop {
            match events.next().await {
                Some(Event::Error(error)) if matches!(error.kind(), ErrorKind::ProtocolError(_)) => {
                    return Err(error);
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    });
    refused(told.await?, 406, "PRECONDITION_FAILED - unknown delivery tag 7")?;
    still_usable(&connection).await
}

pub async fn nack_order(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 5).await?;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(
            channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?,
        );
    }
    for index in [2, 0, 3, 1] {
        held[index].nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
    }
    ensure!(drain(&channel, &queue).await? == numbered(0, 5));
    Ok(())
}

pub async fn nack_drop(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 2).await?;
    let held =
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    held.nack(BasicNackOptions::default()).await?;
    ensure!(drain(&channel, &queue).await? == ["1"]);
    Ok(())
}

pub async fn reject_requeue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 1).await?;
    let held =
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    held.reject(BasicRejectOptions { requeue: true }).await?;
    let again =
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("it is gone")?;
    ensure!(again.redelivered);
    Ok(())
}

pub async fn recover(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 2).await?;
    channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    within("recover-ok", channel.basic_recover(BasicRecoverOptions { requeue: true })).await??;
    ensure!(drain(&channel, &queue).await? == ["0", "1"]);
    Ok(())
}

pub async fn recover_no_requeue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let refusal = within("540", channel.basic_recover(BasicRecoverOptions { requeue: false })).await?;
    refused(refusal, 540, "NOT_IMPLEMENTED - requeue=false")
}

pub async fn tx_commit(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    channel.tx_select().await?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.as_str().into(), options, b"one", properties).await?;
    ensure!(counts(&channel, &queue).await?.0 == 0, "seen before commit");
    channel.tx_commit().await?;
    ensure!(drain(&channel, &queue).await? == ["one"]);
    Ok(())
}

pub async fn tx_rollback(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    channel.tx_select().await?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.as_str().into(), options, b"never", properties).await?;
    channel.tx_rollback().await?;
    channel.tx_commit().await?;
    ensure!(counts(&channel, &queue).await?.0 == 0, "seen after rollback");
    Ok(())
}

pub async fn tx_not_selected(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let refusal = connection.create_channel().await?.tx_commit().await;
    refused(refusal, 406, "PRECONDITION_FAILED - channel is not transactional")?;
    still_usable(&connection).await
}

pub async fn tx_on_confirm(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let refusal = channel(&connection).await?.tx_select().await;
    refused(refusal, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode")?;
    still_usable(&connection).await
}
