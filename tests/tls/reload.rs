//! Certificates are read anew while clients are at work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::broker::Broker;
use crate::client::{Client, Secured, Trust};
use crate::{GUEST, HOST, server};

fn connect(trust: &Trust, broker: &Broker) -> Client<Secured> {
    let stream = trust.connect(broker.amqp(), HOST).unwrap();
    Client::begin(stream).unwrap().0.log_in("PLAIN", GUEST).unwrap()
}

/// Fault 26: a certificate that is no good leaves the old one in place, and the log says why.
#[test]
fn a_bad_certificate_keeps_the_old_and_a_good_one_is_shown_next() {
    let (authority, files) = server();
    let mut broker = Broker::start(&files, &[]);
    let trust = Trust::of(&authority.pem);
    let early = connect(&trust, &broker);
    let first = early.stream.conn.peer_certificates().unwrap()[0].clone();

    files.put("server.pem", "garbage\n");
    broker.hang_up();
    let line = broker.log_until("certificates are not reloaded, and the old ones stay: tls.certificate: ");
    assert!(line.contains("ERROR") && line.contains("has no certificate in it"), "{line}");
    let refused = broker.ctl(&["reload"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("has no certificate in it"), "{told}");
    let between = connect(&trust, &broker);
    assert_eq!(between.stream.conn.peer_certificates().unwrap()[0], first);

    // Its key is still the old one's: half of a change is none.
    let renewed = authority.sign("renewed", &[HOST]);
    files.put("server.pem", &renewed.certificate);
    let refused = broker.ctl(&["reload"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("is not the key of the certificate"), "{told}");

    files.put_pair("server", &renewed);
    let done = broker.ctl(&["reload"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let late = connect(&trust, &broker);
    assert_ne!(late.stream.conn.peer_certificates().unwrap()[0], first);
    let mut clients = [early, between, late];
    for client in &mut clients {
        client.ask().unwrap();
    }
    let listed = broker.ctl(&["list_connections", "pid", "-q", "--no-table-headers"]);
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).lines().count(),
        clients.len(),
        "nobody was sent away"
    );
}

#[test]
fn under_load_no_connection_is_lost() {
    const RELOADS: usize = 20;
    let (authority, files) = server();
    let mut broker = Broker::start(&files, &[]);
    let trust = Trust::of(&authority.pem);
    let mut clients: Vec<_> = (0..4).map(|_| connect(&trust, &broker)).collect();
    clients[0].ask().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    client.publish(&[7; 10_000]).unwrap();
                    assert_eq!(client.get().unwrap().len(), 10_000);
                }
            });
        }
        for _ in 0..RELOADS {
            files.put_pair("server", &authority.sign("renewed", &[HOST]));
            broker.hang_up();
            broker.log_until("certificates are reloaded");
            drop(connect(&trust, &broker));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for client in &mut clients {
        client.ask().unwrap();
    }
}

#[test]
fn without_certificates_the_rest_is_reloaded() {
    let (_authority, files) = server();
    let mut command = crate::command(&files, &[]);
    for key in ["CERTIFICATE", "KEY", "LISTEN"] {
        command.env_remove(format!("SLUICEMQ_TLS_{key}"));
    }
    let mut broker = Broker::of(command, &files);
    assert!(broker.ctl(&["reload"]).status.success());
    broker.log_until("settings are reloaded: none has changed");
}
