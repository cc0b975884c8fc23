//! What the process's supervisor is told (systemd's `Type=notify`): that clients are served, that it stops, and, where it
//! asks for that, again and again that it is not stuck. And what it brings: sockets that it has opened (`LISTEN_FDS`).

use std::net::SocketAddr;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::net::inherited;

/// Takes the sockets that the process was started with. What is none that listens for TCP is left alone.
pub(super) fn take_sockets() {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for number in 0..passed.len() {
        match passed.take_tcp_listener(number) {
            Ok(socket) => sockets.extend(socket),
            Err(error) => tracing::warn!(%error, number, "a socket of the supervisor is none for AMQP"),
        }
    }
    inherited::are(sockets);
}

/// Says which of them nobody uses: who connects there waits for ever.
pub(super) fn complain_of_sockets(asked: &[SocketAddr]) {
    for address in inherited::unused(asked) {
        tracing::warn!(%address, "a socket of the supervisor is not used: no listener of the configuration is there");
    }
}

/// Says that clients are served.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// Says that the process comes to its end.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says that the process is not stuck, twice in the time after which its supervisor would take it for that. Ends at once
/// where nobody wants to know.
pub(super) async fn keep_telling() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) else { return };
    // A task: that it has its turn is what is told.
    let mut turns = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        turns.tick().await;
        tell(NotifyState::Watchdog);
    }
}

/// Without a supervisor this is nothing.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}
