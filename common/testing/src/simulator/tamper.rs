//! Planted bugs: tampering with messages, effects and disks around the cores, never inside the cores.
//!
//! Every function here changes nothing unless its bug is planted, and draws nothing from the seed. So a run with a bug
//! equals the run without the bug, up to the point where the bug shows.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    acceptor::Acceptor,
    ballot::{Ballot, ProposerId},
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{Accept, AcceptAnswer, Row},
    proposer::{Effect, Event, Phase, ProposalOutcome, RequestId},
    slot::{Slot, SlotRange, Version},
    value::Value,
    witness::Witnesses,
};

use super::{
    answers::Answer,
    disks::Disk,
    invariants::commands,
    network::{Kind, Message, Node},
    tamper_changes::ChangeScratch,
    tamper_patience::Scratch,
    world::{Happening, Time, World, uuid},
};
use crate::bug::Bug;

/// Memory of a tampered run beside the cores. Empty unless a bug is planted.
#[derive(Default)]
pub(crate) struct Tampering {
    bug: Option<Bug>,
    pub(crate) patience: Scratch,
    pub(crate) of_changes: ChangeScratch,
    /// Highest watermark sent to each acceptor.
    claimed: BTreeMap<usize, Slot>,
    /// Acceptors waiting for a reader.
    blocked: BTreeSet<usize>,
    /// Each proposer's number at its first start.
    ids: BTreeMap<usize, ProposerId>,
    /// Commits heard by each proposer from the acceptors, trusted or not.
    untrusted: BTreeMap<usize, Witnesses>,
    /// Highest watermark heard by each proposer.
    heard: BTreeMap<usize, Slot>,
    /// Start of each campaign's promises.
    asked: BTreeMap<Ballot, Asked>,
    /// Slots of the rows in each promise.
    reported: BTreeMap<(Ballot, AcceptorUuid), BTreeSet<Slot>>,
    proposed: BTreeMap<(Ballot, Slot), Value>,
    votes: BTreeMap<(Ballot, Slot), BTreeSet<usize>>,
    /// Rows shown to each learner.
    held: BTreeMap<usize, Vec<Row>>,
    seen_to: BTreeMap<usize, Slot>,
    /// The nonce of each learner's latest round.
    nonces: BTreeMap<usize, u64>,
    /// End of the slots sent to each learner by each acceptor.
    shown_to: BTreeMap<(usize, usize, Kind), Slot>,
}

/// Start of the promises of a campaign: as wanted by the core, and as requested.
struct Asked {
    wanted: Slot,
    from: Slot,
}

impl Tampering {
    /// Tampers with the runs passed on by a leader.
    pub(crate) fn tamper_with_witnesses(&self, proposer: usize, witnesses: &mut Witnesses) {
        if let Some(untrusted) = self.untrusted.get(&proposer) {
            witnesses.merge(untrusted.iter());
        }
    }

    /// A proposer hears from an acceptor.
    pub(crate) fn tamper_with_hearing(
        &mut self,
        proposer: usize,
        acceptor: usize,
        run: RunNumber,
        counter: CommitCounter,
    ) {
        if self.has(Bug::UntrustedIsHeard) {
            let heard = self.untrusted.entry(proposer);
            heard.or_default().hear(uuid(acceptor), run, counter);
        }
    }

    pub(crate) fn with(bug: Option<Bug>) -> Self {
        Self {
            bug,
            ..Self::default()
        }
    }

    /// The last stream that ended at an acceptor.
    pub(crate) fn ended(&self, acceptor: usize) -> Option<(Ballot, Time)> {
        self.patience.ended(acceptor)
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether an acceptor continues to page a promise after making a higher promise.
    pub(crate) fn pages_outlive_promise(&self) -> bool {
        self.has(Bug::PagesOutliveTheirPromise)
    }

    /// Whether pages leave before memory shows the same commit.
    pub(crate) fn shows_pages_early(&self) -> bool {
        self.has(Bug::PageShownBeforeMemory)
    }

    /// Whether learners execute commands of a session opened by a different client.
    pub(crate) fn admits_foreign_commands(&self) -> bool {
        self.has(Bug::ForeignCommandTakesEffect)
    }

    /// Whether learners skip every command at or below the highest sequence of the session.
    pub(crate) fn dedupes_by_highest(&self) -> bool {
        self.has(Bug::DedupesByHighestSequence)
    }

    /// Whether an acceptor does nothing for now.
    pub(crate) fn blocks(&self, acceptor: usize) -> bool {
        self.blocked.contains(&acceptor)
    }

    /// Tampers with a disk right after a commit of `rows`. The promise before the commit was `promised`.
    pub(crate) fn tamper_with_disk(
        &self,
        disk: &mut Disk,
        promised: Ballot,
        rows: &BTreeMap<Slot, (Ballot, Value)>,
    ) {
        if self.has(Bug::AcceptDoesNotPromise) && !rows.is_empty() {
            disk.promised = promised;
        }
    }

    /// A frame as handed to a learner.
    pub(crate) fn tamper_with_frame(&mut self, learner: usize, message: &mut Message) {
        match message {
            Message::Votes(votes) if self.has(Bug::LearnerCountsVotesOfOtherBallots) => {
                for votes in votes {
                    votes.ballot = Ballot::ZERO;
                    // As shown by acceptors of earlier releases.
                    votes.values.clear();
                }
            }
            Message::Rows(rows, _) if self.has(Bug::LearnerResumesAfterHighest) => {
                let end = rows.last().map_or(Slot::ZERO, |row| row.slot.next());
                raise(&mut self.seen_to, learner, end);
            }
            Message::Rows(rows, _) if self.has(Bug::FrameWatermarkForHeldRows) => {
                let held = self.held.entry(learner).or_default();
                let fresh = rows.clone();
                rows.splice(0..0, held.iter().cloned());
                held.extend(fresh);
            }
            _ => {}
        }
    }
}

/// Raises the mark kept for `of`.
fn raise<K: Ord>(marks: &mut BTreeMap<K, Slot>, of: K, to: Slot) -> Slot {
    let mark = marks.entry(of).or_default();
    *mark = to.max(*mark);
    *mark
}

// Acceptors.
impl World<'_> {
    pub(crate) fn tamper_with_request(&mut self, acceptor: usize, message: &Message) {
        if let Message::Accept(accept, _) = message
            && self.tampering.has(Bug::WatermarkTrustedForOlderRows)
        {
            raise(&mut self.tampering.claimed, acceptor, accept.chosen_to);
        }
    }

    /// Lets answers leave without waiting for the disk.
    pub(crate) fn tamper_with_waiting(&mut self, acceptor: usize, answers: &mut Vec<Answer>) {
        if self.tampering.has(Bug::AnswersBeforeTheCommit) {
            for answer in answers.drain(..) {
                self.answer(acceptor, answer);
            }
        }
    }

    /// Tampers with memory, right after the core has taken in a group.
    pub(crate) fn tamper_with_memory(&mut self, acceptor: usize) {
        let trusts = self.tampering.has(Bug::WatermarkTrustedForOlderRows);
        if !trusts && !self.tampering.has(Bug::AcceptDoesNotPromise) {
            return;
        }
        let process = &mut self.acceptors[acceptor];
        let (Some(core), Some(present)) = (&process.core, process.disk.runs.last()) else {
            return;
        };
        let (remembers, run) = (core.witnesses().clone(), present.run);
        let disk = &mut process.disk;
        if trusts {
            let claimed = self.tampering.claimed.get(&acceptor).copied();
            disk.known_to = core.chosen_to();
            while Some(disk.known_to) < claimed && disk.rows.contains_key(&disk.known_to) {
                disk.known_to = disk.known_to.next();
            }
        }
        let core = Acceptor::recover(disk.recovered(), run);
        process.core = Some(core.remembering(remembers));
    }

    /// A learner goes away.
    pub(crate) fn tamper_with_gone_reader(&mut self, learner: usize) {
        if self.tampering.has(Bug::ReaderBlocksTheAcceptor) {
            let waiting = (0..self.acceptors.len()).filter(|&acceptor| {
                let observers = &self.acceptors[acceptor].observers;
                observers.contains(&(learner, Kind::Values)) || observers.contains(&(learner, Kind::Votes))
            });
            let waiting: Vec<usize> = waiting.collect();
            self.tampering.blocked.extend(waiting);
        }
    }

    pub(crate) fn tamper_with_start(&mut self, acceptor: usize) {
        self.tampering.blocked.remove(&acceptor);
    }

    /// A message as sent; `false` if the message is not sent.
    pub(crate) fn tamper_with_sent(&mut self, from: Node, to: Node, message: &mut Message) -> bool {
        let Node::Acceptor(acceptor) = from else {
            return true;
        };
        let repeats = match message {
            Message::Page(_, scan, page, _) => {
                if self.tampering.has(Bug::AcceptedLeftOutOfPromise) {
                    page.rows.clear();
                }
                if self.tampering.has(Bug::UnreadableRowTakenForEmpty)
                    || (self.tampering.has(Bug::RepairTakesUnreadableRowForEmpty) && scan.is_some())
                {
                    page.rows.retain(|row| row.accepted.is_some());
                }
                false
            }
            Message::Answer(_, _, AcceptAnswer::Accepted { .. }) => {
                self.tampering.has(Bug::LeaderCountsReplies)
            }
            Message::Votes(_) => self.tampering.has(Bug::LearnerCountsFrames),
            _ => false,
        };
        if repeats {
            let other = Node::Acceptor((acceptor + 1) % self.acceptors.len());
            self.deliver_later(other, to, message.clone());
        }
        !(self.tampering.has(Bug::LostFramesNeverSentAgain) && self.was_shown(acceptor, to, message))
    }

    /// Whether a frame holds only contents already sent to its reader.
    fn was_shown(&mut self, acceptor: usize, to: Node, message: &Message) -> bool {
        let Node::Learner(learner) = to else { return false };
        let (kind, end) = match message {
            Message::Votes(votes) => (Kind::Votes, votes.last().map(|votes| votes.slots.to)),
            Message::Rows(rows, _) => (Kind::Values, rows.last().map(|row| row.slot.next())),
            _ => return false,
        };
        let of = (learner, acceptor, kind);
        let before = self.tampering.shown_to.get(&of).copied();
        let end = end.unwrap_or_default();
        raise(&mut self.tampering.shown_to, of, end);
        before.is_some_and(|before| end <= before)
    }
}

// Proposers.
impl World<'_> {
    /// The number of a starting proposer.
    pub(crate) fn tamper_with_id(&mut self, proposer: usize, drawn: ProposerId) -> ProposerId {
        self.tampering.untrusted.remove(&proposer);
        let reuses = self.tampering.has(Bug::BallotReusedAfterRestart)
            || self.tampering.has(Bug::BallotReusedBySameProcess);
        if reuses {
            *self.tampering.ids.entry(proposer).or_insert(drawn)
        } else {
            drawn
        }
    }

    /// A campaign or a reign is over.
    pub(crate) fn tamper_with_end(&mut self, proposer: usize) {
        if self.tampering.has(Bug::BallotReusedBySameProcess) {
            self.start_proposer(proposer);
        }
    }

    /// An event as handed to the core.
    pub(crate) fn tamper_with_event(&mut self, proposer: usize, mut event: Event) -> Event {
        self.tamper_with_patience(proposer, &mut event);
        match &mut event {
            Event::Promised {
                acceptor,
                ballot,
                page,
                ..
            } => {
                if self.tampering.has(Bug::LeaderCountsVotesOfOtherBallots) {
                    let rows = self.tampering.reported.entry((*ballot, *acceptor));
                    rows.or_default().extend(page.rows.iter().map(|row| row.slot));
                }
                if self.tampering.has(Bug::CampaignFromDamagedRow) {
                    page.known_to = page.chosen_to;
                }
                if self.tampering.has(Bug::StartsBelowTheWatermark) {
                    page.known_to = Slot::ZERO;
                }
                if self.tampering.has(Bug::ValuesPickedFromPartOfTheQuorum) && *acceptor != uuid(0) {
                    page.rows.clear();
                }
                if self.tampering.has(Bug::StartsBelowFrom)
                    && let Some(asked) = self.tampering.asked.get(ballot)
                    && asked.from == page.from
                {
                    page.from = asked.wanted;
                }
            }
            Event::Reported {
                acceptor,
                answer: word,
                ..
            } => {
                if self.tampering.has(Bug::CampaignFromDamagedRow) {
                    let core = self.acceptors[self.place(*acceptor)].core.as_ref();
                    let sound = core.map_or(Slot::ZERO, Acceptor::chosen_to);
                    word.known_to = sound.min(word.known_to);
                }
                self.tamper_with_heard(proposer, &mut word.known_to);
            }
            Event::Answered {
                acceptor,
                ballot,
                answer:
                    AcceptAnswer::Accepted {
                        slots,
                        chosen_to,
                        known_to,
                        ..
                    },
                ..
            } => {
                if self.tampering.has(Bug::CampaignFromDamagedRow) {
                    *known_to = *chosen_to;
                }
                if self.tampering.has(Bug::AnswersAboveAGap) {
                    let acceptor = self.place(*acceptor);
                    for slot in slots.iter().flat_map(|range| range.from.to(range.to)) {
                        self.answer_early(proposer, *ballot, slot, acceptor);
                    }
                }
                if self.tampering.has(Bug::LeaderCountsVotesOfOtherBallots) {
                    *ballot = self.leads_at(proposer).unwrap_or(*ballot);
                }
                self.tamper_with_heard(proposer, known_to);
            }
            _ => {}
        }
        event
    }

    fn leads_at(&self, proposer: usize) -> Option<Ballot> {
        match self.proposers[proposer].core.as_ref()?.phase() {
            Phase::Leading(lead) => Some(lead.ballot()),
            Phase::Standby | Phase::Campaigning(_) => None,
        }
    }

    fn tamper_with_heard(&mut self, proposer: usize, chosen_to: &mut Slot) {
        raise(&mut self.tampering.heard, proposer, *chosen_to);
        if self.tampering.has(Bug::StartsBelowFrom) {
            *chosen_to = Slot::ZERO;
        }
    }

    /// Answers a caller when a quorum has voted for the command, even above an unchosen slot.
    fn answer_early(&mut self, proposer: usize, ballot: Ballot, slot: Slot, acceptor: usize) {
        let votes = self.tampering.votes.entry((ballot, slot)).or_default();
        if !votes.insert(acceptor) || votes.len() != self.knobs.quorums.phase2() {
            return;
        }
        let Some(value) = self.tampering.proposed.get(&(ballot, slot)) else {
            return;
        };
        let numbers: Vec<u64> = commands(value).collect();
        for (number, offset) in numbers.into_iter().zip(0..) {
            let requests = &self.proposers[proposer].requests;
            let waiting: Vec<RequestId> = requests
                .iter()
                .filter(|(_, caller)| caller.command == number && !caller.answered)
                .map(|(&request, _)| request)
                .collect();
            for request in waiting {
                self.answer_caller(
                    proposer,
                    request,
                    ProposalOutcome::Chosen(Version { slot, offset }),
                );
                if let Some(caller) = self.proposers[proposer].requests.get_mut(&request) {
                    // The core answers the request once more.
                    caller.cancelled = true;
                }
            }
        }
    }

    /// An effect as carried out; `false` if the effect is not carried out.
    pub(crate) fn tamper_with_effect(&mut self, proposer: usize, effect: &mut Effect) -> bool {
        let heard = self.tampering.heard.get(&proposer).copied().unwrap_or_default();
        match effect {
            Effect::Prepare(_, prepare, None)
                if self.tampering.has(Bug::StartsBelowFrom) && prepare.from != Slot::MAX =>
            {
                let wanted = prepare.from;
                let from = wanted.max(heard);
                let asked = self.tampering.asked.entry(prepare.ballot);
                prepare.from = asked.or_insert(Asked { wanted, from }).from;
            }
            Effect::Accept(acceptor, accept) => {
                if self.tampering.has(Bug::LeaderCountsVotesOfOtherBallots) {
                    self.count_reported(proposer, *acceptor, accept);
                }
                if self.tampering.has(Bug::AnswersAboveAGap) {
                    self.remember_proposals(accept);
                }
                let acceptor = *acceptor;
                return self.tamper_with_accept(proposer, acceptor, accept);
            }
            _ => {}
        }
        true
    }

    /// Counts the reports of a promise as votes at the new ballot.
    fn count_reported(&mut self, proposer: usize, acceptor: AcceptorUuid, accept: &Accept) {
        let Some(rows) = self.tampering.reported.get(&(accept.ballot, acceptor)) else {
            return;
        };
        let proposed = accept.proposals.iter().map(|&(slot, _)| slot);
        let slots = SlotRange::collect(proposed.filter(|slot| rows.contains(slot)));
        if !slots.is_empty() {
            let counted = AcceptAnswer::Accepted {
                slots,
                voted_to: Slot::ZERO,
                chosen_to: Slot::ZERO,
                known_to: Slot::ZERO,
            };
            let deliver = Happening::Deliver {
                from: Node::Acceptor(self.place(acceptor)),
                to: Node::Proposer(proposer),
                message: Message::Answer(accept.ballot, 0, counted),
                stamp: None,
            };
            self.plan(self.now, deliver);
        }
    }

    fn remember_proposals(&mut self, accept: &Accept) {
        for (slot, value) in &accept.proposals {
            let of = (accept.ballot, *slot);
            self.tampering.proposed.insert(of, value.clone());
        }
    }
}

impl World<'_> {
    /// The first slot requested by a learner.
    pub(crate) fn tamper_with_cursor(&self, learner: usize, next: Slot) -> Slot {
        next.max(self.tampering.seen_to.get(&learner).copied().unwrap_or_default())
    }

    /// Notes the round of questions begun by a learner.
    pub(crate) fn tamper_with_round(&mut self, learner: usize, nonce: u64) {
        if self.tampering.has(Bug::ReadReusesEarlierRound) {
            self.tampering.nonces.insert(learner, nonce);
        }
    }

    /// An acceptor's tail as handed to the core: sending acceptors, each with the answered nonce.
    pub(crate) fn tamper_with_tail(&self, learner: usize, acceptor: usize, nonce: u64) -> Vec<(usize, u64)> {
        if self.tampering.has(Bug::ReadReusesEarlierRound) {
            let latest = self.tampering.nonces.get(&learner);
            vec![(acceptor, latest.copied().unwrap_or(nonce))]
        } else if self.tampering.has(Bug::ReadCountsReplies) {
            vec![(acceptor, nonce), ((acceptor + 1) % self.acceptors.len(), nonce)]
        } else {
            vec![(acceptor, nonce)]
        }
    }
}
