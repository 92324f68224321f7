//! Finds the cluster behind the acceptors' addresses, or forms a cluster of blank acceptors. The decisions are made by
//! [`paxos::forming`](paxos_common::paxos::forming).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        forming::{FormAction, FormReport, Forming},
        quorum::Configuration,
    },
    peer::{Address, Backoff, connect_lazy},
    service::{failure::Failure, shutdown::Shutdown},
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
use tonic::{Code, transport::Channel};

/// Maximum time for an acceptor's answer, with a commit to disk included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A formed cluster and the acceptors' addresses.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The configuration as stored by the acceptors.
    pub(crate) configuration: Configuration,
    /// Addresses of the acceptors.
    pub(crate) addresses: Vec<Address>,
}

/// Waits until a cluster is formed; `None` when the stop begins first.
///
/// # Errors
/// With exit code 78 when these addresses are no cluster and cannot become a cluster.
pub(crate) async fn form(addresses: &[Address], shutdown: &Shutdown) -> Result<Option<Cluster>, Failure> {
    let clients: BTreeMap<Arc<str>, AcceptorClient<Channel>> = addresses
        .iter()
        .map(|address| {
            (
                Arc::from(address.as_str()),
                AcceptorClient::new(connect_lazy(address)),
            )
        })
        .collect();
    let mut forming = Forming::new(clients.keys().cloned().collect());
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut waiting_told = false;
    loop {
        let action = forming.next().map_err(Failure::refused)?;
        let (step, targets) = match action {
            FormAction::Formed {
                configuration,
                complete,
                lost,
            } => {
                for address in &lost {
                    tracing::error!(%address, "this acceptor is blank, but its cluster is formed: the acceptor has \
                        lost its disk and is not counted; it cannot be replaced in this release");
                }
                let step = Step::Complete(pb::Configuration::from(&configuration));
                // No need to wait for these answers: one formed member proves that all members have stored the list.
                ask(&clients, &complete, Some(&step)).await;
                tracing::info!(cluster = %configuration.cluster_id(), "cluster is formed");
                return Ok(Some(Cluster {
                    configuration,
                    addresses: addresses.to_vec(),
                }));
            }
            FormAction::Ask(targets) => (None, targets),
            FormAction::Store(configuration, targets) => (
                Some(Step::Store(pb::Configuration::from(&configuration))),
                targets,
            ),
            FormAction::Complete(configuration, targets) => (
                Some(Step::Complete(pb::Configuration::from(&configuration))),
                targets,
            ),
        };
        let mut silent = Vec::new();
        for (address, answer) in ask(&clients, &targets, step.as_ref()).await {
            match answer {
                Ok(report) => forming.report(report),
                // The acceptor's list differs, or the acceptor is foreign. A call without a step reads the acceptor's
                // state, and the core reports the difference.
                Err(status) if status.code() == Code::FailedPrecondition => {
                    tracing::warn!(
                        %address, reason = status.message(),
                        "an acceptor refuses to form a cluster with this proposer"
                    );
                    let asked = ask(&clients, &[Arc::clone(&address)], None).await;
                    asked
                        .into_iter()
                        .filter_map(|(_, answer)| answer.ok())
                        .for_each(|report| forming.report(report));
                    silent.push(address);
                }
                Err(_) => silent.push(address),
            }
        }
        if silent.is_empty() {
            backoff.reset();
            continue;
        }
        if !waiting_told {
            waiting_told = true;
            tracing::info!(addresses = ?silent, "waiting for acceptors that do not answer yet");
        }
        tokio::select! {
            // Both arms only wait.
            () = shutdown.begun() => return Ok(None),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Sends one step, or none, to several acceptors at once.
async fn ask(
    clients: &BTreeMap<Arc<str>, AcceptorClient<Channel>>,
    targets: &[Arc<str>],
    step: Option<&Step>,
) -> Vec<(Arc<str>, Result<FormReport, tonic::Status>)> {
    let calls = targets.iter().filter_map(|address| {
        let mut client = clients.get(address)?.clone();
        let request = pb::FormRequest {
            caller: Some(wire::caller(None)),
            step: step.cloned(),
        };
        Some(async move {
            let call = tokio::time::timeout(CALL_TIMEOUT, client.form(request));
            let answer = match call.await {
                Ok(answer) => answer.and_then(|response| report(address, &response.into_inner())),
                Err(_) => Err(tonic::Status::deadline_exceeded("no answer")),
            };
            (Arc::clone(address), answer)
        })
    });
    join_all(calls).await
}

fn report(address: &Arc<str>, response: &pb::FormResponse) -> Result<FormReport, tonic::Status> {
    let read = || {
        let stamp = wire::read_stamp(response.stamp.as_ref())?;
        let membership = wire::membership(response.membership(), response.configuration.clone())?;
        Ok(FormReport {
            acceptor: stamp.acceptor,
            address: Arc::clone(address),
            membership,
        })
    };
    read().map_err(|error: wire::Malformed| tonic::Status::internal(error.to_string()))
}
