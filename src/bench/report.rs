//! What a run came to, for people and for machines.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::check::Verdict;

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) seconds: f64,
    /// On average.
    pub(super) message_bytes: f64,
    pub(super) published: u64,
    pub(super) published_per_second: f64,
    /// Received in all, with what was still queued when publishing ended.
    pub(super) received: u64,
    /// Received while publishing went on, a second.
    pub(super) received_per_second: f64,
    /// Received of a backlog once publishing was over, a second.
    pub(super) drained_per_second: Option<f64>,
    pub(super) confirmed: Option<u64>,
    pub(super) nacked: Option<u64>,
    /// How often the broker told a producer to wait.
    pub(super) blocked: u64,
    pub(super) latency: Option<Latency>,
    pub(super) confirm_latency: Option<Latency>,
    pub(super) check: Check,
}

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

/// Whether what came back is what was sent.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum Check {
    /// Each message once and in order.
    Passed,
    /// Only the number of messages was compared, and it is right: they are too small to carry more.
    CountPassed,
    /// Nobody consumed.
    NotChecked,
    /// What is wrong.
    Failed { lost: u64, duplicates: u64, out_of_order: u64, foreign: u64 },
}

impl Check {
    pub(super) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    pub(super) fn of_verdict(verdict: Verdict) -> Self {
        let Verdict { lost, duplicates, out_of_order, foreign } = verdict;
        if verdict.is_clean() {
            Self::Passed
        } else {
            Self::Failed { lost, duplicates, out_of_order, foreign }
        }
    }

    pub(super) fn of_counts(published: u64, received: u64) -> Self {
        if published == received {
            return Self::CountPassed;
        }
        let (lost, duplicates) = (published.saturating_sub(received), received.saturating_sub(published));
        Self::Failed { lost, duplicates, out_of_order: 0, foreign: 0 }
    }
}

impl Latency {
    /// `None` where nothing was measured.
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        (!histogram.is_empty()).then(|| Self {
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: histogram.max() as f64 / 1_000.0,
        })
    }
}

impl Report {
    fn bytes_per_second(&self, messages: f64) -> f64 {
        messages * self.message_bytes
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, count, rate) in [
            ("published", self.published, self.published_per_second),
            ("received", self.received, self.received_per_second),
        ] {
            let (rate, bytes) = (scaled(rate), scaled(self.bytes_per_second(rate)));
            writeln!(f, "{name:<10} {count:>14} messages   {rate:>8}msg/s   {bytes:>8}B/s")?;
        }
        if let Some(rate) = self.drained_per_second {
            writeln!(f, "{:<10} {:>14} messages   {:>8}msg/s", "drained", self.received, scaled(rate))?;
        }
        if let (Some(confirmed), Some(nacked)) = (self.confirmed, self.nacked) {
            writeln!(f, "{:<10} {confirmed:>14} publishes  {nacked} refused", "confirmed")?;
        }
        if self.blocked > 0 {
            writeln!(f, "{:<10} {:>14} times", "blocked", self.blocked)?;
        }
        if let Some(latency) = &self.latency {
            writeln!(f, "{:<10} {latency}", "latency")?;
        }
        if let Some(latency) = &self.confirm_latency {
            writeln!(f, "{:<10} {latency}", "to confirm")?;
        }
        writeln!(f, "{:<10} {}", "check", self.check)
    }
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, us) in
            [("p50", self.p50_us), ("p90", self.p90_us), ("p99", self.p99_us), ("p99.9", self.p999_us)]
        {
            write!(f, "{name} {}  ", time(us))?;
        }
        write!(f, "max {}", time(self.max_us))
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed: each message came back once, in order"),
            Self::CountPassed => f.write_str("passed by count: messages under 8 bytes carry no number"),
            Self::NotChecked => f.write_str("none: nobody consumed"),
            Self::Failed { lost, duplicates, out_of_order, foreign } => write!(
                f,
                "FAILED: {lost} lost, {duplicates} duplicates, {out_of_order} out of order, {foreign} nobody sent"
            ),
        }
    }
}

/// A number in thousands, with the letter that says which.
pub(super) fn scaled(number: f64) -> String {
    match number {
        1e9.. => format!("{:.2} G", number / 1e9),
        1e6.. => format!("{:.2} M", number / 1e6),
        1e3.. => format!("{:.1} k", number / 1e3),
        _ => format!("{number:.0} "),
    }
}

pub(super) fn time(us: f64) -> String {
    match us {
        1e6.. => format!("{:.2} s", us / 1e6),
        1e3.. => format!("{:.1} ms", us / 1e3),
        _ => format!("{us:.0} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, Latency, Report, scaled, time};
    use crate::bench::check::Verdict;
    use crate::bench::meter::latency_histogram;

    #[test]
    fn numbers_are_short() {
        assert_eq!(scaled(4_512_345.0), "4.51 M");
        assert_eq!(scaled(12.0), "12 ");
        assert_eq!((time(12.0), time(1_500.0)), ("12 us".to_owned(), "1.5 ms".to_owned()));
    }

    #[test]
    fn a_report_is_text_and_json() {
        let mut latency = latency_histogram();
        latency.saturating_record_n(50_000, 10);
        let report = Report {
            seconds: 1.0,
            message_bytes: 16.0,
            published: 10,
            published_per_second: 10.0,
            received: 9,
            received_per_second: 9.0,
            drained_per_second: None,
            confirmed: None,
            nacked: None,
            blocked: 0,
            latency: Latency::of(&latency),
            confirm_latency: None,
            check: Check::of_verdict(Verdict { lost: 1, ..Verdict::default() }),
        };
        assert!(report.check.is_failed());
        let text = report.to_string();
        assert!(text.contains("check      FAILED: 1 lost") && text.contains("p50 50 us"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["check"]["result"], &json["check"]["lost"]), (&"failed".into(), &1.into()));
    }
}
