//! State of a proposer as shown to others.

use std::{collections::BTreeMap, sync::Arc};

use paxos_common::{
    paxos::{
        ballot::{Ballot, ProposerId},
        identity::{AcceptorUuid, ClusterId, RunNumber},
        proposer::ChangeStage,
        quorum::Configuration,
        slot::Slot,
    },
    peer::Address,
};
use paxos_proto::v1::ProposerPhase;

use crate::changes::ShownChange;

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
    /// The configuration that this proposer works with; none before the cluster is formed.
    pub(crate) configuration: Option<Arc<Configuration>>,
    /// The configuration of the era before, if this process has worked with it.
    pub(crate) before: Option<Arc<Configuration>>,
    /// The change of members that this proposer drives, or found.
    pub(crate) change: Option<ShownChange>,
    /// Open links: to members, joiners, and for a moment to removed members.
    pub(crate) links: BTreeMap<AcceptorUuid, AcceptorLink>,
    /// Size of the registers and recorded outcomes in bytes, as learners reported to the acceptors; zero: unknown.
    pub(crate) state_bytes: u64,
    /// Number of acceptors in a quorum; 0 before the cluster is formed.
    pub(crate) quorum: usize,
    /// Acceptors that delayed commands when a caller last stopped waiting; empty for none.
    pub(crate) late: String,
    /// Acceptors not counted because of lost commits.
    pub(crate) refused: BTreeMap<AcceptorUuid, Refusal>,
}

/// An open link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptorLink {
    pub(crate) address: Address,
    /// The operator's name for the acceptor.
    pub(crate) name: Arc<str>,
    /// The last reported watermark.
    pub(crate) chosen_to: Slot,
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
    /// Number of members with an open link.
    pub(crate) fn linked_members(&self) -> usize {
        let is_member = |uuid: &&AcceptorUuid| {
            let configuration = self.configuration.as_ref();
            configuration.is_some_and(|configuration| configuration.members().contains_key(*uuid))
        };
        self.links.keys().filter(is_member).count()
    }

    /// The era of the configuration; 0 before the cluster is formed.
    pub(crate) fn era(&self) -> u64 {
        let configuration = self.configuration.as_ref();
        configuration.map_or(0, |configuration| configuration.era().get())
    }

    /// Slots that the furthest joiner of the change lacks; 0 without a copy under way.
    pub(crate) fn joiner_lag(&self) -> u64 {
        match self.change.as_ref().map(|change| &change.stage) {
            Some(ChangeStage::Copying { slots, of }) => of.saturating_sub(*slots),
            Some(
                ChangeStage::Deciding { .. }
                | ChangeStage::Switching(_)
                | ChangeStage::Done { .. }
                | ChangeStage::Refused(_)
                | ChangeStage::Unknown,
            )
            | None => 0,
        }
    }

    /// The step of the change under way: 0 none, 1 copying, 2 deciding, 3 switching.
    pub(crate) fn change_step(&self) -> u64 {
        match self.change.as_ref().map(|change| &change.stage) {
            None | Some(ChangeStage::Done { .. } | ChangeStage::Refused(_) | ChangeStage::Unknown) => 0,
            Some(ChangeStage::Copying { .. }) => 1,
            Some(ChangeStage::Deciding { .. }) => 2,
            Some(ChangeStage::Switching(_)) => 3,
        }
    }

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
            configuration: None,
            before: None,
            change: None,
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

    #[test]
    fn change_under_way_is_shown_by_step_and_lag() {
        let members = [1, 2].map(|number| (AcceptorUuid::from_u128(number), "http://a:1".into()));
        let configuration = Arc::new(Configuration::new(members, 2, 1).unwrap());
        let mut view = View::forming(ProposerId::from_random(1));
        assert_eq!((view.change_step(), view.joiner_lag(), view.era()), (0, 0, 0));
        for (stage, step, lag) in [
            (ChangeStage::Copying { slots: 3, of: 9 }, 1, 6),
            (ChangeStage::Deciding { accepted: 1, of: 2 }, 2, 0),
            (ChangeStage::Switching(configuration.era()), 3, 0),
        ] {
            view.change = Some(ShownChange {
                configuration: Arc::clone(&configuration),
                stage,
                taken: 0,
                begun: None,
            });
            assert_eq!((view.change_step(), view.joiner_lag()), (step, lag));
        }
    }

    #[test]
    fn only_members_count_as_linked() {
        let members = [1, 2].map(|number| (AcceptorUuid::from_u128(number), "http://a:1".into()));
        let mut view = View::forming(ProposerId::from_random(1));
        for number in [1, 9] {
            let link = AcceptorLink {
                address: "http://a:1".parse().unwrap(),
                name: "".into(),
                chosen_to: Slot::ZERO,
            };
            view.links.insert(AcceptorUuid::from_u128(number), link);
        }
        assert_eq!(view.linked_members(), 0, "no configuration");
        view.configuration = Some(Arc::new(Configuration::new(members, 2, 1).unwrap()));
        assert_eq!(view.linked_members(), 1);
    }
}
