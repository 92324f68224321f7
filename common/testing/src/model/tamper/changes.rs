//! Planted bugs of changes of members.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Leadership, Row, VoteRange},
    proposer::{Event, Phase},
    quorum::{Configuration, Electorate},
    slot::Slot,
    value::Value,
};

use crate::{
    bug::Bug,
    model::{
        acceptor::{AcceptorStep, place_of, uuid},
        learner::LearnerStep,
        network::Message,
        outputs::Claim,
        proposer::{ProposerStep, command},
    },
};

/// Memory of a tampered proposer about a change. Empty without a planted bug.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ChangeScratch {
    /// Acceptors that accepted the change, by ballot.
    accepted: BTreeMap<Ballot, BTreeSet<usize>>,
    /// The sound watermark of each acceptor at the present ballot.
    reported: BTreeMap<usize, Slot>,
    /// The change found by the campaign, and the ballot of its row.
    found: Option<(Slot, Ballot)>,
}

/// Memory of a tampered learner about later eras. Empty without a planted bug.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LearnerChangeScratch {
    /// Voters at later ballots, as counted in the learner's own configuration.
    voters: BTreeMap<(Slot, Ballot), BTreeSet<usize>>,
    /// Rows with later ballots.
    rows: BTreeMap<(Slot, Ballot), Value>,
}

const FORCES: [Bug; 6] = [
    Bug::ForceBeforeTheCopy,
    Bug::ForceWithoutNewVotes,
    Bug::ForceByOneVote,
    Bug::ForceByVotesOfDifferentBallots,
    Bug::ForceByNewAlone,
    Bug::CopyCountedFromNonMembers,
];

impl ProposerStep<'_> {
    /// Spoils the rows of a campaign.
    pub(super) fn tamper_with_page_of_change(&mut self, message: &mut Message) {
        let Message::Page(_, None, page) = message else {
            return;
        };
        let era = self.node.core.configuration().era().next();
        let is_change = |row: &Row| {
            let change = row.accepted.as_ref().and_then(|(_, value)| value.change());
            change.is_some_and(|change| change.era() == era)
        };
        if self.cluster.has(Bug::FoundChangeDropped) {
            page.rows.retain(|row| !is_change(row));
        }
        if self.cluster.has(Bug::VoidChangeCarriedOn) {
            let found = &mut self.node.scratch.of_change.found;
            if let Some(row) = page.rows.iter().find(|row| is_change(row)) {
                let ballot = row.accepted.as_ref().map_or(Ballot::ZERO, |(ballot, _)| *ballot);
                *found = Some((row.slot, ballot));
            }
            // Only the rows above the change lose their higher ballots: the void rule looks at nothing else.
            if let Some((slot, at)) = *found {
                for row in page.rows.iter_mut().filter(|row| row.slot > slot) {
                    if let Some((ballot, _)) = &mut row.accepted {
                        *ballot = at.min(*ballot);
                    }
                }
            }
        }
    }

    /// The era of a report as handed to the core.
    pub(crate) fn tamper_with_leadership(&self, leadership: &Leadership) -> Leadership {
        let mut leadership = leadership.clone();
        if self.cluster.has(Bug::LaterReportRaisesFrom) {
            leadership.promised = Ballot::ZERO;
        }
        leadership
    }

    /// Counts an answer about the change, beside the core.
    pub(crate) fn tamper_with_votes_of_change(&mut self, from: usize, message: &Message) -> bool {
        let counts = FORCES.iter().any(|&bug| self.cluster.has(bug))
            || self.cluster.has(Bug::WatermarkPassesTheChange);
        let Phase::Leading(lead) = self.node.core.phase() else {
            return false;
        };
        let (Message::Answer(ballot, _, AcceptAnswer::Accepted { slots, chosen_to, .. }), Some((change, _))) =
            (message, lead.change())
        else {
            return false;
        };
        if !counts {
            return false;
        }
        let scratch = &mut self.node.scratch.of_change;
        if slots.iter().any(|range| (range.from..range.to).contains(&change)) {
            scratch.accepted.entry(*ballot).or_default().insert(from);
        }
        if *ballot == lead.ballot() {
            scratch.reported.insert(from, *chosen_to);
        }
        true
    }

    /// Puts a change in force by fewer conditions than the three.
    pub(crate) fn put_in_force_early(&mut self, answered: bool) {
        let Phase::Leading(lead) = self.node.core.phase() else {
            return;
        };
        let Some((slot, next)) = lead.change() else { return };
        if !answered {
            return;
        }
        let scratch = &self.node.scratch.of_change;
        let here = scratch.accepted.get(&lead.ballot()).cloned().unwrap_or_default();
        let anywhere: BTreeSet<usize> = scratch.accepted.values().flatten().copied().collect();
        let reported = scratch.reported.iter().filter(|(_, reported)| **reported >= slot);
        let reported: BTreeSet<usize> = reported.map(|(&acceptor, _)| acceptor).collect();
        let is_quorum = |of: &BTreeSet<usize>, configuration: &Configuration| {
            let members = configuration.members().keys().map(|&member| place_of(member));
            members.filter(|member| of.contains(member)).count() >= configuration.quorums().phase2()
        };
        let own = self.node.core.configuration();
        let phase2 = next.quorums().phase2();
        let (by_old, by_new, copied) = (
            is_quorum(&here, own),
            is_quorum(&here, next),
            is_quorum(&reported, next),
        );
        let takes_force = match self.cluster.scenario.bug {
            Some(Bug::ForceBeforeTheCopy) => by_old && by_new,
            Some(Bug::ForceWithoutNewVotes) => by_old && copied,
            Some(Bug::ForceByOneVote) => !here.is_empty() && copied,
            Some(Bug::ForceByVotesOfDifferentBallots) => {
                is_quorum(&anywhere, own) && is_quorum(&anywhere, next) && copied
            }
            Some(Bug::ForceByNewAlone) => by_new && copied,
            Some(Bug::CopyCountedFromNonMembers) => by_old && by_new && reported.len() >= phase2,
            Some(_) | None => false,
        };
        if takes_force {
            let next = next.clone();
            self.handle(Event::LaterConfiguration(next));
        }
    }

    /// Spoils an Accept with a change.
    pub(super) fn tamper_with_sent_change(&mut self, message: &mut Message) {
        let Message::Accept(accept) = message else { return };
        let Phase::Leading(lead) = self.node.core.phase() else {
            return;
        };
        let Some((slot, _)) = lead.change() else { return };
        if accept.ballot != lead.ballot() {
            return;
        }
        if self.cluster.has(Bug::WatermarkPassesTheChange) {
            let accepted = self.node.scratch.of_change.accepted.get(&accept.ballot);
            let members = self.node.core.configuration().members().keys();
            let votes = members
                .filter(|&&member| accepted.is_some_and(|accepted| accepted.contains(&place_of(member))));
            let is_chosen = votes.count() >= self.node.core.configuration().quorums().phase2();
            if is_chosen && accept.chosen_to == slot {
                accept.chosen_to = slot.next();
            }
        }
        let has_change = accept.proposals.iter().any(|(at, _)| *at == slot);
        if self.cluster.has(Bug::ProposesAboveTheChange) && has_change {
            let above = slot.next();
            let bytes = [command(self.place, self.node.run, 3)];
            let value = Value::from_stored(Bytes::copy_from_slice(&bytes), Bytes::new());
            self.outputs.claim(Claim::Proposes {
                ballot: accept.ballot,
                slot: above,
                value: value.clone(),
                is_own: true,
                may_be_new: true,
                is_repair: false,
            });
            accept.proposals.push((above, value));
        }
    }
}

impl AcceptorStep<'_> {
    /// A proposal at an earlier ballot as an acceptor sees it that compares rounds and proposers alone.
    pub(crate) fn compared_without_era(&self, message: &Message) -> Option<Message> {
        let Message::Accept(accept) = message else {
            return None;
        };
        let ballot = accept.ballot.in_era(self.node.core.era());
        (self.cluster.has(Bug::BallotsComparedWithoutEra) && ballot > accept.ballot).then(|| {
            Message::Accept(Accept {
                ballot,
                ..accept.clone()
            })
        })
    }
}

impl LearnerStep<'_> {
    /// The rows of another era, as counted with the votes of [`Self::tamper_with_eras`].
    pub(crate) fn tamper_with_rows_of_eras(&mut self, mut rows: Vec<Row>) -> Vec<Row> {
        let own = self.node.core.electorate().era();
        for row in &mut rows {
            let Some((ballot, value)) = &mut row.accepted else {
                continue;
            };
            if self.cluster.has(Bug::EarlierVotesCountedByLearner) && ballot.era() < own {
                *ballot = ballot.in_era(own);
            }
            if self.cluster.has(Bug::LaterVotesCountedByLearner) && ballot.era() > own {
                let held = &mut self.node.scratch.of_change.rows;
                held.insert((row.slot, *ballot), value.clone());
            }
        }
        rows
    }

    /// Counts votes at later ballots in the present configuration.
    pub(crate) fn tamper_with_later_votes(&mut self, acceptor: usize, votes: &VoteRange) {
        let own = self.node.core.electorate();
        let is_counted = own.era() < votes.ballot.era() && own.includes(uuid(acceptor));
        if self.cluster.has(Bug::LaterVotesCountedByLearner) && is_counted {
            for slot in votes.slots.from.to(votes.slots.to) {
                let voters = &mut self.node.scratch.of_change.voters;
                voters.entry((slot, votes.ballot)).or_default().insert(acceptor);
            }
        }
    }

    /// Takes rows for chosen that a quorum of the configuration `before` voted for at later ballots.
    pub(crate) fn keep_later_votes(&mut self, before: &Electorate) {
        if self.node.core.electorate().era() == before.era() {
            return;
        }
        let scratch = std::mem::take(&mut self.node.scratch.of_change);
        for (key, voters) in scratch.voters {
            if voters.len() >= before.quorums().phase2()
                && let Some(value) = scratch.rows.get(&key)
            {
                let (slot, ballot) = key;
                let accepted = Some((ballot, value.clone()));
                let _ = self.node.core.rows(&[Row { slot, accepted }], slot.next());
            }
        }
    }

    /// A vote of an earlier era, as counted.
    pub(crate) fn tamper_with_eras(&self, mut votes: VoteRange) -> VoteRange {
        let own = self.node.core.electorate().era();
        if self.cluster.has(Bug::EarlierVotesCountedByLearner) && votes.ballot.era() < own {
            votes.ballot = votes.ballot.in_era(own);
        }
        votes
    }

    /// Adopts a configuration as soon as a row holds it.
    pub(crate) fn adopt_chosen(&mut self, rows: &[Row]) {
        if !self.cluster.has(Bug::LearnerAdoptsChosen) {
            return;
        }
        for (_, value) in rows.iter().filter_map(|row| row.accepted.as_ref()) {
            if let Some(change) = value.change() {
                self.node.core.adopt(&change.electorate());
                self.adopt();
            }
        }
    }

    /// Whether the reads keep their round, and with it the members of the earlier era.
    pub(crate) fn keeps_round(&self) -> bool {
        self.cluster.has(Bug::ReadKeepsItsRound) && !self.node.reading.is_bounded()
    }
}
