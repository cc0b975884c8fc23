//! A line a second on stderr while a run goes on: one that is rewritten on a terminal, many elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use crate::bench::meter::{Meter, read};
use crate::bench::report::scaled;

/// The last line's numbers, from which the next line's rates are made.
pub(super) struct Progress {
    terminal: bool,
    at: Instant,
    published: u64,
    received: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), at: Instant::now(), published: 0, received: 0 }
    }

    /// Shows what happened since the last line.
    pub(super) fn show(&mut self, meter: &Meter) {
        let (published, received) = (read(&meter.published), read(&meter.received));
        let seconds = self.at.elapsed().as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| scaled(now.saturating_sub(before) as f64 / seconds);
        let line = format!(
            "{:>4.0} s   published {:>8}msg/s   received {:>8}msg/s   waiting {:>8}",
            meter.seconds(),
            rate(published, self.published),
            rate(received, self.received),
            scaled(published.saturating_sub(received) as f64),
        );
        *self = Self { terminal: self.terminal, at: Instant::now(), published, received };
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        self.write(&format!("{start}{line}{end}"));
    }

    /// Leaves the terminal on a line of its own.
    pub(super) fn finish(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // A run does not fail for want of somebody who watches it.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
