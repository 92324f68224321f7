//! The heap of happenings, and the loop for taking the happenings in order.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use paxos_common::paxos::{
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::{Configuration, Electorate},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    Run, Transcript,
    acceptors::AcceptorProcess,
    changes::{self, Operator},
    clients::Clients,
    happenings,
    invariants::{Invariants, progress::LEADER_TIMEOUTS_MAX},
    knobs::{Knobs, LEADER_TIMEOUT, NetworkKnobs},
    learners::LearnerProcess,
    log::Log,
    network::{Message, Network, Node},
    proposers::ProposerProcess,
    scenarios::Step,
    statistics::{Counted, Statistics},
    streams::Streams,
    tamper::Tampering,
    trims,
};
use crate::bug::Bug;

pub(crate) use happenings::Happening;

/// Simulated microseconds since the beginning of the run.
pub(crate) type Time = u64;

/// Lower bound of the slots read by a learner in a leader timeout, in pages of a few rows. Most logs are shorter.
const SLOTS_PER_TIMEOUT: u64 = 25;

struct Planned {
    at: Time,
    order: u64,
    happening: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) struct World<'a> {
    pub(crate) now: Time,
    order: u64,
    heap: BinaryHeap<Reverse<Planned>>,
    trace: DefaultHasher,
    transcript: &'a mut Transcript,
    pub(crate) rng: StdRng,
    pub(crate) knobs: Knobs,
    /// Draws about trims; `None` if no acceptor trims.
    pub(crate) trims: Option<StdRng>,
    /// The operator who changes the members; `None` if the members stay.
    pub(crate) changes: Option<Operator>,
    pub(crate) healed_at: Option<Time>,
    /// Additional leader timeouts for a learner to read the log again, counted from the end of the faults.
    timeouts_for_log: Time,
    pub(crate) configuration: Configuration,
    pub(crate) electorate: Electorate,
    pub(crate) network: Network,
    pub(crate) streams: Streams,
    /// Leadership events.
    pub(crate) log: Log,
    pub(crate) script: Vec<Step>,
    pub(crate) acceptors: Vec<AcceptorProcess>,
    pub(crate) proposers: Vec<ProposerProcess>,
    pub(crate) learners: Vec<LearnerProcess>,
    pub(crate) clients: Clients,
    pub(crate) invariants: Invariants,
    pub(crate) statistics: Statistics,
    pub(crate) tampering: Tampering,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, transcript: &'a mut Transcript) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut knobs = Knobs::draw(&mut rng);
        let trims = trims::draw(seed, &knobs, bug);
        let changes = changes::draw(seed, bug, &mut knobs);
        Self {
            trims,
            changes,
            ..Self::with(rng, knobs, bug, transcript)
        }
    }

    /// A cluster with the given knobs.
    pub(crate) fn with(rng: StdRng, knobs: Knobs, bug: Option<Bug>, transcript: &'a mut Transcript) -> Self {
        let quorums = knobs.quorums;
        let members = (0..quorums.acceptors()).map(|acceptor| {
            let address: Arc<str> = Arc::from(format!("acceptor {acceptor}"));
            (uuid(acceptor), address)
        });
        let configuration =
            Configuration::new(members, quorums.phase1(), quorums.phase2()).expect("distinct, and safe");
        Self {
            now: 0,
            order: 0,
            heap: BinaryHeap::new(),
            trace: DefaultHasher::new(),
            transcript,
            rng,
            trims: None,
            changes: None,
            healed_at: None,
            timeouts_for_log: 0,
            invariants: Invariants::new(&configuration, knobs.learners),
            electorate: configuration.electorate(),
            configuration,
            network: Network::new(knobs.network.clone()),
            streams: Streams::default(),
            log: Log::default(),
            script: Vec::new(),
            acceptors: Vec::new(),
            proposers: Vec::new(),
            learners: Vec::new(),
            clients: Clients::default(),
            statistics: Statistics::default(),
            tampering: Tampering::with(bug),
            knobs,
        }
    }

    pub(crate) fn run(mut self) -> Run {
        self.start();
        self.plan(0, Happening::FaultDue);
        self.plan(self.knobs.faults_until, Happening::Healed);
        while let Some(Reverse(next)) = self.heap.pop() {
            self.now = next.at;
            if let Some(healed_at) = self.healed_at {
                let made = self
                    .invariants
                    .progress
                    .is_made(&self.invariants.chosen, &self.invariants.learners);
                self.statistics.healed_in = self.now - healed_at;
                if made && self.has_switched() {
                    break;
                }
                let timeouts = Time::from(LEADER_TIMEOUTS_MAX) + self.timeouts_for_log;
                let patience = micros(LEADER_TIMEOUT) * timeouts;
                assert!(self.now < healed_at + patience, "{}", self.what_is_stuck());
            }
            if let Some(until) = next.happening.node().and_then(|node| self.paused_until(node)) {
                self.plan(until, next.happening);
                continue;
            }
            (self.now, &next.happening).hash(&mut self.trace);
            self.happen(next.happening);
        }
        if self.changes.is_some() {
            self.compare_states();
        }
        self.statistics
            .add(Counted::SlotsChosen, self.invariants.chosen.count());
        self.statistics
            .add(Counted::NoopsChosen, self.invariants.chosen.noops());
        self.statistics
            .add(Counted::RetriesSkipped, self.invariants.retries.duplicates());
        self.statistics
            .add(Counted::RetriesLate, self.invariants.retries.late());
        self.statistics
            .add(Counted::ForeignCommands, self.invariants.retries.foreign());
        Run {
            trace: self.trace.finish(),
            statistics: self.statistics,
        }
    }

    pub(crate) fn start(&mut self) {
        for acceptor in 0..self.knobs.quorums.acceptors() {
            let promised = if acceptor == 0 {
                self.knobs.driven_up_to
            } else {
                Ballot::ZERO
            };
            let process = AcceptorProcess::formed(uuid(acceptor), &self.configuration, promised);
            self.acceptors.push(process);
        }
        for _ in 0..self.knobs.proposers {
            self.proposers.push(ProposerProcess::default());
        }
        for _ in 0..self.knobs.learners {
            self.learners.push(LearnerProcess::new(self.knobs.quorums));
        }
        for acceptor in 0..self.acceptors.len() {
            self.start_acceptor(acceptor);
        }
        for proposer in 0..self.proposers.len() {
            self.start_proposer(proposer);
        }
        for learner in 0..self.learners.len() {
            self.start_learner(learner);
        }
        for learner in 0..self.learners.len() {
            self.plan_within(self.knobs.read_every, Happening::ReadDue { learner });
        }
        for client in 0..self.knobs.clients {
            self.plan(self.now, Happening::ClientDue { client });
        }
        self.start_trims();
        self.start_operator();
    }

    /// Takes the happenings before `end`.
    pub(crate) fn run_until(&mut self, end: Time) {
        while let Some(Reverse(next)) = self.heap.pop() {
            self.now = next.at;
            if self.now >= end {
                return;
            }
            match next.happening.node().and_then(|node| self.paused_until(node)) {
                Some(until) => self.plan(until, next.happening),
                None => self.happen(next.happening),
            }
        }
    }

    /// Plans a happening.
    pub(crate) fn plan(&mut self, at: Time, happening: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Planned {
            at: at.max(self.now),
            order: self.order,
            happening,
        }));
    }

    /// Plans a happening within the next `within` microseconds.
    pub(crate) fn plan_within(&mut self, within: Time, happening: Happening) {
        let at = self.now + self.rng.random_range(0..=within);
        self.plan(at, happening);
    }

    /// Adds a line to the transcript.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        self.transcript.line(self.now, line);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver {
                from,
                to,
                message,
                stamp,
            } => self.deliver(from, to, message, stamp),
            Happening::Committed { acceptor, run } => self.acceptor_committed(acceptor, run),
            Happening::PageDue {
                acceptor,
                run,
                to,
                ballot,
                from,
                scan,
                first,
            } => self.send_page(acceptor, run, to, ballot, (from, scan), first),
            Happening::FrameDue {
                acceptor,
                run,
                learner,
                kind,
                from,
            } => self.send_frame(acceptor, run, learner, kind, from),
            Happening::ReportDue { proposer, run } => self.report_due(proposer, run),
            Happening::LookDue { acceptor, run } => self.look_due(acceptor, run),
            Happening::Dial {
                proposer,
                run,
                acceptor,
                ballot,
            } => self.dial((proposer, run), acceptor, ballot),
            Happening::OnStream {
                stream,
                to,
                message,
                stamp,
            } => self.on_stream(stream, to, message, stamp),
            Happening::Chunk { stream, .. } => self.chunk(stream),
            Happening::AliveDue { stream, .. } => self.alive_due(stream),
            Happening::StreamEnds { stream, node } => self.stream_ends(stream, node),
            Happening::AskAgain {
                proposer,
                run,
                acceptor,
                call,
            } => self.ask_again(proposer, run, acceptor, call),
            Happening::InquiryArrives(inquiry) => self.inquiry_arrives(inquiry),
            Happening::InquiryRead(inquiry) => self.inquiry_read(inquiry),
            Happening::InquiryAnswered(inquiry, answer) => self.inquiry_answered(inquiry, answer),
            Happening::Scripted(step) => self.scripted(step),
            Happening::BeatOn { proposer, run } => self.beat_on(proposer, run),
            Happening::Introduced {
                acceptor,
                proposer,
                run,
                runs,
                remembers,
            } => self.introduced((acceptor, proposer), run, runs, remembers),
            Happening::OthersAwaited {
                proposer,
                run,
                question,
            } => self.others_awaited(proposer, run, question),
            Happening::CommitFailed { acceptor, run } => self.commit_failed(acceptor, run),
            Happening::DamageFound { acceptor, run } => self.damage_found(acceptor, run),
            Happening::LinkOpened { acceptor, proposer } => self.link_opened(acceptor, proposer),
            Happening::LinkClosed { acceptor, proposer } => self.link_closed(acceptor, proposer),
            Happening::Fired {
                proposer,
                run,
                timer,
                generation,
            } => self.fired(proposer, run, timer, generation),
            Happening::FlushDue { proposer, run } => self.flush_due(proposer, run),
            Happening::StopOverdue { proposer, run } => self.stop_overdue(proposer, run),
            Happening::Stored { learner, run, count } => self.learner_stored(learner, run, count),
            Happening::StallCheck { learner, run } => self.stall_check(learner, run),
            Happening::ReadDue { learner } => self.read_due(learner),
            Happening::ReadLimit {
                learner,
                run,
                generation,
            } => self.read_limit(learner, run, generation),
            Happening::ReadAbandoned { learner, run, read } => self.read_abandoned(learner, run, read),
            Happening::ClientDue { client } => self.client_due(client),
            Happening::ClientTimeout { request } => self.client_timeout(request),
            Happening::SnapshotDue { acceptor } => self.snapshot_due(acceptor),
            Happening::UploadEnds { acceptor, run } => self.upload_ends(acceptor, run),
            Happening::TrimDue { acceptor, run } => self.trim_due(acceptor, run),
            Happening::FaultDue => self.fault_due(),
            Happening::Restart(node) => self.restart(node),
            Happening::Healed => self.heal(),
            Happening::FormOverdue {
                acceptor,
                proposer,
                run,
                number,
            } => self.form_overdue((acceptor, proposer), run, number),
            Happening::OperatorDue => self.operator_due(),
            Happening::FaultOfChange { proposer } => self.fault_of_change(proposer),
            Happening::SnapshotBrought {
                proposer,
                run,
                joiner,
            } => self.snapshot_brought(proposer, run, joiner),
        }
    }

    fn deliver(&mut self, from: Node, to: Node, message: Message, stamp: Option<(RunNumber, CommitCounter)>) {
        let opens_link = matches!(message, Message::Form(..) | Message::Formed(_));
        if self.is_of_earlier_run(from, stamp) || (!opens_link && self.is_of_another_life(from, to, stamp)) {
            return;
        }
        self.note(|| format!("{from:?} → {to:?}: {message:?}"));
        let message = match (from, to, message) {
            // Such answers also come from acceptors not introduced yet.
            (Node::Acceptor(other), Node::Proposer(proposer), Message::Recalled(question, remembers)) => {
                return self.recalled(proposer, other, question, remembers);
            }
            (Node::Acceptor(acceptor), Node::Proposer(proposer), Message::Formed(formed)) => {
                return self.formed(acceptor, proposer, formed);
            }
            (_, _, message) => message,
        };
        if let (Node::Acceptor(acceptor), Node::Proposer(proposer), Some((run, commit_counter))) =
            (from, to, stamp)
        {
            self.tampering
                .tamper_with_hearing(proposer, acceptor, run, commit_counter);
            // A driver drops messages from runs other than the introduced run.
            if self.proposers[proposer].introduced.get(&acceptor) != Some(&run) {
                return;
            }
            self.heard(proposer, acceptor, run, commit_counter);
        }
        match to {
            Node::Acceptor(acceptor) => self.acceptor_receives(acceptor, from, message),
            Node::Proposer(proposer) => self.proposer_receives(proposer, from, message),
            Node::Learner(learner) => {
                let Some(stamp) = stamp else {
                    panic!("acceptors stamp what they send to learners: {message:?}")
                };
                self.learner_receives(learner, from, message, stamp);
            }
            Node::Clients => self.client_receives(&message),
        }
    }

    /// The faults stop: every process restarts, every connection is open, and no more messages are lost.
    fn heal(&mut self) {
        self.note(|| "the faults stop".to_owned());
        self.healed_at = Some(self.now);
        self.timeouts_for_log = self.invariants.chosen.count() / SLOTS_PER_TIMEOUT;
        self.network.knobs = NetworkKnobs::CALM;
        self.network.cuts.clear();
        self.mend_disks();
        self.correct_lists();
        self.end_faults();
        self.expect_reads();
        self.invariants.progress.healed();
    }

    fn what_is_stuck(&self) -> String {
        let phases: Vec<String> = self.proposers.iter().map(ProposerProcess::describe).collect();
        let acceptors: Vec<String> = self.acceptors.iter().map(AcceptorProcess::describe).collect();
        let learners: Vec<String> = self.learners.iter().map(LearnerProcess::describe).collect();
        format!(
            "no progress {} leader timeouts after the faults stopped; chosen to {}; proposers \
             {phases:#?}; acceptors {acceptors:#?}; learners {learners:?}",
            Time::from(LEADER_TIMEOUTS_MAX) + self.timeouts_for_log,
            self.invariants.chosen.prefix()
        )
    }
}

/// The name of an acceptor.
pub(crate) fn uuid(acceptor: usize) -> AcceptorUuid {
    AcceptorUuid::from_u128(acceptor as u128 + 1)
}

/// A duration of the cores, on the simulated clock.
pub(crate) fn micros(duration: std::time::Duration) -> Time {
    Time::try_from(duration.as_micros()).expect("simulated durations are short")
}
