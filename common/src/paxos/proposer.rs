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
//! | Is the leader alive? | Acceptors receive `Accept` bytes; a stream is open | Standbys campaign (`election`) |
//! | Is an acceptor present? | Leader and acceptor receive bytes | A leader or candidate steps down (`presence`) |
//! | Is there progress? | Values arrive, votes commit, pages are sent | A standby challenges after 5 s (`challenge`) |
//!
//! *The leader.* The leader signals its presence on a separate stream to each acceptor (`streams`). The interval is a
//! quarter of the leader timeout L. Heartbeats continue while requests are unanswered. A standby campaigns only after a
//! phase-1 quorum of acceptors has found the leader gone. While a phase-2 quorum hears the leader, fewer than a phase-1
//! quorum can miss the leader, because the two quorums intersect. Acceptors hear without their disks, and bytes count
//! before the message is whole. So slow disks and slow links do not make a leader look silent. When a phase-1 quorum
//! reports the end of the leader's streams, the standby also asks the leader itself (`inquiry`).
//!
//! *The acceptors.* A leader steps down when fewer than a phase-2 quorum of acceptors are present, or when its ballot
//! is rejected. Slow, stuck and full disks and late answers do not depose a leader: another leader would meet the same
//! conditions.
//!
//! *The work.* A leader may reach only stuck acceptors while a standby reaches working acceptors. The standby sees no
//! progress. The standby challenges only if a quorum could answer the standby without delay. This
//! is the only way in which slowness deposes a leader.
//!
//! The model is partial synchrony: a bound on delays and pauses exists, and no process knows the bound. L is a guess at
//! the bound. If the guess is too small, a live leader is taken for dead. Each campaign without a chosen value
//! lengthens the next wait. Safety does not depend on failure detection: ballots protect the log from any campaign at
//! any time.
//!
//! # Eras
//!
//! A proposer works in one era at a time (`eras`): its ballots are of this era, and only the members of this era count. The
//! leader of an era may end the era by a change of members (`members`, `lead/change`).
//!
//! Sources: *Paxos Made Simple* §2.2–2.3 and §3; *Flexible Paxos* §3; Dwork, Lynch, Stockmeyer, *Consensus in the
//! Presence of Partial Synchrony* (1988).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    ballot::{Ballot, ProposerId},
    identity::AcceptorUuid,
    quorum::{Configuration, Electorate},
    slot::Slot,
    witness::{Guard, Witnesses},
};

mod answers;
mod campaign;
mod challenge;
mod commands;
mod copy_pace;
mod dispatch;
mod election;
mod eras;
mod event;
mod halt;
mod inquiry;
mod lead;
mod links;
mod members;
mod notice;
mod patience;
mod phases;
mod presence;
mod queue;
mod slot_votes;
mod standby;
mod streams;

pub use campaign::{Campaign, Takeover};
pub use event::{Effect, Event, Limits, ProposalOutcome, Reason, RequestId, Scan, Settings, Timer};
pub use inquiry::InquiryAnswer;
pub use lead::{ChangeVotes, Lead};
pub use members::{ChangeRefusal, ChangeRequest, ChangeStage};
pub use notice::{Absent, End, Gone, Late, Lateness, Notice, Why};
pub use queue::Pending;

use challenge::Challenge;
use election::ElectionStage;
use eras::Leaving;
use inquiry::Inquiry;
use members::MemberChange;
use presence::Presence;
use queue::CommandQueue;
use standby::TimedAnswer;
use streams::AcceptStreams;

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
    /// The latest configuration in force that this proposer has heard of.
    configuration: Arc<Configuration>,
    /// Of `configuration`.
    electorate: Electorate,
    settings: Settings,
    phase: Phase,
    /// The highest ballot of the present era heard or used. The next ballot is above, so that no ballot is ever used twice.
    highest: Ballot,
    /// The highest watermark heard: slots below need no campaign.
    chosen_to_heard: Slot,
    /// Time since the process started.
    now: Duration,
    /// Total length of the pauses of this process since the start.
    stood_still: Duration,
    reports: BTreeMap<AcceptorUuid, TimedAnswer>,
    /// Acceptors with an open link for calls.
    open: BTreeSet<AcceptorUuid>,
    /// Trusted acceptors with shown runs: their answers count until the guard objects.
    known: BTreeSet<AcceptorUuid>,
    streams: AcceptStreams,
    presence: Presence,
    /// Presence is judged at the next flush, after all arrived events were handled.
    is_judging: bool,
    /// When the last part of a promise arrived; at first, when the campaign began.
    promised_at: Duration,
    /// Members with a link opened late in this campaign, and when: asked whom they hear before they are asked for a promise.
    unasked: BTreeMap<AcceptorUuid, Duration>,
    /// Consecutive campaigns given up for lack of promises.
    vain_campaigns: u32,
    /// Acceptors that may have been counted since this proposer last left standby: known then, or opened later.
    counted: BTreeSet<AcceptorUuid>,
    guard: Guard,
    queue: CommandQueue,
    /// Consecutive campaigns and reigns without a chosen value: each lengthens the next wait.
    failures: u32,
    election: ElectionStage,
    inquiry: Inquiry,
    challenge: Challenge,
    /// Queued commands wait for a leader, and will be given back.
    leaderless: bool,
    /// Streams of a reign that ended by a change of members, until the streams of the next campaign are open.
    old_streams: Option<Ballot>,
    /// The change of members under way, driven by this proposer.
    change: Option<MemberChange>,
    /// Acceptors with an upload of a snapshot under way.
    uploads: BTreeSet<AcceptorUuid>,
    leaving: Leaving,
    /// Commands that the driver has forwarded and not yet answered.
    forwarded: BTreeSet<RequestId>,
    stopping: bool,
    generations: BTreeMap<Timer, u64>,
    effects: Vec<Effect>,
}

impl Proposer {
    /// A standby without known acceptors. `id` must be drawn at random for this run of the process.
    pub fn new(
        id: ProposerId,
        address: Arc<str>,
        configuration: Arc<Configuration>,
        settings: Settings,
    ) -> Self {
        let guard = Guard::new(configuration.quorums());
        Self {
            id,
            address,
            electorate: configuration.electorate(),
            highest: Ballot::before(configuration.era()),
            configuration,
            queue: CommandQueue::new(
                settings.limits.queue_commands_max,
                settings.limits.queue_bytes_max,
            ),
            settings,
            phase: Phase::Standby,
            chosen_to_heard: Slot::ZERO,
            now: Duration::ZERO,
            stood_still: Duration::ZERO,
            reports: BTreeMap::new(),
            open: BTreeSet::new(),
            known: BTreeSet::new(),
            streams: AcceptStreams::default(),
            presence: Presence::default(),
            is_judging: false,
            promised_at: Duration::ZERO,
            unasked: BTreeMap::new(),
            vain_campaigns: 0,
            counted: BTreeSet::new(),
            guard,
            failures: 0,
            election: ElectionStage::Idle,
            inquiry: Inquiry::default(),
            challenge: Challenge::default(),
            leaderless: false,
            old_streams: None,
            change: None,
            uploads: BTreeSet::new(),
            leaving: Leaving::default(),
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
            self.effects.push(Effect::Notify(Notice::StoodStill(lasted)));
        }
    }

    /// Time since the process started, without pauses.
    fn awake(&self) -> Duration {
        self.now.saturating_sub(self.stood_still)
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

    /// Whether pages of a promise are still of use: pages for a scan, or pages for a campaign or for raising an
    /// acceptor to our ballot (`None`). Otherwise the driver ends the request.
    pub fn awaits_pages(&self, scan: Option<u64>) -> bool {
        match (&self.phase, scan) {
            (Phase::Standby, _) | (Phase::Campaigning(_), Some(_)) => false,
            (Phase::Campaigning(_) | Phase::Leading(_), None) => true,
            (Phase::Leading(lead), Some(number)) => lead.awaits_scan(number),
        }
    }

    /// Whether answers of an acceptor count: its runs are shown, and nothing remembered contradicts the runs.
    pub fn counts(&self, acceptor: AcceptorUuid) -> bool {
        self.known.contains(&acceptor)
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

#[cfg(test)]
mod tests;
