//! GET /metrics: for Prometheus, by RabbitMQ's names.
//!
//! `/metrics` tells sums, `/metrics/per-object` each queue, connection and channel, `/metrics/detailed` of these what was
//! asked for. Of any kind of object [`OBJECTS_MAX`] are told at most, and how many were not.

use std::collections::HashMap;

use axum::http::HeaderValue;
use axum::http::header::ACCEPT;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::call::Call;
use crate::mgmt::views::metrics_of;

/// The form that scrapers ask for by its name.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_FORM: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The older one, for who asks for nothing.
const TEXT_FORM: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Of so many queues, connections or channels there are metrics at most.
pub(crate) const OBJECTS_MAX: usize = 20_000;

/// Families of metrics of queues.
const OF_QUEUES: [&str; 4] =
    ["queue_coarse_metrics", "queue_metrics", "queue_consumer_count", "queue_delivery_metrics"];

/// Sums as they were told last, by their names and labels.
pub(crate) type Told = Mutex<HashMap<(String, Labels), f64>>;

/// All metrics of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Scrape(Vec<Metric>);

/// A metric, with a value for each set of labels.
#[derive(Debug)]
struct Metric {
    name: String,
    help: &'static str,
    is_counter: bool,
    samples: Vec<(Labels, f64)>,
}

/// Names and values of labels.
pub(crate) type Labels = Vec<(&'static str, String)>;

impl Scrape {
    /// A counter; its name is told with `_total` behind it.
    pub(crate) fn counter(
        &mut self,
        name: impl Into<String>,
        help: &'static str,
        samples: Vec<(Labels, f64)>,
    ) {
        self.0.push(Metric { name: name.into(), help, is_counter: true, samples });
    }

    /// Sums that are counters do not fall, also when what they are sums of goes while they are made: a scraper would take
    /// that for a restart.
    fn never_fall(&mut self, told: &Told) {
        let mut told = told.lock();
        for metric in self.0.iter_mut().filter(|metric| metric.is_counter) {
            for (labels, value) in &mut metric.samples {
                let last = told.entry((metric.name.clone(), labels.clone())).or_insert(*value);
                *last = last.max(*value);
                *value = *last;
            }
        }
    }

    /// A gauge.
    pub(crate) fn gauge(&mut self, name: impl Into<String>, help: &'static str, samples: Vec<(Labels, f64)>) {
        self.0.push(Metric { name: name.into(), help, is_counter: false, samples });
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in &self.0 {
            let kind = if metric.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(&metric.name, metric.help, None, kind)?;
            for (labels, value) in &metric.samples {
                let one = family.encode_family(labels)?;
                match metric.is_counter {
                    true => ConstCounter::new(*value).encode(one)?,
                    false => ConstGauge::new(*value).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

/// Sums.
pub(crate) fn sums(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut scrape = Scrape::default();
    metrics_of::process(call.mgmt, &mut scrape);
    metrics_of::messages(call.mgmt, &mut scrape);
    metrics_of::dead(call.mgmt, &mut scrape);
    metrics_of::channels(call.mgmt, &mut scrape);
    scrape.never_fall(&call.mgmt.told);
    metrics_of::queues(call.mgmt, &mut scrape);
    told(call, scrape)
}

/// Each object by itself.
pub(crate) fn per_object(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut scrape = Scrape::default();
    metrics_of::process(call.mgmt, &mut scrape);
    metrics_of::messages(call.mgmt, &mut scrape);
    metrics_of::dead(call.mgmt, &mut scrape);
    scrape.never_fall(&call.mgmt.told);
    metrics_of::each_queue(call.mgmt, "rabbitmq_", &OF_QUEUES, &[], &mut scrape);
    metrics_of::each_channel(call.mgmt, "rabbitmq_", &[], &mut scrape);
    metrics_of::each_connection(call.mgmt, "rabbitmq_", &mut scrape);
    told(call, scrape)
}

/// What memory is held for.
pub(crate) fn memory(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut scrape = Scrape::default();
    metrics_of::memory(call.mgmt, &mut scrape);
    told(call, scrape)
}

/// What was asked for: families, and virtual hosts.
pub(crate) fn detailed(call: &Call<'_>) -> Result<Answer, Refusal> {
    let asked = |name: &str| -> Vec<&str> {
        call.query.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    };
    let (families, vhosts) = (asked("family"), asked("vhost"));
    let mut scrape = Scrape::default();
    let wants = |names: &[&str]| families.iter().any(|family| names.contains(family));
    let prefix = "rabbitmq_detailed_";
    if wants(&OF_QUEUES) {
        metrics_of::each_queue(call.mgmt, prefix, &families, &vhosts, &mut scrape);
    }
    if wants(&[
        "channel_metrics",
        "channel_queue_metrics",
        "channel_exchange_metrics",
        "channel_process_metrics",
    ]) {
        metrics_of::each_channel(call.mgmt, prefix, &vhosts, &mut scrape);
    }
    if wants(&["connection_coarse_metrics", "connection_metrics"]) {
        metrics_of::each_connection(call.mgmt, prefix, &mut scrape);
    }
    told(call, scrape)
}

fn told(call: &Call<'_>, scrape: Scrape) -> Result<Answer, Refusal> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| Refusal::unavailable())?;
    let accepted = call.headers.get_all(ACCEPT);
    let takes_open = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains(OPEN_METRICS));
    Ok(match accepted.iter().any(takes_open) {
        true => Answer::bytes(OPEN_METRICS_FORM, text.into_bytes()),
        false => Answer::bytes(TEXT_FORM, older(&text).into_bytes()),
    })
}

/// The same in the older form, where a counter's name is that of its samples, and nothing says that it is the end.
fn older(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        let said = line.strip_prefix("# TYPE ").and_then(|said| said.split_once(' '));
        match said {
            _ if line.starts_with("# HELP ") => {
                help = line.strip_prefix("# HELP ").and_then(|said| said.split_once(' '))
            }
            Some((name, kind)) => {
                let ending = if kind == "counter" { "_total" } else { "" };
                for (what, value) in [("HELP", help.take().map_or("", |(_, help)| help)), ("TYPE", kind)] {
                    older.extend(["# ", what, " ", name, ending, " ", value, "\n"]);
                }
            }
            None if line.starts_with('#') => {}
            None => older.extend([line, "\n"]),
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use super::{Labels, Scrape, Told, older};

    #[test]
    fn the_older_form_calls_a_counter_by_its_samples() {
        let open = "# HELP ups Those that rose.\n# TYPE ups counter\nups_total{of=\"a b\"} 2.0\n\
                    # HELP level A level.\n# TYPE level gauge\nlevel 1.0\n# EOF\n";
        let text = "# HELP ups_total Those that rose.\n# TYPE ups_total counter\nups_total{of=\"a b\"} 2.0\n\
                    # HELP level A level.\n# TYPE level gauge\nlevel 1.0\n";
        assert_eq!(older(open), text);
    }

    #[test]
    fn sums_do_not_fall_and_what_is_no_sum_does() {
        let told = Told::default();
        let mut values = Vec::new();
        for (sum, level) in [(5.0, 5.0), (3.0, 3.0), (6.0, 6.0)] {
            let mut scrape = Scrape::default();
            scrape.counter("sum", "", vec![(Labels::new(), sum)]);
            scrape.gauge("level", "", vec![(Labels::new(), level)]);
            scrape.never_fall(&told);
            values.push(scrape.0.iter().map(|metric| metric.samples[0].1).collect::<Vec<_>>());
        }
        assert_eq!(values, [[5.0, 5.0], [5.0, 3.0], [6.0, 6.0]]);
    }
}
