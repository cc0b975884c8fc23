//! What administrators say, and a crash at every call to the disk: what was answered is so afterwards, and what was not is
//! so as a whole or not at all. What goes with something else may go before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluicemq::auth::PasswordHash;
use sluicemq::auth::permissions::Access;
use sluicemq::broker::Broker;
use sluicemq::broker::admin::{AdminError, PasswordChange, PolicyRequest, Undertaking, VhostRequest};
use sluicemq::broker::policy::Author;
use sluicemq::broker::vhost::{Actor, QueueRequest};
use sluicemq::broker::wakes::Wakes;
use sluicemq::protocol::field::Field;
use sluicemq::protocol::table::{Table, TableBuf};
use sluicemq::storage::disk::Disk;
use sluicemq::storage::disk::simulated::{CrashMode, Fault, SimulatedDisk};
use sluicemq::storage::error::StoreError;

use crate::dice::Dice;
use crate::life::{Life, Sizes};

/// A checkpoint is never far.
const SIZES: Sizes = Sizes::SMALL;
const STEPS: usize = 60;
const SEEDS: u64 = 3;
/// Every so many steps the tables take in what the log has.
const CHECKPOINT_EVERY: usize = 7;

/// All that can be seen of what was said, a line each.
type Seen = BTreeSet<String>;

fn look(broker: &Broker) -> Seen {
    let mut seen = Seen::new();
    let vhosts = broker.vhosts();
    for user in broker.users.all() {
        let profile = user.profile();
        seen.insert(format!("user {} {:?} {:?}", user.name, profile.tags, profile.channels_max));
        for vhost in &vhosts {
            let may = profile
                .permissions
                .get(&**vhost.name())
                .map(|permissions| permissions.source(Access::Read).to_owned());
            let topics =
                profile.topics.get(&**vhost.name()).map(|topics| topics.allows(Access::Write, "x", "key"));
            seen.extend(may.map(|read| format!("{} reads {read} in {}", user.name, vhost.name())));
            seen.extend(
                topics
                    .filter(|allows| !allows)
                    .map(|_| format!("{} has no key in {}", user.name, vhost.name())),
            );
        }
    }
    for vhost in &vhosts {
        seen.insert(format!("vhost {}", vhost.name()));
        seen.extend(vhost.limits().queues_max.map(|max| format!("{} has {max} queues", vhost.name())));
        for author in [Author::User, Author::Operator] {
            let policies = vhost.policies();
            let told = policies.of(author).iter();
            seen.extend(
                told.map(|policy| format!("{author:?} {} {} {}", vhost.name(), policy.name, policy.priority)),
            );
        }
        // Policies apply to a queue before anybody sees it.
        if let Some(queue) = vhost.queue("q") {
            let policies = queue.policies();
            let names = policies.map(|applied| applied.user.as_ref().map(|policy| policy.name.clone()));
            seen.insert(format!("queue in {} follows {names:?}", vhost.name()));
        }
    }
    let globals = broker.parameters.of("", "global", "");
    seen.extend(globals.iter().map(|kept| format!("global {} {:?}", kept.name, kept.value().get("value"))));
    seen
}

/// One more thing that is said. A refusal is as good as any: what it is about was not there.
fn say(broker: &Broker, dice: &mut Dice) -> Result<Undertaking, AdminError> {
    let user = ["alice", "bob"][dice.below(2) as usize];
    let vhost = ["/", "v", "w"][dice.below(3) as usize];
    let name = ["one", "two"][dice.below(2) as usize];
    let author = if dice.chance(70) { Author::User } else { Author::Operator };
    let number = Field::I64(dice.below(9) as i64);
    let table = |key: &str| {
        let mut table = TableBuf::new();
        table.insert(key, number);
        table
    };
    match dice.below(17) {
        0 | 1 => broker.put_vhost(vhost, &VhostRequest::default()),
        2 | 3 => {
            let password = PasswordChange::Set(PasswordHash::hash(b"secret").unwrap());
            broker.put_user(user, &password, &[name.to_owned()])
        }
        4 => broker.delete_user(user),
        5 if vhost != "/" => broker.delete_vhost(vhost),
        6 | 7 => broker.set_permissions(user, vhost, ["", "", name]),
        8 => broker.clear_permissions(user, vhost),
        9 => broker.set_topic_permissions(user, vhost, "x", ["^none$", ""]),
        10 => broker.set_user_limits(user, table("max-channels").as_table()),
        11 => broker.set_vhost_limits(vhost, table("max-queues").as_table()),
        12 => broker.clear_policy(author, vhost, name),
        13 => broker.set_global_parameter(name, number),
        _ => {
            let definition = table("max-length");
            let (priority, definition) = (dice.below(3) as i64, definition.as_table());
            let request = PolicyRequest { name, pattern: "q", apply_to: "queues", priority, definition };
            broker.set_policy(author, vhost, &request)
        }
    }
}

struct Story {
    life: Life,
    /// What was to be seen after each step; the last one that was answered is at `answered`.
    seen: Vec<Seen>,
    answered: usize,
}

impl Story {
    fn start(disk: SimulatedDisk, epoch_seed: u64) -> Result<Self, String> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let life = Life::start(disk, SIZES, epoch_seed).map_err(|error| error.to_string())?;
        let seen = vec![Seen::new(), look(&life.broker)];
        Ok(Self { life, seen, answered: 0 })
    }

    /// The log holds all that was said.
    fn commit(&mut self) -> Result<(), StoreError> {
        while self.life.commit()? {}
        self.answered = self.seen.len() - 1;
        Ok(())
    }

    fn play(&mut self, seed: u64) -> Result<(), StoreError> {
        let mut dice = Dice::new(seed);
        self.commit()?;
        self.declare("/");
        for step in 0..STEPS {
            if let Ok(mut undertaking) = say(&self.life.broker, &mut dice) {
                let mut wakes = Wakes::default();
                while !undertaking.step(&self.life.broker, &mut wakes) {
                    wakes.begin_turn(0);
                }
            }
            self.seen.push(look(&self.life.broker));
            if dice.chance(60) {
                self.commit()?;
            }
            if step % CHECKPOINT_EVERY == 0 {
                self.life.broker.node.log.seal_open_slot()?;
                while self.life.commit()? | self.life.checkpoint()? {}
                self.answered = self.seen.len() - 1;
            }
        }
        self.commit()
    }

    fn declare(&mut self, vhost: &str) {
        let broker = &self.life.broker;
        let actor =
            Actor { user: broker.users.get("guest").unwrap(), connection: broker.connect().connection() };
        let (name, arguments) = ("q", Table::EMPTY);
        let request = QueueRequest { name, durable: true, exclusive: false, auto_delete: false, arguments };
        broker.vhost(vhost).unwrap().declare_queue(&actor, &request).unwrap();
        self.seen.push(look(broker));
    }

    /// Whether this can be what is left of the story: the last that was answered, or what came after, or a deletion of
    /// that of which only a part is done.
    fn allows(&self, found: &Seen) -> bool {
        let later = self.seen.get(self.answered..).unwrap_or_default();
        let is_between = |pair: &[Seen]| pair[1].is_subset(found) && found.is_subset(&pair[0]);
        later.contains(found) || later.windows(2).any(is_between)
    }
}

fn crash_at(seed: u64, call: u64, mode: CrashMode) -> bool {
    let disk = SimulatedDisk::new();
    disk.fail_at(call, Fault::Crash);
    let Ok(mut story) = Story::start(disk.clone(), 1) else { return true };
    if story.play(seed).is_ok() {
        return false;
    }
    let survivor = Life::start(Arc::new(disk.crash(mode, call)), SIZES, 2).unwrap();
    let found = look(&survivor.broker);
    let expected = &story.seen[story.answered];
    assert!(
        story.allows(&found),
        "seed {seed}, {mode:?} at call {call}: found {found:#?}, answered was {expected:#?}"
    );
    true
}

#[test]
fn what_administrators_were_answered_survives_a_crash_at_any_call() {
    let mut crashes = 0;
    for seed in 0..SEEDS {
        for mode in CrashMode::ALL {
            crashes += (0..).take_while(|call| crash_at(seed, *call, mode)).count();
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 500, "the story has become too short: {crashes} crashes");
}
