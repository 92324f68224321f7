//! The answer of a proposer about itself: the process, and the leader that the process knows.

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use paxos_common::peer::{Address, Dialer, MESSAGE_BYTES_MAX};
use paxos_proto::v1::{
    ProposerPhase, ProposerStatusRequest, ProposerStatusResponse, proposer_client::ProposerClient,
};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

use crate::error::Cause;

/// Longest wait for the answer to a probe. A running process needs a few milliseconds.
const PROBE_PATIENCE: Duration = Duration::from_millis(250);

/// The answer of a proposer about itself. The default stands for an answer without these facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProposerStanding {
    /// The number of the process; `None` when not reported.
    pub(crate) process: Option<u64>,
    /// The cluster; `None` when not reported.
    pub(crate) cluster: Option<Bytes>,
    /// The proposer leads, by its own knowledge.
    pub(crate) leads: bool,
    /// The other proposer that leads, as far as this proposer knows.
    pub(crate) leader: Option<Address>,
}

impl ProposerStanding {
    fn of(status: &ProposerStatusResponse) -> Self {
        let leads = status.phase() == ProposerPhase::Leading;
        let leader = status.leader_address.parse().ok();
        Self {
            process: Some(status.proposer).filter(|&process| process != 0),
            cluster: Some(status.cluster_id.clone()).filter(|id| !id.is_empty()),
            leads,
            leader: leader.filter(|_| !leads),
        }
    }

    /// Whether the proposer leads, and leads no other cluster than `cluster`.
    pub(crate) fn leads_in(&self, cluster: Option<&Bytes>) -> bool {
        let is_other = (self.cluster.as_ref().zip(cluster)).is_some_and(|(own, cluster)| own != cluster);
        self.leads && !is_other
    }
}

/// A client for the proposer at an address, on a separate connection.
pub(crate) fn client_at(address: &Address, dialer: &Dialer) -> ProposerClient<Channel> {
    ProposerClient::new(dialer.to_proposer(address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Asks a proposer about itself.
///
/// # Errors
/// The proposer cannot be reached, or does not answer within [`PROBE_PATIENCE`].
pub(crate) async fn ask(client: &mut ProposerClient<Channel>) -> Result<ProposerStanding, Cause> {
    match timeout(PROBE_PATIENCE, client.status(ProposerStatusRequest {})).await {
        Ok(Ok(response)) => Ok(ProposerStanding::of(&response.into_inner())),
        // An error sent by the proposer is an answer; the transport's own errors have a source.
        Ok(Err(status)) if status.source().is_none() => Ok(ProposerStanding::default()),
        Ok(Err(status)) => Err(Cause::of(&status)),
        Err(_elapsed) => Err(Cause::of(&Status::deadline_exceeded(""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_names_no_other_leader() {
        let at = |phase: ProposerPhase, leader: &str| {
            ProposerStanding::of(&ProposerStatusResponse {
                proposer: 7,
                phase: phase.into(),
                leader_address: leader.to_owned(),
                ..ProposerStatusResponse::default()
            })
        };
        let leading = at(ProposerPhase::Leading, "http://own:1");
        assert_eq!(
            (leading.process, leading.leads, leading.leader),
            (Some(7), true, None)
        );
        let standby = at(ProposerPhase::Standby, "http://leader:1");
        assert!(!standby.leads);
        assert_eq!(standby.leader, Some("http://leader:1".parse().unwrap()));
        assert_eq!(at(ProposerPhase::Standby, "").leader, None);
    }

    #[test]
    fn leader_of_another_cluster_does_not_lead_here() {
        let [ours, other] = [[1; 16], [2; 16]].map(|id: [u8; 16]| Bytes::copy_from_slice(&id));
        let leader = |cluster_id: &Bytes| {
            ProposerStanding::of(&ProposerStatusResponse {
                cluster_id: cluster_id.clone(),
                phase: ProposerPhase::Leading.into(),
                ..ProposerStatusResponse::default()
            })
        };
        assert!(leader(&ours).leads_in(Some(&ours)));
        assert!(!leader(&other).leads_in(Some(&ours)));
        assert!(leader(&other).leads_in(None) && leader(&Bytes::new()).leads_in(Some(&ours)));
        assert!(!ProposerStanding::default().leads_in(Some(&ours)));
    }
}
