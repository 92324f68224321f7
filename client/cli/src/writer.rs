//! The writer of standard output: a separate thread, so that signals and timers continue while no process reads.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot};

/// Largest write that a ready pipe takes without blocking: Linux's `PIPE_BUF`.
const READY_BYTES: usize = 4096;

/// Bytes to write, and the receiver of the outcome.
struct Job {
    bytes: Vec<u8>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The thread's queue; `None` if the thread cannot be started.
static QUEUE: LazyLock<Option<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (queue, mut jobs) = mpsc::channel(1);
    let body = move || {
        while let Some(Job { bytes, done }) = jobs.blocking_recv() {
            let outcome = write_now(&bytes);
            UNWRITTEN.fetch_sub(1, Ordering::AcqRel);
            // The receiver is gone when the command no longer waits.
            let _ = done.send(outcome);
        }
    };
    let thread = thread::Builder::new().name("stdout".to_owned()).spawn(body);
    thread.ok().map(|_running| queue)
});

/// Jobs in the queue or in the thread's hands.
static UNWRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Writes to standard output, after all earlier writes.
///
/// # Cancel safety
/// Dropping the future leaves the bytes to the thread, or drops all bytes.
pub(crate) async fn write(bytes: &[u8]) -> io::Result<()> {
    // A switch to the thread for each line would make long outputs slow.
    let is_quick = bytes.len() <= READY_BYTES && UNWRITTEN.load(Ordering::Acquire) == 0 && is_ready();
    let Some(queue) = QUEUE.as_ref().filter(|_| !is_quick) else {
        return write_now(bytes);
    };
    let ended = || io::Error::other("the thread for standard output has ended");
    let place = queue.reserve().await.map_err(|_| ended())?;
    let (done, outcome) = oneshot::channel();
    UNWRITTEN.fetch_add(1, Ordering::AcqRel);
    place.send(Job {
        bytes: bytes.to_vec(),
        done,
    });
    outcome.await.map_err(|_| ended())?
}

/// Writes to standard output at once, and blocks while no process reads.
pub(crate) fn write_now(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Whether a write of at most [`READY_BYTES`] does not block.
fn is_ready() -> bool {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
