//! What is too large for the room there is: refused before the log has anything of it, so that nothing waits behind it.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Client, PERSISTENT, declare, publish};
use crate::broker::Broker;
use crate::broker::memory::Memory;
use crate::config::Config;
use crate::protocol::frame;
use crate::protocol::methods::{BasicPublish, ConfirmSelect, Method, TxCommit, TxSelect};
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::log::{Committed, LogOptions};

const ROOM: u64 = 1 << 40;
const SLOT_BYTES: u64 = 128 * 1024;
static BODY: [u8; 100_000] = [7; 100_000];
/// Together more than the reserve, and more than is free.
const COUNT: usize = 80;

struct Place {
    disk: SimulatedDisk,
    broker: Arc<Broker>,
}

impl Place {
    fn new() -> Self {
        let disk = SimulatedDisk::with_capacity(ROOM);
        let options = LogOptions { slot_bytes: SLOT_BYTES, ..LogOptions::default() };
        let mut config = Config::default();
        config.storage.disk_free_limit = Some(1 << 20);
        let memory = Memory::new(u64::MAX, u64::MAX);
        let opened = Broker::open(Arc::new(config), Arc::new(disk.clone()), options, memory).unwrap();
        let broker = Arc::new(opened.0);
        broker.node.room.take_reserve().unwrap();
        let place = Self { disk, broker };
        place.client().say(1, &declare("q"));
        place.commit();
        place
    }

    fn client(&self) -> Client {
        Client::log_in(&self.broker, 0)
    }

    /// Nothing is left that the log has not made durable.
    fn commit(&self) {
        while self.broker.commit().unwrap() == Committed::Batch {}
        let log = &self.broker.node.log;
        assert_eq!(log.durable(), log.end());
    }

    /// Somebody else takes all but so much.
    fn leave(&self, bytes: u64, client: &Client) {
        self.disk.set_capacity(ROOM - self.disk.free_bytes().unwrap() + bytes);
        self.broker.look_at_disk(self.disk.free_bytes().unwrap(), client.now.instant);
    }
}

#[test]
fn a_commit_for_which_there_is_no_room_is_refused_and_smaller_ones_go_on() {
    for free in [0, 6 << 20] {
        let place = Place::new();
        let (mut large, mut small) = (place.client(), place.client());
        for client in [&mut large, &mut small] {
            client.say(1, &Method::TxSelect(TxSelect {}));
            client.feed(publish(b"q", &BODY[..1000]));
        }
        (0..COUNT).for_each(|_| large.feed(publish(b"q", &BODY)));
        large.told.clear();
        place.leave(free, &large);
        large.say(1, &Method::TxCommit(TxCommit {}));
        assert!(large.told().contains(&"channel.close"), "{free} bytes are free");
        place.commit();
        small.say(1, &Method::TxCommit(TxCommit {}));
        place.commit();
        small.wake();
        assert!(small.told().contains(&"tx.commit-ok"));
        assert_eq!(place.broker.vhost("/").unwrap().queue("q").unwrap().depth().0, 1);
        assert_eq!(place.broker.node.memory.transactions.read(), 0, "what is refused is gone");
    }
}

#[test]
fn a_commit_of_what_no_disk_needs_needs_no_room() {
    let place = Place::new();
    let mut client = place.client();
    client.say(1, &Method::TxSelect(TxSelect {}));
    let mut transient = publish(b"q", &BODY);
    let at = transient.windows(PERSISTENT.len()).position(|bytes| bytes == PERSISTENT).unwrap();
    transient[at + 2] = 1;
    (0..COUNT).for_each(|_| client.feed(transient.clone()));
    client.told.clear();
    place.leave(0, &client);
    client.say(1, &Method::TxCommit(TxCommit {}));
    assert!(client.told().contains(&"tx.commit-ok"));
}

#[test]
fn a_message_for_which_there_is_no_room_is_refused_and_smaller_ones_go_on() {
    let place = Place::new();
    let mut client = place.client();
    client.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
    place.leave(6 << 20, &client);
    let begin = BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false };
    let mut bytes = BytesMut::new();
    frame::put_method(&mut bytes, 1, &Method::BasicPublish(begin));
    frame::put_header(&mut bytes, 1, (COUNT * BODY.len()) as u64, &PERSISTENT);
    client.feed(bytes);
    for _ in 0..COUNT {
        let mut bytes = BytesMut::new();
        frame::put_body_head(&mut bytes, 1, BODY.len() as u32);
        bytes.extend_from_slice(&BODY);
        bytes.extend_from_slice(&[frame::FRAME_END]);
        client.feed(bytes);
    }
    assert_eq!(client.told(), ["channel.close"]);
    place.commit();
    let mut other = place.client();
    other.say(1, &Method::ConfirmSelect(ConfirmSelect { nowait: true }));
    other.feed(publish(b"q", &BODY));
    place.commit();
    other.wake();
    assert_eq!(other.told(), ["basic.ack"]);
}
