//! A filesystem that gets full: publishers wait and are told why, what is there can be consumed, and room that comes
//! back is used. Only root can make one.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{BasicAck, BasicGet, Method};
use sluicemq::protocol::table::TableBuf;
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::real::RealDisk;

use crate::client::{Client, Incoming};
use crate::node::{Node, Volume};
use crate::process::{declare, drain, select_confirms};

const VOLUME_BYTES: u64 = 200 << 20;
/// Far more than is published between two looks at the disk.
const LIMIT: &str = "50MiB";
const BODY_BYTES: usize = 100_000;
const BLOCKED: (u16, u16) = (10, 60);
const UNBLOCKED: (u16, u16) = (10, 61);

/// The alarm comes long before there is no room, or never.
fn settings(disk_free_limit: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("SLUICEMQ_STORAGE_SLOT_BYTES", "1MiB"),
        ("SLUICEMQ_STORAGE_WINDOW_SLOTS", "4"),
        ("SLUICEMQ_STORAGE_CACHE", "8MiB"),
        ("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", disk_free_limit),
    ]
}

fn volume(options: &[&str]) -> Option<(tempfile::TempDir, Volume)> {
    let dir = tempfile::tempdir().unwrap();
    match Volume::make_with(dir.path(), VOLUME_BYTES, options) {
        Ok(volume) => Some((dir, volume)),
        Err(error) => {
            println!("skipped: no filesystem that could be filled: {error}");
            None
        }
    }
}

fn body(id: u64) -> Vec<u8> {
    id.to_le_bytes().repeat(BODY_BYTES / 8)
}

/// A publisher that wants to know when it is blocked.
struct Publisher {
    client: Client,
    sent: u64,
    confirmed: u64,
    blocked: bool,
}

impl Publisher {
    fn connect(node: &Node, first: u64) -> Self {
        let mut capabilities = TableBuf::new();
        capabilities.insert("connection.blocked", Field::Bool(true));
        let mut properties = TableBuf::new();
        properties.insert("capabilities", Field::Table(capabilities.as_table()));
        let mut client = Client::connect_with(node.address, properties.as_table()).unwrap();
        declare(&mut client, "orders").unwrap();
        select_confirms(&mut client).unwrap();
        Self { client, sent: first, confirmed: first, blocked: false }
    }

    fn hear(&mut self, first: u64) -> io::Result<()> {
        match self.client.next()? {
            Incoming::Confirm { tag, .. } => self.confirmed = self.confirmed.max(first + tag),
            Incoming::Answer(BLOCKED) => self.blocked = true,
            Incoming::Answer(UNBLOCKED) => self.blocked = false,
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
        Ok(())
    }

    /// Publishes the next message, and hears of it.
    fn publish_one(&mut self) -> io::Result<()> {
        self.client.push_publish("", "orders", true, &body(self.sent));
        self.sent += 1;
        while self.confirmed < self.sent {
            self.hear(0)?;
        }
        Ok(())
    }

    /// Publishes, one by one, until it is told to wait; what was sent then is confirmed when there is room again.
    fn fill(&mut self, node: &Node) {
        let first = self.sent;
        while !self.blocked {
            self.client.push_publish("", "orders", true, &body(self.sent));
            self.sent += 1;
            while !self.blocked && self.confirmed < self.sent {
                self.hear(first).unwrap_or_else(|error| panic!("{error}: {:#?}", node.log()));
            }
            assert!(self.sent * (BODY_BYTES as u64) < VOLUME_BYTES, "nobody was told to wait");
        }
    }
}

/// Returns when the broker has said this in its log.
fn wait_for(node: &Node, what: &str) {
    while !node.log().iter().any(|line| line.contains(what)) {
        thread::yield_now();
    }
}

/// Fills the volume, consumes while it is full, and sees that publishers go on.
fn fill_and_drain(volume: &Volume) {
    let data = volume.data_dir();
    let node = Node::start(&data, &settings(LIMIT)).unwrap();
    let mut publisher = Publisher::connect(&node, 0);
    publisher.fill(&node);
    let filled = publisher.sent;
    println!("blocked after {filled} messages");
    // Acknowledgements are taken, and each is of the message that was published then.
    let mut consumer = Client::connect(node.address).unwrap();
    for id in 0..publisher.confirmed {
        consumer.push(&Method::BasicGet(BasicGet { queue: "orders", no_ack: false }));
        match consumer.next().unwrap() {
            Incoming::Got(Some((delivery_tag, false, found))) => {
                assert!(found == body(id), "message {id} is another one");
                consumer.push(&Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
            }
            other => panic!("message {id}: {other:?}"),
        }
    }
    consumer.flush().unwrap();
    while publisher.blocked || publisher.confirmed < filled {
        publisher.hear(0).unwrap_or_else(|error| panic!("{error}: {:#?}", node.log()));
    }
    publisher.client.push_publish("", "orders", true, &body(publisher.sent));
    while publisher.confirmed == filled {
        publisher.hear(0).unwrap();
    }
    let rest = drain(&mut consumer, "orders").unwrap();
    assert_eq!(rest.last(), Some(&body(filled)));
    assert!(node.stop().unwrap().success());
}

#[test]
fn a_disk_that_fills_blocks_publishers_and_drains() {
    let Some((_dir, volume)) = volume(&[]) else { return };
    fill_and_drain(&volume);
    // The same directory, filled once more, is as good as before.
    fill_and_drain(&volume);
}

#[test]
fn a_broker_killed_when_the_disk_is_short_starts_drains_and_takes_messages_again() {
    let Some((_dir, volume)) = volume(&[]) else { return };
    let data = volume.data_dir();
    let node = Node::start(&data, &settings(LIMIT)).unwrap();
    let mut publisher = Publisher::connect(&node, 0);
    publisher.fill(&node);
    let confirmed = publisher.confirmed;
    println!("{confirmed} of {} messages were confirmed when there was too little room", publisher.sent);
    node.kill().unwrap();
    let node = Node::start(&data, &settings(LIMIT)).unwrap();
    let mut publisher = Publisher::connect(&node, 0);
    publisher.client.push_publish("", "orders", true, b"again");
    publisher.client.flush().unwrap();
    let mut consumer = Client::connect(node.address).unwrap();
    let mut found = drain(&mut consumer, "orders").unwrap();
    while publisher.confirmed == 0 {
        publisher.hear(0).unwrap_or_else(|error| panic!("{error}: {:#?}", node.log()));
    }
    found.extend(drain(&mut consumer, "orders").unwrap());
    assert_eq!(found.pop().unwrap(), b"again");
    assert!(found.len() as u64 >= confirmed, "{} of {confirmed}", found.len());
    assert!((0..).zip(&found).all(|(id, found)| *found == body(id)));
    assert!(node.stop().unwrap().success());
}

#[test]
fn a_broker_starts_on_a_full_disk_with_its_reserve_and_drains() {
    let Some((_dir, volume)) = volume(&[]) else { return };
    let data = volume.data_dir();
    let node = Node::start(&data, &settings(LIMIT)).unwrap();
    while fs::metadata(data.join("meta.ballast")).map_or(0, |file| file.len()) == 0 {
        thread::yield_now();
    }
    let mut publisher = Publisher::connect(&node, 0);
    publisher.fill(&node);
    let confirmed = publisher.confirmed;
    node.kill().unwrap();
    // Somebody else takes what is left.
    let mut left = fs::File::create(data.join("../left")).unwrap();
    while io::Write::write_all(&mut left, &[1; 4096]).is_ok() {}
    let node = Node::start(&data, &settings(LIMIT)).unwrap();
    let found = drain(&mut Client::connect(node.address).unwrap(), "orders").unwrap();
    assert!(found.len() as u64 >= confirmed, "{} of {confirmed}", found.len());
    assert!((0..).zip(&found).all(|(id, found)| *found == body(id)));
}

#[test]
fn without_inodes_publishers_wait_as_on_a_full_disk() {
    // Twelve are the filesystem's own; the directories and the first files take most of the rest.
    let Some((_dir, volume)) = volume(&["-N", "32"]) else { return };
    let data = volume.data_dir();
    let node = Node::start(&data, &settings("1")).unwrap();
    let mut publisher = Publisher::connect(&node, 0);
    let mut taken = 0;
    while fs::File::create(data.join(format!("../taken-{taken}"))).is_ok() {
        taken += 1;
    }
    let enough = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&enough);
    let publishing = thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            publisher.publish_one().unwrap();
        }
        publisher
    });
    wait_for(&node, "disk alarm: publishers wait");
    for number in 0..taken {
        fs::remove_file(data.join(format!("../taken-{number}"))).unwrap();
    }
    wait_for(&node, "disk alarm cleared");
    enough.store(true, Ordering::Relaxed);
    let publisher = publishing.join().unwrap();
    let found = drain(&mut Client::connect(node.address).unwrap(), "orders").unwrap();
    assert_eq!(found.len() as u64, publisher.sent);
    assert!(node.stop().unwrap().success());
}

#[test]
fn what_cannot_be_had_as_a_whole_takes_no_room() {
    let Some((_dir, volume)) = volume(&[]) else { return };
    let disk = RealDisk::new(volume.data_dir()).unwrap();
    let file = disk.create("short").unwrap();
    file.allocate(100_000).unwrap();
    let free = disk.free_bytes().unwrap();
    assert_eq!(file.allocate(2 * VOLUME_BYTES).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let kept = free - disk.free_bytes().unwrap();
    // A block or two of the filesystem's own may stay.
    assert!(file.len().unwrap() == 100_000 && kept < 1 << 16, "{kept} bytes are not given back");
}
