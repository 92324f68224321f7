//! `paxos status`: the cluster as the acceptors see it, as a table and a verdict.

use std::{io::IsTerminal as _, time::Duration};

use comfy_table::{Table, presets};
use paxos_client::{
    Client, ClusterStatus,
    proto::{self as pb, AcceptorStatusResponse, Membership, attach_request::Progress},
};
use paxos_common::{
    exit::{Exit, Failure},
    paxos::ballot::Ballot,
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    connection::ConnectionArgs,
    json::{self, uint64},
    output::{Form, OutputArgs, hex, write},
    signals::{Left, interruptible, until_asked_to_end},
    verdict::{Digests, Peer, Severity, Verdict, judge, learner},
};

/// How often `--watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// An acceptor that answers later is shown as not answering.
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// As many digits of a digest or cluster id as tell them apart.
const PREFIX: usize = 12;

/// Show the cluster: leader, watermarks, lag, digests; what is wrong and what to do
///
/// Asks the acceptors alone, so it works while everything else is down. Exits 0 when values can be ordered, 69 when
/// not, 1 when learners differ.
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
        print(&args, &status, &verdict)?;
        if verdict.exit() == Exit::Clean {
            return Ok(());
        }
        let problem = verdict.findings.first().map(|finding| finding.problem.clone());
        Err(Failure::new(
            verdict.exit(),
            anyhow::anyhow!(problem.unwrap_or_default()),
        ))
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
            // Clear the screen and go to its upper left corner.
            write("\u{1b}[2J\u{1b}[H")?;
        }
        print(args, &status, &verdict)?;
    }
}

async fn look(client: &Client, patience: Duration) -> (ClusterStatus, Verdict) {
    let mut status = client.cluster_status(patience).await;
    let mut verdict = judge(&status);
    if verdict.contradicted {
        status = client.cluster_status(patience).await;
        verdict = judge(&status);
    }
    (status, verdict)
}

fn print(args: &Args, status: &ClusterStatus, verdict: &Verdict) -> Result<(), Failure> {
    args.output
        .print(|| text(status, verdict), || report(status, verdict))
}

fn text(status: &ClusterStatus, verdict: &Verdict) -> String {
    let mut text = headline(status, verdict);
    text += &format!("\n{}\n", acceptor_table(status));
    if !verdict.peers.is_empty() {
        text += &format!("\n{}\n", peer_table(verdict));
    }
    text + "\n" + &conclusion(status, verdict)
}

/// Cluster, leader and quorums on one line.
fn headline(status: &ClusterStatus, verdict: &Verdict) -> String {
    let cluster = status
        .answers()
        .filter_map(|answer| answer.stamp.as_ref())
        .find(|stamp| !stamp.cluster_id.is_empty());
    let cluster = cluster.map_or_else(|| "not formed".to_owned(), |stamp| hex(&stamp.cluster_id));
    let leader = match verdict
        .leader
        .as_ref()
        .map(|leader| (&leader.report.address, &leader.report.progress))
    {
        Some((address, Some(Progress::Proposer(progress)))) => {
            format!("{address} at ballot {}", ballot(progress.ballot))
        }
        Some(_) | None => "none".to_owned(),
    };
    let quorums = status
        .answers()
        .find_map(|answer| answer.configuration.as_ref())
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

fn acceptor_table(status: &ClusterStatus) -> String {
    let header = [
        "ACCEPTOR",
        "ADDRESS",
        "MEMBERSHIP",
        "PROMISED",
        "CHOSEN TO",
        "VOTED TO",
        "QUEUED",
        "WAITING",
        "SLOWEST COMMIT",
        "WAL",
    ];
    let mut table = table(&header);
    for report in &status.acceptors {
        let address = report.address.to_string();
        match &report.answer {
            Ok(answer) => table.add_row(acceptor_row(address, answer)),
            Err(_) => table.add_row(["?".to_owned(), address, "no answer".to_owned()]),
        };
    }
    trimmed(&table)
}

fn acceptor_row(address: String, answer: &AcceptorStatusResponse) -> [String; 10] {
    let membership = match answer.membership() {
        Membership::Unspecified => "?",
        Membership::Blank => "blank",
        Membership::Forming => "forming",
        Membership::Formed => "formed",
    };
    let promised = answer
        .leadership
        .as_ref()
        .and_then(|leadership| leadership.promised);
    [
        answer.id.clone(),
        address,
        membership.to_owned(),
        ballot(promised),
        answer.chosen_to.to_string(),
        answer.voted_to.to_string(),
        answer.queued.to_string(),
        format!("{} ms", answer.waiting_ms),
        format!("{} ms", answer.slowest_commit_ms),
        format!("{} KiB", answer.wal_bytes.div_ceil(1024)),
    ]
}

fn peer_table(verdict: &Verdict) -> String {
    let header = [
        "ROLE",
        "ADDRESS",
        "LEADS",
        "CHOSEN TO",
        "APPLIED TO",
        "LAG",
        "QUEUED",
        "DIGEST",
    ];
    let mut table = table(&header);
    for peer in &verdict.peers {
        table.add_row(peer_row(peer, verdict));
    }
    trimmed(&table)
}

fn peer_row(peer: &Peer, verdict: &Verdict) -> [String; 8] {
    let dash = || "-".to_owned();
    let address = peer.report.address.clone();
    match &peer.report.progress {
        Some(Progress::Proposer(progress)) => {
            let leads = verdict
                .leader
                .as_ref()
                .is_some_and(|leader| leader.report.address == address);
            [
                "proposer".to_owned(),
                address,
                if leads { "yes" } else { "no" }.to_owned(),
                progress.chosen_to.to_string(),
                dash(),
                dash(),
                progress.queued.to_string(),
                dash(),
            ]
        }
        Some(Progress::Learner(progress)) => {
            let latest = progress
                .digests
                .first()
                .map(|digest| prefix(&hex(&digest.digest)));
            [
                "learner".to_owned(),
                address,
                dash(),
                dash(),
                progress.applied_to.to_string(),
                verdict.chosen_to.saturating_sub(progress.applied_to).to_string(),
                dash(),
                latest.unwrap_or_else(dash),
            ]
        }
        None => [
            "?".to_owned(),
            address,
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
        ],
    }
}

/// What is wrong and what to do, or that all is well.
fn conclusion(status: &ClusterStatus, verdict: &Verdict) -> String {
    let learners = verdict
        .peers
        .iter()
        .filter(|peer| learner(peer).is_some())
        .count();
    let digests = match verdict.digests {
        Digests::Equal(to) => format!("the digests of {learners} learners are equal below slot {to}"),
        Digests::Differ(to) => format!("the digests of {learners} learners DIFFER below slot {to}"),
        Digests::NotComparable if learners < 2 => format!("{learners} learner: no digests to compare"),
        Digests::NotComparable => format!("{learners} learners have no digest at a common slot just now"),
    };
    if verdict.findings.is_empty() {
        let answering = status.answers().count();
        return format!(
            "healthy: a leader, {answering} of {} acceptors; {digests}\n",
            status.acceptors.len()
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
            finding.problem, finding.advice
        );
    }
    text + &format!("{digests}\n")
}

/// Everything that was answered, and the verdict, as one object.
fn report(status: &ClusterStatus, verdict: &Verdict) -> Value {
    let acceptors: Vec<_> = status
        .acceptors
        .iter()
        .map(|report| {
            let address = report.address.as_str();
            match &report.answer {
                Ok(answer) => {
                    json!({ "asked_at": address, "status": json::message("AcceptorStatusResponse", answer) })
                }
                Err(cause) => json!({ "asked_at": address, "error": cause.to_string() }),
            }
        })
        .collect();
    let findings: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| {
            json!({
                "severity": format!("{:?}", finding.severity).to_lowercase(),
                "problem": finding.problem,
                "advice": finding.advice,
            })
        })
        .collect();
    let (digests, compared_to) = match verdict.digests {
        Digests::Equal(to) => ("equal", Some(uint64(to))),
        Digests::Differ(to) => ("differ", Some(uint64(to))),
        Digests::NotComparable => ("not comparable", None),
    };
    json!({
        "healthy": verdict.findings.is_empty(),
        "leader_address": verdict.leader.as_ref().map(|leader| &leader.report.address),
        "chosen_to": uint64(verdict.chosen_to),
        "digests": { "verdict": digests, "to": compared_to },
        "findings": findings,
        "acceptors": acceptors,
        "attached": verdict.peers.iter().map(|peer| json!({
            "report": json::message("AttachRequest", &peer.report),
            "age_ms": uint64(peer.age_ms),
            "leads": verdict.leader.as_ref() == Some(peer),
            "lag": learner(peer).map(|learner| uint64(verdict.chosen_to.saturating_sub(learner.applied_to))),
        })).collect::<Vec<_>>(),
    })
}

/// As the logs write it.
fn ballot(ballot: Option<pb::Ballot>) -> String {
    match ballot.map(Ballot::try_from) {
        Some(Ok(ballot)) if ballot > Ballot::ZERO => ballot.to_string(),
        Some(Ok(_)) | None => "-".to_owned(),
        Some(Err(error)) => error.to_string(),
    }
}

fn prefix(text: &str) -> String {
    text.chars().take(PREFIX).collect()
}

/// The table without the spaces at the ends of its lines.
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
    fn broken_cluster_is_told_what_to_do() {
        let mut status = cluster(&[
            proposer(7101, false),
            learner(7201, 4, &[(4, 1)]),
            learner(7202, 4, &[(4, 2)]),
        ]);
        lose(&mut status, 0);
        insta::assert_snapshot!(text(&status, &judge(&status)));
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
        assert_eq!(report["findings"][0]["severity"], "degraded");
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
