//! What a supervisor is told (systemd's `Type=notify`).

use std::os::unix::net::UnixDatagram;

use crate::{Broker, PATIENCE, sluicemq};

#[test]
fn that_it_serves_that_it_is_not_stuck_and_that_it_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).expect("a socket");
    supervisor.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let hear = || {
        let mut told = [0; 100];
        let length = supervisor.recv(&mut told).expect("something is told");
        String::from_utf8_lossy(&told[..length]).trim().to_owned()
    };
    let mut command = sluicemq(&["--listen", "127.0.0.1:0"]);
    let mut broker = Broker::start(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000"));
    let until = |wanted: &str, meanwhile: &str| loop {
        match hear() {
            told if told == wanted => return,
            told => assert_eq!(told, meanwhile),
        }
    };
    until("READY=1", "WATCHDOG=1");
    (0..3).for_each(|_| assert_eq!(hear(), "WATCHDOG=1"));
    broker.log_until("Server startup complete");
    broker.signal("-TERM");
    until("STOPPING=1", "WATCHDOG=1");
    broker.log_until("stopped");
}
