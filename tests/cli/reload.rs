//! Settings that are read anew while clients are at work.

use std::fs;
use std::net::SocketAddr;

use crate::client::Client;
use crate::{Broker, config_file, sluicemq};

fn address_of(broker: &mut Broker) -> SocketAddr {
    let log = broker.log_until("Server startup complete");
    let address = log.iter().find_map(|line| line.split_once("address=")).expect("the port is logged").1;
    address.trim().parse().expect("an address")
}

#[test]
fn limits_watermarks_and_the_level_change_and_nobody_is_sent_away() {
    let file = config_file("limits.connections_max = 1\n", 0o600);
    let arguments = ["--listen", "127.0.0.1:0", "--config", file.argument()];
    let mut broker = Broker::start(&mut sluicemq(&arguments));
    let address = address_of(&mut broker);
    let mut early = Client::connect(address).expect("a connection");
    assert!(Client::connect(address).is_err(), "there is one place");

    let text = "limits.connections_max = 2\nlimits.heartbeat_seconds = 7\nlimits.turn_steps = 5\n\
                memory.watermark = \"123MiB\"\nstorage.slot_bytes = \"2MiB\"\nlog.level = \"debug\"\n";
    fs::write(&file.path, text).expect("a file");
    broker.signal("-HUP");
    let log = broker.log_until("needs a restart: ignored");
    let told = |text: &str| log.iter().any(|line| line.contains(text));
    assert!(told("memory.watermark=\"123.0 MiB\""), "{log:#?}");
    let changed = "settings are reloaded: limits.connections_max, limits.heartbeat_seconds, log.level, memory.watermark: ";
    assert!(told(changed), "{log:#?}");
    assert!(told("WARN") && told("limits.turn_steps needs a restart: ignored"), "{log:#?}");

    let late = Client::connect(address).expect("there is a second place");
    early
        .call(&sluicemq::protocol::methods::Method::ConfirmSelect(
            sluicemq::protocol::methods::ConfirmSelect { nowait: false },
        ))
        .expect("the first one is there still");
    drop(late);
}

#[test]
fn a_mistake_changes_nothing_and_is_told() {
    let file = config_file("log.level = \"info\"\n", 0o600);
    let dir = crate::fresh_dir();
    let arguments = ["--listen", "127.0.0.1:0", "--config", file.argument()];
    let mut broker = Broker::start(sluicemq(&arguments).env("SLUICEMQ_DATA_DIR", &dir));
    address_of(&mut broker);
    fs::write(&file.path, "log.level = \"debug\"\nlimits.channel_max = 0\n").expect("a file");
    let reload = || {
        let reload = sluicemq(&["ctl", "reload"]).env("SLUICEMQ_DATA_DIR", &dir).output();
        reload.expect("the binary runs")
    };
    let refused = reload();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("line 2: limits.channel_max: "), "{told}");
    broker.log_until("nothing is reloaded: ");
    fs::write(&file.path, "").expect("a file");
    assert!(reload().status.success());
    broker.log_until("settings are reloaded: none has changed");
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "127.0.0.1:0"]));
    let address = address_of(&mut broker);
    // It never answers that its connection is closed.
    let _silent = Client::connect(address).expect("a connection");
    broker.signal("-TERM");
    broker.log_until("stopping");
    broker.signal("-TERM");
    broker.log_until("stopping at once");
    assert_eq!(broker.process.wait().expect("it ends").code(), Some(1));
}
