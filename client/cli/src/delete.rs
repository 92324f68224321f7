//! `paxos delete`: removes a register.

use std::ffi::OsString;

use paxos_client::{Condition, Version};
use paxos_common::exit::Failure;

use crate::{
    connection::ConnectionArgs,
    key::{bytes, print_written, write_failure},
    output::OutputArgs,
};

/// Remove a register, exactly once; print the version of the removal, SLOT.OFFSET
///
/// Removing what is not there is done too. Exits 1 when a condition is given and does not hold: then nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its key, 1 byte to 4 KiB
    key: OsString,

    /// Only if the key was last written by this version
    #[arg(long, value_name = "SLOT.OFFSET")]
    if_version: Option<Version>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let key = bytes(args.key);
    let condition = args.if_version.map_or(Condition::Always, Condition::Version);
    let written = client
        .delete_if(key.clone(), condition)
        .await
        .map_err(write_failure)?;
    print_written(args.output, &key, &written)
}
