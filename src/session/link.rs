//! What all channels of one connection share: who it is, what it has collected in this read chunk, and the bytes
//! on their way out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::broker::consumer::Consumer;
use crate::broker::exchange::Exchange;
use crate::broker::node::Node;
use crate::broker::outbox::{Item, Outbox};
use crate::broker::publish::Burst;
use crate::broker::queue::handle::Queue;
use crate::broker::queue::settle::{Settlement, Settlements};
use crate::broker::route::{self, Targets};
use crate::broker::vhost::{Actor, Vhost};
use crate::broker::wakes::Wakes;
use crate::clock::Now;
use crate::message::names::{Names, NamesBuf};
use crate::message::place::Lsn;
use crate::message::record::{Content, MessageView};
use crate::protocol::delivery::DeliveryHead;
use crate::protocol::methods::Method;
use crate::protocol::table::Table;
use crate::session::output::Output;
use crate::session::parked::Parked;

/// Routes kept before all are forgotten.
const CACHED_ROUTES_MAX: usize = 16 * 1024;

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
    /// A basic.get that waits for its queue's head: nothing more is taken from the client before it is answered.
    pub waiting_get: Option<WaitingGet>,
    /// Frames to the client are no larger.
    pub frame_max: u32,
    /// The client can be told that the broker cancelled its consumer.
    pub notify_cancel: bool,
    /// Names of the queues that die with the connection.
    pub exclusive_queues: Vec<Box<str>>,
    /// Wakes owed to other connections.
    pub wakes: Wakes,
    /// What was encoded for the socket and still takes room in the outbox, in bytes.
    pub unreleased_bytes: u64,
    /// Channels that wait to have this chunk's publishes confirmed.
    pub confirming: Vec<u16>,
    /// The first position of the log that messages, confirms or parked replies wait for.
    pub awaited: Option<Lsn>,
    /// Something was published since this was last reset: alarms concern this connection.
    pub has_published: bool,
    /// Something was published that the log must hold, since this was last reset: its pace concerns this connection.
    pub has_logged: bool,
    /// Messages that were rejected in this chunk will go back to their queues: before the next publish, so that
    /// they are there before it.
    pub has_returns: bool,
    burst: Burst,
    settlements: Settlements,
    window_credits: SmallVec<[(u16, u32); 2]>,
    routes: Routes,
}

/// A basic.get that was not answered yet.
#[derive(Debug)]
pub struct WaitingGet {
    /// Its channel.
    pub channel: u16,
    /// The queue, by name: it may be another one when the get is tried again.
    pub queue: String,
    /// It needs no acknowledgement.
    pub no_ack: bool,
    /// Where the connection is noted.
    pub noted_at: Arc<Queue>,
}

/// Where messages with certain names go.
#[derive(Debug)]
pub struct Route {
    /// The exchange published to.
    pub exchange: Arc<Exchange>,
    /// The queues; unused when the message's headers decide.
    pub targets: Targets,
    /// Headers decide: the queues must be found for each message.
    pub by_headers: bool,
}

#[derive(Debug, Default)]
struct Routes {
    version: u64,
    by_names: HashMap<Box<[u8]>, Arc<Route>, RandomState>,
    /// The last one asked for: most messages go where the one before went.
    last: Option<(NamesBuf, Arc<Route>)>,
}

impl Link {
    /// A connection that has opened its virtual host.
    pub fn new(
        broker: Arc<Broker>,
        actor: Actor,
        vhost: Arc<Vhost>,
        outbox: Arc<Outbox>,
        out: Output,
        now: Now,
    ) -> Self {
        Self {
            frame_max: broker.config.limits.frame_max_bytes,
            broker,
            actor,
            vhost,
            outbox,
            arriving: VecDeque::new(),
            now,
            out,
            delivery_head: DeliveryHead::default(),
            parked: Parked::default(),
            waiting_get: None,
            notify_cancel: false,
            exclusive_queues: Vec::new(),
            wakes: Wakes::default(),
            unreleased_bytes: 0,
            confirming: Vec::new(),
            awaited: None,
            has_published: false,
            has_logged: false,
            has_returns: false,
            burst: Burst::default(),
            settlements: Settlements::default(),
            window_credits: SmallVec::new(),
            routes: Routes::default(),
        }
    }

    /// The parts all objects share.
    pub fn node(&self) -> &Node {
        &self.broker.node
    }

    /// Sends a method.
    pub fn send(&mut self, channel: u16, method: &Method<'_>) {
        self.output(channel).method(channel, method);
    }

    /// Sends a message's header and body.
    pub fn send_content(&mut self, channel: u16, message: &MessageView<'_>) {
        let frame_max = self.frame_max;
        self.output(channel).content(channel, message, frame_max);
    }

    /// Sends a method once the log is durable up to `after`.
    pub fn send_after(&mut self, channel: u16, after: Lsn, method: &Method<'_>) {
        if after <= self.broker.node.log.durable() {
            return self.send(channel, method);
        }
        self.parked.push(channel, after, method);
        self.await_log(Some(after));
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

    /// What was published and is not yet handed over, and the node it goes to.
    pub fn burst(&mut self) -> (&mut Burst, &Node) {
        (&mut self.burst, &self.broker.node)
    }

    /// What acknowledgements of this chunk change at a queue.
    pub fn settlement(&mut self, queue: &Arc<Queue>) -> &mut Settlement {
        self.settlements.of(queue)
    }

    /// Settlements handed over together with a transaction's publishes, in one hold of the log. When the returned
    /// position is durable, so is all of it.
    pub fn commit(&mut self, burst: &mut Burst) -> Lsn {
        let handed_over = burst.hand_over(&self.broker.node, &mut self.settlements, &mut self.wakes);
        self.burst.adopt(burst);
        self.after_hand_over(handed_over.published);
        handed_over.all
    }

    /// A channel with a shared prefetch holds `count` messages less, once the chunk is handed over.
    pub fn credit_window(&mut self, channel: u16, count: u32) {
        match self.window_credits.iter_mut().find(|(number, _)| *number == channel) {
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

    /// Hands over what the chunk collected: one lock and one dispatch for each queue it touched. When the returned
    /// position is durable, so are all its messages.
    pub fn hand_over(&mut self) -> Lsn {
        let published = if self.burst.is_empty() && self.settlements.is_empty() {
            Lsn::default()
        } else {
            self.burst.hand_over(&self.broker.node, &mut self.settlements, &mut self.wakes).published
        };
        self.after_hand_over(published);
        self.broker.check_memory();
        published
    }

    fn after_hand_over(&mut self, published: Lsn) {
        self.has_returns = false;
        self.has_logged |= published > Lsn::default();
        self.await_log(self.burst.awaited());
        self.credit_windows();
    }

    fn credit_windows(&mut self) {
        for (channel, count) in std::mem::take(&mut self.window_credits) {
            let queues = self.outbox.credit_window(channel, count);
            self.resume(queues);
        }
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
        let (withdrawn, kept) =
            std::mem::take(&mut self.arriving).into_iter().partition(|item| item.channel() == channel);
        self.arriving = VecDeque::from_iter::<Vec<Item>>(kept);
        withdrawn
    }

    /// How many messages that will need an acknowledgement wait for a channel outside the outbox.
    pub fn arriving_for(&self, channel: u16) -> u32 {
        let counts = self.arriving.iter().map(|item| match item {
            Item::Delivery { consumer, run } if consumer.channel == channel && !consumer.no_ack => {
                run.count()
            }
            _ => 0,
        });
        counts.sum()
    }

    /// Puts back what was taken for a consumer and will not be sent.
    pub fn give_back(&mut self, item: Item) {
        let Item::Delivery { consumer, run } = item else { return };
        self.unreleased_bytes += run.delivery_bytes();
        self.uncount(&consumer, run.count());
        let Some(source) = &consumer.source else { return };
        let settlement = self.settlement(&source.queue);
        settlement.credit(source.key, run.count());
        settlement.returned(run);
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
            let queues = self.outbox.release_room(released);
            self.resume(queues);
        }
    }

    /// Gives back the room of what was handed over.
    pub fn shrink(&mut self) {
        self.burst.shrink();
    }

    /// Lets queues try again that found no credit here.
    pub fn resume(&mut self, queues: Vec<Arc<Queue>>) {
        for queue in queues {
            queue.resume(&mut self.wakes);
        }
    }

    /// The route for these names, found once and kept until definitions change. `check` judges the exchange when
    /// the route is found.
    ///
    /// # Errors
    /// Those of `check`.
    pub fn route<E>(
        &mut self,
        names: Names<'_>,
        check: impl FnOnce(&Self, &[u8]) -> Result<Arc<Exchange>, E>,
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
            None => self.find_route(check(self, names.exchange())?, names),
        };
        let mut last = self.routes.last.take().map(|(names, _)| names).unwrap_or_default();
        last.copy(names);
        self.routes.last = Some((last, Arc::clone(&route)));
        Ok(route)
    }

    /// Adds small messages to the burst, one for each body, if their names have a route that needs no look at headers.
    /// How many: none when there is no such route, or nobody to take them.
    pub fn publish_alike<'a>(
        &mut self,
        like: &Content<'_>,
        persistent: bool,
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
        if route.by_headers || route.targets.is_empty() {
            return 0;
        }
        self.burst.received_at(self.now.unix_ms);
        self.burst.publish_alike(&self.broker.node, &route.targets, like, persistent, bodies)
    }

    fn find_route(&mut self, exchange: Arc<Exchange>, names: Names<'_>) -> Arc<Route> {
        let routed = route::route(&self.vhost, &exchange, &[names.routing_key()], Table::EMPTY);
        let route = Arc::new(Route { exchange, targets: routed.targets, by_headers: routed.by_headers });
        if self.routes.by_names.len() >= CACHED_ROUTES_MAX {
            self.routes.by_names.clear();
        }
        self.routes.by_names.insert(names.as_bytes().into(), Arc::clone(&route));
        route
    }

    /// Forgets routes that are older than a change of definitions. Only between bursts: what was routed is handed
    /// over first.
    fn refresh_routes(&mut self) {
        if !self.burst.is_empty() {
            return;
        }
        let version = self.vhost.version();
        if self.routes.version != version {
            self.routes = Routes { version, ..Routes::default() };
        }
    }
}
