//! Exports spans over OTLP, from its own thread and runtime: a slow or absent collector costs no latency.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    global::BoxedTracer,
    trace::{SpanId, TraceId, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::EnvResourceDetector,
    trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    time::timeout,
};

use super::{
    rate::{CALLERS_PER_SECOND, LEADERS_PER_SECOND, Rate},
    settings::ExportSettings,
};
use crate::{
    service::{config::version, failure::Failure, stderr},
    trace::{SCOPE, Tracer, known_id, names},
};

/// How long a stopping role waits for the export of its last spans.
const ROLE_FLUSH_MAX: Duration = Duration::from_secs(2);
/// How long a client's command waits for this export: people wait for the command.
const CLIENT_FLUSH_MAX: Duration = Duration::from_millis(200);
/// Limit of the links of a span: a batch links every request in it, by default at most this many.
const LINKS_MAX: u32 = 4_096;

/// Exports the spans of one role until stopped.
#[derive(Debug)]
pub struct Exporting {
    tracer: Tracer,
    resource: Resource,
    exporter: Option<(SdkTracerProvider, Runtime)>,
    flush_max: Duration,
}

/// The owner of the exported spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exporter<'a> {
    /// A role with this name, and the name of its node. Reports an unreachable collector.
    Role(&'a str, &'a str),
    /// A client's command. Reports nothing about the collector.
    Client,
}

impl Exporting {
    /// Starts the export if the environment names a collector; `role` is `acceptor`, `proposer` or `learner`, `node`
    /// this process's name in the cluster.
    ///
    /// Neither the start nor later work waits for the collector: spans that the collector does not take in time are
    /// dropped.
    ///
    /// # Errors
    /// An `OTEL_` variable is invalid (usage).
    pub fn start(role: &str, node: &str) -> Result<Self, Failure> {
        let exporting = Self::as_service(Exporter::Role(role, node)).map_err(Failure::usage)?;
        if exporting.tracer.is_on() {
            tracing::info!("exporting traces");
        }
        Ok(exporting)
    }

    /// Starts the export for a client's command; the client library finds the provider by itself. An invalid variable,
    /// or one meant for other programs, is named in a warning, and the command runs without traces.
    pub fn start_for_client() -> Self {
        let exporting = Self::as_service(Exporter::Client).unwrap_or_else(|error| {
            stderr::say(format_args!("warning: no traces are exported: {error}"));
            Self::off(Exporter::Client)
        });
        if let Some((provider, _)) = &exporting.exporter {
            opentelemetry::global::set_tracer_provider(provider.clone());
        }
        exporting
    }

    fn off(exporter: Exporter<'_>) -> Self {
        Self {
            tracer: Tracer::off(),
            resource: exporter.resource(),
            exporter: None,
            flush_max: Duration::ZERO,
        }
    }

    fn as_service(service: Exporter<'_>) -> Result<Self, String> {
        let Some(settings) = ExportSettings::from_env(|name| env::var(name).ok())? else {
            return Ok(Self::off(service));
        };
        let resource = service.resource();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()
            .map_err(|error| format!("start the telemetry runtime: {error}"))?;
        // The connection belongs to this runtime.
        let made = {
            let _entered = runtime.enter();
            settings.collector.span_exporter()
        };
        let exporter = match made {
            Ok(exporter) => exporter,
            Err(error) => {
                // A runtime must not end by blocking inside another runtime.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let provider = {
            let _entered = runtime.enter();
            SdkTracerProvider::builder()
                .with_batch_exporter(WatchedExporter {
                    exporter: Arc::new(exporter),
                    runtime: runtime.handle().clone(),
                    failing: AtomicBool::new(false),
                    reports: service != Exporter::Client,
                    endpoint: settings.collector.endpoint.clone(),
                })
                .with_id_generator(Ids::default())
                .with_max_links_per_span(LINKS_MAX)
                .with_resource(resource.clone())
                .build()
        };
        tracing::debug!(
            endpoint = settings.collector.endpoint,
            sampler = settings.sampler,
            "export is set up"
        );
        let scope = InstrumentationScope::builder(SCOPE)
            .with_version(version())
            .build();
        let tracer = provider.tracer_with_scope(scope);
        Ok(Self {
            tracer: Tracer::new(
                BoxedTracer::new(Box::new(tracer)),
                Box::new(Rate::new(CALLERS_PER_SECOND)),
                Box::new(Rate::new(LEADERS_PER_SECOND)),
            ),
            resource,
            exporter: Some((provider, runtime)),
            flush_max: match service {
                Exporter::Role(..) => ROLE_FLUSH_MAX,
                Exporter::Client => CLIENT_FLUSH_MAX,
            },
        })
    }

    /// Makes the role's spans.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// The resource of the spans: metrics use the same.
    pub fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// Exports the remaining spans: for at most two seconds in a role, for at most 200 ms in a client's command.
    ///
    /// # Cancel safety
    /// Dropping the future drops the remaining spans.
    pub async fn stop(mut self) {
        let Some((provider, runtime)) = self.exporter.take() else {
            return;
        };
        let flush_max = self.flush_max;
        let (done, flushed) = oneshot::channel();
        // The flush blocks, and the collector may hang. A thread of the runtime would delay the runtime's end.
        thread::spawn(move || {
            let result = provider.shutdown_with_timeout(ROLE_FLUSH_MAX);
            runtime.shutdown_background();
            // The receiver is gone when the time is up.
            drop(done.send(result));
        });
        if let Ok(Ok(Err(error))) = timeout(flush_max, flushed).await {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // A runtime must not end by blocking inside another runtime.
        if let Some((_, runtime)) = self.exporter.take() {
            runtime.shutdown_background();
        }
    }
}

impl Exporter<'_> {
    /// The resource of the exporter. The standard variables take precedence over our own knowledge.
    fn resource(self) -> Resource {
        let (role, node) = match self {
            Self::Role(role, node) => (role, Some(node)),
            Self::Client => ("client", None),
        };
        let instance = uuid::Uuid::new_v4().to_string();
        let ours = [
            KeyValue::new("service.name", format!("paxos-{role}")),
            KeyValue::new("service.instance.id", instance),
            KeyValue::new("service.version", version()),
        ];
        // Host and process, in OpenTelemetry's names. OpenTelemetry's detector of processes would add the command line,
        // and so the values that clients write.
        let host = rustix::system::uname();
        let process = [
            KeyValue::new("host.name", host.nodename().to_string_lossy().into_owned()),
            KeyValue::new("host.arch", env::consts::ARCH),
            KeyValue::new("os.type", env::consts::OS),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        let node = node.map(|node| KeyValue::new(names::NODE, node.to_owned()));
        let name = env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
        Resource::builder_empty()
            .with_attributes(ours)
            .with_attributes(process)
            .with_attributes(node)
            .with_detector(Box::new(EnvResourceDetector::new()))
            .with_attributes(name.map(|name| KeyValue::new("service.name", name)))
            .build()
    }
}

/// Random ids, except for spans with an id that other processes know already.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        known_id().unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Reports once when the collector becomes unreachable, and once when the collector is reachable again.
#[derive(Debug)]
struct WatchedExporter<E> {
    exporter: Arc<E>,
    runtime: Handle,
    failing: AtomicBool,
    /// Whether an unreachable collector is reported.
    reports: bool,
    endpoint: String,
}

impl<E: SpanExporter + 'static> SpanExporter for WatchedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        // The caller is a plain thread; timers need a runtime.
        let exported = self
            .runtime
            .spawn(async move { exporter.export(batch).await })
            .await;
        let reason = match exported {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_stopped) => return Ok(()),
        };
        let fails = reason.is_some();
        match (self.failing.swap(fails, Ordering::Relaxed), reason) {
            (false, Some(reason)) if self.reports => tracing::warn!(
                endpoint = self.endpoint,
                reason,
                "the trace collector accepts no spans: spans are dropped until the collector recovers"
            ),
            (true, None) if self.reports => {
                tracing::info!(
                    endpoint = self.endpoint,
                    "the trace collector accepts spans again"
                );
            }
            (false | true, None | Some(_)) => {}
        }
        // The receiver of the failure could only report the failure again.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        let exporter = Arc::get_mut(&mut self.exporter);
        exporter
            .expect("the exporter is shared only during exports, and exports begin later")
            .set_resource(resource);
    }
}
