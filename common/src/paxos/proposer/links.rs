//! Links to acceptors: which acceptors can be called, and which acceptors are counted.
//!
//! **A late link.** The evidence of a campaign is younger than a leader timeout. A link may open later: after a change of members,
//! for example, all links of the new leader are opened again. By then another proposer may lead, at the round of this campaign,
//! and a `Prepare` of this campaign would end a live reign. So a candidate first asks an acceptor with a late link
//! whom the acceptor hears. A live proposer at the round of this campaign, or above, began after the evidence of this campaign,
//! and the candidate gives way. A proposer of a lower round is the proposer that this campaign is to replace. Without a fresh
//! report for two leader timeouts, the candidate asks for the promise.

use std::time::Duration;

use super::{Effect, End, Phase, Proposer};
use crate::paxos::{identity::AcceptorUuid, witness::GuardFinding};

impl Proposer {
    pub(super) fn found_out(&mut self, found: Vec<GuardFinding>) {
        for found in found {
            match found {
                // The connection opens in the same turn, and is then reopened. Answers of earlier runs were rightly
                // counted.
                GuardFinding::Unwitnessed { acceptor, .. } => {
                    self.known.remove(&acceptor);
                }
                GuardFinding::Suspected(suspect) => {
                    // Otherwise the connection is about to open, and is reopened then.
                    let is_open = self.open.contains(&suspect);
                    self.distrust(suspect);
                    if is_open {
                        self.effects.push(Effect::Reopen(suspect));
                    }
                }
                GuardFinding::Refused(went_back) => {
                    self.distrust(went_back.acceptor);
                    self.effects.push(Effect::Refused(went_back));
                }
                GuardFinding::Readmitted(acceptor) => self.effects.push(Effect::Readmitted(acceptor)),
            }
        }
    }

    /// Stops counting an acceptor. If the acceptor may have been counted, this campaign or reign has no basis and ends. The
    /// watermark of an acceptor outside, reported from the lost disk, counts for no later change.
    fn distrust(&mut self, acceptor: AcceptorUuid) {
        self.known.remove(&acceptor);
        if self.open.contains(&acceptor) {
            self.closed(acceptor);
        }
        let mut has_counted = self.counted.contains(&acceptor);
        if let Phase::Leading(lead) = &mut self.phase {
            has_counted |= lead.has_vote_for_change(acceptor);
            lead.closed(acceptor);
        }
        if has_counted && !matches!(self.phase, Phase::Standby) {
            self.step_down(End::Distrusted(acceptor));
        }
    }

    pub(super) fn opened(&mut self, acceptor: AcceptorUuid) {
        if !self.follows(acceptor) {
            return;
        }
        let is_member = self.electorate.includes(acceptor);
        if !self.guard.trusts(acceptor) {
            // The next opening shows the runs again: the shown runs may date from before a restart, and the right disk
            // may be back by then.
            self.effects.push(Effect::Reopen(acceptor));
            return;
        }
        self.open.insert(acceptor);
        if is_member || self.votes_in_change(acceptor) {
            self.counted.insert(acceptor);
        }
        let was_unknown = self.known.insert(acceptor);
        if is_member && self.is_late() && !self.streams.is_asked(acceptor) {
            self.unasked.insert(acceptor, self.awake());
            self.effects.push(Effect::ReportNow);
            return;
        }
        if is_member || self.is_of_change(acceptor) {
            self.open_stream(acceptor);
        }
        match &mut self.phase {
            Phase::Standby => {}
            Phase::Campaigning(campaign) if is_member => {
                let prepare = campaign.prepare(&self.address);
                self.effects.push(Effect::Prepare(acceptor, prepare, None));
            }
            // Answers are lost if given while the acceptor did not count.
            Phase::Leading(lead) if was_unknown && self.streams.is_open(acceptor) => lead.reopened(acceptor),
            Phase::Campaigning(_) | Phase::Leading(_) => {}
        }
    }

    /// Whether the evidence of the present campaign is old.
    fn is_late(&self) -> bool {
        let lasted = self.presence.lasted(self.awake());
        matches!(self.phase, Phase::Campaigning(_)) && lasted >= self.settings.leader_timeout
    }

    /// An acceptor has reported. If its link is late, the candidate asks for a promise now, unless a later proposer lives.
    pub(super) fn late_link_reported(&mut self, acceptor: AcceptorUuid) {
        if !self.unasked.contains_key(&acceptor) {
            return;
        }
        let report = self.reports.get(&acceptor).filter(|report| self.is_fresh(report));
        let (Some(report), Phase::Campaigning(campaign)) = (report, &self.phase) else {
            return;
        };
        let heard = report.answer.heard.ballot;
        let is_later = heard.round() >= campaign.ballot().round() && heard.proposer() != self.id;
        let is_alive = self.gone(report).is_none();
        if is_later && is_alive {
            self.unasked.remove(&acceptor);
            self.step_down(End::Overtaken { heard });
        } else {
            self.ask_over_late_link(acceptor);
        }
    }

    /// Asks for promises over late links without a fresh report for two leader timeouts: reports may be slow for long, and
    /// giving way only saves time.
    pub(super) fn ask_over_overdue_links(&mut self) {
        let (now, wait) = (self.awake(), 2 * self.settings.leader_timeout);
        let is_overdue = |(_, opened): &(&AcceptorUuid, &Duration)| now.saturating_sub(**opened) >= wait;
        let overdue = self.unasked.iter().filter(is_overdue);
        let overdue: Vec<_> = overdue.map(|(&acceptor, _)| acceptor).collect();
        for acceptor in overdue {
            self.ask_over_late_link(acceptor);
        }
    }

    fn ask_over_late_link(&mut self, acceptor: AcceptorUuid) {
        let Phase::Campaigning(campaign) = &self.phase else {
            return;
        };
        let prepare = campaign.prepare(&self.address);
        self.unasked.remove(&acceptor);
        self.open_stream(acceptor);
        self.effects.push(Effect::Prepare(acceptor, prepare, None));
    }

    pub(super) fn closed(&mut self, acceptor: AcceptorUuid) {
        self.open.remove(&acceptor);
        self.unasked.remove(&acceptor);
        self.forget_report(acceptor);
    }
}
