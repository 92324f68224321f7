//! Trimmed slots: an acceptor whose own snapshot covers a slot counts as a voter for the slot.
//!
//! An acceptor that answers `Trimmed` at the leader's ballot has promised no higher ballot. So a later campaign that
//! counts this acceptor starts above the trimmed slots, as if the acceptor had voted. No other report of a trim counts:
//! its sender may have promised a higher ballot, and may have trimmed slots chosen at that ballot.

use super::{Effect, Lead, index};
use crate::paxos::{identity::AcceptorUuid, quorum::Electorate, slot::Slot};

impl Lead {
    /// An acceptor answered at this leader's ballot that slots below `trimmed_to` are trimmed.
    pub(in crate::paxos::proposer) fn trimmed(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        trimmed_to: Slot,
        effects: &mut Vec<Effect>,
    ) {
        let Some(view) = self.views.get_mut(&acceptor) else {
            return;
        };
        view.trimmed_to = view.trimmed_to.max(trimmed_to);
        view.known_to = view.known_to.max(trimmed_to);
        view.chosen_to = view.chosen_to.map(|chosen_to| chosen_to.max(trimmed_to));
        self.count_trimmed(electorate, effects);
    }

    /// Counts the votes of acceptors with trimmed slots for the proposals there. Returns whether the watermark moved.
    pub(in crate::paxos::proposer) fn count_trimmed(
        &mut self,
        electorate: &Electorate,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let end = self.proposed_to();
        for (&acceptor, view) in &mut self.views {
            let to = view.trimmed_to.min(end);
            for slot in view.counted_to.max(self.base).to(to) {
                self.slots[index(self.base, slot)].votes.add(electorate, acceptor);
            }
            view.counted_to = view.counted_to.max(to);
        }
        let before = self.chosen_to;
        self.advance(electorate.quorums().phase2(), effects);
        self.chosen_to > before
    }

    /// An acceptor reports, at any ballot, that slots below `trimmed_to` are trimmed: no row is to be had there.
    pub(in crate::paxos::proposer) fn heard_trimmed(&mut self, acceptor: AcceptorUuid, trimmed_to: Slot) {
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.trimmed_hint = view.trimmed_hint.max(trimmed_to);
        }
    }
}
