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
/// Leaves out the notices of the library, as of its own end, unless `RUST_LOG` names a level for the library.
const LIBRARY_WARNINGS: [&str; 2] = ["opentelemetry=warn", "opentelemetry_sdk=warn"];

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
    let given = given.filter(|given| !given.trim().is_empty()).unwrap_or_default();
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
    let names_library = given.contains("opentelemetry");
    let added = LIBRARY_WARNINGS.into_iter().filter(|_| !names_library);
    // The export itself reports an unreachable collector, once.
    added.chain([QUIET]).fold(filter, |filter, directive| {
        filter.add_directive(directive.parse().expect("it is a directive"))
    })
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex, PoisonError},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The messages that pass the filter.
    fn logged(given: Option<&str>, default: LevelFilter) -> String {
        let (lines, filter) = (
            Lines::default(),
            filter(given.map(str::to_owned), default, LogFormat::Text),
        );
        let writer = lines.clone();
        let layer = fmt::layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false);
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(layer.with_filter(filter)),
            || {
                tracing::debug!(target: "paxos_proposer", "d");
                tracing::info!(target: "paxos_proposer", "i");
                tracing::warn!(target: "paxos_proposer", "w");
                tracing::info!(target: "opentelemetry_sdk", "library's notice");
                tracing::warn!(target: "opentelemetry_sdk", "library's warning");
                tracing::error!(target: "opentelemetry-otlp", "exporter");
            },
        );
        let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).unwrap().replace('\n', ",")
    }

    #[test]
    fn levels_count_for_roles_and_only_named_levels_for_the_library() {
        let (info, warn) = (LevelFilter::INFO, LevelFilter::WARN);
        for unset in [None, Some(""), Some(" ")] {
            assert_eq!(logged(unset, info), "i,w,library's warning,", "{unset:?}");
            assert_eq!(logged(unset, warn), "w,library's warning,", "{unset:?}");
        }
        assert_eq!(logged(Some("info"), warn), "i,w,library's warning,");
        assert_eq!(logged(Some("debug"), info), "d,i,w,library's warning,");
        assert_eq!(logged(Some("paxos_proposer=warn"), info), "w,library's warning,");
        let named = logged(Some("warn,opentelemetry_sdk=info"), info);
        assert_eq!(named, "w,library's notice,library's warning,");
    }
}
