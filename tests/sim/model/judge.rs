//! What the broker says, against what it may say.

use std::rc::Rc;

use sluicemq::protocol::frame::{self, FRAME_OVERHEAD, FrameKind, FrameView};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::{BasicAck, BasicDeliver, BasicGetOk, BasicReturn, Method, QueueDeclareOk};
use sluicemq::protocol::properties::Properties;

use crate::model::predict::Prediction;
use crate::model::state::{Channel, Held};
use crate::model::{ChannelKey, Event, Judged, Model};
use crate::op::{Message, Op, is_durable};

/// A content as it came.
struct Content {
    properties: Vec<u8>,
    body: Vec<u8>,
}

/// A method the broker said, with its content, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) channel: u16,
    pub(crate) bytes: Vec<u8>,
}

/// Cuts bytes into what was said, each with where it ends.
pub(crate) fn split(bytes: &[u8], frame_max: u32) -> Vec<(usize, Said)> {
    let mut said = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let frame = next_frame(bytes, &mut at, frame_max);
        assert!(frame.kind == FrameKind::Method, "a method comes first");
        let method = Method::parse(frame.payload).expect("a method");
        if method.has_content() {
            read_content(bytes, &mut at, frame_max, frame.channel);
        }
        said.push((at, Said { channel: frame.channel, bytes: bytes[start..at].to_vec() }));
    }
    said
}

impl Model {
    /// Judges all that was said.
    pub(super) fn read(&mut self, connection: u64, said: &[Said], parked: bool) -> Vec<Judged> {
        let frame_max = self.peer(connection).frame_max;
        let mut judged: Vec<Option<Judged>> = said.iter().map(|_| None).collect();
        while let Some(next) = self.next_to_judge(connection, said, &judged, parked) {
            let (bytes, mut at) = (&said[next].bytes, 0);
            let frame = next_frame(bytes, &mut at, frame_max);
            let method = Method::parse(frame.payload).expect("a method");
            let content =
                method.has_content().then(|| read_content(bytes, &mut at, frame_max, frame.channel));
            assert!(!self.peer(connection).closed, "{} after the connection was closed", method.name());
            self.logged_behind = None;
            let event = self.judge((connection, frame.channel), &method, content);
            judged[next] = Some(Judged { event, logged_behind: self.logged_behind.take() });
            self.apply_silent(connection);
        }
        judged.into_iter().map(|judged| judged.expect("all are judged")).collect()
    }

    /// Where the order is not known, the channel goes first whose operation waits for its answer, and the end of the
    /// connection last: everything else was said before.
    fn next_to_judge(
        &mut self,
        connection: u64,
        said: &[Said],
        judged: &[Option<Judged>],
        parked: bool,
    ) -> Option<usize> {
        let waiting = self.peer(connection).processed.front().map(|(channel, _)| *channel);
        let mut left = (0..said.len()).filter(|at| judged[*at].is_none());
        if !parked {
            return left.next();
        }
        let rank = |at: &usize| match said[*at].channel {
            0 => 2,
            channel if Some(channel) == waiting => 0,
            _ => 1,
        };
        left.min_by_key(rank)
    }

    fn judge(&mut self, key: ChannelKey, method: &Method<'_>, content: Option<Content>) -> Option<Event> {
        let channel = key.1;
        match (method, content) {
            (Method::BasicDeliver(deliver), Some(content)) => self.judge_delivery(key, deliver, &content),
            (Method::BasicAck(ack), None) => self.judge_confirm(key, *ack),
            (Method::BasicCancel(cancel), None) => {
                let told = self.channel(key).ended.remove(cancel.consumer_tag);
                assert!(told, "consumer {} was cancelled and its queue is there", cancel.consumer_tag);
                assert!(self.peer(key.0).notify_cancel, "the client cannot take a cancel");
                Some(Event::Cancelled { channel, tag: cancel.consumer_tag.to_owned() })
            }
            (Method::BasicReturn(returned), Some(content)) => {
                self.judge_return(key, returned, &content);
                None
            }
            (answer, content) => self.judge_answer(key, answer, content),
        }
    }

    /// The answer to the first operation that waits for one.
    fn judge_answer(
        &mut self,
        key: ChannelKey,
        answer: &Method<'_>,
        content: Option<Content>,
    ) -> Option<Event> {
        let front = self.peer(key.0).processed.pop_front();
        let Some((channel, op)) = front else { panic!("{answer:?} answers nothing") };
        assert!(channel == key.1, "{answer:?} on channel {}, expected an answer to {op:?}", key.1);
        let predicted = self.predict(key, &op);
        if let Method::ChannelClose(close) = answer {
            let code = match predicted {
                Prediction::Refusal(code) | Prediction::AnswerOr(code) => code.code(),
                _ => panic!("{op:?} was refused: {}", close.reply_text),
            };
            assert!(
                close.reply_code == code,
                "{op:?} was refused with {}, expected {code}",
                close.reply_text
            );
            // What the turn collected so far is handed over before the channel closes.
            self.hand_over_returns();
            self.close_channel(key);
            self.channels.insert(key, Channel { refused: true, ..Channel::default() });
            return Some(Event::Refused { channel });
        }
        let may_answer = matches!(predicted, Prediction::Answer | Prediction::AnswerOr(_));
        assert!(may_answer, "{op:?} was answered with {answer:?}, expected {predicted:?}");
        self.apply_answered(key, op, answer, content)
    }

    fn apply_answered(
        &mut self,
        key: ChannelKey,
        op: Op,
        answer: &Method<'_>,
        content: Option<Content>,
    ) -> Option<Event> {
        let channel = key.1;
        match (op, answer) {
            (Op::OpenChannel, Method::ChannelOpenOk(_)) => {
                let known = self.channels.insert(key, Channel::default());
                assert!(known.is_none(), "the channel is open already");
            }
            (Op::CloseChannel, Method::ChannelCloseOk(_)) => {
                // Of one that was refused the broker waits for the answer.
                if !self.channel(key).refused {
                    self.close_channel(key);
                }
                return Some(Event::ChannelClosed { channel });
            }
            (Op::CloseConnection, Method::ConnectionCloseOk(_)) => {
                self.close_connection(key.0);
                let peer = self.peer(key.0);
                peer.closed = true;
                peer.processed.clear();
                return Some(Event::ConnectionClosed);
            }
            (op @ Op::Consume { .. }, Method::BasicConsumeOk(ok)) => {
                self.consume(key, &op);
                return Some(Event::Consuming { channel, tag: ok.consumer_tag.to_owned() });
            }
            (Op::Cancel { tag }, Method::BasicCancelOk(ok)) => {
                assert!(tag == ok.consumer_tag, "cancel-ok for {}", ok.consumer_tag);
                self.cancel(key, &tag);
                return Some(Event::Cancelled { channel, tag });
            }
            (Op::Get { queue, no_ack }, Method::BasicGetOk(ok)) => {
                let content = content.expect("get-ok has content");
                return self.judge_get(key, &queue, no_ack, ok, &content);
            }
            (Op::Get { queue, .. }, Method::BasicGetEmpty(_)) => self.judge_empty(&queue),
            (Op::Recover, Method::BasicRecoverOk(_)) => {
                self.return_unacked(key);
                return Some(Event::Recovered { channel });
            }
            (Op::Purge { queue }, Method::QueuePurgeOk(ok)) => {
                self.purge(self.names[&queue], u64::from(ok.message_count));
            }
            (Op::Delete { queue, if_empty, .. }, Method::QueueDeleteOk(ok)) => {
                self.judge_delete(&queue, if_empty, u64::from(ok.message_count));
            }
            (Op::Declare { queue }, Method::QueueDeclareOk(ok)) => {
                let is_new = !self.names.contains_key(&queue);
                self.note_logged(is_new && is_durable(&queue));
                self.declare(key, &queue);
                self.judge_counts(&queue, ok);
            }
            (Op::Inspect { queue }, Method::QueueDeclareOk(ok)) => self.judge_counts(&queue, ok),
            (Op::Bind { queue, pattern }, Method::QueueBindOk(_)) => {
                let is_new = self.bindings.insert((self.names[&queue], pattern));
                self.note_logged(is_new && is_durable(&queue));
            }
            (Op::Unbind { queue, pattern }, Method::QueueUnbindOk(_)) => {
                let id = self.names.get(&queue).copied();
                id.map(|id| self.bindings.remove(&(id, pattern)));
            }
            (Op::Qos { count, global }, Method::BasicQosOk(_)) => self.set_prefetch(key, count, global),
            (op @ Op::ConfirmSelect, Method::ConfirmSelectOk(_))
            | (op @ Op::TxSelect, Method::TxSelectOk(_)) => {
                self.select(key, &op);
            }
            (Op::TxCommit, Method::TxCommitOk(_)) => {
                self.commit(key);
                return Some(Event::Committed { channel });
            }
            (Op::TxRollback, Method::TxRollbackOk(_)) => {
                self.roll_back(key);
                return Some(Event::RolledBack { channel });
            }
            (op, answer) => panic!("{op:?} was answered with {answer:?}"),
        }
        None
    }

    fn judge_delivery(
        &mut self,
        key: ChannelKey,
        deliver: &BasicDeliver<'_>,
        content: &Content,
    ) -> Option<Event> {
        let tag = deliver.consumer_tag;
        let id = *self.channel(key).consumers.get(tag).unwrap_or_else(|| panic!("no consumer {tag}"));
        let names = (deliver.exchange, deliver.routing_key);
        let queue = self.consumers[&id].queue;
        let seq = self.judge_message(queue, names, deliver.redelivered, content);
        self.judge_order(id, queue, seq);
        self.take_tag(key, deliver.delivery_tag);
        let held = Held { queue, seq, consumer: Some(id) };
        let given = (seq, self.queues[&queue].entries[&seq].since.0);
        let consumer = self.consumers.get_mut(&id).expect("it is there");
        consumer.given.push(given);
        let entries = self.queues.get_mut(&queue).expect("it is there");
        entries.hold(seq);
        if consumer.no_ack {
            entries.entries.remove(&seq);
            return None;
        }
        consumer.held += 1;
        let (holds, prefetch) = (consumer.held, consumer.prefetch.unwrap_or(u64::MAX));
        assert!(holds <= prefetch, "consumer {tag} holds {holds} messages, its prefetch is {prefetch}");
        let channel = self.channel(key);
        channel.unacked.insert(deliver.delivery_tag, held);
        if let Some(window) = channel.window.filter(|window| given.1 > window.since) {
            let (holds, limit) = (channel.holds(), window.limit);
            assert!(holds <= limit, "channel {} holds {holds} messages, its prefetch is {limit}", key.1);
        }
        Some(Event::Delivered { channel: key.1, tag: deliver.delivery_tag })
    }

    /// The message is in the queue, held by nobody, and as it was published. Its number there.
    fn judge_message(&self, queue: u64, names: (&[u8], &[u8]), redelivered: bool, content: &Content) -> u64 {
        let message = self.message(content);
        check_same(&message, names, content);
        let queue = &self.queues[&queue];
        let Some(seq) = queue.find(message.id) else {
            panic!("message {} is not waiting in queue {}", message.id, queue.name);
        };
        let behind = queue.entries[&seq].logged_behind;
        assert!(
            behind.is_none_or(|behind| behind < self.log.durable),
            "message {} was delivered before it was durable",
            message.id
        );
        let entry = &queue.entries[&seq];
        let is_expected = redelivered == entry.redelivered || entry.perhaps_redelivered;
        assert!(is_expected, "message {}: redelivered is {redelivered}", message.id);
        seq
    }

    /// Nothing that certainly waited before it in the queue was passed over.
    fn judge_order(&self, consumer: u64, queue: u64, seq: u64) {
        let (consumer, queue) = (&self.consumers[&consumer], &self.queues[&queue]);
        let entry = &queue.entries[&seq];
        for (later, since) in consumer.given.iter().filter(|(other, _)| *other > seq) {
            let passed_over = entry.since.1 <= *since;
            assert!(!passed_over, "queue {}: {seq} came after {later} and was there first", queue.name);
        }
        if queue.consumers.len() == 1
            && let Some((first, earlier)) = queue.first_certain()
        {
            let passed_over = first < seq && earlier.since.1 <= entry.since.0;
            assert!(!passed_over, "queue {}: {seq} came before {first}, which was there first", queue.name);
        }
    }

    fn judge_get(
        &mut self,
        key: ChannelKey,
        queue: &str,
        no_ack: bool,
        ok: &BasicGetOk<'_>,
        content: &Content,
    ) -> Option<Event> {
        let id = self.names[queue];
        let seq = self.judge_message(id, (ok.exchange, ok.routing_key), ok.redelivered, content);
        self.take_tag(key, ok.delivery_tag);
        let found = self.queues.get_mut(&id).expect("it is there");
        let is_first = found.first_certain().is_none_or(|(first, _)| first >= seq);
        let is_new = !ok.redelivered;
        assert!(!is_new || seq > found.last_given, "queue {queue}: {seq} is new, and later ones were given");
        found.hold(seq);
        let (left, said) = (found.unheld(), u64::from(ok.message_count));
        if found.consumers.is_empty() {
            assert!(is_first, "queue {queue}: get took {seq}, not the head");
            assert!(said == left, "queue {queue}: get says {said} are left, expected {left}");
        }
        assert!(said <= left, "queue {queue}: get says {said} are left, at most {left} are");
        if no_ack {
            found.entries.remove(&seq);
            return None;
        }
        self.channel(key).unacked.insert(ok.delivery_tag, Held { queue: id, seq, consumer: None });
        Some(Event::Delivered { channel: key.1, tag: ok.delivery_tag })
    }

    fn judge_empty(&self, queue: &str) {
        let found = &self.queues[&self.names[queue]];
        let left = found.unheld();
        assert!(left == 0 || !found.consumers.is_empty(), "get found queue {queue} empty, {left} are left");
    }

    fn judge_delete(&mut self, queue: &str, if_empty: bool, removed: u64) {
        let Some(&id) = self.names.get(queue) else {
            assert!(removed == 0, "{removed} messages of a queue that is not there");
            return;
        };
        self.note_logged(is_durable(queue));
        let found = &self.queues[&id];
        let left = found.unheld();
        assert!(removed <= left, "queue {queue} was deleted with {removed} messages of {left}");
        assert!(!if_empty || removed == 0, "queue {queue} was deleted and not empty");
        assert!(!found.consumers.is_empty() || removed == left, "deleted with {removed} messages of {left}");
        self.delete(id);
    }

    fn judge_counts(&self, queue: &str, ok: &QueueDeclareOk<'_>) {
        let found = &self.queues[&self.names[queue]];
        let (ready, consumers) = (u64::from(ok.message_count), ok.consumer_count as usize);
        assert!(ok.queue == queue, "declared {queue}, told {}", ok.queue);
        assert!(consumers == found.consumers.len(), "queue {queue}: {consumers} consumers");
        let unheld = found.unheld();
        assert!(ready <= unheld, "queue {queue}: {ready} are ready, at most {unheld} are");
        let exact = self.at_rest || found.consumers.is_empty();
        assert!(!exact || ready == unheld, "queue {queue}: {ready} are ready, expected {unheld}");
    }

    fn judge_confirm(&mut self, key: ChannelKey, ack: BasicAck) -> Option<Event> {
        let confirms = self.channel(key).confirms.as_mut().expect("the channel is in confirm mode");
        let BasicAck { delivery_tag: tag, multiple } = ack;
        let (published, acked) = (confirms.published, confirms.acked);
        assert!(tag <= published, "publish {tag} is confirmed, {published} were published");
        assert!(tag > acked, "publish {tag} is confirmed again, all up to {acked} were");
        assert!(multiple || tag == acked + 1, "publish {tag} is confirmed alone, only up to {acked} were");
        confirms.acked = tag;
        let count = (tag - acked) as usize;
        self.logged_behind = confirms.logged_behind.drain(..count).flatten().max();
        None
    }

    /// A mandatory message no queue took: at once, or before commit-ok.
    fn judge_return(&mut self, key: ChannelKey, returned: &BasicReturn<'_>, content: &Content) {
        let front = self.peer(key.0).processed.front().cloned();
        let message = match front {
            Some((channel, Op::Publish(message))) if channel == key.1 => {
                self.peer(key.0).processed.pop_front();
                self.hand_over_returns();
                self.publish(key, &message);
                message
            }
            Some((channel, Op::TxCommit)) if channel == key.1 => {
                let mut tx = self.channel(key).tx.take().expect("a transaction is open");
                let next = self.next_returned(&tx).expect("one is to be returned");
                tx.returned.insert(next.id);
                self.channel(key).tx = Some(tx);
                next
            }
            other => panic!("a return out of place, expected an answer to {other:?}"),
        };
        let id = self.message(content).id;
        assert!(message.id == id, "message {id} was returned, expected {}", message.id);
        check_same(&message, (returned.exchange, returned.routing_key), content);
    }

    fn message(&self, content: &Content) -> Rc<Message> {
        let properties = Properties::parse(&content.properties).expect("properties");
        let id = properties.message_id().and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let id: u64 = id.expect("a message-id of ours");
        Rc::clone(self.messages.get(&id).unwrap_or_else(|| panic!("message {id} was not published yet")))
    }

    fn take_tag(&mut self, key: ChannelKey, tag: u64) {
        let channel = self.channel(key);
        channel.last_tag += 1;
        let expected = channel.last_tag;
        assert!(tag == expected, "channel {}: delivery tag {tag}, expected {expected}", key.1);
    }
}

fn check_same(message: &Message, (exchange, key): (&[u8], &[u8]), content: &Content) {
    let id = message.id;
    assert!(
        exchange == message.exchange.as_bytes() && key == message.key.as_bytes(),
        "names of {id} changed"
    );
    assert!(content.properties == message.properties, "properties of message {id} changed");
    assert!(content.body == message.body, "body of message {id} changed");
}

fn next_frame<'a>(said: &'a [u8], at: &mut usize, frame_max: u32) -> FrameView<'a> {
    let payload_max = frame_max - FRAME_OVERHEAD as u32;
    let frame = frame::peek(&said[*at..], payload_max).expect("a frame").expect("a whole frame");
    *at += frame.wire_bytes();
    frame
}

fn read_content(said: &[u8], at: &mut usize, frame_max: u32, channel: u16) -> Content {
    let frame = next_frame(said, at, frame_max);
    assert!(frame.kind == FrameKind::Header && frame.channel == channel, "a header follows");
    let header = ContentHeader::parse(frame.payload).expect("a content header");
    let (properties, mut body) = (header.properties.to_vec(), Vec::new());
    while (body.len() as u64) < header.body_bytes {
        let frame = next_frame(said, at, frame_max);
        assert!(frame.kind == FrameKind::Body && frame.channel == channel, "a body follows");
        assert!(!frame.payload.is_empty(), "a body frame holds something");
        body.extend_from_slice(frame.payload);
    }
    assert!(body.len() as u64 == header.body_bytes, "the body is longer than announced");
    Content { properties, body }
}
