//! Planted bugs: tampering at the boundaries of the cores, never inside.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    learner::Learner,
    message::{AcceptAnswer, Row, VoteRange},
    proposer::{Event, Phase},
    slot::{Slot, Version},
    value::Value,
};

use super::{
    acceptor::AcceptorStep,
    cluster::Cluster,
    disk::Disk,
    learner::LearnerStep,
    network::{Envelope, Message, Node},
    outputs::Claim,
    proposer::{ProposerNode, ProposerStep},
};
use crate::bug::Bug;

mod changes;

/// Memory of a tampered acceptor beside its core. Empty without a planted bug.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct AcceptorScratch {
    claimed: Slot,
    /// Rows below the first slot, not swept yet.
    unswept: BTreeMap<Slot, (Ballot, Value)>,
}

/// Memory of a tampered proposer beside its core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ProposerScratch {
    heard: Slot,
    proposed: BTreeMap<(Ballot, Slot), u8>,
    /// The value of the first page, for each slot and ballot.
    first: BTreeMap<(Slot, Ballot), Value>,
    votes: BTreeSet<(Ballot, Slot, usize)>,
    pub(super) of_change: changes::ChangeScratch,
}

/// Memory of a tampered learner beside its core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LearnerScratch {
    pub(super) of_change: changes::LearnerChangeScratch,
    held: Vec<Row>,
    seen_to: Slot,
    nonce: u64,
}

impl Cluster {
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.scenario.bug == Some(bug)
    }

    /// The number of a proposer's process: fresh for each process, except for copies.
    pub(crate) fn id_of(&self, place: usize, run: usize) -> u64 {
        if self.scenario.copies && place < 2 && run == 0 {
            return 1;
        }
        let reuses = self.has(Bug::BallotReusedAfterRestart) || self.has(Bug::BallotReusedBySameProcess);
        let proposers = self.scenario.proposers;
        (1 + place + if reuses { 0 } else { proposers * run }) as u64
    }

    /// Makes a restarted process the same process without its memory.
    pub(crate) fn tamper_with_restart(&self, before: &ProposerNode, node: &mut ProposerNode) {
        if self.has(Bug::BallotReusedBySameProcess) {
            node.run = before.run;
        }
    }

    pub(crate) fn listens_while_leading(&self) -> bool {
        self.has(Bug::WatermarkByHearsay) || self.has(Bug::AttachedTrimCountsAsVote)
    }
}

impl AcceptorStep<'_> {
    /// Spoils the latest commit. Returns whether memory must follow the disk.
    pub(crate) fn tamper_with_commit(&mut self, before: &Disk, has_rows: bool) -> bool {
        let forgets = self.cluster.has(Bug::AcceptDoesNotPromise) && has_rows;
        if forgets {
            self.node.disk.promised = before.promised;
        }
        let trims = self.node.disk.trimmed_to > before.trimmed_to;
        let leaves = self.cluster.has(Bug::LiftLeavesTheWatermark) && trims;
        if leaves {
            self.node.disk.known_to = before.known_to;
        }
        let swept = before.rows.range(..self.node.disk.trimmed_to);
        let swept = swept.map(|(&slot, row)| (slot, row.clone()));
        if self.cluster.has(Bug::UnsweptRowShown) {
            self.node.disk.rows.extend(swept);
            self.node.disk.shows_unswept = true;
        } else if self.cluster.has(Bug::FetchByWatermarkAlone) {
            self.node.scratch.unswept.extend(swept);
        }
        forgets || leaves
    }

    /// A row as supplied for repair.
    pub(crate) fn row_to_fetch(&self, slot: Slot) -> Option<Row> {
        let unswept = || {
            let accepted = self.node.scratch.unswept.get(&slot)?.clone();
            Some(Row {
                slot,
                accepted: Some(accepted),
            })
        };
        self.node.disk.row(slot).or_else(unswept)
    }

    pub(crate) fn tamper_with_request(&mut self, message: &Message) {
        let trusts = self.cluster.has(Bug::WatermarkTrustedForOlderRows)
            || (self.cluster.has(Bug::ClaimHeardForOlderRows) && self.node.is_full);
        if trusts && let Message::Accept(accept) = message {
            self.node.scratch.claimed = self.node.scratch.claimed.max(accept.chosen_to);
        }
    }

    /// Spoils memory after the core has taken in a group.
    pub(crate) fn tamper_with_memory(&mut self) {
        let trusts = self.cluster.has(Bug::WatermarkTrustedForOlderRows)
            || self.cluster.has(Bug::ClaimHeardForOlderRows);
        if trusts {
            let disk = &mut self.node.disk;
            while disk.known_to < self.node.scratch.claimed && disk.rows.contains_key(&disk.known_to) {
                disk.known_to = disk.known_to.next();
            }
            self.node.recover();
        }
    }

    pub(crate) fn tamper_with_answer(&mut self, to: Node, message: &mut Message) {
        match message {
            Message::Page(_, scan, page) => {
                let left_out = self.cluster.has(Bug::AcceptedLeftOutOfPromise)
                    || (self.cluster.has(Bug::ValuesPickedFromPartOfTheQuorum)
                        && self.place + 1 < self.cluster.scenario.acceptors);
                if left_out {
                    page.rows.clear();
                }
                let unreadable = self.cluster.has(Bug::UnreadableRowTakenForEmpty)
                    || (self.cluster.has(Bug::RepairTakesUnreadableRowForEmpty) && scan.is_some());
                if unreadable {
                    page.rows.retain(|row| row.accepted.is_some());
                }
                let hides_trim = self.cluster.has(Bug::LiftLeavesTheWatermark)
                    || (self.cluster.has(Bug::ScanTakesTrimmedForNoRow) && scan.is_some());
                if hides_trim {
                    page.trimmed_to = Slot::ZERO;
                }
            }
            Message::Answer(_, _, AcceptAnswer::Accepted { .. })
                if self.cluster.has(Bug::LeaderCountsReplies) =>
            {
                let other = (self.place + 1) % self.cluster.scenario.acceptors;
                self.outputs.send(Envelope {
                    from: Node::Acceptor(other),
                    to,
                    message: message.clone(),
                });
            }
            Message::Prepare(..)
            | Message::Accept(_)
            | Message::Fetch(..)
            | Message::Form(_)
            | Message::Formed(_)
            | Message::PrepareRefused(_)
            | Message::PrepareRejected(..)
            | Message::Answer(..)
            | Message::Fetched(..)
            | Message::Tail(_)
            | Message::Tailed(..)
            | Message::Votes(..)
            | Message::Rows(..) => {}
        }
    }
}

impl ProposerStep<'_> {
    pub(crate) fn tamper_with_received(&mut self, from: usize, message: &mut Message) {
        self.tamper_with_page_of_change(message);
        match (message, self.node.core.phase()) {
            (Message::Answer(ballot, _, AcceptAnswer::Accepted { .. }), Phase::Leading(lead))
                if self.cluster.has(Bug::LeaderCountsVotesOfOtherBallots) =>
            {
                *ballot = lead.ballot();
            }
            (Message::Answer(ballot, _, AcceptAnswer::Accepted { slots, .. }), _)
                if self.cluster.has(Bug::AnswersAboveAGap) =>
            {
                for slot in slots.iter().flat_map(|range| range.from.to(range.to)) {
                    self.answer_early(*ballot, slot, from);
                }
            }
            (Message::Answer(_, _, AcceptAnswer::Trimmed { trimmed_to }), _)
                if self.cluster.has(Bug::NoCapAndALeaderLifts) =>
            {
                self.node.scratch.heard = self.node.scratch.heard.max(*trimmed_to);
            }
            (Message::Page(_, scan, page), _)
                if self.cluster.has(Bug::CampaignTakesFirstValue) && scan.is_none()
                    || self.cluster.has(Bug::ScanTakesFirstValue) && scan.is_some() =>
            {
                for row in &mut page.rows {
                    if let Some((ballot, value)) = &mut row.accepted {
                        let first = self.node.scratch.first.entry((row.slot, *ballot));
                        *value = first.or_insert_with(|| value.clone()).clone();
                    }
                }
            }
            (Message::Page(_, _, page), _)
                if self.cluster.has(Bug::StartsBelowFrom) && page.from == self.node.scratch.heard =>
            {
                page.from = Slot::ZERO;
            }
            _ => {}
        }
    }

    /// Answers a caller when a quorum has voted for the command, even above an unchosen slot.
    fn answer_early(&mut self, ballot: Ballot, slot: Slot, from: usize) {
        let scratch = &mut self.node.scratch;
        scratch.votes.insert((ballot, slot, from));
        let of_slot = (ballot, slot, 0)..=(ballot, slot, usize::MAX);
        let votes = scratch.votes.range(of_slot).count();
        if votes == self.cluster.scenario.phase2
            && let Some(&command) = scratch.proposed.get(&(ballot, slot))
        {
            let version = Version { slot, offset: 0 };
            self.outputs.claim(Claim::Answers(version, command));
        }
    }

    /// The watermark of a report as handed to the core.
    pub(crate) fn tamper_with_report(&mut self, known_to: Slot, sound_to: Slot) -> Slot {
        let notes = self.cluster.has(Bug::StartsBelowFrom) || self.cluster.has(Bug::WatermarkByHearsay);
        if notes {
            self.node.scratch.heard = self.node.scratch.heard.max(known_to);
        }
        if self.cluster.has(Bug::StartsBelowFrom) {
            Slot::ZERO
        } else if self.cluster.has(Bug::CampaignFromDamagedRow) {
            sound_to
        } else {
            known_to
        }
    }

    /// A report of a trim, taken for an answer at the leader's own ballot.
    pub(crate) fn tamper_with_trim_report(&mut self, acceptor: AcceptorUuid, trimmed_to: Slot) {
        if self.cluster.has(Bug::AttachedTrimCountsAsVote)
            && let Phase::Leading(lead) = self.node.core.phase()
        {
            let ballot = lead.ballot();
            self.handle(Event::Answered {
                acceptor,
                ballot,
                sequence: 0,
                answer: AcceptAnswer::Trimmed { trimmed_to },
            });
        }
    }

    pub(crate) fn tamper_with_sent(&mut self, message: &mut Message) {
        if let Message::Prepare(prepare, None) = message
            && self.cluster.has(Bug::StartsBelowFrom)
        {
            prepare.from = prepare.from.max(self.node.scratch.heard);
        }
        self.tamper_with_sent_change(message);
        let Message::Accept(accept) = message else { return };
        if self.cluster.has(Bug::WatermarkByHearsay) || self.cluster.has(Bug::NoCapAndALeaderLifts) {
            accept.chosen_to = accept.chosen_to.max(self.node.scratch.heard);
        }
        if self.cluster.has(Bug::AnswersAboveAGap) {
            for (slot, value) in &accept.proposals {
                if let Some(&command) = value.as_bytes().first() {
                    let proposed = &mut self.node.scratch.proposed;
                    proposed.insert((accept.ballot, *slot), command);
                }
            }
        }
    }
}

impl LearnerStep<'_> {
    /// A vote as counted.
    pub(crate) fn tamper_with_votes(&self, votes: &VoteRange) -> VoteRange {
        let mut votes = votes.clone();
        if self.cluster.has(Bug::LearnerCountsVotesOfOtherBallots) {
            votes.ballot = Ballot::ZERO;
            // As shown by acceptors of earlier releases: votes for different values would not be added anyway.
            votes.values.clear();
        }
        if self.cluster.has(Bug::LearnerCountsVotesOfOtherValues) {
            votes.values.clear();
        }
        votes
    }

    /// The rows as handed to the core.
    pub(crate) fn tamper_with_rows(&mut self, rows: &[Row]) -> Vec<Row> {
        let scratch = &mut self.node.scratch;
        if self.cluster.has(Bug::LearnerResumesAfterHighest) {
            let end = rows.last().map_or(Slot::ZERO, |row| row.slot.next());
            scratch.seen_to = scratch.seen_to.max(end);
        }
        let mut taken = Vec::new();
        if self.cluster.has(Bug::FrameWatermarkForHeldRows) {
            taken.clone_from(&scratch.held);
            for row in rows {
                if !scratch.held.contains(row) {
                    scratch.held.push(row.clone());
                }
            }
        }
        taken.extend_from_slice(rows);
        taken
    }

    /// An acceptor's tail as handed to the core: sending acceptors, each with the answered nonce.
    pub(crate) fn tamper_with_tail(&self, acceptor: usize, nonce: u64) -> Vec<(usize, u64)> {
        if self.cluster.has(Bug::ReadReusesEarlierRound) {
            vec![(acceptor, self.node.scratch.nonce)]
        } else if self.cluster.has(Bug::ReadCountsReplies) {
            let other = (acceptor + 1) % self.cluster.scenario.acceptors;
            vec![(acceptor, nonce), (other, nonce)]
        } else {
            vec![(acceptor, nonce)]
        }
    }

    /// Notes the round begun by the core.
    pub(crate) fn tamper_with_round(&mut self, nonce: u64) {
        if self.cluster.has(Bug::ReadReusesEarlierRound) {
            self.node.scratch.nonce = nonce;
        }
    }

    pub(crate) fn tamper_with_restart(&mut self) {
        if self.cluster.has(Bug::LearnerResumesAfterHighest) {
            let next = self.node.scratch.seen_to.max(self.node.core.next());
            self.node.core = Learner::new(self.cluster.electorate.clone(), next);
        }
    }
}
