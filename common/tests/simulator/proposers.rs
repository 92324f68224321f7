//! Simulated proposer processes: the core, its timers, and what a driver does with its effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    proposer::{Effect, Event, Pending, Phase, Proposer, RequestId, Settings, Timer},
    slot::Slot,
    witness::{Run, Witnesses},
};
use rand::RngExt as _;

use super::{
    acceptors::Lost,
    calls::Caller,
    invariants::{commands, watermarks_are_true::Watermarks},
    knobs::{LEADER_TIMEOUT, MILLISECOND},
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, Time, World, micros, uuid},
};

/// How long a proposer that is asked to stop may take, while it runs: a leader that cannot finish steps down when its
/// oldest slot stays unchosen for four leader timeouts.
const STOP_MAX: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(crate) struct ProposerProcess {
    /// `None` while the process is down.
    pub(crate) core: Option<Proposer>,
    pub(crate) run: u64,
    flush_planned: bool,
    /// Acceptors that it has an open link to; what comes in from others does not count.
    open: BTreeSet<usize>,
    /// Acceptors that are about to show who they are.
    opening: BTreeSet<usize>,
    /// When each acceptor last reported.
    reported: BTreeMap<usize, Time>,
    /// How fast its clock runs, in percent.
    pub(crate) clock: Time,
    /// Who asked for what, until it is answered.
    pub(crate) requests: BTreeMap<RequestId, Caller>,
    pub(crate) paused_until: Time,
}

/// A phase, for telling when it changes.
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
        process.clock = clock;
        process.flush_planned = false;
        process.open.clear();
        process.opening.clear();
        process.reported.clear();
        process.core = Some(Proposer::new(
            id,
            Arc::from(format!("proposer {proposer}")),
            self.electorate.clone(),
            Settings {
                leader_timeout: LEADER_TIMEOUT,
                limits: self.knobs.limits.clone(),
            },
        ));
        self.note(|| format!("proposer {proposer} starts as {id}"));
        for acceptor in 0..self.acceptors.len() {
            self.plan_within(20_000, Happening::LinkOpened { acceptor, proposer });
        }
    }

    pub(crate) fn crash_proposer(&mut self, proposer: usize) {
        self.statistics.count(Counted::ProposersCrashed);
        self.stop_proposer(proposer);
    }

    fn stop_proposer(&mut self, proposer: usize) {
        let process = &mut self.proposers[proposer];
        process.core = None;
        process.requests.clear();
        self.note(|| format!("proposer {proposer} is gone"));
    }

    /// It is asked to stop, and hands over.
    pub(crate) fn resign_proposer(&mut self, proposer: usize) {
        self.note(|| format!("proposer {proposer} is asked to stop"));
        if self.proposers[proposer].is_up() {
            let run = self.proposers[proposer].run;
            let overdue = self.now + micros(STOP_MAX);
            self.plan(overdue, Happening::StopOverdue { proposer, run });
        }
        self.tell(proposer, Event::Resigned);
    }

    /// Long after it was asked to stop.
    pub(crate) fn stop_overdue(&self, proposer: usize, run: u64) {
        let process = &self.proposers[proposer];
        assert!(
            process.run != run || process.core.is_none(),
            "proposer {proposer} was asked to stop and never handed over: {}",
            process.describe()
        );
    }

    pub(crate) fn link_opened(&mut self, acceptor: usize, proposer: usize) {
        let blank = self.is_blank(acceptor);
        let Some((runs, remembers)) = self.introduction(acceptor).filter(|_| !blank) else {
            return;
        };
        let process = &mut self.proposers[proposer];
        // One attempt after the other; what an acceptor shows may be old when it arrives.
        if process.core.is_some() && process.opening.insert(acceptor) {
            let shown = Happening::Introduced {
                acceptor,
                proposer,
                run: process.run,
                runs,
                remembers,
            };
            self.plan_within(50 * MILLISECOND, shown);
        }
    }

    pub(crate) fn introduced(
        &mut self,
        (acceptor, proposer): (usize, usize),
        run: u64,
        runs: Vec<Run>,
        remembers: Witnesses,
    ) {
        let process = &mut self.proposers[proposer];
        if process.run != run || process.core.is_none() {
            return;
        }
        process.opening.remove(&acceptor);
        if !self.acceptors[acceptor].is_up() {
            return;
        }
        process.open.insert(acceptor);
        self.acceptors[acceptor].linked.insert(proposer);
        self.note(|| {
            format!(
                "acceptor {acceptor} shows proposer {proposer} its runs {runs:?}, and remembers {remembers:?}"
            )
        });
        let introduced = Event::Introduced {
            acceptor: uuid(acceptor),
            runs,
            remembers,
        };
        self.tell(proposer, introduced);
        self.tell(proposer, Event::Opened(uuid(acceptor)));
    }

    pub(crate) fn link_closed(&mut self, acceptor: usize, proposer: usize) {
        self.proposers[proposer].open.remove(&acceptor);
        self.tell(proposer, Event::Closed(uuid(acceptor)));
        // A link that breaks is opened again, as often as it takes.
        self.plan_within(100_000, Happening::LinkOpened { acceptor, proposer });
    }

    pub(crate) fn fired(&mut self, proposer: usize, run: u64, timer: Timer, generation: u64) {
        if self.proposers[proposer].run == run {
            self.tell(proposer, Event::Fired(timer, generation));
        }
    }

    pub(crate) fn proposer_receives(&mut self, proposer: usize, from: Node, message: Message) {
        let acceptor = match from {
            Node::Acceptor(acceptor) => acceptor,
            Node::Proposer(_) | Node::Learner(_) | Node::Clients => usize::MAX,
        };
        let event = match message {
            Message::Page(ballot, scan, page, remembers) => {
                if acceptor != usize::MAX {
                    let acceptor = uuid(acceptor);
                    self.tell(proposer, Event::Remembered { acceptor, remembers });
                }
                let process = &self.proposers[proposer];
                let counts =
                    process.open.contains(&acceptor) && self.acceptors[acceptor].lost != Some(Lost::WentBack);
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
            Message::PrepareRefused(promised) => Event::PrepareRefused {
                acceptor: uuid(acceptor),
                promised,
            },
            Message::PrepareRejected(ballot, promised) => Event::PrepareRejected { ballot, promised },
            Message::Answer(ballot, sequence, answer) => Event::Answered {
                acceptor: uuid(acceptor),
                ballot,
                sequence,
                answer,
            },
            Message::Report(leadership, silent, chosen_to) => {
                self.expect_next_report(proposer, acceptor);
                Event::Reported {
                    acceptor: uuid(acceptor),
                    leadership,
                    silent,
                    chosen_to,
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
            // The answer to what this proposer forwarded.
            Message::Outcome { request, outcome } => {
                self.forward_answered(proposer, RequestId(request), outcome);
                return;
            }
            Message::Fill(to) => Event::FillWanted(to),
            Message::Fetched(number, from, values) => Event::Fetched { number, from, values },
            Message::Prepare(..)
            | Message::Accept(..)
            | Message::FetchChosen(..)
            | Message::Observe(..)
            | Message::Votes(_)
            | Message::Rows(..)
            | Message::Tail(_)
            | Message::Tailed(..) => panic!("not for a proposer: {message:?}"),
        };
        self.tell(proposer, event);
    }

    fn expect_next_report(&mut self, proposer: usize, acceptor: usize) {
        let since = self.now;
        let process = &mut self.proposers[proposer];
        process.reported.insert(acceptor, since);
        let overdue = Happening::ReportOverdue {
            acceptor,
            proposer,
            run: process.run,
            since,
        };
        self.plan(self.now + 2 * micros(LEADER_TIMEOUT), overdue);
    }

    /// No report has come since: what the acceptor said has grown old.
    pub(crate) fn report_overdue(&mut self, acceptor: usize, proposer: usize, run: u64, since: Time) {
        let process = &self.proposers[proposer];
        if process.run == run && process.reported.get(&acceptor) == Some(&since) {
            self.statistics.count(Counted::ReportsOverdue);
            self.tell(proposer, Event::Unheard(uuid(acceptor)));
        }
    }

    /// Hands an event to the core and does what it wants done.
    pub(crate) fn tell(&mut self, proposer: usize, event: Event) {
        self.note_known(proposer, &event);
        let event = self.tamper_with_event(proposer, event);
        let process = &mut self.proposers[proposer];
        let before = process.doing();
        let Some(core) = &mut process.core else { return };
        core.handle(event);
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
        }
        if after == before {
            return;
        }
        match after {
            Doing::Campaigning(ballot) => {
                self.invariants.ballots.campaign(ballot);
                self.statistics.count(Counted::Campaigns);
                self.note(|| format!("proposer {proposer} campaigns at {ballot}"));
            }
            Doing::Leading(ballot) => {
                let (taken_over, empty) = self.invariants.takeovers.won(ballot, chosen_to);
                self.statistics.count(Counted::Reigns);
                self.statistics.add(Counted::SlotsTakenOver, taken_over);
                self.statistics.add(Counted::SlotsTakenOverEmpty, empty);
                self.note(|| format!("proposer {proposer} leads at {ballot}, takes over {taken_over} slots"));
            }
            Doing::StandingBy => {
                let what = match before {
                    Doing::Campaigning(_) => Counted::CampaignsGivenUp,
                    Doing::Leading(_) | Doing::StandingBy => Counted::StepsDown,
                };
                self.statistics.count(what);
                self.note(|| format!("proposer {proposer} stands by"));
                self.tamper_with_end(proposer);
            }
        }
    }

    fn perform(&mut self, proposer: usize, effects: Vec<Effect>) {
        let this = Node::Proposer(proposer);
        for mut effect in effects {
            self.tamper_with_effect(proposer, &mut effect);
            match effect {
                Effect::Prepare(acceptor, prepare, scan) => {
                    if prepare.from == Slot::MAX {
                        // A step on the way to a higher ballot: its answer does not count.
                        self.statistics.count(Counted::ClimbingSteps);
                    } else {
                        if scan.is_none() {
                            let takeovers = &mut self.invariants.takeovers;
                            takeovers.campaign(proposer, prepare.ballot, prepare.from);
                        } else {
                            self.statistics.count(Counted::RepairScans);
                        }
                        Watermarks::claimed(&self.invariants.chosen, "a candidate", prepare.from);
                    }
                    let to = Node::Acceptor(self.place(acceptor));
                    self.send(this, to, Message::Prepare(prepare, scan));
                }
                Effect::FetchChosen {
                    source,
                    number,
                    from,
                    to,
                } => {
                    self.statistics.count(Counted::RepairFetches);
                    let source = Node::Acceptor(self.place(source));
                    self.send(this, source, Message::FetchChosen(number, from, to));
                }
                Effect::Halt(reason) => panic!("proposer {proposer} halts: {reason}"),
                Effect::Reopen(acceptor) => {
                    self.statistics.count(Counted::LinksReopened);
                    let acceptor = self.place(acceptor);
                    self.plan(self.now, Happening::LinkClosed { acceptor, proposer });
                }
                Effect::Refused(went_back) => self.refused("a proposer", went_back),
                Effect::Readmitted(_) => {}
                Effect::Accept(acceptor, accept) => {
                    Watermarks::claimed(&self.invariants.chosen, "a leader", accept.chosen_to);
                    for (slot, value) in &accept.proposals {
                        self.invariants.proposed(accept.ballot, *slot, value);
                        if self.invariants.takeovers.is_repair(accept.ballot, *slot) {
                            self.statistics.count(Counted::SlotsRepaired);
                        }
                        if commands(value).nth(1).is_some() {
                            self.statistics.count(Counted::BatchesOfMany);
                        }
                    }
                    let to = Node::Acceptor(self.place(acceptor));
                    let core = self.proposers[proposer].core.as_ref();
                    let mut witnesses = core.map(Proposer::witnesses).unwrap_or_default();
                    self.tampering.tamper_with_witnesses(proposer, &mut witnesses);
                    self.send(this, to, Message::Accept(accept, witnesses));
                }
                Effect::SetTimer {
                    timer,
                    generation,
                    at_least,
                    at_most,
                } => {
                    let process = &self.proposers[proposer];
                    let delay = self.rng.random_range(micros(at_least)..=micros(at_most));
                    let at = self.now + delay * process.clock / 100;
                    let run = process.run;
                    let fired = Happening::Fired {
                        proposer,
                        run,
                        timer,
                        generation,
                    };
                    self.plan(at, fired);
                }
                Effect::Answer(request, outcome) => self.answer_caller(proposer, request, outcome),
                Effect::Forward(pending, address) => self.forward(proposer, pending, &address),
                Effect::HandedOver => {
                    self.statistics.count(Counted::HandedOver);
                    self.stop_proposer(proposer);
                    let back = self.now + self.rng.random_range(0..=500) * MILLISECOND;
                    self.plan(back, Happening::Restart(this));
                    return;
                }
            }
        }
    }
}
