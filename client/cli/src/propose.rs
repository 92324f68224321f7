//! `paxos propose`: appends one value to the log.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use paxos_client::VALUE_BYTES_MAX;
use paxos_common::exit::Failure;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{
    connection::{ConnectionArgs, propose_failure},
    output::OutputArgs,
};

/// Append a value to the log; print its version, SLOT.OFFSET
///
/// Returns once the value is chosen, on the disks of a quorum, and so is everything ordered before it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The value, 1 byte to 1 MiB; - reads it from standard input
    value: OsString,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let value = if args.value == "-" {
        read_stdin().await?
    } else {
        args.value.into_vec()
    };
    let client = args.connection.client()?;
    let version = client
        .append(value, args.connection.timeout)
        .await
        .map_err(propose_failure)?;
    args.output.print(
        || format!("{version}\n"),
        || json!({ "version": { "slot": version.slot.get(), "offset": version.offset } }),
    )
}

/// Standard input up to its end, or just past the limit, which is as good as all of it.
async fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let limit = u64::try_from(VALUE_BYTES_MAX + 1).expect("1 MiB fits");
    tokio::io::stdin()
        .take(limit)
        .read_to_end(&mut value)
        .await
        .map_err(|error| Failure::usage(format!("read standard input: {error}")))?;
    Ok(value)
}
