//! What the broker must hold: the shadow of everything that clients asked for, and each durable state it went through.
//!
//! The log has one order, so that after a crash there must be *one* of these states: not an earlier one than the
//! clients have heard of or the log called durable, and whole. That is stricter than the promise, and implies it:
//! nothing is lost, altered, invented or back, transactions are whole, definitions are there or not as was heard.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::conversation::{Channel, Holding};
use crate::message::Message;
use crate::op::{Op, Verdict};
use crate::state::{Binding, Destination, State, route};

#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// Everything ever published, by number.
    pub(crate) messages: Vec<Message>,
    pub(crate) exchanges: BTreeMap<String, Exchange>,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) bindings: BTreeSet<Binding>,
    /// Every durable state, in the log's order.
    pub(crate) states: Vec<Recorded>,
    /// The last state that clients know to be durable.
    pub(crate) heard: usize,
    /// The state after the last durable definition.
    last_definition: usize,
    queue_numbers: u64,
}

#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) state: Rc<State>,
    /// Where the log ended when it was reached.
    pub(crate) end: u64,
    /// What led to it.
    pub(crate) what: String,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) kind: &'static str,
    pub(crate) durable: bool,
}

/// A queue from its declaration to its deletion.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Told from others of its name by this.
    pub(crate) number: u64,
    pub(crate) durable: bool,
    pub(crate) entries: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: u32,
    /// A client has it and has not settled it.
    pub(crate) held: bool,
    /// It was delivered before.
    pub(crate) delivered: bool,
    /// It may have been on its way to a channel that ended, which is as good as delivered.
    pub(crate) perhaps_delivered: bool,
    /// The state in which it came.
    pub(crate) since: usize,
}

impl Queue {
    pub(crate) fn ready(&self) -> usize {
        self.entries.values().filter(|entry| !entry.held).count()
    }

    pub(crate) fn held(&self) -> usize {
        self.entries.len() - self.ready()
    }

    /// Everybody is gone who consumed from it, and so many messages were on their way to them: that is as good as
    /// delivered, where it can be told which ones they were. They are taken from the head, so that of those that never
    /// came back they are the first; what has come back may have done so at any time.
    pub(crate) fn lose_consumers(&mut self, on_their_way: usize) {
        let is_all = on_their_way >= self.ready();
        let returned = |entry: &Entry| entry.delivered || entry.perhaps_delivered;
        let unheld = self.entries.values().filter(|entry| !entry.held);
        let perhaps = unheld.filter(|entry| returned(entry)).count();
        let known = if is_all { usize::MAX } else { on_their_way.saturating_sub(perhaps) };
        let unheld = self.entries.values_mut().filter(|entry| !entry.held);
        let first = unheld.filter(|entry| is_all || !returned(entry)).take(known);
        first.for_each(|entry| entry.delivered = true);
    }
}

impl Shadow {
    pub(crate) fn new() -> Self {
        let mut shadow = Self::default();
        shadow.record("nothing");
        shadow
    }

    /// One that knows messages and nothing else.
    pub(crate) fn knowing(messages: &[Message]) -> Self {
        Self { messages: messages.to_vec(), ..Self::default() }
    }

    /// Notes the durable state as it is now, if it is another one; which one it is.
    pub(crate) fn record(&mut self, what: impl Into<String>) -> usize {
        let state = self.project();
        if self.states.last().is_none_or(|last| *last.state != state) {
            self.states.push(Recorded { state: Rc::new(state), end: u64::MAX, what: what.into() });
        }
        self.states.len() - 1
    }

    /// What was recorded since the last call is in the log, which ends here now.
    pub(crate) fn appended(&mut self, end: u64) {
        self.states
            .iter_mut()
            .rev()
            .take_while(|state| state.end == u64::MAX)
            .for_each(|state| state.end = end);
    }

    /// The last state that must be there when the log is durable up to this position.
    pub(crate) fn durable(&self, durable: u64) -> usize {
        self.logged(durable).max(self.heard)
    }

    /// The last state that the log up to this position tells of.
    pub(crate) fn logged(&self, position: u64) -> usize {
        self.states.iter().rposition(|state| state.end <= position).unwrap_or(0)
    }

    /// Clients have heard of this state.
    pub(crate) fn hear(&mut self, state: usize) {
        self.heard = self.heard.max(state);
    }

    fn project(&self) -> State {
        let exchanges = self.exchanges.iter().filter(|(_, exchange)| exchange.durable);
        let queues = self.queues.iter().filter(|(_, queue)| queue.durable);
        let live = |queue: &Queue| {
            let live = queue.entries.values().map(|entry| entry.message);
            live.filter(|id| self.messages[*id as usize].persistent).collect()
        };
        State {
            exchanges: exchanges.map(|(name, exchange)| (name.clone(), exchange.kind)).collect(),
            queues: queues.map(|(name, queue)| (name.clone(), live(queue))).collect(),
            bindings: self.bindings.iter().filter(|binding| self.is_durable(binding)).cloned().collect(),
        }
    }

    fn is_durable(&self, binding: &Binding) -> bool {
        let is_exchange = |name: &String| self.exchanges.get(name).is_some_and(|exchange| exchange.durable);
        is_exchange(&binding.source)
            && match &binding.to {
                Destination::Queue(name) => self.queues.get(name).is_some_and(|queue| queue.durable),
                Destination::Exchange(name) => is_exchange(name),
            }
    }

    /// The process has ended and another one has found this state; it calls these messages new.
    pub(crate) fn restart(&mut self, found: &State, new: &BTreeSet<(String, u32)>) {
        self.exchanges = found
            .exchanges
            .iter()
            .map(|(name, kind)| (name.clone(), Exchange { kind, durable: true }))
            .collect();
        self.bindings = found.bindings.clone();
        self.queues.clear();
        for (name, messages) in &found.queues {
            let mut queue = self.new_queue(true);
            for &message in messages {
                queue.push(message, !new.contains(&(name.clone(), message)), 0);
            }
            self.queues.insert(name.clone(), queue);
        }
        self.states.push(Recorded { state: Rc::new(found.clone()), end: 0, what: "a start".to_owned() });
        self.last_definition = self.states.len() - 1;
    }

    /// What was found is durable, and the log goes on from here.
    pub(crate) fn started(&mut self, log_end: u64) {
        let last = self.states.len() - 1;
        self.states[last].end = log_end;
        self.heard = last;
    }

    fn new_queue(&mut self, durable: bool) -> Queue {
        self.queue_numbers += 1;
        Queue { number: self.queue_numbers, durable, ..Queue::default() }
    }

    pub(crate) fn queue_by_number(&mut self, number: u64) -> Option<&mut Queue> {
        self.queues.values_mut().find(|queue| queue.number == number)
    }

    pub(crate) fn has_queue(&self, number: u64) -> bool {
        self.queues.values().any(|queue| queue.number == number)
    }

    /// The names of the queues that a message goes to. That of its key need not be there: it may be when a transaction is
    /// committed.
    fn targets(&self, message: &Message) -> BTreeSet<String> {
        if message.exchange.is_empty() {
            return BTreeSet::from([message.key.clone()]);
        }
        let kinds = self.exchanges.iter().map(|(name, exchange)| (name.clone(), exchange.kind)).collect();
        route(&kinds, &self.bindings, &message.exchange, &message.key)
    }

    /// The names of the queues that a message goes to. A transaction's messages are routed when they are published.
    fn route(&self, id: u32) -> (u32, BTreeSet<String>) {
        (id, self.targets(&self.messages[id as usize]))
    }

    /// A message arrives in the queues that have these names now; whether the log must know.
    fn publish(&mut self, (id, targets): (u32, BTreeSet<String>)) -> bool {
        let persistent = self.messages[id as usize].persistent;
        let since = self.states.len();
        let mut logged = false;
        for name in targets {
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            let is_logged = queue.durable && persistent;
            queue.push(id, false, if is_logged { since } else { 0 });
            logged |= is_logged;
        }
        logged
    }

    fn settle(&mut self, holding: Holding, verdict: Verdict) {
        let Some(queue) = self.queue_by_number(holding.queue) else { return };
        if verdict == Verdict::Requeue {
            queue.entries.get_mut(&holding.seq).expect("what is held is there").held = false;
        } else {
            queue.entries.remove(&holding.seq).expect("what is held is there");
        }
    }

    /// What is held goes back.
    fn give_back(&mut self, holdings: impl IntoIterator<Item = Holding>) {
        holdings.into_iter().for_each(|holding| self.settle(holding, Verdict::Requeue));
    }

    /// A channel ends: what it holds goes back, and what was on its way to it.
    pub(crate) fn end(&mut self, channel: &mut Channel) {
        for consumer in channel.consumers.values() {
            let Some(queue) = self.queue_by_number(consumer.queue) else { continue };
            let unheld = queue.entries.values_mut().filter(|entry| !entry.held);
            unheld.for_each(|entry| entry.perhaps_delivered = true);
        }
        self.give_back(channel.take_all());
    }

    /// Does what a client asks for; the state that it leads to, or 0 when the log does not hear of it.
    pub(crate) fn apply(&mut self, channel: &mut Channel, op: &Op) -> usize {
        let what = || format!("{op:?}").chars().take(200).collect::<String>();
        match op {
            Op::Publish(messages) => {
                self.messages.extend(messages.iter().cloned());
                let routed: Vec<_> = messages.iter().map(|message| self.route(message.id)).collect();
                if let Some(transaction) = &mut channel.transaction {
                    transaction.published.extend(routed);
                    return 0;
                }
                let flags: Vec<bool> = routed.into_iter().map(|routed| self.publish(routed)).collect();
                let state = self.record(what());
                channel.published(flags.into_iter().map(|logged| if logged { state } else { 0 }));
                state
            }
            Op::Settle { tag, multiple, verdict } => {
                for (tag, holding) in channel.take_tags(*tag, *multiple) {
                    match &mut channel.transaction {
                        Some(transaction) => transaction.settled.push((tag, holding, *verdict)),
                        None => self.settle(holding, *verdict),
                    }
                }
                self.record(what())
            }
            Op::Commit => {
                let done = std::mem::take(channel.transaction.as_mut().expect("a transaction"));
                let mut logged = false;
                for routed in done.published {
                    logged |= self.publish(routed);
                }
                for (_, holding, verdict) in done.settled {
                    self.settle(holding, verdict);
                }
                let before = self.states.len();
                let state = self.record(what());
                if logged || self.states.len() > before { state } else { 0 }
            }
            Op::Rollback => {
                let undone = std::mem::take(channel.transaction.as_mut().expect("a transaction"));
                channel.tags.extend(undone.settled.into_iter().map(|(tag, holding, _)| (tag, holding)));
                0
            }
            Op::Recover => {
                // What a transaction has settled stays with it.
                self.give_back(std::mem::take(&mut channel.tags).into_values());
                0
            }
            Op::CloseChannel => {
                self.end(channel);
                0
            }
            Op::Purge { queue } => {
                self.queues.get_mut(queue).expect("a queue").entries.retain(|_, entry| entry.held);
                self.record(what());
                // A crash may undo it, whoever has heard of it.
                0
            }
            _ => self.define(op),
        }
    }

    fn define(&mut self, op: &Op) -> usize {
        let durable = match op {
            Op::Declare { queue, durable, .. } => {
                if !self.queues.contains_key(queue) {
                    let new = self.new_queue(*durable);
                    self.queues.insert(queue.clone(), new);
                }
                self.queues[queue].durable
            }
            Op::Delete { queue, .. } => {
                let gone = self.queues.remove(queue);
                self.bindings.retain(|binding| binding.to != Destination::Queue(queue.clone()));
                gone.is_some_and(|queue| queue.durable)
            }
            Op::DeclareExchange { name, kind, durable } => {
                let exchange = Exchange { kind, durable: *durable };
                self.exchanges.entry(name.clone()).or_insert(exchange).durable
            }
            Op::DeleteExchange { name } => {
                let gone = self.exchanges.remove(name);
                let end = Destination::Exchange(name.clone());
                self.bindings.retain(|binding| binding.source != *name && binding.to != end);
                gone.is_some_and(|exchange| exchange.durable)
            }
            Op::Bind(binding) => {
                self.bindings.insert(binding.clone());
                self.is_durable(binding)
            }
            Op::Unbind(binding) => {
                self.bindings.remove(binding);
                self.is_durable(binding)
            }
            _ => return 0,
        };
        let before = self.states.len();
        let state = self.record(format!("{op:?}"));
        if self.states.len() > before {
            self.last_definition = state;
        }
        if durable { self.last_definition } else { 0 }
    }
}

impl Queue {
    fn push(&mut self, message: u32, delivered: bool, since: usize) {
        self.next += 1;
        let entry = Entry { message, held: false, delivered, perhaps_delivered: false, since };
        self.entries.insert(self.next, entry);
    }
}
