//! Planted bugs of failure detection.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use paxos_common::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Accept, HeardProposer, ReportAnswer},
    proposer::{Event, Phase, Proposer, RequestId},
    slot::Slot,
};

use super::{
    hearing::is_beat,
    network::{Message, Node},
    world::{Happening, Time, World, micros, uuid},
};
use crate::bug::Bug;

/// Memory of the tampering with failure detection.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The last ended stream at each acceptor.
    ended: BTreeMap<usize, (Ballot, Time)>,
    /// Slots sent to each acceptor on its present stream.
    sent: BTreeMap<(Ballot, AcceptorUuid), (u64, BTreeSet<Slot>)>,
}

impl Scratch {
    pub(crate) fn ended(&self, acceptor: usize) -> Option<(Ballot, Time)> {
        self.ended.get(&acceptor).copied()
    }
}

impl World<'_> {
    /// A stream has ended at an acceptor.
    pub(crate) fn tamper_with_ended(&mut self, acceptor: usize, ballot: Ballot) {
        self.tampering.patience.ended.insert(acceptor, (ballot, self.now));
    }

    /// Whether a message of a leader is sent.
    pub(super) fn tamper_with_accept(
        &mut self,
        proposer: usize,
        acceptor: AcceptorUuid,
        accept: &mut Accept,
    ) -> bool {
        if self.tampering.has(Bug::HeartbeatsStop) && is_beat(accept) {
            let place = self.place(acceptor);
            return !self.acceptors[place].is_busy();
        }
        if self.tampering.has(Bug::TurnedAwayNeverSentAgain) {
            let place = self.place(acceptor);
            let keeper = self.proposers[proposer].keepers.get(&(accept.ballot, place));
            let stream = keeper.and_then(|keeper| keeper.stream).unwrap_or_default();
            let sent = &mut self.tampering.patience.sent;
            let (of, slots) = sent.entry((accept.ballot, acceptor)).or_default();
            if *of != stream {
                (*of, *slots) = (stream, BTreeSet::new());
            }
            let had = accept.proposals.len();
            accept.proposals.retain(|(slot, _)| slots.insert(*slot));
            return had == 0 || !accept.proposals.is_empty();
        }
        true
    }

    /// An event before the core takes the event in.
    pub(crate) fn tamper_with_patience(&mut self, proposer: usize, event: &mut Event) {
        let now = self.proposers[proposer].clock.read(self.now);
        match event {
            Event::Reported { sent, .. } if self.tampering.has(Bug::StaleAnswersCount) => *sent = now,
            _ => {}
        }
    }

    /// Invented events for the core.
    pub(crate) fn tamper_with_hearsay(&self, proposer: usize) -> Vec<Event> {
        let process = &self.proposers[proposer];
        let Some(ballot) = process.ballot().filter(|_| !process.leads()) else {
            return Vec::new();
        };
        if !self.tampering.has(Bug::CandidateWaitsForHung) {
            return Vec::new();
        }
        let members = self.electorate.members();
        let alive = |&acceptor| Event::Alive {
            acceptor,
            ballot,
            silent: Duration::ZERO,
            waiting: Duration::ZERO,
            has_space: true,
        };
        let bytes = members.iter().map(|&acceptor| Event::Bytes(acceptor));
        members.iter().map(alive).chain(bytes).collect()
    }

    /// Invented answers to a report, in place of answers cut off by the network.
    pub(crate) fn tamper_with_report(&mut self, proposer: usize) -> Vec<Event> {
        if !self.tampering.has(Bug::NoPhase2QuorumNeeded) {
            return Vec::new();
        }
        let sent = self.proposers[proposer].clock.read(self.now);
        let silent = (0..self.acceptors.len()).filter(|&acceptor| {
            let cut = self
                .network
                .cuts
                .get(&(Node::Acceptor(acceptor), Node::Proposer(proposer)));
            cut.is_some_and(|&until| until > self.now)
        });
        let said = silent.map(|acceptor| Event::Reported {
            acceptor: uuid(acceptor),
            sent,
            answer: nothing_heard(),
        });
        said.collect()
    }

    /// The link of a candidate to an acceptor is open: the acceptor is taken to hear no proposer.
    pub(crate) fn tamper_with_late_link(&mut self, proposer: usize, acceptor: usize) {
        let process = &self.proposers[proposer];
        let core = process.core.as_ref().map(Proposer::phase);
        if self.tampering.has(Bug::LateLinkAsksForPromise) && matches!(core, Some(Phase::Campaigning(_))) {
            let reported = Event::Reported {
                acceptor: uuid(acceptor),
                sent: process.clock.read(self.now),
                answer: nothing_heard(),
            };
            self.handle(proposer, reported);
        }
    }

    /// A command was forwarded.
    pub(crate) fn tamper_with_forwarded(&mut self, proposer: usize, request: RequestId) {
        if self.tampering.has(Bug::ForwardedDoNotCount) {
            self.handle(proposer, Event::ForwardAnswered(request));
        }
    }

    /// After giving way, a proposer continues as before.
    pub(crate) fn tamper_with_shut(&mut self, proposer: usize) {
        let run = self.proposers[proposer].run;
        self.plan(self.now, Happening::BeatOn { proposer, run });
    }

    /// The proposer sends heartbeats on the streams kept open.
    pub(crate) fn beat_on(&mut self, proposer: usize, run: u64) {
        let process = &self.proposers[proposer];
        if process.run != run || !process.is_up() {
            return;
        }
        let beats: Vec<(u64, Accept)> = process
            .keepers
            .values()
            .filter_map(|keeper| keeper.beat())
            .collect();
        for (stream, beat) in beats {
            self.stream_send(stream, true, Message::Accept(beat, Default::default()));
        }
        self.plan(
            self.now + micros(self.knobs.leader_timeout) / 4,
            Happening::BeatOn { proposer, run },
        );
    }
}

/// The report of an acceptor that has heard of no proposer.
fn nothing_heard() -> ReportAnswer {
    ReportAnswer {
        heard: HeardProposer::none(),
        promised: Ballot::ZERO,
        waiting: Duration::ZERO,
        slowest_commit: Duration::ZERO,
        has_space: true,
        known_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        state_bytes: 0,
    }
}
