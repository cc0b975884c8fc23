//! What is asked of the broker until it dies: confirmed publishes to one queue and to two, transactions over two
//! queues, consumers that acknowledge and consumers that commit their acknowledgements.
//!
//! Every worker ends when its connection breaks, which is how it learns that the broker is dead.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluicemq::protocol::methods::{
    BasicAck, BasicConsume, BasicGet, BasicQos, ConfirmSelect, ExchangeDeclare, Method, QueueBind,
    QueueDeclare, TxCommit, TxSelect,
};
use sluicemq::protocol::table::Table;

use crate::checker::{Checker, Id, QueueNumber};
use crate::client::{Client, Incoming};

/// The queues, all durable. The fanout exchange is bound to the second and the third.
pub(crate) const QUEUES: [&str; 5] = ["alone", "left", "right", "pair-a", "pair-b"];
pub(crate) const ALONE: &[QueueNumber] = &[0];
pub(crate) const BOTH: &[QueueNumber] = &[1, 2];
pub(crate) const PAIR: &[QueueNumber] = &[3, 4];
pub(crate) const FANOUT: &str = "both";

/// Confirms a publisher lets be outstanding.
const WINDOW: usize = 500;
/// One publish in so many is transient.
pub(crate) const TRANSIENT_ONE_IN: u64 = 10;
/// Messages a transaction puts into each of its queues.
pub(crate) const TRANSACTION_MESSAGES: u64 = 3;
const PREFETCH: u16 = 100;
/// Deliveries for each commit of a consumer with transactions.
const COMMIT_DELIVERIES: usize = 5;
/// A load that needs longer for a round is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// One delivery in so many is left without an acknowledgement.
const UNACKED_ONE_IN: u64 = 50;

/// What the workers share.
pub(crate) struct Load {
    pub(crate) checker: Mutex<Checker>,
    confirmed: Condvar,
    next_publisher: AtomicU64,
    next_transaction: AtomicU64,
}

impl Load {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            checker: Mutex::default(),
            confirmed: Condvar::new(),
            next_publisher: AtomicU64::new(1),
            next_transaction: AtomicU64::new(1),
        })
    }

    /// Declares what the load needs; on later lives it is there, and everything declared is as it was.
    pub(crate) fn declare(address: SocketAddr, is_first_life: bool) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        let passive = !is_first_life;
        for queue in QUEUES {
            client.call(&Method::QueueDeclare(QueueDeclare {
                queue,
                passive,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::EMPTY,
            }))?;
        }
        client.call(&Method::ExchangeDeclare(ExchangeDeclare {
            exchange: FANOUT,
            kind: "fanout",
            passive,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: Table::EMPTY,
        }))?;
        if is_first_life {
            for &queue in BOTH {
                let queue = QUEUES[queue];
                let bind = QueueBind {
                    queue,
                    exchange: FANOUT,
                    routing_key: "",
                    nowait: false,
                    arguments: Table::EMPTY,
                };
                client.call(&Method::QueueBind(bind))?;
            }
        }
        Ok(())
    }

    /// Starts the workers.
    pub(crate) fn start(self: &Arc<Self>, address: SocketAddr) -> Vec<JoinHandle<io::Error>> {
        let work: [fn(&Self, SocketAddr) -> io::Result<()>; 6] = [
            |load, address| load.publish(address, "", QUEUES[ALONE[0]], ALONE),
            |load, address| load.publish(address, FANOUT, "", BOTH),
            Self::transact,
            |load, address| load.consume(address, 0),
            |load, address| load.consume(address, 1),
            |load, address| load.consume_in_transactions(address, 3),
        ];
        work.into_iter()
            .map(|work| {
                let load = Arc::clone(self);
                thread::spawn(move || work(&load, address).expect_err("it only ends with its connection"))
            })
            .collect()
    }

    /// Returns when so many more publishes are confirmed, or says that they were not in time.
    pub(crate) fn wait_for_confirms(&self, count: u64) -> io::Result<()> {
        let checker = self.checker.lock().expect("no worker panics");
        let target = checker.figures().confirmed + count;
        let (checker, waited) = self
            .confirmed
            .wait_timeout_while(checker, PATIENCE, |checker| checker.figures().confirmed < target)
            .expect("no worker panics");
        match waited.timed_out() {
            true => Err(io::Error::other(format!("the load does not get on: {}", checker.figures()))),
            false => Ok(()),
        }
    }

    pub(crate) fn tell<T>(&self, what: impl FnOnce(&mut Checker) -> T) -> T {
        let told = what(&mut self.checker.lock().expect("no worker panics"));
        self.confirmed.notify_all();
        told
    }

    pub(crate) fn new_publisher(&self) -> u32 {
        self.next_publisher.fetch_add(1, Ordering::Relaxed) as u32
    }

    fn publish(&self, address: SocketAddr, exchange: &str, key: &str, to: &[QueueNumber]) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false }))?;
        let publisher = self.new_publisher();
        let mut outstanding: VecDeque<u64> = VecDeque::new();
        let mut number = 0;
        loop {
            while outstanding.len() < WINDOW {
                number += 1;
                let persistent = number % TRANSIENT_ONE_IN != 0;
                let body = self.tell(|checker| checker.attempt((publisher, number), to, persistent, None));
                client.push_publish(exchange, key, persistent, &body);
                outstanding.push_back(number);
            }
            let Incoming::Confirm { tag, multiple } = client.next()? else {
                return Err(io::Error::other("only confirms are expected here"));
            };
            let confirmed = take_confirmed(&mut outstanding, tag, multiple);
            self.tell(|checker| {
                for number in confirmed {
                    checker.confirm((publisher, number), to);
                }
            });
        }
    }

    fn transact(&self, address: SocketAddr) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        client.call(&Method::TxSelect(TxSelect {}))?;
        let publisher = self.new_publisher();
        for first in (1..).step_by(TRANSACTION_MESSAGES as usize * PAIR.len()) {
            self.transact_once(&mut client, publisher, first)?;
        }
        Ok(())
    }

    /// One transaction, whose messages have numbers from `first` on.
    pub(crate) fn transact_once(&self, client: &mut Client, publisher: u32, first: u64) -> io::Result<()> {
        let transaction = self.next_transaction.fetch_add(1, Ordering::Relaxed);
        let mut ids: Vec<(Id, QueueNumber)> = Vec::new();
        for _ in 0..TRANSACTION_MESSAGES {
            for &queue in PAIR {
                let id = (publisher, first + ids.len() as u64);
                let body = self.tell(|checker| checker.attempt(id, &[queue], true, Some(transaction)));
                client.push_publish("", QUEUES[queue], true, &body);
                ids.push((id, queue));
            }
        }
        client.call(&Method::TxCommit(TxCommit {}))?;
        self.tell(|checker| checker.commit(&ids));
        Ok(())
    }

    pub(crate) fn subscribe(&self, address: SocketAddr, queue: QueueNumber) -> io::Result<Client> {
        let mut client = Client::connect(address)?;
        client.call(&Method::BasicQos(BasicQos {
            prefetch_size: 0,
            prefetch_count: PREFETCH,
            global: false,
        }))?;
        client.call(&Method::BasicConsume(BasicConsume {
            queue: QUEUES[queue],
            consumer_tag: "",
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        }))?;
        Ok(client)
    }

    fn consume(&self, address: SocketAddr, queue: QueueNumber) -> io::Result<()> {
        let mut client = self.subscribe(address, queue)?;
        loop {
            let Incoming::Delivery { tag, redelivered, body } = client.next()? else {
                return Err(io::Error::other("only deliveries are expected here"));
            };
            let id = self.tell(|checker| checker.deliver(queue, &body, redelivered));
            if let Some(id) = id.filter(|id| id.1 % UNACKED_ONE_IN != 0) {
                self.tell(|checker| checker.ack(queue, id));
                client.push(&Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
            }
            if !client.has_input() {
                client.flush()?;
            }
        }
    }

    fn consume_in_transactions(&self, address: SocketAddr, queue: QueueNumber) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        client.call(&Method::TxSelect(TxSelect {}))?;
        loop {
            let mut taken = Vec::new();
            while taken.len() < COMMIT_DELIVERIES {
                let get = BasicGet { queue: QUEUES[queue], no_ack: false };
                client.push(&Method::BasicGet(get));
                if let Incoming::Got(Some((tag, redelivered, body))) = client.next()? {
                    let id = self.tell(|checker| checker.deliver(queue, &body, redelivered));
                    taken.extend(id.map(|id| (tag, id)));
                }
            }
            self.settle_in_transaction(&mut client, queue, &taken)?;
        }
    }

    fn settle_in_transaction(
        &self,
        client: &mut Client,
        queue: QueueNumber,
        taken: &[(u64, Id)],
    ) -> io::Result<()> {
        for &(tag, id) in taken {
            self.tell(|checker| checker.ack(queue, id));
            client.push(&Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
        }
        client.call(&Method::TxCommit(TxCommit {}))?;
        self.tell(|checker| taken.iter().for_each(|&(_, id)| checker.settle(queue, id)));
        Ok(())
    }

    /// Empties every queue, all acknowledgements committed, and lets the judge count.
    pub(crate) fn drain(&self, address: SocketAddr) -> io::Result<()> {
        for (queue, name) in QUEUES.iter().enumerate() {
            let mut client = Client::connect(address)?;
            client.call(&Method::TxSelect(TxSelect {}))?;
            loop {
                let mut taken = Vec::new();
                let mut is_empty = false;
                while taken.len() < usize::from(PREFETCH) && !is_empty {
                    client.push(&Method::BasicGet(BasicGet { queue: name, no_ack: false }));
                    match client.next()? {
                        Incoming::Got(Some((tag, redelivered, body))) => {
                            let id = self.tell(|checker| checker.deliver(queue, &body, redelivered));
                            taken.extend(id.map(|id| (tag, id)));
                        }
                        Incoming::Got(None) => is_empty = true,
                        other => return Err(io::Error::other(format!("no answer to a get: {other:?}"))),
                    }
                }
                self.settle_in_transaction(&mut client, queue, &taken)?;
                if is_empty {
                    break;
                }
            }
        }
        self.tell(Checker::drained);
        Ok(())
    }
}

/// Of the numbers that are outstanding, those that a confirm is about.
pub(crate) fn take_confirmed(outstanding: &mut VecDeque<u64>, tag: u64, multiple: bool) -> Vec<u64> {
    if multiple {
        let count = outstanding.partition_point(|&number| number <= tag);
        outstanding.drain(..count).collect()
    } else {
        let at = outstanding.iter().position(|&number| number == tag);
        at.and_then(|at| outstanding.remove(at)).into_iter().collect()
    }
}
