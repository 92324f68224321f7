//! Failure detectors of simulated acceptors: news of proposers, and the answers to reports.

use std::{collections::BTreeMap, time::Duration};

use paxos_common::paxos::{
    acceptor::Acceptor,
    ballot::Ballot,
    detector::{Claim, Detector, News, RequestKind},
    message::{Accept, HeardProposer, ReportAnswer},
    slot::Slot,
    witness::WITNESSED_RUNS_MAX,
};

use super::{
    acceptors::{AcceptorProcess, stream_id},
    invariants::watermarks_are_true::Watermarks,
    network::{Message, Node},
    world::{Happening, Time, World, uuid},
};
use crate::bug::Bug;

/// An acceptor's memory of the reporting proposers.
#[derive(Default)]
pub(crate) struct Attached {
    /// Number of the last report of each proposer.
    reports: BTreeMap<usize, u64>,
    /// The latest news about the heard proposer sent to the reporting proposers.
    reported: Option<News>,
    /// Time of the next check whether the leader is silent.
    look_at: Option<Time>,
}

impl AcceptorProcess {
    /// Age of the oldest request not yet decided and durable.
    pub(crate) fn waiting(&self, now: Time) -> Duration {
        let oldest = self.oldest_request().unwrap_or(now);
        self.clock.read(now).saturating_sub(self.clock.read(oldest))
    }
}

impl World<'_> {
    /// Hands an event to the detector, and sends any resulting news to all reporting proposers.
    pub(crate) fn detect<R>(
        &mut self,
        acceptor: usize,
        event: impl FnOnce(&mut Detector, Duration) -> R,
    ) -> Option<R> {
        let process = &mut self.acceptors[acceptor];
        let now = process.clock.read(self.now);
        let result = event(process.detector.as_mut()?, now);
        self.tell_news(acceptor);
        Some(result)
    }

    /// A message of a stream has arrived.
    pub(crate) fn acceptor_hears(&mut self, acceptor: usize, stream: u64, accept: &Accept) {
        let process = &self.acceptors[acceptor];
        let known_to = process.core.as_ref().map_or(Slot::MAX, Acceptor::known_to);
        let proposals = accept.proposals.iter().filter(|(slot, _)| *slot >= known_to);
        let work: u64 = proposals
            .map(|(_, value)| 1 + value.as_bytes().len() as u64)
            .sum();
        let (ballot, resigns) = (accept.ballot, accept.resign);
        self.note_hearing(acceptor, ballot);
        self.detect(acceptor, |detector, now| {
            detector.chunk(stream_id(stream), now);
            if resigns {
                detector.resigned(ballot);
            }
            if work > 0 {
                detector.worked(ballot, work);
            }
        });
    }

    /// A request is about to wait for the worker.
    pub(crate) fn claim(&mut self, acceptor: usize, message: &Message) -> Option<Claim> {
        let (ballot, address, kind) = if let Message::Prepare(prepare, _) = message {
            (prepare.ballot, &prepare.address, RequestKind::Prepare)
        } else if let Message::Accept(accept, _) = message {
            (accept.ballot, &accept.address, RequestKind::Accept)
        } else {
            return None;
        };
        let promised = self.acceptors[acceptor].core.as_ref()?.promised();
        let mut is_turned_away = ballot < promised || !promised.admits_jump_to(ballot);
        if self.tampering.has(Bug::RefusedBallotIsHeard) {
            is_turned_away = ballot < promised;
        }
        let address = address.clone();
        self.detect(acceptor, |detector, now| {
            detector.queued(ballot, &address, kind, is_turned_away, now)
        })
    }

    /// Whether a heartbeat has nothing new for the worker.
    pub(crate) fn brings_nothing(&self, acceptor: usize, message: &Message) -> bool {
        let Message::Accept(accept, witnesses) = message else {
            return false;
        };
        let Some(core) = &self.acceptors[acceptor].core else {
            return true;
        };
        let mut news = witnesses.iter().filter(|&(other, run, counter)| {
            other != uuid(acceptor)
                && core
                    .witnesses()
                    .would_keep(other, run, counter, WITNESSED_RUNS_MAX)
        });
        is_heartbeat(message)
            && accept.ballot == core.promised()
            && accept.chosen_to <= core.known_to()
            && news.next().is_none()
    }

    /// A proposer reports, and is answered at once.
    pub(crate) fn reported_to(&mut self, acceptor: usize, proposer: usize, number: u64) {
        let process = &mut self.acceptors[acceptor];
        if !process.is_up() {
            return;
        }
        process.attached.reports.insert(proposer, number);
        self.say(acceptor, proposer);
    }

    /// An acceptor's statement about the heard proposer, and about its own state.
    fn word(&self, acceptor: usize) -> Option<ReportAnswer> {
        let process = &self.acceptors[acceptor];
        let core = process.core.as_ref()?;
        let now = process.clock.read(self.now);
        let mut heard = process.detector.as_ref()?.heard(now);
        self.tamper_with_heard_proposer(acceptor, &mut heard);
        Some(ReportAnswer {
            heard,
            promised: core.promised(),
            waiting: process.waiting(self.now),
            slowest_commit: Duration::ZERO,
            has_space: process.full_until <= self.now,
            known_to: core.known_to(),
            voted_to: core.voted_to(),
            trimmed_to: core.trimmed_to(),
            state_bytes: 0,
        })
    }

    fn say(&mut self, acceptor: usize, proposer: usize) {
        let process = &self.acceptors[acceptor];
        let number = process
            .attached
            .reports
            .get(&proposer)
            .copied()
            .unwrap_or_default();
        let Some(word) = self.word(acceptor) else { return };
        Watermarks::claimed(&self.invariants.chosen, "a report", word.known_to);
        self.send(
            Node::Acceptor(acceptor),
            Node::Proposer(proposer),
            Message::Said(number, word),
        );
    }

    /// Answers all reporting proposers at once when the heard proposer changes, ends, resigns or becomes silent.
    pub(crate) fn tell_news(&mut self, acceptor: usize) {
        let process = &mut self.acceptors[acceptor];
        let now = process.clock.read(self.now);
        let Some(detector) = &process.detector else { return };
        let news = detector.news(now);
        if let Some(silent_at) = detector.silent_at()
            && silent_at > now
            && process.attached.look_at.is_none_or(|at| at <= self.now)
        {
            let at = process.clock.when(self.now, silent_at);
            process.attached.look_at = Some(at);
            let run = process.run;
            self.plan(at, Happening::LookDue { acceptor, run });
        }
        let process = &mut self.acceptors[acceptor];
        if process.attached.reported.replace(news) == Some(news) {
            return;
        }
        let proposers: Vec<usize> = process.attached.reports.keys().copied().collect();
        for proposer in proposers {
            self.say(acceptor, proposer);
        }
    }

    pub(crate) fn look_due(&mut self, acceptor: usize, run: u64) {
        if self.acceptors[acceptor].run == run {
            self.acceptors[acceptor].attached.look_at = None;
            self.tell_news(acceptor);
        }
    }

    /// Falsifies an acceptor's statement about the heard proposer.
    fn tamper_with_heard_proposer(&self, acceptor: usize, heard: &mut HeardProposer) {
        let process = &self.acceptors[acceptor];
        let now = process.clock.read(self.now);
        if self.tampering.has(Bug::BytesOfLowerBallotsAreHeard) {
            let streams = self.streams.all.iter();
            let here = streams.filter(|(_, stream)| stream.acceptor == acceptor && stream.open_there);
            let silent =
                here.filter_map(|(&id, _)| Some(process.detector.as_ref()?.stream(stream_id(id), now)?.1));
            heard.silent = silent.min().unwrap_or(heard.silent).min(heard.silent);
            if heard.silent < self.knobs.leader_timeout {
                heard.ended = None;
            }
        }
        if self.tampering.has(Bug::WorkDoesNotCount) {
            heard.work = 0;
        }
        let ended = self.tampering.ended(acceptor);
        if let Some((ballot, at)) = ended {
            let hits = (self.tampering.has(Bug::EndedHitsTheSuccessor) && ballot < heard.ballot)
                || (self.tampering.has(Bug::EndedThoughReopened) && ballot == heard.ballot);
            if hits {
                heard.ended = Some(now.saturating_sub(process.clock.read(at)));
            }
        }
    }
}

/// Whether a message only shows that the sender is alive.
pub(crate) fn is_heartbeat(message: &Message) -> bool {
    matches!(message, Message::Accept(accept, _) if is_beat(accept))
}

/// The same, for an Accept.
pub(crate) fn is_beat(accept: &Accept) -> bool {
    accept.sequence == 0 && accept.proposals.is_empty() && !accept.resign
}

/// A ballot too high for any proposer.
pub(crate) fn giant() -> Ballot {
    Ballot::new(
        i64::MAX as u64 - 1,
        paxos_common::paxos::ballot::ProposerId::from_random(u64::MAX),
    )
    .expect("in range")
}
