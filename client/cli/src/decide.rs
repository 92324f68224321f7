//! `paxos decide`: has one of many values chosen for a name, permanently.

use std::ffi::OsString;

use paxos_common::service::{failure::Failure, stderr};
use serde_json::json;

use crate::{
    connection::{ConnectionArgs, no},
    key::{bytes, value, version_as_json, write_failure},
    output::{Form, OutputArgs, bytes_as_json, judged, write_value},
};

/// Give a name its value, permanently: the first value wins; print the winner
///
/// Of all values proposed for a name, the value of the first command in the log wins. Every caller prints this value, at
/// any time.
///
/// Exits 0 if this command gave the name its value. Exits 1 if another command did, earlier or at the same time; the
/// winner is printed too, and may equal the proposed value. Repeating the command is always safe.
///
/// Writes exactly the winner's bytes to a file or a pipe. At a terminal, a newline follows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name to decide, 1 byte to 4 KiB: the key of a register
    name: OsString,

    /// The proposed value, up to 1 MiB; - reads standard input
    ///
    /// For a value of a single dash: printf - | paxos decide NAME -
    value: OsString,

    /// Allow an empty value
    ///
    /// Without this flag an empty value is refused: a decision is permanent, and an empty value usually comes from an
    /// unset variable or an empty file.
    #[arg(long)]
    allow_empty: bool,

    /// Print a newline after the winner, even to a file or a pipe
    #[arg(long)]
    newline: bool,

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
            "the value is empty, and a decision is permanent: nothing was decided. Give --allow-empty to decide the \
             empty value",
        ));
    }
    let decision = client
        .decide(bytes(args.name), value)
        .await
        .map_err(write_failure)?;
    let printed = match args.output.output {
        Form::Text => write_value(&decision.winner, args.newline).await,
        Form::Json => {
            let json = || {
                json!({
                    "winner": bytes_as_json(&decision.winner),
                    "version": version_as_json(decision.version),
                    "ours": decision.ours,
                })
            };
            args.output.print(String::new, json).await
        }
    };
    if decision.ours {
        printed?;
        // On standard error, so that a script reads only the winner.
        stderr::say(format_args!(
            "ours: decided by this command, at version {}",
            decision.version
        ));
        return Ok(());
    }
    judged(
        printed,
        Err(no(format!(
            "lost: decided by another command, at version {}",
            decision.version
        ))),
    )
}
