//! Listening sockets that the process was started with: a supervisor's, who holds them while nobody serves.
//!
//! One is used where the configuration asks for its address. It is copied then: a broker that is stopped and started again
//! in the same process finds it once more.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;

static SOCKETS: OnceLock<Vec<TcpListener>> = OnceLock::new();

/// From now on these are looked for first. Said once in a process: who says it again says nothing.
pub fn are(sockets: Vec<TcpListener>) {
    // There is one start.
    let _ = SOCKETS.set(sockets);
}

/// A copy of the one that listens at this address, if there is one.
///
/// # Errors
/// The system's, to copying it.
pub(super) fn at(address: SocketAddr) -> Option<io::Result<TcpListener>> {
    let sockets = SOCKETS.get().map_or(&[][..], Vec::as_slice);
    let own = sockets.iter().find(|socket| socket.local_addr().is_ok_and(|own| own == address))?;
    Some(own.try_clone().and_then(|copy| copy.set_nonblocking(true).map(|()| copy)))
}

/// The addresses of those that nobody asks for.
pub fn unused(asked: &[SocketAddr]) -> Vec<SocketAddr> {
    let sockets = SOCKETS.get().map_or(&[][..], Vec::as_slice);
    let all = sockets.iter().filter_map(|socket| socket.local_addr().ok());
    all.filter(|address| !asked.contains(address)).collect()
}
