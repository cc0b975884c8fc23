//! What administrators say about a virtual host: policies, limits, and that it is to go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;

use crate::broker::error::BrokerError;
use crate::broker::policy::Policies;
use crate::broker::vhost::removal::Removal;
use crate::broker::vhost::{Vhost, VhostLimits};
use crate::broker::wakes::Wakes;

/// Objects that have not heard of changed policies yet.
#[derive(Debug)]
pub struct Following {
    vhost: Arc<Vhost>,
    queues: VecDeque<Box<str>>,
    exchanges: VecDeque<Box<str>>,
}

impl Following {
    /// Tells some of them, as many as a turn allows. Whether all know by now.
    pub fn step(&mut self, wakes: &mut Wakes) -> bool {
        let vhost = &self.vhost;
        while !wakes.is_turn_over() {
            // Each policy is compared with the name.
            wakes.count(1 + vhost.policies().steps());
            if let Some(name) = self.exchanges.pop_front() {
                if let Some(exchange) = vhost.exchange(&name) {
                    exchange.follow(&vhost.policies);
                }
            } else if let Some(name) = self.queues.pop_front() {
                if let Some(queue) = vhost.queue(&name) {
                    queue.follow(&vhost.policies, wakes);
                }
            } else {
                // Whether queues refuse what is published is a part of routes.
                vhost.routes_changed();
                return true;
            }
        }
        false
    }
}

impl Vhost {
    /// Its policies.
    pub fn policies(&self) -> Guard<Arc<Policies>> {
        self.policies.load()
    }

    /// Its limits and defaults.
    pub fn limits(&self) -> Guard<Arc<VhostLimits>> {
        self.limits.load()
    }

    /// It has these policies from now on. What is declared from now on follows them; the others are still to be told.
    pub(in crate::broker) fn set_policies(self: &Arc<Self>, policies: Policies) -> Following {
        // Who declares holds this from reading policies until what is declared can be listed.
        let definitions = self.definitions.lock();
        self.policies.store(Arc::new(policies));
        drop(definitions);
        let queues = self.queues.iter().map(|entry| entry.key().clone()).collect();
        let exchanges = self.exchanges.iter().map(|entry| entry.key().clone()).collect();
        Following { vhost: Arc::clone(self), queues, exchanges }
    }

    /// It has these policies when it is made again, with everything still to come.
    pub(in crate::broker) fn restore_policies(&self, policies: Policies) {
        self.policies.store(Arc::new(policies));
    }

    pub(in crate::broker) fn change_limits(&self, change: impl Fn(&mut VhostLimits)) {
        self.limits.rcu(|limits| {
            let mut limits = VhostLimits::clone(limits);
            change(&mut limits);
            limits
        });
    }

    /// It is about to be deleted: nothing is declared in it any more, and nobody opens it.
    pub(in crate::broker) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether it is being deleted.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Refuses what is new when it is being deleted. Under the definitions lock.
    pub(super) fn check_open(&self) -> Result<(), BrokerError> {
        if self.is_closing() {
            return Err(BrokerError::Precondition(format!("vhost '{}' is being deleted", self.name)));
        }
        Ok(())
    }

    /// Ends some of what is in it, when it is to go itself: what is left to do of that, or nothing when all is gone.
    pub(in crate::broker) fn end_some(&self, most: usize) -> Option<Removal> {
        let _definitions = self.definitions.lock();
        let mut removal = Removal::nothing(self.last_definition());
        let queues: Vec<_> = self.queues.iter().take(most).map(|entry| Arc::clone(&entry)).collect();
        for queue in &queues {
            // Nothing is asked that could be refused.
            if let Ok((_, one)) = self.end_queue(queue, false, false) {
                removal = removal.and(one);
            }
        }
        // Those that were there from the start as well: the log remembers bindings between them.
        let exchanges: Vec<_> = self.exchanges.iter().take(most).map(|entry| Arc::clone(&entry)).collect();
        for exchange in &exchanges {
            let delays = self.end_exchange(exchange);
            removal = removal.and(Removal::of_exchange(exchange, self.last_definition())).and(delays);
        }
        if queues.is_empty() && exchanges.is_empty() {
            return None;
        }
        Some(removal.waiting_for(self.last_definition()))
    }
}
