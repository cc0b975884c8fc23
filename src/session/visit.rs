//! What the log says of a connection: a line when it is open, and one with the reason when it has ended.
//!
//! Both or none: where clients come and go faster than anybody reads, some are only counted.

use std::sync::Arc;

use crate::auth::users::User;
use crate::broker::audit::TARGET;
use crate::broker::presence::{Opened, PROPERTIES_BYTES_MAX};
use crate::broker::vhost::Vhost;
use crate::clock::Now;
use crate::session::Session;
use crate::session::handshake::{Said, Tuned};
use crate::stats::Charge;

/// A connection that was open, and whose line was written.
#[derive(Debug)]
pub(super) struct Visit {
    user: Arc<User>,
    vhost: Arc<Vhost>,
    /// What it calls itself.
    client: Box<str>,
    /// Why it ends: what was said first.
    reason: Option<String>,
}

impl Session {
    /// The client is in.
    pub(super) fn log_opened(&mut self, user: &Arc<User>, vhost: &Arc<Vhost>, client: &str, now: Now) {
        let Some(left_out) = self.broker.visits.allow(now.instant) else { return };
        // Seldom are there any.
        let left_out = (left_out > 0).then_some(left_out);
        let (user_name, vhost_name) = (&user.name, vhost.name());
        tracing::info!(target: TARGET, user = ?user_name, vhost = ?vhost_name, ?client, left_out, "connection opened");
        self.visit = Some(Visit {
            user: Arc::clone(user),
            vhost: Arc::clone(vhost),
            client: client.into(),
            reason: None,
        });
    }

    /// Shows the connection to those who watch.
    pub(super) fn show(&self, user: &User, vhost: &Vhost, tuned: Tuned, said: Said, now: Now) {
        let node = &self.broker.node;
        let properties = Some(said.properties).filter(|bytes| bytes.len() <= PROPERTIES_BYTES_MAX);
        let properties = properties.unwrap_or_default();
        let bytes = size_of::<Opened>() + user.name.len() + properties.len();
        self.outbox.presence.open(Opened {
            user: user.name.clone(),
            vhost: Arc::clone(vhost.name()),
            mechanism: said.mechanism.name(),
            properties,
            frame_max: tuned.frame_max,
            channel_max: tuned.channel_max,
            heartbeat: tuned.heartbeat,
            since_ms: now.unix_ms,
            charge: Charge::new(&node.memory.definitions, bytes as u64),
        });
        node.churn.connections_opened.add(1);
    }

    /// It is gone, and what its channels did is counted on.
    pub(super) fn hide(&self) {
        let node = &self.broker.node;
        if self.outbox.presence.opened().is_some() {
            node.churn.connections_closed.add(1);
        }
        for tally in self.outbox.presence.close_channels().values() {
            node.churn.channels_closed.add(1);
            node.channels.absorb(tally);
        }
    }

    /// Whether there will be a line with the reason why it ends.
    pub(super) fn is_visit(&self) -> bool {
        self.visit.is_some()
    }

    /// Says why it ends.
    pub(super) fn ends_for(&mut self, reason: impl FnOnce() -> String) {
        if let Some(visit) = &mut self.visit {
            visit.reason.get_or_insert_with(reason);
        }
    }

    /// The socket is gone.
    pub fn on_lost(&mut self, error: &std::io::Error) {
        self.ends_for(|| format!("lost: {error}"));
    }

    pub(super) fn log_ended(&mut self) {
        let Some(Visit { user, vhost, client, reason }) = self.visit.take() else { return };
        let reason = reason.as_deref().unwrap_or("given up by the broker");
        let (user, vhost) = (&user.name, vhost.name());
        tracing::info!(target: TARGET, ?user, ?vhost, ?client, ?reason, "connection ended");
    }
}
