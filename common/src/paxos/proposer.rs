//! The proposer: stands by, campaigns, leads, steps down. No state of a proposer has to survive a crash.
//!
//! Input: events, through [`Proposer::handle`]. Output: effects, from [`Proposer::take_effects`]. After a run of events
//! the driver calls [`Proposer::flush`], which forms batches of all waiting commands. Commands that arrive together
//! therefore share a slot, without a timer.
//!
//! The core has no clock. The driver sets the time ([`Proposer::at`]) before the events, and fires the timers set by
//! the core. Each timer carries a generation; a timer of an older generation is void. The driver draws random delays
//! from the range given by the core.
//!
//! # Failure detection
//!
//! Three questions need three kinds of evidence, never mixed:
//!
//! | Question | Evidence | Reaction |
//! | --- | --- | --- |
//! | Is the leader alive? | Bytes of `Accept` streams arrive; a stream is open | Standbys campaign (`election`) |
//! | Is an acceptor present? | Bytes of answers arrive; the leader is heard | The proposer steps down (`presence`) |
//! | Is there progress? | Values arrive, votes commit, pages are sent | A standby challenges after 5 s (`challenge`) |
//!
//! *The leader.* The leader signals its presence on a separate stream to each acceptor (`streams`). The interval is a
//! quarter of the leader timeout L, however much is unanswered. A standby campaigns only after a phase-1 quorum of
//! acceptors has found the leader gone. While a phase-2 quorum hears the leader, fewer than a phase-1 quorum can miss
//! the leader, because the two quorums intersect. Acceptors hear without their disks, and bytes count before the
//! message is whole. So a slow disk or a slow link, however slow, changes neither count.
//!
//! *The acceptors.* A leader steps down when fewer than a phase-2 quorum of acceptors are present, or when its ballot
//! is rejected. Slow, stuck and full disks and late answers do not depose a leader: another leader would meet the same
//! conditions.
//!
//! *The work.* A leader may reach only stuck acceptors while a standby reaches working acceptors. The standby sees no
//! progress, and challenges.
//!
//! The model is partial synchrony: a bound on delays and pauses exists, and no process knows the bound. L is a guess at
//! the bound. If the guess is too small, a live leader is taken for dead. Each campaign without a chosen value
//! lengthens the next wait. Safety does not depend on failure detection: ballots protect the log from any campaign at
//! any time.
//!
//! Sources: *Paxos Made Simple* §2.2–2.3 and §3; *Flexible Paxos* §3; Dwork, Lynch, Stockmeyer, *Consensus in the
//! Presence of Partial Synchrony* (1988).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    ballot::{Ballot, ProposerId},
    identity::AcceptorUuid,
    message::{AcceptAnswer, Prepare, PromisePage},
    quorum::Electorate,
    slot::Slot,
    value::EncodedCommand,
    witness::{Found, Guard, Witnesses},
};

mod campaign;
mod challenge;
mod election;
mod event;
mod lead;
mod notice;
mod patience;
mod presence;
mod queue;
mod standby;
mod streams;

pub use campaign::{Campaign, Takeover};
pub use event::{Effect, Event, Limits, Outcome, Reason, RequestId, Scan, Settings, Timer};
pub use lead::Lead;
pub use notice::{Absent, End, Gone, Late, Lateness, Notice, Why};
pub use queue::Pending;

use challenge::Challenge;
use election::Election;
use patience::patience;
use presence::Presence;
use queue::Queue;
use standby::Report;
use streams::Streams;

/// Role of a proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits for a reason to campaign, and forwards commands.
    #[default]
    Standby,
    /// Collects promises.
    Campaigning(Campaign),
    /// Proposes.
    Leading(Box<Lead>),
}

/// The state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    id: ProposerId,
    address: Arc<str>,
    electorate: Electorate,
    settings: Settings,
    phase: Phase,
    /// The highest ballot heard or used. The next ballot is above, so that no ballot is ever used twice.
    highest: Ballot,
    /// The highest watermark heard: slots below need no campaign.
    chosen_to_heard: Slot,
    /// Time since the process started.
    now: Duration,
    /// Total length of the pauses of this process since the start.
    stood_still: Duration,
    reports: BTreeMap<AcceptorUuid, Report>,
    /// Acceptors with an open link for calls.
    open: BTreeSet<AcceptorUuid>,
    /// Trusted acceptors with shown runs: their answers count until the guard objects.
    known: BTreeSet<AcceptorUuid>,
    streams: Streams,
    presence: Presence,
    /// Presence is judged at the next flush, after all arrived events were handled.
    is_judging: bool,
    /// When the last part of a promise arrived; at first, when the campaign began.
    promised_at: Duration,
    /// Consecutive campaigns given up for lack of promises.
    vain_campaigns: u32,
    /// Acceptors that may have been counted since this proposer last left standby: known then, or opened later.
    counted: BTreeSet<AcceptorUuid>,
    guard: Guard,
    queue: Queue,
    /// Consecutive campaigns and reigns without a chosen value: each lengthens the next wait.
    failures: u32,
    election: Election,
    challenge: Challenge,
    /// Queued commands wait for a leader, and will be given back.
    leaderless: bool,
    /// Commands that the driver has forwarded and not yet answered.
    forwarded: BTreeSet<RequestId>,
    stopping: bool,
    generations: BTreeMap<Timer, u64>,
    effects: Vec<Effect>,
}

impl Proposer {
    /// A standby without known acceptors. `id` must be drawn at random for this run of the process.
    pub fn new(id: ProposerId, address: Arc<str>, electorate: Electorate, settings: Settings) -> Self {
        let guard = Guard::new(electorate.quorums());
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
            now: Duration::ZERO,
            stood_still: Duration::ZERO,
            reports: BTreeMap::new(),
            open: BTreeSet::new(),
            known: BTreeSet::new(),
            streams: Streams::default(),
            presence: Presence::default(),
            is_judging: false,
            promised_at: Duration::ZERO,
            vain_campaigns: 0,
            counted: BTreeSet::new(),
            guard,
            failures: 0,
            election: Election::Idle,
            challenge: Challenge::default(),
            leaderless: false,
            forwarded: BTreeSet::new(),
            stopping: false,
            generations: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Sets the time since the process started. Call before each run of events.
    pub fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// The process was paused for `lasted` until just now: a timer fired late. The pause is not counted against
    /// acceptors. Call after [`Self::at`], and before the events that arrived during the pause.
    pub fn stood_still(&mut self, lasted: Duration) {
        self.stood_still = self.now.min(self.stood_still + lasted);
        self.presence.resumed(self.awake());
        let is_heard = !matches!(self.phase, Phase::Standby);
        if is_heard && lasted >= self.settings.leader_timeout {
            self.effects.push(Effect::Told(Notice::StoodStill(lasted)));
        }
    }

    /// Time since the process started, without pauses.
    fn awake(&self) -> Duration {
        self.now.saturating_sub(self.stood_still)
    }

    /// Handles one event.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Introduced {
                acceptor,
                runs,
                remembers,
                others,
            } => {
                let electorate = &self.electorate;
                let remembers = remembers.of_members(electorate);
                let others = others.iter().filter(|(other, _)| electorate.includes(*other));
                let others: Vec<_> = others
                    .map(|(other, remembers)| (*other, remembers.of_members(electorate)))
                    .collect();
                let found = self.guard.introduce(acceptor, &runs, remembers.iter(), &others);
                self.found_out(found);
            }
            Event::Remembered { acceptor, remembers } => {
                let remembers = remembers.of_members(&self.electorate);
                let found = self.guard.remember(acceptor, remembers.iter());
                self.found_out(found);
            }
            Event::Heard {
                acceptor,
                run,
                commit_counter,
            } => self.guard.hear(acceptor, run, commit_counter),
            Event::Opened(acceptor) => self.opened(acceptor),
            Event::Closed(acceptor) => self.closed(acceptor),
            Event::StreamOpened { acceptor, ballot } => self.stream_opened(acceptor, ballot),
            Event::StreamBroke { acceptor, ballot } => self.stream_broke(acceptor, ballot),
            Event::Alive {
                acceptor,
                ballot,
                silent,
                waiting,
                has_space,
            } => self.alive(acceptor, ballot, (silent, waiting, has_space)),
            Event::Bytes(acceptor) => self.bytes(acceptor),
            Event::Reported { acceptor, sent, word } => self.reported(acceptor, sent, word),
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
                self.forwarded.remove(&request);
                let outcome = if self.queue.remove(request) {
                    Outcome::NotProposed(Reason::Cancelled)
                } else {
                    Outcome::Unknown
                };
                self.effects.push(Effect::Answer(request, outcome));
            }
            Event::FillWanted(to) => {
                if let Phase::Leading(lead) = &mut self.phase {
                    lead.fill_wanted(to, self.now);
                }
            }
            Event::Fired(timer, generation) => {
                if self.generations.get(&timer) == Some(&generation) {
                    self.fired(timer);
                }
            }
            Event::ForwardAnswered(request) => {
                self.forwarded.remove(&request);
            }
            Event::Resigned => self.resign(),
        }
    }

    /// Forms batches of the waiting commands, and sends everything that can be sent. Call after each run of events.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.is_judging) {
            self.judge();
        }
        let reachable = self.reachable();
        match &mut self.phase {
            Phase::Leading(lead) => {
                lead.fill_window(&mut self.queue, &self.settings.limits);
                lead.send(
                    &self.electorate,
                    &reachable,
                    &self.settings.limits,
                    &mut self.effects,
                );
                lead.plan_repair(
                    (&self.electorate, &self.open),
                    &reachable,
                    &self.settings.limits,
                    &mut self.effects,
                );
                if self.stopping && lead.is_drained() {
                    lead.say_resigned(&reachable, &mut self.effects);
                    // The driver ends the streams after the resignation.
                    self.leave_streams();
                    self.stand_by();
                    self.effects.push(Effect::HandedOver);
                }
            }
            Phase::Campaigning(_) => {}
            Phase::Standby => self.forward(),
        }
    }

    /// Effects since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The number of this run of the proposer.
    pub fn id(&self) -> ProposerId {
        self.id
    }

    /// The current role.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Commands waiting for a slot: number and bytes.
    pub fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.bytes())
    }

    /// The highest watermark known here.
    pub fn chosen_to(&self) -> Slot {
        match &self.phase {
            Phase::Leading(lead) => lead.chosen_to().max(self.chosen_to_heard),
            Phase::Standby | Phase::Campaigning(_) => self.chosen_to_heard,
        }
    }

    /// Remembered runs of the acceptors, to be passed on to acceptors. Only a leader passes runs on: a candidate has
    /// not read the memory of a quorum, and may take an older copy of a disk for the right disk.
    pub fn witnesses(&self) -> Witnesses {
        match self.phase {
            Phase::Leading(_) => self.guard.to_pass_on(),
            Phase::Standby | Phase::Campaigning(_) => Witnesses::default(),
        }
    }

    /// Whether answers of an acceptor count: its runs are shown, and nothing remembered contradicts the runs.
    pub fn counts(&self, acceptor: AcceptorUuid) -> bool {
        self.known.contains(&acceptor)
    }

    fn found_out(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                // The connection opens in the same turn, and is then reopened. Answers of earlier runs were rightly
                // counted.
                Found::Unwitnessed { acceptor, .. } => {
                    self.known.remove(&acceptor);
                }
                Found::Suspected(suspect) => {
                    // Otherwise the connection is about to open, and is reopened then.
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

    /// Stops counting an acceptor. If the acceptor may have been counted, this campaign or reign has no basis and ends.
    fn distrust(&mut self, acceptor: AcceptorUuid) {
        self.known.remove(&acceptor);
        if self.open.contains(&acceptor) {
            self.closed(acceptor);
        }
        if self.counted.contains(&acceptor) && !matches!(self.phase, Phase::Standby) {
            self.step_down(End::Distrusted(acceptor));
        }
    }

    fn opened(&mut self, acceptor: AcceptorUuid) {
        if !self.electorate.includes(acceptor) {
            return;
        }
        if !self.guard.trusts(acceptor) {
            // The next opening shows the runs again: the shown runs may date from before a restart, and the right disk
            // may be back by then.
            self.effects.push(Effect::Reopen(acceptor));
            return;
        }
        self.open.insert(acceptor);
        self.counted.insert(acceptor);
        let was_unknown = self.known.insert(acceptor);
        self.open_stream(acceptor);
        match &mut self.phase {
            Phase::Standby => {}
            Phase::Campaigning(campaign) => {
                let prepare = campaign.prepare(&self.address);
                self.effects.push(Effect::Prepare(acceptor, prepare, None));
            }
            // Answers are lost if given while the acceptor did not count.
            Phase::Leading(lead) if was_unknown && self.streams.is_open(acceptor) => lead.reopened(acceptor),
            Phase::Leading(_) => {}
        }
    }

    fn closed(&mut self, acceptor: AcceptorUuid) {
        self.open.remove(&acceptor);
        self.forget_report(acceptor);
    }

    fn fired(&mut self, timer: Timer) {
        let timeout = self.settings.leader_timeout;
        let reachable = self.reachable();
        match (timer, &mut self.phase) {
            (Timer::Election, Phase::Standby) if !self.stopping => self.election_due(),
            (Timer::Challenge, Phase::Standby) if !self.stopping => self.challenge_due(),
            (Timer::Heartbeat, Phase::Campaigning(campaign)) => {
                // Long paging must not look like silence. This heartbeat claims nothing.
                let beat = campaign.heartbeat(&self.address);
                let beats = reachable
                    .into_iter()
                    .map(|acceptor| Effect::Accept(acceptor, beat.clone()));
                self.effects.extend(beats);
                self.is_judging = true;
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
            }
            (Timer::Heartbeat, Phase::Leading(lead)) => {
                lead.heartbeat(&reachable, &mut self.effects);
                self.is_judging = true;
                self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
            }
            (Timer::Check, Phase::Leading(lead)) => {
                lead.check();
                self.arm(Timer::Check, timeout, timeout);
            }
            (Timer::GiveUp, Phase::Campaigning(_)) => self.judge_campaign(),
            (Timer::Leaderless, Phase::Standby | Phase::Campaigning(_)) => self.give_back(),
            (Timer::Leaderless, Phase::Leading(_)) => self.leaderless = false,
            // Timers of an earlier phase.
            (
                Timer::Election | Timer::Challenge | Timer::Heartbeat | Timer::Check | Timer::GiveUp,
                Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_),
            ) => {}
        }
    }

    fn campaign(&mut self, why: Why) {
        self.counted = self.known.clone();
        for timer in [Timer::Election, Timer::Challenge] {
            self.disarm(timer);
        }
        self.election = Election::Idle;
        self.challenge.disarmed();
        self.highest = self.highest.next_of(self.id);
        let ballot = self.highest;
        self.effects.push(Effect::Told(Notice::Campaign { ballot, why }));
        let now = self.awake();
        self.presence.begin(self.open.iter(), now);
        self.promised_at = now;
        let campaign = Campaign::new(ballot, self.chosen_to_heard);
        let prepare = campaign.prepare(&self.address);
        self.phase = Phase::Campaigning(campaign);
        for acceptor in self.open.clone() {
            // Streams come first, so that acceptors hear this candidate and other standbys wait.
            self.open_stream(acceptor);
            self.effects
                .push(Effect::Prepare(acceptor, prepare.clone(), None));
        }
        let patience = patience(self.vain_campaigns);
        self.arm(Timer::GiveUp, patience, patience);
        let timeout = self.settings.leader_timeout;
        self.arm(Timer::Heartbeat, timeout / 4, timeout / 4);
    }

    fn promised(&mut self, acceptor: AcceptorUuid, ballot: Ballot, scan: Option<Scan>, page: PromisePage) {
        if !self.open.contains(&acceptor) || !self.known.contains(&acceptor) {
            return;
        }
        self.bytes(acceptor);
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
                } else {
                    lead.climbed(acceptor);
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
        self.heard_of(takeover.from);
        self.vain_campaigns = 0;
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

    /// Raises an acceptor to our ballot, in steps that the acceptor grants. A round too far above the acceptor's
    /// promise is refused, and another proposer may have driven the rounds up elsewhere. A promise on the way is not
    /// counted.
    fn climb(&mut self, acceptor: AcceptorUuid, promised: Ballot) {
        let Some(ballot) = self.ballot().filter(|&ballot| promised < ballot) else {
            return;
        };
        let step = ballot.within_jump_of(promised);
        let prepare = match &self.phase {
            Phase::Campaigning(campaign) if step == ballot => campaign.prepare(&self.address),
            // The acceptor's rows are of no interest here.
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
            self.step_down(End::Rejected { promised });
        }
    }

    fn answered(&mut self, acceptor: AcceptorUuid, ballot: Ballot, sequence: u64, answer: AcceptAnswer) {
        if !self.known.contains(&acceptor) {
            return;
        }
        if self.ballot() == Some(ballot) {
            let now = self.awake();
            self.presence.bytes(acceptor, now);
        }
        if let AcceptAnswer::Accepted { known_to, .. } = &answer {
            self.heard_of(*known_to);
        }
        match &mut self.phase {
            Phase::Leading(lead) if lead.ballot() == ballot => lead.settled(acceptor, sequence, &answer),
            Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_) => {}
        }
        match answer {
            AcceptAnswer::Rejected(rejection) => self.rejected(ballot, rejection.promised),
            AcceptAnswer::Refused(refused) => {
                // A campaign learns of the refusal from its own `Prepare`.
                let too_far = !refused.promised.admits_jump_to(ballot);
                if too_far && matches!(self.phase, Phase::Leading(_)) {
                    self.climb(acceptor, refused.promised);
                }
            }
            AcceptAnswer::Trimmed { .. } => {}
            AcceptAnswer::NoSpace => self.presence.space(acceptor, false),
            AcceptAnswer::Accepted {
                slots,
                voted_to,
                chosen_to,
                known_to,
            } => {
                let Phase::Leading(lead) = &mut self.phase else {
                    return;
                };
                if ballot == lead.ballot() {
                    let before = lead.chosen_to();
                    let marks = lead::Marks {
                        voted_to,
                        chosen_to,
                        known_to,
                    };
                    lead.accepted(&self.electorate, acceptor, &slots, marks, &mut self.effects);
                    lead.retire(&self.electorate, &self.settings.limits);
                    let is_progress = lead.chosen_to() > before;
                    self.presence.space(acceptor, true);
                    if is_progress {
                        self.progressed();
                    }
                }
            }
        }
    }

    fn proposed(&mut self, pending: Pending) {
        // The command may have been forwarded before, and has come back.
        self.forwarded.remove(&pending.request);
        let refuse = |reason| Effect::Answer(pending.request, Outcome::NotProposed(reason));
        if self.stopping {
            self.effects.push(refuse(Reason::Stopping));
        } else if pending.forwarded && matches!(self.phase, Phase::Standby) {
            self.effects.push(refuse(Reason::NotLeading));
        } else if !self.queue.has_room_for(&pending) {
            self.effects.push(refuse(Reason::Overloaded));
        } else if self.is_blocked() {
            self.effects.push(refuse(Reason::NoQuorum));
        } else {
            self.queue.push(pending);
            if matches!(self.phase, Phase::Standby) {
                self.note_demand();
            }
        }
    }

    /// Returns to standby, to wait a growing time. The fate of values in flight is not known here.
    fn step_down(&mut self, why: End) {
        let led = match &self.phase {
            Phase::Standby => return,
            Phase::Campaigning(_) => false,
            Phase::Leading(_) => true,
        };
        let is_vain = match &self.phase {
            Phase::Leading(lead) => !lead.has_chosen(),
            Phase::Standby | Phase::Campaigning(_) => true,
        };
        self.failures += u32::from(is_vain);
        if let Some(ballot) = self.ballot() {
            let notice = Notice::SteppedDown { ballot, led, why };
            self.effects.push(Effect::Told(notice));
            self.shut_streams(ballot);
        }
        self.stand_by();
        if self.stopping {
            // Another proposer leads, or none can: nothing is left to hand over.
            self.effects.push(Effect::HandedOver);
        }
        self.consider();
    }

    fn stand_by(&mut self) {
        if let Phase::Leading(lead) = std::mem::take(&mut self.phase) {
            let uncertain = lead.into_unanswered();
            self.effects
                .extend(uncertain.map(|request| Effect::Answer(request, Outcome::Unknown)));
        }
        for timer in [
            Timer::Heartbeat,
            Timer::Check,
            Timer::GiveUp,
            Timer::Election,
            Timer::Challenge,
        ] {
            self.disarm(timer);
        }
        self.election = Election::Idle;
        self.challenge.disarmed();
        self.is_judging = false;
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
            // Values in flight are completed. Commands still waiting can go elsewhere.
            Phase::Leading(_) => {
                let refused = self.queue.remove_where(|_| true);
                self.effects.extend(
                    refused
                        .into_iter()
                        .map(|request| Effect::Answer(request, Outcome::NotProposed(Reason::Stopping))),
                );
            }
            Phase::Standby | Phase::Campaigning(_) => {
                if let Some(ballot) = self.ballot() {
                    self.shut_streams(ballot);
                }
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

    /// Makes every running timer of this kind void.
    fn disarm(&mut self, timer: Timer) -> u64 {
        let generation = self.generations.entry(timer).or_default();
        *generation += 1;
        *generation
    }
}

/// Most slots named in the reason of a halt.
const SLOTS_NAMED_MAX: usize = 8;

/// Why a proposer halts: every acceptor has reported the slots, and no quorum can determine the values.
fn beyond_repair(slots: &[Slot], electorate: &Electorate) -> String {
    let named: Vec<String> = slots.iter().take(SLOTS_NAMED_MAX).map(Slot::to_string).collect();
    let more = match slots.len().saturating_sub(SLOTS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let acceptors: Vec<String> = electorate.members().iter().map(ToString::to_string).collect();
    format!(
        "damage beyond repair: the rows of slot {}{more} cannot be read any more on too many acceptors, so the other \
         acceptors cannot prove the chosen value; all acceptors have reported: {}. This proposer proposes nothing, \
         because a guess could replace an acknowledged value. Keep every data directory unchanged, and check the \
         disks. If a disk cannot be read because of its device or file system, repair the device or file system and \
         start the acceptor again on the same directory, never on an older copy. Learners still serve all applied \
         slots",
        named.join(", "),
        acceptors.join(", ")
    )
}

/// A command with the data needed to answer its caller.
impl Pending {
    /// A command received here from a caller, not forwarded.
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
