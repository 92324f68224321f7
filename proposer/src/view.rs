//! State of a proposer as shown to others.

use std::collections::BTreeMap;

use paxos_common::{
    paxos::{
        ballot::{Ballot, ProposerId},
        identity::{AcceptorUuid, ClusterId, RunNumber},
        slot::Slot,
    },
    peer::Address,
};
use paxos_proto::v1::ProposerPhase;

/// State of this proposer for reports and `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) proposer: ProposerId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) phase: ProposerPhase,
    pub(crate) ballot: Option<Ballot>,
    /// Address of the leader; possibly this proposer.
    pub(crate) leader: Option<String>,
    pub(crate) chosen_to: Slot,
    pub(crate) proposed_to: Slot,
    pub(crate) queued: usize,
    pub(crate) queued_bytes: usize,
    /// Open links, each with the last reported watermark.
    pub(crate) links: BTreeMap<AcceptorUuid, (Address, Slot)>,
    /// Size of the registers and recorded outcomes in bytes, as learners reported to the acceptors; zero: unknown.
    pub(crate) state_bytes: u64,
    /// Number of acceptors in a quorum; 0 before the cluster is formed.
    pub(crate) quorum: usize,
    /// Acceptors that delayed commands when a caller last stopped waiting; empty for none.
    pub(crate) late: String,
    /// Acceptors not counted because of lost commits.
    pub(crate) refused: BTreeMap<AcceptorUuid, Refusal>,
}

/// The refusal of an acceptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The loss.
    pub(crate) reason: String,
    /// The run of the last introduction with this judgement. A later run is not judged yet.
    pub(crate) run: Option<RunNumber>,
}

impl View {
    /// The reason reported to an acceptor in this run; empty if the acceptor is counted, or not judged yet.
    pub(crate) fn reason_for(&self, acceptor: AcceptorUuid, run: RunNumber) -> String {
        let refusal = self.refused.get(&acceptor);
        let refusal = refusal.filter(|refusal| refusal.run == Some(run));
        refusal.map_or_else(String::new, |refusal| refusal.reason.clone())
    }

    /// Before the cluster is formed.
    pub(crate) fn forming(proposer: ProposerId) -> Self {
        Self {
            proposer,
            cluster: None,
            phase: ProposerPhase::Forming,
            ballot: None,
            leader: None,
            chosen_to: Slot::ZERO,
            proposed_to: Slot::ZERO,
            queued: 0,
            queued_bytes: 0,
            links: BTreeMap::new(),
            state_bytes: 0,
            quorum: 0,
            late: String::new(),
            refused: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_for_the_judged_run_alone() {
        let [acceptor, other] = [1, 2].map(AcceptorUuid::from_u128);
        let [old, new] = [1, 2].map(RunNumber::from_random);
        let mut view = View::forming(ProposerId::from_random(1));
        view.refused.insert(
            acceptor,
            Refusal {
                reason: "it lost commits".to_owned(),
                run: Some(old),
            },
        );
        assert_eq!(view.reason_for(acceptor, old), "it lost commits");
        assert_eq!(view.reason_for(acceptor, new), "", "a run not judged yet");
        assert_eq!(view.reason_for(other, old), "");
    }
}
