// lapin, the Rust client: async, one future for each answer and each confirm.
//
// needs:    cargo
// install:  cargo fetch --quiet --locked --manifest-path "$DIR/Cargo.toml"
// build:    CARGO_TARGET_DIR="$WORK/target" cargo build --quiet --offline --locked --manifest-path "$DIR/Cargo.toml"
// run:      "$WORK/target/debug/driver"
//! The two verbs of a driver, and the cases.

mod connections;
mod consuming;
mod content;
mod publishing;
mod rules;
mod secured;
mod topology;
mod world;

use anyhow::{Result, bail};

use world::World;

/// What lapin's API cannot say.
const WITHOUT: &[(&str, &str)] = &[
    ("connection.open/capabilities", "lapin does not show the server properties"),
    ("channel.open/number-reused", "lapin chooses the channel numbers"),
    ("channel.open/twice", "lapin opens each channel once"),
    ("heartbeat/silent-dropped", "lapin beats by itself and cannot be kept from it"),
    ("basic.qos/prefetch-size", "lapin has no prefetch size"),
    ("tls/old-version", "what lapin speaks TLS with knows no 1.1"),
];

macro_rules! cases {
    ($($name:literal => $function:path),* $(,)?) => {
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
    "connection.open/vhost-not-found" => connections::vhost_not_found,
    "connection.open/bad-password" => connections::bad_password,
    "connection.close/unacked-to-others" => connections::unacked_to_others,
    "connection.close/exclusive-queue-gone" => connections::exclusive_queue_gone,
    "connection.update-secret/accepted" => connections::update_secret,
    "heartbeat/negotiated" => connections::heartbeat_negotiated,
    "heartbeat/idle-survives" => connections::heartbeat_idle,
    "tls/server-certificate" => secured::server_certificate,
    "tls/external" => secured::external,
    "tls/expired" => secured::expired,
    "tls/wrong-name" => secured::wrong_name,
    "tls/plain" => secured::plain,
    "channel.open/many" => connections::many_channels,
    "channel.flow/inactive" => connections::flow_inactive,
    "channel.close/unacked-requeued" => connections::channel_close_requeues,
    "exchange.declare/kinds" => topology::declare_kinds,
    "exchange.declare/passive-missing" => topology::passive_missing_exchange,
    "exchange.declare/inequivalent" => topology::inequivalent_exchange,
    "exchange.declare/internal" => topology::internal_exchange,
    "exchange.delete/if-unused" => topology::exchange_if_unused,
    "exchange.bind/unbind" => topology::exchange_to_exchange,
    "queue.declare/counts" => topology::declare_counts,
    "queue.declare/server-named" => topology::server_named,
    "queue.declare/passive-missing" => topology::passive_missing_queue,
    "queue.declare/inequivalent" => topology::inequivalent_queue,
    "queue.declare/inequivalent-argument" => rules::inequivalent,
    "queue.declare/exclusive" => topology::exclusive_queue,
    "queue.purge/ready-only" => topology::purge,
    "queue.delete/count" => topology::delete_count,
    "queue.delete/if-unused" => topology::queue_if_unused,
    "queue.delete/if-empty" => topology::queue_if_empty,
    "route/default" => publishing::route_default,
    "route/direct" => publishing::route_direct,
    "route/fanout" => publishing::route_fanout,
    "route/topic" => publishing::route_topic,
    "route/headers-all" => publishing::headers_all,
    "route/headers-any" => publishing::headers_any,
    "route/alternate-exchange" => publishing::alternate_exchange,
    "route/bad-exchange" => publishing::bad_exchange,
    "basic.publish/immediate" => publishing::immediate,
    "basic.return/unroutable" => publishing::unroutable,
    "confirm/single" => publishing::confirm_single,
    "confirm/batch" => publishing::confirm_batch,
    "confirm/unroutable" => publishing::confirm_unroutable,
    "confirm/ten-thousand" => publishing::confirm_ten_thousand,
    "basic.qos/per-consumer" => consuming::prefetch_per_consumer,
    "basic.qos/per-channel" => consuming::prefetch_per_channel,
    "basic.consume/order" => consuming::consume_order,
    "basic.consume/missing-queue" => consuming::consume_missing_queue,
    "basic.consume/exclusive" => consuming::consume_exclusive,
    "basic.consume/priority" => consuming::consumer_priority,
    "basic.consume/competing" => consuming::competing,
    "basic.cancel/client" => consuming::cancel_by_client,
    "basic.cancel/server" => consuming::cancel_by_server,
    "basic.get/message-count" => consuming::get_message_count,
    "basic.ack/multiple" => consuming::ack_multiple,
    "basic.ack/unknown-tag" => consuming::ack_unknown,
    "basic.nack/requeue-order" => consuming::nack_order,
    "basic.nack/drop" => consuming::nack_drop,
    "basic.reject/requeue" => consuming::reject_requeue,
    "basic.recover/requeue" => consuming::recover,
    "basic.recover/no-requeue" => consuming::recover_no_requeue,
    "tx/commit" => consuming::tx_commit,
    "tx/rollback" => consuming::tx_rollback,
    "tx/not-selected" => consuming::tx_not_selected,
    "tx/confirm-channel" => consuming::tx_on_confirm,
    "queue.rules/rejected-dead-letter" => rules::rejected,
    "queue.rules/message-ttl" => rules::message_ttl,
    "queue.rules/expiration" => rules::expiration,
    "queue.rules/expires" => rules::expires,
    "queue.rules/max-length" => rules::max_length,
    "queue.rules/reject-publish" => rules::reject_publish,
    "queue.rules/priorities" => rules::priorities,
    "queue.rules/single-active-consumer" => rules::single_active_consumer,
    "queue.rules/delivery-limit" => rules::delivery_limit,
    "rpc/direct-reply-to" => content::direct_reply_to,
    "body/empty" => content::empty_body,
    "body/frame-edges" => content::frame_edges,
    "body/16MiB" => content::large_body,
    "properties/all" => content::all_properties,
    "headers/every-type" => content::header_types,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cases"] => {
            NAMES.iter().for_each(|name| {
                println!("case {name}{}", if name.starts_with("tls/") { " needs tls" } else { "" });
            });
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
