//! Log lines about clients, rationed: whoever misbehaves a thousand times a second, or comes and goes as often, does not
//! fill the disk with it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines about misbehaviour in one [`WINDOW`].
const LINES_MAX: u32 = 20;
/// Connections in one that are told of, with a line when they open and one when they end.
pub const VISITS_MAX: u32 = 500;
const WINDOW: Duration = Duration::from_secs(1);

/// The ration.
#[derive(Debug)]
pub struct Complaints {
    lines_max: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_start: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self::of(LINES_MAX)
    }
}

impl Complaints {
    /// A ration of so many lines a second.
    pub fn of(lines_max: u32) -> Self {
        Self { lines_max, state: Mutex::default() }
    }

    /// Whether a line may be written now: `Some` with the number of lines left out since the last one.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let is_over = state.window_start.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW);
        if is_over {
            state.window_start = Some(now);
            state.lines = 0;
        }
        if state.lines >= self.lines_max {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Complaints, LINES_MAX};

    #[test]
    fn what_is_left_out_is_counted_and_told_with_the_next_line() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(complaints.allow(start), Some(0));
        }
        assert_eq!((complaints.allow(start), complaints.allow(start)), (None, None));
        let later = start + Duration::from_secs(1);
        assert_eq!((complaints.allow(later), complaints.allow(later)), (Some(2), Some(0)));
        let small = Complaints::of(1);
        assert_eq!((small.allow(start), small.allow(start)), (Some(0), None));
    }
}
