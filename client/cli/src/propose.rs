//! `paxos propose`: appends a value, or each line of standard input, to the log.

use std::ffi::OsString;

use bytes::Bytes;
use futures::{
    Stream, StreamExt as _,
    stream::{self, FuturesOrdered},
};
use paxos_client::{ProposeError, VALUE_BYTES_MAX, Version};
use paxos_common::service::failure::Failure;
use serde_json::json;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, FramedRead};

use crate::{
    connection::{ConnectionArgs, propose_failure},
    key,
    output::OutputArgs,
};

/// Append one value or many to the log; print the version of each, SLOT.OFFSET
///
/// Returns once the value is chosen and on the disks of a quorum, together with everything ordered before the value.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The value, 1 byte to 1 MiB; - reads standard input
    ///
    /// For a value of a single dash: printf - | paxos propose -
    #[arg(required_unless_present = "lines")]
    value: Option<OsString>,

    /// Append each line of standard input as a separate value
    ///
    /// Prints the outcome of each sent line, in input order. Values in flight together may be ordered differently.
    /// Reading stops at a line that breaks a limit.
    #[arg(long, conflicts_with = "value")]
    lines: bool,

    /// Maximum number of lines in flight; with 1, values are ordered in input order
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
    let version = client.append_at_most_once(value).await.map_err(propose_failure)?;
    print(args.output, &Ok(version)).await
}

/// Appends the lines of standard input, and prints the outcome of each sent line.
///
/// Continues after a line that was not ordered. Stops reading after a line that breaks a limit, after a refusal, and
/// when standard output cannot be written. Fails with the first fault.
async fn propose_lines(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let mut lines = std::pin::pin!(lines());
    let mut in_flight = FuturesOrdered::new();
    let mut result = Ok(());
    let mut is_reading = true;
    let mut is_printing = true;
    loop {
        tokio::select! {
            biased;
            // Cancel safe: an unreturned outcome stays in the queue.
            Some((number, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                let goes_on = matches!(
                    outcome,
                    Ok(_) | Err(ProposeError::NotProposed(_) | ProposeError::OutcomeUnknown(_))
                );
                is_reading &= goes_on;
                if is_printing && let Err(failure) = print(args.output, &outcome).await {
                    is_reading = false;
                    is_printing = false;
                    result = result.and(Err(not_printed(number, &failure)));
                }
                result = result.and(outcome.map(drop).map_err(propose_failure));
            }
            // Cancel safe: a part of a line stays in the reader's buffer.
            line = lines.next(), if is_reading && in_flight.len() < usize::from(args.in_flight) => match line {
                None => is_reading = false,
                Some(Err(failure)) => {
                    is_reading = false;
                    result = result.and(Err(failure));
                }
                Some(Ok((number, line))) => {
                    let client = client.clone();
                    in_flight.push_back(async move { (number, client.append_at_most_once(line).await) });
                }
            },
            else => return result,
        }
    }
}

/// Standard output could not be written: some values were sent without a printed outcome.
fn not_printed(number: u64, failure: &Failure) -> Failure {
    Failure::storage(anyhow::anyhow!(
        "{failure}: the outcomes of line {number} and of later sent lines are not printed; `paxos log` shows the \
         ordered values"
    ))
}

/// Prints the outcome of one value on one line.
async fn print(output: OutputArgs, outcome: &Result<Version, ProposeError>) -> Result<(), Failure> {
    output
        .print(
            || match outcome {
                Ok(version) => format!("{version}\n"),
                Err(error) => format!("{error}\n"),
            },
            || match outcome {
                Ok(version) => json!({ "version": key::version_as_json(*version) }),
                Err(error) => {
                    let fate = match error {
                        ProposeError::OutcomeUnknown(_) => "OUTCOME_UNKNOWN",
                        ProposeError::Invalid(_)
                        | ProposeError::Refused(_)
                        | ProposeError::NotProposed(_) => "NOT_PROPOSED",
                        _ => "OUTCOME_UNKNOWN",
                    };
                    json!({ "error": { "reason": fate, "message": error.to_string() } })
                }
            },
        )
        .await
}

/// The lines of standard input, without line ends, numbered from 1. A line that breaks a limit is an error and ends the
/// stream.
fn lines() -> impl Stream<Item = Result<(u64, Bytes), Failure>> {
    let newline = b"\n".to_vec();
    let codec = AnyDelimiterCodec::new_with_max_length(newline.clone(), newline, VALUE_BYTES_MAX);
    let lines = FramedRead::new(tokio::io::stdin(), codec);
    lines.zip(stream::iter(1..)).map(|(line, number)| match line {
        Ok(line) if line.is_empty() => Err(bad_line(number, "is empty, and a value has at least 1 byte")),
        Ok(line) => Ok((number, line)),
        Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => Err(bad_line(
            number,
            &format!("is longer than {VALUE_BYTES_MAX} bytes, the longest value"),
        )),
        Err(AnyDelimiterCodecError::Io(error)) => {
            Err(Failure::usage(format!("read standard input: {error}")))
        }
    })
}

fn bad_line(number: u64, fault: &str) -> Failure {
    Failure::usage(format!(
        "line {number} {fault}: this line and the lines after it were not sent"
    ))
}
