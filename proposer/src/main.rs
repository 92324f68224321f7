//! The proposer's process: parse, then run.

use std::process::ExitCode;

use paxos_common::exit;
use paxos_proposer::{Args, run};

fn main() -> ExitCode {
    let args = exit::parse::<Args>();
    exit::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
        run(args.into(), listener, shutdown)
    })
}
