//! Answers of acceptors: promises, accepted values and rejections.

use std::{sync::Arc, time::Duration};

use super::{Effect, End, Lead, Phase, Proposer, Scan, Timer, halt::beyond_repair, lead};
use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{AcceptAnswer, Prepare, PromisePage},
    quorum::Electorate,
    slot::Slot,
};

impl Proposer {
    pub(super) fn promised(
        &mut self,
        acceptor: AcceptorUuid,
        ballot: Ballot,
        scan: Option<Scan>,
        page: PromisePage,
    ) {
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
                    let members = self.open.iter().filter(|open| self.electorate.includes(**open));
                    let members = members.copied().collect();
                    lead.scanned(
                        (&self.electorate, &members),
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
        campaign.page(&self.electorate, acceptor, page);
        let Some(takeover) = campaign.takeover(&self.electorate) else {
            if let Some(unsaid) = campaign.beyond_repair(&self.electorate) {
                self.effects
                    .push(Effect::Halt(beyond_repair(&unsaid, &self.electorate)));
            }
            return;
        };
        self.heard_of(takeover.from);
        self.vain_campaigns = 0;
        let followers: Vec<AcceptorUuid> = self.links().into_keys().collect();
        let mut lead = Lead::new(ballot, Arc::clone(&self.address), takeover, followers);
        for (&acceptor, report) in &self.reports {
            lead.heard_trimmed(acceptor, report.answer.trimmed_to);
        }
        self.phase = Phase::Leading(Box::new(lead));
        for acceptor in std::mem::take(&mut self.unasked).into_keys() {
            self.open_stream(acceptor);
        }
        self.disarm(Timer::GiveUp);
        let timeout = self.settings.leader_timeout;
        self.arm(Timer::Heartbeat, Duration::ZERO, Duration::ZERO);
        self.arm(Timer::Check, timeout, timeout);
        self.shut_old_streams();
    }

    /// Raises an acceptor to our ballot, in steps that the acceptor grants. A round too far above the acceptor's
    /// promise is refused, and another proposer may have driven the rounds up elsewhere. A promise on the way is not
    /// counted.
    pub(super) fn climb(&mut self, acceptor: AcceptorUuid, promised: Ballot) {
        if promised.era() < self.electorate.era() {
            // The acceptor has gone back to an earlier era, or was never brought to ours: the link installs ours.
            self.reopen(acceptor);
            return;
        }
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

    pub(super) fn rejected(&mut self, acceptor: AcceptorUuid, ballot: Ballot, promised: Ballot) {
        if promised.era() > self.electorate.era() {
            // Nothing else of the message is used: this proposer goes on in its era until it has the later configuration.
            self.reopen(acceptor);
            return;
        }
        self.highest = self.highest.max(promised);
        if self.ballot() == Some(ballot) {
            self.step_down(End::Rejected { promised });
        }
    }

    pub(super) fn answered(
        &mut self,
        acceptor: AcceptorUuid,
        ballot: Ballot,
        sequence: u64,
        answer: AcceptAnswer,
    ) {
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
            AcceptAnswer::Rejected(rejection) => self.rejected(acceptor, ballot, rejection.promised),
            AcceptAnswer::Refused(refused) => {
                // A campaign learns of the refusal from its own `Prepare`.
                let is_ours = ballot.era() == self.electorate.era();
                let too_far = is_ours && !refused.promised.admits_jump_to(ballot);
                if too_far && matches!(self.phase, Phase::Leading(_)) {
                    self.climb(acceptor, refused.promised);
                }
            }
            AcceptAnswer::Trimmed { trimmed_to } => {
                self.counted(ballot, |lead, electorate, effects| {
                    lead.trimmed(electorate, acceptor, trimmed_to, effects);
                });
            }
            AcceptAnswer::NoSpace => self.presence.space(acceptor, false),
            AcceptAnswer::Accepted {
                slots,
                voted_to,
                chosen_to,
                known_to,
            } => {
                let marks = lead::Marks {
                    voted_to,
                    chosen_to,
                    known_to,
                };
                let is_counted = self.counted(ballot, |lead, electorate, effects| {
                    lead.accepted(electorate, acceptor, &slots, marks, effects);
                });
                if is_counted {
                    self.presence.space(acceptor, true);
                }
            }
        }
    }

    /// Counts votes by `count`, if this proposer leads at `ballot`. Returns whether this is the case.
    fn counted(
        &mut self,
        ballot: Ballot,
        count: impl FnOnce(&mut Lead, &Electorate, &mut Vec<Effect>),
    ) -> bool {
        let Phase::Leading(lead) = &mut self.phase else {
            return false;
        };
        if lead.ballot() != ballot {
            return false;
        }
        let before = lead.chosen_to();
        count(lead, &self.electorate, &mut self.effects);
        lead.retire(&self.electorate, &self.settings.limits);
        if lead.chosen_to() > before {
            self.progressed();
        }
        true
    }
}
