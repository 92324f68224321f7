//! The process metrics of Prometheus, with fractions of a second of CPU time.

use prometheus::{
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::{Counter, MetricFamily},
};
use rustix::time::{ClockId, clock_gettime};

/// The metric with whole seconds in the collector of the library: too coarse for a process that is idle most of the
/// time.
const CPU: &str = "process_cpu_seconds_total";

/// The library's collector, with the CPU time read from the clock of the process.
pub(super) struct Process(ProcessCollector);

impl Process {
    /// For the calling process.
    pub(super) fn this() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        for family in families.iter_mut().filter(|family| family.name() == CPU) {
            for metric in family.mut_metric() {
                let mut counter = Counter::default();
                counter.set_value(cpu_seconds());
                metric.set_counter(counter);
            }
        }
        families
    }
}

/// User and system time of all threads of this process, in seconds.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Exact: f64 holds whole nanoseconds for 104 days, and hundredths of a second for longer than a process lives.
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
