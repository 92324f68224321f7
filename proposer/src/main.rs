//! The proposer's process: parse, then run.

use std::process::ExitCode;

use clap::Parser as _;
use paxos_proposer::{Args, run};

fn main() -> ExitCode {
    let args = Args::parse();
    paxos_common::exit::main_with(args.listen.listen, args.runtime, |listener, shutdown| {
        run(args.into(), listener, shutdown)
    })
}
