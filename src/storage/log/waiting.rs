//! Who waits for the log to be durable: each task once, however often it asks.
//!
//! A connection asks whenever it has looked around, and while the disk is full it looks around often.

use std::collections::HashMap;
use std::mem;
use std::task::Waker;

use foldhash::fast::RandomState;

use crate::message::place::Lsn;

/// Tasks to wake, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    list: Vec<Waiter>,
    /// Where in the list each is.
    places: HashMap<WakerKey, usize, RandomState>,
    /// The room of a list whose tasks are woken.
    spare: Vec<Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    waker: Waker,
    /// Up to where it has asked not to be kept waiting.
    until: Lsn,
}

/// What wakers have in common that wake the same task, as in [`Waker::will_wake`]. The list keeps the waker that a key is
/// of, so that no other can be in the same place.
type WakerKey = (usize, usize);

fn key(waker: &Waker) -> WakerKey {
    (waker.data() as usize, std::ptr::from_ref(waker.vtable()) as usize)
}

impl Waiting {
    /// The task waits for `lsn`. `false` when that is no news.
    pub(super) fn add(&mut self, lsn: Lsn, waker: &Waker) -> bool {
        let known = self.places.get(&key(waker)).and_then(|at| self.list.get_mut(*at));
        if let Some(waiter) = known {
            let is_later = lsn > waiter.until;
            waiter.until = waiter.until.max(lsn);
            return is_later;
        }
        let waker = waker.clone();
        self.places.insert(key(&waker), self.list.len());
        self.list.push(Waiter { waker, until: lsn });
        true
    }

    /// Those to wake, who wait no longer.
    pub(super) fn take(&mut self) -> Vec<Waiter> {
        if self.list.is_empty() {
            return Vec::new();
        }
        self.places.clear();
        mem::replace(&mut self.list, mem::take(&mut self.spare))
    }

    /// Takes back the room of a list.
    pub(super) fn give_back(&mut self, room: Vec<Waiter>) {
        self.spare = room;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

impl Waiter {
    pub(super) fn wake(self) {
        self.waker.wake();
    }
}
