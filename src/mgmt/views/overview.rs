//! GET /api/overview: the node at a glance.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::clock::Now;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::json::entries;
use crate::mgmt::rates::{Rated, Subject};
use crate::mgmt::views::counts::{CHURN, LENGTHS, MESSAGE_STATS};
use crate::mgmt::{Mgmt, listing};
use crate::routing::ExchangeKind;

/// Everything.
pub(crate) fn show(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mgmt = call.mgmt;
    let config = &mgmt.broker.config;
    let subject = Subject::Node(Arc::downgrade(&mgmt.broker));
    let rated = mgmt.rates.of(subject, Now::read().instant);
    let mut shown = entries(json!({
        "management_version": config.identity.version,
        "rabbitmq_version": config.identity.version,
        "product_name": config.identity.product,
        "product_version": config.identity.version,
        "sluicemq_version": env!("CARGO_PKG_VERSION"),
        "cluster_name": config.identity.cluster_name,
        "default_queue_type": "classic",
        // Tools read these, and some refuse to go on without. There is no Erlang here.
        "erlang_version": "none",
        "erlang_full_version": format!("SluiceMQ {}", env!("CARGO_PKG_VERSION")),
        "release_series_support_status": "supported",
        "node": mgmt.node,
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [], "basic": [], "detailed": []},
        "statistics_db_event_queue": 0,
        "disable_stats": false,
        "enable_queue_totals": false,
        "is_op_policy_updating_enabled": true,
        "exchange_types": exchange_types(),
        "object_totals": object_totals(call),
        "queue_totals": part(&rated, &LENGTHS),
        "message_stats": part(&rated, &MESSAGE_STATS),
        "churn_rates": part(&rated, &CHURN),
    }));
    if call.sees_all() {
        shown.insert("listeners".to_owned(), listeners(mgmt));
        shown.insert("contexts".to_owned(), contexts(mgmt));
    }
    Ok(listing::one(call, &Value::Object(shown)))
}

fn part(rated: &Rated, names: &[&str]) -> Value {
    let mut part = Map::new();
    rated.put(names, &mut part);
    Value::Object(part)
}

fn object_totals(call: &Call<'_>) -> Value {
    let (mut channels, mut consumers) = (0, 0);
    let connections = call.mgmt.broker.open_connections();
    for outbox in &connections {
        for (_, tally) in outbox.presence.channels() {
            channels += 1;
            consumers += tally.consumer_count();
        }
    }
    let vhosts = call.visible_vhosts();
    let exchanges: usize = vhosts.iter().map(|vhost| vhost.exchange_count()).sum();
    let queues: usize = vhosts.iter().map(|vhost| vhost.queue_count()).sum();
    json!({
        "channels": channels,
        "connections": connections.len(),
        "consumers": consumers,
        "exchanges": exchanges,
        "queues": queues,
    })
}

/// The kinds of exchanges that there are.
pub(crate) fn exchange_types() -> Value {
    let shown = |kind: &ExchangeKind| {
        let description = match kind.name() {
            name @ ("direct" | "fanout" | "topic" | "headers") => {
                format!("AMQP {name} exchange, as per the AMQP specification")
            }
            name => format!("{name} exchange"),
        };
        json!({"name": kind.name(), "description": description, "enabled": true})
    };
    ExchangeKind::ALL.iter().map(shown).collect()
}

fn listeners(mgmt: &Mgmt) -> Value {
    let shown = |(protocol, address): (&str, std::net::SocketAddr)| {
        json!({
            "node": mgmt.node,
            "protocol": protocol,
            "ip_address": address.ip().to_string(),
            "port": address.port(),
            "socket_opts": {"nodelay": true},
        })
    };
    mgmt.listening.all().map(shown).collect()
}

/// Where HTTP is served.
pub(crate) fn contexts(mgmt: &Mgmt) -> Value {
    let of = |description: &'static str, addresses: &[std::net::SocketAddr]| {
        let shown = addresses.iter().map(|address| {
            json!({
                "node": mgmt.node,
                "description": description,
                "path": "/",
                "port": address.port().to_string(),
                "ssl_opts": [],
            })
        });
        shown.collect::<Vec<_>>()
    };
    let listening = &mgmt.listening;
    let all = [
        of("RabbitMQ Management", &listening.mgmt),
        of("RabbitMQ Management", &listening.mgmt_tls),
        of("RabbitMQ Prometheus", &listening.prometheus),
        of("RabbitMQ Prometheus", &listening.prometheus_tls),
    ];
    all.into_iter().flatten().collect()
}
