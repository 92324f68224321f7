//! The learner: learns a slot's value once a quorum has voted for the slot, and hands out values in slot order.
//!
//! Votes come from every acceptor, values from a single acceptor. A slot is learned in either of two cases. A phase-2
//! quorum of distinct acceptors voted at *one* ballot b, and a row of ballot ≥ b is held. Or a row arrived in a frame,
//! and the watermark of the same frame is above the slot. Source: *Paxos Made Simple* §2.3.

use std::collections::BTreeMap;

use super::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::Row,
    quorum::{Electorate, Tally},
    slot::{Slot, SlotRange},
    value::Value,
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
    /// Votes, counted for each ballot separately.
    votes: BTreeMap<Ballot, Tally>,
    /// The lowest ballot found to have a quorum.
    chosen_at: Option<Ballot>,
    /// The row of the highest ballot seen.
    row: Option<(Ballot, Value)>,
    /// The chosen value, known from a watermark.
    settled: Option<Value>,
}

impl SlotProgress {
    fn learned(&self) -> Option<&Value> {
        if let Some(value) = &self.settled {
            return Some(value);
        }
        match (self.chosen_at, &self.row) {
            (Some(chosen_at), Some((ballot, value))) if *ballot >= chosen_at => Some(value),
            _ => None,
        }
    }

    fn is_chosen(&self) -> bool {
        self.chosen_at.is_some() || self.settled.is_some()
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

    /// The learner's position: the first slot that is not learned; at least [`Self::next`]. Learned slots below may wait
    /// to be handed out.
    pub fn learned_to(&self) -> Slot {
        let waiting = self.next.to(Slot::MAX).zip(&self.slots);
        let learned = waiting
            .take_while(|(next, (slot, progress))| next == *slot && progress.learned().is_some())
            .count();
        self.next.plus(learned as u64)
    }

    /// The acceptors with a vote.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Counts `acceptor`'s votes at `ballot` for a range of slots.
    pub fn votes(&mut self, acceptor: AcceptorUuid, ballot: Ballot, range: SlotRange) -> Intake {
        let end = self.next.plus(WINDOW_SLOTS);
        let phase2 = self.electorate.quorums().phase2();
        for slot in range.from.max(self.next).to(range.to.min(end)) {
            let progress = self.slots.entry(slot).or_default();
            let tally = progress.votes.entry(ballot).or_default();
            tally.add(&self.electorate, acceptor);
            if tally.count() >= phase2 && progress.chosen_at.is_none_or(|chosen_at| ballot < chosen_at) {
                progress.chosen_at = Some(ballot);
            }
        }
        if range.to > end {
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
                .map_or(0, |(_, value)| value.as_bytes().len());
            if row.slot < known_to {
                progress.row = None;
                progress.settled = Some(value.clone());
            } else if progress.row.as_ref().is_none_or(|(held, _)| held < ballot) {
                progress.row = Some((*ballot, value.clone()));
            } else {
                continue;
            }
            self.bytes = self.bytes - replaced + bytes;
        }
        admission
    }

    /// Hands out learned values in slot order, from [`Self::next`] on, at most `count` slots.
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
            learned.push((self.next, value));
            self.next = self.next.next();
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
