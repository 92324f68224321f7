//! Log lines on their way to standard error: a bounded queue that never blocks the logging code, and a writing thread.
//!
//! When the queue is full, lines are dropped and counted. A stalled reader of standard error costs lines, and nothing
//! more.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::field::Field;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::{
    MakeWriter,
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use crate::{
    escape::{Escaping, escape},
    service::{config::LogFormat, failure::Exit},
};

/// Number of lines in the queue: some seconds of a busy process at the level `debug`, about a megabyte.
const LINES_MAX: usize = 4_096;
/// Longest wait, at the end of the process, for lines still in the queue.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// Interval of checks, at the end of the process, whether the queue is empty.
const FLUSH_LOOK: Duration = Duration::from_millis(2);
/// Interval of checks for dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The process's queue; none before logging is set up.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// The form of the process's log; none before logging is set up.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Writes log lines through a queue. Cheap to clone; clones share the queue.
#[derive(Clone)]
pub(super) struct LogQueue {
    lines: NonBlocking,
    dropped: ErrorCounter,
    /// Lines handed in, including dropped lines.
    handed: Arc<AtomicUsize>,
    /// Lines written, including failed writes.
    written: Arc<AtomicUsize>,
    /// The writing thread ends when this guard is dropped. The guard of the process's queue is never dropped: its
    /// thread ends with the process.
    _guard: Arc<WorkerGuard>,
}

impl LogQueue {
    fn new(lines_max: usize, output: impl Write + Send + 'static) -> Self {
        let written = Arc::new(AtomicUsize::new(0));
        let counted = CountedOutput {
            output,
            written: written.clone(),
        };
        let builder = NonBlockingBuilder::default().lossy(true).thread_name("log");
        let (lines, guard) = builder.buffered_lines_limit(lines_max).finish(counted);
        Self {
            dropped: lines.error_counter(),
            lines,
            handed: Arc::default(),
            written,
            _guard: Arc::new(guard),
        }
    }

    /// How many lines were dropped so far.
    fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// Whether every line handed in before this call is written or dropped.
    fn is_empty(&self) -> bool {
        let handed = self.handed.load(Ordering::Acquire);
        self.written.load(Ordering::Acquire) + self.dropped() >= handed
    }

    /// Waits until all lines are written, at most `patience`.
    fn flush(&self, patience: Duration) {
        let begun = Instant::now();
        while !self.is_empty() && begun.elapsed() < patience {
            thread::sleep(FLUSH_LOOK);
        }
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line)?;
        Ok(line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.handed.fetch_add(1, Ordering::AcqRel);
        self.lines.write_all(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Counts the lines written to `output`.
struct CountedOutput<W> {
    output: W,
    written: Arc<AtomicUsize>,
}

impl<W: Write> Write for CountedOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let result = self.output.write_all(line);
        self.written.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The process's queue to standard error; the first call makes it and fixes the format.
pub(super) fn queue(format: LogFormat) -> LogQueue {
    // The first caller's format stays.
    let _ = FORMAT.set(format);
    QUEUE
        .get_or_init(|| LogQueue::new(LINES_MAX, io::stderr()))
        .clone()
}

/// How many log lines this process has dropped because standard error was not read.
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped() as u64)
}

/// Waits until the log is written, at most half a second. Call this before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_MAX);
    }
}

/// Warns of dropped lines, with their number, once the queue has room for the warning; runs until dropped.
pub async fn report_drops() {
    let mut reported = 0;
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let dropped = dropped_lines();
        if dropped > reported && QUEUE.get().is_none_or(LogQueue::is_empty) {
            tracing::warn!(
                lines = dropped - reported,
                "log lines were dropped: standard error was not read fast enough"
            );
            reported = dropped;
        }
    }
}

/// The last line of the log: why the process ends, in the log's format.
pub(crate) fn last_line(code: Exit, text: &str) -> String {
    match FORMAT.get().copied().unwrap_or(LogFormat::Text) {
        LogFormat::Text => format!("error: {}", escape(text)),
        LogFormat::Json => json_line(
            "ERROR",
            &serde_json::json!({ "message": text, "exit_code": code as u8 }),
        ),
    }
}

/// A line of a JSON log that does not come from an event.
pub(crate) fn json_line(level: &str, fields: &serde_json::Value) -> String {
    let mut timestamp = String::new();
    // If formatting the time fails, the field stays empty.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let line =
        serde_json::json!({ "timestamp": timestamp, "level": level, "fields": fields, "target": "paxos" });
    line.to_string()
}

/// Name of the field with a panic's backtrace: its line breaks are ours and are kept.
const BACKTRACE: &str = "backtrace";

/// Writes the fields of an event or a span for people: `name=value`, and the message without its name. Values are
/// escaped: they may be texts of peers, and one event is one line.
pub(super) fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let name = field.name();
    if name != "message" {
        let name = name.strip_prefix("r#").unwrap_or(name);
        // As usual at a terminal: an italic name, a dimmed sign.
        if writer.has_ansi_escapes() {
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
        } else {
            write!(writer, "{name}=")?;
        }
    }
    if name == BACKTRACE {
        return write!(writer, "{value:?}");
    }
    fmt::write(&mut Escaping(writer), format_args!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Takes a line only when allowed.
    struct Slow {
        turns: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.turns.recv().map_err(io::Error::other)?;
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_queue_drops_lines_and_counts_them() {
        let (turn, turns) = mpsc::sync_channel(100);
        let taken = Arc::default();
        let mut queue = LogQueue::new(
            4,
            Slow {
                turns,
                taken: Arc::clone(&taken),
            },
        );
        for number in 0..20 {
            queue.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        // Four lines wait, and the thread may hold one more.
        let dropped = queue.dropped();
        assert!(dropped == 15 || dropped == 16, "{dropped}");
        assert!(!queue.is_empty());
        for _ in 0..21 - dropped {
            turn.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(60));
        queue.write_all(b"last\n").unwrap();
        queue.flush(Duration::from_secs(60));
        let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(
            taken.starts_with("0\n1\n2\n3\n") && taken.ends_with("last\n"),
            "{taken}"
        );
        assert_eq!(queue.dropped(), dropped);
    }

    #[test]
    fn text_of_a_peer_stays_on_the_line_of_its_event() {
        let (sent, lines) = mpsc::sync_channel(1);
        struct Sender(mpsc::SyncSender<Vec<u8>>);
        impl Write for Sender {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.0.send(line.to_vec()).map_err(io::Error::other)?;
                Ok(line.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = LogQueue::new(10, Sender(sent));
        let peer = "a\nERROR faked \u{1b}[31m";
        let subscriber = tracing_subscriber::registry().with(super::super::text_layer(queue, false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(%peer, quoted = peer, "said {peer}");
        });
        let line = String::from_utf8(lines.recv().unwrap()).unwrap();
        let escaped = "a\\nERROR faked \\u{1b}[31m";
        assert!(
            line.ends_with(&format!(": said {escaped} peer={escaped} quoted=\"{escaped}\"\n")),
            "{line:?}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    }

    #[test]
    fn output_that_cannot_be_written_costs_lines_and_no_time() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut queue = LogQueue::new(100, Full);
        for _ in 0..10 {
            queue.write_all(b"line\n").unwrap();
        }
        queue.flush(Duration::from_secs(60));
        assert!(queue.is_empty());
    }
}
