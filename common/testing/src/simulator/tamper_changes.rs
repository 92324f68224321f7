//! Planted bugs of changes of members.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, PromisePage, Row, VoteRange},
    proposer::{ChangeStage, Event, Lead, Phase, Proposer},
    quorum::Configuration,
    slot::Slot,
    value::Value,
};

use super::{
    invariants::eras_are_kept::place,
    world::{World, uuid},
};
use crate::bug::Bug;

/// Memory of the tampering with changes.
#[derive(Default)]
pub(crate) struct ChangeScratch {
    /// Acceptors that accepted the change of a ballot, with the slot of the change.
    accepted: BTreeMap<(Slot, Ballot), BTreeSet<usize>>,
    /// The sound watermark of each acceptor, as reported at a ballot.
    reported: BTreeMap<(Ballot, usize), Slot>,
    /// The change found by a campaign, and the ballot of its row.
    found: BTreeMap<Ballot, (Slot, Ballot)>,
}

const FORCES: [Bug; 5] = [
    Bug::ForceBeforeTheCopy,
    Bug::ForceByOneVote,
    Bug::ForceByVotesOfDifferentBallots,
    Bug::ForceByNewAlone,
    Bug::CopyCountedFromNonMembers,
];

/// The reign of a proposer with its change.
fn ending(core: Option<&Proposer>) -> Option<(&Lead, Slot, &Arc<Configuration>)> {
    match core?.phase() {
        Phase::Leading(lead) => lead.change().map(|(slot, next)| (&**lead, slot, next)),
        Phase::Standby | Phase::Campaigning(_) => None,
    }
}

fn is_quorum(of: &BTreeSet<usize>, configuration: &Configuration) -> bool {
    let members = configuration.members().keys();
    let counted = members.filter(|&&member| of.contains(&place(member)));
    counted.count() >= configuration.quorums().phase2()
}

impl World<'_> {
    /// An event before the core takes the event in.
    pub(crate) fn tamper_with_eras(&mut self, event: &mut Event) {
        if let Event::Promised {
            ballot,
            scan: None,
            page,
            ..
        } = event
        {
            self.tamper_with_found_changes(*ballot, page);
        } else if let Event::Reported { answer, .. } = event
            && self.tampering.has(Bug::LaterReportRaisesFrom)
        {
            (answer.heard.ballot, answer.promised) = (Ballot::ZERO, Ballot::ZERO);
        }
    }

    /// Spoils the rows of a campaign.
    fn tamper_with_found_changes(&mut self, ballot: Ballot, page: &mut PromisePage) {
        let is_change = |row: &Row| {
            let change = row.accepted.as_ref().and_then(|(_, value)| value.change());
            change.is_some_and(|change| change.era() == ballot.era().next())
        };
        if self.tampering.has(Bug::FoundChangeDropped) {
            page.rows.retain(|row| !is_change(row));
        }
        if self.tampering.has(Bug::VoidChangeCarriedOn) {
            let found = &mut self.tampering.of_changes.found;
            if let Some(row) = page.rows.iter().find(|row| is_change(row)) {
                let at = row.accepted.as_ref().map_or(Ballot::ZERO, |(at, _)| *at);
                found.insert(ballot, (row.slot, at));
            }
            // Only the rows above the change lose their higher ballots: the void rule looks at nothing else.
            if let Some((slot, at)) = found.get(&ballot) {
                for row in page.rows.iter_mut().filter(|row| row.slot > *slot) {
                    if let Some((above, _)) = &mut row.accepted {
                        *above = (*at).min(*above);
                    }
                }
            }
        }
    }

    /// An answer before the core takes the answer in: counted beside the core. The change may then take force early.
    pub(crate) fn tamper_with_force(&mut self, proposer: usize, event: &Event) {
        let counts = FORCES.iter().any(|&bug| self.tampering.has(bug))
            || self.tampering.has(Bug::WatermarkPassesTheChange);
        let Event::Answered {
            acceptor,
            ballot,
            answer: AcceptAnswer::Accepted { slots, chosen_to, .. },
            ..
        } = event
        else {
            return;
        };
        let core = self.proposers[proposer].core.as_ref();
        let Some((lead, slot, next)) = ending(core).filter(|_| counts) else {
            return;
        };
        let scratch = &mut self.tampering.of_changes;
        if slots.iter().any(|range| (range.from..range.to).contains(&slot)) {
            scratch
                .accepted
                .entry((slot, *ballot))
                .or_default()
                .insert(place(*acceptor));
        }
        scratch.reported.insert((*ballot, place(*acceptor)), *chosen_to);
        let here = scratch.accepted.get(&(slot, lead.ballot())).cloned();
        let here = here.unwrap_or_default();
        let anywhere = scratch
            .accepted
            .iter()
            .filter(|((at, ballot), _)| *at == slot && ballot.era() == lead.ballot().era());
        let anywhere: BTreeSet<usize> = anywhere.flat_map(|(_, voters)| voters).copied().collect();
        let at_tip = scratch
            .reported
            .iter()
            .filter(|((ballot, _), reported)| *ballot == lead.ballot() && **reported >= slot);
        let at_tip: BTreeSet<usize> = at_tip.map(|((_, acceptor), _)| *acceptor).collect();
        let own = core.map(Proposer::configuration).expect("a leader runs");
        let (by_old, by_new, copied) = (
            is_quorum(&here, own),
            is_quorum(&here, next),
            is_quorum(&at_tip, next),
        );
        let has = |bug| self.tampering.has(bug);
        let takes_force = (has(Bug::ForceBeforeTheCopy) && by_old && by_new)
            || (has(Bug::ForceByOneVote) && !here.is_empty() && copied)
            || (has(Bug::ForceByVotesOfDifferentBallots)
                && is_quorum(&anywhere, own)
                && is_quorum(&anywhere, next)
                && copied)
            || (has(Bug::ForceByNewAlone) && by_new && copied)
            || (has(Bug::CopyCountedFromNonMembers)
                && by_old
                && by_new
                && at_tip.len() >= next.quorums().phase2());
        if takes_force {
            let next = Arc::clone(next);
            self.handle(proposer, Event::LaterConfiguration(next));
        }
    }

    /// Whether a leader has a snapshot brought to joiners alone, and only while it copies.
    pub(crate) fn skips_snapshot(&self, proposer: usize, receiver: usize) -> bool {
        let core = self.proposers[proposer].core.as_ref();
        let is_served = core.is_some_and(|core| {
            let is_joiner = !core.configuration().members().contains_key(&uuid(receiver));
            is_joiner && matches!(core.change_stage(), Some(ChangeStage::Copying { .. }))
        });
        self.tampering.has(Bug::SnapshotsForJoinersAlone) && !is_served
    }

    /// An Accept of a leader with a change.
    pub(crate) fn tamper_with_sent_change(&self, proposer: usize, accept: &mut Accept) {
        let core = self.proposers[proposer].core.as_ref();
        let Some((lead, slot, _)) = ending(core).filter(|(lead, ..)| lead.ballot() == accept.ballot) else {
            return;
        };
        if self.tampering.has(Bug::WatermarkPassesTheChange) && accept.chosen_to == slot {
            let voters = self.tampering.of_changes.accepted.get(&(slot, lead.ballot()));
            let own = core.map(Proposer::configuration).expect("a leader runs");
            if voters.is_some_and(|voters| is_quorum(voters, own)) {
                accept.chosen_to = slot.next();
            }
        }
        let has_change = accept.proposals.iter().any(|(at, _)| *at == slot);
        if self.tampering.has(Bug::ProposesAboveTheChange) && has_change {
            let above = Value::from_stored(Bytes::new(), Bytes::new());
            accept.proposals.push((slot.next(), above));
        }
    }

    /// Votes as counted by a learner.
    pub(crate) fn tamper_with_earlier_votes(&self, learner: usize, votes: &mut [VoteRange]) {
        let core = self.learners[learner].core.as_ref();
        let Some(own) = core.map(|core| core.electorate().era()) else {
            return;
        };
        if self.tampering.has(Bug::EarlierVotesCountedByLearner) {
            for votes in votes.iter_mut().filter(|votes| votes.ballot.era() < own) {
                votes.ballot = votes.ballot.in_era(own);
            }
        }
    }
}
