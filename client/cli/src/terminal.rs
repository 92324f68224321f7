//! The process group in the foreground of the terminal.

use std::{io, time::Duration};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{getpgrp, tcgetpgrp, tcsetpgrp},
};
use tokio::time::sleep;

/// Whether standard input is a terminal with this process's group in the foreground.
pub(crate) fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Time between two checks whether the terminal is still there.
const CHECK: Duration = Duration::from_millis(250);

/// Returns once this session has lost the terminal at standard input: the terminal closed, or the session's first process
/// ended. The kernel reports this by SIGHUP, but only to that process and to the process group in the foreground.
///
/// # Cancel safety
/// Safe: only waits.
pub(crate) async fn lost() {
    while tcgetpgrp(io::stdin()).is_ok() {
        sleep(CHECK).await;
    }
}

/// Puts this process's group into the foreground of the terminal at standard input. Does nothing without a terminal.
pub(crate) fn take() {
    // The kernel stops a background process for the call below, unless the process blocks the signal.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    if stop.thread_block().is_ok() {
        // Fails when the terminal is gone.
        let _ = tcsetpgrp(io::stdin(), getpgrp());
        let _ = stop.thread_unblock();
    }
}
