//! Runs a command that must not outlive the guardian: if the guardian dies, the kernel kills the command.

use std::{
    ffi::{OsStr, OsString},
    io::ErrorKind,
    os::unix::{
        ffi::OsStrExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getppid},
};
use paxos_common::service::{
    failure::{Exit, Failure},
    stderr,
};
use tokio::{
    process::Child,
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::timeout,
};

use crate::terminal;

/// Run a command that is killed with the parent process: the step between `paxos elect` and the command
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the required parent process
    #[arg(long)]
    parent: i32,

    /// Put the process group into the foreground of the terminal at standard input
    #[arg(long)]
    foreground: bool,

    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command: returns only if the command cannot be run.
pub(crate) fn run(args: &Args) -> ExitCode {
    let set = set_pdeathsig(Signal::SIGKILL);
    // If the parent died before the call above, the kernel never sends the signal.
    if set.is_err() || getppid() != Pid::from_raw(args.parent) {
        return Exit::Internal.into();
    }
    if args.foreground {
        terminal::take();
    }
    let [program, arguments @ ..] = &args.command[..] else {
        return Exit::Usage.into();
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    stderr::say(format_args!("error: run {}: {error}", program.display()));
    if error.kind() == ErrorKind::NotFound {
        Exit::NotFound.into()
    } else {
        Exit::NotExecutable.into()
    }
}

/// Finds the program of a command, before any other work for the command.
///
/// # Errors
/// As in shells: exit code 127 when there is no such program, 126 when the file cannot be executed.
pub(crate) fn find_program(program: &OsStr) -> Result<(), Failure> {
    match which::which(program) {
        Ok(_) => Ok(()),
        Err(_) if program.as_bytes().contains(&b'/') && Path::new(program).exists() => Err(Failure::new(
            Exit::NotExecutable,
            anyhow::anyhow!("{} is not an executable file", program.display()),
        )),
        Err(_) => Err(Failure::new(
            Exit::NotFound,
            anyhow::anyhow!("there is no program {}", program.display()),
        )),
    }
}

/// The running command, in its own process group.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    group: Pid,
    /// The command has the terminal. The guardian takes the terminal back when the command has ended.
    foreground: bool,
    /// Reports a stop of the command, as by Ctrl-Z.
    child_signals: Signals,
    /// The user knows that the command waits for the terminal.
    wait_is_reported: bool,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.foreground {
            terminal::take();
        }
    }
}

impl Guarded {
    /// Must be called on a thread that runs until the process ends: to the kernel, the end of this thread is the death
    /// of the parent.
    pub(crate) fn start(command: &[OsString], token: u64) -> Result<Self, Failure> {
        let failed = |error| Failure::internal(anyhow::Error::new(error).context("start the command"));
        let own = std::env::current_exe().map_err(failed)?;
        let child_signals = signal(SignalKind::child()).map_err(failed)?;
        // Otherwise SIGTTIN would stop a command that reads from the terminal, while the election is held.
        let foreground = terminal::is_ours();
        let child = tokio::process::Command::new(own)
            .args(["guard", "--parent", &std::process::id().to_string()])
            .args(foreground.then_some("--foreground"))
            .arg("--")
            .args(command)
            .env("PAXOS_FENCING_TOKEN", token.to_string())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| Failure::internal(anyhow::anyhow!("the command has no process id")))?;
        Ok(Self {
            child,
            group: Pid::from_raw(id),
            foreground,
            child_signals,
            wait_is_reported: false,
        })
    }

    /// Whether the command has the terminal. The kernel then sends SIGHUP to the command, and not to the guardian.
    pub(crate) fn has_terminal(&self) -> bool {
        self.foreground
    }

    /// # Cancel safety
    /// Safe: the command continues.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        let status = loop {
            tokio::select! {
                // Cancel safe: the command continues.
                status = self.child.wait() => break status,
                // Cancel safe: an unreceived signal stays pending.
                _ = self.child_signals.recv() => self.go_on_when_stopped()?,
            }
        };
        status.map_err(|error| Failure::internal(anyhow::Error::new(error).context("wait for the command")))
    }

    /// Sends SIGTERM to the process group, and SIGKILL when the command has not ended within `grace`. A stopped command
    /// is continued: only then does the command get SIGTERM.
    ///
    /// # Cancel safety
    /// The next call starts from the beginning.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, Failure> {
        self.signal(Signal::SIGTERM)?;
        self.signal(Signal::SIGCONT)?;
        if let Ok(status) = timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::SIGKILL)?;
        self.wait().await
    }

    /// Continues a command that was stopped at the terminal. A stopped command would hold the election for nothing, and
    /// no process would read from the terminal. A command without the terminal would stop again: the user must act.
    fn go_on_when_stopped(&mut self) -> Result<(), Failure> {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))
                if self.foreground =>
            {
                stderr::say("the command cannot be stopped while the election is held, and continues");
                self.signal(Signal::SIGCONT)
            }
            Ok(WaitStatus::Stopped(_, Signal::SIGTTIN | Signal::SIGTTOU)) => {
                if !std::mem::replace(&mut self.wait_is_reported, true) {
                    stderr::say(
                        "the command has stopped and waits for the terminal, and the election stays held: end `paxos \
                         elect`, and start it in the foreground, with the terminal as standard input",
                    );
                }
                Ok(())
            }
            // Still running, stopped on purpose (SIGSTOP), or ended.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match killpg(self.group, signal) {
            // The group has already ended.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(Failure::internal(
                anyhow::Error::new(error).context("signal the command"),
            )),
        }
    }
}

/// The exit code for the end of a command: the command's own code, or 128 + the signal's number.
pub(crate) fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
