//! Sends a role's metrics to a collector over OTLP, from its own thread and runtime.

use std::{
    env,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use tokio::runtime::{Builder, Runtime};

use crate::service::{failure::Failure, telemetry::metrics_collector};

/// How long one export may take: a hanging export is given up before the next is due.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// A reader that sends the registry's contents periodically, when the standard variables name a collector.
///
/// # Errors
/// The variables are invalid (usage).
pub(super) fn reader() -> Result<Option<PeriodicReader<Telling>>, Failure> {
    let Some(collector) = metrics_collector(|name| env::var(name).ok()).map_err(Failure::usage)? else {
        return Ok(None);
    };
    // The connection belongs to this runtime: an absent or slow collector takes no time of a role's thread.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(error).context("start the telemetry runtime"))?;
    let made = {
        let _entered = runtime.enter();
        collector.metric_exporter(EXPORT_MAX)
    };
    let exporter = match made {
        Ok(exporter) => exporter,
        Err(error) => {
            // A runtime must not end by blocking inside another runtime.
            runtime.shutdown_background();
            return Err(Failure::usage(error));
        }
    };
    let telling = Telling {
        exporter,
        endpoint: collector.endpoint,
        failing: AtomicBool::new(false),
        runtime: Some(runtime),
    };
    Ok(Some(PeriodicReader::builder(telling).build()))
}

/// The exporter. Reports once when the collector begins to fail, and once when the collector takes metrics again.
#[derive(Debug)]
pub(super) struct Telling {
    exporter: MetricExporter,
    endpoint: String,
    failing: AtomicBool,
    /// Present until the exporter is dropped.
    runtime: Option<Runtime>,
}

impl PushMetricExporter for Telling {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut export = pin!(self.exporter.export(metrics));
        // The caller is a plain thread; timers and connections need a runtime.
        let result = poll_fn(|context| {
            let _entered = self.runtime.as_ref().map(Runtime::enter);
            export.as_mut().poll(context)
        })
        .await;
        let fails = result.is_err();
        match (self.failing.swap(fails, Ordering::Relaxed), result) {
            (false, Err(reason)) => tracing::warn!(
                endpoint = self.endpoint, %reason,
                "the collector accepts no metrics; trying again (OTEL_METRICS_EXPORTER=none exports only traces)"
            ),
            (true, Ok(())) => tracing::info!(endpoint = self.endpoint, "the collector accepts metrics again"),
            (false, Ok(())) | (true, Err(_)) => {}
        }
        // The receiver of the failure could only report the failure again.
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // A runtime must not end by blocking inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
