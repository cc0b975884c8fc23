//! What waits to be sent to one connection, and the credit that lets it wait.
//!
//! Queues push, the connection's task drains. Room (bytes) and the windows of channels with a shared prefetch
//! live here, under one leaf lock, together with the list of queues that found neither: a queue with
//! messages and a consumer with credit never sleep past each other.
//!
//! ```text
//! idle: set by the connection's task, under the lock, only when nothing waits and all is written
//!       cleared by whoever pushes, who then owes one wake, or by the task when it is at work for another reason
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::consumer::Consumer;
use crate::broker::node::ConnectionId;
use crate::broker::queue::handle::Queue;
use crate::broker::wakes::Wakes;
use crate::message::run::Run;

/// Something to be sent.
#[derive(Debug)]
pub enum Item {
    /// Messages for a consumer.
    Delivery {
        /// Whose.
        consumer: Arc<Consumer>,
        /// Which.
        run: Run,
    },
    /// The broker ended a consumer: its queue is gone.
    Cancelled(Arc<Consumer>),
}

impl Item {
    /// The channel it is for.
    pub fn channel(&self) -> u16 {
        match self {
            Self::Delivery { consumer, .. } | Self::Cancelled(consumer) => consumer.channel,
        }
    }
}

/// One connection's outbox.
#[derive(Debug)]
pub struct Outbox {
    connection: ConnectionId,
    room_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Bytes pushed and not yet written to the socket.
    bytes: u64,
    windows: HashMap<u16, Window>,
    stalled: Vec<Arc<Queue>>,
    /// Something beside items asks for the task: an alarm, a message for its basic.get.
    signalled: bool,
    closed: bool,
    idle: bool,
    waker: Option<Waker>,
}

/// A channel's shared prefetch (basic.qos with `global`).
#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u32,
    used: u32,
}

impl Outbox {
    /// An empty outbox for a connection; it lets `room_bytes` wait before queues must keep their messages.
    pub fn new(connection: ConnectionId, room_bytes: u64) -> Self {
        Self { connection, room_bytes, state: Mutex::default() }
    }

    /// Whose outbox this is.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Locks it to reserve and push: at most one queue's lock may be held meanwhile, and no other leaf.
    pub fn lock(&self) -> Slot<'_> {
        Slot { room_bytes: self.room_bytes, state: self.state.lock() }
    }

    /// Moves everything that waits into `items`.
    pub fn drain_into(&self, items: &mut VecDeque<Item>) {
        items.append(&mut self.state.lock().items);
    }

    /// `bytes` were written to the socket, or will never be: queues that waited for the room.
    #[must_use = "the queues must be dispatched"]
    pub fn release_room(&self, bytes: u64) -> Vec<Arc<Queue>> {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        // Half of it must be free: a queue is not asked again for every frame that leaves.
        if state.bytes <= self.room_bytes / 2 { std::mem::take(&mut state.stalled) } else { Vec::new() }
    }

    /// Gives a channel a shared prefetch; `used` of its messages are unacknowledged already.
    #[must_use = "the queues must be dispatched"]
    pub fn open_window(&self, channel: u16, limit: u32, used: u32) -> Vec<Arc<Queue>> {
        let mut state = self.state.lock();
        let waiting: u32 = (state.items.iter())
            .map(|item| match item {
                Item::Delivery { consumer, run } if consumer.channel == channel && !consumer.no_ack => {
                    run.count()
                }
                _ => 0,
            })
            .sum();
        state.windows.insert(channel, Window { limit, used: used + waiting });
        std::mem::take(&mut state.stalled)
    }

    /// Lifts a channel's shared prefetch.
    #[must_use = "the queues must be dispatched"]
    pub fn close_window(&self, channel: u16) -> Vec<Arc<Queue>> {
        let mut state = self.state.lock();
        match state.windows.remove(&channel) {
            Some(_) => std::mem::take(&mut state.stalled),
            None => Vec::new(),
        }
    }

    /// `count` messages were taken by basic.get: they count in the channel's window.
    pub fn count_in_window(&self, channel: u16, count: u32) {
        if let Some(window) = self.state.lock().windows.get_mut(&channel) {
            window.used += count;
        }
    }

    /// `count` messages of a channel were settled or came back.
    #[must_use = "the queues must be dispatched"]
    pub fn credit_window(&self, channel: u16, count: u32) -> Vec<Arc<Queue>> {
        let mut state = self.state.lock();
        let Some(window) = state.windows.get_mut(&channel) else { return Vec::new() };
        window.used = window.used.saturating_sub(count);
        std::mem::take(&mut state.stalled)
    }

    /// Asks the connection's task to look around: an alarm changed, the broker stops.
    pub fn signal(&self) {
        let mut wakes = Wakes::default();
        self.signal_into(&mut wakes);
        wakes.fire();
    }

    /// As [`Outbox::signal`], for a caller that holds a queue's lock: the wake is owed.
    pub fn signal_into(&self, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.signalled = true;
        if std::mem::take(&mut state.idle)
            && let Some(waker) = state.waker.take()
        {
            wakes.owe(waker);
        }
    }

    /// Ready when there is something to do; otherwise the task is idle and will be woken.
    pub fn poll_work(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.signalled) || !state.items.is_empty() {
            return Poll::Ready(());
        }
        state.idle = true;
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// The task is at work and will look here before it waits: what is pushed meanwhile need not wake it. Most is
    /// pushed by the task itself, in answer to an acknowledgement.
    pub fn busy(&self) {
        self.state.lock().idle = false;
    }

    /// The connection is gone: what waits is handed back, and nothing is accepted any more.
    pub fn close(&self) -> VecDeque<Item> {
        let mut state = self.state.lock();
        state.closed = true;
        state.stalled.clear();
        state.windows.clear();
        std::mem::take(&mut state.items)
    }
}

/// A locked outbox.
#[derive(Debug)]
pub struct Slot<'a> {
    room_bytes: u64,
    state: MutexGuard<'a, State>,
}

impl Slot<'_> {
    /// How many messages the channel's shared prefetch still allows.
    pub fn window(&self, channel: u16) -> u32 {
        if self.state.closed {
            return 0;
        }
        self.state.windows.get(&channel).map_or(u32::MAX, |window| window.limit.saturating_sub(window.used))
    }

    /// How many of the run's first messages have room, at most `count_max`. An empty outbox takes one message
    /// of any size.
    pub fn fitting(&self, run: &Run, count_max: u32) -> u32 {
        let room = self.room_bytes.saturating_sub(self.state.bytes);
        let fitting = if room == 0 { 0 } else { run.count_within(count_max, room) };
        if fitting == 0 && self.state.bytes == 0 { count_max.min(1) } else { fitting }
    }

    /// Puts messages in for a consumer.
    pub fn push(&mut self, consumer: &Arc<Consumer>, run: Run, wakes: &mut Wakes) {
        self.state.bytes += run.delivery_bytes();
        if !consumer.no_ack
            && let Some(window) = self.state.windows.get_mut(&consumer.channel)
        {
            window.used += run.count();
        }
        self.push_item(Item::Delivery { consumer: Arc::clone(consumer), run }, wakes);
    }

    /// Puts in the notice that a consumer has ended.
    pub fn push_cancelled(&mut self, consumer: &Arc<Consumer>, wakes: &mut Wakes) {
        self.push_item(Item::Cancelled(Arc::clone(consumer)), wakes);
    }

    /// Remembers a queue that found no credit here; it is handed out when there is some again.
    pub fn stall(&mut self, queue: &Arc<Queue>) {
        if !self.state.closed && !self.state.stalled.iter().any(|other| Arc::ptr_eq(other, queue)) {
            self.state.stalled.push(Arc::clone(queue));
        }
    }

    fn push_item(&mut self, item: Item, wakes: &mut Wakes) {
        if self.state.closed {
            return;
        }
        self.state.items.push_back(item);
        if std::mem::take(&mut self.state.idle)
            && let Some(waker) = self.state.waker.take()
        {
            wakes.owe(waker);
        }
    }
}
