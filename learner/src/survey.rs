//! Asks the acceptors once, at the start of learning, for the beginnings of their logs.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::{
    paxos::slot::Slot,
    peer::acceptor::Unusable,
    wire::{self, Malformed},
};
use paxos_proto::v1 as pb;
use tokio::time::timeout_at;

use crate::{
    acceptors::{ListedAcceptor, within_deadline},
    cluster::{Cluster, EraMembers},
    cut_off::{StartStanding, at_start},
    trims::{TrimBound, TrimReport},
};

/// Longest wait for further answers, once an acceptor has all slots from the position on: the learners shall spread over
/// the acceptors.
const FURTHER_MAX: Duration = Duration::from_millis(100);

/// The standing of a learner with this position, and the answers. Asks all members, and waits for all answers, or for
/// the first acceptor with all slots from the position on and a moment longer. The answers are added to `trims`.
///
/// # Cancel safety
/// Safe: the function only asks.
pub(crate) async fn ask_all(
    cluster: &Cluster,
    position: Slot,
    trims: &TrimBound,
) -> (StartStanding, Vec<TrimReport>) {
    loop {
        let present = cluster.present();
        let answered = ask_members(cluster, &present, position, trims).await;
        // The answers of the members of an earlier era decide nothing.
        if cluster.present().era() == present.era() {
            return answered;
        }
    }
}

async fn ask_members(
    cluster: &Cluster,
    present: &EraMembers,
    position: Slot,
    trims: &TrimBound,
) -> (StartStanding, Vec<TrimReport>) {
    let quorum = present.quorum();
    let acceptors = present.acceptors().iter();
    let mut answers: FuturesUnordered<_> = acceptors.map(|acceptor| ask(cluster, acceptor)).collect();
    let mut reports = Vec::new();
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        let answer = match due {
            None => answers.next().await,
            Some(due) => timeout_at(due, answers.next()).await.unwrap_or_default(),
        };
        let standing = at_start(position, quorum, &reports);
        let Some(answer) = answer else {
            return (standing, reports);
        };
        // The tasks with streams to the acceptors log why an acceptor does not answer.
        let Ok(report) = answer else { continue };
        trims.reported(report.acceptor, report.trimmed_to, Instant::now());
        reports.push(report);
        if report.trimmed_to <= position {
            due.get_or_insert_with(|| tokio::time::Instant::now() + FURTHER_MAX);
        }
    }
}

async fn ask(cluster: &Cluster, acceptor: &ListedAcceptor) -> Result<TrimReport, Unusable> {
    let member = cluster.identify(acceptor).await?;
    let request = pb::TailRequest {
        caller: Some(wire::caller(Some(cluster.id()))),
        nonce: rand::random(),
    };
    let answer = within_deadline(acceptor.client()?.tail(request))
        .await?
        .into_inner();
    cluster.check(answer.stamp.as_ref(), member)?;
    Ok(TrimReport {
        acceptor: member.acceptor,
        trimmed_to: Slot::new(answer.trimmed_to).map_err(Malformed::from)?,
    })
}
