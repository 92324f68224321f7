//! What the cluster says of itself: each role by its own answer, and what the acceptors report of the others.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::peer::{Address, MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{
    AcceptorStatusRequest, AcceptorStatusResponse, LearnerStatusResponse, ProposerStatusResponse,
    acceptor_client::AcceptorClient,
};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::error::Cause;

mod survey;

pub(crate) use survey::survey;

/// Every process asked, and its answer.
#[derive(Clone, Debug, Default)]
pub struct ClusterStatus {
    /// The acceptors that the client was given, in that order; then the other members that the acceptors' configuration
    /// lists.
    pub acceptors: Vec<AcceptorReport>,
    /// The proposers that the client was given, or that an acceptor reports.
    pub proposers: Vec<RoleReport<ProposerStatusResponse>>,
    /// The learners that the client was given, or that an acceptor reports.
    pub learners: Vec<RoleReport<LearnerStatusResponse>>,
}

impl ClusterStatus {
    /// The acceptors that answered.
    pub fn answers(&self) -> impl Iterator<Item = &AcceptorStatusResponse> {
        self.acceptors
            .iter()
            .filter_map(|report| report.answer.as_ref().ok())
    }
}

/// One acceptor that was asked.
pub type AcceptorReport = RoleReport<AcceptorStatusResponse>;

/// One process that was asked.
#[derive(Clone, Debug)]
pub struct RoleReport<T> {
    /// Where it was asked.
    pub address: Address,
    /// The client was given this address. False: the address was found in an acceptor's answer.
    pub given: bool,
    /// Its answer, or why there is none.
    pub answer: Result<T, Cause>,
}

/// The acceptors, with a connection to each.
#[derive(Debug)]
pub(crate) struct Acceptors {
    clients: Vec<(Address, AcceptorClient<Channel>)>,
}

/// A client of the acceptor at `address`, connected when first used.
fn acceptor_client(address: &Address) -> AcceptorClient<Channel> {
    AcceptorClient::new(connect_lazy(address)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Acceptors {
    pub(crate) fn new(addresses: &[Address]) -> Self {
        Self {
            clients: addresses
                .iter()
                .map(|address| (address.clone(), acceptor_client(address)))
                .collect(),
        }
    }

    /// Asks all at once, each for at most `patience`; stops early when what a majority answered is `enough`.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub(crate) async fn status(
        &self,
        patience: Duration,
        enough: impl Fn(&ClusterStatus) -> bool,
    ) -> ClusterStatus {
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
        Ok(Err(status)) => Err(Cause::from(&status)),
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

fn in_order(reports: &[(usize, AcceptorReport)]) -> ClusterStatus {
    let mut reports = reports.to_vec();
    reports.sort_by_key(|(index, _)| *index);
    ClusterStatus {
        acceptors: reports.into_iter().map(|(_, report)| report).collect(),
        ..ClusterStatus::default()
    }
}
