//! Letting go of memory that a connection holds for what nobody has acknowledged, when it was asked to.
//!
//! All its channels are gone through, some entries a turn; between two turns others run.

use crate::broker::wakes::HOLD_STEPS;
use crate::session::running::{Running, Slot};

impl Running {
    /// Begins, if it was asked to, or goes on.
    pub(super) fn slim(&mut self) {
        let link = &mut self.link;
        if link.outbox.take_slim_request() {
            link.slimming.get_or_insert(0);
        }
        let Some(from) = link.slimming.take() else { return };
        let mut steps = HOLD_STEPS;
        let at = self.channels.partition_point(|&(number, _)| number < from);
        for (number, slot) in self.channels.iter_mut().skip(at) {
            let Slot::Open(channel) = slot else { continue };
            let is_done = steps > 0 && channel.slim(link, &mut steps);
            steps = steps.saturating_sub(1);
            if !is_done {
                link.slimming = Some(*number);
                link.outbox.signal();
                return;
            }
        }
        link.outbox.on_slimmed();
    }
}
