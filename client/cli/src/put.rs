//! `paxos put`: writes a register.

use std::ffi::OsString;

use paxos_client::{Condition, Version};
use paxos_common::service::failure::Failure;

use crate::{
    connection::ConnectionArgs,
    key::{bytes, print_written, value, write_failure},
    output::OutputArgs,
};

/// Write a register, exactly once; print the new version, SLOT.OFFSET
///
/// Exits 1 when the given condition does not hold; nothing is changed then.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key, 1 byte to 4 KiB
    key: OsString,

    /// The value, 0 bytes to 1 MiB; - reads standard input
    ///
    /// For a value of a single dash: printf - | paxos put KEY -
    value: OsString,

    /// Write only if the key holds nothing
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,

    /// Write only if the key was last written by this version
    #[arg(long, value_name = "SLOT.OFFSET")]
    if_version: Option<Version>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let (key, value) = (bytes(args.key), value(args.value).await?);
    let condition = match args.if_version {
        Some(version) => Condition::Version(version),
        None if args.if_absent => Condition::Absent,
        None => Condition::Always,
    };
    let written = client
        .put_if(key.clone(), value, condition)
        .await
        .map_err(write_failure)?;
    print_written(args.output, &key, &written).await
}
