//! `paxos watch`: prints changes of registers as they happen.

use std::ffi::OsString;

use paxos_client::{Change, ChangePage, SubscribeError, Target, Updates, Version};
use paxos_common::service::{failure::Failure, stderr};
use serde_json::json;

use crate::{
    connection::ConnectionArgs,
    key::{bytes, change_as_json, version_as_json, watch_failure},
    output::{Form, OutputArgs, bytes_as_text, key_as_text},
    signals::until_asked_to_end,
};

/// Print the changes of a register as they happen
///
/// One line for each change: SLOT.OFFSET KEY = VALUE, or SLOT.OFFSET KEY deleted. Changes are printed in order, without
/// loss or repetition, until interrupted. A key that would make the line ambiguous is in double quotes.
///
/// Reports the start of the watch: "watching from SLOT.OFFSET" on standard error, or with --output json a first object
/// {"watching":{"from":…}} on standard output. Every change from that version on is printed.
///
/// To continue later, pass --from with the version after the last printed version: the same slot, and the offset plus
/// one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key, 1 byte to 4 KiB; with --prefix the start of the keys, may be empty
    key: OsString,

    /// Watch all registers with a key that starts with KEY
    #[arg(long)]
    prefix: bool,

    /// First version to print [default: every change acknowledged after the command began]
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
    let mut watch = client.watch_with(target, args.from);
    until_asked_to_end(follow(args.output, args.from, &mut watch)).await
}

/// Prints the first position of the watch, then each change.
async fn follow(
    output: OutputArgs,
    from: Option<Version>,
    watch: &mut Updates<ChangePage, SubscribeError>,
) -> Result<(), Failure> {
    let mut in_place = false;
    while let Some(news) = watch.next().await {
        let news = news.map_err(watch_failure)?;
        if !std::mem::replace(&mut in_place, true) {
            let from = from.unwrap_or(news.next);
            match output.output {
                Form::Text => stderr::say(format_args!("watching from {from}")),
                Form::Json => {
                    output
                        .print(
                            String::new,
                            || json!({ "watching": { "from": version_as_json(from) } }),
                        )
                        .await?;
                }
            }
        }
        for change in &news.changes {
            output.print(|| line(change), || change_as_json(change)).await?;
        }
    }
    Ok(())
}

fn line(change: &Change) -> String {
    let (version, key) = (change.version, key_as_text(&change.key));
    match &change.value {
        Some(value) => format!("{version}  {key} = {}\n", bytes_as_text(value)),
        None => format!("{version}  {key} deleted\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use paxos_client::Slot;

    #[test]
    fn different_changes_give_different_lines() {
        let line = |key: &'static str, value: Option<&'static str>| {
            line(&Change {
                key: Bytes::from(key),
                version: Version {
                    slot: Slot::new(3).unwrap(),
                    offset: 0,
                },
                value: value.map(Bytes::from),
            })
        };
        assert_eq!(line("key", Some("value")), "3.0  key = value\n");
        assert_eq!(line("key", None), "3.0  key deleted\n");
        assert_eq!(line("k = 1", Some("v")), "3.0  \"k = 1\" = v\n");
        assert_eq!(line("k", Some("1 = v")), "3.0  k = 1 = v\n");
        assert_eq!(line("k = v", None), "3.0  \"k = v\" deleted\n");
        assert_eq!(line("k", Some("v deleted")), "3.0  k = v deleted\n");
    }
}
