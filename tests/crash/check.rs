//! What must be true of a disk after a crash.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use sluicemq::storage::check::{Check, Watch};
use sluicemq::storage::disk::simulated::{CrashMode, SimulatedDisk};
use sluicemq::storage::log::SyncMode;

use crate::dice::Dice;
use crate::draw::{QUEUES, is_durable};
use crate::life::Sizes;
use crate::message::Message;
use crate::shadow::Shadow;
use crate::state::State;
use crate::survivor::{Found, Survivor};
use crate::watched::{Kind, WatchedDisk, watch};
use crate::world::lives::Ended;
use crate::world::{Point, World};

/// What a disk holds that nobody has touched since the world's process ended.
pub(crate) fn find(disk: &SimulatedDisk, world: &World, ended: Ended) -> Result<Found, String> {
    let shadow = world.shadow.borrow();
    let mut survivor = Survivor::start(Arc::new(disk.clone()), world.sizes, 1 << 40)?;
    let found = survivor.look(&shadow, false)?;
    for (name, messages) in &found.state.queues {
        for &id in messages {
            let entries = shadow.queues.get(name).into_iter().flat_map(|queue| queue.entries.values());
            let mut entries = entries.filter(|entry| entry.message == id);
            let was_new = entries.clone().all(|entry| !entry.delivered);
            let may_be_new = was_new && ended != Ended::Crashed;
            let must_be_new =
                may_be_new && ended == Ended::Stopped && entries.all(|entry| !entry.perhaps_delivered);
            let is_new = found.new.contains(&(name.clone(), id));
            if is_new != may_be_new && is_new != must_be_new {
                return Err(format!("{ended:?}: message {id} in {name} is redelivered: {}", !is_new));
            }
        }
    }
    state_of(&found, &shadow, shadow.heard, shadow.states.len() - 1)?;
    Ok(found)
}

/// The state that was found, among those that may be.
fn state_of(found: &Found, shadow: &Shadow, from: usize, to: usize) -> Result<usize, String> {
    let states = &shadow.states;
    if let Some(state) = (from..=to).rev().find(|&state| found.state == *states[state].state) {
        return Ok(state);
    }
    let mut why = format!("what was found is none of the states {from} to {to}");
    if let Some(other) = (0..states.len()).rev().find(|&state| found.state == *states[state].state) {
        why += &format!(", but {other}, {:?}", states[other].what);
    }
    for state in [from, to] {
        let state = &states[state];
        why += &format!("\nagainst {:?}:\n{}", state.what, state.state.difference(&found.state));
    }
    Err(why)
}

/// Crashes at a point, looks, crashes again and again, and looks whether it stays so and the broker goes on.
pub(crate) fn check(point: &Point, mode: CrashMode, world: &World) -> Result<(), String> {
    let shadow = world.shadow.borrow();
    let mut dice = Dice::new(world.seed ^ (point.call << 20) ^ ((mode as u64) << 60));
    let mut epochs = 1 << 40;
    let mut start = |disk: &SimulatedDisk| {
        epochs += 1;
        // Whatever it was before: what is confirmed from now on is there after every crash.
        let sizes = Sizes { sync: SyncMode::EachBatch, ..world.sizes };
        Survivor::start(Arc::new(disk.clone()), sizes, epochs)
    };
    let mut disk = point.disk.crash(mode, dice.next());
    let mut is_killed = mode == CrashMode::Kill;
    while dice.chance(30) {
        disk = crash_while_starting(&disk, world, &mut dice);
        // In any mode.
        is_killed = false;
    }
    let checked = dice.chance(20).then(|| fold_without_a_broker(&disk));
    let mut survivor = start(&disk)?;
    let found = survivor.look(&shadow, dice.chance(30))?;
    if let Some(checked) = checked {
        let counts = found.state.queues.iter().map(|(name, messages)| (name.clone(), messages.len() as u64));
        if checked != counts.collect() {
            return Err(format!("a check finds {checked:?}, and a start {:?}", found.state.queues));
        }
    }
    // Where batches are not synced one by one a beginning of what happened may be all that a power cut leaves.
    let from = if world.is_relaxed() && !is_killed { point.found } else { point.from };
    let state = state_of(&found, &shadow, from, point.to)?;
    if !point.may_be_clean && !found.new.is_empty() {
        return Err(format!("messages come back and are not redelivered: {:?}", found.new));
    }
    // Nothing was settled: all of it is there again.
    let state = &*shadow.states[state].state;
    let mode = random_mode(&mut dice);
    let disk = after(survivor, &disk, mode, &mut dice);
    let mut survivor = start(&disk)?;
    expect(&survivor.look(&shadow, dice.chance(30))?, state, "a second crash")?;
    survivor.acknowledge_all(dice.chance(50))?;
    if dice.chance(30) {
        let left = survivor.checkpoint_all()?;
        if !left.is_empty() {
            return Err(format!("nothing lives, and packs are left: {left:?}"));
        }
    }
    // What was settled stays so, and what is confirmed now is there.
    let (shadow, wanted) = with_new_messages(&shadow, state);
    let first = shadow.messages.len() - wanted.len();
    survivor.publish(&shadow.messages[first..])?;
    let disk = after(survivor, &disk, CrashMode::NothingUnsynced, &mut dice);
    let mut state = state.clone();
    state.queues.extend(wanted.into_iter().map(|message| (message.key, vec![message.id])));
    expect(&start(&disk)?.look(&shadow, dice.chance(30))?, &state, "settling, publishing and a third crash")
}

fn expect(found: &Found, state: &State, when: &str) -> Result<(), String> {
    if found.state == *state {
        return Ok(());
    }
    Err(format!("after {when} there is something else:\n{}", state.difference(&found.state)))
}

struct Unwatched;

impl Watch for Unwatched {
    fn begin(&mut self, _part: &'static str, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

/// How many messages each queue has, as a check tells that knows no broker.
fn fold_without_a_broker(disk: &SimulatedDisk) -> BTreeMap<String, u64> {
    let checked = Check::run(Arc::new(disk.copy()), &mut Unwatched).expect("a check fails");
    assert!(checked.report().is_clean(), "{:?}", checked.report());
    checked.report().queues.iter().map(|queue| (queue.name.clone(), queue.messages)).collect()
}

/// A new message for each durable queue.
fn with_new_messages(shadow: &Shadow, state: &State) -> (Shadow, Vec<Message>) {
    let mut known = Shadow::knowing(&shadow.messages);
    let queues = QUEUES.into_iter().filter(|name| is_durable(name) && state.queues.contains_key(*name));
    let first = known.messages.len() as u32;
    let new: Vec<Message> = (first..)
        .zip(queues)
        .map(|(id, key)| Message {
            id,
            persistent: true,
            exchange: String::new(),
            key: key.to_owned(),
            bytes: 100,
        })
        .collect();
    known.messages.extend(new.iter().cloned());
    (known, new)
}

fn random_mode(dice: &mut Dice) -> CrashMode {
    CrashMode::ALL[dice.below(CrashMode::ALL.len() as u64) as usize]
}

/// The disk after a crash now; the process is gone.
fn after(survivor: Survivor, disk: &SimulatedDisk, mode: CrashMode, dice: &mut Dice) -> SimulatedDisk {
    let crashed = disk.crash(mode, dice.next());
    drop(survivor);
    crashed
}

/// The disk after a crash at some call of a start, or right after it.
fn crash_while_starting(disk: &SimulatedDisk, world: &World, dice: &mut Dice) -> SimulatedDisk {
    let at = dice.below(40);
    let copies: Rc<RefCell<Vec<SimulatedDisk>>> = Rc::default();
    let kept = Rc::clone(&copies);
    let (watched, calls) = (disk.clone(), RefCell::new(0));
    watch(Some(Rc::new(move |kind, _| {
        if !matches!(kind, Kind::Read | Kind::Open) {
            *calls.borrow_mut() += 1;
            if *calls.borrow() == at {
                kept.borrow_mut().push(watched.copy());
            }
        }
    })));
    let survivor = Survivor::start(Arc::new(WatchedDisk(disk.clone())), world.sizes, dice.next());
    watch(None);
    let left = copies.borrow_mut().pop().unwrap_or_else(|| disk.copy());
    drop(survivor);
    left.crash(random_mode(dice), dice.next())
}
