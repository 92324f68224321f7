//! `paxos delete`: removes a register.

use std::ffi::OsString;

use paxos_client::{Condition, Version};
use paxos_common::service::failure::Failure;

use crate::{
    connection::ConnectionArgs,
    key::{bytes, print_written, write_failure},
    output::OutputArgs,
};

/// Remove a register, exactly once; print the version of the removal, SLOT.OFFSET
///
/// The removal of an absent register succeeds too. Exits 1 when the given condition does not hold; nothing is changed
/// then.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key, 1 byte to 4 KiB
    key: OsString,

    /// Remove only if the key was last written by this version
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
    print_written(args.output, &key, &written).await
}
