//! Finds the cluster: asks the acceptors until a formed acceptor answers. Learners never form a cluster. The decisions
//! are made by [`paxos::forming`](paxos_common::paxos::forming).

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use paxos_common::paxos::{
    forming::{FormAction, FormConflict, Forming},
    quorum::{Configuration, InvalidConfiguration},
};
use tokio::time::sleep;

use crate::acceptors::{Introduction, ListedAcceptor, backoff};

/// Waits until a cluster is formed. Members and quorums come from the acceptors' disks, never from a flag.
///
/// Every acceptor is asked before an answer is believed. So a wrong list is found out as soon as the acceptors with the
/// proof can be reached.
///
/// # Errors
/// The answers prove that the addresses do not belong to the acceptors of a single cluster.
///
/// # Cancel safety
/// Safe: the function only asks.
pub(crate) async fn find(acceptors: &[Arc<ListedAcceptor>]) -> Result<Configuration, FormConflict> {
    let addresses = acceptors
        .iter()
        .map(|acceptor| Arc::from(acceptor.address().as_str()));
    let mut forming = Forming::new(addresses.collect());
    let mut backoff = backoff();
    let mut is_wait_logged = false;
    loop {
        let answers = join_all(acceptors.iter().map(|acceptor| acceptor.ask())).await;
        let mut answered = BTreeSet::new();
        for (acceptor, answer) in acceptors.iter().zip(answers) {
            match answer {
                Ok(Introduction { report, .. }) => {
                    acceptor.answered();
                    if !answered.insert(report.acceptor) {
                        return Err(InvalidConfiguration::Twice(report.acceptor).into());
                    }
                    forming.report(report);
                }
                Err(reason) => acceptor.failed(&reason),
            }
        }
        match forming.next()? {
            FormAction::Formed { configuration, .. } => return Ok(configuration),
            FormAction::Ask(_) | FormAction::Store(..) | FormAction::Complete(..) | FormAction::Wait(_) => {
                if !is_wait_logged && !answered.is_empty() {
                    is_wait_logged = true;
                    tracing::info!("waiting for a proposer to form the cluster");
                }
            }
        }
        sleep(backoff.next_delay()).await;
    }
}
