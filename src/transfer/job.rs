//! A transfer from when it is asked for until it is over: attempts, and the pauses between them.
//!
//! What others see of it and say to it is [`Told`]: plain numbers, a state, and a waker.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::sasl::Credentials;
use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::admin::parameters::{Kept, SHOVEL};
use crate::clock::Now;
use crate::stats::{Counter, Gauge};
use crate::transfer::board::Board;
use crate::transfer::mover::{End, Mover, Turn};
use crate::transfer::plan::{self, Plan};
use crate::transfer::redrive::Destinations;

/// What is said of a fault is no longer, in characters.
const REASON_CHARS_MAX: usize = 500;

/// How a transfer fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It opens its connections.
    Starting,
    /// It moves messages.
    Running,
    /// It waits for its next attempt, or is over: why.
    Terminated(String),
    /// All is moved.
    Completed,
    /// Somebody has ended it.
    Cancelled,
    /// It has ended for this reason.
    Failed(String),
}

impl State {
    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed(_))
    }
}

/// What is known of a transfer, and what it is asked to do.
#[derive(Debug)]
pub struct Told {
    /// Messages it has taken and looked at.
    pub looked: Counter,
    /// Those that are at their destination.
    pub moved: Counter,
    /// Those that were not meant, or came from nowhere.
    pub skipped: Counter,
    /// Those that their destination did not take.
    pub failed: Counter,
    /// How many there were when it began, if it counts them.
    pub total: Gauge,
    stand: Mutex<Stand>,
    is_to_stop: AtomicBool,
    is_to_restart: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// Where it stands.
#[derive(Clone, Debug)]
pub struct Stand {
    /// How it fares.
    pub state: State,
    /// Since when.
    pub since: Now,
    /// What was wrong last.
    pub complaint: Option<String>,
    /// Where messages go, of a transfer that each message is chosen for.
    pub destinations: Destinations,
}

impl Told {
    pub(super) fn new(now: Now) -> Arc<Self> {
        let stand = Stand {
            state: State::Starting,
            since: now,
            complaint: None,
            destinations: Destinations::default(),
        };
        Arc::new(Self {
            looked: Counter::default(),
            moved: Counter::default(),
            skipped: Counter::default(),
            failed: Counter::default(),
            total: Gauge::default(),
            stand: Mutex::new(stand),
            is_to_stop: AtomicBool::new(false),
            is_to_restart: AtomicBool::new(false),
            waker: Mutex::new(None),
        })
    }

    /// Where it stands.
    pub fn stand(&self) -> Stand {
        self.stand.lock().clone()
    }

    /// It is to end.
    pub fn stop(&self) {
        self.is_to_stop.store(true, Ordering::Release);
        self.wake();
    }

    /// It is to begin anew.
    pub fn restart(&self) {
        self.is_to_restart.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.lock().take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn is_asked(&self) -> bool {
        self.is_to_stop.load(Ordering::Acquire) || self.is_to_restart.load(Ordering::Acquire)
    }

    pub(super) fn enter(&self, state: State, now: Now) {
        let mut stand = self.stand.lock();
        if stand.state != state {
            stand.state = state;
            stand.since = now;
        }
    }

    pub(super) fn complain(&self, reason: &str) {
        let mut stand = self.stand.lock();
        if stand.complaint.as_deref() != Some(reason) {
            stand.complaint = Some(cut(reason));
        }
    }

    /// Nothing is wrong any more.
    pub(super) fn be_content(&self) {
        self.stand.lock().complaint = None;
    }

    pub(super) fn count(&self, exchange: &[u8], key: &[u8]) {
        self.stand.lock().destinations.count(exchange, key);
    }
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// How often it is tried.
#[derive(Debug)]
pub(super) enum Life {
    /// A shovel's: until its parameter goes. It begins anew so long after it has failed.
    Shovel {
        /// The parameter.
        kept: Kept,
        /// How long it rests; without it does not begin anew.
        rest: Option<Duration>,
    },
    /// Once.
    Once,
}

/// A transfer to be given turns.
#[derive(Debug)]
pub struct Job {
    broker: Arc<Broker>,
    board: Arc<Board>,
    plan: Arc<Plan>,
    life: Life,
    told: Arc<Told>,
    mover: Option<Mover>,
    /// When the next attempt is due; `None` without an attempt is never.
    next_at: Option<Instant>,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// There is more to do: others first.
    Again,
    /// Nothing before [`Job::poll_work`] is ready, or this time comes.
    Wait(Option<Instant>),
    /// It is over.
    Over,
}

impl Job {
    pub(super) fn new(board: &Arc<Board>, plan: Arc<Plan>, life: Life, told: Arc<Told>, now: Now) -> Self {
        let broker = Arc::clone(&board.broker);
        let next_at = Some(now.instant);
        Self { broker, board: Arc::clone(board), plan, life, told, mover: None, next_at }
    }

    /// One turn.
    pub fn step(&mut self, now: Now) -> Pace {
        let is_to_stop = self.told.is_to_stop.load(Ordering::Acquire);
        let is_to_restart = self.told.is_to_restart.swap(false, Ordering::AcqRel);
        if is_to_stop || is_to_restart {
            match &mut self.mover {
                Some(mover) => mover.stop(now),
                None if is_to_stop => return self.end(State::Cancelled, now),
                None => self.next_at = Some(now.instant),
            }
        }
        let Some(mover) = &mut self.mover else { return self.rest(now) };
        let turn = mover.step(now);
        if mover.is_moving() {
            self.told.enter(State::Running, now);
        }
        match turn {
            Turn::Again => Pace::Again,
            Turn::Wait(until) => Pace::Wait(until),
            Turn::Ended(end) => self.ended(end, is_to_stop, now),
        }
    }

    /// Waits for the next attempt, or begins it.
    fn rest(&mut self, now: Now) -> Pace {
        match self.next_at {
            Some(next_at) if next_at <= now.instant => {
                self.next_at = None;
                self.told.enter(State::Starting, now);
                match self.users(now) {
                    Ok([source, sink]) => {
                        let users = [&source, &sink];
                        self.mover = Some(Mover::open(&self.broker, &self.plan, &self.told, users, now));
                        Pace::Again
                    }
                    Err(reason) => self.failed(&reason, now),
                }
            }
            next_at => Pace::Wait(next_at),
        }
    }

    /// Who is at the two ends: looked up for each attempt.
    fn users(&self, now: Now) -> Result<[Arc<User>; 2], String> {
        let user = |end: &plan::End| match &end.login {
            Some(login) => {
                let credentials = Credentials::by_password(login.user.as_str(), login.password.clone());
                let found = self.broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), now.instant);
                found.ok_or_else(|| format!("ACCESS_REFUSED - login of user '{}' was refused", login.user))
            }
            None => {
                let name = &*self.plan.user;
                let gone = || format!("there is no user '{name}' any more, who asked for it");
                self.broker.user(name).ok_or_else(gone)
            }
        };
        Ok([user(&self.plan.source)?, user(&self.plan.sink)?])
    }

    fn ended(&mut self, end: End, is_to_stop: bool, now: Now) -> Pace {
        self.mover = None;
        match end {
            End::Done => self.done(now),
            End::Failed(reason) => self.failed(&reason, now),
            End::Stopped if is_to_stop || self.told.is_to_stop.load(Ordering::Acquire) => {
                self.end(State::Cancelled, now)
            }
            End::Stopped => {
                self.next_at = Some(now.instant);
                Pace::Again
            }
        }
    }

    /// A shovel that has moved all it was to move goes, with its parameter.
    fn done(&mut self, now: Now) -> Pace {
        if let Life::Shovel { kept, .. } = &self.life {
            let current = self.broker.parameters.get(&kept.vhost, SHOVEL, &kept.name);
            if current.is_some_and(|current| current.value() == kept.value()) {
                // Whoever was faster has deleted it.
                let _ = self.broker.clear_parameter(&kept.vhost, SHOVEL, &kept.name);
            }
            tracing::info!(vhost = ?kept.vhost, shovel = ?kept.name, "shovel has moved all it was to move");
        }
        self.end(State::Completed, now)
    }

    fn failed(&mut self, reason: &str, now: Now) -> Pace {
        let reason = cut(reason);
        match &self.life {
            Life::Shovel { kept, rest } => {
                tracing::warn!(vhost = ?kept.vhost, shovel = ?kept.name, ?reason, ?rest, "shovel ended");
                self.told.enter(State::Terminated(reason), now);
                self.next_at = rest.map(|rest| now.instant + rest);
                Pace::Wait(self.next_at)
            }
            Life::Once => self.end(State::Failed(reason), now),
        }
    }

    fn end(&mut self, state: State, now: Now) -> Pace {
        self.told.enter(state, now);
        // A shovel may wait for its place.
        self.board.look();
        Pace::Over
    }

    /// Ready when there is something to do in a turn; otherwise the task will be woken.
    pub fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut waker = self.told.waker.lock();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        let is_new = self.told.is_asked() && !self.is_heeding();
        match &mut self.mover {
            _ if is_new => Poll::Ready(()),
            Some(mover) => mover.poll_work(context),
            None => Poll::Pending,
        }
    }

    /// Whether it is at what it was asked to do.
    fn is_heeding(&self) -> bool {
        self.mover.as_ref().is_some_and(|mover| mover.is_stopping())
    }
}

impl Drop for Job {
    /// Whoever was to give it turns has failed, or the broker stops.
    fn drop(&mut self) {
        let mut stand = self.told.stand.lock();
        if !stand.state.is_over() {
            stand.state = State::Failed("it was given up by the broker".to_owned());
        }
    }
}
