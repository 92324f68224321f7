//! Commands of callers: queued or refused.

use super::{Effect, Pending, Phase, ProposalOutcome, Proposer, Reason, RequestId};

impl Proposer {
    pub(super) fn proposed(&mut self, pending: Pending) {
        // The command may have been forwarded before, and has come back.
        self.forwarded.remove(&pending.request);
        let refuse = |reason| Effect::Answer(pending.request, ProposalOutcome::NotProposed(reason));
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

    pub(super) fn cancelled(&mut self, request: RequestId) {
        self.forwarded.remove(&request);
        let outcome = if self.queue.remove(request) {
            ProposalOutcome::NotProposed(Reason::Cancelled)
        } else {
            ProposalOutcome::Unknown
        };
        self.effects.push(Effect::Answer(request, outcome));
    }
}
