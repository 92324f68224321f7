//! Standard error for the few lines outside the log: written without failing, and without blocking for long.

use std::{
    fmt,
    io::{self, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Longest wait for a line to be written. A stalled reader must not delay the process.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// Writes a line to standard error. Returns once the line is written, has failed, or a second after the write began. A
/// closed, full or unread standard error has no other effect.
pub fn say(text: impl fmt::Display) {
    let line = format!("{text}\n").into_bytes();
    write_within(WRITE_MAX, line, |line| io::stderr().write_all(line));
}

/// Calls `write` on its own thread and waits at most `patience`, from the begin of the thread on: on a busy machine a thread may
/// begin late.
fn write_within(
    patience: Duration,
    line: Vec<u8>,
    write: impl FnOnce(&[u8]) -> io::Result<()> + Send + 'static,
) {
    let (steps, seen) = mpsc::sync_channel(2);
    let writing = thread::Builder::new().name("stderr".to_owned()).spawn(move || {
        let _ = steps.send(());
        // A failed write loses the line: no better place is left for a report.
        let _ = write(&line);
        // The caller may have gone on.
        let _ = steps.send(());
    });
    // Without a thread, as under a limit of processes, the line is lost.
    if writing.is_ok() {
        let _ = seen.recv();
        // After the time is up, the thread stays behind and ends with the process.
        let _ = seen.recv_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_reader_is_not_waited_for() {
        let (release, released) = mpsc::sync_channel::<()>(0);
        write_within(Duration::from_millis(1), b"line".to_vec(), move |_| {
            released.recv().map_err(io::Error::other)
        });
        // The call returned although the line is still being written.
        release.send(()).unwrap();
    }

    #[test]
    fn line_that_cannot_be_written_is_dropped() {
        write_within(Duration::from_secs(60), b"line".to_vec(), |_| {
            Err(io::ErrorKind::StorageFull.into())
        });
    }
}
