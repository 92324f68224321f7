//! The binary `proposer`: parses the flags and runs the role.

use std::process::ExitCode;

use paxos_common::service::{command_line, process};
use paxos_proposer::{Args, run};

fn main() -> ExitCode {
    let args = command_line::parse::<Args>();
    process::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
        run(args.into(), listener, shutdown)
    })
}
