//! Phase 2: votes for the values of a leader, and the watermarks over the votes.

use std::collections::BTreeMap;

use super::{Acceptor, Group, HeldRow, contradictions::Violation, promises::NotGranted};
use crate::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Refused, SLOTS_AHEAD_MAX},
    slot::{Slot, SlotRange},
};

impl Acceptor {
    /// The slots of `accept` below the rows in memory. [`Self::accept`] needs the stored rows of these slots.
    pub fn slots_to_read(&self, accept: &Accept) -> impl Iterator<Item = Slot> {
        accept
            .proposals
            .iter()
            .map(|&(slot, _)| slot)
            .filter(|&slot| slot >= self.trimmed_to && slot < self.known_to)
    }

    /// Phase 2: votes for every proposal of the message, or for none.
    ///
    /// `below` holds the store's rows for [`Self::slots_to_read`]; a slot without a row is left out.
    ///
    /// # Errors
    /// When the message proves a breach of the protocol: `group` is unchanged.
    pub fn accept(
        &self,
        group: &mut Group,
        accept: &Accept,
        below: &BTreeMap<Slot, HeldRow>,
    ) -> Result<AcceptAnswer, Violation> {
        match group.check_ballot(accept.ballot) {
            Err(NotGranted::Rejected(rejection)) => return Ok(AcceptAnswer::Rejected(rejection)),
            Err(NotGranted::Refused(refusal)) => return Ok(AcceptAnswer::Refused(refusal)),
            Ok(()) => {}
        }
        let limit = accept.chosen_to.plus(SLOTS_AHEAD_MAX);
        for &(slot, _) in &accept.proposals {
            if slot >= limit {
                let reason = format!(
                    "slot {slot} is not below {limit}, the message's chosen_to plus {SLOTS_AHEAD_MAX}"
                );
                return Ok(AcceptAnswer::Refused(Refused {
                    reason,
                    promised: group.promised,
                }));
            }
            // The mark of the group: an earlier request of the group may have trimmed.
            if slot < group.trimmed_to {
                return Ok(AcceptAnswer::Trimmed {
                    trimmed_to: group.trimmed_to,
                });
            }
        }
        for (slot, value) in &accept.proposals {
            self.check_value(group, accept.ballot, *slot, value, below)?;
        }

        group.promise(accept.ballot, &accept.address);
        group.resigned = accept.resign;
        for (slot, value) in &accept.proposals {
            let held = self.held(group, *slot, below);
            let lost = self.damaged.contains(slot) && !group.rows.contains_key(slot);
            if lost || held != Some(HeldRow::Accepted(accept.ballot, value.fingerprint())) {
                group.rows.insert(*slot, (accept.ballot, value.clone()));
                group.look_for_change(value);
                group.voted_to = group.voted_to.max(slot.next());
                group.needs_commit = true;
            }
        }
        self.advance_known_to(group, accept.ballot, accept.chosen_to);
        group.claim(accept.chosen_to);
        Ok(AcceptAnswer::Accepted {
            slots: SlotRange::collect(accept.proposals.iter().map(|&(slot, _)| slot)),
            voted_to: group.voted_to,
            chosen_to: self.sound_to(group),
            known_to: group.known_to,
        })
    }

    /// The sound watermark: every slot below is chosen, and this acceptor's rows below hold the chosen values.
    /// Decreases when a row is found damaged.
    pub fn chosen_to(&self) -> Slot {
        let first = self.damaged.first().copied().unwrap_or(Slot::MAX);
        first.min(self.known_to)
    }

    /// The known watermark: every slot below is chosen, whatever the state of this acceptor's rows. An intact row below
    /// the watermark holds the chosen value. Falls back to the stored watermark when the process restarts.
    pub fn known_to(&self) -> Slot {
        self.known_to
    }

    /// One past the highest slot accepted, at any ballot; at least `trimmed_to`.
    pub fn voted_to(&self) -> Slot {
        self.voted_to
    }

    /// The sound watermark after `group` is taken into memory.
    fn sound_to(&self, group: &Group) -> Slot {
        let mut damaged = self.damaged.range(group.trimmed_to..).copied();
        let first = damaged.find(|slot| !group.rows.contains_key(slot));
        first.unwrap_or(Slot::MAX).min(group.known_to)
    }

    /// Known state of a slot's row: from the group, from memory, or from the rows read for this request.
    pub(super) fn held(&self, group: &Group, slot: Slot, below: &BTreeMap<Slot, HeldRow>) -> Option<HeldRow> {
        let staged = group
            .rows
            .get(&slot)
            .map(|(ballot, value)| HeldRow::Accepted(*ballot, value.fingerprint()));
        staged
            .or_else(|| self.rows.get(&slot).copied())
            .or_else(|| below.get(&slot).copied())
    }

    /// Advances the watermark over contiguous rows of the claimant's own ballot. A row of an older ballot below a
    /// leader's watermark proves nothing: the value may differ from the chosen value.
    pub(super) fn advance_known_to(&self, group: &mut Group, ballot: Ballot, claimed: Slot) {
        while group.known_to < claimed {
            let row = match group.rows.get(&group.known_to) {
                Some(&(ballot, _)) => Some(ballot),
                None => match self.rows.get(&group.known_to) {
                    Some(&HeldRow::Accepted(ballot, _)) => Some(ballot),
                    Some(HeldRow::Unknown) | None => None,
                },
            };
            if row != Some(ballot) {
                break;
            }
            group.known_to = group.known_to.next();
        }
    }
}

impl Group {
    /// Takes the watermark of an admitted ballot. A candidate claims nothing.
    pub(super) fn claim(&mut self, chosen_to: Slot) {
        let claimed = Some(chosen_to).filter(|&claimed| claimed > Slot::ZERO);
        self.claimed_to = claimed.unwrap_or(self.claimed_to).max(self.known_to);
    }
}
