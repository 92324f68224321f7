//! Changes of members in the model: the configurations, the requests for a change, and the checks of eras.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        ballot::Ballot,
        era::Era,
        quorum::{Configuration, Electorate, MemberEntry},
        reading::ReadEvent,
        slot::Slot,
        value::Value,
    },
    wire::stored,
};

use super::{
    acceptor::{AcceptorStep, place_of, uuid},
    cluster::{Cluster, State},
    disk::Disk,
    learner::LearnerStep,
    ledger::Broken,
    outputs::Claim,
    proposer::ProposerNode,
    scenario::{Members, Scenario},
    sights::Sight,
};
use crate::bug::Bug;

/// The configuration of each era.
pub(crate) fn configurations(scenario: &Scenario) -> Vec<Arc<Configuration>> {
    let member = |place: usize| (uuid(place), MemberEntry::from(Arc::from("")));
    let of = |members: &Members| (members.places.iter().map(|&place| member(place)), *members);
    let mut eras: Vec<Arc<Configuration>> = Vec::new();
    for (members, Members { phase1, phase2, .. }) in scenario.eras.iter().map(of) {
        let next = match eras.last() {
            None => Configuration::of_members(members, phase1, phase2),
            Some(last) => last.changed_to(members, phase1, phase2),
        };
        eras.push(Arc::new(next.expect("a scenario's quorums intersect")));
    }
    if eras.is_empty() {
        let members = (0..scenario.acceptors).map(member);
        let all = Configuration::of_members(members, scenario.phase1, scenario.phase2);
        eras.push(Arc::new(all.expect("a scenario's quorums intersect")));
    }
    eras
}

/// Of each era: the members, a bit for each acceptor, and the phase-2 quorum.
pub(crate) fn voters(eras: &[Arc<Configuration>]) -> Vec<(u32, u32)> {
    let of = |configuration: &Arc<Configuration>| {
        let bits = configuration
            .members()
            .keys()
            .map(|&member| 1 << place_of(member));
        let phase2 = u32::try_from(configuration.quorums().phase2()).expect("few acceptors");
        (bits.sum(), phase2)
    };
    eras.iter().map(of).collect()
}

impl Cluster {
    /// The change that a leader may be asked for.
    pub(crate) fn next_change(&self, node: &ProposerNode) -> Option<Value> {
        let era = usize::try_from(node.core.configuration().era().get()).expect("few eras");
        let next = self.eras.get(era + 1)?;
        node.core.may_change().then(|| stored::change(next))
    }

    /// Checks that a configuration which takes force is the only one of its era, and that a phase-2 quorum of its own covers
    /// every slot up to its change.
    pub(crate) fn judge_force(
        &self,
        state: &mut State,
        configuration: &Arc<Configuration>,
    ) -> Result<(), Broken> {
        state.ledger.change(|ledger| ledger.takes_force(configuration))?;
        self.sights.saw(Sight::Installation);
        if configuration.era() > Era::FIRST.next() {
            self.sights.saw(Sight::SecondInstallation);
        }
        let Some(change) = state.ledger.change_to(configuration, self.scenario.slots) else {
            return Err(Broken::ForceRestsOnTheLog);
        };
        let is_covered = |slot: Slot| {
            let Some((chosen_at, _)) = state.ledger.chosen(slot) else {
                return false;
            };
            let members = configuration
                .members()
                .keys()
                .map(|&member| &state.acceptors[place_of(member)]);
            let covers = members.filter(|node| node.covers(slot, chosen_at));
            covers.count() >= configuration.quorums().phase2()
        };
        let mut damaged = state.acceptors.iter().flat_map(|node| &node.disk.damaged);
        if damaged.any(|slot| *slot < change) {
            self.sights.saw(Sight::ForceBesideDamage);
        }
        if Slot::ZERO.to(change.next()).all(is_covered) {
            Ok(())
        } else {
            Err(Broken::ForceRestsOnTheLog)
        }
    }

    /// Notes what is chosen in a later era, and changes.
    pub(crate) fn look_at_era(&self, state: &State, ballot: Ballot, slot: Slot) {
        let Some((_, chosen)) = state.ledger.chosen(slot) else {
            return;
        };
        if chosen.change().is_some() {
            self.sights.saw(Sight::ChangeChosen);
        }
        if ballot.era() > Era::FIRST {
            self.sights.saw(Sight::ChosenLater);
        }
    }
}

impl AcceptorStep<'_> {
    /// Checks a commit that may install a configuration: the promise is of the acceptor's era, and neither goes back.
    pub(crate) fn look_at_membership(&mut self, before: &Disk) {
        if self.cluster.eras.len() == 1 {
            return;
        }
        let era = |disk: &Disk| disk.membership.configuration().map(Configuration::era);
        let disk = &self.node.disk;
        if Some(disk.promised.era()) != era(disk) || era(disk) < era(before) {
            self.outputs.broken(Broken::OneConfigurationPerEra);
        }
        if era(before).is_none() {
            self.outputs.saw(Sight::Joined);
        }
        if era(disk) > era(before).max(Some(Era::FIRST))
            && let Some(configuration) = disk.membership.configuration()
        {
            let configuration = Arc::new(configuration.clone());
            self.outputs.claim(Claim::InForce(configuration));
        }
    }
}

impl LearnerStep<'_> {
    /// Applies everything learned. A change is adopted before the reads hear that it is applied.
    pub(crate) fn apply(&mut self) {
        loop {
            let before = self.node.core.electorate().clone();
            let learned = self.node.core.take_learned(usize::MAX);
            if learned.is_empty() {
                break;
            }
            for (slot, value) in learned {
                self.hand_out(slot, value);
            }
            self.adopt();
            self.keep_later_votes(&before);
        }
        self.handle(ReadEvent::Applied(self.node.core.next()));
    }

    /// An acceptor shows the configuration of a later era. The learner may not have applied the change.
    pub(crate) fn shown(&mut self, electorate: &Electorate) {
        if self.node.core.adopt(electorate) {
            self.outputs.saw(Sight::LearnerShown);
            self.adopt();
        }
    }

    /// The configuration is not below a change that the learner has applied.
    pub(crate) fn check_era(&mut self) {
        let applied = usize::try_from(self.node.core.next().get()).expect("few slots");
        let mut era = Era::FIRST;
        for change in self
            .node
            .handed_out
            .iter()
            .take(applied)
            .filter_map(Value::change)
        {
            if change.era() == era.next() {
                era = change.era();
            }
        }
        if self.node.core.electorate().era() < era {
            self.outputs.broken(Broken::LearnersKeepTheirEra);
        }
    }

    /// Reads follow the era of the core, and the disk keeps it.
    pub(crate) fn adopt(&mut self) {
        let electorate = self.node.core.electorate().clone();
        if electorate.era() > self.node.stored.era() {
            self.outputs.saw(Sight::LearnerAdopted);
            self.node.stored = electorate.clone();
            if self.cluster.has(Bug::ReadKeepsItsBound) {
                // The round of the earlier era is answered, and its bound still counts.
                self.handle(ReadEvent::Applied(self.node.core.next()));
            }
            if self.keeps_round() {
                return;
            }
            self.node.reading.adopt(&electorate, self.node.core.next());
            self.carry_out_reads();
        }
    }

    /// The configuration of a learner that restarts with every slot below `applied_to` on its disk.
    pub(crate) fn electorate_at(&self, applied_to: Slot) -> Electorate {
        if self.cluster.has(Bug::LearnerForgetsItsEra) {
            return self.cluster.electorate.clone();
        }
        let applied = usize::try_from(applied_to.get()).expect("few slots");
        let applied = self.node.handed_out.iter().take(applied);
        let changes = applied.filter_map(Value::change);
        let latest = changes.max_by_key(|change| change.era());
        latest.map_or_else(|| self.cluster.electorate.clone(), |change| change.electorate())
    }
}
