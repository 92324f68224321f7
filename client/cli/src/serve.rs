//! `paxos serve ROLE`: runs a role like the role's own binary, so that a single file suffices for a whole cluster.

use std::process::ExitCode;

use clap::Subcommand;
use paxos_common::service::process;

/// Run a role in this process, with the flags of the role's own binary
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: RoleArgs,
}

#[derive(Debug, Subcommand)]
enum RoleArgs {
    Acceptor(Box<paxos_acceptor::Args>),
    Proposer(Box<paxos_proposer::Args>),
    Learner(Box<paxos_learner::Args>),
}

pub(crate) fn run(args: Args) -> ExitCode {
    match args.role {
        RoleArgs::Acceptor(args) => {
            process::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
                paxos_acceptor::run((*args).into(), listener, shutdown)
            })
        }
        RoleArgs::Proposer(args) => {
            process::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
                paxos_proposer::run((*args).into(), listener, shutdown)
            })
        }
        RoleArgs::Learner(args) => {
            process::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
                paxos_learner::run((*args).into(), listener, shutdown)
            })
        }
    }
}
