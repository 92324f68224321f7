//! The process group in the foreground of the terminal.

use std::io;

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{getpgrp, tcgetpgrp, tcsetpgrp},
};

/// Whether standard input is a terminal with this process's group in the foreground.
pub(crate) fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
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
