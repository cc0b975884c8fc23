//! Log lines about clients, rationed: whoever misbehaves a thousand times a second does not fill the disk with it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines in one [`WINDOW`].
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// The ration.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window_start: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Complaints {
    /// Whether a line may be written now: `Some` with the number of lines left out since the last one.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let is_over = state.window_start.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW);
        if is_over {
            state.window_start = Some(now);
            state.lines = 0;
        }
        if state.lines >= LINES_MAX {
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
    }
}
