//! Transfers in one thread, with a clock that is made up: when they take, when they wait, and what is where afterwards.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use crate::broker::Broker;
use crate::broker::alarms::HOLD;
use crate::broker::memory::Memory;
use crate::clock::Now;
use crate::config::Config;
use crate::protocol::field::Field;
use crate::protocol::methods::{BasicAck, BasicGet, BasicPublish, Method, QueueDeclare};
use crate::protocol::properties::PropertiesBuf;
use crate::protocol::table::{Table, TableBuf};
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::log::LogOptions;
use crate::transfer::TRANSFERS_MAX;
use crate::transfer::board::{Board, Full, Transfer};
use crate::transfer::insider::{Insider, Purpose};
use crate::transfer::job::{Job, Pace, State};
use crate::transfer::message::{Stamp, Written};
use crate::transfer::plan::{AckMode, End, From, Intake, Plan, To};
use crate::transfer::redrive::Choice;
use crate::transfer::shovel;
use crate::transfer::uri::Names;

const WATERMARK: u64 = 50_000_000;
/// No transfer takes more turns than this before it waits.
const TURNS_MAX: usize = 10_000;

pub(super) struct World {
    broker: Arc<Broker>,
    board: Arc<Board>,
    client: Insider,
    now: Now,
}

impl World {
    fn new() -> Self {
        Self::of(Broker::new(Arc::new(Config::default()), WATERMARK, u64::MAX).unwrap())
    }

    /// One whose log is durable only as far as somebody has asked.
    fn with_disk() -> Self {
        let (disk, memory) = (Arc::new(SimulatedDisk::new()), Memory::new(WATERMARK, u64::MAX));
        let options = LogOptions { slot_bytes: 1 << 20, ..LogOptions::default() };
        Self::of(Broker::open(Arc::new(Config::default()), disk, options, memory).unwrap().0)
    }

    fn of(broker: Broker) -> Self {
        let broker = Arc::new(broker);
        let now = Now::read();
        let guest = broker.users.get("guest").unwrap();
        let client = Insider::connect(&broker, &guest, "/", "", Purpose::Errand, now);
        let board = Board::new(Arc::clone(&broker), Names::default());
        Self { broker, board, client, now }
    }

    /// Says something and hears until an answer is the one, which tells what it does.
    fn ask<T>(&mut self, method: &Method<'_>, answer: impl Fn(&Method<'_>, &[u8]) -> Option<T>) -> T {
        self.client.tell(method);
        self.client.turn(self.now);
        self.broker.node.log.commit_once().unwrap();
        self.client.turn(self.now);
        while let Some(heard) = self.client.hear(self.now) {
            if let Some(told) = heard.method().and_then(|method| answer(&method, &heard.body)) {
                return told;
            }
        }
        panic!("no answer");
    }

    fn declare(&mut self, queue: &str, arguments: Table<'_>) {
        let (passive, durable, exclusive, auto_delete, nowait) = (false, true, false, false, false);
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
        self.ask(&Method::QueueDeclare(declare), |method, _| {
            matches!(method, Method::QueueDeclareOk(_)).then_some(())
        });
    }

    fn publish(&mut self, queue: &str, body: &[u8]) {
        let publish =
            BasicPublish { exchange: b"", routing_key: queue.as_bytes(), mandatory: false, immediate: false };
        let none = PropertiesBuf::new().encode();
        self.client.tell_content(&Method::BasicPublish(publish), &none, Bytes::copy_from_slice(body));
        while self.client.has_more_to_say() {
            self.client.turn(self.now);
        }
        self.client.turn(self.now);
    }

    /// The next message of a queue, and whether it was delivered before.
    fn take(&mut self, queue: &str) -> Option<(Vec<u8>, bool)> {
        let get = Method::BasicGet(BasicGet { queue, no_ack: false });
        let (taken, tag) = self.ask(&get, |method, body| match method {
            Method::BasicGetOk(ok) => Some((Some((body.to_vec(), ok.redelivered)), ok.delivery_tag)),
            Method::BasicGetEmpty(_) => Some((None, 0)),
            _ => None,
        });
        if taken.is_some() {
            self.client.tell(&Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
            self.client.turn(self.now);
        }
        taken
    }

    fn take_all(&mut self, queue: &str) -> Vec<(Vec<u8>, bool)> {
        std::iter::from_fn(|| self.take(queue)).collect()
    }

    /// How many messages are ready.
    fn ready(&mut self, queue: &str) -> u32 {
        let (passive, durable, exclusive, auto_delete, nowait) = (true, false, false, false, false);
        let arguments = Table::EMPTY;
        let declare = QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments };
        self.ask(&Method::QueueDeclare(declare), |method, _| match method {
            Method::QueueDeclareOk(ok) => Some(ok.message_count),
            _ => None,
        })
    }

    pub(super) fn plan(to: &str, intake: Intake) -> Plan {
        let end = || End { vhost: "/".to_owned(), login: None };
        Plan {
            name: "test".to_owned(),
            user: "guest".into(),
            source: end(),
            sink: end(),
            from: From::Queue { name: "from".to_owned(), declared: None, consumer: TableBuf::new() },
            to: To::Queue { name: to.to_owned(), declared: None },
            intake,
            prefetch: 1000,
            ack_mode: AckMode::OnConfirm,
            stamp: Stamp::default(),
        }
    }

    fn begin(&mut self, plan: Plan) -> (Job, Arc<Transfer>) {
        let guest = self.broker.users.get("guest").unwrap();
        let transfer = self.board.begin(&guest, ("/", "from"), plan, self.now).unwrap();
        let mut begun = self.begun();
        assert_eq!(begun.len(), 1);
        (begun.remove(0), transfer)
    }

    fn begun(&self) -> Vec<Job> {
        match self.board.poll_begun(&mut Context::from_waker(Waker::noop()), self.now) {
            Poll::Ready(jobs) => jobs,
            Poll::Pending => Vec::new(),
        }
    }

    /// Gives turns until it waits for something, or is over; until when it waits.
    fn run(&self, job: &mut Job) -> Pace {
        for _ in 0..TURNS_MAX {
            match job.step(self.now) {
                Pace::Again => {}
                Pace::Wait(_) if job.poll_work(&mut Context::from_waker(Waker::noop())).is_ready() => {}
                pace => return pace,
            }
        }
        panic!("it never waits");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.later(time);
    }
}

/// A shovel's parameter.
fn said(to: &str) -> TableBuf {
    let mut said = TableBuf::new();
    said.insert("src-uri", Field::LongStr(b"amqp://"))
        .insert("src-queue", Field::LongStr(b"from"))
        .insert("dest-uri", Field::LongStr(b"amqp://"))
        .insert("dest-queue", Field::LongStr(to.as_bytes()));
    said
}

fn choice(rate: Option<f64>) -> Intake {
    Intake::Chosen(Choice { rate, ..Choice::default() })
}

#[test]
fn all_is_moved_in_order_and_the_queue_is_left() {
    let mut world = World::new();
    world.declare("from", Table::EMPTY);
    world.declare("to", Table::EMPTY);
    let bodies: Vec<Vec<u8>> = (0..3000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    for intake in [choice(None), Intake::Present, Intake::Count(3000)] {
        bodies.iter().for_each(|body| world.publish("from", body));
        let (mut job, transfer) = world.begin(World::plan("to", intake));
        assert_eq!(world.run(&mut job), Pace::Over);
        assert_eq!(transfer.told.stand().state, State::Completed);
        assert_eq!(transfer.told.moved.read(), 3000);
        let moved: Vec<_> = world.take_all("to").into_iter().map(|(body, _)| body).collect();
        assert!(moved == bodies, "in their order");
        assert_eq!(world.ready("from"), 0);
        assert_eq!(world.broker.connections(), 1, "only the test's own is left");
    }
}

#[test]
fn a_rate_is_kept_and_what_was_missed_is_not_caught_up_with() {
    let mut world = World::new();
    world.declare("from", Table::EMPTY);
    world.declare("to", Table::EMPTY);
    (0..10).for_each(|number| world.publish("from", &[number]));
    let (mut job, transfer) = world.begin(World::plan("to", choice(Some(2.0))));
    let half = Duration::from_millis(500);
    for moved in 1..4 {
        assert_eq!(world.run(&mut job), Pace::Wait(Some(world.now.instant + half)));
        assert_eq!(transfer.told.moved.read(), moved);
        world.pass(half - Duration::from_millis(1));
        assert!(matches!(world.run(&mut job), Pace::Wait(Some(_))));
        assert_eq!(transfer.told.moved.read(), moved);
        world.pass(Duration::from_millis(1));
    }
    world.pass(Duration::from_secs(100));
    assert!(matches!(world.run(&mut job), Pace::Wait(Some(_))));
    assert_eq!(transfer.told.moved.read(), 4);
    assert_eq!(world.ready("from"), 6, "none is taken before its time");
    transfer.told.stop();
    assert_eq!(world.run(&mut job), Pace::Over);
    assert_eq!((transfer.told.stand().state, world.ready("from")), (State::Cancelled, 6));
}

#[test]
fn what_a_full_queue_refuses_is_tried_again_after_a_pause() {
    let mut world = World::new();
    let mut full = TableBuf::new();
    full.insert("x-max-length", Field::I64(1)).insert("x-overflow", Field::LongStr(b"reject-publish"));
    world.declare("from", Table::EMPTY);
    world.declare("full", full.as_table());
    (0..3).for_each(|number| world.publish("from", &[number]));
    let (mut job, transfer) = world.begin(World::plan("full", Intake::All));
    let pause = Duration::from_secs(1);
    assert_eq!(world.run(&mut job), Pace::Wait(Some(world.now.instant + pause)));
    assert_eq!(transfer.told.stand().complaint.unwrap(), "queue 'full' has refused a message");
    for number in 0..3 {
        assert_eq!(transfer.told.moved.read(), u64::from(number) + 1);
        assert_eq!(world.take("full").unwrap().0, [number]);
        world.pass(pause / 2);
        world.run(&mut job);
        assert_eq!(world.ready("full"), 0, "not yet");
        world.pass(pause / 2);
        world.run(&mut job);
    }
    assert_eq!(transfer.told.stand().complaint, None, "all is well again");
    world.publish("from", b"more");
    assert!(matches!(world.run(&mut job), Pace::Wait(_)), "for what comes");
    assert_eq!(world.take("full").unwrap().0, b"more");
}

#[test]
fn one_that_is_ended_while_it_is_refused_waits_for_what_is_on_its_way_and_tries_no_more() {
    let mut world = World::with_disk();
    let mut full = TableBuf::new();
    full.insert("x-max-length", Field::I64(1)).insert("x-overflow", Field::LongStr(b"reject-publish"));
    world.declare("from", Table::EMPTY);
    world.declare("full", full.as_table());
    ["full", "from"].iter().for_each(|queue| world.publish(queue, b"first"));
    let stamp = Stamp { written: vec![Written::DeliveryMode(2)], ..Stamp::default() };
    let (mut job, transfer) = world.begin(Plan { stamp, ..World::plan("full", Intake::All) });
    let (pause, drain) = (Duration::from_secs(1), Duration::from_secs(5));
    assert_eq!(world.run(&mut job), Pace::Wait(Some(world.now.instant + pause)));
    assert_eq!(transfer.told.stand().complaint.unwrap(), "queue 'full' has refused a message");
    // This one is taken, and not confirmed: nobody makes it durable.
    assert!(world.take("full").is_some());
    world.publish("from", b"second");
    assert_eq!(world.run(&mut job), Pace::Wait(Some(world.now.instant + pause)));
    transfer.told.stop();
    let until = world.now.instant + drain;
    assert_eq!(world.run(&mut job), Pace::Wait(Some(until)));
    world.pass(pause);
    assert_eq!(world.run(&mut job), Pace::Wait(Some(until)), "the time to try again is no reason for a turn");
    world.pass(drain);
    assert_eq!(world.run(&mut job), Pace::Over);
    assert_eq!((transfer.told.stand().state, transfer.told.moved.read()), (State::Cancelled, 0));
    assert_eq!(world.ready("from"), 2, "they are where they were");
}

#[test]
fn during_an_alarm_little_is_taken_and_all_is_moved_when_it_is_over() {
    let mut world = World::new();
    world.declare("from", Table::EMPTY);
    world.declare("to", Table::EMPTY);
    let large = vec![7; 100_000];
    (0..50).for_each(|_| world.publish("from", &large));
    // It concerns who has published.
    let (mut job, transfer) = world.begin(World::plan("to", Intake::All));
    assert!(matches!(world.run(&mut job), Pace::Wait(_)), "for what comes");
    assert_eq!(transfer.told.moved.read(), 50);
    (0..50).for_each(|_| world.publish("from", &large));
    world.broker.node.memory.index.add(WATERMARK);
    world.broker.check_memory();
    assert!(matches!(world.run(&mut job), Pace::Wait(_)));
    let taken = transfer.told.looked.read() - 50;
    assert!((1..10).contains(&taken), "{taken} are taken");
    assert_eq!(
        transfer.told.moved.read(),
        50 + taken,
        "what was taken only gives memory back when it has arrived"
    );
    world.broker.node.memory.index.sub(WATERMARK);
    world.broker.look_at_memory(world.now.instant);
    world.pass(HOLD);
    world.broker.look_at_memory(world.now.instant);
    while world.broker.node.alarms.wake_blocked() {}
    assert!(matches!(world.run(&mut job), Pace::Wait(_)), "for what comes");
    assert_eq!((transfer.told.moved.read(), world.ready("to"), world.ready("from")), (100, 100, 0));
}

#[test]
fn one_that_is_given_up_at_any_turn_loses_nothing_and_leaves_no_trace() {
    for turns in 0..40 {
        let mut world = World::new();
        world.declare("from", Table::EMPTY);
        world.declare("to", Table::EMPTY);
        let bodies: Vec<Vec<u8>> = (0..2000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
        bodies.iter().for_each(|body| world.publish("from", body));
        let intake = if turns % 2 == 0 { Intake::All } else { choice(None) };
        let (mut job, _) = world.begin(World::plan("to", intake));
        for _ in 0..turns {
            if job.step(world.now) == Pace::Over {
                break;
            }
        }
        drop(job);
        let (left, moved) = (world.take_all("from"), world.take_all("to"));
        assert!(left.iter().all(|(_, redelivered)| !redelivered), "nobody has had them");
        let mut found: Vec<_> = moved.into_iter().chain(left).map(|(body, _)| body).collect();
        found.sort();
        found.dedup();
        assert!(found == bodies, "after {turns} turns {} of them are there", found.len());
    }
}

#[test]
fn a_shovel_that_fails_rests_and_begins_anew() {
    let mut world = World::new();
    world.declare("from", Table::EMPTY);
    let mut said = said("to");
    said.insert("dest-predeclared", Field::Bool(true))
        .insert("src-delete-after", Field::LongStr(b"queue-length"));
    let kept = shovel::set_by(said.as_table(), "guest");
    world.broker.set_parameter("/", "shovel", "s", kept.as_table()).unwrap();
    world.board.look();
    let mut job = world.begun().remove(0);
    let told = Arc::clone(&world.board.shovels(world.now)[0].told);
    world.publish("from", b"x");
    let rest = Duration::from_secs(5);
    assert_eq!(world.run(&mut job), Pace::Wait(Some(world.now.instant + rest)));
    let reason = "NOT_FOUND - no queue 'to' in vhost '/'";
    assert_eq!(told.stand().state, State::Terminated(reason.to_owned()));
    world.declare("to", Table::EMPTY);
    world.pass(rest / 2);
    assert!(matches!(world.run(&mut job), Pace::Wait(Some(_))));
    world.pass(rest / 2);
    assert_eq!(world.run(&mut job), Pace::Over);
    assert_eq!(world.take("to").unwrap(), (b"x".to_vec(), false));
    assert!(world.broker.parameters.get("/", "shovel", "s").is_none(), "it is done, and gone");
    assert!(world.board.shovels(world.now).is_empty());
}

#[test]
fn a_shovel_that_had_no_place_begins_when_there_is_one() {
    let mut world = World::new();
    ["from", "to"].iter().for_each(|queue| world.declare(queue, Table::EMPTY));
    let mut jobs: Vec<_> =
        (0..TRANSFERS_MAX).map(|_| world.begin(World::plan("none", choice(None))).0).collect();
    world
        .broker
        .set_parameter("/", "shovel", "s", shovel::set_by(said("to").as_table(), "guest").as_table())
        .unwrap();
    world.board.look();
    assert!(world.begun().is_empty());
    let state = |world: &World| world.board.shovels(world.now)[0].told.stand().state;
    assert_eq!(state(&world), State::Terminated(Full.to_string()));
    assert_eq!(world.run(&mut jobs[0]), Pace::Over);
    let mut begun = world.begun();
    assert_eq!(begun.len(), 1);
    assert!(matches!(world.run(&mut begun[0]), Pace::Wait(_)));
    assert_eq!(state(&world), State::Running);
}

#[test]
fn there_is_a_bound_and_those_that_are_over_are_forgotten() {
    let mut world = World::new();
    world.declare("from", Table::EMPTY);
    let mut jobs: Vec<_> =
        (0..TRANSFERS_MAX).map(|_| world.begin(World::plan("to", choice(None))).0).collect();
    let guest = world.broker.users.get("guest").unwrap();
    let one_more =
        |world: &World| world.board.begin(&guest, ("/", "from"), World::plan("to", choice(None)), world.now);
    assert_eq!(one_more(&world).unwrap_err(), Full);
    assert_eq!(world.run(&mut jobs[0]), Pace::Over, "there is no such queue");
    one_more(&world).unwrap();
    jobs.iter_mut().skip(1).for_each(|job| assert_eq!(world.run(job), Pace::Over));
    assert_eq!(world.board.transfers(world.now).len(), TRANSFERS_MAX + 1);
    world.pass(Duration::from_secs(2 * 60 * 60));
    assert_eq!(world.board.transfers(world.now).len(), 1, "the one that is not over");
}
