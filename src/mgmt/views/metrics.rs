//! GET /metrics: for Prometheus, by RabbitMQ's names.
//!
//! `/metrics` tells sums, `/metrics/per-object` each queue, connection and channel, `/metrics/detailed` of these what was
//! asked for. Of any kind of object [`OBJECTS_MAX`] are told at most, and how many were not.

use std::collections::HashMap;

use axum::http::HeaderValue;
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

/// What is asked for is text of this form.
const FORM: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

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
    told(scrape)
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
    told(scrape)
}

/// What memory is held for.
pub(crate) fn memory(call: &Call<'_>) -> Result<Answer, Refusal> {
    let mut scrape = Scrape::default();
    metrics_of::memory(call.mgmt, &mut scrape);
    told(scrape)
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
    told(scrape)
}

fn told(scrape: Scrape) -> Result<Answer, Refusal> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| Refusal::unavailable())?;
    Ok(Answer::bytes(FORM, text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{Labels, Scrape, Told};

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
