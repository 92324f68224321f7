//! `paxos man`: manual pages of this program, for packages and images.

use std::{fs, path::PathBuf};

use clap::CommandFactory as _;
use paxos_common::service::failure::Failure;

use crate::Cli;

/// Write a manual page for each command to a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the pages; created when missing
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let written = fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.directory));
    written.map_err(|error| {
        let context = format!("write manual pages to {}", args.directory.display());
        Failure::storage(anyhow::Error::new(error).context(context))
    })
}
