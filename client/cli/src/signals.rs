//! Commands that a signal can end.

use paxos_common::service::{
    failure::Failure,
    signals::{EndSignal, EndSignals},
};

/// Starts to listen to SIGINT, SIGTERM and SIGHUP.
pub(crate) fn listen() -> Result<EndSignals, Failure> {
    EndSignals::listen()
        .map_err(|error| Failure::internal(anyhow::Error::new(error).context("listen to signals")))
}

/// What may remain after a signal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    /// The command only reads.
    Nothing,
    /// The command writes.
    Write,
    /// The command changes the members.
    Change,
    /// The command restores a backup.
    Restore,
}

/// Runs a command to its end, or until a signal. After a signal the command fails with 128 + the signal's number.
pub(crate) async fn interruptible<T>(
    left: Left,
    command: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut signals = listen()?;
    tokio::select! {
        // Cancel safe: the failure names the possible remains of the command.
        result = command => result,
        // Cancel safe: an unreturned signal stays pending.
        signal = signals.next() => Err(ended_by(signal, left)),
    }
}

/// Runs a command that usually ends by a signal.
pub(crate) async fn until_asked_to_end(
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut signals = listen()?;
    tokio::select! {
        // Cancel safe: a signal is the usual end of the command.
        result = command => result,
        // Cancel safe: an unreturned signal stays pending.
        _ = signals.next() => Ok(()),
    }
}

fn ended_by(signal: EndSignal, left: Left) -> Failure {
    Failure::ended_by(
        signal,
        match left {
            Left::Nothing => "",
            Left::Change => ": the change goes on, and the same command shows the rest",
            Left::Restore => ": the same command finishes the restore",
            Left::Write => ": the write may have taken effect, or may still take effect",
        },
    )
}
