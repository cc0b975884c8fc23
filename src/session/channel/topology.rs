//! Declaring, binding, purging, deleting: classes exchange and queue.

use std::sync::Arc;

use bytes::BytesMut;

use crate::broker::error::{BrokerError, ResourceKind};
use crate::broker::queue::handle::Queue;
use crate::broker::queue::letters::LettersDue;
use crate::broker::reply_to::{REPLY_TO, is_reply_name};
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{BindingRequest, Bound, DeclaredQueue, ExchangeRequest, QueueRequest};
use crate::message::place::Lsn;
use crate::protocol::frame;
use crate::protocol::methods::{
    ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete, ExchangeDeleteOk, ExchangeUnbindOk,
    Method, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge, QueueUnbindOk,
};
use crate::protocol::reply::ReplyCode;
use crate::protocol::table::Table;
use crate::session::channel::Channel;
use crate::session::chore::{Chore, Purge};
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::session::waiting::{Asked, Deletion, Waiting};

/// What a change of definitions costs, in steps of which each is a message's.
const DEFINITION_STEPS: u32 = 10;
/// Who deletes a queue waits for its dead letters no longer.
const LETTERS_PATIENCE_MS: u64 = 10 * 1000;

impl Channel {
    pub(super) fn on_topology(&mut self, link: &mut Link, method: &Method<'_>) -> Result<(), Refusal> {
        link.wakes.count(steps_of(method));
        if matches!(method, Method::QueueDeclare(_) | Method::ExchangeDeclare(_)) {
            link.wakes.count(link.vhost.policies().steps());
        }
        match method {
            Method::ExchangeDeclare(declare) => self.on_exchange_declare(link, declare),
            Method::ExchangeDelete(delete) => self.on_exchange_delete(link, delete),
            Method::ExchangeBind(bind) => {
                let (source, destination) =
                    (without_line_ends(bind.source), without_line_ends(bind.destination));
                let request = exchange_binding(&source, &destination, bind.routing_key, bind.arguments);
                let bound = link.vhost.bind(&link.actor, &request)?;
                self.answer_bind(link, bound, bind.nowait, &Method::ExchangeBindOk(ExchangeBindOk {}));
                Ok(())
            }
            Method::ExchangeUnbind(unbind) => {
                let (source, destination) =
                    (without_line_ends(unbind.source), without_line_ends(unbind.destination));
                let request = exchange_binding(&source, &destination, unbind.routing_key, unbind.arguments);
                let removal = link.vhost.unbind(&link.actor, &request)?;
                self.remove(link, removal, unbind.nowait, &Method::ExchangeUnbindOk(ExchangeUnbindOk {}));
                Ok(())
            }
            Method::QueueDeclare(declare) => self.on_queue_declare(link, declare),
            Method::QueueDelete(delete) => self.on_queue_delete(link, delete),
            Method::QueuePurge(purge) => self.on_queue_purge(link, purge),
            Method::QueueBind(bind) => {
                let (queue, key) = self.binding_names(bind.queue, bind.routing_key)?;
                let source = without_line_ends(bind.exchange);
                let bound =
                    link.vhost.bind(&link.actor, &queue_binding(&source, &queue, &key, bind.arguments))?;
                self.answer_bind(link, bound, bind.nowait, &Method::QueueBindOk(QueueBindOk {}));
                Ok(())
            }
            Method::QueueUnbind(unbind) => {
                let (queue, key) = self.binding_names(unbind.queue, unbind.routing_key)?;
                let source = without_line_ends(unbind.exchange);
                let request = queue_binding(&source, &queue, &key, unbind.arguments);
                let removal = link.vhost.unbind(&link.actor, &request)?;
                self.remove(link, removal, false, &Method::QueueUnbindOk(QueueUnbindOk {}));
                Ok(())
            }
            _ => Err(Refusal::unimplemented_method()),
        }
    }

    fn on_exchange_declare(&self, link: &mut Link, declare: &ExchangeDeclare<'_>) -> Result<(), Refusal> {
        let name = without_line_ends(declare.exchange);
        let after = if declare.passive {
            link.vhost.check_exchange(&name)?
        } else {
            let request = ExchangeRequest {
                name: &name,
                kind: declare.kind,
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                internal: declare.internal,
                arguments: declare.arguments,
            };
            link.vhost.declare_exchange(&link.actor, &request)?
        };
        self.reply(link, after, declare.nowait, &Method::ExchangeDeclareOk(ExchangeDeclareOk {}));
        Ok(())
    }

    fn on_exchange_delete(&self, link: &mut Link, delete: &ExchangeDelete<'_>) -> Result<(), Refusal> {
        let name = without_line_ends(delete.exchange);
        let was_there = link.vhost.exchange(&name).is_some();
        let removal = link.vhost.delete_exchange(&link.actor, &name, delete.if_unused)?;
        if was_there {
            tell(link, "exchange deleted", &name);
        }
        self.remove(link, removal, delete.nowait, &Method::ExchangeDeleteOk(ExchangeDeleteOk {}));
        Ok(())
    }

    fn on_queue_declare(&mut self, link: &mut Link, declare: &QueueDeclare<'_>) -> Result<(), Refusal> {
        let name = without_line_ends(declare.queue);
        let declared = if is_reply_name(&name) {
            declare_reply_queue(link, &name)?
        } else if declare.passive {
            link.vhost.check_queue(&link.actor, &name)?
        } else {
            let request = QueueRequest {
                name: &name,
                durable: declare.durable,
                exclusive: declare.exclusive,
                auto_delete: declare.auto_delete,
                arguments: declare.arguments,
            };
            link.vhost.declare_queue(&link.actor, &request)?
        };
        if let Some(queue) = link.vhost.queue(&declared.name) {
            queue.renew_lease(&mut link.wakes);
        }
        if declare.exclusive {
            let is_there = |name: &str| link.vhost.queue(name).is_some();
            link.exclusive_queues.insert(&declared.name, is_there);
        }
        link.node().churn.queues_declared.add(1);
        let ok = QueueDeclareOk {
            queue: &declared.name,
            message_count: u32::try_from(declared.messages).unwrap_or(u32::MAX),
            consumer_count: u32::try_from(declared.consumers).unwrap_or(u32::MAX),
        };
        self.reply(link, declared.after, declare.nowait, &Method::QueueDeclareOk(ok));
        self.last_queue = declared.name;
        Ok(())
    }

    fn on_queue_delete(&self, link: &mut Link, delete: &QueueDelete<'_>) -> Result<(), Refusal> {
        let QueueDelete { if_unused, if_empty, nowait, .. } = *delete;
        let queue = self.queue_or_last(delete.queue)?;
        self.delete_queue(
            link,
            Deletion { queue, if_unused, if_empty, nowait, due: LettersDue::within(LETTERS_PATIENCE_MS) },
        )
    }

    /// As [`Channel::delete_queue`], after a while: what has the name by now may be another queue, and that one stays.
    pub fn go_on_deleting(
        &self,
        link: &mut Link,
        deletion: Deletion,
        of: &Arc<Queue>,
    ) -> Result<(), Refusal> {
        if link.vhost.queue(&deletion.queue).is_some_and(|now| Arc::ptr_eq(&now, of)) {
            return self.delete_queue(link, deletion);
        }
        let gone = Removal::nothing(link.vhost.last_definition());
        self.remove(link, gone, deletion.nowait, &Method::QueueDeleteOk(QueueDeleteOk { message_count: 0 }));
        Ok(())
    }

    /// Deletes a queue. While it has dead letters that have not gone the connection waits, and takes nothing else.
    pub fn delete_queue(&self, link: &mut Link, mut deletion: Deletion) -> Result<(), Refusal> {
        let Deletion { queue: name, if_unused, if_empty, nowait, due } = &mut deletion;
        let (flags, leaver) = ((*if_unused, *if_empty), Some(&link.outbox));
        let owing = link.vhost.find_owing_letters(&link.actor, name, flags, due, leaver, &mut link.wakes);
        if let Some(noted_at) = owing {
            let (channel, asked) = (self.number, Asked::Delete(deletion));
            link.waiting = Some(Waiting { channel, noted_at, asked });
            return Ok(());
        }
        let was_there = link.vhost.queue(name).is_some();
        let (removed, removal) = link.vhost.delete_queue(&link.actor, name, *if_unused, *if_empty)?;
        // What only its own client knew is nobody else's business.
        if !link.exclusive_queues.remove(name) && was_there {
            tell(link, "queue deleted", name);
        }
        let message_count = u32::try_from(removed.messages).unwrap_or(u32::MAX);
        self.remove(link, removal, *nowait, &Method::QueueDeleteOk(QueueDeleteOk { message_count }));
        Ok(())
    }

    fn on_queue_purge(&self, link: &mut Link, purge: &QueuePurge<'_>) -> Result<(), Refusal> {
        let name = self.queue_or_last(purge.queue)?;
        let queue = link.vhost.find_to_read(&link.actor, &name)?;
        if queue.properties.exclusive_to.is_none() {
            tell(link, "queue purged", &name);
        }
        let (channel, left, nowait) = (self.number, queue.counts().0, purge.nowait);
        // A purge that a crash undoes is allowed to come undone: nothing waits for it.
        link.chores.push_back(Chore::Purge(Purge { channel, queue, left, purged: 0, nowait }));
        Ok(())
    }

    fn reply(&self, link: &mut Link, after: Lsn, nowait: bool, method: &Method<'_>) {
        if !nowait {
            link.send_after(self.number, after, method);
        }
    }

    /// What was deleted leaves something to do, a turn at a time; then the client is answered.
    fn remove(&self, link: &mut Link, removal: Removal, nowait: bool, method: &Method<'_>) {
        link.chores.push_back(Chore::Remove { removal, answer: self.answer(nowait, method) });
    }

    /// What the exchange remembers reaches its new destination, a turn at a time; then the client is answered.
    fn answer_bind(&self, link: &mut Link, bound: Bound, nowait: bool, method: &Method<'_>) {
        let Some(recalled) = bound.recalled else { return self.reply(link, bound.after, nowait, method) };
        let answer = self.answer(nowait, method);
        link.chores.push_back(Chore::Recall { recalled, after: bound.after, answer });
    }

    /// The channel and the frame that a chore ends with; an empty one when nobody waits for it.
    fn answer(&self, nowait: bool, method: &Method<'_>) -> (u16, BytesMut) {
        let mut bytes = BytesMut::new();
        if !nowait {
            frame::put_method(&mut bytes, self.number, method);
        }
        (self.number, bytes)
    }

    /// The named queue; an empty name stands for the last one declared on this channel.
    pub(super) fn queue_or_last(&self, name: &str) -> Result<String, Refusal> {
        match (name.is_empty(), self.last_queue.is_empty()) {
            (true, true) => Err(BrokerError::NoPreviousQueue.into()),
            (true, false) => Ok(self.last_queue.clone()),
            (false, _) => Ok(without_line_ends(name)),
        }
    }

    /// Where both the queue's name and the key are empty, the last queue's name is both.
    fn binding_names(&self, queue: &str, key: &str) -> Result<(String, String), Refusal> {
        let resolved = self.queue_or_last(queue)?;
        let key = if queue.is_empty() && key.is_empty() { resolved.clone() } else { key.to_owned() };
        Ok((resolved, key))
    }
}

fn queue_binding<'a>(
    source: &'a str,
    queue: &'a str,
    key: &'a str,
    arguments: Table<'a>,
) -> BindingRequest<'a> {
    BindingRequest { source, kind: ResourceKind::Queue, destination: queue, key, arguments }
}

fn exchange_binding<'a>(
    source: &'a str,
    destination: &'a str,
    key: &'a str,
    arguments: Table<'a>,
) -> BindingRequest<'a> {
    BindingRequest { source, kind: ResourceKind::Exchange, destination, key, arguments }
}

/// How many steps a change of definitions counts: it costs as much as so many messages, and an exchange may file a
/// binding under each of its arguments.
fn steps_of(method: &Method<'_>) -> u32 {
    let arguments = match method {
        Method::QueueBind(bind) => bind.arguments.len(),
        Method::QueueUnbind(unbind) => unbind.arguments.len(),
        Method::ExchangeBind(bind) => bind.arguments.len(),
        Method::ExchangeUnbind(unbind) => unbind.arguments.len(),
        _ => 0,
    };
    DEFINITION_STEPS + u32::try_from(arguments).unwrap_or(u32::MAX)
}

/// Tells what a client has done that no other client can undo.
fn tell(link: &Link, does: &str, name: &str) {
    link.broker.audit.deed(&link.actor.user, link.vhost.name(), does, name, link.now.instant);
}

/// A reply consumer looks like a queue with one consumer.
fn declare_reply_queue(link: &Link, name: &str) -> Result<DeclaredQueue, Refusal> {
    if name == REPLY_TO || link.broker.replies.contains(name) {
        return Ok(DeclaredQueue { name: name.to_owned(), messages: 0, consumers: 1, after: Lsn::default() });
    }
    Err(Refusal::new(ReplyCode::NotFound, format!("no queue '{name}' in vhost '{}'", link.vhost.name())))
}

/// RabbitMQ strips line ends from names.
fn without_line_ends(name: &str) -> String {
    name.replace(['\r', '\n'], "")
}
