//! Queues come and go.

use std::sync::Arc;

use crate::auth::permissions::Access;
use crate::broker::arguments::{self, Equivalence};
use crate::broker::error::{BrokerError, Resource, ResourceKind};
use crate::broker::names;
use crate::broker::node::ConnectionId;
use crate::broker::outbox::Outbox;
use crate::broker::queue::handle::{Queue, QueueProperties};
use crate::broker::queue::letters::LettersDue;
use crate::broker::queue::lifecycle::{Ended, Removed};
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{Actor, Vhost, check_new_name, check_owner};
use crate::broker::wakes::Wakes;
use crate::message::fact::Definition;
use crate::message::place::Lsn;
use crate::protocol::field::Field;
use crate::protocol::table::{Table, TableBuf};
use crate::queue::settings::QueueKind;

/// What queue.declare asks for.
#[derive(Clone, Copy, Debug)]
pub struct QueueRequest<'a> {
    /// Its name; empty for one the broker makes up.
    pub name: &'a str,
    /// It survives a restart.
    pub durable: bool,
    /// It belongs to the connection.
    pub exclusive: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// Its arguments.
    pub arguments: Table<'a>,
}

/// What queue.declare answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredQueue {
    /// Its name.
    pub name: String,
    /// Messages ready.
    pub messages: u64,
    /// Consumers.
    pub consumers: usize,
    /// What the answer waits for.
    pub after: Lsn,
}

impl Vhost {
    /// queue.declare with `passive`: its counts, if it is there.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Locked`].
    pub fn check_queue(&self, actor: &Actor, name: &str) -> Result<DeclaredQueue, BrokerError> {
        Ok(self.declared(&*self.find_queue(name, actor)?))
    }

    /// queue.declare: makes the queue, or checks that it is as described.
    ///
    /// # Errors
    /// Every refusal of queue.declare.
    pub fn declare_queue(
        &self,
        actor: &Actor,
        request: &QueueRequest<'_>,
    ) -> Result<DeclaredQueue, BrokerError> {
        let generated;
        let name = if request.name.is_empty() {
            generated = names::generate("amq.gen-");
            generated.as_str()
        } else {
            check_new_name(ResourceKind::Queue, request.name)?;
            request.name
        };
        let arguments = self.with_default_kind(request);
        let request = &QueueRequest {
            arguments: arguments.as_ref().map_or(request.arguments, TableBuf::as_table),
            ..*request
        };
        self.check_access(actor, Access::Configure, ResourceKind::Queue, name)?;
        let resource = self.resource(ResourceKind::Queue, name);
        if let Some(exchange) = arguments::dead_letter_exchange(request.arguments, &resource)? {
            self.check_access(actor, Access::Read, ResourceKind::Queue, name)?;
            self.check_access(actor, Access::Write, ResourceKind::Exchange, exchange)?;
        }
        // An exclusive queue dies with its connection: it is never durable.
        let durable = request.durable && !request.exclusive;
        let _definitions = self.definitions.lock();
        if let Some(queue) = self.queue(name) {
            check_same(&queue, actor, durable, request)?;
            return Ok(self.declared(&queue));
        }
        self.check_open()?;
        let kind = arguments::check_queue_arguments(request.arguments, &resource)?;
        check_kind(kind, &resource, request)?;
        let limit = self.node.limits().queues_per_vhost_max as u64;
        let limit = self.limits().queues_max.map_or(limit, |own| own.min(limit));
        if self.queues.len() as u64 >= limit {
            return Err(BrokerError::Precondition(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({limit}) is reached",
                self.name
            )));
        }
        Ok(self.declared(&self.insert_queue(name, actor, durable, request)))
    }

    /// The arguments with the virtual host's own kind of queue, where they name none and the queue can be of that kind.
    fn with_default_kind(&self, request: &QueueRequest<'_>) -> Option<TableBuf> {
        let kind = self.limits().default_queue_kind;
        let QueueRequest { durable, exclusive, auto_delete, .. } = *request;
        let can_be = durable && !exclusive && !auto_delete && !request.name.is_empty();
        let is_told = request.arguments.get("x-queue-type").is_some();
        if kind == QueueKind::Classic || is_told || !can_be {
            return None;
        }
        let mut arguments = TableBuf::from(request.arguments);
        arguments.insert("x-queue-type", Field::LongStr(kind.name().as_bytes()));
        Some(arguments)
    }

    fn insert_queue(
        &self,
        name: &str,
        actor: &Actor,
        durable: bool,
        request: &QueueRequest<'_>,
    ) -> Arc<Queue> {
        let id = self.node.next_queue_id();
        let _applying = durable.then(|| {
            self.log_definition(Definition::QueueDeclared {
                queue: id,
                vhost: &self.name,
                name,
                auto_delete: request.auto_delete,
                arguments: request.arguments.as_bytes(),
            })
        });
        let properties = QueueProperties {
            name: name.into(),
            vhost: Arc::clone(&self.name),
            durable,
            auto_delete: request.auto_delete,
            exclusive_to: request.exclusive.then_some(actor.connection),
            arguments: request.arguments.as_bytes().into(),
        };
        let queue = Arc::new(Queue::new(id, properties, Arc::clone(&self.node)));
        if !self.policies().is_empty() {
            queue.begin_under(&self.policies);
        }
        if durable {
            self.node.register(&queue);
        }
        self.queues.insert(name.into(), Arc::clone(&queue));
        self.routes_changed();
        queue
    }

    /// A queue whose messages somebody may have: for queue.purge, whose caller removes them by [`Queue::purge_some`], a turn at
    /// a time, and for a look at them.
    ///
    /// # Errors
    /// Every refusal of queue.purge.
    pub fn find_to_read(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, BrokerError> {
        self.check_access(actor, Access::Read, ResourceKind::Queue, name)?;
        self.find_queue(name, actor)
    }

    /// queue.delete: how many ready messages went with it, and what is left to be done, which knows what the answer
    /// waits for. The queue is gone at once. One that is not there is deleted already.
    ///
    /// # Errors
    /// Every refusal of queue.delete.
    pub fn delete_queue(
        &self,
        actor: &Actor,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<(Removed, Removal), BrokerError> {
        self.check_access(actor, Access::Configure, ResourceKind::Queue, name)?;
        let _definitions = self.definitions.lock();
        let Some(queue) = self.queue(name) else {
            return Ok((Removed { messages: 0 }, Removal::nothing(self.last_definition())));
        };
        check_owner(&queue, actor)?;
        if queue.kind == QueueKind::Quorum {
            for (flag, is_set) in [("if-unused", if_unused), ("if-empty", if_empty)] {
                if is_set {
                    return Err(BrokerError::NotImplemented(format!(
                        "cannot delete {}. queue.delete operations with {flag} flag set are not supported by \
                         quorum queues",
                        queue.resource()
                    )));
                }
            }
        }
        self.end_queue(&queue, if_unused, if_empty)
    }

    /// The queue whose dead letters a queue.delete waits for before it deletes it by [`Vhost::delete_queue`]: `leaver` is
    /// signalled when to ask again, with the same `due`. None where nothing is to be waited for, or it will be refused.
    pub fn find_owing_letters(
        &self,
        actor: &Actor,
        name: &str,
        (if_unused, if_empty): (bool, bool),
        due: &mut LettersDue,
        leaver: Option<&Arc<Outbox>>,
        wakes: &mut Wakes,
    ) -> Option<Arc<Queue>> {
        let queue = self.queue(name).filter(|queue| queue.buries())?;
        let may_delete = self.check_access(actor, Access::Configure, ResourceKind::Queue, name).is_ok()
            && check_owner(&queue, actor).is_ok()
            && queue.is_removable(if_unused, if_empty);
        (may_delete && queue.owes_letters(due, leaver, wakes)).then_some(queue)
    }

    /// Deletes a queue that lost its last consumer and is to go with it, unless another one came meanwhile. What is
    /// left to be done. One whose dead letters have not gone yet goes after them.
    pub fn delete_unused_queue(&self, queue: &Arc<Queue>, wakes: &mut Wakes) -> Removal {
        if queue.outlasts_its_use(wakes) {
            return Removal::default();
        }
        let _definitions = self.definitions.lock();
        // In use again: then it stays, which is what the refusal says.
        self.end_queue(queue, true, false).map(|(_, removal)| removal).unwrap_or_default()
    }

    /// Deletes a queue that has been unused for as long as it may, unless it was used meanwhile.
    pub(in crate::broker) fn delete_expired_queue(&self, queue: &Arc<Queue>, now_ms: u64) -> Removal {
        let _definitions = self.definitions.lock();
        if !queue.has_expired(now_ms) {
            return Removal::default();
        }
        self.end_queue(queue, true, false).map(|(_, removal)| removal).unwrap_or_default()
    }

    /// Deletes a queue that belongs to a connection that ends.
    pub(super) fn delete_exclusive_queue(&self, name: &str, owner: ConnectionId) -> Removal {
        let _definitions = self.definitions.lock();
        let Some(queue) = self.queue(name) else { return Removal::default() };
        if queue.properties.exclusive_to != Some(owner) {
            return Removal::default();
        }
        // Nothing is asked that could be refused.
        self.end_queue(&queue, false, false).map(|(_, removal)| removal).unwrap_or_default()
    }

    /// Makes a queue gone, under the definitions lock. Its bindings are still there for [`Removal`] to take away.
    pub(super) fn end_queue(
        &self,
        queue: &Arc<Queue>,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<(Removed, Removal), BrokerError> {
        if queue.is_deleted() {
            return Ok((Removed { messages: 0 }, Removal::default()));
        }
        let Ended { removed, remnant, logged } = queue.remove(if_unused, if_empty)?;
        let _applying = logged.map(|(logged, applying)| {
            self.note_definition(logged.end);
            applying
        });
        self.queues.remove(&queue.properties.name);
        self.routes_changed();
        Ok((removed, Removal::of_queue(queue, remnant, self.answer_about(queue.properties.durable))))
    }

    fn declared(&self, queue: &Queue) -> DeclaredQueue {
        let (messages, consumers) = queue.counts();
        let name = queue.properties.name.to_string();
        let after = self.answer_about(queue.properties.durable);
        DeclaredQueue { name, messages, consumers, after }
    }
}

/// What a quorum queue cannot be.
fn check_kind(kind: QueueKind, resource: &Resource, request: &QueueRequest<'_>) -> Result<(), BrokerError> {
    if kind == QueueKind::Classic {
        return Ok(());
    }
    if request.name.is_empty() {
        return Err(BrokerError::Precondition(format!(
            "Cannot declare a server-named queue for type {}",
            kind.module()
        )));
    }
    let properties = [
        ("auto-delete", request.auto_delete),
        ("exclusive-owner", request.exclusive),
        ("non-durable", !request.durable),
    ];
    match properties.iter().find(|(_, is_set)| *is_set) {
        Some((property, _)) => {
            Err(BrokerError::Precondition(format!("invalid property '{property}' for {resource}")))
        }
        None => Ok(()),
    }
}

fn check_same(
    queue: &Queue,
    actor: &Actor,
    durable: bool,
    request: &QueueRequest<'_>,
) -> Result<(), BrokerError> {
    let current = &queue.properties;
    // Exclusivity comes first: whose it is matters before what it is.
    if request.exclusive != current.exclusive_to.is_some() {
        return Err(BrokerError::Locked(queue.resource()));
    }
    check_owner(queue, actor)?;
    let same = Equivalence::of(queue.resource());
    same.check_flag("durable", durable, current.durable)?;
    same.check_flag("auto_delete", request.auto_delete, current.auto_delete)?;
    same.check_arguments(arguments::compared_of(queue.kind), request.arguments, &current.arguments)
}
