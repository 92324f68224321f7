//! Sets up what a process tells of itself: `tracing` events on standard error, and spans to a collector.

use std::io;

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

mod export;
mod settings;

pub use export::Exporting;
pub(crate) use settings::metrics_endpoint;

/// What the exporter's crate says of each attempt.
const QUIET: &str = "opentelemetry-otlp=off";

/// Installs the process's subscriber: events at the levels of `RUST_LOG` (info when unset) go to standard error.
///
/// The second and later calls in one process change nothing, so that several roles can share it.
pub fn init(format: LogFormat) {
    init_at(format, LevelFilter::INFO);
}

/// As [`init`], but only warnings and errors when `RUST_LOG` is unset: for many roles in one process.
pub fn init_quiet(format: LogFormat) {
    init_at(format, LevelFilter::WARN);
}

fn init_at(format: LogFormat, default: LevelFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(default.into())
        .from_env_lossy()
        // We say ourselves, once, that the collector cannot be reached.
        .add_directive(QUIET.parse().expect("it is a directive"));
    let log: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(is_terminal())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(io::stderr)
            .json()
            .with_filter(filter)
            .boxed(),
    };
    // It fails only when a subscriber is there already, which is then the one to keep.
    let _ = tracing_subscriber::registry().with(log).try_init();
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}
