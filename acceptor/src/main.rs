//! The binary `acceptor`: reads the flags and runs the role.

use std::process::ExitCode;

use paxos_acceptor::{config::Args, run};
use paxos_common::service::{command_line, process};

fn main() -> ExitCode {
    let args = command_line::parse::<Args>();
    let (listen, runtime) = (args.listen.listen, args.runtime);
    process::main_with(listen, runtime, |listener, shutdown| {
        run(args.into(), listener, shutdown)
    })
}
