//! Files that nobody needs go, a part of one at a time. One that the disk does not let go of keeps nobody from anything else:
//! it is tried again when some turns have passed.

use crate::broker::node::Node;

/// Turns without a sweep after one that was refused: some seconds when there is nothing else to do.
const RESTING_TURNS: u32 = 64;

/// Who lets files go, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    resting_turns: u32,
    /// The last one was refused, which was told.
    is_refused: bool,
}

impl Sweeper {
    /// Shortens or removes a file. Whether there may be more to do at once.
    pub(super) fn sweep(&mut self, node: &Node) -> bool {
        if self.resting_turns > 0 {
            self.resting_turns -= 1;
            return false;
        }
        // One kind does not wait for the other.
        let (of_packs, of_log) = (node.shelf.sweep(), node.log.sweep());
        let has_more = matches!(of_packs, Ok(true)) || matches!(of_log, Ok(true));
        let Some(error) = of_packs.and(of_log).err() else {
            self.is_refused &= !has_more;
            return has_more;
        };
        self.resting_turns = RESTING_TURNS;
        if !std::mem::replace(&mut self.is_refused, true) {
            tracing::warn!(%error, "a file that nobody needs stays, and is tried again");
        }
        has_more
    }
}
