//! Changes of members, step by step, by the leader, one at a time.
//!
//! | step | what happens | when it fails |
//! | --- | --- | --- |
//! | check | the change is of the next era, and could be decided | refused |
//! | copy | each joiner is linked, brought a snapshot if rows are gone, and repaired | silent for 10 s: ended |
//! | pause | joiners are close: no new batches until a phase-2 quorum of the new members is at the tip, or L | resumed for L; 25 tries |
//! | decide | the change is proposed; it takes force by the three conditions of `lead/change` | a challenge is the way out |
//! | switch | install, campaign in the next era | any proposer goes on |
//! | done | a leader of the next era has chosen a value | |
//!
//! Until the change is proposed, nothing has changed. From then on the old members order nothing more, so the change is proposed
//! only when the third condition holds already: a phase-2 quorum of the new members has every slot, by rows or by a snapshot
//! and rows. Safety rests on the conditions alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Effect, Lead, Phase, Proposer, copy_pace::CopyPace};
use crate::paxos::{
    era::Era,
    identity::AcceptorUuid,
    quorum::{Configuration, Electorate},
    slot::Slot,
    value::Value,
};

mod readiness;

/// Time without bytes of a joiner after which the change is given up.
const JOINER_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Most pauses in which no quorum of the new members reached the tip.
const PAUSES_MAX: u32 = 25;

/// An operator's request for other members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChangeRequest {
    /// A change to the next era.
    pub change: Value,
}

/// News of a change of members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChangeStage {
    /// Joiners are brought the log: the joiner furthest behind has `slots` of `of` slots.
    Copying {
        /// Slots of the joiner furthest behind.
        slots: u64,
        /// Slots of the leader.
        of: u64,
    },
    /// The change is proposed: `accepted` of `of` needed new members have accepted it.
    Deciding {
        /// New members with the change.
        accepted: usize,
        /// A phase-2 quorum of the new members.
        of: usize,
    },
    /// The change is in force, and a leader of this era is about to lead.
    Switching(Era),
    /// A leader of the era of this configuration has chosen the change again, so the era orders values. The last news.
    Done {
        /// The new members.
        configuration: Arc<Configuration>,
        /// Longest time that commands waited: during a pause, or from the last pause until now.
        waited: Duration,
    },
    /// Nothing has changed. The last news.
    Refused(ChangeRefusal),
    /// This proposer does not lead any more, and does not know whether the change takes force. The last news.
    Unknown,
}

/// Why a change of members is not made. Nothing has changed. The words for people are in the proposer's service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChangeRefusal {
    /// Only a leader changes members.
    NotLeading,
    /// The value is no change.
    NoChange,
    /// The members have changed since the request was made.
    OtherEra {
        /// The present era.
        present: Era,
        /// The era of the requested configuration.
        asked: Era,
    },
    /// One change at a time.
    UnderWay,
    /// The new members could never decide anything.
    Never {
        /// Number of new members.
        members: usize,
        /// Quorum of the new members.
        needed: usize,
        /// New members that answer the leader, joiners included.
        answering: usize,
    },
    /// A value further on may be chosen, and belongs to the present era.
    VotedAhead(Slot),
    /// A joiner gives no answer.
    Silent(AcceptorUuid),
    /// The new members never reached the tip of the log.
    TooSlow,
    /// Another change was chosen.
    Another,
    /// The leader was deposed before it proposed the change.
    Deposed,
}

/// The change that this proposer drives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MemberChange {
    value: Value,
    pub(super) configuration: Arc<Configuration>,
    electorate: Electorate,
    joiners: BTreeSet<AcceptorUuid>,
    /// The watermarks of the joiners at the last check.
    seen: BTreeMap<AcceptorUuid, Slot>,
    /// As fast as until the last check, every joiner comes to the tip within half a leader timeout without new batches.
    is_soon: bool,
    /// The pace of the copy to each joiner.
    paces: BTreeMap<AcceptorUuid, CopyPace>,
    /// The time of the request.
    begun: Duration,
    step: ChangeStep,
    /// The slot of the change, once this proposer has proposed the change.
    slot: Option<Slot>,
    /// Ended pauses so far.
    pauses: u32,
    /// The longest of these pauses.
    longest_pause: Duration,
    /// The begin of the pause that has not ended. Commands wait from then until the next era orders values.
    paused_at: Option<Duration>,
    /// Since when the copy runs: the request, or the end of the last pause.
    since: Duration,
    /// The latest news.
    said: Option<ChangeStage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ChangeStep {
    Copying,
    /// No new batches until this time. `asked`: the acceptors were asked for their watermarks at the tip.
    Pausing {
        until: Duration,
        asked: bool,
    },
    Deciding,
    Switching,
}

impl Proposer {
    /// Whether a change may be proposed: this proposer leads, and the era has no change yet.
    pub fn may_change(&self) -> bool {
        let may = |lead: &Lead| !lead.ends_era() && lead.demanded_ahead().is_none();
        matches!(&self.phase, Phase::Leading(lead) if may(lead)) && self.change.is_none()
    }

    /// Proposes a change without the steps before. For the model and the simulator: safety rests on the three conditions alone,
    /// and neither on the copy nor on the pause.
    pub fn propose_change(&mut self, change: Value) {
        if self.may_change()
            && let Phase::Leading(lead) = &mut self.phase
        {
            lead.end_era(change);
        }
    }

    /// The latest news of the change under way; none without a change.
    pub fn change_stage(&self) -> Option<&ChangeStage> {
        self.change.as_ref()?.said.as_ref()
    }

    /// An operator asks for a change: checks it, and begins to copy.
    pub(super) fn change_members(&mut self, asked: ChangeRequest) {
        let change = self.check_request(asked);
        match change {
            Ok(change) => {
                let is_new = self.change.is_none();
                if is_new {
                    let joiners = change.joiners.clone();
                    if let Phase::Leading(lead) = &mut self.phase {
                        joiners.iter().for_each(|&joiner| lead.follow(joiner));
                    }
                    self.change = Some(change);
                    // The link to an acceptor that the last change has removed may still be open.
                    for joiner in joiners.intersection(&self.open.clone()) {
                        self.open_stream(*joiner);
                    }
                    self.effects.push(Effect::LinksChanged);
                }
                self.say_progress();
            }
            Err(refusal) => self.effects.push(Effect::Change(ChangeStage::Refused(refusal))),
        }
    }

    fn check_request(&self, asked: ChangeRequest) -> Result<MemberChange, ChangeRefusal> {
        let Phase::Leading(lead) = &self.phase else {
            return Err(ChangeRefusal::NotLeading);
        };
        if self.stopping {
            return Err(ChangeRefusal::NotLeading);
        }
        let configuration = asked.change.change().cloned().ok_or(ChangeRefusal::NoChange)?;
        let (present, era) = (self.electorate.era(), configuration.era());
        if era != present.next() || configuration.cluster_id() != self.configuration.cluster_id() {
            return Err(ChangeRefusal::OtherEra { present, asked: era });
        }
        let is_same = |change: &MemberChange| change.configuration == configuration;
        if self.change.as_ref().is_some_and(|change| !is_same(change))
            || (self.change.is_none() && lead.ends_era())
        {
            return Err(ChangeRefusal::UnderWay);
        }
        if let Some(slot) = lead.demanded_ahead() {
            return Err(ChangeRefusal::VotedAhead(slot));
        }
        let electorate = configuration.electorate();
        let is_joiner = |member: &AcceptorUuid| !self.electorate.includes(*member);
        let answers = |member: &&AcceptorUuid| is_joiner(member) || self.is_present(**member);
        let answering = electorate.members().iter().filter(answers).count();
        let needed = electorate.quorums().phase1().max(electorate.quorums().phase2());
        if answering < needed {
            let members = electorate.members().len();
            return Err(ChangeRefusal::Never {
                members,
                needed,
                answering,
            });
        }
        Ok(MemberChange {
            value: asked.change,
            joiners: electorate.members().iter().copied().filter(is_joiner).collect(),
            seen: BTreeMap::new(),
            is_soon: false,
            paces: BTreeMap::new(),
            begun: self.awake(),
            configuration,
            electorate,
            step: ChangeStep::Copying,
            slot: None,
            pauses: 0,
            longest_pause: Duration::ZERO,
            paused_at: None,
            since: self.awake(),
            said: None,
        })
    }

    /// Once every leader timeout: ends a copy to a silent joiner, and brings snapshots.
    pub(super) fn check_change(&mut self) {
        self.bring_snapshots();
        let now = self.awake();
        let (Some(change), Phase::Leading(lead)) = (&mut self.change, &mut self.phase) else {
            return;
        };
        match change.step {
            ChangeStep::Copying => {
                let is_silent = |joiner: &&AcceptorUuid| {
                    let silent = self.presence.absent(**joiner, now, JOINER_SILENCE_MAX);
                    silent.is_some() && now.saturating_sub(change.since) >= JOINER_SILENCE_MAX
                };
                if let Some(&silent) = change.joiners.iter().find(is_silent) {
                    self.refuse_change(ChangeRefusal::Silent(silent));
                } else {
                    change.measure(lead);
                    self.say_progress();
                }
            }
            ChangeStep::Pausing { .. } | ChangeStep::Deciding | ChangeStep::Switching => {}
        }
    }

    /// Lets commands go on when a pause has lasted for a leader timeout.
    fn end_overdue_pause(&mut self) {
        let now = self.awake();
        let (Some(change), Phase::Leading(lead)) = (&mut self.change, &mut self.phase) else {
            return;
        };
        let ChangeStep::Pausing { until, .. } = change.step else {
            return;
        };
        if now < until {
            return;
        }
        lead.pause(false);
        change.longest_pause = change.waited(self.now);
        change.paused_at = None;
        change.step = ChangeStep::Copying;
        change.since = now;
        change.is_soon = false;
        change.pauses += 1;
        change.paces.values_mut().for_each(CopyPace::paused);
        if change.pauses >= PAUSES_MAX {
            self.refuse_change(ChangeRefusal::TooSlow);
        }
    }

    /// Begins and ends pauses, and proposes the change once a pause has brought a quorum of the new members to the tip.
    pub(super) fn advance_change(&mut self) {
        if self.change.is_none() {
            return;
        }
        self.end_overdue_pause();
        let reachable = self.reachable();
        let (now, timeout) = (self.awake(), self.settings.leader_timeout);
        let (Some(change), Phase::Leading(lead)) = (&mut self.change, &mut self.phase) else {
            return;
        };
        if change.may_pause(lead, now, timeout) {
            change.step = ChangeStep::Pausing {
                until: now + timeout,
                asked: false,
            };
            change.paused_at = Some(self.now);
            lead.pause(true);
        }
        let is_ready = change.is_near(lead) && change.is_at_tip(lead);
        match change.step {
            ChangeStep::Pausing { .. } if is_ready => {
                lead.end_era(change.value.clone());
                change.step = ChangeStep::Deciding;
            }
            ChangeStep::Pausing { until, asked: false } if lead.is_drained() => {
                change.step = ChangeStep::Pausing { until, asked: true };
                lead.ask_watermarks(&reachable, &mut self.effects);
            }
            ChangeStep::Deciding => {
                if let Some(votes) = lead.change_votes() {
                    let (accepted, of) = (votes.accepted, votes.needed);
                    self.say(ChangeStage::Deciding { accepted, of });
                }
            }
            ChangeStep::Copying | ChangeStep::Pausing { .. } | ChangeStep::Switching => {}
        }
    }

    /// The joiners to which no stretch of the copy may begin now.
    pub(super) fn resting_joiners(&mut self) -> BTreeSet<AcceptorUuid> {
        let now = self.awake();
        let (Some(change), Phase::Leading(lead)) = (&mut self.change, &self.phase) else {
            return BTreeSet::new();
        };
        if change.step != ChangeStep::Copying {
            return BTreeSet::new();
        }
        let is_busy = !self.queue.is_empty() || lead.proposed_to() > lead.chosen_to();
        let lasted = now.saturating_sub(change.begun);
        let rests = |joiner: &AcceptorUuid| {
            let pace = change.paces.entry(*joiner).or_default();
            pace.rests(now, lasted, lead.repair_bytes(*joiner), is_busy)
        };
        change.joiners.iter().copied().filter(rests).collect()
    }

    /// Follows the members of a change that was just proposed, or found by the campaign.
    pub(super) fn follow_the_change(&mut self) {
        let Phase::Leading(lead) = &mut self.phase else {
            return;
        };
        let Some((slot, configuration)) = lead.take_new_change() else {
            return;
        };
        if let Some(change) = &mut self.change {
            change.slot = Some(slot);
        }
        for &acceptor in configuration.members().keys() {
            // Also without an open link: streams do not end with the link, and answers of a known acceptor count.
            if self.known.contains(&acceptor) {
                self.counted.insert(acceptor);
            }
            if self.open.contains(&acceptor) {
                self.open_stream(acceptor);
            }
        }
        self.effects.push(Effect::LinksChanged);
    }

    /// Has each member of the next configuration brought a snapshot, if no rows can bring the member further: a joiner of a
    /// trimmed log, or a member with a damaged row that the others have trimmed. Also for a change that is already proposed, or
    /// was found by the campaign: learners that have applied the change have no snapshot below the change any more.
    fn bring_snapshots(&mut self) {
        let Phase::Leading(lead) = &self.phase else {
            return;
        };
        let asked = self.change.as_ref().map(|change| &change.configuration);
        let proposed = lead.change().map(|(_, configuration)| configuration);
        let next = asked.into_iter().chain(proposed);
        let next: BTreeSet<AcceptorUuid> = next.flat_map(|next| next.members().keys()).copied().collect();
        let sources = || self.open.iter().filter(|open| self.electorate.includes(**open));
        for joiner in next {
            if let Some(source) = lead.snapshot_source(joiner, sources())
                && self.uploads.insert(joiner)
            {
                self.effects.push(Effect::BringSnapshot { joiner, source });
            }
        }
    }

    pub(super) fn snapshot_brought(&mut self, joiner: AcceptorUuid) {
        self.uploads.remove(&joiner);
    }

    /// A later configuration was adopted.
    pub(super) fn change_adopted(&mut self) {
        let Some(change) = &mut self.change else { return };
        let is_made = change.configuration.same_cluster(&self.configuration);
        if is_made && change.slot.is_some() {
            change.step = ChangeStep::Switching;
            self.say(ChangeStage::Switching(self.configuration.era()));
        } else if change.step == ChangeStep::Switching {
            // Only an era that orders values is ended by a change.
            let done = change.done(self.now);
            self.end_change(done);
        } else if is_made || self.configuration.era() > change.configuration.era() {
            self.end_change(ChangeStage::Unknown);
        } else {
            self.end_change(ChangeStage::Refused(ChangeRefusal::Another));
        }
    }

    /// Ends a change whose era orders values: a watermark has passed the slot of the change, and no watermark of the era before
    /// does so. A proposer that merely campaigns in the era proves nothing.
    pub(super) fn finish_change(&mut self) {
        let is_done = |change: &MemberChange| {
            change.step == ChangeStep::Switching && change.slot.is_some_and(|slot| self.chosen_to() > slot)
        };
        if let Some(change) = self.change.as_ref().filter(|change| is_done(change)) {
            let done = change.done(self.now);
            self.end_change(done);
        }
    }

    /// This proposer does not lead any more.
    pub(super) fn change_ended(&mut self) {
        match self.change.as_ref().map(|change| change.step) {
            Some(ChangeStep::Copying | ChangeStep::Pausing { .. }) => {
                self.refuse_change(ChangeRefusal::Deposed);
            }
            Some(ChangeStep::Deciding) => self.end_change(ChangeStage::Unknown),
            Some(ChangeStep::Switching) | None => {}
        }
    }

    fn refuse_change(&mut self, refusal: ChangeRefusal) {
        if let Phase::Leading(lead) = &mut self.phase {
            lead.pause(false);
        }
        self.end_change(ChangeStage::Refused(refusal));
    }

    /// Gives the change up, or finishes it. Joiners of a change that was not made are followed no more.
    fn end_change(&mut self, last: ChangeStage) {
        self.say(last);
        let Some(change) = self.change.take() else { return };
        // The driver ends all uploads with the last news.
        self.uploads.clear();
        for joiner in change.joiners {
            if !self.follows(joiner) {
                self.unfollow(joiner);
            }
        }
        self.effects.push(Effect::LinksChanged);
    }

    fn say_progress(&mut self) {
        if let (Some(change), Phase::Leading(lead)) = (&self.change, &self.phase) {
            let progress = match change.step {
                ChangeStep::Copying => change.progress(lead),
                ChangeStep::Pausing { .. } | ChangeStep::Deciding | ChangeStep::Switching => return,
            };
            self.say(progress);
        }
    }

    fn say(&mut self, stage: ChangeStage) {
        if let Some(change) = &mut self.change
            && change.said.as_ref() != Some(&stage)
        {
            change.said = Some(stage.clone());
            self.effects.push(Effect::Change(stage));
        }
    }
}
