//! Sets up the telemetry of a process: `tracing` events on standard error, and spans to a collector.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::MakeExt as _,
    filter::{Directive, LevelFilter},
    fmt::{self, format::debug_fn},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::service::{config::LogFormat, stderr};

mod collector;
mod export;
mod log;
mod rate;
mod settings;

pub use export::Exporting;
pub use log::{dropped_lines, flush, report_drops};
pub(crate) use log::{json_line, last_line};
pub(crate) use settings::metrics_collector;

/// Silences the exporter's crate, which logs each attempt.
const QUIET: &str = "opentelemetry-otlp=off";
/// Notices of the library, as of its own end, unless `RUST_LOG` names levels.
const LIBRARY_WARNINGS: &str = "opentelemetry_sdk=warn";

/// Installs the process's subscriber: events at the levels of `RUST_LOG` (info when unset) go to standard error. The
/// queue between drops lines rather than block: [`dropped_lines`] counts the lost lines. Call [`flush`] before the
/// process ends.
///
/// The second and later calls in one process change nothing, so that several roles can share the process.
pub fn init(format: LogFormat) {
    init_at(format, LevelFilter::INFO);
}

/// As [`init`], but only warnings and errors when `RUST_LOG` is unset: for many roles in one process.
pub fn init_quiet(format: LogFormat) {
    init_at(format, LevelFilter::WARN);
}

fn init_at(format: LogFormat, default: LevelFilter) {
    let filter = filter(std::env::var(EnvFilter::DEFAULT_ENV).ok(), default, format);
    let queue = log::queue(format);
    let log: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => text_layer(queue, is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(queue)
            .log_internal_errors(false)
            .json()
            .with_filter(filter)
            .boxed(),
    };
    // Fails only when a subscriber is already installed; that subscriber stays.
    let _ = tracing_subscriber::registry().with(log).try_init();
}

/// Writes events for people, each on one line.
fn text_layer<S>(queue: log::LogQueue, ansi: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fmt::layer()
        .with_writer(queue)
        .log_internal_errors(false)
        .with_ansi(ansi)
        .fmt_fields(debug_fn(log::write_field).delimited(" "))
}

/// The levels in `given`. Invalid directives are reported and left out.
fn filter(given: Option<String>, default: LevelFilter, format: LogFormat) -> EnvFilter {
    let builder = || EnvFilter::builder().with_default_directive(default.into());
    let given = given.filter(|given| !given.trim().is_empty());
    let given = given.unwrap_or_else(|| LIBRARY_WARNINGS.to_owned());
    let filter = builder().parse(&given).unwrap_or_else(|_| {
        let (known, unknown): (Vec<_>, Vec<_>) = given
            .split(',')
            .filter(|directive| !directive.trim().is_empty())
            .partition(|directive| directive.trim().parse::<Directive>().is_ok());
        let text = format!(
            "{} has the invalid part {:?}: give levels such as info or paxos_proposer=debug, separated by commas",
            EnvFilter::DEFAULT_ENV,
            unknown.join(",")
        );
        stderr::say(match format {
            LogFormat::Text => format!("warning: {text}"),
            LogFormat::Json => json_line("WARN", &serde_json::json!({ "message": text })),
        });
        builder().parse(known.join(",")).unwrap_or_default()
    });
    // The export itself reports an unreachable collector, once.
    filter.add_directive(QUIET.parse().expect("it is a directive"))
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}
