//! Simulated proposer processes: the core, its timers, and the driver's handling of effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    identity::RunNumber,
    message::Prepare,
    proposer::{Event, Pending, Phase, Proposer, RequestId, Scan, Settings, Timer},
    slot::Slot,
    value::Value,
};
use rand::RngExt as _;

use super::{
    calls::Caller,
    clock::Clock,
    introductions::Introductions,
    invariants::watermarks_are_true::Watermarks,
    knobs::MILLISECOND,
    log::Happened,
    network::{Message, Node},
    statistics::Counted,
    streams::Keeper,
    world::{Happening, Time, World, micros, uuid},
};

/// Longest time for a stopping leader to finish the commands in flight. Then the process stops.
const STOP_MAX: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct ProposerProcess {
    /// `None` while the process is down.
    pub(crate) core: Option<Proposer>,
    pub(crate) run: u64,
    flush_planned: bool,
    /// Acceptors with an open link. Messages from other acceptors do not count.
    pub(crate) open: BTreeSet<usize>,
    /// The driver's state of the introductions of acceptors.
    pub(crate) introductions: Introductions,
    /// Latest shown run of each acceptor. Messages of other runs do not count.
    pub(crate) introduced: BTreeMap<usize, RunNumber>,
    /// Number of the last report, and the sending times of reports that may still be answered.
    pub(crate) reports: u64,
    pub(crate) sent: BTreeMap<u64, Duration>,
    /// Streams kept open by the driver.
    pub(crate) keepers: BTreeMap<(Ballot, usize), Keeper>,
    /// Calls under way: the promises collected by the driver.
    pub(crate) asking: BTreeMap<(usize, Option<u64>), (Prepare, Option<Scan>)>,
    /// Broken calls, about to be repeated.
    pub(crate) asking_again: BTreeSet<(usize, Option<u64>)>,
    pub(crate) clock: Clock,
    /// Start of the present pause.
    pub(crate) stopped_at: Option<Time>,
    /// Callers, with their commands, by request.
    pub(crate) requests: BTreeMap<RequestId, Caller>,
    pub(crate) paused_until: Time,
}

/// A phase, to detect a change of phase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    StandingBy,
    Campaigning(Ballot),
    Leading(Ballot),
}

impl ProposerProcess {
    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn describe(&self) -> String {
        self.core.as_ref().map_or_else(
            || "down".to_owned(),
            |core| match core.phase() {
                Phase::Standby => format!(
                    "standing by; leader {:?}; queued {:?}",
                    core.leader(),
                    core.queued()
                ),
                Phase::Campaigning(campaign) => format!("{campaign:?}"),
                Phase::Leading(lead) => format!("{lead:?}"),
            },
        )
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.doing(), Doing::Leading(_))
    }

    pub(crate) fn ballot(&self) -> Option<Ballot> {
        match self.doing() {
            Doing::StandingBy => None,
            Doing::Campaigning(ballot) | Doing::Leading(ballot) => Some(ballot),
        }
    }

    fn doing(&self) -> Doing {
        match self.core.as_ref().map(Proposer::phase) {
            Some(Phase::Campaigning(campaign)) => Doing::Campaigning(campaign.ballot()),
            Some(Phase::Leading(lead)) => Doing::Leading(lead.ballot()),
            Some(Phase::Standby) | None => Doing::StandingBy,
        }
    }
}

impl World<'_> {
    pub(crate) fn start_proposer(&mut self, proposer: usize) {
        let id = ProposerId::from_random(self.rng.random());
        let id = self.tamper_with_id(proposer, id);
        let clock = self.rng.random_range(80..=125);
        self.invariants.takeovers.started(proposer);
        let process = &mut self.proposers[proposer];
        process.run += 1;
        process.clock = Clock::started(self.now, clock);
        process.flush_planned = false;
        process.open.clear();
        process.introductions = Introductions::default();
        process.introduced.clear();
        process.sent.clear();
        process.keepers.clear();
        process.asking.clear();
        process.asking_again.clear();
        process.stopped_at = None;
        let configuration = self.found_configuration();
        let process = &mut self.proposers[proposer];
        process.core = Some(Proposer::new(
            id,
            Arc::from(format!("proposer {proposer}")),
            configuration,
            Settings {
                leader_timeout: self.knobs.leader_timeout,
                limits: self.knobs.limits.clone(),
            },
        ));
        self.note(|| format!("proposer {proposer} starts as {id}"));
        let run = self.proposers[proposer].run;
        for acceptor in 0..self.acceptors.len() {
            self.plan_within(20_000, Happening::LinkOpened { acceptor, proposer });
        }
        self.plan_within(
            micros(self.knobs.leader_timeout) / 4,
            Happening::ReportDue { proposer, run },
        );
    }

    pub(crate) fn crash_proposer(&mut self, proposer: usize) {
        self.statistics.count(Counted::ProposersCrashed);
        self.stop_proposer(proposer);
    }

    pub(crate) fn stop_proposer(&mut self, proposer: usize) {
        let process = &mut self.proposers[proposer];
        process.core = None;
        process.requests.clear();
        process.keepers.clear();
        self.streams_of_dead(Node::Proposer(proposer));
        self.note(|| format!("proposer {proposer} is gone"));
    }

    /// A proposer is asked to stop, and hands over.
    pub(crate) fn resign_proposer(&mut self, proposer: usize) {
        self.note(|| format!("proposer {proposer} is asked to stop"));
        if self.proposers[proposer].is_up() {
            let run = self.proposers[proposer].run;
            let overdue = self.now + micros(STOP_MAX);
            self.plan(overdue, Happening::StopOverdue { proposer, run });
        }
        self.handle(proposer, Event::Resigned);
    }

    /// A proposer was asked to stop, and the commands in flight are not finished: the driver stops anyway.
    pub(crate) fn stop_overdue(&mut self, proposer: usize, run: u64) {
        if self.proposers[proposer].run == run && self.proposers[proposer].is_up() {
            self.stop_proposer(proposer);
            let back = self.now + self.rng.random_range(0..=500) * MILLISECOND;
            self.plan(back, Happening::Restart(Node::Proposer(proposer)));
        }
    }

    pub(crate) fn fired(&mut self, proposer: usize, run: u64, timer: Timer, generation: u64) {
        if self.proposers[proposer].run == run {
            for event in self.tamper_with_hearsay(proposer) {
                self.handle(proposer, event);
            }
            self.handle(proposer, Event::Fired(timer, generation));
        }
    }

    pub(crate) fn proposer_receives(&mut self, proposer: usize, from: Node, message: Message) {
        let acceptor = match from {
            Node::Acceptor(acceptor) => acceptor,
            Node::Proposer(_) | Node::Learner(_) | Node::Clients => usize::MAX,
        };
        if self.is_of_earlier_link(proposer, &message) {
            return;
        }
        let event = match message {
            Message::Page(ballot, scan, page, remembers) => {
                if page.last || scan.is_some_and(|scan| page.next >= scan.to) {
                    self.call_ended(proposer, acceptor, ballot, scan);
                }
                if acceptor != usize::MAX {
                    let acceptor = uuid(acceptor);
                    self.handle(proposer, Event::Remembered { acceptor, remembers });
                }
                let process = &self.proposers[proposer];
                let counts = process.open.contains(&acceptor) && self.acceptors[acceptor].counts_at(ballot);
                if counts && process.doing() == Doing::Campaigning(ballot) {
                    self.invariants.takeovers.page(ballot, acceptor, &page);
                }
                Event::Promised {
                    acceptor: uuid(acceptor),
                    ballot,
                    scan,
                    page,
                }
            }
            Message::PrepareRefused(promised) => {
                self.proposers[proposer].asking.remove(&(acceptor, None));
                Event::PrepareRefused {
                    acceptor: uuid(acceptor),
                    promised,
                }
            }
            Message::PrepareRejected(ballot, promised) => {
                self.call_ended(proposer, acceptor, ballot, None);
                Event::PrepareRejected {
                    acceptor: uuid(acceptor),
                    ballot,
                    promised,
                }
            }
            Message::Answer(ballot, sequence, answer) => Event::Answered {
                acceptor: uuid(acceptor),
                ballot,
                sequence,
                answer,
            },
            Message::Alive {
                ballot,
                silent,
                waiting,
                has_space,
            } => Event::Alive {
                acceptor: uuid(acceptor),
                ballot,
                silent,
                waiting,
                has_space,
            },
            Message::Said(number, word) => {
                let Some(&sent) = self.proposers[proposer].sent.get(&number) else {
                    return;
                };
                Event::Reported {
                    acceptor: uuid(acceptor),
                    sent,
                    answer: word,
                }
            }
            Message::Propose {
                request,
                command,
                forwarded,
            } => {
                let request = RequestId(request);
                let process = &mut self.proposers[proposer];
                if process.core.is_none() {
                    return;
                }
                let number = u64::from_le_bytes(command.as_bytes()[..].try_into().expect("eight bytes"));
                let caller = Caller {
                    node: from,
                    command: number,
                    answered: false,
                    cancelled: false,
                };
                process.requests.insert(request, caller);
                let mut pending = Pending::new(request, command);
                pending.forwarded = forwarded;
                Event::Proposed(pending)
            }
            Message::Cancel { request } => {
                let request = RequestId(request);
                let caller = self.proposers[proposer].requests.get_mut(&request);
                let Some(caller) = caller.filter(|caller| !caller.answered) else {
                    return;
                };
                caller.cancelled = true;
                self.statistics.count(Counted::ClientsCancelled);
                Event::Cancelled(request)
            }
            // The answer to a forwarded command.
            Message::Outcome { request, outcome } => {
                self.forward_answered(proposer, RequestId(request), outcome);
                return;
            }
            Message::Fill(to) => Event::FillWanted(to),
            Message::Fetched(number, from, values) => Event::Fetched { number, from, values },
            Message::Prepare(..)
            | Message::Accept(..)
            | Message::FetchChosen(..)
            | Message::Ask(_)
            | Message::Recall(_)
            | Message::Recalled(..)
            | Message::Opened
            | Message::Observe(..)
            | Message::Votes(_)
            | Message::Rows(..)
            | Message::Tail(_)
            | Message::Tailed(..)
            | Message::Form(..)
            | Message::Formed(_) => panic!("not for a proposer: {message:?}"),
        };
        self.handle(proposer, event);
    }

    /// Hands an event to the core, and carries out the effects.
    pub(crate) fn handle(&mut self, proposer: usize, event: Event) {
        self.note_known(proposer, &event);
        self.tamper_with_force(proposer, &event);
        let mut event = self.tamper_with_event(proposer, event);
        self.tamper_with_eras(&mut event);
        self.drive(proposer, |core| core.handle(event));
    }

    /// A leader proposes a change of members at once.
    pub(crate) fn propose_change(&mut self, proposer: usize, change: Value) {
        self.drive(proposer, |core| core.propose_change(change));
    }

    /// Sets the clock of the core, has the core act, and carries out the effects.
    fn drive(&mut self, proposer: usize, act: impl FnOnce(&mut Proposer)) {
        let process = &mut self.proposers[proposer];
        let before = process.doing();
        let Some(core) = &mut process.core else { return };
        let now = process.clock.read(self.now);
        core.at(now);
        if let Some(stopped_at) = process.stopped_at.take() {
            let lasted = now.saturating_sub(process.clock.read(stopped_at));
            if lasted > self.knobs.leader_timeout / 4 {
                core.stood_still(lasted);
            }
        }
        act(core);
        let effects = core.take_effects();
        self.phase_changed(proposer, before);
        self.perform(proposer, effects);
        if self.knobs.flush_at_once {
            self.flush(proposer);
        } else if !self.proposers[proposer].flush_planned {
            self.proposers[proposer].flush_planned = true;
            let run = self.proposers[proposer].run;
            self.plan_within(MILLISECOND, Happening::FlushDue { proposer, run });
        }
    }

    pub(crate) fn flush_due(&mut self, proposer: usize, run: u64) {
        if self.proposers[proposer].run == run {
            self.proposers[proposer].flush_planned = false;
            self.flush(proposer);
        }
    }

    fn flush(&mut self, proposer: usize) {
        let process = &mut self.proposers[proposer];
        let before = process.doing();
        let Some(core) = &mut process.core else { return };
        core.at(process.clock.read(self.now));
        core.flush();
        let effects = core.take_effects();
        self.phase_changed(proposer, before);
        self.perform(proposer, effects);
    }

    fn phase_changed(&mut self, proposer: usize, before: Doing) {
        let process = &self.proposers[proposer];
        let after = process.doing();
        let mut chosen_to = Slot::ZERO;
        if let Some(Phase::Leading(lead)) = process.core.as_ref().map(Proposer::phase) {
            chosen_to = lead.chosen_to();
            Watermarks::claimed(&self.invariants.chosen, "a leader", chosen_to);
            let era = lead.ballot().era();
            self.invariants.eras.claimed("a leader", era, chosen_to);
        }
        if after == before {
            return;
        }
        match after {
            Doing::Campaigning(ballot) => {
                self.invariants.ballots.campaign(ballot);
                self.invariants.takeovers.begins(proposer, ballot);
                self.statistics.count(Counted::Campaigns);
                self.note(|| format!("proposer {proposer} campaigns at {ballot}"));
            }
            Doing::Leading(ballot) => {
                let (taken_over, empty) =
                    self.invariants
                        .takeovers
                        .won(&self.invariants.eras, ballot, chosen_to);
                self.invariants.eras.leads(ballot.era());
                self.statistics.count(Counted::Reigns);
                self.statistics.add(Counted::SlotsTakenOver, taken_over);
                self.statistics.add(Counted::SlotsTakenOverEmpty, empty);
                self.happened(Happened::Leads(proposer));
                self.note(|| format!("proposer {proposer} leads at {ballot}, takes over {taken_over} slots"));
            }
            Doing::StandingBy => {
                let what = match before {
                    Doing::Campaigning(_) => Counted::CampaignsGivenUp,
                    Doing::Leading(_) | Doing::StandingBy => Counted::StepsDown,
                };
                self.statistics.count(what);
                self.proposers[proposer].asking.clear();
                self.note(|| format!("proposer {proposer} stands by"));
                self.tamper_with_end(proposer);
            }
        }
    }
}
