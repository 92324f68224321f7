//! The signals that ask a process to end: SIGINT, SIGTERM and SIGHUP.

use std::{fmt, fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// The terminal closed.
    HangUp,
    /// Ctrl-C.
    Interrupt,
    /// A supervisor stops the process.
    Terminate,
}

impl EndSignal {
    /// The signal's number on Linux. By convention a process ended by the signal exits with 128 + this number.
    pub fn number(self) -> u8 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for EndSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HangUp => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Listens to the signals that ask this process to end.
///
/// With these handlers, the signals also end process 1 of a container, where the kernel drops signals without a
/// handler. A SIGHUP that the parent set to be ignored stays ignored: `nohup` relies on this.
#[derive(Debug)]
pub struct EndSignals {
    /// `None`: the signal is ignored.
    hang_up: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    /// Whether the parent of this process set SIGHUP to be ignored.
    pub fn ignores_hang_up(&self) -> bool {
        self.hang_up.is_none()
    }

    /// Starts to listen.
    ///
    /// # Errors
    /// The signals cannot be listened to.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let listen = |end: EndSignal| signal(SignalKind::from_raw(end.number().into()));
        let is_ignored = ignored_signals() & (1 << (EndSignal::HangUp.number() - 1)) != 0;
        Ok(Self {
            hang_up: (!is_ignored).then(|| listen(EndSignal::HangUp)).transpose()?,
            interrupt: listen(EndSignal::Interrupt)?,
            terminate: listen(EndSignal::Terminate)?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// Safe: a signal that was not returned stays pending.
    pub async fn next(&mut self) -> EndSignal {
        tokio::select! {
            // All arms: `recv` is cancel safe.
            () = hung_up(&mut self.hang_up) => EndSignal::HangUp,
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
        }
    }
}

async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The ignored signals of this process, as the kernel's bit mask: bit 0 is signal 1. Empty when the kernel does not
/// report the mask.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask_of(&status)
}

fn mask_of(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_of_ignored_signals_is_read_from_the_status_file() {
        assert_eq!(
            mask_of("Name:\tpaxos\nSigIgn:\t0000000000000001\nSigCgt:\t0\n"),
            1
        );
        assert_eq!(mask_of("Name:\tpaxos\n"), 0);
    }
}
