//! `paxos elect`: waits to hold an election, and runs a command while holding.

use std::{
    ffi::OsString,
    pin::{Pin, pin},
    process::ExitCode,
    time::Duration,
};

use paxos_client::{Election, ElectionError, Holder, Tenure, Version, WriteError};
use paxos_common::service::{
    config::parse_duration,
    failure::{Exit, Failure},
    process::{block_on_command, exit_on_panic, finish},
    signals::EndSignals,
    stderr,
};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{ConnectionArgs, no},
    guard::{Guarded, code_of, find_program},
    json::uint64,
    key::{bytes, version_as_json},
    output::{OutputArgs, bytes_as_json, bytes_as_text},
    signals,
};

/// Pause before the next attempt while the cluster does not answer.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a candidate that leaves waits for the outcome of its last write.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Wait to hold an election; run a command while holding
///
/// Waits as long as necessary, even while the cluster does not answer.
///
/// The command runs in its own process group. PAXOS_FENCING_TOKEN holds the fencing token: a number that grows from
/// holder to holder.
///
/// When the election is lost, the process group gets SIGTERM, and SIGKILL after the shorter of --grace and a twentieth
/// of --ttl: before another candidate may take over. `paxos elect` then exits 1.
///
/// When the command ends, `paxos elect` resigns and exits with the command's exit code, or with 128 + N if signal N
/// ended the command. SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM; `paxos elect` resigns after the command has
/// ended.
///
/// A command that cannot run is detected before the candidate stands: exit 127 when there is no such program, 126 when
/// the file cannot be executed. At a terminal, the command has the terminal. If `paxos elect` is killed, the kernel
/// kills the command, but not the processes started by the command.
///
/// While `paxos elect` itself is stopped (SIGSTOP), no process watches the command. So every resource used by the
/// command must refuse tokens below the highest token seen.
///
/// Without a command: prints the holder and every change, and holds until interrupted. Exits 1 when the election is
/// lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the election, 1 byte to 4 KiB: the key of a register
    name: OsString,

    /// Candidate's name, for people and observers [default: HOSTNAME, if set, and the process id]
    #[arg(long = "as", value_name = "ID")]
    candidate: Option<OsString>,

    /// How long other candidates wait when the holder fails, 500ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    ttl: Duration,

    /// Time between SIGTERM and SIGKILL; at most a twentieth of --ttl when the election is lost
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
    paxos_common::service::telemetry::init_quiet(paxos_common::service::config::LogFormat::Text);
    exit_on_panic();
    match block_on_command(crate::traced(elect(args))) {
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
    let leaving = CancellationToken::new();
    let mut campaign = pin!(campaign(&election, &leaving));
    let end = tokio::select! {
        // Not dropped by the other arms: the candidate leaves below.
        tenure = &mut campaign => Ok(tenure?),
        // Ends only with an error.
        failure = show_changes(&args, &election) => Err(Err(failure)),
        // Cancel safe: an unreturned signal stays pending.
        signal = signals.next() => Err(match args.command.is_empty() {
            true => Ok(Exit::Clean as u8),
            false => Err(Failure::ended_by(signal, ": the command was not run")),
        }),
    };
    let tenure = match end {
        Ok(Some(tenure)) => tenure,
        // Only a candidate that leaves ends without a win.
        Ok(None) => return Ok(Exit::Clean as u8),
        Err(end) => {
            leaving.cancel();
            leave(campaign).await;
            return end;
        }
    };
    let own = Holder {
        candidate,
        token: tenure.token(),
        ttl: args.ttl,
    };
    if args.command.is_empty() {
        hold(&args, &own, tenure, &mut signals).await
    } else {
        stderr::say(format_args!(
            "holding as {}, token {}",
            bytes_as_text(&own.candidate),
            packed(own.token)
        ));
        run_command(&args, tenure, &mut signals).await
    }
}

/// Waits until this candidate holds, or until the candidate leaves: `None`. A cluster without an answer is reported
/// once, and the candidacy continues.
async fn campaign(election: &Election, leaving: &CancellationToken) -> Result<Option<Tenure>, Failure> {
    let mut is_reported = false;
    loop {
        match election.campaign_until(leaving.cancelled()).await {
            Ok(tenure) => return Ok(tenure),
            Err(error @ ElectionError::Unavailable(_)) => {
                if !std::mem::replace(&mut is_reported, true) {
                    stderr::say(format_args!(
                        "{error}; the candidate keeps waiting; `paxos status` shows what is wrong"
                    ));
                }
                let pause = timeout(UNAVAILABLE_PAUSE, leaving.cancelled());
                if pause.await.is_ok() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(election_failure(error)),
        }
    }
}

/// Waits for the end of a campaign without a purpose. A write that was under way may have won: the candidate resigns,
/// so that another candidate can hold at once.
async fn leave(campaign: Pin<&mut impl Future<Output = Result<Option<Tenure>, Failure>>>) {
    match timeout(LEAVE_MAX, campaign).await {
        Ok(Ok(Some(tenure))) => resign(tenure).await,
        // Not won, or not even possible.
        Ok(Ok(None) | Err(_)) => {}
        Err(_late) => stderr::say(
            "the outcome of the candidate's last write is unknown: if the write won, other candidates take over after \
             the time to live",
        ),
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

/// Without a command, prints the holder and every change while waiting. With a command, prints nothing: standard output
/// belongs to the command.
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
                // Reported by the candidacy.
                Err(ElectionError::Unavailable(_)) => break,
                Err(error) => return election_failure(error),
            };
            // A restarted observation repeats the last holder.
            if shown.as_ref() != Some(&holding)
                && let Err(failure) = show(args, holding.as_ref(), false).await
            {
                return failure;
            }
            shown = Some(holding);
        }
        tokio::time::sleep(UNAVAILABLE_PAUSE).await;
    }
}

async fn show(args: &Args, holding: Option<&Holder>, ours: bool) -> Result<(), Failure> {
    args.output
        .print(
            || match holding {
                Some(Holder { candidate, token, .. }) => {
                    let whose = if ours { " (ours)" } else { "" };
                    format!(
                        "{} holds, token {}{whose}\n",
                        bytes_as_text(candidate),
                        packed(*token)
                    )
                }
                None => "no candidate holds\n".to_owned(),
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
        .await
}

/// The token as an integer, in the same order.
fn packed(token: Version) -> u64 {
    token.packed().unwrap_or(u64::MAX)
}

async fn hold(args: &Args, own: &Holder, tenure: Tenure, signals: &mut EndSignals) -> Result<u8, Failure> {
    let unprinted = async {
        match show(args, Some(own), true).await {
            Ok(()) => std::future::pending().await,
            Err(failure) => failure,
        }
    };
    tokio::select! {
        // Ends only with an error: the win could not be printed. Resigning lets another candidate hold at once.
        failure = unprinted => {
            resign(tenure).await;
            Err(failure)
        }
        // Cancel safe: only waits.
        lost = tenure.lost() => Err(lost_failure(&lost)),
        // Cancel safe: an unreturned signal stays pending.
        _ = signals.next() => {
            resign(tenure).await;
            Ok(Exit::Clean as u8)
        }
    }
}

async fn run_command(args: &Args, tenure: Tenure, signals: &mut EndSignals) -> Result<u8, Failure> {
    // The start of the command is the first guarded action.
    let token = tenure.check().map_err(|lost| lost_failure(&lost))?;
    let mut command = Guarded::start(&args.command, packed(token))?;
    let status = tokio::select! {
        // Cancel safe: the command continues. The code below waits for its end.
        status = command.wait() => status?,
        // Cancel safe: only waits.
        lost = tenure.lost() => {
            command.stop(grace_when_lost(args)).await?;
            return Err(lost_failure(&lost));
        }
        // Cancel safe: an unreturned signal stays pending.
        _ = signals.next() => {
            tokio::select! {
                // Cancel safe: dropped only together with the command's last grace period, below.
                status = command.stop(args.grace) => status?,
                // Cancel safe: only waits.
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

/// Time between SIGTERM and SIGKILL after a lost election. A holder learns of the loss a tenth of the time to live
/// before another candidate may take over. Half of this tenth is for the command; the rest is for clock drift and for
/// the kill.
fn grace_when_lost(args: &Args) -> Duration {
    args.grace.min(args.ttl / 20)
}

async fn resign(tenure: Tenure) {
    if let Err(error) = tenure.resign().await {
        let error: WriteError = error;
        stderr::say(format_args!(
            "the outcome of the resignation is unknown, other candidates take over after the time to live: {error}"
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
