//! Changes of phase: this proposer campaigns, steps down, stands by, resigns.

use super::{
    Campaign, Effect, ElectionStage, End, Notice, Phase, ProposalOutcome, Proposer, Reason, Timer, Why,
    patience::patience,
};

impl Proposer {
    pub(super) fn campaign(&mut self, why: Why) {
        let electorate = self.electorate.clone();
        let members = self.known.iter().filter(|known| electorate.includes(**known));
        self.counted = members.copied().collect();
        for timer in [Timer::Election, Timer::Challenge] {
            self.disarm(timer);
        }
        self.election = ElectionStage::Idle;
        self.challenge.disarmed();
        self.highest = self.highest.next_of(self.id);
        let ballot = self.highest;
        self.effects
            .push(Effect::Notify(Notice::Campaign { ballot, why }));
        let now = self.awake();
        self.presence.begin(self.open.iter(), now);
        self.promised_at = now;
        self.unasked.clear();
        let campaign = Campaign::new(ballot, self.chosen_to_heard);
        let prepare = campaign.prepare(&self.address);
        self.phase = Phase::Campaigning(campaign);
        for acceptor in self
            .open
            .clone()
            .into_iter()
            .filter(|&open| electorate.includes(open))
        {
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

    /// Returns to standby, to wait a growing time. The fate of values in flight is not known here.
    pub(super) fn step_down(&mut self, why: End) {
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
            self.effects.push(Effect::Notify(notice));
            self.shut_streams(ballot);
        }
        self.stand_by();
        if self.stopping {
            // Another proposer leads, or none can: nothing is left to hand over.
            self.effects.push(Effect::HandedOver);
        }
        self.consider();
    }

    pub(super) fn stand_by(&mut self) {
        self.leave_phase();
        self.refuse_forwarded();
        self.change_ended();
    }

    /// Gives up the lead or the campaign.
    pub(super) fn leave_phase(&mut self) {
        if let Phase::Leading(lead) = std::mem::take(&mut self.phase) {
            let uncertain = lead.into_unanswered();
            self.effects
                .extend(uncertain.map(|request| Effect::Answer(request, ProposalOutcome::Unknown)));
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
        self.election = ElectionStage::Idle;
        self.challenge.disarmed();
        self.is_judging = false;
    }

    /// Turns away the commands that only a leader proposes; all commands when stopping.
    pub(super) fn refuse_forwarded(&mut self) {
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
                .map(|request| Effect::Answer(request, ProposalOutcome::NotProposed(reason))),
        );
    }

    pub(super) fn resign(&mut self) {
        self.stopping = true;
        match &self.phase {
            // Values in flight are completed. Commands still waiting can go elsewhere.
            Phase::Leading(_) => {
                let refused = self.queue.remove_where(|_| true);
                self.effects.extend(
                    refused.into_iter().map(|request| {
                        Effect::Answer(request, ProposalOutcome::NotProposed(Reason::Stopping))
                    }),
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
}
