//! Sends a role's metrics to a collector over OTLP, from a thread and a runtime of its own.

use std::{
    env,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{PeriodicReader, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use tokio::runtime::{Builder, Runtime};

use crate::{exit::Failure, telemetry::metrics_endpoint};

/// How long one export may take: a collector that hangs is given up on before the next is due.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// What reads the registry now and then and sends it, when the standard variables name a collector.
///
/// # Errors
/// They name one in a way that makes no sense (usage).
pub(super) fn reader() -> Result<Option<PeriodicReader<Telling>>, Failure> {
    let Some(endpoint) = metrics_endpoint(|name| env::var(name).ok()).map_err(Failure::usage)? else {
        return Ok(None);
    };
    // The connection lives on this runtime: a collector that is away or slow takes no time of a role's thread.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(error).context("start the telemetry runtime"))?;
    let exporter = {
        let _entered = runtime.enter();
        MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.clone())
            .with_timeout(EXPORT_MAX)
            .build()
            .map_err(|error| Failure::usage(format!("cannot export metrics: {error}")))?
    };
    let telling = Telling {
        exporter,
        endpoint,
        failing: AtomicBool::new(false),
        runtime: Some(runtime),
    };
    Ok(Some(PeriodicReader::builder(telling).build()))
}

/// The exporter, which says once that the collector does not take what is sent, and once that it does again.
#[derive(Debug)]
pub(super) struct Telling {
    exporter: MetricExporter,
    endpoint: String,
    failing: AtomicBool,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl PushMetricExporter for Telling {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut export = pin!(self.exporter.export(metrics));
        // The caller is a bare thread; timers and connections need a runtime.
        let result = poll_fn(|context| {
            let _entered = self.runtime.as_ref().map(Runtime::enter);
            export.as_mut().poll(context)
        })
        .await;
        let fails = result.is_err();
        match (self.failing.swap(fails, Ordering::Relaxed), result) {
            (false, Err(reason)) => tracing::warn!(
                endpoint = self.endpoint, %reason,
                "the collector takes no metrics; trying on (OTEL_METRICS_EXPORTER=none sends it traces alone)"
            ),
            (true, Ok(())) => tracing::info!(endpoint = self.endpoint, "the collector takes metrics again"),
            (false, Ok(())) | (true, Err(_)) => {}
        }
        // Whoever hears of a failure could only say so again.
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
        // A runtime must not end by waiting inside another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
