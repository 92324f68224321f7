//! The binary `acceptor`: reads the flags and runs the role.

use std::process::ExitCode;

use clap::Parser as _;
use paxos_acceptor::{config::Args, run};
use paxos_common::exit::main_with;

fn main() -> ExitCode {
    let args = Args::parse();
    let (listen, runtime) = (args.listen.listen, args.runtime);
    main_with(listen, runtime, |listener, shutdown| {
        run(args.into(), listener, shutdown)
    })
}
