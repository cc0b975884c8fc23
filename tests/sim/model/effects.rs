//! What operations change.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::model::state::{Confirms, Consumer, Entry, Held, Queue, Tx, Window};
use crate::model::{ChannelKey, Model};
use crate::op::{Message, Op, Verdict, is_auto_delete, is_durable, is_exclusive};

impl Model {
    /// An operation the broker says nothing to.
    pub(super) fn apply_unanswered(&mut self, key: ChannelKey, op: Op) {
        if self.channel(key).refused {
            if matches!(op, Op::AnswerClose) {
                self.channels.remove(&key);
            }
            return;
        }
        match op {
            Op::Publish(message) => {
                self.hand_over_returns();
                self.publish(key, &message);
            }
            Op::Settle { tag, multiple, verdict } => self.settle(key, tag, multiple, verdict),
            other => panic!("{other:?} has an answer"),
        }
    }

    /// Takes a message in, or keeps it for the commit.
    pub(super) fn publish(&mut self, key: ChannelKey, message: &Rc<Message>) {
        let queues = self.route(message).expect("a missing exchange refuses");
        self.messages.insert(message.id, Rc::clone(message));
        let logged_behind = self.logged(&queues, message);
        // By the default exchange a transaction publishes to a name, whether or not there is such a queue yet.
        let names = match message.exchange {
            "" => vec![message.key.clone()],
            _ => queues.iter().map(|id| self.queues[id].name.clone()).collect(),
        };
        let channel = self.channel(key);
        if let Some(confirms) = &mut channel.confirms {
            confirms.published += 1;
            confirms.logged_behind.push_back(logged_behind);
        }
        if let Some(tx) = &mut channel.tx {
            tx.publishes.push((names, Rc::clone(message)));
            return;
        }
        self.enqueue(&queues, message);
    }

    /// Where the log ended before this message was in it, if it is.
    fn logged(&self, queues: &[u64], message: &Message) -> Option<u64> {
        let mut found = queues.iter().filter_map(|id| self.queues.get(id));
        (message.is_persistent() && found.any(|queue| is_durable(&queue.name))).then_some(self.log.end)
    }

    /// What is judged now was logged in this turn.
    pub(super) fn note_logged(&mut self, logged: bool) {
        self.logged_behind = logged.then_some(self.log.end).max(self.logged_behind);
    }

    fn enqueue(&mut self, queues: &[u64], message: &Rc<Message>) {
        let now = self.tick();
        let end = self.log.end;
        for id in queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.next_seq += 1;
            let entry = Entry {
                message: Rc::clone(message),
                held: false,
                doubtful: false,
                redelivered: false,
                perhaps_redelivered: false,
                logged_behind: (message.is_persistent() && is_durable(&queue.name)).then_some(end),
                since: (now, now),
            };
            queue.entries.insert(queue.next_seq, entry);
        }
    }

    fn settle(&mut self, key: ChannelKey, tag: u64, multiple: bool, verdict: Verdict) {
        let channel = self.channel(key);
        let tags: Vec<u64> = match (multiple, tag) {
            (false, _) => vec![tag],
            (true, 0) => channel.unacked.keys().copied().collect(),
            (true, _) => channel.unacked.range(..=tag).map(|(tag, _)| *tag).collect(),
        };
        for tag in tags {
            let held = self.channel(key).unacked.remove(&tag).expect("unknown tags are refused");
            match &mut self.channel(key).tx {
                Some(tx) => tx.settled.push((tag, held, verdict)),
                None => self.let_go(held, verdict.requeues()),
            }
        }
    }

    /// A delivery is settled, or comes back.
    fn let_go(&mut self, held: Held, requeue: bool) {
        if let Some(consumer) = held.consumer.and_then(|id| self.consumers.get_mut(&id)) {
            consumer.held -= 1;
        }
        if requeue {
            return self.returning.push(held);
        }
        if let Some(queue) = self.queues.get_mut(&held.queue) {
            let settled = queue.entries.remove(&held.seq).expect("held messages stay");
            assert!(settled.held);
        }
    }

    /// What came back in this turn is available, all at once.
    pub(super) fn hand_over_returns(&mut self) {
        let now = self.tick();
        for held in std::mem::take(&mut self.returning) {
            let Some(queue) = self.queues.get_mut(&held.queue) else { continue };
            let entry = queue.entries.get_mut(&held.seq).expect("held messages stay");
            (entry.held, entry.redelivered, entry.since) = (false, true, (now, now));
        }
    }

    /// What was acknowledged in a transaction stays with it.
    pub(super) fn return_unacked(&mut self, key: ChannelKey) {
        for held in std::mem::take(&mut self.channel(key).unacked).into_values() {
            self.let_go(held, true);
        }
        self.hand_over_returns();
    }

    pub(super) fn commit(&mut self, key: ChannelKey) {
        let tx = std::mem::take(self.channel(key).tx.as_mut().expect("a transaction is open"));
        assert!(self.next_returned(&tx).is_none(), "returns come before commit-ok");
        for (names, message) in &tx.publishes {
            let queues = self.look_up(names);
            let logged = self.logged(&queues, message).is_some();
            self.note_logged(logged);
            self.enqueue(&queues, message);
        }
        for (_, held, verdict) in tx.settled {
            self.let_go(held, verdict.requeues());
        }
        self.hand_over_returns();
    }

    /// The queues that have these names now.
    fn look_up(&self, names: &[String]) -> Vec<u64> {
        names.iter().filter_map(|name| self.names.get(name)).copied().collect()
    }

    /// The first mandatory message of a transaction that has no queue, and did not come back yet.
    pub(super) fn next_returned(&self, tx: &Tx) -> Option<Rc<Message>> {
        let left = tx.publishes.iter().filter(|(_, message)| !tx.returned.contains(&message.id));
        let mut mandatory = left.filter(|(_, message)| message.mandatory);
        let (_, next) = mandatory.find(|(names, _)| self.look_up(names).is_empty())?;
        Some(Rc::clone(next))
    }

    pub(super) fn roll_back(&mut self, key: ChannelKey) {
        let tx = std::mem::take(self.channel(key).tx.as_mut().expect("a transaction is open"));
        self.take_back(key, tx);
    }

    fn take_back(&mut self, key: ChannelKey, tx: Tx) {
        self.channel(key).unacked.extend(tx.settled.into_iter().map(|(tag, held, _)| (tag, held)));
    }

    pub(super) fn declare(&mut self, key: ChannelKey, name: &str) {
        if self.names.contains_key(name) {
            return;
        }
        let id = self.next_id();
        let queue = Queue {
            name: name.to_owned(),
            owner: is_exclusive(name).then_some(key.0),
            entries: BTreeMap::new(),
            next_seq: 0,
            consumers: BTreeSet::new(),
            survivors: 0,
            last_given: 0,
        };
        self.queues.insert(id, queue);
        self.names.insert(name.to_owned(), id);
    }

    pub(super) fn delete(&mut self, id: u64) {
        let queue = self.queues.remove(&id).expect("it is there");
        self.names.remove(&queue.name);
        self.bindings.retain(|(bound, _)| *bound != id);
        for consumer in queue.consumers {
            let consumer = self.consumers.remove(&consumer).expect("it is there");
            let channel = self.channel(consumer.channel);
            channel.consumers.remove(&consumer.tag);
            channel.ended.insert(consumer.tag);
        }
    }

    /// Everything ready goes; what is on its way does not.
    pub(super) fn purge(&mut self, id: u64, purged: u64) {
        let queue = self.queues.get_mut(&id).expect("it is there");
        let before = queue.unheld();
        assert!(purged <= before, "purged {purged} of {before} messages");
        assert!(!queue.consumers.is_empty() || purged == before, "purged only {purged} of {before} messages");
        queue.entries.values_mut().filter(|entry| !entry.held).for_each(|entry| entry.doubtful = true);
        queue.survivors = before - purged;
        queue.settle_doubts();
    }

    pub(super) fn consume(&mut self, key: ChannelKey, op: &Op) {
        let Op::Consume { queue, tag, no_ack, exclusive, .. } = op else { unreachable!("it is a consume") };
        let queue = self.names[queue];
        let id = self.next_id();
        let channel = self.channel(key);
        let prefetch = (channel.prefetch > 0 && !no_ack).then_some(u64::from(channel.prefetch));
        channel.consumers.insert(tag.clone(), id);
        let (no_ack, exclusive) = (*no_ack, *exclusive);
        let consumer = Consumer {
            channel: key,
            tag: tag.clone(),
            queue,
            no_ack,
            exclusive,
            prefetch,
            held: 0,
            given: Vec::new(),
        };
        self.consumers.insert(id, consumer);
        self.queues.get_mut(&queue).expect("it is there").consumers.insert(id);
    }

    /// Takes a consumer away; its queue, if that goes with it.
    fn remove_consumer(&mut self, id: u64) -> Option<u64> {
        let consumer = self.consumers.remove(&id).expect("it is there");
        let queue = self.queues.get_mut(&consumer.queue).expect("it ends with its queue");
        queue.consumers.remove(&id);
        (queue.consumers.is_empty() && is_auto_delete(&queue.name)).then_some(consumer.queue)
    }

    pub(super) fn cancel(&mut self, key: ChannelKey, tag: &str) {
        let channel = self.channel(key);
        channel.ended.remove(tag);
        if let Some(id) = channel.consumers.remove(tag)
            && let Some(unused) = self.remove_consumer(id)
        {
            self.delete(unused);
        }
    }

    /// Ends a channel: what it held comes back, and what was on its way to it.
    pub(super) fn close_channel(&mut self, key: ChannelKey) {
        let consumers = std::mem::take(&mut self.channel(key).consumers);
        let mut unused = Vec::new();
        let now = self.tick();
        for id in consumers.into_values() {
            let queue = self.queues.get_mut(&self.consumers[&id].queue).expect("it ends with its queue");
            for entry in queue.entries.values_mut().filter(|entry| !entry.held) {
                (entry.since.1, entry.perhaps_redelivered) = (now, true);
            }
            unused.extend(self.remove_consumer(id));
        }
        if let Some(tx) = self.channel(key).tx.take() {
            self.take_back(key, tx);
        }
        self.return_unacked(key);
        self.channels.remove(&key);
        for queue in unused {
            self.delete(queue);
        }
    }

    pub(super) fn close_connection(&mut self, connection: u64) {
        let range = (connection, 0)..=(connection, u16::MAX);
        let open: Vec<ChannelKey> = self.channels.range(range).map(|(key, _)| *key).collect();
        for key in open {
            self.close_channel(key);
        }
        let exclusive: Vec<u64> = (self.queues.iter())
            .filter(|(_, queue)| queue.owner == Some(connection))
            .map(|(id, _)| *id)
            .collect();
        for id in exclusive {
            self.delete(id);
        }
    }

    pub(super) fn set_prefetch(&mut self, key: ChannelKey, count: u16, global: bool) {
        let since = self.tick();
        let channel = self.channel(key);
        if !global {
            channel.prefetch = count;
        }
        channel.window = (global && count > 0).then_some(Window { limit: u64::from(count), since });
    }

    pub(super) fn select(&mut self, key: ChannelKey, op: &Op) {
        let channel = self.channel(key);
        match op {
            Op::ConfirmSelect => drop(channel.confirms.get_or_insert_with(Confirms::default)),
            _ => drop(channel.tx.get_or_insert_with(Tx::default)),
        }
    }
}
