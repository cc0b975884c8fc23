//! Queues with rules: what expires, what is too much, what nobody wants, and who comes first.

use anyhow::{Context, Result, bail, ensure};
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};

use crate::world::*;

/// A queue of these rules.
async fn ruled<const N: usize>(
    world: &World,
    channel: &Channel,
    durable: bool,
    rules: [(&str, AMQPValue); N],
) -> Result<String> {
    let options = QueueDeclareOptions { durable, ..Default::default() };
    world.queue_with(channel, options, table(rules)).await
}

/// The rule that sends dead letters to this queue; its exchange is the other half.
fn letters_to(queue: &str) -> (&'static str, AMQPValue) {
    ("x-dead-letter-routing-key", string(queue))
}

fn by_default_exchange() -> (&'static str, AMQPValue) {
    ("x-dead-letter-exchange", string(""))
}

fn field<'a>(table: &'a FieldTable, key: &str) -> Result<&'a AMQPValue> {
    table.inner().get(key).with_context(|| format!("no {key} in {table:?}"))
}

fn text_field(table: &FieldTable, key: &str) -> Result<String> {
    match field(table, key)? {
        AMQPValue::LongString(value) => Ok(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        other => bail!("{key} is {other:?}"),
    }
}

/// The newest death, which must be the only one, of this queue for this reason.
fn only_death<'a>(letter: &'a Delivery, queue: &str, reason: &str) -> Result<&'a FieldTable> {
    let headers = letter.properties.headers().as_ref().context("no headers")?;
    let AMQPValue::FieldArray(deaths) = field(headers, "x-death")? else { bail!("x-death is no array") };
    let [AMQPValue::FieldTable(death)] = deaths.as_slice() else { bail!("not one death: {deaths:?}") };
    ensure!(text_field(death, "queue")? == queue && text_field(death, "reason")? == reason, "{death:?}");
    ensure!(*field(death, "count")? == AMQPValue::LongLongInt(1), "{death:?}");
    Ok(death)
}

/// The next message of the queue, through a consumer of its own.
async fn next(connection: &Connection, queue: &str) -> Result<Delivery> {
    let channel = connection.create_channel().await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = consume_with(&channel, queue, options, FieldTable::default()).await?;
    take(&mut consumer, 1).await?.pop().context("nothing came")
}

/// Whether a publish is acked.
async fn acked(channel: &Channel, queue: &str, body: &str) -> Result<bool> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let confirm =
        channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await?;
    Ok(within("confirm", confirm).await??.is_ack())
}

pub async fn rejected(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let dead = world.queue(&channel).await?;
    let queue = ruled(world, &channel, false, [by_default_exchange(), letters_to(&dead)]).await?;
    publish(&channel, "", &queue, b"unwanted").await?;
    let held =
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    held.reject(BasicRejectOptions { requeue: false }).await?;
    let letter = next(&connection, &dead).await?;
    ensure!(text(&letter) == "unwanted" && letter.routing_key.as_str() == dead);
    let death = only_death(&letter, &queue, "rejected")?;
    ensure!(matches!(field(death, "time")?, AMQPValue::Timestamp(_)), "{death:?}");
    let headers = letter.properties.headers().as_ref().context("no headers")?;
    ensure!(text_field(headers, "x-first-death-queue")? == queue);
    ensure!(text_field(headers, "x-first-death-reason")? == "rejected");
    Ok(())
}

pub async fn message_ttl(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let dead = world.queue(&channel).await?;
    let ttl = ("x-message-ttl", AMQPValue::LongInt(100));
    let queue = ruled(world, &channel, false, [by_default_exchange(), letters_to(&dead), ttl]).await?;
    publish(&channel, "", &queue, b"too late").await?;
    only_death(&next(&connection, &dead).await?, &queue, "expired")?;
    ensure!(counts(&channel, &queue).await?.0 == 0);
    Ok(())
}

pub async fn expiration(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let dead = world.queue(&channel).await?;
    let ttl = ("x-message-ttl", AMQPValue::LongInt(600_000));
    let queue = ruled(world, &channel, false, [by_default_exchange(), letters_to(&dead), ttl]).await?;
    let short = BasicProperties::default().with_expiration("50".into());
    publish_with(&channel, "", &queue, b"short", short).await?;
    let letter = next(&connection, &dead).await?;
    ensure!(letter.properties.expiration().is_none());
    ensure!(text_field(only_death(&letter, &queue, "expired")?, "original-expiration")? == "50");
    Ok(())
}

pub async fn expires(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = ruled(world, &channel, false, [("x-expires", AMQPValue::LongInt(200))]).await?;
    // Anything else that asks for it would be use.
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let gone = async {
        loop {
            let properties = BasicProperties::default();
            let confirm =
                channel.basic_publish("".into(), queue.as_str().into(), options, b"", properties).await?;
            if confirm.await?.take_message().is_some() {
                return anyhow::Ok(());
            }
        }
    };
    within("the queue goes", gone).await?
}

pub async fn max_length(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let dead = world.queue(&channel).await?;
    let limit = ("x-max-length", AMQPValue::LongInt(3));
    let queue = ruled(world, &channel, false, [by_default_exchange(), letters_to(&dead), limit]).await?;
    fill(&channel, &queue, 10).await?;
    let mut consumer = consume(&channel, &dead).await?;
    let letters = take(&mut consumer, 7).await?;
    ensure!(texts(&letters) == numbered(0, 7));
    only_death(&letters[0], &queue, "maxlen")?;
    ensure!(drain(&channel, &queue).await? == numbered(7, 10));
    Ok(())
}

pub async fn reject_publish(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let limit = [("x-max-length", AMQPValue::LongInt(2)), ("x-overflow", string("reject-publish"))];
    let queue = ruled(world, &channel, false, limit).await?;
    for (body, expected) in [("0", true), ("1", true), ("2", false), ("3", false)] {
        ensure!(acked(&channel, &queue, body).await? == expected, "{body}");
    }
    channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?.context("empty")?;
    ensure!(acked(&channel, &queue, "4").await?);
    ensure!(drain(&channel, &queue).await? == ["1", "4"]);
    Ok(())
}

pub async fn priorities(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = ruled(world, &channel, true, [("x-max-priority", AMQPValue::LongInt(5))]).await?;
    for (number, priority) in [0, 3, 0, 9, 1, 5, 3].into_iter().enumerate() {
        let properties = BasicProperties::default().with_priority(priority);
        publish_with(&channel, "", &queue, number.to_string().as_bytes(), properties).await?;
    }
    ensure!(drain(&channel, &queue).await? == ["3", "5", "1", "6", "4", "0", "2"]);
    Ok(())
}

pub async fn single_active_consumer(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (setup, active, other) =
        (channel(&connection).await?, channel(&connection).await?, channel(&connection).await?);
    let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let queue = ruled(world, &setup, false, [single]).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut first = consume_with(&active, &queue, options, FieldTable::default()).await?;
    let mut second = consume_with(&other, &queue, options, FieldTable::default()).await?;
    fill(&setup, &queue, 2).await?;
    ensure!(texts(&take(&mut first, 2).await?) == ["0", "1"]);
    active.close(200, "done".into()).await?;
    publish(&setup, "", &queue, b"next").await?;
    ensure!(texts(&take(&mut second, 1).await?) == ["next"]);
    Ok(())
}

pub async fn delivery_limit(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let dead = world.queue(&channel).await?;
    let (kind, limit) = (("x-queue-type", string("quorum")), ("x-delivery-limit", AMQPValue::LongInt(2)));
    let queue = ruled(world, &channel, true, [by_default_exchange(), letters_to(&dead), kind, limit]).await?;
    publish(&channel, "", &queue, b"poison").await?;
    let mut worker = consume(&channel, &queue).await?;
    for expected in 0..=2 {
        let poison = take(&mut worker, 1).await?.pop().context("nothing came")?;
        // Nothing is said of it the first time.
        let told = poison.properties.headers().as_ref().and_then(|told| told.inner().get("x-delivery-count"));
        ensure!(*told.unwrap_or(&AMQPValue::LongLongInt(0)) == AMQPValue::LongLongInt(expected), "{told:?}");
        poison.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
    }
    let letter = next(&connection, &dead).await?;
    ensure!(text(&letter) == "poison");
    only_death(&letter, &queue, "delivery_limit")?;
    Ok(())
}

pub async fn inequivalent(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = ruled(world, &channel, false, [("x-max-length", AMQPValue::LongInt(5))]).await?;
    let start =
        format!("PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/'");
    for (rules, said) in [
        (table([("x-max-length", AMQPValue::LongInt(6))]), "received '6' but current is '5'"),
        (table([]), "received none but current is the value '5' of type 'signedint'"),
    ] {
        let channel = connection.create_channel().await?;
        let refusal =
            channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), rules).await;
        refused(refusal, 406, &format!("{start}: {said}"))?;
    }
    still_usable(&connection).await
}
