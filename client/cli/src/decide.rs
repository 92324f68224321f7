//! `paxos decide`: has one value of many chosen for a name, for ever.

use std::ffi::OsString;

use paxos_common::{exit::Failure, stderr};
use serde_json::json;

use crate::{
    connection::{ConnectionArgs, no},
    key::{bytes, value, version_as_json, write_failure},
    output::{OutputArgs, bytes_as_json, bytes_as_text},
};

/// Decide a name: of all values ever asked for, the first wins; print the winner
///
/// Everybody who asks is told the same winner. Exits 0 when it is decided by this command, 1 when by another, even if
/// the values are equal. Asking again is always safe.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is decided, 1 byte to 4 KiB: the key of a register
    name: OsString,

    /// The value asked for, up to 1 MiB; - reads it from standard input (a value that is a lone dash: printf - | paxos
    /// decide NAME -)
    value: OsString,

    /// Allow an empty value. Without this flag an empty value is refused: a decision is permanent, and an empty value is
    /// mostly an unset variable or an empty file
    #[arg(long)]
    allow_empty: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let value = value(args.value).await?;
    if value.is_empty() && !args.allow_empty {
        return Err(Failure::usage(
            "the value is empty, and a decision is permanent: nothing was decided. Give --allow-empty if the empty value \
             is meant",
        ));
    }
    let decision = client
        .decide(bytes(args.name), value)
        .await
        .map_err(write_failure)?;
    args.output.print(
        || format!("{}\n", bytes_as_text(&decision.winner)),
        || {
            json!({
                "winner": bytes_as_json(&decision.winner),
                "version": version_as_json(decision.version),
                "ours": decision.ours,
            })
        },
    )?;
    if decision.ours {
        // Beside the winner, so that scripts read the winner alone.
        stderr::say(format_args!(
            "ours: decided by this command, at version {}",
            decision.version
        ));
        return Ok(());
    }
    Err(no(format!(
        "lost: decided by another command, at version {}",
        decision.version
    )))
}
