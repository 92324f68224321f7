//! `paxos completions`: a script for shells, to complete commands and flags.

use clap::{Command, CommandFactory as _, ValueEnum};
use paxos_common::service::{config::version, failure::Failure};

use crate::{Cli, output::write_bytes_now};

/// Print a script that completes commands and flags in a shell
///
/// For bash: source <(paxos completions bash), in ~/.bashrc. For zsh: write the script to a file _paxos in a directory
/// of $fpath. For fish: write the script to ~/.config/fish/completions/paxos.fish.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut for_users(), "paxos", &mut script);
    write_bytes_now(&script)
}

/// The commands shown by help. With all commands, scripts would complete the hidden commands too.
fn for_users() -> Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    Command::new("paxos")
        .version(version())
        .propagate_version(true)
        .subcommands(shown.cloned())
}
