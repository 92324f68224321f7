//! Counts and measurements of a role: instruments that are cheap to record, read as Prometheus text or sent over OTLP.
//!
//! Every role has its own registry, so that many roles can run in one process. Names follow OpenTelemetry; Prometheus
//! shows `_` for `.`, the unit, and `_total` behind counters. Unbounded quantities (ballots, slots, keys, clients) are
//! values or are left out, and never become labels.
//!
//! ```text
//! roles ──record──▶ instruments ◀──read── http (/metrics), otlp (a thread of its own)
//!    └────tell────▶ readiness ──▶ http (/readyz), grpc.health.v1
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter, MeterProvider as _},
};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use tokio::sync::oneshot;

use crate::{
    service::{config::version, failure::Failure, telemetry},
    trace::SCOPE,
};

mod data_dir;
mod http;
mod otlp;
#[cfg(target_os = "linux")]
mod process;
mod ready;

pub use data_dir::DataDirSpace;
pub use http::serve;
pub use ready::{Readiness, UnreadyReason};

/// Upper limits of the buckets of durations, in seconds: from a call answered from memory to a disk that hangs.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Upper limits of the buckets of counts, of commands or rows.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 4_096.0,
];
/// Upper limits of the buckets of sizes, in bytes: up to the largest value of a slot.
const BYTES: [f64; 9] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];
/// How long a stop waits until the last measurements are sent.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The registry of one role. Cheap to clone; clones share the registry.
#[derive(Clone)]
pub struct Metrics {
    registry: prometheus::Registry,
    meter: Meter,
    provider: SdkMeterProvider,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// An empty registry for `role`. Its contents are also sent over OTLP, labelled with `resource`, when the standard
    /// variables name an endpoint.
    ///
    /// # Errors
    /// An `OTEL_` variable is invalid (usage).
    pub fn new(role: &'static str, resource: Resource) -> Result<Self, Failure> {
        let registry = prometheus::Registry::new();
        // Read from /proc, so on Linux alone; not sent over OTLP.
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(process::Process::this()))
            .map_err(Failure::internal)?;
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(Failure::internal)?;
        let mut provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(prometheus);
        if let Some(reader) = otlp::reader()? {
            provider = provider.with_reader(reader);
        }
        let provider = provider.build();
        let metrics = Self {
            registry,
            meter: provider.meter(SCOPE),
            provider,
        };
        let info = [KeyValue::new("version", version()), KeyValue::new("role", role)];
        metrics.observe(
            "paxos.build_info",
            "",
            "Always 1; the labels name the version and the role of this process",
            move || [(info.clone(), 1)],
        );
        metrics
            .meter
            .u64_observable_counter("paxos.log.dropped_lines")
            .with_description("Log lines of this process dropped because standard error was not read")
            .with_callback(|observer| observer.observe(telemetry::dropped_lines(), &[]))
            .build();
        Ok(metrics)
    }

    /// A registry without a reader: for tests.
    ///
    /// # Panics
    /// When an `OTEL_` variable is invalid.
    #[doc(hidden)]
    pub fn unread() -> Self {
        Self::new("test", Resource::builder_empty().build()).expect("the environment makes sense")
    }

    /// All measurements, in the text format of Prometheus.
    ///
    /// # Errors
    /// An internal fault.
    pub fn text(&self) -> Result<String, Failure> {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(Failure::internal)
    }

    /// Sends the measurements not yet sent over OTLP, and waits briefly for the end.
    pub async fn flush(&self) {
        let provider = self.provider.clone();
        let (done, flushed) = oneshot::channel();
        // The flush blocks, and the collector may hang. A thread of the runtime would delay the runtime's end.
        thread::spawn(move || {
            // A failing collector was reported before. The receiver is gone when the time is up.
            drop(done.send(provider.shutdown_with_timeout(FLUSH_MAX)));
        });
        let _ = tokio::time::timeout(FLUSH_MAX, flushed).await;
    }

    /// A histogram of durations, in seconds.
    pub fn durations(&self, name: &'static str, help: &'static str) -> Durations {
        let histogram = self.meter.f64_histogram(name).with_description(help);
        Durations(histogram.with_unit("s").with_boundaries(SECONDS.to_vec()).build())
    }

    /// A histogram of counts: how many of something at a time.
    pub fn counts(&self, name: &'static str, help: &'static str) -> Sizes {
        let histogram = self.meter.u64_histogram(name).with_description(help);
        Sizes(histogram.with_boundaries(COUNTS.to_vec()).build())
    }

    /// A histogram of sizes, in bytes.
    pub fn sizes(&self, name: &'static str, help: &'static str) -> Sizes {
        let histogram = self.meter.u64_histogram(name).with_description(help);
        Sizes(histogram.with_unit("By").with_boundaries(BYTES.to_vec()).build())
    }

    /// A count that only grows.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        let counter = Counter::default();
        let read = counter.clone();
        let observed = self.meter.u64_observable_counter(name).with_description(help);
        observed
            .with_callback(move |observer| observer.observe(read.get(), &[]))
            .build();
        counter
    }

    /// An ever-growing count, kept by other code. `look` reads the count and must not block.
    pub fn counted(
        &self,
        name: &'static str,
        help: &'static str,
        look: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let observed = self.meter.u64_observable_counter(name).with_description(help);
        observed
            .with_callback(move |observer| observer.observe(look(), &[]))
            .build();
    }

    /// Counts that only grow, one for each of the `values` of `label`.
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Counter; N] {
        let counters: [Counter; N] = std::array::from_fn(|_| Counter::default());
        let read = counters.clone();
        let observed = self.meter.u64_observable_counter(name).with_description(help);
        observed
            .with_callback(move |observer| {
                for (value, counter) in values.iter().zip(&read) {
                    observer.observe(counter.get(), &[KeyValue::new(label, *value)]);
                }
            })
            .build();
        counters
    }

    /// A value that `look` reads on each request of a reader. `look` must not block.
    pub fn gauge(
        &self,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        look: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.observe(name, unit, help, move || [([], look())]);
    }

    /// A value that `look` reads on each request of a reader; left out while unknown. `look` must not block.
    pub(crate) fn gauge_if_known(
        &self,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        look: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) {
        self.observe(name, unit, help, move || look().map(|value| ([], value)));
    }

    /// A time in seconds that `look` reads on each request of a reader. `look` must not block.
    pub fn seconds(
        &self,
        name: &'static str,
        help: &'static str,
        look: impl Fn() -> Duration + Send + Sync + 'static,
    ) {
        let gauge = self.meter.f64_observable_gauge(name).with_description(help);
        gauge
            .with_unit("s")
            .with_callback(move |observer| observer.observe(look().as_secs_f64(), &[]))
            .build();
    }

    /// Values with labels, read by `look` on each request of a reader. `look` must not block, and must always take
    /// labels from the same small set.
    pub fn observe<I, const N: usize>(
        &self,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        look: impl Fn() -> I + Send + Sync + 'static,
    ) where
        I: IntoIterator<Item = ([KeyValue; N], u64)>,
    {
        let gauge = self.meter.u64_observable_gauge(name).with_description(help);
        gauge
            .with_unit(unit)
            .with_callback(move |observer| {
                for (labels, value) in look() {
                    observer.observe(value, &labels);
                }
            })
            .build();
    }
}

/// A count that only grows; recording is one atomic addition. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub fn add(&self, more: u64) {
        // The count orders no other memory access.
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram of durations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<f64>);

impl Durations {
    /// Records a duration.
    pub fn record(&self, duration: Duration) {
        self.0.record(duration.as_secs_f64(), &[]);
    }

    /// The same, with labels from a small set.
    pub(crate) fn record_with(&self, duration: Duration, labels: &[KeyValue]) {
        self.0.record(duration.as_secs_f64(), labels);
    }
}

/// A histogram of counts or sizes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sizes(Histogram<u64>);

impl Sizes {
    /// Records a count or size.
    pub fn record(&self, size: usize) {
        self.0.record(size as u64, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shows_each_kind_of_instrument_by_its_unit() {
        let metrics = Metrics::unread();
        metrics
            .durations("paxos.test.duration", "How long")
            .record(Duration::from_millis(3));
        metrics.counts("paxos.test.rows", "How many").record(3);
        metrics.sizes("paxos.test.size", "How much").record(100);
        metrics.counter("paxos.test.events", "Some").add(7);
        let [good, _bad] = metrics.counters("paxos.test.kinds", "By kind", "kind", ["good", "bad"]);
        good.increment();
        metrics.gauge("paxos.test.level", "", "Now", || 5);
        metrics.seconds("paxos.test.age", "How old", || Duration::from_millis(250));
        let text = metrics.text().unwrap();
        for line in [
            "paxos_test_duration_seconds_bucket{le=\"0.0025\"} 0",
            "paxos_test_duration_seconds_bucket{le=\"0.005\"} 1",
            "paxos_test_rows_bucket{le=\"4\"} 1",
            "paxos_test_size_bytes_sum 100",
            "paxos_test_events_total 7",
            "paxos_test_kinds_total{kind=\"good\"} 1",
            "paxos_test_kinds_total{kind=\"bad\"} 0",
            "paxos_test_level 5",
            "paxos_test_age_seconds 0.25",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in:\n{text}"
            );
        }
        assert!(text.contains("paxos_build_info{role=\"test\",version="), "{text}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn process_is_shown_under_the_usual_names() {
        let text = Metrics::unread().text().unwrap();
        for name in [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
            "process_virtual_memory_bytes",
        ] {
            let shown = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(shown.is_some(), "{name} is missing in:\n{text}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cpu_time_has_fractions_of_a_second() {
        let metrics = Metrics::unread();
        let shown = || -> f64 {
            let text = metrics.text().unwrap();
            let lines = text.lines();
            let mut values = lines.filter_map(|line| line.strip_prefix("process_cpu_seconds_total "));
            values.next().unwrap().parse().unwrap()
        };
        let before = shown();
        let mut between = 0;
        // Reading takes CPU time: below a second of it, several values are seen.
        loop {
            let now = shown();
            assert!(now >= before);
            between += u32::from(now > before && now < before + 1.0);
            if between > 2 {
                return;
            }
        }
    }

    #[test]
    fn registries_of_one_process_share_nothing() {
        let (one, other) = (Metrics::unread(), Metrics::unread());
        one.counter("paxos.test.events", "Some").increment();
        assert!(!other.text().unwrap().contains("paxos_test_events"));
    }
}
