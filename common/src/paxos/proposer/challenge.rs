//! Challenges: the remedy when a leader or candidate reaches only stuck acceptors, while this standby reaches working
//! acceptors.
//!
//! A standby challenges the heard proposer when work is wanted, nothing has moved for some seconds, and enough
//! acceptors could vote here at once. A proposer never challenges a leader with progress.

use std::{collections::BTreeMap, time::Duration};

use super::{Proposer, Timer, notice::Why, patience::patience, standby::TimedAnswer};
use crate::paxos::{ballot::Ballot, identity::AcceptorUuid};

/// Longest gap between two waiting commands within a single wait: callers that retry continue the same wait.
const DEMAND_GAP: Duration = Duration::from_secs(1);

/// Longest time between two answers of a continuously answering acceptor, unless the leader timeout is longer: an idle
/// standby reports rarely.
const ANSWER_GAP: Duration = Duration::from_secs(1);

/// A standby's observations of the work of other proposers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Challenge {
    /// Since when nothing has moved, and no new proposer was heard.
    quiet_since: Duration,
    /// The highest ballot heard.
    heard: Ballot,
    /// Heard ballot and its work, for each acceptor.
    work: BTreeMap<AcceptorUuid, (Ballot, u64)>,
    /// Since when each acceptor could have voted at once.
    ready_since: BTreeMap<AcceptorUuid, Duration>,
    /// Since when anything has waited to be chosen, without a gap; and when anything last waited.
    demand: Option<(Duration, Duration)>,
    armed: bool,
    in_vain: u32,
}

impl Challenge {
    pub(super) fn progressed(&mut self, now: Duration) {
        self.quiet_since = now;
        self.in_vain = 0;
    }

    pub(super) fn forget(&mut self, acceptor: AcceptorUuid) {
        self.ready_since.remove(&acceptor);
    }

    /// The timer no longer runs.
    pub(super) fn disarmed(&mut self) {
        self.armed = false;
    }
}

impl Proposer {
    /// Takes in an answer to a report, before the answer replaces the previous answer.
    pub(super) fn observe(&mut self, acceptor: AcceptorUuid, report: &TimedAnswer) {
        let now = self.now;
        let gap = ANSWER_GAP.max(self.settings.leader_timeout);
        let last = self.reports.get(&acceptor);
        let goes_on = last.is_some_and(|last| now.saturating_sub(last.came) < gap);
        let is_ready = self.is_fresh(report)
            && report.answer.has_space
            && report.answer.waiting < self.settings.leader_timeout;
        let challenge = &mut self.challenge;
        if !is_ready {
            challenge.ready_since.remove(&acceptor);
        } else if !goes_on || !challenge.ready_since.contains_key(&acceptor) {
            challenge.ready_since.insert(acceptor, now);
        }
        let heard = &report.answer.heard;
        let work = (heard.ballot, heard.work);
        if challenge.work.insert(acceptor, work) != Some(work) {
            challenge.quiet_since = now;
        }
        if heard.ballot > challenge.heard {
            challenge.heard = heard.ballot;
            challenge.quiet_since = now;
            // Commands sent to the previous proposer say nothing about the new proposer.
            self.forwarded.clear();
        }
    }

    pub(super) fn consider_challenge(&mut self) {
        self.note_demand();
        if self.challenge.armed {
            if self.no_progress_for().is_none() {
                self.challenge.armed = false;
                self.disarm(Timer::Challenge);
            }
        } else if self.no_progress_for().is_some() {
            self.challenge.armed = true;
            self.arm(Timer::Challenge, Duration::ZERO, self.settings.leader_timeout);
        }
    }

    /// The random wait before a challenge is over.
    pub(super) fn challenge_due(&mut self) {
        self.challenge.armed = false;
        self.note_demand();
        if let Some(lasted) = self.no_progress_for() {
            self.challenge.in_vain += 1;
            let heard = self.heard_ballot();
            self.campaign(Why::NoProgress { heard, lasted });
        }
    }

    /// Notes whether anything waits to be chosen: commands received here, or votes above the chosen slots.
    pub(super) fn note_demand(&mut self) {
        let voted_to = self.reports.values().map(|report| report.answer.voted_to).max();
        let is_wanted = !self.queue.is_empty()
            || !self.forwarded.is_empty()
            || voted_to.is_some_and(|voted_to| voted_to > self.chosen_to_heard);
        if !is_wanted {
            return;
        }
        let now = self.now;
        let since = match self.challenge.demand {
            Some((since, last)) if now.saturating_sub(last) <= DEMAND_GAP => since,
            Some(_) | None => now,
        };
        self.challenge.demand = Some((since, now));
    }

    /// Time without progress despite demand. `None` unless the time is long enough, and enough acceptors could have
    /// voted here throughout.
    fn no_progress_for(&self) -> Option<Duration> {
        let challenge = &self.challenge;
        let (wanted_since, last) = challenge.demand?;
        if self.now.saturating_sub(last) > DEMAND_GAP {
            return None;
        }
        let patience = patience(challenge.in_vain);
        let lasted = self.now.saturating_sub(wanted_since.max(challenge.quiet_since));
        let is_ready = |acceptor: &&AcceptorUuid| {
            let since = challenge.ready_since.get(acceptor);
            let is_fresh = self
                .reports
                .get(acceptor)
                .is_some_and(|report| self.is_fresh(report));
            is_fresh && since.is_some_and(|&since| self.now.saturating_sub(since) >= patience)
        };
        let ready = self.electorate.members().iter().filter(is_ready).count();
        let quorums = self.electorate.quorums();
        (lasted >= patience && ready >= quorums.phase1().max(quorums.phase2())).then_some(lasted)
    }
}
