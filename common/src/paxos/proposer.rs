//! The proposer: stands by, campaigns, leads, steps down; and keeps nothing that a crash could lose.
//!
//! Events go in through [`Proposer::handle`]; what is to be done comes out of [`Proposer::take_effects`]. After a
//! run of events the driver calls [`Proposer::flush`], which forms batches of whatever waits: so commands that came
//! in together share a slot, without a timer.
//!
//! The core has no clock. Time is the firing of timers that it asked for; each carries a generation, and a timer of
//! an older generation is void. Random delays are drawn by the driver, in the range the core gives.
//!
//! Sources: *Paxos Made Simple* §2.2–2.3 and §3; *Flexible Paxos* §3.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    ballot::{Ballot, ProposerId},
    identity::AcceptorUuid,
    message::{AcceptAnswer, Leadership, Prepare, PromisePage},
    quorum::Electorate,
    slot::Slot,
    value::EncodedCommand,
    witness::{Found, Guard, Witnesses},
};

mod campaign;
mod election;
mod event;
mod lead;
mod queue;

pub use campaign::{Campaign, Takeover};
pub use event::{Effect, Event, Limits, Outcome, Reason, RequestId, Scan, Settings, Timer};
pub use lead::Lead;
pub use queue::Pending;
use queue::Queue;

/// What a proposer does about leading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits, and forwards.
    #[default]
    Standby,
    /// Collects promises.
    Campaigning(Campaign),
    /// Proposes.
    Leading(Box<Lead>),
}

/// An acceptor's latest word on who leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Report {
    leadership: Leadership,
    silent: Duration,
}

/// The state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    id: ProposerId,
    address: Arc<str>,
    electorate: Electorate,
    settings: Settings,
    phase: Phase,
    /// The highest ballot heard of or used: the next one is above it, so that none is ever used twice.
    highest: Ballot,
    /// The highest watermark heard of: what lies below needs no campaign.
    chosen_to_heard: Slot,
    reports: BTreeMap<AcceptorUuid, Report>,
    open: BTreeSet<AcceptorUuid>,
    /// Who was open since the last standby ended, and may have been counted.
    counted: BTreeSet<AcceptorUuid>,
    guard: Guard,
    queue: Queue,
    /// Campaigns and reigns that came to nothing, one after the other: each makes the next wait longer.
    failures: u32,
    election_armed: bool,
    /// Commands wait for somebody to lead, and will be given back.
    leaderless: bool,
    /// A leader that the acceptors hear from and that could not be reached, and whether that happened again since.
    unreachable: Option<(Arc<str>, bool)>,
    /// How often a leader was challenged for that, one after the other.
    vain_challenges: u32,
    stopping: bool,
    generations: BTreeMap<Timer, u64>,
    effects: Vec<Effect>,
}

impl Proposer {
    /// A standby that knows nobody yet. `id` must be drawn at random for this run of the process.
    pub fn new(id: ProposerId, address: Arc<str>, electorate: Electorate, settings: Settings) -> Self {
        Self {
            id,
            address,
            electorate,
            queue: Queue::new(
                settings.limits.queue_commands_max,
                settings.limits.queue_bytes_max,
            ),
            settings,
            phase: Phase::Standby,
            highest: Ballot::ZERO,
            chosen_to_heard: Slot::ZERO,
            reports: BTreeMap::new(),
            open: BTreeSet::new(),
            counted: BTreeSet::new(),
            guard: Guard::default(),
            failures: 0,
            election_armed: false,
            leaderless: false,
            unreachable: None,
            vain_challenges: 0,
            stopping: false,
            generations: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Introduced {
                acceptor,
                runs,
                remembers,
            } => {
                let electorate = &self.electorate;
                let of_members = remembers.iter().filter(|(other, ..)| electorate.includes(*other));
                let found = self.guard.introduce(acceptor, &runs, of_members);
                self.found_out(found);
            }
            Event::Remembered { acceptor, remembers } => {
                let electorate = &self.electorate;
                let of_members = remembers.iter().filter(|(other, ..)| electorate.includes(*other));
                let found = self.guard.remember(acceptor, of_members);
                self.found_out(found);
            }
            Event::Heard {
                acceptor,
                run,
                commit_counter,
            } => self.guard.hear(acceptor, run, commit_counter),
            Event::Opened(acceptor) => self.opened(acceptor),
            Event::Closed(acceptor) => self.closed(acceptor),
            Event::Reported {
                acceptor,
                leadership,
                silent,
                chosen_to,
            } => {
                self.reported(acceptor, Report { leadership, silent }, chosen_to);
            }
            Event::Unheard(acceptor) => self.forget_report(acceptor),
            Event::Promised {
                acceptor,
                ballot,
                scan,
                page,
            } => self.promised(acceptor, ballot, scan, page),
            Event::PrepareRejected { ballot, promised } => self.rejected(ballot, promised),
            Event::PrepareRefused { acceptor, promised } => self.climb(acceptor, promised),
            Event::Answered {
                acceptor,
                ballot,
                sequence,
                answer,
            } => {
                self.answered(acceptor, ballot, sequence, answer);
            }
            Event::Fetched { number, from, values } => {
                if let Phase::Leading(lead) = &mut self.phase {
                    lead.fetched(number, from, values, &self.settings.limits, &mut self.effects);
                }
            }
            Event::Proposed(pending) => self.proposed(pending),
            Event::Cancelled(request) => {
                let outcome = if self.queue.remove(request) {
                    Outcome::NotProposed(Reason::Cancelled)
                } else {
                    Outcome::Unknown
                };
                self.effects.push(Effect::Answer(request, outcome));
            }
            Event::FillWanted(to) => {
                if let Phase::Leading(lead) = &mut self.phase {
                    lead.fill(to);
                }
            }
            Event::Fired(timer, generation) => {
                if self.generations.get(&timer) == Some(&generation) {
                    self.fired(timer);
                }
            }
            Event::ForwardFailed => self.forward_failed(),
            Event::ForwardAnswered => self.forward_answered(),
            Event::Resigned => self.resign(),
        }
    }

    /// Forms batches of what waits and sends what can be sent. Call it after each run of events.
    pub fn flush(&mut self) {
        match &mut self.phase {
            Phase::Leading(lead) => {
                lead.fill_window(&mut self.queue, &self.settings.limits);
                lead.send(
                    &self.electorate,
                    &self.open,
                    &self.settings.limits,
                    &mut self.effects,
                );
                lead.plan_repair(
                    &self.electorate,
                    &self.open,
                    &self.settings.limits,
                    &mut self.effects,
                );
                if self.stopping && lead.is_drained() {
                    lead.say_resigned(&self.open, &mut self.effects);
                    self.stand_by();
                    self.effects.push(Effect::HandedOver);
                }
            }
            Phase::Campaigning(_) => {}
            Phase::Standby => match self.leader() {
                Some(address) => {
                    let forwards = self
                        .queue
                        .drain()
                        .map(|pending| Effect::Forward(pending, Arc::clone(&address)));
                    self.effects.extend(forwards);
                }
                None => self.await_leader(),
            },
        }
    }

    /// What is to be done, in order, since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Its own number.
    pub fn id(&self) -> ProposerId {
        self.id
    }

    /// What it does about leading.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Commands that wait for a slot, and bytes of them.
    pub fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.bytes())
    }

    /// The highest watermark it knows to hold.
    pub fn chosen_to(&self) -> Slot {
        match &self.phase {
            Phase::Leading(lead) => lead.chosen_to().max(self.chosen_to_heard),
            Phase::Standby | Phase::Campaigning(_) => self.chosen_to_heard,
        }
    }

    /// What is remembered of the acceptors, to be told to them: by a leader alone. A candidate has not read what a quorum
    /// remembers, and may take an older copy of a disk for the right one.
    pub fn witnesses(&self) -> Witnesses {
        match self.phase {
            Phase::Leading(_) => self.guard.to_pass_on(),
            Phase::Standby | Phase::Campaigning(_) => Witnesses::default(),
        }
    }

    /// Whether what an acceptor says counts: the connection to it is open, and nothing that is remembered contradicts it.
    pub fn counts(&self, acceptor: AcceptorUuid) -> bool {
        self.open.contains(&acceptor)
    }

    fn found_out(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                Found::Suspected(suspect) => {
                    // Otherwise its connection is about to open, and is opened again then.
                    let is_open = self.open.contains(&suspect);
                    self.distrust(suspect);
                    if is_open {
                        self.effects.push(Effect::Reopen(suspect));
                    }
                }
                Found::Refused(went_back) => {
                    self.distrust(went_back.acceptor);
                    self.effects.push(Effect::Refused(went_back));
                }
                Found::Readmitted(acceptor) => self.effects.push(Effect::Readmitted(acceptor)),
            }
        }
    }

    /// Stops counting an acceptor. Where it may have been counted already, this campaign or reign rests on nothing.
    fn distrust(&mut self, acceptor: AcceptorUuid) {
        if self.open.contains(&acceptor) {
            self.closed(acceptor);
        }
        if self.counted.contains(&acceptor) && !matches!(self.phase, Phase::Standby) {
            self.step_down();
        }
    }

    fn opened(&mut self, acceptor: AcceptorUuid) {
        if !self.electorate.includes(acceptor) {
            return;
        }
        if !self.guard.trusts(acceptor) {
            // It shows its runs again with the next opening: it may have shown them before it restarted, and its right
            // disk may be put back.
            self.effects.push(Effect::Reopen(acceptor));
            return;
        }
        self.open.insert(acceptor);
        self.counted.insert(acceptor);
        match &mut self.phase {
            Phase::Standby => {}
            Phase::Campaigning(campaign) => {
                let prepare = campaign.prepare(&self.address);
                self.effects.push(Effect::Prepare(acceptor, prepare, None));
            }
            Phase::Leading(lead) => lead.reopened(acceptor),
        }
    }

    fn closed(&mut self, acceptor: AcceptorUuid) {
        self.open.remove(&acceptor);
        if let Phase::Leading(lead) = &mut self.phase {
            lead.closed(acceptor);
        }
        self.forget_report(acceptor);
    }

    fn reported(&mut self, acceptor: AcceptorUuid, report: Report, chosen_to: Slot) {
        if !self.open.contains(&acceptor) {
            return;
        }
        self.highest = self.highest.max(report.leadership.promised);
        self.chosen_to_heard = self.chosen_to_heard.max(chosen_to);
        self.reports.insert(acceptor, report);
        self.consider_election();
    }

    fn fired(&mut self, timer: Timer) {
        let timeout = self.settings.leader_timeout;
        match (timer, &mut self.phase) {
            (Timer::Election, Phase::Standby) => {
                self.election_armed = false;
                if self.leader_is_silent() && !self.stopping {
                    self.campaign();
                }
            }
            (Timer::Heartbeat, Phase::Campaigning(campaign)) => {
                for &acceptor in &self.open {
                    // Long paging must not look like silence; this claims nothing.
                    self.effects
                        .push(Effect::Accept(acceptor, campaign.heartbeat(&self.address)));
                }
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
            }
            (Timer::Heartbeat, Phase::Leading(lead)) => {
                lead.heartbeat(
                    &self.electorate,
                    &self.open,
                    &self.settings.limits,
                    &mut self.effects,
                );
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
            }
            (Timer::Check, Phase::Leading(lead)) => {
                if lead.check(&self.electorate) {
                    self.failures = 0;
                    self.arm(Timer::Check, timeout, timeout);
                } else {
                    self.step_down();
                }
            }
            (Timer::GiveUp, Phase::Campaigning(campaign)) => {
                if campaign.take_progress() {
                    self.arm(Timer::GiveUp, timeout * 2, timeout * 2);
                } else {
                    self.step_down();
                }
            }
            (Timer::Unreachable, Phase::Standby) => {
                if self.is_still_unreachable() && !self.stopping {
                    self.vain_challenges += 1;
                    self.campaign();
                }
            }
            (Timer::Leaderless, Phase::Standby | Phase::Campaigning(_)) => self.give_back(),
            (Timer::Leaderless, Phase::Leading(_)) => self.leaderless = false,
            // Timers of a phase that is over.
            (
                Timer::Election | Timer::Unreachable | Timer::Heartbeat | Timer::Check | Timer::GiveUp,
                Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_),
            ) => {}
        }
    }

    fn campaign(&mut self) {
        self.counted = self.open.clone();
        self.reach();
        self.highest = self.highest.next_of(self.id);
        let campaign = Campaign::new(self.highest, self.chosen_to_heard);
        for &acceptor in &self.open {
            self.effects
                .push(Effect::Prepare(acceptor, campaign.prepare(&self.address), None));
        }
        self.phase = Phase::Campaigning(campaign);
        let timeout = self.settings.leader_timeout;
        self.arm(Timer::GiveUp, timeout * 2, timeout * 2);
        self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
    }

    fn promised(&mut self, acceptor: AcceptorUuid, ballot: Ballot, scan: Option<Scan>, page: PromisePage) {
        if !self.open.contains(&acceptor) {
            return;
        }
        if self.ballot() != Some(ballot) {
            if ballot.proposer() == self.id {
                self.climb(acceptor, ballot);
            }
            return;
        }
        let campaign = match &mut self.phase {
            Phase::Standby => return,
            Phase::Leading(lead) => {
                if let Some(scan) = scan {
                    let limits = &self.settings.limits;
                    lead.scanned(
                        (&self.electorate, &self.open),
                        scan,
                        acceptor,
                        page,
                        limits,
                        &mut self.effects,
                    );
                }
                return;
            }
            Phase::Campaigning(campaign) => campaign,
        };
        campaign.page(acceptor, page);
        let Some(takeover) = campaign.takeover(self.electorate.quorums()) else {
            if let Some(unsaid) = campaign.beyond_repair(&self.electorate) {
                self.effects
                    .push(Effect::Halt(beyond_repair(&unsaid, &self.electorate)));
            }
            return;
        };
        self.chosen_to_heard = self.chosen_to_heard.max(takeover.from);
        let lead = Lead::new(
            ballot,
            Arc::clone(&self.address),
            takeover,
            self.electorate.members(),
        );
        self.phase = Phase::Leading(Box::new(lead));
        self.disarm(Timer::GiveUp);
        let timeout = self.settings.leader_timeout;
        self.arm(Timer::Heartbeat, Duration::ZERO, Duration::ZERO);
        self.arm(Timer::Check, timeout, timeout);
    }

    /// Leads an acceptor up to our ballot, in steps that it takes: a round too far above its promise is refused, and
    /// somebody may have driven the rounds up elsewhere. A promise on the way is not counted.
    fn climb(&mut self, acceptor: AcceptorUuid, promised: Ballot) {
        let Some(ballot) = self.ballot().filter(|&ballot| promised < ballot) else {
            return;
        };
        let step = ballot.within_jump_of(promised);
        let prepare = match &self.phase {
            Phase::Campaigning(campaign) if step == ballot => campaign.prepare(&self.address),
            // What it holds is of no interest.
            Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_) => {
                let address = Arc::clone(&self.address);
                Prepare {
                    ballot: step,
                    from: Slot::MAX,
                    address,
                }
            }
        };
        self.effects.push(Effect::Prepare(acceptor, prepare, None));
    }

    fn rejected(&mut self, ballot: Ballot, promised: Ballot) {
        self.highest = self.highest.max(promised);
        if self.ballot() == Some(ballot) {
            self.step_down();
        }
    }

    fn answered(&mut self, acceptor: AcceptorUuid, ballot: Ballot, sequence: u64, answer: AcceptAnswer) {
        if !self.open.contains(&acceptor) {
            return;
        }
        match answer {
            AcceptAnswer::Rejected(rejection) => self.rejected(ballot, rejection.promised),
            AcceptAnswer::Refused(refused) => {
                // A campaign hears of it from its Prepare.
                let too_far = !refused.promised.admits_jump_to(ballot);
                if too_far && matches!(self.phase, Phase::Leading(_)) {
                    self.climb(acceptor, refused.promised);
                }
            }
            // A disk that has moved on: what stays unanswered for too long ends the reign.
            AcceptAnswer::Trimmed { .. } => {}
            AcceptAnswer::NoSpace => {
                if let Phase::Leading(lead) = &mut self.phase
                    && ballot == lead.ballot()
                {
                    lead.no_space(acceptor, sequence);
                }
            }
            AcceptAnswer::Accepted {
                slots,
                voted_to,
                chosen_to,
                known_to,
            } => {
                self.chosen_to_heard = self.chosen_to_heard.max(known_to);
                let Phase::Leading(lead) = &mut self.phase else {
                    return;
                };
                if ballot == lead.ballot() {
                    let marks = lead::Marks {
                        voted_to,
                        chosen_to,
                        known_to,
                    };
                    lead.accepted(
                        &self.electorate,
                        acceptor,
                        sequence,
                        &slots,
                        marks,
                        &mut self.effects,
                    );
                    lead.retire(&self.electorate, &self.settings.limits);
                }
            }
        }
    }

    fn proposed(&mut self, pending: Pending) {
        let refuse = |reason| Effect::Answer(pending.request, Outcome::NotProposed(reason));
        if self.stopping {
            self.effects.push(refuse(Reason::Stopping));
        } else if pending.forwarded && matches!(self.phase, Phase::Standby) {
            self.effects.push(refuse(Reason::NotLeading));
        } else if !self.queue.has_room_for(&pending) {
            self.effects.push(refuse(Reason::Overloaded));
        } else {
            self.queue.push(pending);
        }
    }

    /// Back to standing by, to wait a growing time. The fate of what was in flight is not known here.
    fn step_down(&mut self) {
        self.failures += 1;
        self.stand_by();
        if self.stopping {
            // Another leads, or nobody can: there is nothing left to hand over.
            self.effects.push(Effect::HandedOver);
        }
        self.consider_election();
    }

    fn stand_by(&mut self) {
        if let Phase::Leading(lead) = std::mem::take(&mut self.phase) {
            let uncertain = lead.into_unanswered();
            self.effects
                .extend(uncertain.map(|request| Effect::Answer(request, Outcome::Unknown)));
        }
        for timer in [Timer::Heartbeat, Timer::Check, Timer::GiveUp, Timer::Election] {
            self.disarm(timer);
        }
        self.election_armed = false;
        let reason = if self.stopping {
            Reason::Stopping
        } else {
            Reason::NotLeading
        };
        let refused = self
            .queue
            .remove_where(|pending| pending.forwarded || self.stopping);
        self.effects.extend(
            refused
                .into_iter()
                .map(|request| Effect::Answer(request, Outcome::NotProposed(reason))),
        );
    }

    fn resign(&mut self) {
        self.stopping = true;
        match &self.phase {
            // What is in flight is seen through; what only waits can go elsewhere.
            Phase::Leading(_) => {
                let refused = self.queue.remove_where(|_| true);
                self.effects.extend(
                    refused
                        .into_iter()
                        .map(|request| Effect::Answer(request, Outcome::NotProposed(Reason::Stopping))),
                );
            }
            Phase::Standby | Phase::Campaigning(_) => {
                self.stand_by();
                self.effects.push(Effect::HandedOver);
            }
        }
    }

    fn ballot(&self) -> Option<Ballot> {
        match &self.phase {
            Phase::Standby => None,
            Phase::Campaigning(campaign) => Some(campaign.ballot()),
            Phase::Leading(lead) => Some(lead.ballot()),
        }
    }

    fn arm(&mut self, timer: Timer, at_least: Duration, at_most: Duration) {
        let generation = self.disarm(timer);
        self.effects.push(Effect::SetTimer {
            timer,
            generation,
            at_least,
            at_most,
        });
    }

    /// Makes every timer of that kind that runs void.
    fn disarm(&mut self, timer: Timer) -> u64 {
        let generation = self.generations.entry(timer).or_default();
        *generation += 1;
        *generation
    }
}

/// How many slots an explanation names.
const SLOTS_NAMED_MAX: usize = 8;

/// Why a proposer ends: every acceptor has reported these slots, and no quorum of them can say what is there.
fn beyond_repair(slots: &[Slot], electorate: &Electorate) -> String {
    let named: Vec<String> = slots.iter().take(SLOTS_NAMED_MAX).map(Slot::to_string).collect();
    let more = match slots.len().saturating_sub(SLOTS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let acceptors: Vec<String> = electorate.members().iter().map(ToString::to_string).collect();
    format!(
        "damage beyond repair: the rows of slot {}{more} cannot be read any more on so many acceptors that the others \
         cannot say what was chosen there; all acceptors have reported: {}. Nothing is proposed, because a guess could \
         replace a value that was acknowledged. Keep every data directory as it is, and look at the disks. If a disk \
         cannot be read because of its device or file system, mend that and start the acceptor again on the same \
         directory, never on an older copy. Learners still serve what they have applied",
        named.join(", "),
        acceptors.join(", ")
    )
}

/// A command with what is needed to answer for it.
impl Pending {
    /// A command that came in here, not forwarded.
    pub fn new(request: RequestId, command: EncodedCommand) -> Self {
        Self {
            request,
            command,
            traceparent: Bytes::new(),
            forwarded: false,
        }
    }
}

#[cfg(test)]
mod tests;
