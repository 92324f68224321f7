//! A command that must not outlive its guardian: started, stopped, and killed by the kernel when the guardian is.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, killpg},
    },
    unistd::{Pid, getppid},
};
use paxos_common::{
    exit::{Exit, Failure},
    stderr,
};
use tokio::{process::Child, time::timeout};

/// Run a command that is killed with its parent: between `paxos elect` and its command
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that must be the parent
    #[arg(long)]
    parent: i32,

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
    let [program, arguments @ ..] = &args.command[..] else {
        return Exit::Usage.into();
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    stderr::say(format_args!("error: run {}: {error}", program.display()));
    Exit::Usage.into()
}

/// The running command, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    group: Pid,
}

impl Guarded {
    /// Must be called on a thread that lives as long as the process: the kernel takes its end for the parent's.
    pub(crate) fn start(command: &[OsString], token: u64) -> Result<Self, Failure> {
        let failed = |error| Failure::internal(anyhow::Error::new(error).context("start the command"));
        let own = std::env::current_exe().map_err(failed)?;
        let child = tokio::process::Command::new(own)
            .args(["guard", "--parent", &std::process::id().to_string(), "--"])
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
        })
    }

    /// # Cancel safety
    /// Safe: the command goes on.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.child.wait().await;
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
