//! Start and end of our processes: exit codes, the error with an exit code, and the body of every `main`.

use std::{fmt, io, net::SocketAddr, panic::PanicHookInfo, process, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
};

use crate::{config::RuntimeArgs, shutdown::Shutdown, signals::EndSignal, stderr, telemetry};

/// Number of connections that may wait to be accepted. When many peers connect at once, as after a network failure, a
/// connection without room is retried only a second later. The kernel may allow fewer.
const BACKLOG: u32 = 1024;
/// How long the runtime may take to stop the remaining tasks after `run` has returned.
const RUNTIME_STOP_GRACE: Duration = Duration::from_secs(1);

/// Why a process ended, for scripts and supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Stopped on request.
    Clean = 0,
    /// The client's command was carried out and the answer is no: condition failed, lost, no such key.
    No = 1,
    /// The command line or environment is invalid.
    Usage = 2,
    /// No answer, or no answer before the deadline.
    Unavailable = 69,
    /// An internal fault: a panic, a broken invariant.
    Internal = 70,
    /// The disk failed: not writable, a failed commit, a damaged state record; a client's standard output is full.
    Storage = 74,
    /// Refused to run: a foreign directory, a lock of another process, a foreign cluster, differing lists.
    Refused = 78,
    /// The command to run under an election cannot be executed; as in shells.
    NotExecutable = 126,
    /// The command to run under an election was not found; as in shells.
    NotFound = 127,
    /// A client's command was ended by SIGHUP: 128 + 1.
    HungUp = 129,
    /// A client's command was ended by SIGINT: 128 + 2.
    Interrupted = 130,
    /// A client's command was ended by SIGTERM: 128 + 15.
    Terminated = 143,
}

impl From<Exit> for process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the process, with an exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Exit,
    /// The error; the whole chain is printed on a single line.
    pub source: anyhow::Error,
}

impl Failure {
    /// A failure with the exit code `code`.
    pub fn new(code: Exit, source: impl Into<anyhow::Error>) -> Self {
        let source = source.into();
        Self { code, source }
    }

    /// Invalid flags: exit 2.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!("{text}"))
    }

    /// No answer: exit 69.
    pub fn unavailable(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unavailable, source)
    }

    /// An internal fault: exit 70.
    pub fn internal(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Internal, source)
    }

    /// The disk failed: exit 74.
    pub fn storage(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Storage, source)
    }

    /// This process must not run here, or not with the given peers: exit 78.
    pub fn refused(source: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Refused, source)
    }

    /// The reader of standard output has closed the pipe, as `head` does: the process ends with 0 and prints nothing.
    pub fn unread() -> Self {
        Self::new(Exit::Clean, anyhow::anyhow!("standard output is closed"))
    }

    /// A signal ended a client's command early: exit 128 + the signal's number. `left` describes possible effects of
    /// the command.
    pub fn ended_by(signal: EndSignal, left: &str) -> Self {
        let code = match signal {
            EndSignal::HangUp => Exit::HungUp,
            EndSignal::Interrupt => Exit::Interrupted,
            EndSignal::Terminate => Exit::Terminated,
        };
        Self::new(code, anyhow::anyhow!("ended by {signal}{left}"))
    }

    /// Adds the failed step to the text of the failure; verb first, as in “open store”.
    #[must_use]
    pub fn context(self, text: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self {
            code: self.code,
            source: self.source.context(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        for cause in self.source.chain() {
            let text = cause.to_string();
            // Some errors end with the text of the cause.
            if shown.ends_with(&text) {
                continue;
            }
            if !shown.is_empty() {
                shown += ": ";
            }
            shown += &text;
        }
        formatter.write_str(&shown)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(source: anyhow::Error) -> Self {
        Self::internal(source)
    }
}

/// The body of a role's `main`: starts logging and the runtime, binds `listen`, calls `run` until it returns, and
/// prints a failure as one line on standard error.
///
/// `run` gets a [`Shutdown`]; SIGTERM, SIGINT and SIGHUP begin the shutdown. A panic anywhere is logged and exits 70.
pub fn main_with<F, R>(listen: SocketAddr, runtime: RuntimeArgs, run: F) -> process::ExitCode
where
    F: FnOnce(TcpListener, Shutdown) -> R,
    R: Future<Output = Result<(), Failure>>,
{
    telemetry::init(runtime.log_format);
    exit_on_panic();
    finish(block_on(runtime.worker_threads, async {
        let shutdown = Shutdown::on_signals().map_err(Failure::internal)?;
        let listener = bind(listen).await?;
        tokio::spawn(telemetry::report_drops());
        run(listener, shutdown).await
    }))
}

/// Runs `future` on a new runtime. A single worker gets a single-threaded runtime, which is faster for a role.
///
/// # Errors
/// The failure of `future`, or the runtime cannot be started.
pub fn block_on<T>(
    worker_threads: usize,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut builder = if worker_threads > 1 {
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(worker_threads);
        builder
    } else {
        runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(anyhow::Error::new(error).context("start the runtime")))?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(RUNTIME_STOP_GRACE);
    result
}

/// Binds the listening address of a role.
///
/// # Errors
/// The address is in use or is not an address of this machine: a usage error that names the address.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = || {
        let socket = match listen {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restarted process can bind the port again at once.
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: io::Error| Failure::usage(format!("listen on {listen}: {error}")))
}

/// Writes the rest of the log, prints a failure as one line on standard error, and returns the exit code. An unwritable
/// standard error does not change the exit code. Takes at most a second.
pub fn finish(result: Result<(), Failure>) -> process::ExitCode {
    telemetry::flush();
    match result {
        Ok(()) => Exit::Clean.into(),
        Err(failure) => {
            if failure.code != Exit::Clean {
                stderr::say(telemetry::last_line(failure.code, &failure.to_string()));
            }
            failure.code.into()
        }
    }
}

/// From now on a panic in any thread is logged and ends the process with 70: half a process is worse than none.
pub fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let text = info.payload_as_str().unwrap_or("panic");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, %backtrace, "panic: {text}");
        telemetry::flush();
        let text = format!("internal fault at {location}: {text}");
        stderr::say(telemetry::last_line(Exit::Internal, &text));
        process::exit(i32::from(Exit::Internal as u8));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_prints_its_whole_chain_on_one_line() {
        let failure = Failure::storage(anyhow::anyhow!("disk full")).context("commit votes");
        assert_eq!(failure.to_string(), "commit votes: disk full");
        assert_eq!(failure.code, Exit::Storage);
    }

    #[test]
    fn cause_whose_text_its_error_repeats_is_printed_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("error returned from database: {0}")]
        struct Repeats(#[source] io::Error);
        let failure = Failure::storage(Repeats(io::Error::other("file is not a database")));
        assert_eq!(
            failure.context("open store").to_string(),
            "open store: error returned from database: file is not a database"
        );
    }

    #[test]
    fn unmarked_error_is_an_internal_fault() {
        assert_eq!(Failure::from(anyhow::anyhow!("odd")).code, Exit::Internal);
    }

    #[test]
    fn taken_address_is_a_usage_error() {
        let result = block_on(1, async {
            let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            bind(first.local_addr().map_err(Failure::internal)?).await
        });
        assert_eq!(result.expect_err("the address is taken").code, Exit::Usage);
    }
}
