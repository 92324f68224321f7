//! The proposer: stands by, campaigns, leads, steps down; and keeps nothing that a crash could lose.
//!
//! Events go in through [`Proposer::handle`]; what is to be done comes out of [`Proposer::take_effects`]. After a
//! run of events the driver calls [`Proposer::flush`], which forms batches of whatever waits: so commands that came
//! in together share a slot, without a timer.
//!
//! The core has no clock. The driver says what time it is ([`Proposer::at`]) before it hands in events, and fires the
//! timers that the core asked for; each carries a generation, and a timer of an older generation is void. Random delays
//! are drawn by the driver, in the range the core gives.
//!
//! # Failure detection
//!
//! Three questions have three answers, and none is answered by another's evidence:
//!
//! | Question | Evidence | Who acts |
//! | --- | --- | --- |
//! | Is the leader there? | Bytes of its `Accept` streams arrive at acceptors; a stream is open | Standbys campaign (`election`) |
//! | Is an acceptor there? | Bytes of its answers arrive, and it hears the leader | The leader steps down, a candidate gives up (`presence`) |
//! | Does the work go on? | Values arrive, votes are committed, pages are sent | After 5 s a standby that can do better challenges (`challenge`) |
//!
//! *The leader.* It says that it is there every L / 4 on a stream of its own to each acceptor (`streams`), however much is
//! unanswered. A phase-1 quorum of acceptors must find the leader gone before a standby campaigns. While a phase-2 quorum
//! hears the leader, fewer than a phase-1 quorum can miss it, because the two intersect. Acceptors hear without their
//! disks, and bytes count before they are a whole message: so a slow disk or a slow link changes neither side, however
//! slow.
//!
//! *The acceptors.* A leader with fewer than a phase-2 quorum there steps down, and so does one that is rejected. Slow,
//! stuck and full disks and late answers do not depose it: another leader would meet the same ones.
//!
//! *The work.* A leader may reach only acceptors that are stuck, while a standby reaches others. The standby sees that
//! nothing moves, and challenges.
//!
//! The model is partial synchrony: some bound on delays and pauses exists, and no process knows it. L is a guess at it.
//! Where the guess is too small, a leader that is alive is taken for dead, and each campaign in which nothing was chosen
//! makes the next wait longer. Nothing here is needed for safety: ballots protect the log, whoever campaigns and whenever.
//!
//! Sources: *Paxos Made Simple* §2.2–2.3 and §3; *Flexible Paxos* §3; Dwork, Lynch, Stockmeyer, *Consensus in the Presence
//! of Partial Synchrony* (1988).

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
mod presence;
mod queue;
mod standby;
mod streams;

pub use campaign::{Campaign, Takeover};
pub use event::{Effect, Event, Limits, Outcome, Reason, RequestId, Scan, Settings, Timer};
pub use lead::Lead;
pub use notice::{Absent, End, Gone, Late, Lateness, Notice, Why};
pub use queue::Pending;

use challenge::{Challenge, patience};
use election::Election;
use presence::Presence;
use queue::Queue;
use standby::Report;
use streams::Streams;

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
    /// Time since the process started.
    now: Duration,
    /// How much of it the process stood still.
    stood_still: Duration,
    reports: BTreeMap<AcceptorUuid, Report>,
    /// Acceptors to which calls can be made.
    open: BTreeSet<AcceptorUuid>,
    /// Acceptors that have shown their runs and are trusted: what they say counts, until they are found out.
    known: BTreeSet<AcceptorUuid>,
    streams: Streams,
    presence: Presence,
    /// Whether presence is to be judged once everything that has arrived is taken in.
    is_judging: bool,
    /// When the campaign got something of a promise last.
    promised_at: Duration,
    /// Campaigns that got nothing of a promise, one after the other.
    vain_campaigns: u32,
    /// Who was open since the last standby ended, and may have been counted.
    counted: BTreeSet<AcceptorUuid>,
    guard: Guard,
    queue: Queue,
    /// Campaigns and reigns in which nothing was chosen, one after the other: each makes the next wait longer.
    failures: u32,
    election: Election,
    challenge: Challenge,
    /// Commands wait for somebody to lead, and will be given back.
    leaderless: bool,
    /// Commands that the driver has sent on, and not answered yet.
    forwarded: BTreeSet<RequestId>,
    stopping: bool,
    generations: BTreeMap<Timer, u64>,
    effects: Vec<Effect>,
}

impl Proposer {
    /// A standby that knows nobody yet. `id` must be drawn at random for this run of the process.
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

    /// What time it is, since the process started. Call it before each run of events.
    pub fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// The process stood still for so long just now: a timer woke it late. That time is not counted against acceptors.
    /// Call it after [`Self::at`], and before the events that came in meanwhile.
    pub fn stood_still(&mut self, lasted: Duration) {
        self.stood_still = self.now.min(self.stood_still + lasted);
        self.presence.resumed(self.awake());
        let is_heard = !matches!(self.phase, Phase::Standby);
        if is_heard && lasted >= self.settings.leader_timeout {
            self.effects.push(Effect::Told(Notice::StoodStill(lasted)));
        }
    }

    /// The time without that in which the process stood still.
    fn awake(&self) -> Duration {
        self.now.saturating_sub(self.stood_still)
    }

    /// Takes in one event.
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

    /// Forms batches of what waits and sends what can be sent. Call it after each run of events.
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
                    // They are ended after the resignation.
                    self.leave_streams();
                    self.stand_by();
                    self.effects.push(Effect::HandedOver);
                }
            }
            Phase::Campaigning(_) => {}
            Phase::Standby => self.forward(),
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

    /// Whether what an acceptor says counts: it has shown its runs, and nothing that is remembered contradicts them.
    pub fn counts(&self, acceptor: AcceptorUuid) -> bool {
        self.known.contains(&acceptor)
    }

    fn found_out(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                // The connection opens in the same turn and is then opened again. Answers of earlier runs did count.
                Found::Unwitnessed { acceptor, .. } => {
                    self.known.remove(&acceptor);
                }
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
            // It shows its runs again with the next opening: it may have shown them before it restarted, and its right
            // disk may be put back.
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
            // What it answered while it did not count is lost.
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
                // Long paging must not look like silence; this claims nothing.
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
            // Timers of a phase that is over.
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
            // First of all, so that acceptors hear this candidate and others wait.
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
                // A campaign hears of it from its Prepare.
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
        // It may be one that was sent on, and came back.
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

    /// Back to standing by, to wait a growing time. The fate of what was in flight is not known here.
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
            // Another leads, or nobody can: there is nothing left to hand over.
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
