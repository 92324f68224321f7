//! `paxos watch`: prints changes of registers as they come.

use std::ffi::OsString;

use paxos_client::{Change, Target, Version, Watch};
use paxos_common::exit::Failure;

use crate::{
    connection::ConnectionArgs,
    key::{bytes, change_as_json, watch_failure},
    output::{OutputArgs, bytes_as_text},
};

/// Print the changes of a register as they come: one line each, SLOT.OFFSET KEY = VALUE, or SLOT.OFFSET KEY deleted
///
/// In order, nothing lost or told twice, until interrupted. To go on later: --from the version after the last one
/// printed, which is the same slot with the offset one higher.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its key, 1 byte to 4 KiB; with --prefix what keys start with, also nothing
    key: OsString,

    /// All registers whose key starts with KEY
    #[arg(long)]
    prefix: bool,

    /// The first version of which to tell [default: from now on]
    #[arg(long, value_name = "SLOT.OFFSET")]
    from: Option<Version>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let key = bytes(args.key);
    let target = if args.prefix {
        Target::Prefix(key)
    } else {
        Target::Key(key)
    };
    let mut watch = client.watch(target, args.from, args.connection.timeout);
    tokio::select! {
        // Cancel safe: interrupting the command is its usual end.
        result = follow(args.output, &mut watch) => result,
        // Cancel safe: it only waits.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn follow(output: OutputArgs, watch: &mut Watch) -> Result<(), Failure> {
    while let Some(news) = watch.next().await {
        for change in &news.map_err(watch_failure)?.changes {
            output.print(|| line(change), || change_as_json(change))?;
        }
    }
    Ok(())
}

fn line(change: &Change) -> String {
    let (version, key) = (change.version, bytes_as_text(&change.key));
    match &change.value {
        Some(value) => format!("{version}  {key} = {}\n", bytes_as_text(value)),
        None => format!("{version}  {key} deleted\n"),
    }
}
