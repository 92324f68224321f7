//! `paxos elect`: waits to hold an election, and runs a command while it holds.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use paxos_client::{Election, ElectionError, Holder, Tenure, Version, WriteError};
use paxos_common::{
    config::parse_duration,
    exit::{Exit, Failure, block_on, exit_on_panic, finish},
    signals::EndSignals,
    stderr,
};
use serde_json::json;

use crate::{
    connection::{ConnectionArgs, no},
    guard::{Guarded, code_of, find_program},
    json::uint64,
    key::{bytes, version_as_json},
    output::{OutputArgs, bytes_as_json, bytes_as_text},
    signals,
};

/// How long to wait before the next attempt when the cluster does not answer.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// Wait to hold an election; run a command while holding
///
/// Waits for as long as it takes, also while the cluster does not answer.
///
/// The command runs in a process group of its own, with the fencing token, a number that grows from holder to holder, in
/// PAXOS_FENCING_TOKEN. When the election is lost the group gets SIGTERM, and SIGKILL after --grace, or after a twentieth
/// of --ttl if that is shorter, which is before others may take over; then this exits 1.
/// When the command ends, this resigns and exits with its code, or with 128 + the number of the signal that ended it.
/// SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM, and this resigns when the command has ended. A command that is no
/// program is found out before: 127, or 126 when the file cannot be executed. At a terminal the command has the terminal. If this process is killed,
/// the kernel kills the command, but not what the command has started.
///
/// While this process itself is stopped (SIGSTOP), nobody watches the command: what it acts on must refuse tokens below
/// the highest it has seen.
///
/// Without a command: prints who holds, and each change, and holds until interrupted; exits 1 when it is lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The election's name, 1 byte to 4 KiB: the key of a register
    name: OsString,

    /// Stand under this name, for people and observers [default: HOSTNAME, if set, and the process id]
    #[arg(long = "as", value_name = "ID")]
    candidate: Option<OsString>,

    /// How long others wait when the holder fails, 500ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    ttl: Duration,

    /// How long the command has between SIGTERM and SIGKILL; at most a twentieth of --ttl when the election is lost
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    grace: Duration,

    /// The command to run while holding, and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    paxos_common::telemetry::init_quiet(paxos_common::config::LogFormat::Text);
    exit_on_panic();
    match block_on(1, crate::traced(elect(args))) {
        Ok(code) => {
            finish(Ok(()));
            ExitCode::from(code)
        }
        Err(failure) => finish(Err(failure)),
    }
}

async fn elect(args: Args) -> Result<u8, Failure> {
    if let Some(program) = args.command.first() {
        find_program(program)?;
    }
    let client = args.connection.client()?;
    let candidate = args.candidate.clone().map_or_else(own_name, bytes);
    let election = Election::new(&client, bytes(args.name.clone()), candidate.clone(), args.ttl)
        .map_err(election_failure)?;
    let mut signals = signals::listen()?;
    let tenure = tokio::select! {
        // Cancel safe enough: the candidacy ends, and at worst nobody holds for the time to live.
        tenure = campaign(&election) => tenure?,
        // It ends only in an error.
        failure = show_changes(&args, &election) => return Err(failure),
        // Cancel safe: a signal that was not returned stays pending.
        signal = signals.next() => return match args.command.is_empty() {
            true => Ok(Exit::Clean as u8),
            false => Err(Failure::ended_by(signal, ": the command was not run")),
        },
    };
    let own = Holder {
        candidate,
        token: tenure.token(),
        ttl: args.ttl,
    };
    if args.command.is_empty() {
        if let Err(failure) = show(&args, Some(&own), true) {
            // No reader learns of the win: others may hold at once.
            resign(tenure).await;
            return Err(failure);
        }
        hold(tenure, &mut signals).await
    } else {
        stderr::say(format_args!(
            "holding as {}, token {}",
            bytes_as_text(&own.candidate),
            packed(own.token)
        ));
        run_command(&args, tenure, &mut signals).await
    }
}

/// Waits until this candidate holds. A cluster that does not answer is reported once, and ends no candidacy.
async fn campaign(election: &Election) -> Result<Tenure, Failure> {
    let mut is_reported = false;
    loop {
        match election.campaign().await {
            Ok(tenure) => return Ok(tenure),
            Err(error @ ElectionError::Unavailable(_)) => {
                if !std::mem::replace(&mut is_reported, true) {
                    stderr::say(format_args!(
                        "{error}; the candidate goes on waiting; `paxos status` shows what is wrong"
                    ));
                }
                tokio::time::sleep(UNAVAILABLE_PAUSE).await;
            }
            Err(error) => return Err(election_failure(error)),
        }
    }
}

fn own_name() -> bytes::Bytes {
    let mut name = std::env::var_os("HOSTNAME").unwrap_or_default();
    if !name.is_empty() {
        name.push("-");
    }
    name.push(std::process::id().to_string());
    bytes(name)
}

/// Without a command, prints who holds while waiting; with one, standard output is the command's.
async fn show_changes(args: &Args, election: &Election) -> Failure {
    if !args.command.is_empty() {
        return std::future::pending().await;
    }
    let mut shown = None;
    loop {
        let mut observation = election.observe();
        while let Some(news) = observation.next().await {
            let holding = match news {
                Ok(holding) => holding,
                // The candidacy reports it.
                Err(ElectionError::Unavailable(_)) => break,
                Err(error) => return election_failure(error),
            };
            // An observation that begins again repeats the last holder.
            if shown.as_ref() != Some(&holding)
                && let Err(failure) = show(args, holding.as_ref(), false)
            {
                return failure;
            }
            shown = Some(holding);
        }
        tokio::time::sleep(UNAVAILABLE_PAUSE).await;
    }
}

fn show(args: &Args, holding: Option<&Holder>, ours: bool) -> Result<(), Failure> {
    args.output.print(
        || match holding {
            Some(Holder { candidate, token, .. }) => {
                let whose = if ours { " (ours)" } else { "" };
                format!(
                    "{} holds, token {}{whose}\n",
                    bytes_as_text(candidate),
                    packed(*token)
                )
            }
            None => "nobody holds\n".to_owned(),
        },
        || match holding {
            Some(holding) => json!({
                "holder": {
                    "candidate": bytes_as_json(&holding.candidate),
                    "token": version_as_json(holding.token),
                    "ttl_ms": uint64(u64::try_from(holding.ttl.as_millis()).unwrap_or(u64::MAX)),
                },
                "fencing_token": uint64(packed(holding.token)),
                "ours": ours,
            }),
            None => json!({ "ours": false }),
        },
    )
}

/// The token as an integer, in the same order.
fn packed(token: Version) -> u64 {
    token.packed().unwrap_or(u64::MAX)
}

async fn hold(tenure: Tenure, signals: &mut EndSignals) -> Result<u8, Failure> {
    tokio::select! {
        // Cancel safe: it only waits.
        lost = tenure.lost() => Err(lost_failure(&lost)),
        // Cancel safe: a signal that was not returned stays pending.
        _ = signals.next() => {
            resign(tenure).await;
            Ok(Exit::Clean as u8)
        }
    }
}

async fn run_command(args: &Args, tenure: Tenure, signals: &mut EndSignals) -> Result<u8, Failure> {
    // Starting it is the first guarded action.
    let token = tenure.check().map_err(|lost| lost_failure(&lost))?;
    let mut command = Guarded::start(&args.command, packed(token))?;
    let status = tokio::select! {
        // Cancel safe: the command goes on, and is waited for below.
        status = command.wait() => status?,
        // Cancel safe: it only waits.
        lost = tenure.lost() => {
            command.stop(grace_when_lost(args)).await?;
            return Err(lost_failure(&lost));
        }
        // Cancel safe: a signal that was not returned stays pending.
        _ = signals.next() => {
            tokio::select! {
                // Cancel safe: dropped only together with the command's last grace, below.
                status = command.stop(args.grace) => status?,
                // Cancel safe: it only waits.
                lost = tenure.lost() => {
                    command.stop(grace_when_lost(args)).await?;
                    return Err(lost_failure(&lost));
                }
            }
        }
    };
    resign(tenure).await;
    Ok(code_of(status))
}

/// How long a command may go on that has lost the election. A holder hears of that a tenth of the time to live before
/// others may take over: half of it is the command's, the rest is for clocks that run apart and for the kill.
fn grace_when_lost(args: &Args) -> Duration {
    args.grace.min(args.ttl / 20)
}

async fn resign(tenure: Tenure) {
    if let Err(error) = tenure.resign().await {
        let error: WriteError = error;
        stderr::say(format_args!(
            "not known to have resigned, others take over in their time: {error}"
        ));
    }
}

fn lost_failure(lost: &ElectionError) -> Failure {
    no(format!("lost: {lost}"))
}

fn election_failure(error: ElectionError) -> Failure {
    match error {
        ElectionError::Invalid(text) => Failure::usage(text),
        ElectionError::NotAnElection { .. } => no(error.to_string()),
        ElectionError::Lapsed | ElectionError::Overtaken | ElectionError::Resigned => lost_failure(&error),
        ElectionError::Refused(_) => Failure::unavailable(error),
        ElectionError::Unavailable(_) => {
            Failure::unavailable(anyhow::anyhow!("{error}; `paxos status` shows what is wrong"))
        }
        _ => Failure::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn grace_of(flags: &str) -> Duration {
        let line = ["elect", "name"].into_iter().chain(flags.split_whitespace());
        grace_when_lost(&Line::parse_from(line).args)
    }

    #[test]
    fn command_that_ignores_sigterm_is_killed_before_others_may_take_over() {
        assert_eq!(grace_of(""), Duration::from_millis(250));
        assert_eq!(grace_of("--ttl 1s --grace 1h"), Duration::from_millis(50));
        assert_eq!(grace_of("--ttl 1h --grace 2s"), Duration::from_secs(2));
    }
}
