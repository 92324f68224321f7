//! Standing by: reports of acceptors on the heard proposer, and the destination of commands meanwhile.

use std::{sync::Arc, time::Duration};

use super::{
    Effect, Phase, ProposalOutcome, Proposer, Reason, Timer,
    notice::{Gone, Late, Lateness},
    presence::absent_after,
};
use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{HeardProposer, ReportAnswer},
    slot::Slot,
};

/// Leader timeouts for which commands wait for a leader: several elections, and less than callers like to wait.
const LEADERLESS_TIMEOUTS: u32 = 10;

/// An acceptor's latest answer to a report.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TimedAnswer {
    pub(super) answer: ReportAnswer,
    /// When the answered report was sent.
    pub(super) sent: Duration,
    /// When the answer arrived.
    pub(super) came: Duration,
}

impl Proposer {
    /// An acceptor's evidence of a gone proposer; `None` while the proposer is not gone.
    pub(super) fn gone(&self, report: &TimedAnswer) -> Option<Gone> {
        let HeardProposer {
            ballot,
            silent,
            ended,
            resigned,
            ..
        } = report.answer.heard;
        let counts_after = self.ended_counts_after(ballot);
        let is_over = |ended: &Duration| counts_after.is_some_and(|least| *ended >= least);
        match ended.filter(is_over) {
            _ if resigned => Some(Gone::Resigned),
            Some(ended) => Some(Gone::Ended(ended)),
            None if silent < self.settings.leader_timeout => None,
            None if ballot.round() == 0 => Some(Gone::NoneKnown),
            None => Some(Gone::Silent(silent)),
        }
    }

    /// Address of another leading or campaigning proposer, as far as the acceptors know; `None` when the proposer is
    /// gone.
    pub fn leader(&self) -> Option<Arc<str>> {
        let timeout = self.settings.leader_timeout;
        let heard = self.heard_ballot();
        let is_recent = |report: &&TimedAnswer| {
            self.now.saturating_sub(report.sent) < absent_after(timeout)
                && report.answer.heard.ballot == heard
                && self.gone(report).is_none()
        };
        let HeardProposer { ballot, address, .. } = &self.reports.values().find(is_recent)?.answer.heard;
        // A leader at our own address was an earlier run of this very process.
        let is_another = ballot.proposer() != self.id && *address != self.address && !address.is_empty();
        (ballot.round() > 0 && is_another).then(|| Arc::clone(address))
    }

    /// The members keeping commands waiting, as far as known here.
    pub fn late(&self) -> Vec<Late> {
        let timeout = self.settings.leader_timeout;
        let members = self.electorate.members().iter();
        if !matches!(self.phase, Phase::Standby) {
            let patience = (absent_after(timeout), timeout);
            let late = members.filter_map(|&member| self.presence.late(member, self.awake(), patience));
            return late.collect();
        }
        let late = |&acceptor: &AcceptorUuid| {
            let answer = &self.reports.get(&acceptor)?.answer;
            let why = if !answer.has_space {
                Lateness::NoSpace
            } else if answer.waiting >= timeout {
                Lateness::Waiting(answer.waiting)
            } else {
                return None;
            };
            Some(Late { acceptor, why })
        };
        members.filter_map(late).collect()
    }

    /// The highest ballot heard by acceptors.
    pub(super) fn heard_ballot(&self) -> Ballot {
        let heard = self.reports.values().map(|report| report.answer.heard.ballot);
        heard.max().unwrap_or(Ballot::ZERO)
    }

    /// Whether an answer is younger than a leader timeout, counted from the sent report.
    pub(super) fn is_fresh(&self, report: &TimedAnswer) -> bool {
        self.now.saturating_sub(report.sent) < self.settings.leader_timeout
    }

    pub(super) fn reported(&mut self, acceptor: AcceptorUuid, sent: Duration, answer: ReportAnswer) {
        if !self.known.contains(&acceptor) {
            return;
        }
        if answer.heard.ballot.max(answer.promised).era() > self.electorate.era() {
            // Nothing else of the report is used, above all not its watermark: a campaign above the change that ended the
            // present era would miss the change. An acceptor raises its watermark in a later era only after a promise of this
            // era, and the report shows the promise of the same moment.
            self.reopen(acceptor);
            return;
        }
        if !self.electorate.includes(acceptor) {
            // The report of a joiner says nothing about the leader of this era.
            if let Phase::Leading(lead) = &mut self.phase {
                lead.heard_trimmed(acceptor, answer.trimmed_to);
            }
            return;
        }
        self.highest = self.highest.max(answer.heard.ballot);
        self.heard_of(answer.known_to);
        // A late answer of a broken link: a campaign could not ask that acceptor for anything.
        if !self.open.contains(&acceptor) {
            return;
        }
        let came = self.now;
        let report = TimedAnswer { answer, sent, came };
        self.observe(acceptor, &report);
        if let Phase::Leading(lead) = &mut self.phase {
            _ = lead.heard_voted(report.answer.voted_to);
            lead.heard_trimmed(acceptor, report.answer.trimmed_to);
        }
        self.reports.insert(acceptor, report);
        self.late_link_reported(acceptor);
        self.consider();
    }

    /// Stops counting an acceptor's last answer.
    pub(super) fn forget_report(&mut self, acceptor: AcceptorUuid) {
        self.reports.remove(&acceptor);
        self.challenge.forget(acceptor);
        self.consider();
    }

    /// Every slot below is chosen. A new highest watermark is progress.
    pub(super) fn heard_of(&mut self, chosen_to: Slot) {
        if chosen_to > self.chosen_to_heard {
            self.chosen_to_heard = chosen_to;
            self.progressed();
        }
    }

    /// Something was chosen: the next waits are short again.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
        self.vain_campaigns = 0;
        self.challenge.progressed(self.now);
    }

    /// Checks whether a standby has a reason to campaign.
    pub(super) fn consider(&mut self) {
        if matches!(self.phase, Phase::Standby) && !self.stopping {
            self.consider_inquiry();
            self.consider_election();
            self.consider_challenge();
        }
    }

    /// Has waiting commands given back, unless a proposer leads before long.
    pub(super) fn await_leader(&mut self) {
        if !self.leaderless && !self.queue.is_empty() {
            self.leaderless = true;
            let patience = self.settings.leader_timeout * LEADERLESS_TIMEOUTS;
            self.arm(Timer::Leaderless, patience, patience);
        }
    }

    /// No proposer leads, as far as known here. Another proposer may know better, so callers need not wait here.
    pub(super) fn give_back(&mut self) {
        self.leaderless = false;
        let refused = self.queue.remove_where(|_| true).into_iter();
        let outcome = ProposalOutcome::NotProposed(Reason::NotLeading);
        self.effects
            .extend(refused.map(|request| Effect::Answer(request, outcome)));
    }

    /// Sends waiting commands to the heard proposer, or waits for a leader.
    pub(super) fn forward(&mut self) {
        let Some(address) = self.leader() else {
            return self.await_leader();
        };
        for pending in self.queue.drain() {
            self.forwarded.insert(pending.request);
            self.effects.push(Effect::Forward(pending, Arc::clone(&address)));
        }
    }
}
