// lapin, the Rust client: async, one future for each answer and each confirm.
//
// needs:    cargo
// install:  CARGO_TARGET_DIR="$WORK/target" cargo build --quiet --locked --manifest-path "$DIR/Cargo.toml"
// run:      "$WORK/target/debug/driver"
//! The two verbs of a driver, and the cases.

mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::uri::SASLMechanism;
use lapin::{BasicProperties, Connection, ErrorKind, Event, ExchangeKind};
use world::*;

/// What lapin's API cannot say.
const WITHOUT: &[(&str, &str)] = &[
    ("connection.open/capabilities", "lapin does not show the server properties"),
    ("channel.open/number-reused", "lapin chooses the channel numbers"),
    ("channel.open/twice", "lapin opens each channel once"),
    ("heartbeat/silent-dropped", "lapin beats by itself and cannot be kept from it"),
    ("basic.qos/prefetch-size", "lapin has no prefetch size"),
];

macro_rules! cases {
    ($($name:literal => $function:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$($name),*];

        async fn run(name: &str, world: &World) -> Result<()> {
            match name {
                $($name => $function(world).await,)*
                other => bail!("no such case: {other}"),
            }
        }
    };
}

cases! {
    "connection.open/vhost-not-found" => vhost_not_found,
    "connection.open/bad-password" => bad_password,
    "connection.close/unacked-to-others" => unacked_to_others,
    "connection.close/exclusive-queue-gone" => exclusive_queue_gone,
    "connection.update-secret/accepted" => update_secret,
    "heartbeat/negotiated" => heartbeat_negotiated,
    "heartbeat/idle-survives" => heartbeat_idle,
    "channel.open/many" => many_channels,
    "channel.flow/inactive" => flow_inactive,
    "channel.close/unacked-requeued" => channel_close_requeues,
    "exchange.declare/kinds" => declare_kinds,
    "exchange.declare/passive-missing" => passive_missing_exchange,
    "exchange.declare/inequivalent" => inequivalent_exchange,
    "exchange.declare/internal" => internal_exchange,
    "exchange.delete/if-unused" => exchange_if_unused,
    "exchange.bind/unbind" => exchange_to_exchange,
    "queue.declare/counts" => declare_counts,
    "queue.declare/server-named" => server_named,
    "queue.declare/passive-missing" => passive_missing_queue,
    "queue.declare/inequivalent" => inequivalent_queue,
    "queue.declare/exclusive" => exclusive_queue,
    "queue.purge/ready-only" => purge,
    "queue.delete/count" => delete_count,
    "queue.delete/if-unused" => queue_if_unused,
    "queue.delete/if-empty" => queue_if_empty,
    "route/default" => route_default,
    "route/direct" => route_direct,
    "route/fanout" => route_fanout,
    "route/topic" => route_topic,
    "route/headers-all" => headers_all,
    "route/headers-any" => headers_any,
    "route/alternate-exchange" => alternate_exchange,
    "route/bad-exchange" => bad_exchange,
    "basic.publish/immediate" => immediate,
    "basic.return/unroutable" => unroutable,
    "confirm/single" => confirm_single,
    "confirm/batch" => confirm_batch,
    "confirm/unroutable" => confirm_unroutable,
    "confirm/ten-thousand" => confirm_ten_thousand,
    "basic.qos/per-consumer" => prefetch_per_consumer,
    "basic.qos/per-channel" => prefetch_per_channel,
    "basic.consume/order" => consume_order,
    "basic.consume/missing-queue" => consume_missing_queue,
    "basic.consume/exclusive" => consume_exclusive,
    "basic.consume/priority" => consumer_priority,
    "basic.consume/competing" => competing,
    "basic.cancel/client" => cancel_by_client,
    "basic.cancel/server" => cancel_by_server,
    "basic.get/message-count" => get_message_count,
    "basic.ack/multiple" => ack_multiple,
    "basic.ack/unknown-tag" => ack_unknown,
    "basic.nack/requeue-order" => nack_order,
    "basic.nack/drop" => nack_drop,
    "basic.reject/requeue" => reject_requeue,
    "basic.recover/requeue" => recover,
    "basic.recover/no-requeue" => recover_no_requeue,
    "tx/commit" => tx_commit,
    "tx/rollback" => tx_rollback,
    "tx/not-selected" => tx_not_selected,
    "tx/confirm-channel" => tx_on_confirm,
    "rpc/direct-reply-to" => direct_reply_to,
    "body/empty" => empty_body,
    "body/frame-edges" => frame_edges,
    "body/16MiB" => large_body,
    "properties/all" => all_properties,
    "headers/every-type" => header_types,
}

async fn vhost_not_found(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.vhost = "nowhere".into();
    let refusal = Connection::connect_uri(uri, Default::default()).await;
    refused(refusal, 530, "NOT_ALLOWED - vhost nowhere not found")
}

async fn bad_password(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.authority.userinfo.password = "wrong".into();
    uri.query.auth_mechanism = Some(SASLMechanism::Plain);
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    refused(Connection::connect_uri(uri, Default::default()).await, 403, text)
}

async fn unacked_to_others(world: &World) -> Result<()> {
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

async fn exclusive_queue_gone(world: &World) -> Result<()> {
    let (owner, other) = (world.connect().await?, world.connect().await?);
    let name = world.name("exclusive");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declaring = owner.create_channel().await?;
    declaring.queue_declare(name.as_str().into(), options, FieldTable::default()).await?;
    owner.close(200, "done".into()).await?;
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    refused(counts(&other.create_channel().await?, &name).await, 404, &text)
}

async fn update_secret(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    within("update-secret-ok", connection.update_secret("guest".into(), "conformance".into())).await??;
    still_usable(&connection).await
}

async fn heartbeat_negotiated(world: &World) -> Result<()> {
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

async fn heartbeat_idle(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.query.heartbeat = Some(2);
    let connection = world.connect_to(uri).await?;
    let mut events = connection.events_listener();
    let idle_since = Instant::now();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(6).saturating_sub(idle_since.elapsed()), events.next()).await {
        if let Some(Event::Error(error)) = event {
            bail!("while idle: {error}");
        }
    }
    still_usable(&connection).await
}

async fn many_channels(world: &World) -> Result<()> {
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

async fn flow_inactive(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let refusal = within("540", channel.channel_flow(ChannelFlowOptions { active: false })).await?;
    refused(refusal, 540, "NOT_IMPLEMENTED - active=false")
}

async fn channel_close_requeues(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (holder, other) = (channel(&connection).await?, channel(&connection).await?);
    let queue = world.queue(&other).await?;
    fill(&other, &queue, 3).await?;
    let mut held = consume(&holder, &queue).await?;
    take(&mut held, 3).await?;
    holder.close(200, "done".into()).await?;
    let first = other.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?.context("nothing came back")?;
    ensure!(first.redelivered && text(&first.delivery) == "0");
    ensure!(drain(&other, &queue).await? == ["1", "2"]);
    Ok(())
}

async fn declare_kinds(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    for kind in [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers] {
        let name = world.exchange(&channel, kind.clone()).await?;
        let (options, arguments) = (ExchangeDeclareOptions::default(), FieldTable::default());
        channel.exchange_declare(name.as_str().into(), kind, options, arguments).await?;
    }
    Ok(())
}

async fn passive_missing_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    let refusal = channel.exchange_declare(name.as_str().into(), ExchangeKind::Direct, options, FieldTable::default()).await;
    refused(refusal, 404, &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

async fn inequivalent_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.exchange(&connection.create_channel().await?, ExchangeKind::Direct).await?;
    let channel = connection.create_channel().await?;
    let options = ExchangeDeclareOptions::default();
    let refusal = channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, options, FieldTable::default()).await;
    let where_ = format!("for exchange '{name}' in vhost '/': received 'fanout' but current is 'direct'");
    refused(refusal, 406, &format!("PRECONDITION_FAILED - inequivalent arg 'type' {where_}"))?;
    still_usable(&connection).await
}

async fn internal_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = ExchangeDeclareOptions { internal: true, ..Default::default() };
    let name = world.exchange_with(&channel, ExchangeKind::Fanout, options, FieldTable::default()).await?;
    let refusal = within("403", publish(&channel, &name, "", b"directly")).await?;
    refused(refusal, 403, &format!("ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

async fn exchange_if_unused(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let name = world.exchange(&channel, ExchangeKind::Fanout).await?;
    world.bound(&channel, &name, "", FieldTable::default()).await?;
    let options = ExchangeDeleteOptions { if_unused: true, ..Default::default() };
    let refusal = channel.exchange_delete(name.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"))?;
    still_usable(&connection).await
}

async fn exchange_to_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let source = world.exchange(&channel, ExchangeKind::Direct).await?;
    let destination = world.exchange(&channel, ExchangeKind::Fanout).await?;
    let queue = world.bound(&channel, &destination, "", FieldTable::default()).await?;
    let (to, from) = (destination.as_str(), source.as_str());
    channel.exchange_bind(to.into(), from.into(), "key".into(), Default::default(), FieldTable::default()).await?;
    publish(&channel, &source, "key", b"bound").await?;
    channel.exchange_unbind(to.into(), from.into(), "key".into(), Default::default(), FieldTable::default()).await?;
    publish(&channel, &source, "key", b"unbound").await?;
    ensure!(drain(&channel, &queue).await? == ["bound"]);
    Ok(())
}

async fn declare_counts(world: &World) -> Result<()> {
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

async fn server_named(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let first = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let second = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    ensure!(first.name().as_str().starts_with("amq.gen-") && first.name() != second.name());
    Ok(())
}

async fn passive_missing_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = counts(&connection.create_channel().await?, &name).await;
    refused(refusal, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

async fn inequivalent_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let name = world.queue(&channel).await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let refusal = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;
    let where_ = format!("for queue '{name}' in vhost '/': received 'true' but current is 'false'");
    refused(refusal, 406, &format!("PRECONDITION_FAILED - inequivalent arg 'durable' {where_}"))?;
    still_usable(&connection).await
}

async fn exclusive_queue(world: &World) -> Result<()> {
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

async fn purge(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 5).await?;
    let held = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    ensure!(channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await? == 4);
    held.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
    ensure!(drain(&channel, &queue).await? == ["0"]);
    Ok(())
}

async fn delete_count(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 3).await?;
    ensure!(channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await? == 3);
    ensure!(channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await? == 0, "a missing queue");
    Ok(())
}

async fn queue_if_unused(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let _consumer = consume(&channel, &queue).await?;
    let options = QueueDeleteOptions { if_unused: true, ..Default::default() };
    let refusal = connection.create_channel().await?.queue_delete(queue.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"))?;
    still_usable(&connection).await
}

async fn queue_if_empty(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 1).await?;
    let options = QueueDeleteOptions { if_empty: true, ..Default::default() };
    let refusal = channel.queue_delete(queue.as_str().into(), options).await;
    refused(refusal, 406, &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"))?;
    still_usable(&connection).await
}

async fn route_default(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    publish(&channel, "", &queue, b"by name").await?;
    ensure!(drain(&channel, &queue).await? == ["by name"]);
    Ok(())
}

/// Publishes `keys` to an exchange of this kind; each binding's queue must take exactly its own.
async fn routes(world: &World, kind: ExchangeKind, expected: &[(&str, &[&str])], keys: &[&str]) -> Result<()> {
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

async fn route_direct(world: &World) -> Result<()> {
    routes(world, ExchangeKind::Direct, &[("red", &["red"]), ("red", &["red"]), ("blue", &[])], &["red", "Red", ""]).await
}

async fn route_fanout(world: &World) -> Result<()> {
    routes(world, ExchangeKind::Fanout, &[("", &["a", "b"]), ("x", &["a", "b"])], &["a", "b"]).await
}

async fn route_topic(world: &World) -> Result<()> {
    let all = ["order", "order.new", "order.new.eu"];
    let expected: &[(&str, &[&str])] =
        &[("order.*", &["order.new"]), ("order.#", &all), ("#.eu", &["order.new.eu"]), ("*", &["order"]), ("#", &all)];
    routes(world, ExchangeKind::Topic, expected, &all).await
}

async fn headers_all(world: &World) -> Result<()> {
    headers(world, "all", &["both"]).await
}

async fn headers_any(world: &World) -> Result<()> {
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

async fn alternate_exchange(world: &World) -> Result<()> {
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

async fn bad_exchange(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = within("404", publish(&channel(&connection).await?, &name, "", b"")).await?;
    refused(refusal, 404, &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

async fn immediate(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = BasicPublishOptions { immediate: true, ..Default::default() };
    let confirm = channel.basic_publish("".into(), "somewhere".into(), options, b"", BasicProperties::default()).await?;
    refused(within("540", confirm).await?, 540, "NOT_IMPLEMENTED - immediate=true")
}

async fn unroutable(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_message_id("7".into());
    let confirm = channel.basic_publish("amq.direct".into(), "nowhere".into(), options, b"come back", properties).await?;
    let returned = within("confirm", confirm).await??.take_message().context("not returned before the confirm")?;
    ensure!((returned.reply_code, returned.reply_text.as_str()) == (312, "NO_ROUTE"));
    ensure!((returned.exchange.as_str(), returned.routing_key.as_str()) == ("amq.direct", "nowhere"));
    ensure!(returned.data == b"come back");
    ensure!(returned.properties.message_id().as_ref().is_some_and(|id| id.as_str() == "7"));
    Ok(())
}

async fn confirm_single(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    Ok(within("confirm", publish(&channel, "", &queue, b"one")).await??)
}

async fn confirm_batch(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 100).await?;
    ensure!(drain(&channel, &queue).await? == numbered(0, 100));
    Ok(())
}

async fn confirm_unroutable(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    Ok(within("confirm", publish(&channel, "", &world.name("nowhere"), b"lost")).await??)
}

async fn confirm_ten_thousand(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 10_000).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = consume_with(&channel, &queue, options, FieldTable::default()).await?;
    ensure!(texts(&take(&mut consumer, 10_000).await?) == numbered(0, 10_000));
    Ok(())
}

async fn prefetch_per_consumer(world: &World) -> Result<()> {
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

async fn prefetch_per_channel(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    channel.basic_qos(3, BasicQosOptions { global: true }).await?;
    let _consumers = [consume(&channel, &queue).await?, consume(&channel, &queue).await?];
    fill(&channel, &queue, 10).await?;
    ensure!(counts(&channel, &queue).await? == (7, 2));
    Ok(())
}

async fn consume_order(world: &World) -> Result<()> {
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

async fn consume_missing_queue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let name = world.name("missing");
    let refusal = consume(&connection.create_channel().await?, &name).await;
    refused(refusal, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'"))?;
    still_usable(&connection).await
}

async fn consume_exclusive(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    let _holder = consume_with(&channel, &queue, options, FieldTable::default()).await?;
    let refusal = consume(&connection.create_channel().await?, &queue).await;
    refused(refusal, 403, &format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"))?;
    still_usable(&connection).await
}

async fn consumer_priority(world: &World) -> Result<()> {
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

async fn competing(world: &World) -> Result<()> {
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

async fn cancel_by_client(world: &World) -> Result<()> {
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
    ensure!(within("the end of the consumer", consumer.next()).await?.is_none(), "a delivery after cancel-ok");
    Ok(())
}

async fn cancel_by_server(world: &World) -> Result<()> {
    let (connection, other) = (world.connect().await?, world.connect().await?);
    let channel = connection.create_channel().await?;
    let queue = world.queue(&channel).await?;
    let mut consumer = consume(&channel, &queue).await?;
    let deleting = other.create_channel().await?;
    deleting.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    ensure!(within("the consumer is told", consumer.next()).await?.is_none());
    still_usable(&connection).await
}

async fn get_message_count(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    ensure!(channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.is_none());
    fill(&channel, &queue, 2).await?;
    for left in [1, 0] {
        let message = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
        ensure!(message.message_count == left && !message.redelivered);
    }
    Ok(())
}

async fn ack_multiple(world: &World) -> Result<()> {
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

async fn ack_unknown(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let mut events = connection.events_listener();
    let channel = connection.create_channel().await?;
    channel.basic_ack(7, BasicAckOptions::default()).await?;
    let told = within("406", async {
        loop {
            match events.next().await {
                Some(Event::Error(error)) if matches!(error.kind(), ErrorKind::ProtocolError(_)) => return Err(error),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    });
    refused(told.await?, 406, "PRECONDITION_FAILED - unknown delivery tag 7")?;
    still_usable(&connection).await
}

async fn nack_order(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 5).await?;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?);
    }
    for index in [2, 0, 3, 1] {
        held[index].nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
    }
    ensure!(drain(&channel, &queue).await? == numbered(0, 5));
    Ok(())
}

async fn nack_drop(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 2).await?;
    let held = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    held.nack(BasicNackOptions::default()).await?;
    ensure!(drain(&channel, &queue).await? == ["1"]);
    Ok(())
}

async fn reject_requeue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 1).await?;
    let held = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    held.reject(BasicRejectOptions { requeue: true }).await?;
    let again = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("it is gone")?;
    ensure!(again.redelivered);
    Ok(())
}

async fn recover(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = channel(&connection).await?;
    let queue = world.queue(&channel).await?;
    fill(&channel, &queue, 2).await?;
    channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.context("empty")?;
    within("recover-ok", channel.basic_recover(BasicRecoverOptions { requeue: true })).await??;
    ensure!(drain(&channel, &queue).await? == ["0", "1"]);
    Ok(())
}

async fn recover_no_requeue(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let channel = connection.create_channel().await?;
    let refusal = within("540", channel.basic_recover(BasicRecoverOptions { requeue: false })).await?;
    refused(refusal, 540, "NOT_IMPLEMENTED - requeue=false")
}

async fn tx_commit(world: &World) -> Result<()> {
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

async fn tx_rollback(world: &World) -> Result<()> {
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

async fn tx_not_selected(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let refusal = connection.create_channel().await?.tx_commit().await;
    refused(refusal, 406, "PRECONDITION_FAILED - channel is not transactional")?;
    still_usable(&connection).await
}

async fn tx_on_confirm(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let refusal = channel(&connection).await?.tx_select().await;
    refused(refusal, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode")?;
    still_usable(&connection).await
}

async fn direct_reply_to(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let (client, server) = (channel(&connection).await?, channel(&connection).await?);
    let requests = world.queue(&server).await?;
    let mut work = consume(&server, &requests).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut answers = consume_with(&client, "amq.rabbitmq.reply-to", options, FieldTable::default()).await?;
    let properties =
        BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into()).with_correlation_id("42".into());
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

async fn empty_body(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    ensure!(through(world, &connection, b"", BasicProperties::default()).await?.1.is_empty());
    Ok(())
}

async fn frame_edges(world: &World) -> Result<()> {
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

async fn large_body(world: &World) -> Result<()> {
    let connection = world.connect().await?;
    let body = bytes_of(16 * 1024 * 1024);
    let received = through(world, &connection, &body, BasicProperties::default()).await?.1;
    ensure!(received == body, "16 MiB came back changed");
    Ok(())
}

async fn all_properties(world: &World) -> Result<()> {
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

async fn header_types(world: &World) -> Result<()> {
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
    let (received, _) = through(world, &connection, b"", BasicProperties::default().with_headers(sent.clone())).await?;
    ensure!(received.headers().as_ref() == Some(&sent), "sent {sent:?}, got {:?}", received.headers());
    Ok(())
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cases"] => {
            NAMES.iter().for_each(|name| println!("case {name}"));
            WITHOUT.iter().for_each(|(pattern, reason)| println!("without {pattern} {reason}"));
        }
        ["run", name, url] => {
            let outcome = async {
                let world = World::new(url)?;
                run(name, &world).await?;
                world.end().await
            };
            if let Err(problem) = outcome.await {
                eprintln!("{}", format!("{problem:#}").replace('\n', " "));
                std::process::exit(1);
            }
        }
        _ => std::process::exit(2),
    }
}
