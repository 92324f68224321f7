//! The cluster's reports on its own status: each role by its own answer, and the acceptors' reports on the other roles.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::peer::{Address, Dialer, MESSAGE_BYTES_MAX};
use paxos_proto::v1::{
    AcceptorStatusRequest, AcceptorStatusResponse, LearnerStatusResponse, ProposerStatusResponse,
    acceptor_client::AcceptorClient,
};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::error::Cause;

mod survey;

pub(crate) use survey::survey;

/// The answers of all asked processes, as on the wire.
#[derive(Clone, Debug, Default)]
pub struct ClusterReport {
    /// The acceptors given to the client, in the given order; then the other members in the acceptors' configuration.
    pub acceptors: Vec<AcceptorReport>,
    /// The proposers given to the client, or reported by an acceptor.
    pub proposers: Vec<RoleReport<ProposerStatusResponse>>,
    /// The learners given to the client, or reported by an acceptor.
    pub learners: Vec<RoleReport<LearnerStatusResponse>>,
}

impl ClusterReport {
    /// The answers received from acceptors.
    pub fn answers(&self) -> impl Iterator<Item = &AcceptorStatusResponse> {
        self.acceptors
            .iter()
            .filter_map(|report| report.answer.as_ref().ok())
    }
}

/// The report on an asked acceptor.
pub type AcceptorReport = RoleReport<AcceptorStatusResponse>;

/// The report on an asked process.
#[derive(Clone, Debug)]
pub struct RoleReport<T> {
    /// The asked address.
    pub address: Address,
    /// Whether the client was given this address. False: the address was found in an acceptor's answer.
    pub given: bool,
    /// The answer, or why there is none.
    pub answer: Result<T, Cause>,
}

/// The acceptors, with a connection to each.
#[derive(Debug)]
pub(crate) struct AcceptorClients {
    clients: Vec<(Address, AcceptorClient<Channel>)>,
}

/// A client of the acceptor at `address`, connected when first used.
pub(crate) fn acceptor_client(dialer: &Dialer, address: &Address) -> AcceptorClient<Channel> {
    AcceptorClient::new(dialer.to_acceptor(address)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl AcceptorClients {
    /// The first address.
    pub(crate) fn first(&self) -> Option<&Address> {
        self.clients.first().map(|(address, _)| address)
    }

    pub(crate) fn new(addresses: &[Address], dialer: &Dialer) -> Self {
        Self {
            clients: addresses
                .iter()
                .map(|address| (address.clone(), acceptor_client(dialer, address)))
                .collect(),
        }
    }

    /// Asks all acceptors at once, each for at most `patience`. Stops early when a majority has answered and the
    /// answers are `enough`.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub(crate) async fn status(
        &self,
        patience: Duration,
        enough: impl Fn(&ClusterReport) -> bool,
    ) -> ClusterReport {
        let mut asked: FuturesUnordered<_> = self
            .clients
            .iter()
            .enumerate()
            .map(|(index, (address, client))| ask(index, address.clone(), client.clone(), patience))
            .collect();
        let mut reports = Vec::with_capacity(self.clients.len());
        while let Some(report) = asked.next().await {
            reports.push(report);
            let answered = reports.iter().filter(|(_, report)| report.answer.is_ok()).count();
            if answered > self.clients.len() / 2 && enough(&in_order(&reports)) {
                break;
            }
        }
        in_order(&reports)
    }
}

async fn ask(
    index: usize,
    address: Address,
    mut client: AcceptorClient<Channel>,
    patience: Duration,
) -> (usize, AcceptorReport) {
    let answer = match timeout(patience, client.status(AcceptorStatusRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Cause::of(&status)),
        Err(_elapsed) => Err(Cause::deadline()),
    };
    let given = true;
    (
        index,
        AcceptorReport {
            address,
            given,
            answer,
        },
    )
}

fn in_order(reports: &[(usize, AcceptorReport)]) -> ClusterReport {
    let mut reports = reports.to_vec();
    reports.sort_by_key(|(index, _)| *index);
    ClusterReport {
        acceptors: reports.into_iter().map(|(_, report)| report).collect(),
        ..ClusterReport::default()
    }
}
