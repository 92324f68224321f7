//! `paxos elect`: waits to hold an election, and runs a command while holding.

use std::{
    ffi::OsString,
    pin::{Pin, pin},
    process::ExitCode,
    time::Duration,
};

use paxos_client::{Election, ElectionError, Holder, Tenure, Version};
use paxos_common::service::{
    config::parse_duration,
    failure::{Exit, Failure},
    process::{block_on_command, exit_on_panic, finish},
    signals::{EndSignal, EndSignals},
    stderr,
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{ConnectionArgs, no},
    guard::{Guarded, code_of, find_program},
    json::uint64,
    key::{bytes, version_as_json},
    output::{OutputArgs, bytes_as_json, bytes_as_text},
    signals, terminal,
};

/// Pause before the next attempt while the cluster does not answer.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);
/// After a signal, the longest wait for the outcome of the last write or of the resignation. Together with the end of the
/// process, this is less than a second.
const LEAVE_MAX: Duration = Duration::from_millis(700);

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
/// ended the command. SIGTERM, SIGINT, SIGHUP and the loss of the terminal are passed on as SIGTERM; `paxos elect`
/// resigns after the command has ended. The cluster then has 0.7s to confirm the resignation. Without a confirmation,
/// other candidates may have to wait for --ttl.
///
/// A command that cannot run is detected before the candidate stands: exit 127 when there is no such program, 126 when
/// the file cannot be executed. At a terminal, the command has the terminal. If `paxos elect` is killed, the kernel
/// kills the command, but not the processes started by the command.
///
/// While `paxos elect` itself is stopped (SIGSTOP), no process watches the command. So every resource used by the
/// command must refuse tokens below the highest token seen.
///
/// Without a command: prints the holder and every change, and holds until interrupted. Exits 1 when the election is
/// lost, and 69 when the resignation is not confirmed.
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
        signal = signals.next() => Err(Ok(signal)),
    };
    let tenure = match end {
        Ok(Some(tenure)) => tenure,
        // Only a candidate that leaves ends without a win.
        Ok(None) => return Ok(Exit::Clean as u8),
        Err(end) => {
            leaving.cancel();
            let left = leave(campaign, args.ttl).await;
            return match end {
                Ok(signal) => ended_while_waiting(&args, signal, &left),
                Err(failure) => {
                    if !left.is_certain {
                        stderr::say(left.text);
                    }
                    Err(failure)
                }
            };
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

/// How a candidate left.
struct Departure {
    text: String,
    /// Whether certainly no other candidate waits for this candidate.
    is_certain: bool,
}

/// Waits for the end of a campaign without a purpose. A write that was under way may have won: the candidate resigns,
/// so that another candidate can hold at once.
async fn leave(
    campaign: Pin<&mut impl Future<Output = Result<Option<Tenure>, Failure>>>,
    ttl: Duration,
) -> Departure {
    let unknown = |why| Departure {
        text: format!("{why}: if the write won, other candidates take over after the time to live, {ttl:?}"),
        is_certain: false,
    };
    let leaving = async {
        match campaign.await {
            Ok(Some(tenure)) => match tenure.resign().await {
                Ok(()) => Departure {
                    text: "the candidate won and resigned".to_owned(),
                    is_certain: true,
                },
                Err(error) => unknown(error.to_string()),
            },
            // Not won, or not even possible.
            Ok(None) => Departure {
                text: "nothing was proposed that can still take effect".to_owned(),
                is_certain: true,
            },
            Err(failure) => Departure {
                is_certain: failure.code != Exit::Unavailable,
                ..unknown(failure.to_string())
            },
        }
    };
    let late = || unknown("the outcome of the candidate's last write is unknown".to_owned());
    timeout(LEAVE_MAX, leaving)
        .await
        .unwrap_or_else(|_elapsed| late())
}

/// The end of a candidate that did not hold.
fn ended_while_waiting(args: &Args, signal: EndSignal, left: &Departure) -> Result<u8, Failure> {
    if !args.command.is_empty() {
        let text = format!(": {}; the command was not run", left.text);
        return Err(Failure::ended_by(signal, &text));
    }
    if left.is_certain {
        stderr::say(&left.text);
        return Ok(Exit::Clean as u8);
    }
    Err(Failure::unavailable(anyhow::anyhow!("{}", left.text)))
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
        sleep(UNAVAILABLE_PAUSE).await;
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
            if let Err(unconfirmed) = resign(tenure, args.ttl, asked_to_end(signals, false)).await {
                stderr::say(unconfirmed);
            }
            Err(failure)
        }
        // Cancel safe: only waits.
        lost = tenure.lost() => Err(lost_failure(&lost)),
        // Cancel safe: an unreturned signal stays pending.
        _ = signals.next() => {
            let resigned = resign(tenure, args.ttl, std::future::ready(())).await;
            resigned.map_err(|unconfirmed| Failure::unavailable(anyhow::anyhow!("{unconfirmed}")))?;
            Ok(Exit::Clean as u8)
        }
    }
}

/// Returns at a signal, and with `by_terminal` also when the terminal is lost.
async fn asked_to_end(signals: &mut EndSignals, by_terminal: bool) {
    tokio::select! {
        // Cancel safe: an unreturned signal stays pending.
        _ = signals.next() => {}
        // Cancel safe: only waits.
        () = terminal::lost(), if by_terminal => {}
    }
}

async fn run_command(args: &Args, tenure: Tenure, signals: &mut EndSignals) -> Result<u8, Failure> {
    // The start of the command is the first guarded action.
    let token = tenure.check().map_err(|lost| lost_failure(&lost))?;
    let mut command = Guarded::start(&args.command, packed(token))?;
    let loses_terminal = command.has_terminal() && !signals.ignores_hang_up();
    let mut is_asked_to_end = false;
    let status = tokio::select! {
        // Cancel safe: the command continues. The code below waits for its end.
        status = command.wait() => status?,
        // Cancel safe: only waits.
        lost = tenure.lost() => {
            command.stop(grace_when_lost(args)).await?;
            return Err(lost_failure(&lost));
        }
        // Cancel safe: an unreturned signal stays pending.
        () = asked_to_end(signals, loses_terminal) => {
            is_asked_to_end = true;
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
    let asked = async {
        if !is_asked_to_end {
            asked_to_end(signals, false).await;
        }
    };
    if let Err(unconfirmed) = resign(tenure, args.ttl, asked).await {
        stderr::say(unconfirmed);
    }
    Ok(code_of(status))
}

/// Time between SIGTERM and SIGKILL after a lost election. A holder learns of the loss a tenth of the time to live
/// before another candidate may take over. Half of this tenth is for the command; the rest is for clock drift and for
/// the kill.
fn grace_when_lost(args: &Args) -> Duration {
    args.grace.min(args.ttl / 20)
}

/// Resigns. Waits for the confirmation for [`LEAVE_MAX`] once the process is `asked` to end.
///
/// # Errors
/// The resignation is not confirmed.
async fn resign(tenure: Tenure, ttl: Duration, asked: impl Future<Output = ()>) -> Result<(), String> {
    let late = async {
        asked.await;
        sleep(LEAVE_MAX).await;
    };
    let why = tokio::select! {
        resigned = tenure.resign() => match resigned {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
        // Cancel safe: the process ends.
        () = late => format!("no answer within {LEAVE_MAX:?}"),
    };
    Err(format!(
        "the resignation is not confirmed: {why}; other candidates take over after the time to live, {ttl:?}, at the latest"
    ))
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
        ElectionError::OutcomeUnknown(_) | _ => Failure::unavailable(error),
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
