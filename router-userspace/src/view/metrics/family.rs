//! A family of metrics: a name, a help text, and values by labels.

use std::{borrow::Cow, fmt};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
};

use super::Format;

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a fresh start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Kind {
    /// The word for it, in both formats.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family.
#[derive(Clone, Debug)]
pub struct Family {
    kind: Kind,
    /// Without `roost_` and `_total`.
    name: Cow<'static, str>,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    values: Vec<(Vec<(&'static str, String)>, Value)>,
}

#[derive(Clone, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
    Distribution(Histogram),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl Family {
    /// A counter, whose name is written without `roost_` and `_total`.
    pub(super) fn counter(
        name: impl Into<Cow<'static, str>>,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self::new(Kind::Counter, name.into(), help, labels)
    }

    /// A gauge.
    pub(super) fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self::new(Kind::Gauge, name.into(), help, labels)
    }

    /// A distribution, without labels.
    pub(super) fn histogram(name: &'static str, help: &'static str, values: &Histogram) -> Self {
        let mut family = Self::new(Kind::Histogram, name.into(), help, &[]);
        family.values.push((Vec::new(), Value::Distribution(values.clone())));
        family
    }

    fn new(
        kind: Kind,
        name: Cow<'static, str>,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { kind, name, help: help.trim(), labels, values: Vec::new() }
    }

    /// The same with a value more, by the values of its labels.
    pub(super) fn with<const N: usize>(mut self, labels: [&str; N], value: u64) -> Self {
        self.add(labels, value);
        self
    }

    /// The same with a value that is a number of seconds more.
    pub(super) fn with_seconds<const N: usize>(mut self, labels: [&str; N], value: f64) -> Self {
        self.push(labels, Value::Real(value));
        self
    }

    /// Adds a value.
    pub(super) fn add<const N: usize>(&mut self, labels: [&str; N], value: u64) {
        self.push(labels, value.into());
    }

    /// Adds a number of seconds.
    pub(super) fn add_seconds<const N: usize>(&mut self, labels: [&str; N], value: f64) {
        self.push(labels, Value::Real(value));
    }

    fn push<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        debug_assert_eq!(self.labels.len(), N, "{}", self.name);
        let labels = self.labels.iter().copied().zip(labels.map(str::to_owned)).collect();
        self.values.push((labels, value));
    }

    /// The whole name.
    pub fn name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("roost_{}{total}", self.name)
    }

    /// What kind of metric it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Writes it. A counter's family is called with `_total` in the older format only.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        format: Format,
    ) -> fmt::Result {
        let whole = self.name();
        let (name, kind) = match (self.kind, format) {
            (Kind::Counter, Format::OpenMetrics) => {
                (whole.trim_end_matches("_total"), MetricType::Counter)
            }
            (Kind::Counter, Format::Text) => (whole.as_str(), MetricType::Counter),
            (Kind::Gauge, _) => (whole.as_str(), MetricType::Gauge),
            (Kind::Histogram, _) => (whole.as_str(), MetricType::Histogram),
        };
        let adds_total = matches!((self.kind, format), (Kind::Counter, Format::OpenMetrics));
        let mut metric = encoder.encode_descriptor(name, self.help, None, kind)?;
        for (labels, value) in &self.values {
            if labels.is_empty() {
                // With an empty set of labels there would be empty braces.
                return value.encode(metric, adds_total);
            }
            value.encode(metric.encode_family(labels)?, adds_total)?;
        }
        Ok(())
    }
}

impl Value {
    /// The encoder of counters adds `_total` to the name, that of gauges writes it as it is.
    fn encode(&self, encoder: MetricEncoder<'_>, adds_total: bool) -> fmt::Result {
        match (self, adds_total) {
            (Self::Whole(value), true) => ConstCounter::new(*value).encode(encoder),
            (Self::Whole(value), false) => ConstGauge::new(*value).encode(encoder),
            (Self::Real(value), true) => ConstCounter::new(*value).encode(encoder),
            (Self::Real(value), false) => ConstGauge::new(*value).encode(encoder),
            (Self::Distribution(histogram), _) => histogram.encode(encoder),
        }
    }
}
