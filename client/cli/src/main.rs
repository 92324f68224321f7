//! The command line of paxos: one file for each command.

mod backup;
mod bench;
mod cert;
mod completions;
mod connection;
mod decide;
mod delete;
mod dev;
mod elect;
mod get;
mod guard;
mod healthcheck;
mod json;
mod key;
mod log;
mod man;
mod member;
mod output;
mod propose;
mod put;
mod repair;
mod restore;
mod serve;
mod signals;
mod status;
mod terminal;
mod verdict;
mod watch;
mod writer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use paxos_common::service::{command_line, config::LogFormat, failure::Failure, process, telemetry};
use signals::{Left, interruptible};

/// Paxos with separate roles: proposers lead, acceptors vote, learners learn.
#[derive(Debug, Parser)]
#[command(
    name = "paxos",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 the cluster answered and the answer is no (no such key, a condition does not hold, another value won: \
                  see the help of the command), 2 wrong usage, 69 no answer in time, 74 standard output cannot be written, 128 + N \
                  ended by signal N."
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Dev(dev::Args),
    Decide(decide::Args),
    Put(put::Args),
    Get(get::Args),
    Delete(delete::Args),
    Watch(watch::Args),
    Elect(elect::Args),
    Propose(propose::Args),
    Log(log::Args),
    Status(status::Args),
    Member(member::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Bench(bench::Args),
    Cert(cert::Args),
    Healthcheck(healthcheck::Args),
    Repair(repair::Args),
    Serve(serve::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
    #[command(hide = true)]
    Guard(guard::Args),
}

fn main() -> ExitCode {
    use Left::{Nothing, Write};
    match command_line::parse::<Cli>().command {
        // Commands with roles or child processes: each sets up logging and threads.
        CliCommand::Elect(args) => elect::run(args),
        CliCommand::Guard(args) => guard::run(&args),
        CliCommand::Serve(args) => serve::run(args),
        CliCommand::Dev(args) => dev::run(args),
        // Commands without a cluster.
        CliCommand::Cert(args) => process::finish(cert::run(&args)),
        CliCommand::Completions(args) => process::finish(completions::run(&args)),
        CliCommand::Man(args) => process::finish(man::run(&args)),
        CliCommand::Decide(args) => client(interruptible(Write, decide::run(args))),
        CliCommand::Put(args) => client(interruptible(Write, put::run(args))),
        CliCommand::Get(args) => client(interruptible(Nothing, get::run(args))),
        CliCommand::Delete(args) => client(interruptible(Write, delete::run(args))),
        CliCommand::Propose(args) => client(interruptible(Write, propose::run(args))),
        CliCommand::Backup(args) => client(backup::run(args)),
        CliCommand::Restore(args) => client(interruptible(Left::Restore, restore::run(args))),
        CliCommand::Healthcheck(args) => client(interruptible(Nothing, healthcheck::run(args))),
        CliCommand::Repair(args) => client(repair::run(args)),
        CliCommand::Member(args) => client(member::run(args)),
        // Commands with a form that usually ends by a signal.
        CliCommand::Watch(args) => client(watch::run(args)),
        CliCommand::Log(args) => client(log::run(args)),
        CliCommand::Status(args) => client(status::run(args)),
        CliCommand::Bench(args) => client(bench::run(args)),
    }
}

/// Runs a client command to its end.
fn client(command: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    telemetry::init_quiet(LogFormat::Text);
    process::exit_on_panic();
    process::finish(process::block_on_command(traced(command)))
}

/// Exports the traces of a command, if the environment names a collector.
async fn traced<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let exporting = telemetry::Exporting::start_for_client();
    let result = command.await;
    exporting.stop().await;
    result
}
