//! What waits to be sent to one connection, and the credit that lets it wait.
//!
//! Queues push, the connection's task drains. Room (bytes) and the windows of channels with a shared prefetch
//! live here, under one leaf lock, together with the consumers that found neither, in a `Line` for each: a queue
//! with messages and a consumer with credit never sleep past each other.
//!
//! Who waits is served in turn, queue by queue and there by priority, each with its [`Share`] of what there is, and waits
//! again if it wants more. Nobody passes those who wait: while a line is not empty, its room or window is for them, and
//! the connection's task, which is the only one to give any back, hands it out until there is none or nobody waits.
//!
//! ```text
//! idle: set by the connection's task, under the lock, only when nothing waits and all is written
//!       cleared by whoever pushes, who then owes one wake, or by the task when it is at work for another reason
//! waits: likewise, also while output waits for the socket: then a signal wakes the task, and an item does not
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

use crate::broker::consumer::Consumer;
use crate::broker::line::{Line, Share};
use crate::broker::node::ConnectionId;
use crate::broker::presence::Presence;
use crate::broker::wakes::Wakes;
use crate::message::run::Run;
use crate::queue::consumers::Stall;
use crate::stats::Gauge;

/// What a consumer that has waited for room may take in one go at least, in bytes: with less, many queues on one
/// connection would be asked for every message.
const SHARE_BYTES_MIN: u64 = 16 * 1024;

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
    /// The bodies in memory that wait for an acknowledgement, in bytes. Written by the connection's task.
    pub held_bytes: Gauge,
    /// What others see of the connection.
    pub presence: Presence,
    /// What that was when the task had last gone through all of them.
    slimmed_bytes: Gauge,
    slim_wanted: AtomicBool,
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
    /// Consumers that wait for room.
    line: Line,
    /// Room is being handed out to those who wait: from when half of it is free until there is hardly any.
    hands_out: bool,
    /// Something beside items asks for the task: an alarm, a message for its basic.get.
    signalled: bool,
    closed: bool,
    idle: bool,
    waits: bool,
    waker: Option<Waker>,
}

impl State {
    /// Notes who is to be woken.
    fn wait(&mut self, context: &Context<'_>) {
        self.waits = true;
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
    }

    /// The wake that is owed to a task that waits.
    fn wake_into(&mut self, wakes: &mut Wakes) {
        (self.idle, self.waits) = (false, false);
        if let Some(waker) = self.waker.take() {
            wakes.owe(waker);
        }
    }
}

/// A channel's shared prefetch (basic.qos with `global`).
#[derive(Debug, Default)]
struct Window {
    limit: u32,
    used: u32,
    /// Consumers of the channel that wait for it.
    line: Line,
}

impl Window {
    fn open(&self) -> u32 {
        self.limit.saturating_sub(self.used)
    }
}

/// Why a consumer is given nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It waits in line, behind others like it.
    Last(Stall),
    /// It is first in line for room, and waits for so many bytes of it.
    First(u64),
    /// The connection is gone.
    Closed,
}

impl Outbox {
    /// An empty outbox for a connection; it lets `room_bytes` wait before queues must keep their messages.
    pub fn new(connection: ConnectionId, room_bytes: u64) -> Self {
        Self {
            held_bytes: Gauge::default(),
            presence: Presence::default(),
            slimmed_bytes: Gauge::default(),
            slim_wanted: AtomicBool::new(false),
            connection,
            room_bytes,
            state: Mutex::default(),
        }
    }

    /// Whose outbox this is.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// What its connection is called: both ends.
    pub fn name(&self) -> String {
        match self.presence.ends() {
            Some(ends) => format!("{} -> {}", ends.peer, ends.local),
            None => format!("connection {}", self.connection.0),
        }
    }

    /// Locks it to reserve and push: at most one queue's lock may be held meanwhile, and no other leaf.
    pub fn lock(&self) -> Slot<'_> {
        Slot { room_bytes: self.room_bytes, state: self.state.lock() }
    }

    /// Keeps no more room than for so many items, or for those that wait.
    pub fn shrink(&self, items: usize) {
        self.state.lock().items.shrink_to(items);
    }

    /// Moves everything that waits into `items`.
    pub fn drain_into(&self, items: &mut VecDeque<Item>) {
        items.append(&mut self.state.lock().items);
    }

    /// `bytes` were written to the socket, or will never be. Whether consumers wait that [`Outbox::next_for_room`] has
    /// room for.
    #[must_use = "consumers may wait for the room"]
    pub fn release_room(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        // Half of it must be free: a queue is not asked again for every frame that leaves.
        state.hands_out = state.bytes <= self.room_bytes / 2 && !state.line.is_empty();
        state.hands_out
    }

    /// The consumer whose turn it is to have room, and its share of what there is; `None` when there is hardly any,
    /// or nobody waits.
    pub fn next_for_room(&self) -> Option<(Arc<Consumer>, Share)> {
        let mut state = self.state.lock();
        if !state.hands_out {
            return None;
        }
        let free = self.room_bytes.saturating_sub(state.bytes);
        let least = SHARE_BYTES_MIN.min(self.room_bytes / 4).max(state.line.wanted_bytes());
        let share = free / state.line.len().max(1) as u64;
        let is_enough = state.bytes == 0 || free >= least.max(1);
        let next = if is_enough { state.line.pop() } else { None };
        state.hands_out = next.is_some();
        next.map(|consumer| (consumer, Share::Bytes { left: share.max(SHARE_BYTES_MIN), is_untouched: true }))
    }

    /// Gives a channel a shared prefetch; `used` of its messages are unacknowledged already, or on their way: what was
    /// pushed since those were counted is added. Whether consumers wait that
    /// [`Outbox::next_for_window`] has some of it for.
    #[must_use = "consumers may wait for the window"]
    pub fn open_window(&self, channel: u16, limit: u32, used: u32) -> bool {
        let mut state = self.state.lock();
        let waiting: u32 = (state.items.iter())
            .map(|item| match item {
                Item::Delivery { consumer, run } if consumer.channel == channel && !consumer.no_ack => {
                    run.count()
                }
                _ => 0,
            })
            .sum();
        let window = state.windows.entry(channel).or_default();
        (window.limit, window.used) = (limit, used.saturating_add(waiting));
        !window.line.is_empty()
    }

    /// Lifts a channel's shared prefetch: who waited for it waits for room, as [`Outbox::release_room`] says.
    #[must_use = "consumers may wait for the room"]
    pub fn close_window(&self, channel: u16) -> bool {
        let state = &mut *self.state.lock();
        let Some(mut window) = state.windows.remove(&channel) else { return false };
        state.line.append(&mut window.line);
        state.hands_out |= !state.line.is_empty();
        state.hands_out
    }

    /// `count` messages of a channel were settled or came back. As [`Outbox::open_window`].
    #[must_use = "consumers may wait for the window"]
    pub fn credit_window(&self, channel: u16, count: u32) -> bool {
        let mut state = self.state.lock();
        let Some(window) = state.windows.get_mut(&channel) else { return false };
        window.used = window.used.saturating_sub(count);
        !window.line.is_empty()
    }

    /// The consumer whose turn it is to have some of the channel's window, and its share of it; `None` when that is used
    /// up, or nobody waits.
    pub fn next_for_window(&self, channel: u16) -> Option<(Arc<Consumer>, Share)> {
        let mut state = self.state.lock();
        let window = state.windows.get_mut(&channel)?;
        let (open, waiting) = (window.open(), window.line.len() as u32);
        if open == 0 {
            return None;
        }
        Some((window.line.pop()?, Share::Messages((open / waiting.max(1)).max(1))))
    }

    /// A consumer has ended: it no longer waits.
    pub fn leave_line(&self, consumer: &Consumer) {
        let state = &mut *self.state.lock();
        if !state.line.remove(consumer)
            && let Some(window) = state.windows.get_mut(&consumer.channel)
        {
            window.line.remove(consumer);
        }
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
        if state.waits {
            state.wake_into(wakes);
        }
    }

    /// How much it holds that it was not yet asked to let go of, or that changed since: what asking is worth, in bytes.
    pub fn slimmable_bytes(&self) -> u64 {
        self.held_bytes.read().abs_diff(self.slimmed_bytes.read())
    }

    /// Asks the connection's task to hold less memory for what is not acknowledged.
    pub fn ask_to_slim(&self) {
        self.slim_wanted.store(true, Ordering::Relaxed);
        self.signal();
    }

    /// Whether it was asked to; it is not any more.
    pub fn take_slim_request(&self) -> bool {
        self.slim_wanted.load(Ordering::Relaxed) && self.slim_wanted.swap(false, Ordering::Relaxed)
    }

    /// The task has gone through all it holds.
    pub fn on_slimmed(&self) {
        self.slimmed_bytes.set(self.held_bytes.read());
    }

    /// Ready when there is something to do; otherwise the task is idle and will be woken.
    pub fn poll_work(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.signalled) || !state.items.is_empty() {
            return Poll::Ready(());
        }
        state.idle = true;
        state.wait(context);
        Poll::Pending
    }

    /// Ready when the task was signalled; otherwise the next signal will wake it, and items will not: there is output
    /// that must be written before them.
    pub fn poll_signal(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.signalled) {
            return Poll::Ready(());
        }
        state.idle = false;
        state.wait(context);
        Poll::Pending
    }

    /// The task is at work and will look here before it waits: what is pushed meanwhile need not wake it. Most is
    /// pushed by the task itself, in answer to an acknowledgement.
    pub fn busy(&self) {
        let mut state = self.state.lock();
        (state.idle, state.waits) = (false, false);
    }

    /// The connection is gone: what waits is handed back, and nothing is accepted any more.
    pub fn close(&self) -> VecDeque<Item> {
        let mut state = self.state.lock();
        state.closed = true;
        state.line = Line::default();
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
    /// How many of the run's first messages the consumer may have now, at most `count_max` and never none. `share` is for
    /// one that has waited in line; any other has to, when somebody does.
    ///
    /// # Errors
    /// Why it may have none: to be followed by [`Slot::wait`].
    pub fn admit(
        &self,
        consumer: &Consumer,
        run: &Run,
        count_max: u32,
        share: Option<Share>,
    ) -> Result<u32, Refused> {
        if self.state.closed {
            return Err(Refused::Closed);
        }
        let mut count_max = count_max;
        if let Some(window) = self.state.windows.get(&consumer.channel) {
            let open = match share {
                Some(Share::Messages(left)) => window.open().min(left),
                _ if !window.line.is_empty() => 0,
                _ => window.open(),
            };
            if open == 0 {
                return Err(Refused::Last(Stall::Window));
            }
            // A consumer without acknowledgements waits for the window but does not use it up.
            count_max = if consumer.no_ack { count_max } else { count_max.min(open) };
        }
        match share {
            Some(Share::Bytes { left, is_untouched }) => {
                self.admit_waiting(run, count_max, left, is_untouched)
            }
            _ if !self.state.line.is_empty() => Err(Refused::Last(Stall::Room)),
            _ => match self.fitting(run, count_max, self.room()) {
                0 => Err(Refused::Last(Stall::Room)),
                count => Ok(count),
            },
        }
    }

    /// Of one that has waited for room: as much as its share, and one message at least when there is room for it.
    fn admit_waiting(
        &self,
        run: &Run,
        count_max: u32,
        left: u64,
        is_untouched: bool,
    ) -> Result<u32, Refused> {
        match self.fitting(run, count_max, self.room().min(left)) {
            0 if !is_untouched => Err(Refused::Last(Stall::Room)),
            0 => match self.fitting(run, 1, self.room()) {
                0 => Err(Refused::First(run.first_delivery_bytes())),
                count => Ok(count),
            },
            count => Ok(count),
        }
    }

    fn room(&self) -> u64 {
        self.room_bytes.saturating_sub(self.state.bytes)
    }

    /// How many of the run's first messages fit into `room`, at most `count_max`. An empty outbox takes one message of
    /// any size.
    fn fitting(&self, run: &Run, count_max: u32, room: u64) -> u32 {
        let fitting = if room == 0 { 0 } else { run.count_within(count_max, room) };
        if fitting == 0 && self.state.bytes == 0 { count_max.min(1) } else { fitting }
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.state.closed
    }

    /// How many bytes wait, or are on their way to the socket.
    pub fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// The consumer waits where it was refused. Why, for its queue.
    pub fn wait(&mut self, consumer: &Arc<Consumer>, refused: Refused) -> Stall {
        match refused {
            Refused::Last(Stall::Window) => {
                if let Some(window) = self.state.windows.get_mut(&consumer.channel) {
                    window.line.push(consumer);
                }
                Stall::Window
            }
            Refused::Last(Stall::Room) => {
                self.state.line.push(consumer);
                Stall::Room
            }
            Refused::First(wanted_bytes) => {
                self.state.line.push_first(consumer, wanted_bytes);
                Stall::Room
            }
            // It never comes back: whoever closes a connection takes its consumers away.
            Refused::Closed => Stall::Window,
        }
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

    fn push_item(&mut self, item: Item, wakes: &mut Wakes) {
        if self.state.closed {
            return;
        }
        self.state.items.push_back(item);
        if self.state.idle {
            self.state.wake_into(wakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::Outbox;
    use crate::broker::consumer::{Consumer, Timeout};
    use crate::broker::memory::Memory;
    use crate::broker::node::ConnectionId;
    use crate::broker::wakes::Wakes;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_signal_wakes_a_task_that_writes_and_an_item_only_one_that_is_idle() {
        let (outbox, memory) = (Arc::new(Outbox::new(ConnectionId(1), 1000)), Memory::new(0, 0));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let wakes = || count.0.load(Ordering::Relaxed);
        let consumer =
            Arc::new(Consumer::new("".into(), 1, true, Arc::clone(&outbox), None, Timeout::NEVER, &memory));
        let push = || {
            let mut wakes = Wakes::default();
            outbox.lock().push_cancelled(&consumer, &mut wakes);
            wakes.fire();
        };
        assert_eq!(outbox.poll_signal(&mut context), Poll::Pending);
        push();
        assert_eq!((wakes(), outbox.poll_signal(&mut context)), (0, Poll::Pending));
        outbox.signal();
        outbox.signal();
        assert_eq!((wakes(), outbox.poll_signal(&mut context)), (1, Poll::Ready(())));
        assert_eq!(outbox.poll_work(&mut context), Poll::Ready(()), "the item is still there");
        outbox.drain_into(&mut Default::default());
        assert_eq!(outbox.poll_work(&mut context), Poll::Pending);
        push();
        push();
        assert_eq!((wakes(), outbox.poll_work(&mut context)), (2, Poll::Ready(())));
        outbox.drain_into(&mut Default::default());
        for _ in 0..2 {
            assert_eq!(outbox.poll_work(&mut context), Poll::Pending);
            outbox.busy();
            outbox.signal();
            assert_eq!((wakes(), outbox.poll_work(&mut context)), (2, Poll::Ready(())), "it looks by itself");
        }
    }
}
