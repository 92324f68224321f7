//! Finds the cluster: asks the acceptors until a formed acceptor answers, and forms a cluster of blank acceptors. The
//! decisions are made by [`paxos::forming`](paxos_common::paxos::forming). A later configuration is found by the links.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        forming::{FormAction, FormReport, Forming},
        identity::ClusterId,
        quorum::{Configuration, MemberEntry},
    },
    peer::{
        Address, Backoff, Dialer,
        acceptor::{self, FORM_TIMEOUT, Unusable, form_report, warn_of_list},
        waiting::ClusterWait,
    },
    service::{failure::Failure, shutdown::Shutdown},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use crate::addresses::LinkBook;

/// A formed cluster and the acceptors' addresses.
#[derive(Debug)]
pub(crate) struct FormedCluster {
    /// The latest configuration reported by the acceptors.
    pub(crate) configuration: Configuration,
    pub(crate) book: Arc<LinkBook>,
    /// Opens connections to the acceptors and to other proposers.
    pub(crate) dialer: Dialer,
}

/// Waits until a cluster is formed; `None` when the stop begins first.
///
/// # Errors
/// With exit code 78 when these addresses are no cluster and cannot become a cluster.
pub(crate) async fn form(
    addresses: &[Address],
    cluster: Option<ClusterId>,
    dialer: &Dialer,
    shutdown: &Shutdown,
) -> Result<Option<FormedCluster>, Failure> {
    let acceptors = ListedAcceptors::new(addresses, dialer);
    let mut forming = Forming::new(acceptors.clients.keys().cloned().collect()).of_cluster(cluster);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut is_wait_logged = false;
    let mut wait = ClusterWait::new(Instant::now());
    loop {
        let mut is_waiting = false;
        let (step, targets) = match forming.next().map_err(Failure::refused)? {
            FormAction::Formed {
                configuration,
                complete,
                lost,
            } => {
                acceptors.complete(&configuration, &complete, &lost).await;
                acceptors
                    .install(&configuration, &forming.unaware(&configuration))
                    .await;
                warn_of_list(&forming, &configuration);
                return Ok(Some(FormedCluster {
                    configuration,
                    book: acceptors.book,
                    dialer: dialer.clone(),
                }));
            }
            FormAction::Ask(targets) => (None, targets),
            FormAction::Wait(targets) => {
                is_waiting = true;
                (None, targets)
            }
            FormAction::Store(list, targets) => (Some(Step::Store(pb::Configuration::from(&list))), targets),
            FormAction::Complete(list, targets) => {
                (Some(Step::Complete(pb::Configuration::from(&list))), targets)
            }
        };
        let silent = acceptors
            .take_step(step.as_ref(), &targets, &mut forming, &mut wait)
            .await;
        let is_found = matches!(forming.next(), Ok(FormAction::Formed { .. }));
        if is_found || silent.is_empty() && !is_waiting {
            backoff.reset();
            continue;
        }
        wait.warn_if_due(Instant::now(), "");
        if !is_wait_logged {
            is_wait_logged = true;
            match cluster {
                Some(cluster) => tracing::info!(%cluster, "waiting for an acceptor of the cluster"),
                None => tracing::info!(addresses = ?silent, "waiting for acceptors that do not answer yet"),
            }
        }
        tokio::select! {
            // Both arms only wait.
            () = shutdown.begun() => return Ok(None),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// The listed acceptors, by address.
struct ListedAcceptors {
    clients: BTreeMap<Arc<str>, AcceptorClient<Channel>>,
    book: Arc<LinkBook>,
}

impl ListedAcceptors {
    fn new(addresses: &[Address], dialer: &Dialer) -> Self {
        let book = Arc::new(LinkBook::new(addresses.to_vec(), dialer.clone()));
        let client = |address| AcceptorClient::new(book.channel(address));
        let clients = addresses.iter();
        let clients = clients.map(|address| (Arc::from(address.as_str()), client(address)));
        Self {
            clients: clients.collect(),
            book: Arc::clone(&book),
        }
    }

    /// Sends a step, or none, and takes the answers. Returns the addresses without a usable answer.
    async fn take_step(
        &self,
        step: Option<&Step>,
        targets: &[Arc<str>],
        forming: &mut Forming,
        wait: &mut ClusterWait,
    ) -> Vec<Arc<str>> {
        let mut silent = Vec::new();
        for (address, answer) in self.ask(targets, step).await {
            wait.heard(&address, answer.as_ref());
            match answer {
                Ok(report) => {
                    if let Ok(address) = address.parse() {
                        self.book.answered(&address, report.acceptor);
                    }
                    forming.report(report);
                }
                // The acceptor's list differs, or the acceptor is foreign. A call without a step reads the acceptor's
                // state, and the core reports the difference.
                Err(Unusable::Call(status)) if status.code() == Code::FailedPrecondition => {
                    tracing::warn!(
                        %address, reason = status.message(),
                        "an acceptor refuses to form a cluster with this proposer"
                    );
                    let asked = self.ask(&[Arc::clone(&address)], None).await;
                    asked
                        .into_iter()
                        .filter_map(|(_, answer)| answer.ok())
                        .for_each(|report| forming.report(report));
                    silent.push(address);
                }
                Err(reason) => {
                    tracing::debug!(%address, %reason, "an acceptor does not take part in forming now");
                    silent.push(address);
                }
            }
        }
        silent
    }

    /// The cluster is formed: sends the second step to the acceptors without it.
    async fn complete(&self, configuration: &Configuration, targets: &[Arc<str>], lost: &[Arc<str>]) {
        for address in lost {
            let reason = Unusable::Blank;
            let is_place = |member: &MemberEntry| member.address == *address;
            if configuration.members().values().any(is_place) {
                tracing::error!(%address, %reason, "acceptor refused: it is not counted");
            } else {
                tracing::info!(%address, "a blank acceptor is no member: `paxos member add` makes it a member");
            }
        }
        let step = Step::Complete(pb::Configuration::from(configuration));
        // Nothing depends on these answers: one formed member proves that all members have stored the list. The links repeat
        // the step.
        for (address, answer) in self.ask(targets, Some(&step)).await {
            if let Err(reason) = answer {
                tracing::warn!(
                    %address, %reason,
                    "this acceptor is no member yet: the second step of forming failed, and is repeated"
                );
            }
        }
        tracing::info!(cluster = %configuration.cluster_id(), "cluster is formed");
    }

    /// Installs the configuration at removed acceptors that have not heard of their removal. Their votes count nowhere, so
    /// nothing depends on the answers.
    async fn install(&self, configuration: &Configuration, targets: &[Arc<str>]) {
        let step = Step::Install(pb::Configuration::from(configuration));
        for (address, answer) in self.ask(targets, Some(&step)).await {
            match answer {
                Ok(_) => tracing::info!(%address, "a removed acceptor hears of its removal"),
                Err(reason) => {
                    tracing::debug!(%address, %reason, "a removed acceptor does not hear of its removal");
                }
            }
        }
    }

    /// Sends one step, or none, to several acceptors at once.
    async fn ask(
        &self,
        targets: &[Arc<str>],
        step: Option<&Step>,
    ) -> Vec<(Arc<str>, Result<FormReport, Unusable>)> {
        let calls = targets.iter().filter_map(|address| {
            let mut client = self.clients.get(address)?.clone();
            Some(async move {
                let answer = acceptor::form(&mut client, step.cloned(), FORM_TIMEOUT).await;
                let report = answer.and_then(|answer| Ok(form_report(address, &answer)?));
                (Arc::clone(address), report)
            })
        });
        join_all(calls).await
    }
}
