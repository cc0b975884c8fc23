//! A queue under policies: what they say comes and goes while messages wait and consumers are served.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::broker::policy::{Applied, Policies};
use crate::broker::queue::handle::{Queue, State};
use crate::broker::wakes::Wakes;
use crate::protocol::table::Table;

impl Queue {
    /// The policies that apply to it.
    pub fn policies(&self) -> Option<Arc<Applied>> {
        self.policies.load_full()
    }

    /// What its virtual host's policies say now counts from now on, also for what waits: what is over a limit by that, or
    /// has had its time, goes at the next look, which is asked for. The policies are read under the lock: whoever comes
    /// last has the last ones.
    pub(in crate::broker) fn follow(self: &Arc<Self>, policies: &ArcSwap<Policies>, wakes: &mut Wakes) {
        let state = &mut *self.lock();
        let (was_leased, buried) = (state.settings.expires_ms.is_some(), state.settings.buries());
        if !self.take_policies(state, policies) {
            return;
        }
        if state.settings.expires_ms.is_some() && !was_leased {
            state.used_ms = wakes.now_ms();
        }
        if state.settings.buries() && !buried {
            state.classic.look_through();
        }
        self.node.deadlines.note(self, state.deadline.replace(0), 0, wakes);
    }

    /// It is new, or was found on the disk: nobody has seen it, and whoever makes it looks at it.
    pub(in crate::broker) fn begin_under(&self, policies: &ArcSwap<Policies>) {
        self.take_policies(&mut self.lock(), policies);
    }

    /// Whether they say something else than before.
    fn take_policies(&self, state: &mut State, policies: &ArcSwap<Policies>) -> bool {
        if self.delays_for().is_some() {
            return false;
        }
        let applied = policies.load().for_queue(&self.properties.name, self.kind);
        let settings = applied.settings(Table::unchecked(&self.properties.arguments));
        self.policies.store((!applied.is_empty()).then(|| Arc::new(applied)));
        let is_other = settings != *state.settings;
        if is_other {
            self.swap_settings(state, settings);
        }
        is_other
    }
}
