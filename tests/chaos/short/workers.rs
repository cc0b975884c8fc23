//! Who works while the disk fills and empties: publishers that want to be told when they are to wait, one with
//! transactions, and a consumer of each queue that keeps some of what it gets for long.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{BasicAck, ChannelClose, ConfirmSelect, Method, TxSelect};
use sluicemq::protocol::table::TableBuf;

use crate::checker::QueueNumber;
use crate::client::{Client, Incoming};
use crate::load::{
    ALONE, BOTH, FANOUT, Load, PAIR, QUEUES, TRANSACTION_MESSAGES, TRANSIENT_ONE_IN, take_confirmed,
};
use crate::short::PATIENCE;

/// Confirms a publisher lets be outstanding: so little that what it writes is taken by sockets.
const WINDOW: usize = 200;
/// One delivery in so many is acknowledged only when so many more are held.
const HELD_ONE_IN: u64 = 100;
const HELD_MAX: usize = 60;
/// How often those who have nothing to do look whether it is over.
const LOOK: Duration = Duration::from_millis(50);
const BLOCKED: (u16, u16) = (10, 60);
const UNBLOCKED: (u16, u16) = (10, 61);
const CHANNEL_CLOSED: (u16, u16) = (20, 41);

/// Which consumers take what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taps {
    Open,
    Closed,
    /// Of every second queue.
    Some,
}

impl Taps {
    fn is_open(self, queue: QueueNumber) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Some => queue.is_multiple_of(2),
        }
    }
}

/// What has been seen of the broker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Publishers that were told to wait, and not yet that they may go on.
    pub(super) blocked: usize,
    pub(super) confirmed: u64,
    pub(super) delivered: u64,
}

#[derive(Debug)]
struct State {
    blocked: usize,
    taps: Taps,
    /// Nothing more is published.
    is_enough: bool,
    /// Nothing more is consumed either.
    is_over: bool,
    failed: Option<String>,
}

/// Workers, and who tells them what to do.
pub(super) struct Stage {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    load: Arc<Load>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Stage {
    pub(super) fn start(load: &Arc<Load>, address: SocketAddr) -> Self {
        let state = State { blocked: 0, taps: Taps::Open, is_enough: false, is_over: false, failed: None };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { load: Arc::clone(load), state, changed });
        type Work = Box<dyn FnOnce(&Shared) -> io::Result<()> + Send>;
        let mut work: Vec<Work> = vec![
            Box::new(move |shared| shared.publish(address, "", QUEUES[ALONE[0]], ALONE)),
            Box::new(move |shared| shared.publish(address, FANOUT, "", BOTH)),
            Box::new(move |shared| shared.transact(address)),
        ];
        for queue in 0..QUEUES.len() {
            work.push(Box::new(move |shared| shared.consume(address, queue)));
        }
        let start = |work: Work| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(error) = work(&shared) {
                    shared.lock().failed.get_or_insert(error.to_string());
                    shared.changed.notify_all();
                }
            })
        };
        let workers = work.into_iter().map(start).collect();
        Self { shared, workers }
    }

    /// Opens and closes what consumers take from.
    pub(super) fn turn(&self, taps: Taps) {
        self.shared.lock().taps = taps;
        self.shared.changed.notify_all();
    }

    pub(super) fn seen(&self) -> Seen {
        let figures = self.shared.load.checker.lock().expect("no worker panics").figures();
        let blocked = self.shared.lock().blocked;
        Seen { blocked, confirmed: figures.confirmed, delivered: figures.delivered }
    }

    /// Lets others go on; what is seen then.
    pub(super) fn wait_a_moment(&self) -> Result<Seen, String> {
        let state = self.shared.lock();
        let (state, _) = self.shared.changed.wait_timeout(state, LOOK).expect("no worker panics");
        match &state.failed {
            Some(why) => Err(format!("a client: {why}")),
            None => {
                drop(state);
                Ok(self.seen())
            }
        }
    }

    /// Returns when this is seen, or says that it was not in time.
    pub(super) fn wait_until(
        &self,
        limit: Duration,
        what: &str,
        mut is_met: impl FnMut(Seen) -> bool,
    ) -> Result<(), String> {
        let begins = Instant::now();
        loop {
            let seen = self.wait_a_moment()?;
            if is_met(seen) {
                return Ok(());
            }
            if begins.elapsed() > limit {
                return Err(format!("nobody gets {what} in {limit:?}: {seen:?}"));
            }
        }
    }

    /// Returns when publishers were told to wait, or nothing is confirmed any more.
    pub(super) fn wait_for_silence(
        &self,
        still: Duration,
        limit: Duration,
        what: &str,
    ) -> Result<(), String> {
        let (mut confirmed, mut since) = (0, Instant::now());
        self.wait_until(limit, what, |seen| {
            if seen.confirmed > confirmed {
                (confirmed, since) = (seen.confirmed, Instant::now());
            }
            seen.blocked > 0 || since.elapsed() > still
        })
    }

    /// So much time goes by, unless something fails.
    pub(super) fn rest(&self, time: Duration) {
        let state = self.shared.lock();
        let has_not_failed = |state: &mut State| state.failed.is_none();
        drop(self.shared.changed.wait_timeout_while(state, time, has_not_failed).expect("no worker panics"));
    }

    /// Publishers hear of all that they have sent, consumers take what is there, and everybody goes.
    pub(super) fn end(self, still: Duration) -> Result<(), String> {
        self.shared.lock().is_enough = true;
        self.turn(Taps::Open);
        let (mut delivered, mut since) = (0, Instant::now());
        let dry = self.wait_until(PATIENCE, "to consume everything", |seen| {
            if seen.delivered > delivered {
                (delivered, since) = (seen.delivered, Instant::now());
            }
            since.elapsed() > still
        });
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        for worker in self.workers {
            worker.join().expect("no worker panics");
        }
        dry?;
        match self.shared.lock().failed.take() {
            Some(why) => Err(format!("a client: {why}")),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no worker panics")
    }

    fn is_enough(&self) -> bool {
        self.lock().is_enough
    }

    fn publish(&self, address: SocketAddr, exchange: &str, key: &str, to: &[QueueNumber]) -> io::Result<()> {
        let mut capabilities = TableBuf::new();
        capabilities.insert("connection.blocked", Field::Bool(true));
        let mut properties = TableBuf::new();
        properties.insert("capabilities", Field::Table(capabilities.as_table()));
        let mut client = Client::connect_with(address, properties.as_table())?;
        client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false }))?;
        let publisher = self.load.new_publisher();
        let (mut outstanding, mut number) = (VecDeque::new(), 0);
        let mut is_blocked = false;
        loop {
            let is_enough = self.is_enough();
            if is_enough && outstanding.is_empty() {
                return Ok(());
            }
            while !is_enough && !is_blocked && outstanding.len() < WINDOW {
                number += 1;
                let (id, persistent) = ((publisher, number), number % TRANSIENT_ONE_IN != 0);
                let body = self.load.tell(|checker| checker.attempt(id, to, persistent, None));
                client.push_publish(exchange, key, persistent, &body);
                outstanding.push_back(number);
            }
            if !client.has_input_in(LOOK)? {
                continue;
            }
            match client.next()? {
                Incoming::Confirm { tag, multiple } => {
                    let confirmed = take_confirmed(&mut outstanding, tag, multiple);
                    self.load.tell(|checker| {
                        confirmed.into_iter().for_each(|number| checker.confirm((publisher, number), to));
                    });
                }
                Incoming::Answer(BLOCKED) => {
                    is_blocked = true;
                    self.lock().blocked += 1;
                }
                Incoming::Answer(UNBLOCKED) => {
                    is_blocked = false;
                    self.lock().blocked -= 1;
                }
                other => return Err(io::Error::other(format!("no publisher expects this: {other:?}"))),
            }
            self.changed.notify_all();
        }
    }

    fn transact(&self, address: SocketAddr) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        client.call(&Method::TxSelect(TxSelect {}))?;
        // It is not told to wait: it does.
        client.be_patient(PATIENCE)?;
        let publisher = self.load.new_publisher();
        let mut first = 1;
        while !self.is_enough() {
            self.load.transact_once(&mut client, publisher, first)?;
            first += TRANSACTION_MESSAGES * PAIR.len() as u64;
        }
        Ok(())
    }

    fn consume(&self, address: SocketAddr, queue: QueueNumber) -> io::Result<()> {
        let mut client = self.load.subscribe(address, queue)?;
        let mut held = VecDeque::new();
        while self.wait_for_tap(queue) {
            if !client.has_input_in(LOOK)? {
                continue;
            }
            let Incoming::Delivery { tag, redelivered, body } = client.next()? else {
                return Err(io::Error::other("only deliveries are expected here"));
            };
            let id = self.load.tell(|checker| checker.deliver(queue, &body, redelivered));
            let Some(id) = id else { continue };
            let mut settled = Some((tag, id));
            if id.1.is_multiple_of(HELD_ONE_IN) {
                held.push_back((tag, id));
                settled = if held.len() > HELD_MAX { held.pop_front() } else { None };
            }
            if let Some((delivery_tag, id)) = settled {
                self.load.tell(|checker| checker.ack(queue, id));
                client.push(&Method::BasicAck(BasicAck { delivery_tag, multiple: false }));
            }
        }
        // What it holds is in its queue again when that is answered.
        client.push(&Method::ChannelClose(ChannelClose {
            reply_code: 200,
            reply_text: "",
            class_id: 0,
            method_id: 0,
        }));
        while !matches!(client.next()?, Incoming::Answer(CHANNEL_CLOSED)) {}
        Ok(())
    }

    /// Returns when the queue's consumer is to take something; `false` when it is over.
    fn wait_for_tap(&self, queue: QueueNumber) -> bool {
        let is_closed = |state: &mut State| !state.is_over && !state.taps.is_open(queue);
        let state = self.changed.wait_while(self.lock(), is_closed).expect("no worker panics");
        !state.is_over
    }
}
