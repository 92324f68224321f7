//! The learner: knows a slot's value once a quorum voted for it, and hands values out in slot order.
//!
//! Votes come from every acceptor, values from one. A slot is learned when a phase-2 quorum of distinct acceptors
//! voted at *one* ballot b and a row of ballot ≥ b is held; or when a row came in a frame whose own watermark is
//! above it. Source: *Paxos Made Simple* §2.3.

use std::collections::BTreeMap;

use super::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::Row,
    quorum::{Electorate, Tally},
    slot::{Slot, SlotRange},
    value::Value,
};

/// How many slots from the first unlearned one on are tallied and held (exclusive). What is beyond waits at its
/// sender: the adapter does not take the next frame until this one is admitted.
pub const WINDOW_SLOTS: u64 = 16_384;

/// How many bytes of values may be held for slots that are not handed out yet. The first unlearned slot's value
/// is admitted whatever its size.
pub const WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// Whether the core took all of what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Admission {
    /// All of it.
    Whole,
    /// Something lies beyond the window: give it again, whole, when the learner has advanced. Nothing is counted
    /// twice.
    Later,
}

/// The state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learner {
    electorate: Electorate,
    /// Every slot below it was handed out.
    next: Slot,
    slots: BTreeMap<Slot, Progress>,
    bytes: usize,
}

/// What is known of one slot that is not handed out yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Progress {
    /// Votes are counted for each ballot apart.
    votes: BTreeMap<Ballot, Tally>,
    /// The lowest ballot found to have a quorum.
    chosen_at: Option<Ballot>,
    /// The row of the highest ballot seen.
    row: Option<(Ballot, Value)>,
    /// The chosen value, known from a watermark.
    settled: Option<Value>,
}

impl Progress {
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
    /// Begins at `next`, the first slot that the learner's own disk does not hold.
    pub fn new(electorate: Electorate, next: Slot) -> Self {
        Self {
            electorate,
            next,
            slots: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The first slot not learned: where to observe from, after any break.
    pub fn next(&self) -> Slot {
        self.next
    }

    /// Who may vote.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Counts `acceptor`'s votes at `ballot` for a range of slots.
    pub fn votes(&mut self, acceptor: AcceptorUuid, ballot: Ballot, range: SlotRange) -> Admission {
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
            Admission::Later
        } else {
            Admission::Whole
        }
    }

    /// Takes the rows of one frame with the frame's own watermark, which speaks for these rows and no others.
    pub fn rows(&mut self, rows: &[Row], frame_chosen_to: Slot) -> Admission {
        let end = self.next.plus(WINDOW_SLOTS);
        let mut admission = Admission::Whole;
        for row in rows {
            // What cannot be read proves nothing; another acceptor will have it.
            let Some((ballot, value)) = &row.accepted else {
                continue;
            };
            if row.slot < self.next {
                continue;
            }
            let bytes = value.as_bytes().len();
            let crowded = self.bytes + bytes > WINDOW_BYTES && row.slot != self.next;
            if row.slot >= end || crowded {
                admission = Admission::Later;
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
            if row.slot < frame_chosen_to {
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

    /// Hands out what is learned, in slot order, from [`Self::next`] on, at most `count` slots.
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

    /// Whether the first unlearned slot is known to be chosen while its value is missing: the value feed is the
    /// one to blame when this lasts.
    pub fn lacks_value(&self) -> bool {
        self.slots
            .get(&self.next)
            .is_some_and(|progress| progress.is_chosen() && progress.learned().is_none())
    }

    /// Whether anything was voted on at or above the first unlearned slot.
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
