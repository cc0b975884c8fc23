//! What all channels of one connection share: who it is, what it has collected in this read chunk, and the bytes
//! on their way out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::broker::consumer::Consumer;
use crate::broker::error::BrokerError;
use crate::broker::exchange::Exchange;
use crate::broker::node::Node;
use crate::broker::outbox::{Item, Outbox};
use crate::broker::publish::{Burst, Lost, Receipt};
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::{Back, Settlement, Settlements};
use crate::broker::route::{self, Routed, Targets};
use crate::broker::vhost::{Actor, Vhost};
use crate::broker::wakes::{HOLD_STEPS, Wakes};
use crate::clock::Now;
use crate::config::Limits;
use crate::message::block_header::Marks;
use crate::message::names::{Names, NamesBuf};
use crate::message::place::Lsn;
use crate::message::record::{Content, MessageView};
use crate::protocol::delivery::DeliveryHead;
use crate::protocol::frame;
use crate::protocol::methods::Method;
use crate::protocol::properties::Properties;
use crate::queue::lane::Piece;
use crate::session::chore::Chore;
use crate::session::exclusive::ExclusiveQueues;
use crate::session::output::Output;
use crate::session::overdue::Overdue;
use crate::session::parked::Parked;
use crate::session::waiting::Waiting;
use crate::stats::Charge;

/// Routes kept before all are forgotten: how many, and what they take, in bytes.
const CACHED_ROUTES_MAX: usize = 16 * 1024;
const CACHED_ROUTES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What a route takes beside its names and its list of queues, in bytes.
const ROUTE_BYTES: usize = 160;
/// An idle connection keeps room for so many deliveries.
const ITEMS_KEPT: usize = 64;
/// So many of the last credits of windows are looked at for one of the same channel.
const CREDITS_SEARCHED: usize = 8;

/// What the channels of a connection share.
#[derive(Debug)]
pub struct Link {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The user and the connection's number.
    pub actor: Actor,
    /// The virtual host it opened.
    pub vhost: Arc<Vhost>,
    /// Where deliveries for it wait.
    pub outbox: Arc<Outbox>,
    /// Deliveries taken from the outbox and not yet encoded.
    pub arriving: VecDeque<Item>,
    /// When the present frame was read.
    pub now: Now,
    /// Bytes for the socket. What channels send goes through [`Link::output`], behind what they have parked.
    pub out: Output,
    /// Room for the frames before a delivery's body.
    pub delivery_head: DeliveryHead,
    /// Replies that wait for the log, and what is behind them.
    pub parked: Parked,
    /// A method that waits for its queue: nothing more is taken from the client before it is answered.
    pub waiting: Option<Waiting>,
    /// Frames to the client are no larger.
    pub frame_max: u32,
    /// The client can be told that the broker cancelled its consumer.
    pub notify_cancel: bool,
    /// Names of the queues that die with the connection.
    pub exclusive_queues: ExclusiveQueues,
    /// Wakes owed to other connections, and the steps that this turn has taken.
    pub wakes: Wakes,
    /// What methods have begun and no turn has finished yet: nothing more is taken from the client before that.
    pub chores: VecDeque<Chore>,
    /// When this is durable, so is everything that was handed over last.
    pub handed_over: Lsn,
    /// What was encoded for the socket and still takes room in the outbox, in bytes.
    pub unreleased_bytes: u64,
    /// When to look for messages that are held for too long.
    pub overdue: Overdue,
    /// What queues have refused of what was handed over last.
    pub refused: Vec<Receipt>,
    /// Channels that wait to have this chunk's publishes confirmed.
    pub confirming: Vec<u16>,
    /// The first position of the log that messages, confirms or parked replies wait for.
    pub awaited: Option<Lsn>,
    /// Something was published since this was last reset: alarms concern this connection.
    pub has_published: bool,
    /// Something was published that the log must hold, since this was last reset: its pace concerns this connection.
    pub has_logged: bool,
    /// The channel at which letting go of what is held goes on, while the connection is at it.
    pub slimming: Option<u16>,
    /// Messages that were rejected in this chunk will go back to their queues: before the next publish, so that
    /// they are there before it.
    pub has_returns: bool,
    /// It moves messages, and was not given them: see [`Session::move_only`](crate::session::Session::move_only).
    pub moves_only: bool,
    /// The bounds it has come with: a reload's are for others.
    pub limits: Arc<Limits>,
    /// Its places among the connections of its user and of its virtual host.
    pub seats: [Charge; 2],
    burst: Burst,
    settlements: Settlements,
    window_credits: SmallVec<[(u16, u32); 2]>,
    /// Channels whose shared prefetch has consumers waiting that may go on.
    open_windows: Vec<u16>,
    /// Consumers that wait for room may go on.
    hands_out_room: bool,
    routes: Routes,
}

/// Where messages with certain names go.
#[derive(Debug)]
pub struct Route {
    /// The exchange published to.
    pub exchange: Arc<Exchange>,
    /// The queues; unused when more than the names decides.
    pub targets: Targets,
    /// More than the names decides: the queues must be found for each message.
    pub by_message: bool,
    /// One of the queues may refuse what is published: what decides that of a live queue must change definitions.
    pub may_be_refused: bool,
    /// The names decide all, somebody takes it, nobody refuses it, and nobody is told of it.
    is_plain: bool,
}

#[derive(Debug)]
struct Routes {
    version: u64,
    by_names: HashMap<Box<[u8]>, Arc<Route>, RandomState>,
    /// What they take, in bytes: charged to the node's memory.
    charge: Charge,
    /// The last one asked for: most messages go where the one before went.
    last: Option<(NamesBuf, Arc<Route>)>,
}

impl Routes {
    fn new(version: u64, node: &Node) -> Self {
        let charge = Charge::new(&node.memory.routes, 0);
        Self { version, by_names: HashMap::default(), charge, last: None }
    }
}

impl Link {
    /// A connection that has opened its virtual host.
    pub fn new(
        broker: Arc<Broker>,
        actor: Actor,
        vhost: Arc<Vhost>,
        seats: [Charge; 2],
        outbox: Arc<Outbox>,
        out: Output,
        now: Now,
    ) -> Self {
        let routes = Routes::new(0, &broker.node);
        let limits = broker.node.limits.load_full();
        Self {
            frame_max: limits.frame_max_bytes,
            actor,
            vhost,
            outbox,
            arriving: VecDeque::new(),
            now,
            out,
            delivery_head: DeliveryHead::default(),
            parked: Parked::default(),
            waiting: None,
            notify_cancel: false,
            exclusive_queues: ExclusiveQueues::default(),
            wakes: Wakes::with_turns_of(broker.config.limits.turn_steps),
            chores: VecDeque::new(),
            handed_over: Lsn::default(),
            unreleased_bytes: 0,
            overdue: Overdue::default(),
            refused: Vec::new(),
            confirming: Vec::new(),
            awaited: None,
            has_published: false,
            has_logged: false,
            slimming: None,
            has_returns: false,
            moves_only: false,
            limits,
            seats,
            burst: Burst::default(),
            settlements: Settlements::default(),
            window_credits: SmallVec::new(),
            open_windows: Vec::new(),
            hands_out_room: false,
            routes,
            broker,
        }
    }

    /// The parts all objects share.
    pub fn node(&self) -> &Node {
        &self.broker.node
    }

    /// Sends a method, which counts as a reply: deliveries do not come this way.
    pub fn send(&mut self, channel: u16, method: &Method<'_>) {
        self.reply(channel, |out| out.method(channel, method));
    }

    /// Sends a message's header and body, which count as a reply.
    pub fn send_content(&mut self, channel: u16, message: &MessageView<'_>) {
        let frame_max = self.frame_max;
        self.reply(channel, |out| out.content(channel, message, frame_max));
    }

    /// Sends a message back to its publisher.
    pub fn send_return(&mut self, channel: u16, method: &Method<'_>, message: &MessageView<'_>) {
        let (frame_max, gauge) = (self.frame_max, Arc::clone(&self.node().memory.returns));
        let out = self.output(channel);
        let before = out.len();
        out.method(channel, method);
        out.content(channel, message, frame_max);
        out.count_return(out.len() - before, &gauge);
    }

    fn reply(&mut self, channel: u16, add: impl FnOnce(&mut Output)) {
        let out = self.output(channel);
        let before = out.len();
        add(out);
        out.count_reply(out.len() - before);
    }

    /// Sends a method once the log is durable up to `after`.
    pub fn send_after(&mut self, channel: u16, after: Lsn, method: &Method<'_>) {
        if after <= self.broker.node.log.durable() {
            return self.send(channel, method);
        }
        let mut frame = BytesMut::new();
        frame::put_method(&mut frame, channel, method);
        self.send_frame_after(channel, after, &frame);
    }

    /// Sends a frame.
    pub fn send_frame(&mut self, channel: u16, frame: &[u8]) {
        self.reply(channel, |out| out.raw(frame));
    }

    /// Sends a frame once the log is durable up to `after`.
    pub fn send_frame_after(&mut self, channel: u16, after: Lsn, frame: &[u8]) {
        if after <= self.broker.node.log.durable() {
            return self.send_frame(channel, frame);
        }
        self.parked.push_frame(channel, after, frame);
        self.await_log(Some(after));
    }

    /// Whether something was published or settled and has not reached its queue.
    pub fn has_collected(&self) -> bool {
        self.burst.is_handing_over() || !self.burst.is_empty() || !self.settlements.is_empty()
    }

    /// Where a channel's frames go: behind its parked replies, if it has any.
    pub fn output(&mut self, channel: u16) -> &mut Output {
        if self.parked.is_empty() {
            return &mut self.out;
        }
        self.parked.output(channel).unwrap_or(&mut self.out)
    }

    /// What was encoded of a delivery takes room in the outbox until it is written.
    pub fn keep_room(&mut self, channel: u16, bytes: u64) {
        if self.parked.is_empty() || !self.parked.keep_room(channel, bytes) {
            self.unreleased_bytes += bytes;
        }
    }

    /// What was published and is not yet handed over, the node it goes to, and what bounds it.
    pub fn burst(&mut self) -> (&mut Burst, &Node, &Limits) {
        (&mut self.burst, &self.broker.node, &self.limits)
    }

    /// What acknowledgements of this chunk change at a queue.
    pub fn settlement(&mut self, queue: &Arc<Queue>) -> &mut Settlement {
        self.settlements.of(queue)
    }

    /// Whether what comes back from now on is a part of more: see [`Settlements::hold_back`].
    pub fn hold_back(&mut self, more_comes: bool) {
        self.settlements.hold_back(more_comes, &mut self.wakes);
    }

    /// What a transaction has published is received now and handed over with what was settled since, in one hold of the
    /// log: to the queues that have the names now which it was published to. Mandatory messages for which there are none
    /// come back.
    pub fn commit(&mut self, channel: u16, burst: &mut Burst) -> Vec<Lost> {
        let mut lost = Vec::new();
        let vhost = &self.vhost;
        let find = |name: &str| vhost.queue(name).filter(|queue| queue.delays_for().is_none());
        burst.received_at(self.now.steady_ms);
        let steps = burst.look_up(&self.broker.node, channel, find, &mut lost);
        self.wakes.count(u32::try_from(steps).unwrap_or(u32::MAX));
        self.handed_over = Lsn::default();
        self.burst.adopt(burst);
        lost
    }

    /// A channel with a shared prefetch holds `count` messages less, once the chunk is handed over.
    pub fn credit_window(&mut self, channel: u16, count: u32) {
        let credits = self.window_credits.iter_mut().rev().take(CREDITS_SEARCHED);
        match credits.into_iter().find(|(number, _)| *number == channel) {
            Some((_, credit)) => *credit += count,
            None => self.window_credits.push((channel, count)),
        }
    }

    /// `count` messages put in the outbox for a consumer will not be sent. Those without acknowledgements were never
    /// counted in a shared prefetch.
    pub fn uncount(&mut self, consumer: &Consumer, count: u32) {
        if !consumer.no_ack {
            self.credit_window(consumer.channel, count);
        }
    }

    /// Hands over what the chunk collected, one lock and one dispatch for each queue it touched, as far as this turn
    /// goes. `None` until all is; then nothing may be published or settled. When the returned position is durable, so
    /// are all its messages.
    pub fn hand_over(&mut self) -> Option<Lsn> {
        let mut published = Lsn::default();
        if self.has_collected() {
            let handed_over =
                self.burst.hand_over(&self.broker.node, &mut self.settlements, &mut self.wakes)?;
            published = handed_over.published;
            self.refused = self.burst.take_refused();
            self.handed_over = handed_over.all;
        }
        self.has_returns = false;
        self.has_logged |= published > Lsn::default();
        self.await_log(self.burst.awaited());
        if !self.window_credits.is_empty() {
            self.credit_windows();
        }
        self.broker.check_memory();
        Some(published)
    }

    fn credit_windows(&mut self) {
        for (channel, count) in std::mem::take(&mut self.window_credits) {
            let is_awaited = self.outbox.credit_window(channel, count);
            self.resume_window(channel, is_awaited);
        }
    }

    /// A channel's shared prefetch has changed; whether consumers wait for it.
    pub fn resume_window(&mut self, channel: u16, is_awaited: bool) {
        if is_awaited && self.open_windows.last() != Some(&channel) {
            self.open_windows.push(channel);
        }
    }

    /// There is more room than before; whether consumers wait for it.
    pub fn resume_room(&mut self, is_awaited: bool) {
        self.hands_out_room |= is_awaited;
    }

    /// Lets consumers and queues go on that waited for what was given back, as far as this turn goes. `true` when no
    /// consumer is left: queues with more to deliver, which others feed as well, do not keep the client waiting.
    pub fn resume_waiting(&mut self) -> bool {
        while self.has_waiting() {
            if self.wakes.is_turn_over() {
                return !self.hands_out_room && self.open_windows.is_empty();
            }
            let next = match self.open_windows.last() {
                Some(&channel) => self.outbox.next_for_window(channel),
                None if self.hands_out_room => self.outbox.next_for_room(),
                None => None,
            };
            match next {
                Some((consumer, share)) => consumer.resume(share, &mut self.wakes),
                None if self.open_windows.pop().is_some() => {}
                None if std::mem::take(&mut self.hands_out_room) => {}
                None => drop(self.wakes.deliver_more()),
            }
        }
        true
    }

    /// Whether anything was collected, or may go on.
    pub fn has_work(&self) -> bool {
        self.has_collected()
            || !self.confirming.is_empty()
            || !self.window_credits.is_empty()
            || self.has_waiting()
    }

    fn has_waiting(&self) -> bool {
        self.hands_out_room || !self.open_windows.is_empty() || self.wakes.has_unfinished()
    }

    /// Something waits for the log to be durable up to here, or did a moment ago.
    fn await_log(&mut self, lsn: Option<Lsn>) {
        self.awaited = self.awaited.into_iter().chain(lsn).min();
    }

    /// The log is durable up to here: messages that waited for it are delivered, replies leave.
    pub fn on_durable(&mut self, durable: Lsn) {
        self.burst.on_durable(durable, &mut self.wakes);
        if !self.parked.is_empty() {
            self.unreleased_bytes += self.parked.release(durable, &mut self.out);
        }
        self.awaited = self.burst.awaited().into_iter().chain(self.parked.awaited()).min();
    }

    /// A channel published a message.
    pub fn on_publish(&mut self, channel: u16, confirms: bool) {
        self.has_published = true;
        if confirms && self.confirming.last() != Some(&channel) {
            self.confirming.push(channel);
        }
    }

    /// Takes out what waits for one channel, in order.
    pub fn withdraw(&mut self, channel: u16) -> Vec<Item> {
        self.outbox.drain_into(&mut self.arriving);
        self.wakes.count(self.arriving.len() as u32);
        let (withdrawn, kept) =
            std::mem::take(&mut self.arriving).into_iter().partition(|item| item.channel() == channel);
        self.arriving = VecDeque::from_iter::<Vec<Item>>(kept);
        withdrawn
    }

    /// How many messages that will need an acknowledgement are on their way to a channel.
    pub fn count_arriving(&mut self, channel: u16) -> u32 {
        self.outbox.drain_into(&mut self.arriving);
        self.wakes.count(self.arriving.len() as u32);
        let counts = self.arriving.iter().map(|item| match item {
            Item::Delivery { consumer, run } if consumer.channel == channel && !consumer.no_ack => {
                run.count()
            }
            _ => 0,
        });
        counts.sum()
    }

    /// Puts back what was taken for consumers and will not be sent, as far as this turn goes. `true` when all is.
    pub fn give_back_all(&mut self, items: &mut VecDeque<Item>) -> bool {
        for item in items.drain(..items.len().min(HOLD_STEPS as usize)) {
            self.wakes.count(1);
            self.give_back(item);
        }
        items.is_empty()
    }

    /// Puts back what was taken for a consumer and will not be sent. Others may have got what was behind it: it comes
    /// back as redelivered, as what was sent.
    pub fn give_back(&mut self, item: Item) {
        let Item::Delivery { consumer, run } = item else { return };
        self.unreleased_bytes += run.delivery_bytes();
        self.uncount(&consumer, run.count());
        let Some(source) = &consumer.source else {
            self.node().memory.replies.sub(run.delivery_bytes());
            return;
        };
        let back = if self.moves_only { Back::Untouched } else { Back::Left };
        let settlement = self.settlement(&source.queue);
        settlement.credit(source.key, run.count());
        settlement.returned(Piece::Here(run), back);
        self.has_returns = true;
    }

    /// What was handed over and waits for the log is for others to release: the connection ends.
    pub fn leave_undelivered(&mut self) {
        self.broker.releases.adopt(self.burst.take_undelivered());
        self.awaited = None;
    }

    /// What was encoded is written: there is room again.
    pub fn on_written(&mut self) {
        let released = std::mem::take(&mut self.unreleased_bytes);
        if released > 0 {
            let is_awaited = self.outbox.release_room(released);
            self.resume_room(is_awaited);
        }
    }

    /// Deletes a queue that lost its last consumer and is to go with it, unless another one came meanwhile.
    pub fn delete_unused(&mut self, queue: &Arc<Queue>) {
        let removal = self.vhost.delete_unused_queue(queue, &mut self.wakes);
        self.chores.push_back(Chore::Remove { removal, answer: (0, BytesMut::new()) });
        if queue.is_deleted() {
            self.exclusive_queues.remove(&queue.properties.name);
        }
    }

    /// Gives back the room of what was handed over.
    pub fn shrink(&mut self) {
        self.burst.shrink();
        self.arriving.shrink_to(ITEMS_KEPT);
        self.outbox.shrink(ITEMS_KEPT);
    }

    /// The route for these names, found once and kept until definitions change. `check` judges exchange and key when
    /// the route is found.
    ///
    /// # Errors
    /// Those of `check`, and [`BrokerError::TooManyPatterns`].
    pub fn route<E: From<BrokerError>>(
        &mut self,
        names: Names<'_>,
        check: impl FnOnce(&Self, Names<'_>) -> Result<Arc<Exchange>, E>,
    ) -> Result<Arc<Route>, E> {
        self.refresh_routes();
        if let Some((last, route)) = &self.routes.last
            && last.view() == names
        {
            return Ok(Arc::clone(route));
        }
        let known = self.routes.by_names.get(names.as_bytes()).map(Arc::clone);
        let route = match known {
            Some(route) => route,
            None => self.find_route(check(self, names)?, names)?,
        };
        let mut last = self.routes.last.take().map(|(names, _)| names).unwrap_or_default();
        last.copy(names);
        self.routes.last = Some((last, Arc::clone(&route)));
        Ok(route)
    }

    /// Adds small messages to the burst, one for each body, if their names have a route that needs no look at the message.
    /// How many: none when there is no such route, or nobody to take them.
    pub fn publish_alike<'a>(
        &mut self,
        like: &Content<'_>,
        marks: Marks,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> u64 {
        self.refresh_routes();
        let routes = &self.routes;
        let route = match &routes.last {
            Some((last, route)) if last.view() == like.names => route,
            _ => match routes.by_names.get(like.names.as_bytes()) {
                Some(route) => route,
                None => return 0,
            },
        };
        if !route.is_plain {
            return 0;
        }
        self.burst.received_at(self.now.steady_ms);
        let count = self.burst.publish_alike(&self.broker.node, &route.targets, like, marks, bodies);
        self.wakes.count(self.burst.take_steps());
        count
    }

    fn find_route(&mut self, exchange: Arc<Exchange>, names: Names<'_>) -> Result<Arc<Route>, BrokerError> {
        let keys = [names.routing_key()];
        let routed = route::route(&self.vhost, &exchange, &keys, Properties::EMPTY, &mut self.wakes)?;
        let bytes = ROUTE_BYTES + names.as_bytes().len() + size_of_val(&*routed.targets);
        let Routed { targets, by_message } = routed;
        let may_be_refused = targets.iter().any(|queue| queue.rejects());
        let is_plain = !by_message && !targets.is_empty() && !may_be_refused && !self.vhost.is_traced();
        let route = Arc::new(Route { exchange, targets, by_message, may_be_refused, is_plain });
        let kept_bytes = self.routes.charge.bytes() + bytes as u64;
        if self.routes.by_names.len() >= CACHED_ROUTES_MAX || kept_bytes > CACHED_ROUTES_BYTES_MAX {
            self.forget_routes(self.routes.version);
        }
        self.routes.charge.grow(bytes as u64);
        self.routes.by_names.insert(names.as_bytes().into(), Arc::clone(&route));
        Ok(route)
    }

    /// Forgets routes that are older than a change of definitions. Only between bursts: what was routed is handed
    /// over first.
    fn refresh_routes(&mut self) {
        if !self.burst.is_empty() {
            return;
        }
        let version = self.vhost.version();
        if self.routes.version != version {
            self.forget_routes(version);
        }
    }

    /// The next ones are of this version at least.
    fn forget_routes(&mut self, version: u64) {
        self.wakes.count(self.routes.by_names.len() as u32);
        self.routes = Routes::new(version, &self.broker.node);
    }
}
