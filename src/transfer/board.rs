//! All transfers: those that run, what becomes of shovels' parameters, and those that are over, for a while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::users::User;
use crate::broker::Broker;
use crate::broker::admin::parameters::{Kept, SHOVEL};
use crate::broker::names;
use crate::clock::Now;
use crate::transfer::TRANSFERS_MAX;
use crate::transfer::job::{Job, Life, State, Told};
use crate::transfer::plan::Plan;
use crate::transfer::shovel::{self, Shovel};
use crate::transfer::uri::Names;

/// So many that are over are told of, and for so long.
const OVER_MAX: usize = 100;
const OVER_KEPT: Duration = Duration::from_secs(60 * 60);

/// All transfers of one broker.
#[derive(Debug)]
pub struct Board {
    pub(super) broker: Arc<Broker>,
    /// What the broker is called.
    pub names: Names,
    /// Held from when parameters are read until it is done what they say: who has read older ones is not the last to act.
    following: Mutex<()>,
    /// Under it nothing is locked but what a transfer tells of itself.
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// By virtual host and name.
    shovels: BTreeMap<(Box<str>, Box<str>), Running>,
    /// Those that were asked for once, in the order in which they were.
    once: VecDeque<Arc<Transfer>>,
    /// To be given turns.
    begun: Vec<Job>,
    /// Parameters may have changed.
    is_to_look: bool,
    waker: Option<Waker>,
}

/// A shovel's parameter, and what is known of it.
#[derive(Clone, Debug)]
pub struct Running {
    /// The parameter.
    pub kept: Kept,
    /// What it says, or why it says nothing.
    pub shovel: Result<Arc<Shovel>, String>,
    /// How it fares.
    pub told: Arc<Told>,
}

/// A transfer that was asked for once.
#[derive(Debug)]
pub struct Transfer {
    /// Its name.
    pub id: String,
    /// The virtual host.
    pub vhost: String,
    /// The queue.
    pub queue: String,
    /// What it does.
    pub plan: Arc<Plan>,
    /// How it fares.
    pub told: Arc<Told>,
    /// When it was asked for.
    pub began: Now,
}

/// Why there is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {TRANSFERS_MAX} shovels and transfers, and no more at a time")]
pub struct Full;

impl Board {
    /// One without transfers; shovels begin with the first look.
    pub fn new(broker: Arc<Broker>, names: Names) -> Arc<Self> {
        let places = Mutex::new(Places { is_to_look: true, ..Places::default() });
        Arc::new(Self { broker, names, following: Mutex::default(), places })
    }

    /// The broker.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Parameters may have changed: whoever gives turns looks at them.
    pub fn look(&self) {
        let waker = {
            let mut places = self.places.lock();
            places.is_to_look = true;
            places.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Transfers that have begun since and are to be given turns, each by a task.
    pub fn poll_begun(self: &Arc<Self>, context: &mut Context<'_>, now: Now) -> Poll<Vec<Job>> {
        self.follow_parameters(now);
        let mut places = self.places.lock();
        if places.begun.is_empty() && !places.is_to_look {
            places.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut places.begun))
    }

    /// Ends shovels whose parameters are gone or say something else, and begins those that are new.
    fn follow_parameters(self: &Arc<Self>, now: Now) {
        let _following = self.following.lock();
        if !std::mem::take(&mut self.places.lock().is_to_look) {
            return;
        }
        let kept = self.broker.parameters.of_vhosts();
        let kept = kept.into_iter().filter(|kept| *kept.component == *SHOVEL);
        let mut wanted: BTreeMap<_, _> =
            kept.map(|kept| ((kept.vhost.clone(), kept.name.clone()), kept)).collect();
        let (mut ended, full) = (Vec::new(), Full.to_string());
        let mut places = self.places.lock();
        places.shovels.retain(|key, running| {
            // One that had no place may have one now.
            let is_in = running.shovel.as_ref().err() != Some(&full);
            let is_same = is_in && wanted.get(key).is_some_and(|kept| kept.value() == running.kept.value());
            match is_same {
                true => drop(wanted.remove(key)),
                false => ended.push(Arc::clone(&running.told)),
            }
            is_same
        });
        for (key, kept) in wanted {
            let told = Told::new(now);
            let shovel = match places.count() < TRANSFERS_MAX {
                true => self.read(&kept),
                false => Err(full.clone()),
            };
            match &shovel {
                Ok(shovel) => {
                    let life = Life::Shovel { kept: kept.clone(), rest: shovel.rest };
                    places.begun.push(Job::new(self, Arc::clone(&shovel.plan), life, Arc::clone(&told), now));
                }
                Err(reason) => told.refuse(reason, now),
            }
            places.shovels.insert(key, Running { kept, shovel, told });
        }
        drop(places);
        ended.iter().for_each(|told| told.stop());
    }

    fn read(&self, kept: &Kept) -> Result<Arc<Shovel>, String> {
        let user = shovel::owner(kept.value()).ok_or("who set it is not known: set it again")?;
        let said = shovel::said(kept.value());
        let of = (&*kept.vhost, &*kept.name);
        Shovel::read(of, said.as_table(), &user, &self.names, &self.broker).map(Arc::new)
    }

    /// Whether there is a place for a shovel beside so many others that are to come: one that is there already has its own.
    ///
    /// # Errors
    /// There is none.
    pub fn check_room_for_shovel(&self, vhost: &str, name: &str, others: usize) -> Result<(), Full> {
        let is_there = self.broker.parameters.get(vhost, SHOVEL, name).is_some();
        let shovels =
            self.broker.parameters.of_vhosts().iter().filter(|kept| *kept.component == *SHOVEL).count();
        let once = self.places.lock().once_at_work();
        if is_there || shovels + once + others < TRANSFERS_MAX { Ok(()) } else { Err(Full) }
    }

    /// The shovels, in order of virtual hosts and names.
    pub fn shovels(self: &Arc<Self>, now: Now) -> Vec<Running> {
        self.follow_parameters(now);
        let waker = self.places.lock().waker.take();
        waker.into_iter().for_each(Waker::wake);
        self.places.lock().shovels.values().cloned().collect()
    }

    /// Begins a transfer.
    ///
    /// # Errors
    /// There are too many.
    pub fn begin(
        self: &Arc<Self>,
        user: &User,
        (vhost, queue): (&str, &str),
        plan: Plan,
        now: Now,
    ) -> Result<Arc<Transfer>, Full> {
        let plan = Arc::new(plan);
        let told = Told::new(now);
        let id = names::generate("transfer-");
        tracing::info!(user = ?user.name, vhost, queue, id, "transfer asked for");
        let (vhost, queue) = (vhost.to_owned(), queue.to_owned());
        let job = Job::new(self, Arc::clone(&plan), Life::Once, Arc::clone(&told), now);
        let transfer = Arc::new(Transfer { id, vhost, queue, plan, told, began: now });
        let waker = {
            let mut places = self.places.lock();
            places.forget_old(now);
            if places.count() >= TRANSFERS_MAX {
                return Err(Full);
            }
            places.once.push_back(Arc::clone(&transfer));
            places.begun.push(job);
            places.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
        Ok(transfer)
    }

    /// Those that were asked for once, the oldest first.
    pub fn transfers(&self, now: Now) -> Vec<Arc<Transfer>> {
        let mut places = self.places.lock();
        places.forget_old(now);
        places.once.iter().cloned().collect()
    }
}

impl Places {
    fn once_at_work(&self) -> usize {
        self.once.iter().filter(|transfer| !transfer.told.stand().state.is_over()).count()
    }

    fn count(&self) -> usize {
        self.shovels.len() + self.once_at_work()
    }

    fn forget_old(&mut self, now: Now) {
        let mut over = self.once.iter().filter(|transfer| transfer.told.stand().state.is_over()).count();
        self.once.retain(|transfer| {
            let stand = transfer.told.stand();
            let is_old = now.instant.saturating_duration_since(stand.since.instant) > OVER_KEPT;
            let goes = stand.state.is_over() && (is_old || over > OVER_MAX);
            over -= usize::from(goes);
            !goes
        });
    }
}

impl Told {
    /// It cannot begin.
    fn refuse(&self, reason: &str, now: Now) {
        self.enter(State::Terminated(reason.to_owned()), now);
    }
}
