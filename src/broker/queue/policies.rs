//! A queue under policies: what they say comes and goes while messages wait and consumers are served.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::broker::policy::{Applied, Policies};
use crate::broker::queue::handle::Queue;
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
        if self.delays_for().is_some() {
            return;
        }
        let state = &mut *self.lock();
        let applied = policies.load().for_queue(&self.properties.name, self.kind);
        let settings = applied.settings(Table::unchecked(&self.properties.arguments));
        self.policies.store((!applied.is_empty()).then(|| Arc::new(applied)));
        if settings == *state.settings {
            return;
        }
        let was_leased = state.settings.expires_ms.is_some();
        let buried = state.settings.buries();
        self.swap_settings(state, settings);
        if state.settings.expires_ms.is_some() && !was_leased {
            state.used_ms = wakes.now_ms();
        }
        if state.settings.buries() && !buried {
            state.classic.look_through();
        }
        self.node.deadlines.note(self, state.deadline.replace(0), 0, wakes);
    }
}
