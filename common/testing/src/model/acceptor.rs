//! A modelled acceptor: the real core, the disk that survives, and the group on its way to the disk.
//!
//! Deciding a request and making the decision durable are two steps. A crash between the two steps loses the group with
//! all its answers. Requests received in between join the group or wait in the network. With `readable_first`, a commit
//! itself has two steps: readers of the disk see the group first, and memory takes the group in later.

use std::{collections::BTreeMap, hash::Hash};

use paxos_common::paxos::{
    acceptor::{Acceptor, Group, Membership},
    ballot::Ballot,
    identity::{AcceptorUuid, RunNumber},
    message::{AcceptAnswer, Row, VoteRange},
    proposer::Scan,
    reading::Tail,
    slot::Slot,
    value::Value,
};

use super::{
    cluster::Cluster,
    decide::is_heartbeat,
    disk::{Disk, Snapshot},
    ledger::Broken,
    network::{Envelope, Message, Node},
    outputs::{Claim, Outputs},
    shared::{Shared, hash_of},
    sights::Sight,
    tamper::AcceptorScratch,
};
use crate::bug::Bug;

pub(crate) fn uuid(place: usize) -> AcceptorUuid {
    AcceptorUuid::from_u128(place as u128 + 1)
}

/// The place of an acceptor in the cluster.
pub(crate) fn place_of(acceptor: AcceptorUuid) -> usize {
    usize::from(acceptor.to_bytes()[15]) - 1
}

/// A group whose answers wait until the group is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub(crate) group: Group,
    answers: Vec<Answer>,
    /// All decided votes, including votes with rows overwritten within the same group.
    votes: Vec<(Slot, Ballot, Value)>,
    /// The group trims.
    pub(crate) trims: bool,
    /// The disk holds the group, and readers of the disk see the group.
    pub(crate) readable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Message(Node, Message),
    Pages(Reading),
}

impl Open {
    pub(crate) fn new(group: Group) -> Self {
        Self {
            group,
            answers: Vec::new(),
            votes: Vec::new(),
            trims: false,
            readable: false,
        }
    }

    fn note_votes(&mut self, message: &Message, answer: &Answer) {
        let (
            Message::Accept(accept),
            Answer::Message(_, Message::Answer(_, _, AcceptAnswer::Accepted { .. })),
        ) = (message, answer)
        else {
            return;
        };
        for (slot, value) in &accept.proposals {
            let vote = (*slot, accept.ballot, value.clone());
            insert(&mut self.votes, vote);
        }
    }
}

/// Unread pages of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    pub(super) to: Node,
    pub(super) ballot: Ballot,
    pub(super) from: Slot,
    pub(super) scan: Option<Scan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AcceptorNode {
    pub(crate) core: Acceptor,
    pub(crate) disk: Disk,
    pub(crate) open: Option<Open>,
    pub(crate) reading: Vec<Reading>,
    pub(super) run: u64,
    /// The disk has no space: nothing is granted.
    pub(crate) is_full: bool,
    /// The disk before the present disk, if that disk was lost.
    pub(crate) lost: Option<Disk>,
    pub(crate) scratch: AcceptorScratch,
}

impl AcceptorNode {
    /// An acceptor without any history. Only where the members change, the acceptor needs a configuration.
    pub(crate) fn new(place: usize, membership: Membership) -> Self {
        let disk = Disk::new(uuid(place), membership);
        Self {
            core: Acceptor::recover(disk.recovered(), RunNumber::from_random(0)),
            disk,
            open: None,
            reading: Vec::new(),
            run: 0,
            is_full: false,
            lost: None,
            scratch: AcceptorScratch::default(),
        }
    }

    /// Restarts from the durable state.
    pub(crate) fn recover(&mut self) {
        self.open = None;
        self.reading.clear();
        self.core = Acceptor::recover(self.disk.recovered(), RunNumber::from_random(self.run));
        if let Some(waiting) = &self.disk.waiting {
            self.core = self.core.clone().with_recorded_claim(waiting.to);
        }
        self.core.found_damaged(self.disk.damaged.iter().copied());
    }
}

/// Inserts into a set kept in the order of hashes, so that the order of insertion makes no separate state.
fn insert<T: Hash>(set: &mut Vec<T>, member: T) {
    if let Err(place) = set.binary_search_by_key(&hash_of(&member), hash_of) {
        set.insert(place, member);
    }
}

/// An event at an acceptor.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Input<'a> {
    Receive(&'a Shared<Envelope>),
    /// The whole open group reaches the disk, or memory takes in a group already on the disk.
    Commit,
    /// Power off and on: everything pending is lost.
    Crash,
    /// A single page of a promise is read. A higher ballot may have been promised by then.
    ReadPage(Reading),
    /// A row becomes unreadable, and a reader notices.
    Damage(Slot),
    /// A frame is read for a learner, starting at the learner's first unlearned slot.
    Show {
        learner: usize,
        from: Slot,
    },
    /// A snapshot has arrived, and is recorded as waiting.
    Keep(&'a Snapshot),
    /// The acceptor trims to the waiting snapshot.
    Trim,
    /// The disk is lost, and the process starts on an empty disk.
    Lose,
    /// The disk runs full.
    FillDisk,
}

/// A step of an acceptor.
pub(crate) struct AcceptorStep<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) place: usize,
    pub(crate) node: AcceptorNode,
    pub(crate) outputs: Outputs,
}

impl AcceptorStep<'_> {
    pub(crate) fn take(&mut self, input: &Input<'_>) {
        match *input {
            Input::Receive(envelope) => self.receive(envelope.from, &envelope.message),
            Input::Commit => self.commit(),
            Input::Crash => self.crash(),
            Input::ReadPage(reading) => self.read_page(reading),
            Input::Damage(slot) => {
                self.node.disk.damaged.insert(slot);
                self.node.core.found_damaged([slot]);
            }
            Input::Show { learner, from } => self.show(learner, from),
            Input::Keep(snapshot) => self.keep(snapshot),
            Input::Trim => self.trim(),
            Input::Lose => self.lose(),
            Input::FillDisk => self.node.is_full = true,
        }
        self.check_bottom();
    }

    /// Decides a request into the open group, or into a new group.
    fn receive(&mut self, from: Node, message: &Message) {
        if self.turns_away(message) {
            return;
        }
        if let Message::Fetch(number, first, to) = message {
            self.fetch(from, *number, *first, *to);
            return;
        }
        if let Message::Tail(nonce) = message {
            // From memory: when answers leave, memory already shows the commit.
            let tail = Tail {
                voted_to: self.node.core.voted_to(),
                trimmed_to: self.node.core.trimmed_to(),
            };
            self.answer(from, Message::Tailed(*nonce, tail));
            return;
        }
        self.tamper_with_request(message);
        let open = self.node.open.take();
        let mut open = open.unwrap_or_else(|| Open::new(self.node.core.group()));
        match self.decide(&mut open.group, from, message) {
            Ok(None) => {}
            // A heartbeat has no number and no answer.
            Ok(Some(Answer::Message(
                _,
                Message::Answer(_, 0, AcceptAnswer::Accepted { .. } | AcceptAnswer::NoSpace),
            ))) if is_heartbeat(message) => {}
            Ok(Some(answer)) => {
                open.note_votes(message, &answer);
                insert(&mut open.answers, answer);
            }
            Err(broken) => self.outputs.broken(broken),
        }
        if open.answers.len() > 1 {
            self.outputs.saw(Sight::GroupOfMany);
        }
        if self.node.core.write(&open.group).is_none() {
            self.release(open);
        } else {
            if self.cluster.has(Bug::AnswersBeforeTheCommit) {
                let answers = std::mem::take(&mut open.answers);
                self.let_go(answers);
            }
            self.node.open = Some(open);
        }
    }

    fn commit(&mut self) {
        let Some(mut open) = self.node.open.take() else {
            return;
        };
        if open.readable {
            let rows = open.group.rows().clone();
            self.release(open);
            self.show_commit(&rows);
            return;
        }
        let before = self.node.disk.clone();
        let Some(write) = self.node.core.write(&open.group) else {
            return;
        };
        self.node.disk.commit(&write);
        // Every row below the first readable slot is swept at once.
        self.node.disk.sweep(usize::MAX);
        self.look_at_trim(&before);
        let rows = open.group.rows().clone();
        let recover = self.tamper_with_commit(&before, !rows.is_empty());
        let disk = &self.node.disk;
        let mut kept = disk.promised >= before.promised;
        for (slot, ballot, value) in &open.votes {
            kept &= *ballot >= before.promised && *ballot <= disk.promised;
            self.outputs.claim(Claim::Votes {
                acceptor: self.place,
                ballot: *ballot,
                slot: *slot,
                value: value.clone(),
            });
        }
        if !kept {
            self.outputs.broken(Broken::PromisesAreKept);
        }
        self.look_at_membership(&before);
        self.claim_watermark(self.node.disk.known_to);
        if self.cluster.scenario.readable_first {
            open.readable = true;
            self.node.open = Some(open);
            return;
        }
        self.node.is_full &= !open.trims;
        self.release(open);
        if recover {
            self.node.recover();
        }
        self.show_commit(&rows);
    }

    /// Claims every slot below `claimed` as chosen, with the chosen values in this acceptor's rows.
    pub(crate) fn claim_watermark(&mut self, claimed: Slot) {
        match self.node.disk.values(claimed.max(self.node.disk.trimmed_to)) {
            Some(values) => self.outputs.claim(Claim::Hold(values)),
            None => self.outputs.broken(Broken::WatermarksAreTrue),
        }
    }

    /// Takes a group into memory and releases its answers unchanged.
    pub(crate) fn release(&mut self, Open { group, answers, .. }: Open) {
        self.node.core.committed(group);
        self.tamper_with_memory();
        self.claim_watermark(self.node.core.known_to());
        self.let_go(answers);
    }

    fn let_go(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::Message(to, message) => self.answer(to, message),
                Answer::Pages(reading) if self.cluster.scenario.pages_apart => {
                    insert(&mut self.node.reading, reading);
                }
                Answer::Pages(reading) => self.read_page(reading),
            }
        }
    }

    /// Sends a message, after checking the message against the durable state.
    fn answer(&mut self, to: Node, mut message: Message) {
        let disk = &self.node.disk;
        let durable = match &message {
            Message::Page(ballot, ..) => disk.promised >= *ballot,
            Message::PrepareRejected(_, promised) | Message::PrepareRefused(promised) => {
                disk.promised >= *promised
            }
            Message::Formed(held) => disk.membership.configuration() == Some(held),
            Message::Answer(ballot, _, answer) => match answer {
                AcceptAnswer::Accepted { slots, .. } => {
                    let mut slots = slots.iter().flat_map(|range| range.from.to(range.to));
                    let holds = |slot| disk.covers(slot, *ballot);
                    disk.promised >= *ballot && slots.all(holds)
                }
                AcceptAnswer::Rejected(rejection) => disk.promised >= rejection.promised,
                AcceptAnswer::Trimmed { trimmed_to } => disk.trimmed_to >= *trimmed_to,
                AcceptAnswer::Refused(_) | AcceptAnswer::NoSpace => true,
            },
            Message::Prepare(..)
            | Message::Accept(_)
            | Message::Fetch(..)
            | Message::Fetched(..)
            | Message::Form(_)
            | Message::Tail(_)
            | Message::Tailed(..)
            | Message::Votes(..)
            | Message::Rows(..) => true,
        };
        if !durable {
            self.outputs.broken(Broken::PromisesAreKept);
        }
        if matches!(message, Message::Answer(_, _, AcceptAnswer::Trimmed { .. })) {
            self.outputs.saw(Sight::TrimTold);
        }
        self.tamper_with_answer(to, &mut message);
        self.send(to, message);
    }

    fn send(&mut self, to: Node, message: Message) {
        let from = Node::Acceptor(self.place);
        self.outputs.send(Envelope { from, to, message });
    }

    fn read_page(&mut self, reading: Reading) {
        let rows_max = self.cluster.scenario.page_rows;
        let promised = self.node.disk.promised;
        self.node.reading.retain(|other| *other != reading);
        if promised > reading.ballot {
            self.outputs.saw(Sight::PageOvertaken);
            self.answer(reading.to, Message::PrepareRejected(reading.ballot, promised));
            return;
        }
        let page = self.node.disk.page(reading.from, rows_max);
        if page.rows.iter().any(|row| row.accepted.is_none()) {
            self.outputs.saw(Sight::UnknownRowTold);
        }
        if page.trimmed_to > page.from {
            self.outputs.saw(Sight::TrimmedPage);
        }
        let (next, last) = (page.next, page.last);
        self.answer(reading.to, Message::Page(reading.ballot, reading.scan, page));
        if !last && reading.scan.is_none_or(|scan| next < scan.to) {
            self.outputs.saw(Sight::PromiseOfManyPages);
            let rest = Answer::Pages(Reading {
                from: next,
                ..reading
            });
            self.let_go(vec![rest]);
        }
    }

    /// Reads rows below this acceptor's own watermark, for a repairing leader.
    fn fetch(&mut self, asker: Node, number: u64, first: Slot, to: Slot) {
        let value = |slot| Some((slot, self.row_to_fetch(slot)?.accepted?.1));
        let values = first
            .to(to.min(self.node.core.known_to()))
            .map_while(value)
            .collect();
        self.answer(asker, Message::Fetched(number, first, values));
    }

    fn crash(&mut self) {
        if let Some(open) = &self.node.open {
            self.outputs.saw(if open.readable {
                Sight::ReadableUnanswered
            } else if open.trims {
                Sight::TrimLost
            } else if open.group.rows().is_empty() {
                Sight::PromiseLost
            } else {
                Sight::VoteLost
            });
        }
        if self.node.core.known_to() > self.node.disk.known_to {
            self.outputs.saw(Sight::WatermarkLost);
        }
        self.node.run += 1;
        self.node.recover();
    }

    /// Sends the rows of the latest commit to all learners.
    fn show_commit(&mut self, rows: &BTreeMap<Slot, (Ballot, Value)>) {
        let known_to = self.node.core.known_to();
        let frame: Vec<Row> = rows
            .iter()
            .map(|(&slot, accepted)| Row {
                slot,
                accepted: Some(accepted.clone()),
            })
            .collect();
        if frame.is_empty() {
            return;
        }
        for learner in (0..self.cluster.scenario.learners).map(Node::Learner) {
            self.show_votes(learner, &frame);
            self.send(learner, Message::Rows(frame.clone(), known_to));
        }
    }

    /// Each vote is a message of its own, so that each vote can be lost alone.
    fn show_votes(&mut self, learner: Node, rows: &[Row]) {
        let votes = rows.iter().flat_map(|row| VoteRange::collect([row]));
        for votes in votes.collect::<Vec<_>>() {
            self.send(learner, Message::Votes(votes));
        }
    }

    fn show(&mut self, learner: usize, from: Slot) {
        let disk = &self.node.disk;
        let (rows, _) = disk.rows_from(from, self.cluster.scenario.page_rows);
        let known_to = self.node.core.known_to();
        let learner = Node::Learner(learner);
        self.show_votes(learner, &rows);
        if !rows.is_empty() {
            self.send(learner, Message::Rows(rows, known_to));
        }
    }
}
