//! Brings together who lets clients in by WebSocket and who serves them: neither knows the other.

use crate::mgmt::web::{Guest, Host, Welcome, Wire};
use crate::net::guests::Guests;

/// Who serves those who come to the management API's `/ws`.
pub(super) fn host(guests: Guests) -> Host {
    Host::new(move |peer| {
        let (permit, guests) = (guests.admit(peer)?, guests.clone());
        let welcome: Welcome = Box::new(move |Guest { wire, read, peer }| match wire {
            Wire::Plain(socket) => guests.serve(permit, socket, peer, &read),
            Wire::Secured(stream) => guests.serve_secured(permit, *stream, peer, &read),
        });
        Some(welcome)
    })
}
