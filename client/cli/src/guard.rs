//! A command that must not outlive its guardian: started, stopped, and killed by the kernel when the guardian is.

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

/// Run a command that is killed with its parent: between `paxos elect` and its command
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that must be the parent
    #[arg(long)]
    parent: i32,

    /// The process group becomes the one in the foreground of the terminal at standard input
    #[arg(long)]
    foreground: bool,

    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command: returns only when it cannot be run.
pub(crate) fn run(args: &Args) -> ExitCode {
    let told = set_pdeathsig(Signal::SIGKILL);
    // The parent may have died before that: then nobody would be told.
    if told.is_err() || getppid() != Pid::from_raw(args.parent) {
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

/// Finds the program of a command, before anything is done for the command's sake.
///
/// # Errors
/// As shells have it: 127 when there is no such program, 126 when the file cannot be executed.
pub(crate) fn find_program(program: &OsStr) -> Result<(), Failure> {
    match which::which(program) {
        Ok(_) => Ok(()),
        Err(_) if program.as_bytes().contains(&b'/') && Path::new(program).exists() => Err(Failure::new(
            Exit::NotExecutable,
            anyhow::anyhow!("{} is no file that can be executed", program.display()),
        )),
        Err(_) => Err(Failure::new(
            Exit::NotFound,
            anyhow::anyhow!("there is no program {}", program.display()),
        )),
    }
}

/// The running command, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    group: Pid,
    /// The command has the terminal, and it is taken back when the command has ended.
    foreground: bool,
    /// Reports that the command was stopped, as by Ctrl-Z.
    child_signals: Signals,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.foreground {
            terminal::take();
        }
    }
}

impl Guarded {
    /// Must be called on a thread that lives as long as the process: the kernel takes its end for the parent's.
    pub(crate) fn start(command: &[OsString], token: u64) -> Result<Self, Failure> {
        let failed = |error| Failure::internal(anyhow::Error::new(error).context("start the command"));
        let own = std::env::current_exe().map_err(failed)?;
        let child_signals = signal(SignalKind::child()).map_err(failed)?;
        // Otherwise a command that reads from the terminal is stopped by SIGTTIN while the election is held.
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
        })
    }

    /// # Cancel safety
    /// Safe: the command goes on.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        let status = loop {
            tokio::select! {
                // Cancel safe: the command goes on.
                status = self.child.wait() => break status,
                // Cancel safe: an unseen signal stays pending.
                _ = self.child_signals.recv(), if self.foreground => self.go_on_when_stopped()?,
            }
        };
        status.map_err(|error| Failure::internal(anyhow::Error::new(error).context("wait for the command")))
    }

    /// Asks the group to end, and kills it when the command has not ended within `grace`.
    ///
    /// # Cancel safety
    /// Asked once more, it starts over.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, Failure> {
        self.signal(Signal::SIGTERM)?;
        if let Ok(status) = timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::SIGKILL)?;
        self.wait().await
    }

    /// Has a command that was stopped at the terminal go on: while it stands still, the election would be held for
    /// nothing, and no process would read from the terminal.
    fn go_on_when_stopped(&self) -> Result<(), Failure> {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) => {
                stderr::say("the command cannot be stopped while the election is held: it goes on");
                self.signal(Signal::SIGCONT)
            }
            // Still running, stopped by a person on purpose (SIGSTOP), or ended.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match killpg(self.group, signal) {
            // It has ended by itself.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(Failure::internal(
                anyhow::Error::new(error).context("signal the command"),
            )),
        }
    }
}

/// The exit code that stands for how a command ended: its own, or 128 + the signal's number.
pub(crate) fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
