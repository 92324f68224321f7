//! The learner: learns a slot's value once a quorum has voted for the slot, and hands out values in slot order.
//!
//! Votes come from every acceptor, values from a single acceptor. A slot is learned in either of two cases:
//!
//! 1. A phase-2 quorum of distinct acceptors voted for *one* value at *one* ballot b, and the learner holds a row with
//!    this value at ballot b or higher.
//! 2. A frame has the row, and the watermark of the same frame is above the slot.
//!
//! Source: *Paxos Made Simple* §2.3.
//!
//! Votes count in the configuration of their ballot's era alone: a learner counts the votes of its own era. The row of a
//! slot may have a ballot of any era: a row at or above the ballot of a quorum has the chosen value.
//!
//! A learner works in a later era from a change of members that it *hands out*, or from a configuration in force that an
//! acceptor reports ([`Learner::adopt`]); never from a change that is merely chosen.
//!
//! A ballot has one value for each slot, except after a breach of the protocol: a copied proposer, or a forged message.
//! So each vote names its value, and the votes of two values are not added. A row that contradicts a quorum of votes is
//! not learned: the learner then reads values from another acceptor. Votes of acceptors of earlier releases name no
//! value, and count for every value.

use std::collections::BTreeMap;

use super::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Row, VoteRange},
    quorum::{Electorate, Tally},
    slot::Slot,
    value::{Fingerprint, Value},
};

/// Number of slots that are tallied and held: from the first unlearned slot on, to this many slots further (exclusive).
/// Slots beyond wait at the sender: the adapter does not take the next frame until the present frame is admitted.
pub const WINDOW_SLOTS: u64 = 16_384;

/// Limit of value bytes held for slots not handed out yet. The value of the first unlearned slot is admitted at any
/// size.
pub const WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// Whether the core took all of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Intake {
    /// All of the input.
    Whole,
    /// Something lies beyond the window. Give the input again, whole, once the learner has advanced. Nothing is counted
    /// twice.
    Later,
}

/// Counts votes and holds values until a slot is learned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learner {
    electorate: Electorate,
    /// Every slot below was handed out.
    next: Slot,
    slots: BTreeMap<Slot, SlotProgress>,
    bytes: usize,
}

/// State of a slot that is not handed out yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct SlotProgress {
    /// Votes, counted for each ballot and each value separately; without a value, votes for every value.
    votes: BTreeMap<(Ballot, Option<Fingerprint>), Tally>,
    /// The lowest ballot found to have a quorum, and the value of the quorum, if a vote of the quorum names the value.
    chosen: Option<(Ballot, Option<Fingerprint>)>,
    /// The row of the highest ballot seen.
    row: Option<(Ballot, HeldValue)>,
    /// The chosen value, known from a watermark.
    settled: Option<HeldValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct HeldValue {
    value: Value,
    fingerprint: Fingerprint,
}

impl HeldValue {
    fn new(value: &Value) -> Self {
        Self {
            value: value.clone(),
            fingerprint: value.fingerprint(),
        }
    }
}

impl SlotProgress {
    fn learned(&self) -> Option<&Value> {
        let voted = self.chosen.and_then(|(_, value)| value);
        let agrees = |held: &&HeldValue| voted.is_none_or(|voted| voted == held.fingerprint);
        let held = match (&self.settled, self.chosen, &self.row) {
            (Some(settled), _, _) => Some(settled),
            (None, Some((chosen_at, _)), Some((ballot, held))) if *ballot >= chosen_at => Some(held),
            (None, _, _) => None,
        };
        held.filter(agrees).map(|held| &held.value)
    }

    fn is_chosen(&self) -> bool {
        self.chosen.is_some() || self.settled.is_some()
    }

    /// Counts a vote. A vote that names no value counts for every value of the ballot.
    fn count(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        ballot: Ballot,
        value: Option<Fingerprint>,
    ) {
        self.votes
            .entry((ballot, value))
            .or_default()
            .add(electorate, acceptor);
        if self.chosen.is_some_and(|(chosen_at, _)| chosen_at <= ballot) {
            return;
        }
        let unnamed = self.votes.get(&(ballot, None)).copied().unwrap_or_default();
        let of_ballot = (ballot, None)..=(ballot, Some(Fingerprint::MAX));
        let phase2 = electorate.quorums().phase2();
        let has_quorum = |tally: &Tally| tally.union(unnamed).count() >= phase2;
        let mut quorums = self
            .votes
            .range(of_ballot)
            .filter(|(_, tally)| has_quorum(tally))
            .map(|(chosen, _)| *chosen);
        match (quorums.next(), quorums.next()) {
            // Votes without a value can make several values look chosen: further votes decide.
            (None, _) | (Some((_, Some(_))), Some(_)) => {}
            (Some(chosen), _) => self.chosen = Some(chosen),
        }
    }
}

impl Learner {
    /// Begins at `next`, the first slot missing from the learner's own disk.
    pub fn new(electorate: Electorate, next: Slot) -> Self {
        Self {
            electorate,
            next,
            slots: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The first unlearned slot: the slot to observe from, after any break.
    pub fn next(&self) -> Slot {
        self.next
    }

    /// The learner's position: the first slot that is not learned; at least [`Self::next`]. Learned slots below may
    /// wait to be handed out.
    pub fn learned_to(&self) -> Slot {
        let waiting = self.next.to(Slot::MAX).zip(&self.slots);
        let learned = waiting
            .take_while(|(next, (slot, progress))| next == *slot && progress.learned().is_some())
            .count();
        self.next.plus(learned as u64)
    }

    /// Works in the era of `electorate` from now on, if this is a later era of the same cluster. Votes and rows held are
    /// dropped: the caller opens all streams again, at [`Self::next`]. Returns whether the era is later.
    pub fn adopt(&mut self, electorate: &Electorate) -> bool {
        let is_later = electorate.is_later_than(&self.electorate);
        if is_later {
            self.electorate = electorate.clone();
            self.slots.clear();
            self.bytes = 0;
        }
        is_later
    }

    /// The acceptors with a vote.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Counts `acceptor`'s votes for a range of slots. Votes of other eras than the learner's own count nowhere here.
    pub fn votes(&mut self, acceptor: AcceptorUuid, votes: &VoteRange) -> Intake {
        if votes.ballot.era() != self.electorate.era() {
            return Intake::Whole;
        }
        let end = self.next.plus(WINDOW_SLOTS);
        for slot in votes.slots.from.max(self.next).to(votes.slots.to.min(end)) {
            let progress = self.slots.entry(slot).or_default();
            progress.count(&self.electorate, acceptor, votes.ballot, votes.value(slot));
        }
        if votes.slots.to > end {
            Intake::Later
        } else {
            Intake::Whole
        }
    }

    /// Takes the rows of a frame with the frame's own watermark, which applies only to these rows.
    pub fn rows(&mut self, rows: &[Row], known_to: Slot) -> Intake {
        let end = self.next.plus(WINDOW_SLOTS);
        let mut admission = Intake::Whole;
        for row in rows {
            // An unreadable row proves nothing. Another acceptor will have the row.
            let Some((ballot, value)) = &row.accepted else {
                continue;
            };
            if row.slot < self.next {
                continue;
            }
            let bytes = value.as_bytes().len();
            let crowded = self.bytes + bytes > WINDOW_BYTES && row.slot != self.next;
            if row.slot >= end || crowded {
                admission = Intake::Later;
                continue;
            }
            let progress = self.slots.entry(row.slot).or_default();
            if progress.settled.is_some() {
                continue;
            }
            let replaced = progress
                .row
                .as_ref()
                .map_or(0, |(_, held)| held.value.as_bytes().len());
            if row.slot < known_to {
                progress.row = None;
                progress.settled = Some(HeldValue::new(value));
            } else if progress.row.as_ref().is_none_or(|(held, _)| held < ballot) {
                progress.row = Some((*ballot, HeldValue::new(value)));
            } else {
                continue;
            }
            self.bytes = self.bytes - replaced + bytes;
        }
        admission
    }

    /// Hands out learned values in slot order, from [`Self::next`] on, at most `count` slots. A change to the next era is the
    /// last value handed out: the learner has adopted the era then, and the caller opens all streams again.
    pub fn take_learned(&mut self, count: usize) -> Vec<(Slot, Value)> {
        let mut learned = Vec::new();
        while learned.len() < count {
            let Some(first) = self.slots.first_entry() else {
                break;
            };
            if *first.key() != self.next {
                break;
            }
            let Some(value) = first.get().learned().cloned() else {
                break;
            };
            first.remove();
            self.bytes -= value.as_bytes().len();
            let change = value.ends(&self.electorate).cloned();
            learned.push((self.next, value));
            self.next = self.next.next();
            if change.is_some_and(|change| self.adopt(&change.electorate())) {
                break;
            }
        }
        learned
    }

    /// Whether the first unlearned slot is known to be chosen while the value is missing. If this lasts, the value feed
    /// is at fault.
    pub fn lacks_value(&self) -> bool {
        self.slots
            .get(&self.next)
            .is_some_and(|progress| progress.is_chosen() && progress.learned().is_none())
    }

    /// Whether there was any vote at or above the first unlearned slot.
    pub fn knows_of_more(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Forgets held rows, so that another feed can start over at [`Self::next`]. Votes are facts, and stay.
    pub fn change_feed(&mut self) {
        for progress in self.slots.values_mut() {
            progress.row = None;
            progress.settled = None;
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
