//! Turns readings into the Prometheus text format 0.0.4, one family after the other.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::Reading;
use super::table::{Family, Kind};

/// The page of `/metrics` while it is written.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Writes a family with the samples that `fill` gives it; without samples it is left out, as the format wants it.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples)) {
        let mut samples = Samples { family, metrics: Vec::new() };
        fill(&mut samples);
        if samples.metrics.is_empty() {
            return;
        }
        let mut encoded = MetricFamily::default();
        encoded.set_name(family.name.to_owned());
        encoded.set_help(family.help.to_owned());
        encoded.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        encoded.set_metric(samples.metrics);
        if let Err(error) = TextEncoder::new().encode_utf8(&[encoded], &mut self.text) {
            tracing::error!(metric = family.name, %error, "a metric could not be written");
        }
    }

    /// A family without labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family, |samples| samples.value(&[], value));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The samples of one family.
#[derive(Debug)]
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Samples {
    /// Adds a sample of a counter or a gauge; `labels` in the order of the table.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.labelled(labels);
        if self.family.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// [`Samples::value`] for a whole number.
    pub(super) fn count(&mut self, labels: &[&str], value: u64) {
        self.value(labels, float(value));
    }

    /// Adds the samples of a histogram.
    pub(super) fn histogram(&mut self, labels: &[&str], reading: &Reading) {
        let buckets = reading.cumulative().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(reading.count());
        histogram.set_sample_sum(reading.sum_seconds());
        let mut metric = self.labelled(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn labelled(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(values.len(), self.family.labels.len(), "labels of {}", self.family.name);
        let pairs = self.family.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }
}

/// A number as the text format has it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus stores every sample as f64; counts stay exact up to 2^53")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}
