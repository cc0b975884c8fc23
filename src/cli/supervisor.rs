//! What the process's supervisor is told (systemd's `Type=notify`): that clients are served, that it stops, and, where it
//! asks for that, again and again that it is not stuck.

use std::time::Duration;

use sd_notify::NotifyState;

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
