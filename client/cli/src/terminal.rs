//! Which process group has the terminal.

use std::io;

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{getpgrp, tcgetpgrp, tcsetpgrp},
};

/// Whether standard input is a terminal, and this process's group is in its foreground.
pub(crate) fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Puts this process's group into the foreground of the terminal at standard input. Without a terminal nothing happens.
pub(crate) fn take() {
    // The kernel stops a process in the background that does so, unless the process blocks the signal.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    if stop.thread_block().is_ok() {
        // It fails where there is no terminal any more.
        let _ = tcsetpgrp(io::stdin(), getpgrp());
        let _ = stop.thread_unblock();
    }
}
