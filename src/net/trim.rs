//! Memory that messages no longer need goes back to the system.
//!
//! The allocator keeps what is freed, for a while, and lets go of it when one of its threads next frees a page of its
//! own: of a broker that was flooded and then falls silent it would keep all, and one that goes on serving would pay for
//! the flood in some connection's turn, thousands of system calls at once. So it is done here, where nobody waits.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::setpriority_process;

use crate::broker::Broker;

/// How often it is asked whether something is to be given back: more often than the allocator would by itself, which is
/// after a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// When so much less is held than before, it is worth it.
const WORTH_BYTES: u64 = 4 << 20;
/// After so many intervals it is done in any case: not all memory is counted.
const INTERVALS_MAX: u32 = 40;
/// More than any machine's addresses reach.
const IMPOSSIBLE_BYTES: usize = 1 << 50;
/// The thread's: what Linux calls nice, and sets for one thread.
const LAST_PRIORITY: i32 = 19;

/// When memory is to be given back.
#[derive(Debug, Default)]
struct Tide {
    high_bytes: u64,
    intervals: u32,
}

impl Tide {
    /// An interval is over, and so much is held now. Whether to give back what is not.
    fn has_turned(&mut self, held_bytes: u64) -> bool {
        self.intervals += 1;
        self.high_bytes = self.high_bytes.max(held_bytes);
        let is_due = self.high_bytes - held_bytes >= WORTH_BYTES || self.intervals >= INTERVALS_MAX;
        if is_due {
            *self = Self { high_bytes: held_bytes, intervals: 0 };
        }
        is_due
    }
}

/// Gives memory back, for ever. A thread does it that runs when hardly anybody else wants to: it has all the time in
/// the world, and holds nothing that others wait for.
pub(super) async fn trim(broker: Arc<Broker>) {
    let (turned, turns) = std::sync::mpsc::sync_channel(1);
    let work = move || {
        if let Err(error) = setpriority_process(None, LAST_PRIORITY) {
            tracing::debug!(%error, "memory is given back at the priority of everything else");
        }
        turns.into_iter().for_each(|()| give_back());
    };
    if let Err(error) = thread::Builder::new().name("trim".to_owned()).spawn(work) {
        tracing::warn!(%error, "no thread: memory that is not needed stays");
        return;
    }
    let mut tide = Tide::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if tide.has_turned(broker.node.memory.held_bytes()) {
            // It may be at it still: then it does it once more.
            let _full = turned.try_send(());
        }
    }
}

/// Before an allocator refuses what it does not have, ours gives back what it keeps: the one way to have it do so that
/// needs no foreign function.
fn give_back() {
    let mut room: Vec<u8> = Vec::new();
    let refused = room.try_reserve_exact(std::hint::black_box(IMPOSSIBLE_BYTES)).is_err();
    debug_assert!(refused, "nobody has so much");
    std::hint::black_box(&room);
}

#[cfg(test)]
mod tests {
    use super::{INTERVALS_MAX, Tide, WORTH_BYTES, give_back};

    #[test]
    fn memory_goes_back_when_less_is_held_and_once_in_a_while() {
        let mut tide = Tide::default();
        assert!(!tide.has_turned(10 * WORTH_BYTES), "it rises");
        assert!(!tide.has_turned(9 * WORTH_BYTES + 1), "little is to be had");
        assert!(tide.has_turned(9 * WORTH_BYTES));
        assert!(!tide.has_turned(9 * WORTH_BYTES));
        assert!(tide.has_turned(0));
        let turns = (0..2 * INTERVALS_MAX).filter(|_| tide.has_turned(0)).count();
        assert_eq!(turns, 2);
    }

    #[test]
    fn what_is_impossible_is_refused() {
        give_back();
    }
}
