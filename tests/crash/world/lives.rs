//! Processes, one after the other: how each begins, and how it ends.
//!
//! It stops by itself, it crashes, or something ends it: a fault, of which the thread that it hits may be the only one to
//! know for a while. What the disk holds then is looked at on a copy, and the shadow goes on from there.

use std::rc::Rc;
use std::sync::Arc;

use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::error::StoreError;

use crate::check;
use crate::life::Life;
use crate::watched::WatchedDisk;
use crate::world::{CLIENTS, World, watch_nothing_while};

const STEPS_PER_LIFE: [u64; 3] = [150, 300, 700];
/// The step in which the first shortage begins, and how many pass before there is more room or less.
const SHORTAGE_BEGINS: u64 = 60;
const SHORTAGE_STEPS: u64 = 20;

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Crashed,
    Stopped,
    /// It stopped, and its last word may have failed; or it never came to serve anybody.
    Unknown,
}

impl World {
    pub(super) fn live(&self, number: u64) {
        self.start(number);
        let steps = STEPS_PER_LIFE[self.roll(3) as usize];
        for step in 0..steps {
            if self.is_short && step >= SHORTAGE_BEGINS && step.is_multiple_of(SHORTAGE_STEPS) {
                self.change_room();
            }
            self.step();
            if self.failure.borrow().is_some() {
                return self.fail();
            }
            match self.outlives.get() {
                Some(0) => return self.crash(),
                left => self.outlives.set(left.map(|left| left - 1)),
            }
        }
        if self.is_short {
            self.disk.borrow().set_capacity(u64::MAX);
        }
        if self.outlives.get().is_none() && self.roll(2) == 0 { self.stop() } else { self.crash() }
    }

    /// Somebody else takes room on the disk, or gives some back: none is left, or less than a slot, or there is plenty.
    fn change_room(&self) {
        let disk = self.disk.borrow();
        disk.set_capacity(u64::MAX / 2);
        let used = u64::MAX / 2 - disk.free_bytes().expect("a call that cannot fail");
        let left = [0, 20_000, self.sizes.slot_bytes, 3 * self.sizes.slot_bytes, u64::MAX / 4, u64::MAX / 4];
        disk.set_capacity(used + left[self.roll(left.len() as u64) as usize]);
    }

    /// Starts the next process, again and again if a fault keeps it from starting.
    fn start(&self, number: u64) {
        for attempt in 0.. {
            let disk = self.disk.borrow().clone();
            if let Some((call, fault)) = self.fault
                && call >= self.all_calls.get()
            {
                disk.fail_at(disk.calls() + call - self.all_calls.get(), fault);
            }
            let epochs = self.seed * 1000 + number * 100 + attempt;
            match Life::start(Arc::new(WatchedDisk(disk.clone())), self.sizes, epochs) {
                Ok(life) => {
                    let mut shadow = self.shadow.borrow_mut();
                    shadow.started(life.broker.node.log.end().0);
                    self.found.set(shadow.states.len() - 1);
                    drop(shadow);
                    *self.life.borrow_mut() = Some(Rc::new(life));
                    break;
                }
                Err(error) => {
                    assert!(self.fault.is_some(), "the broker does not start: {error}");
                    assert!(attempt < 3, "the broker does not start: {error}");
                    self.find_again(disk.crash(CrashMode::Kill, self.roll(1000)));
                }
            }
        }
        let broker = self.broker();
        for _ in 0..=CLIENTS {
            self.parties.borrow_mut().push(self.connect(&broker));
        }
    }

    /// The process stops by itself: everything is heard, clients go, the rest is written.
    fn stop(&self) {
        let life = self.life();
        while matches!(life.commit(), Ok(true)) {
            life.broker.release(self.now);
            self.rest();
        }
        life.broker.release(self.now);
        self.rest();
        let mut parties = self.parties.take();
        while let Some(party) = parties.pop() {
            self.leave(party, &parties);
        }
        self.may_be_clean.set(true);
        let stopped = life.stop();
        if let Err(error) = &stopped {
            assert!(self.fault.is_some(), "the stop failed: {error}");
        }
        self.end();
        drop(life);
        let disk = self.disk.borrow().clone();
        self.find(disk, if stopped.is_ok() { Ended::Stopped } else { Ended::Unknown });
    }

    /// The machine or the process dies, at any moment.
    fn crash(&self) {
        let mode = CrashMode::ALL[self.roll(7) as usize];
        let mode = if self.is_relaxed() { CrashMode::Kill } else { mode };
        let disk = self.disk.borrow().crash(mode, self.roll(1 << 32));
        watch_nothing_while(|| {
            self.end();
        });
        self.may_be_clean.set(false);
        self.outlives.set(None);
        self.find(disk, Ended::Crashed);
    }

    /// A fault ended the process: nothing that the log had to hold may be heard any more.
    fn fail(&self) {
        let error = self.failure.take();
        self.failed.set(true);
        let life = self.life();
        if let Some(StoreError::Poisoned(_)) = error {
            let (durable, heard) = (life.broker.node.log.durable(), self.shadow.borrow().heard);
            for _ in 0..10 {
                self.act();
                assert!(life.commit().is_err(), "a poisoned log commits");
                self.rest();
            }
            assert_eq!(durable, life.broker.node.log.durable(), "a poisoned log becomes durable");
            let shadow = self.shadow.borrow();
            assert!(shadow.heard <= shadow.logged(durable.0).max(heard), "a poisoned log confirms");
        }
        drop(life);
        self.crash();
    }

    /// The process is gone.
    fn end(&self) {
        self.tell(|| "the process is gone".to_owned());
        let life = self.life.take().expect("a life");
        self.packed.set(self.packed.get() + life.broker.node.counters.packed_messages.read());
        self.evicted.set(self.evicted.get() + life.broker.node.counters.evicted_messages.read());
        let durable = life.broker.node.log.durable().0;
        let mut shadow = self.shadow.borrow_mut();
        let state = shadow.durable(durable);
        shadow.hear(state);
        drop(shadow);
        self.parties.take();
        drop(life);
    }

    /// Which state the disk holds now is found out on a copy, and the shadow goes on from there.
    fn find(&self, disk: SimulatedDisk, ended: Ended) {
        let copy = disk.copy();
        *self.disk.borrow_mut() = disk;
        let found = watch_nothing_while(|| check::find(&copy, self, ended));
        let found = found.unwrap_or_else(|why| panic!("{why}"));
        self.shadow.borrow_mut().restart(&found.state, &found.new);
    }

    /// A start has failed: nothing is lost, but it may have used up the mark of a clean stop, and then whatever waits
    /// may have been delivered.
    fn find_again(&self, disk: SimulatedDisk) {
        let mut shadow = self.shadow.borrow_mut();
        let last = shadow.states.len() - 1;
        shadow.hear(last);
        drop(shadow);
        self.find(disk, Ended::Unknown);
    }
}
