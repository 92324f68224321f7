//! `paxos status`: the state of the cluster by the answers of all processes, as tables and a verdict.

use std::{io::IsTerminal as _, time::Duration};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use paxos_client::{Client, raw::ClusterReport};
use paxos_common::{
    paxos::ballot::Ballot,
    service::failure::{Exit, Failure},
};
use paxos_proto::v1::{self as pb, attach_request::Progress};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    connection::ConnectionArgs,
    json::{self, uint64},
    output::{Form, OutputArgs, hex, judged, printable, write},
    signals::{Left, interruptible, until_asked_to_end},
    verdict::{Digests, Peer, PendingChange, Severity, Source, Verdict, cluster_answer, judge, learner},
};

mod acceptors;

use acceptors::{acceptor_table, trims};

/// Interval of the questions with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for processes while no quorum of acceptors has answered.
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// Pause before the second look after two processes contradicted each other: one of the two may have restarted.
const SECOND_LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Shown digits of a digest: enough to distinguish digests.
const PREFIX: usize = 12;

/// Show leader, watermarks, lag and digests of the cluster; report problems with advice
///
/// Asks all processes at once: the acceptors, and every member, proposer and learner that the acceptors name. For a
/// proposer or learner without an answer, shows the latest report to an acceptor, with its age. Waits a fraction of a
/// second for late processes, and up to 3 s while too few acceptors have answered.
///
/// Exits 0 when values can be ordered, 69 when not, 1 when learners differ. Degraded findings leave the exit code at 0.
/// In the JSON output, `healthy` is true only without any finding.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask again every second, until interrupted
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let patience = args.connection.timeout.min(PATIENCE_MAX);
    if args.watch {
        return until_asked_to_end(watch(&args, &client, patience)).await;
    }
    interruptible(Left::Nothing, async {
        let (status, verdict) = look(&client, patience).await;
        let printed = print(&args, &status, &verdict).await;
        if verdict.exit() == Exit::Clean {
            return printed;
        }
        let problem = verdict
            .findings
            .first()
            .map(|finding| printable(&finding.problem));
        let failure = Failure::new(verdict.exit(), anyhow::anyhow!(problem.unwrap_or_default()));
        judged(printed, Err(failure))
    })
    .await
}

async fn watch(args: &Args, client: &Client, patience: Duration) -> Result<(), Failure> {
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (status, verdict) = look(client, patience).await;
        if args.output.output == Form::Text && std::io::stdout().is_terminal() {
            // Clear the screen and move the cursor to the upper left corner.
            write("\u{1b}[2J\u{1b}[H").await?;
        }
        print(args, &status, &verdict).await?;
    }
}

async fn look(client: &Client, patience: Duration) -> (ClusterReport, Verdict) {
    let mut status = client.with_timeout(patience).cluster_report().await;
    let mut verdict = judge(&status);
    if verdict.contradicted {
        sleep(SECOND_LOOK_PAUSE).await;
        status = client.with_timeout(patience).cluster_report().await;
        verdict = judge(&status);
    }
    (status, verdict)
}

async fn print(args: &Args, status: &ClusterReport, verdict: &Verdict) -> Result<(), Failure> {
    args.output
        .print(|| text(status, verdict), || report(status, verdict))
        .await
}

fn text(status: &ClusterReport, verdict: &Verdict) -> String {
    let mut text = headline(status, verdict);
    if let Some(change) = &verdict.change {
        text += &format!("{}\n", change.in_words());
    }
    text += &format!("\n{}\n", acceptor_table(status, verdict));
    text += &trims(status);
    if !verdict.peers.is_empty() {
        text += &format!("\n{}\n", peer_table(verdict));
    }
    text + "\n" + &conclusion(verdict)
}

/// Cluster, leader and quorums on one line.
fn headline(status: &ClusterReport, verdict: &Verdict) -> String {
    if status.answers().next().is_none() {
        return "no acceptor answers\n".to_owned();
    }
    let member = cluster_answer(status);
    let cluster = member.and_then(|member| member.stamp.as_ref());
    let cluster = cluster.map_or_else(|| "not formed".to_owned(), |stamp| hex(&stamp.cluster_id));
    let leader = match verdict
        .leader
        .as_ref()
        .map(|leader| (&leader.report.address, &leader.report.progress))
    {
        Some((address, Some(Progress::Proposer(progress)))) => {
            format!("{} at ballot {}", printable(address), ballot(progress.ballot))
        }
        Some(_) | None => "none".to_owned(),
    };
    let quorums = member
        .and_then(|member| member.configuration.as_ref())
        .map(|configuration| {
            format!(
                "   quorums {} to lead, {} to choose, of {}",
                configuration.phase1,
                configuration.phase2,
                configuration.members.len()
            )
        });
    format!(
        "cluster {cluster}   leader {leader}{}\n",
        quorums.unwrap_or_default()
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn peer_table(verdict: &Verdict) -> String {
    let header = [
        "ROLE",
        "ADDRESS",
        "AGE",
        "LEADS",
        "CHOSEN TO",
        "LOG FROM",
        "APPLIED TO",
        "LAG",
        "STATE",
        "QUEUED",
        "LOG DIGEST",
        "STATE DIGEST",
    ];
    let mut table = table(&header);
    for peer in &verdict.peers {
        table.add_row(peer_row(peer, verdict));
    }
    trimmed(&table)
}

/// Age of the peer's state, and the source of the state if the peer did not answer.
fn age(peer: &Peer) -> String {
    match &peer.source {
        Source::Itself => "now".to_owned(),
        Source::Report(_) => format!("{} ms, no answer", peer.age_ms),
        Source::Departed => format!("{} s, gone", peer.age_ms / 1_000),
    }
}

fn peer_row(peer: &Peer, verdict: &Verdict) -> [String; 12] {
    let dash = || "-".to_owned();
    let (address, age) = (printable(&peer.report.address), age(peer));
    match &peer.report.progress {
        Some(Progress::Proposer(progress)) => {
            let leads = verdict.leader.as_ref() == Some(peer);
            [
                "proposer".to_owned(),
                address,
                age,
                if leads { "yes" } else { "no" }.to_owned(),
                progress.chosen_to.to_string(),
                dash(),
                dash(),
                dash(),
                dash(),
                progress.queued.to_string(),
                dash(),
                dash(),
            ]
        }
        Some(Progress::Learner(progress)) => {
            let latest = |of: fn(&pb::Digest) -> &[u8]| {
                let shown = progress.digests.first().map(|digest| prefix(&hex(of(digest))));
                // An earlier release knows no digest of the state.
                shown.filter(|digits| !digits.is_empty()).unwrap_or_else(dash)
            };
            [
                "learner".to_owned(),
                address,
                age,
                dash(),
                dash(),
                peer.log_from.map_or_else(dash, |slot| slot.to_string()),
                progress.applied_to.to_string(),
                verdict.chosen_to.saturating_sub(progress.applied_to).to_string(),
                HumanBytes(progress.state_bytes).to_string(),
                dash(),
                match peer.installed_percent {
                    Some(percent) => format!("INSTALLING {percent} %"),
                    None => latest(|digest| &digest.digest),
                },
                match peer.installed_percent {
                    Some(_) => dash(),
                    None => latest(|digest| &digest.state),
                },
            ]
        }
        None => [
            "?".to_owned(),
            address,
            age,
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
        ],
    }
}

/// Findings with advice, or a line that the cluster is healthy.
fn conclusion(verdict: &Verdict) -> String {
    let learners = verdict
        .peers
        .iter()
        .filter(|peer| learner(peer).is_some() && !peer.is_departed())
        .count();
    let digests = match verdict.digests {
        Digests::Equal(to) => format!("the digests of {learners} learners are equal below slot {to}"),
        Digests::Differ(to) => format!("the digests of {learners} learners DIFFER below slot {to}"),
        Digests::StatesDiffer(to) => format!("the states of {learners} learners DIFFER below slot {to}"),
        Digests::NotComparable if learners == 0 => "no learner".to_owned(),
        Digests::NotComparable if learners == 1 => "1 learner: no digests to compare".to_owned(),
        Digests::NotComparable => format!("{learners} learners have no digest at a common slot just now"),
    };
    if verdict.findings.is_empty() {
        let votes = verdict.votes.iter().filter(|votes| **votes).count();
        return format!(
            "healthy: a leader, {votes} of {} acceptors, {}; {digests}\n",
            verdict.tolerance.members,
            verdict.tolerance.in_words()
        );
    }
    let mut text = String::new();
    for finding in &verdict.findings {
        let grade = match finding.severity {
            Severity::Degraded => "degraded",
            Severity::Unavailable => "unavailable",
            Severity::Broken => "BROKEN",
        };
        text += &format!(
            "{grade}: {}\n    what to do: {}\n",
            printable(&finding.problem),
            finding.advice
        );
    }
    text + &format!("{digests}\n")
}

/// All answers and the verdict, as one object.
fn report(status: &ClusterReport, verdict: &Verdict) -> Value {
    let acceptors: Vec<_> = status
        .acceptors
        .iter()
        .zip(&verdict.votes)
        .map(|(report, votes)| {
            let (address, given) = (report.address.as_str(), report.given);
            match &report.answer {
                Ok(answer) => json!({
                    "asked_at": address,
                    "given": given,
                    "votes": votes,
                    "status": json::message("AcceptorStatusResponse", answer),
                }),
                Err(cause) => {
                    json!({ "asked_at": address, "given": given, "votes": votes, "error": cause.to_string() })
                }
            }
        })
        .collect();
    let findings: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| {
            json!({
                "severity": format!("{:?}", finding.severity).to_lowercase(),
                "role": finding.subject.role,
                "name": finding.subject.name,
                "problem": finding.problem,
                "advice": finding.advice,
            })
        })
        .collect();
    let (digests, compared_to) = match verdict.digests {
        Digests::Equal(to) => ("equal", Some(uint64(to))),
        Digests::Differ(to) => ("differ", Some(uint64(to))),
        Digests::StatesDiffer(to) => ("states differ", Some(uint64(to))),
        Digests::NotComparable => ("not comparable", None),
    };
    json!({
        "healthy": verdict.findings.is_empty(),
        "leader_address": verdict.leader.as_ref().map(|leader| &leader.report.address),
        "chosen_to": uint64(verdict.chosen_to),
        "change": verdict.change.as_ref().map(PendingChange::json),
        "digests": { "verdict": digests, "to": compared_to },
        "findings": findings,
        "acceptors": acceptors,
        "attached": verdict.peers.iter().map(|peer| json!({
            "report": json::message("AttachRequest", &peer.report),
            "source": match &peer.source {
                Source::Itself => "itself",
                Source::Report(_) => "report",
                Source::Departed => "departed",
            },
            "age_ms": uint64(peer.age_ms),
            "reported_ms": peer.reported_ms.map(uint64),
            "not_ready": peer.not_ready,
            "error": match &peer.source {
                Source::Report(cause) => cause.as_deref(),
                Source::Itself | Source::Departed => None,
            },
            "leads": verdict.leader.as_ref() == Some(peer),
            "log_from": peer.log_from.map(uint64),
            "installed_percent": peer.installed_percent,
            "snapshot_failure": peer.snapshot_failure.as_ref().map(|failure| &failure.reason),
            "lag": learner(peer).map(|learner| uint64(verdict.chosen_to.saturating_sub(learner.applied_to))),
        })).collect::<Vec<_>>(),
    })
}

/// Written as in the logs.
fn ballot(ballot: Option<pb::Ballot>) -> String {
    match ballot.map(Ballot::try_from) {
        Some(Ok(ballot)) if ballot.round() > 0 => ballot.to_string(),
        Some(Ok(_)) | None => "-".to_owned(),
        Some(Err(error)) => error.to_string(),
    }
}

fn prefix(text: &str) -> String {
    text.chars().take(PREFIX).collect()
}

/// The table without spaces at the ends of lines.
fn trimmed(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::tests::{cluster, healthy, learner, lose, proposer};

    #[test]
    fn healthy_cluster_is_shown_as_tables_and_one_line() {
        let status = healthy();
        insta::assert_snapshot!(text(&status, &judge(&status)));
    }

    #[test]
    fn broken_cluster_is_shown_with_advice() {
        let mut status = cluster(&[
            proposer(7101, false),
            learner(7201, 4, &[(4, 1)]),
            learner(7202, 4, &[(4, 2)]),
        ]);
        lose(&mut status, 0);
        insta::assert_snapshot!(text(&status, &judge(&status)));
    }

    #[test]
    fn cluster_without_an_answer_is_not_called_unformed() {
        let mut status = healthy();
        (0..3).for_each(|index| lose(&mut status, index));
        let verdict = judge(&status);
        let shown = text(&status, &verdict);
        assert!(shown.starts_with("no acceptor answers\n"), "{shown}");
        let all = "unavailable: no acceptor answers: http://127.0.0.1:7001: connection refused; http://127.0.0.1:7002: ";
        assert!(shown.contains(all), "{shown}");
        assert!(
            shown.contains("http://127.0.0.1:7003: connection refused\n    what to do: start"),
            "{shown}"
        );
        assert!(!shown.contains("not formed"), "{shown}");
        assert_eq!(verdict.exit(), Exit::Unavailable);
    }

    #[test]
    fn headline_is_about_the_cluster_of_most_acceptors() {
        let mut status = healthy();
        let stray = status.acceptors[0].answer.as_mut().unwrap();
        stray.stamp.as_mut().unwrap().cluster_id = vec![1; 16].into();
        stray.configuration.as_mut().unwrap().phase1 = 7;
        let verdict = judge(&status);
        let shown = headline(&status, &verdict);
        assert!(!shown.contains("0101") && !shown.contains("quorums 7"), "{shown}");
    }

    #[test]
    fn learner_that_installs_a_snapshot_is_shown_with_the_progress() {
        let status = healthy();
        let mut verdict = judge(&status);
        verdict.peers.last_mut().unwrap().installed_percent = Some(35);
        let shown = text(&status, &verdict);
        assert!(shown.contains("INSTALLING 35 %"), "{shown}");
    }

    #[test]
    fn strings_of_other_processes_cannot_forge_lines_or_move_the_cursor() {
        let mut status = cluster(&[proposer(7101, true), learner(7201, 120, &[])]);
        let forged = "a1\nhealthy: \u{1b}[2J".to_owned();
        let answer = status.acceptors[0].answer.as_mut().unwrap();
        answer.id.clone_from(&forged);
        answer.no_space = true;
        answer.attached[1].report.as_mut().unwrap().address = forged;
        let text = text(&status, &judge(&status));
        assert!(!text.contains('\u{1b}') && !text.contains("\nhealthy"), "{text}");
        assert!(text.contains(r"a1\nhealthy: \u{1b}[2J"), "{text}");
    }

    #[test]
    fn json_says_the_same_under_the_names_of_the_proto() {
        let mut status = healthy();
        lose(&mut status, 2);
        let report = report(&status, &judge(&status));
        assert_eq!(report["leader_address"], "http://127.0.0.1:7101");
        assert_eq!(report["digests"], json!({ "verdict": "equal", "to": "1024" }));
        assert_eq!(report["acceptors"][0]["status"]["chosen_to"], "120");
        assert_eq!(report["acceptors"][2]["error"], "connection refused");
        assert_eq!(report["acceptors"][2]["votes"], false);
        let finding = &report["findings"][0];
        assert_eq!(
            (&finding["severity"], &finding["role"]),
            (&json!("degraded"), &json!("acceptor"))
        );
        assert_eq!(
            (&finding["name"], &report["healthy"]),
            (&json!("http://127.0.0.1:7003"), &json!(false))
        );
        assert_eq!(report["attached"][0]["report"]["proposer"]["leading"], true);
    }

    #[test]
    fn json_names_a_slow_disk_with_its_time() {
        let mut status = healthy();
        status.acceptors[0].answer.as_mut().unwrap().slowest_commit_ms = 512;
        let report = report(&status, &judge(&status));
        assert_eq!(report["acceptors"][0]["status"]["slowest_commit_ms"], "512");
        let problem = report["findings"][0]["problem"].as_str().unwrap();
        assert!(
            problem.ends_with("slowest commit of the last minute took 512 ms"),
            "{problem}"
        );
    }
}
