//! Wakes owed to connections, paid after the burst and outside every lock.

use std::task::Waker;

use smallvec::SmallVec;

/// Tasks to be woken.
#[derive(Debug, Default)]
pub struct Wakes(SmallVec<[Waker; 4]>);

impl Wakes {
    /// One more task that must learn of something.
    pub fn owe(&mut self, waker: Waker) {
        self.0.push(waker);
    }

    /// Wakes them all.
    pub fn fire(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}
