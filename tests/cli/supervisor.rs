//! What a supervisor is told (systemd's `Type=notify`), and what it brings.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::client::Client;
use crate::{Broker, PATIENCE, fresh_dir, sluicemq};

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

/// The broker with this listening socket as its third descriptor, as systemd starts it.
fn with_socket(socket: &TcpListener, arguments: &[&str]) -> Command {
    let plain = sluicemq(arguments);
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(plain.get_program()).args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(OwnedFd::from(socket.try_clone().expect("a copy")));
    command
}

#[test]
fn its_socket_is_served_and_again_after_a_rest() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address");
    let dir = fresh_dir();
    // It is in the backlog before anybody serves.
    let early = std::thread::spawn(move || Client::connect(address));
    let listen = address.to_string();
    let mut broker =
        Broker::start(with_socket(&socket, &["--listen", &listen]).env("SLUICEMQ_DATA_DIR", &dir));
    broker.log_until("Server startup complete");
    assert!(early.join().expect("it ends").is_ok());
    for verb in ["stop_app", "start_app"] {
        let done = sluicemq(&["ctl", verb]).env("SLUICEMQ_DATA_DIR", &dir).output().expect("the binary runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(Client::connect(address).is_ok());
}

#[test]
fn a_socket_that_nobody_uses_is_told() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut broker = Broker::start(&mut with_socket(&socket, &["--listen", "127.0.0.1:0"]));
    broker.log_until("a socket of the supervisor is not used");
    broker.log_until("Server startup complete");
}
