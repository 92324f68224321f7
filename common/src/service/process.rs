//! Start and end of a process: the body of every `main`, the runtime, the listener, and the exit.

use std::{io, net::SocketAddr, panic::PanicHookInfo, process, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{self, Runtime},
};

use super::{
    config::RuntimeArgs,
    failure::{Exit, Failure},
    shutdown::Shutdown,
    stderr, telemetry,
};

/// Number of connections that may wait to be accepted. When many peers connect at once, as after a network failure, a
/// connection without room is retried only a second later. The kernel may allow fewer.
const BACKLOG: u32 = 1024;
/// How long the runtime may take to stop the remaining tasks after `run` has returned.
const RUNTIME_STOP_GRACE: Duration = Duration::from_secs(1);

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
    let runtime = start(worker_threads)?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(RUNTIME_STOP_GRACE);
    result
}

/// Runs the future of a client's command on a new single-threaded runtime. Does not wait for remaining tasks: one of the
/// tasks may still read standard input.
///
/// # Errors
/// The failure of `future`, or the runtime cannot be started.
pub fn block_on_command<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = start(1)?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

fn start(worker_threads: usize) -> Result<Runtime, Failure> {
    let mut builder = if worker_threads > 1 {
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(worker_threads);
        builder
    } else {
        runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| Failure::internal(anyhow::Error::new(error).context("start the runtime")))
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
    fn command_does_not_wait_for_a_blocked_task() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let begun = std::time::Instant::now();
        let done = block_on_command(async {
            // As a read of standard input.
            tokio::task::spawn_blocking(move || held.recv());
            Ok(())
        });
        assert!(done.is_ok() && begun.elapsed() < RUNTIME_STOP_GRACE);
        drop(hold);
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
