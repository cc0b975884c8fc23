//! A panic in a connection's task: that connection is closed, what it held comes back, everybody else goes on. That
//! one in the thread that commits ends the process is tested in `net::committer`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use sluicemq::config::Config;
use sluicemq::net::Server;
use sluicemq::protocol::methods::{BasicGet, Method};
use tokio::sync::oneshot;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::client::{Client, Incoming};
use crate::process::{declare, select_confirms};

/// Panics where a channel is said to be closed: in the task of the connection, in the middle of its work.
struct PanicsAtChannelClose;

struct Message(bool);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == "channel closed";
    }
}

impl Subscriber for PanicsAtChannelClose {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(false);
        event.record(&mut message);
        assert!(!message.0, "injected: a panic in the task of a connection");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn get(client: &mut Client, queue: &str, no_ack: bool) -> io::Result<Option<(u64, bool, Vec<u8>)>> {
    client.push(&Method::BasicGet(BasicGet { queue, no_ack }));
    match client.next()? {
        Incoming::Got(got) => Ok(got),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

#[test]
fn a_panic_in_a_connections_task_closes_that_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        data_dir: Some(dir.path().join("data")),
        ..Config::default()
    };
    // All tasks on this thread, whose events the subscriber sees.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = tracing::subscriber::set_default(PanicsAtChannelClose);
    let (stop, stopped) = oneshot::channel::<()>();
    let (clients, broker) = runtime.block_on(async {
        let server = Server::bind(Arc::new(config)).unwrap();
        let address = server.addresses()[0];
        let broker = Arc::clone(server.broker());
        let clients = thread::spawn(move || -> io::Result<()> {
            let mut other = Client::connect(address)?;
            declare(&mut other, "orders")?;
            select_confirms(&mut other)?;
            other.push_publish("", "orders", true, b"one");
            assert!(matches!(other.next()?, Incoming::Confirm { .. }));
            let mut victim = Client::connect(address)?;
            assert!(get(&mut victim, "orders", false)?.is_some());
            // No such exchange: the channel is closed, and the broker says so to its log.
            victim.push_publish("none", "", false, b"");
            assert!(victim.next().is_err(), "the connection is gone");
            // What it had taken comes back, and the others go on.
            let mut back = get(&mut other, "orders", true)?;
            while back.is_none() {
                back = get(&mut other, "orders", true)?;
            }
            assert_eq!(back.map(|(_, redelivered, body)| (redelivered, body)), Some((true, b"one".to_vec())));
            drop(stop);
            Ok(())
        });
        let broken = server.run(async {
            // Dropped when the clients have ended, in whatever way.
            let _ = stopped.await;
        });
        broken.await.unwrap();
        (clients, broker)
    });
    clients.join().unwrap().unwrap();
    assert_eq!(broker.connections(), 0);
}
