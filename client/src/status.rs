//! What the acceptors say of the cluster: the roster for people, and where to find proposers and learners.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::peer::{Address, MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{AcceptorStatusRequest, AcceptorStatusResponse, acceptor_client::AcceptorClient};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::error::Cause;

/// Every acceptor asked, and what it said.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// In the order in which the client was given them.
    pub acceptors: Vec<AcceptorReport>,
}

impl ClusterStatus {
    /// Those that answered.
    pub fn answers(&self) -> impl Iterator<Item = &AcceptorStatusResponse> {
        self.acceptors
            .iter()
            .filter_map(|report| report.answer.as_ref().ok())
    }
}

/// What one acceptor said.
#[derive(Clone, Debug)]
pub struct AcceptorReport {
    /// Where it was asked.
    pub address: Address,
    /// Its answer, or why there is none.
    pub answer: Result<AcceptorStatusResponse, Cause>,
}

/// The acceptors, with a connection to each.
#[derive(Debug)]
pub(crate) struct Acceptors {
    clients: Vec<(Address, AcceptorClient<Channel>)>,
}

impl Acceptors {
    pub(crate) fn new(addresses: &[Address]) -> Self {
        let client = |address: &Address| {
            AcceptorClient::new(connect_lazy(address)).max_decoding_message_size(MESSAGE_BYTES_MAX)
        };
        Self {
            clients: addresses
                .iter()
                .map(|address| (address.clone(), client(address)))
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
    (index, AcceptorReport { address, answer })
}

fn in_order(reports: &[(usize, AcceptorReport)]) -> ClusterStatus {
    let mut reports = reports.to_vec();
    reports.sort_by_key(|(index, _)| *index);
    ClusterStatus {
        acceptors: reports.into_iter().map(|(_, report)| report).collect(),
    }
}
