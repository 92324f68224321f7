//! `paxos propose`: appends a value to the log, or each line of standard input.

use std::ffi::OsString;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use paxos_client::{ProposeError, VALUE_BYTES_MAX, Version};
use paxos_common::exit::Failure;
use serde_json::json;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, FramedRead};

use crate::{
    connection::{ConnectionArgs, propose_failure},
    key,
    output::OutputArgs,
};

/// Append a value to the log, or many; print the version of each, SLOT.OFFSET
///
/// Returns once the value is chosen, on the disks of a quorum, and so is everything ordered before it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The value, 1 byte to 1 MiB; - reads it from standard input
    #[arg(required_unless_present = "lines")]
    value: Option<OsString>,

    /// Append each line of standard input as a value of its own, and print a line for each, in the same order. Values
    /// in flight together may be ordered otherwise
    #[arg(long, conflicts_with = "value")]
    lines: bool,

    /// Lines in flight at any time; with 1 they are ordered as they come
    #[arg(long, value_name = "N", default_value_t = 64, requires = "lines", value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Some(value) = args.value else {
        return propose_lines(args).await;
    };
    let value = key::value(value).await?;
    let client = args.connection.client()?;
    let version = client
        .append(value, args.connection.timeout)
        .await
        .map_err(propose_failure)?;
    print(args.output, &Ok(version))
}

/// Goes on after a line that was not ordered, and ends with what became of the last such.
async fn propose_lines(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let timeout = args.connection.timeout;
    let append = |line: Bytes| {
        let client = client.clone();
        async move { Ok::<_, Failure>(client.append(line, timeout).await) }
    };
    let mut outcomes = std::pin::pin!(lines().map_ok(append).try_buffered(args.in_flight.into()));
    let mut result = Ok(());
    while let Some(outcome) = outcomes.try_next().await? {
        match &outcome {
            Ok(_) | Err(ProposeError::NotProposed(_) | ProposeError::OutcomeUnknown(_)) => {
                print(args.output, &outcome)?;
            }
            // The next will fare no better.
            Err(ProposeError::Invalid(_) | ProposeError::Refused(_)) => {
                return outcome.map(drop).map_err(propose_failure);
            }
        }
        result = outcome.map(drop).map_err(propose_failure).and(result);
    }
    result
}

/// What became of one value, on one line.
fn print(output: OutputArgs, outcome: &Result<Version, ProposeError>) -> Result<(), Failure> {
    output.print(
        || match outcome {
            Ok(version) => format!("{version}\n"),
            Err(error) => format!("{error}\n"),
        },
        || match outcome {
            Ok(version) => json!({ "version": { "slot": version.slot.get(), "offset": version.offset } }),
            Err(error) => {
                let fate = match error {
                    ProposeError::OutcomeUnknown(_) => "OUTCOME_UNKNOWN",
                    ProposeError::Invalid(_) | ProposeError::Refused(_) | ProposeError::NotProposed(_) => {
                        "NOT_PROPOSED"
                    }
                };
                json!({ "error": { "reason": fate, "message": error.to_string() } })
            }
        },
    )
}

/// The lines of standard input, without their ends.
fn lines() -> impl Stream<Item = Result<Bytes, Failure>> {
    let newline = b"\n".to_vec();
    let codec = AnyDelimiterCodec::new_with_max_length(newline.clone(), newline, VALUE_BYTES_MAX);
    FramedRead::new(tokio::io::stdin(), codec).map_err(|error| match error {
        AnyDelimiterCodecError::MaxChunkLengthExceeded => {
            Failure::usage(format!("a line is longer than {VALUE_BYTES_MAX} bytes"))
        }
        AnyDelimiterCodecError::Io(error) => Failure::usage(format!("read standard input: {error}")),
    })
}
