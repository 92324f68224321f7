//! A campaign: collects a phase-1 quorum of promises, and determines the values to propose first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Accept, Prepare, PromisePage, SLOTS_AHEAD_MAX},
    proposer::slot_votes::SlotVotes,
    quorum::{Electorate, Tally},
    slot::Slot,
    value::Value,
};

mod changes;

/// Promises collected so far at one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Campaign {
    ballot: Ballot,
    from: Slot,
    promises: BTreeMap<AcceptorUuid, Promise>,
    /// The rows of each slot, over all promises received.
    votes: BTreeMap<Slot, SlotVotes>,
    /// The highest watermark: from the start of the campaign, or reported by a promise.
    chosen_to: Slot,
}

/// Promise of an acceptor, as far as pages arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Promise {
    /// Every slot from the campaign's `from` to here (exclusive) was reported.
    covered_to: Slot,
    complete: bool,
    known_to: Slot,
    trimmed_to: Slot,
    voted_to: Slot,
    /// Slots with an unreadable row: no report on the slot.
    unknown: BTreeSet<Slot>,
}

/// The starting position of a new leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    /// w: every slot below is chosen. Below w, this leader proposes nothing of its own accord.
    pub from: Slot,
    /// Mandatory values at `from`, `from + 1`, …, before anything new.
    pub values: Vec<Value>,
    /// Mandatory values at slots further on, to be proposed once all slots below are proposed. No leader of this
    /// protocol leaves such votes. Such votes are too far ahead for filling the slots between, but do count.
    pub far: BTreeMap<Slot, Value>,
}

impl Campaign {
    /// Begins; `from` is the highest watermark heard.
    pub(super) fn new(ballot: Ballot, from: Slot) -> Self {
        Self {
            ballot,
            from,
            promises: BTreeMap::new(),
            votes: BTreeMap::new(),
            chosen_to: from,
        }
    }

    /// The ballot being prepared.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The same `Prepare` for every acceptor: otherwise an acceptor might leave out a slot reported elsewhere.
    pub(super) fn prepare(&self, address: &Arc<str>) -> Prepare {
        Prepare {
            ballot: self.ballot,
            from: self.from,
            address: Arc::clone(address),
        }
    }

    pub(super) fn heartbeat(&self, address: &Arc<str>) -> Accept {
        Accept {
            ballot: self.ballot,
            sequence: 0,
            chosen_to: Slot::ZERO,
            proposals: Vec::new(),
            address: Arc::clone(address),
            resign: false,
        }
    }

    /// Takes a page. Pages after a lost page do not count; pages of a restarted stream do. An acceptor outside the
    /// configuration counts nowhere.
    pub(super) fn page(&mut self, electorate: &Electorate, acceptor: AcceptorUuid, page: PromisePage) {
        if !electorate.includes(acceptor) {
            return;
        }
        let promise = self.promises.entry(acceptor).or_insert_with(|| Promise {
            covered_to: self.from,
            complete: false,
            known_to: Slot::ZERO,
            trimmed_to: Slot::ZERO,
            voted_to: Slot::ZERO,
            unknown: BTreeSet::new(),
        });
        if page.from > promise.covered_to || promise.complete {
            return;
        }
        promise.covered_to = promise.covered_to.max(page.next);
        promise.complete = page.last;
        promise.known_to = promise.known_to.max(page.known_to);
        promise.trimmed_to = promise.trimmed_to.max(page.trimmed_to);
        promise.voted_to = promise.voted_to.max(page.voted_to);
        // Slots below are chosen and never taken over: rows below are not held either.
        self.chosen_to = self.chosen_to.max(page.known_to).max(page.trimmed_to);
        while let Some(first) = self.votes.first_entry()
            && *first.key() < self.chosen_to
        {
            first.remove();
        }
        for row in page.rows.into_iter().filter(|row| row.slot >= self.chosen_to) {
            match row.accepted {
                None => {
                    promise.unknown.insert(row.slot);
                }
                Some(accepted) => {
                    let votes = self.votes.entry(row.slot).or_default();
                    votes.take(electorate, acceptor, accepted, false);
                }
            }
        }
    }

    /// The starting position, once a phase-1 quorum has reported everything.
    ///
    /// An acceptor that reports a slot as *unknown* has reported nothing about the slot, and does not count there. If
    /// less than a quorum remains, the campaign waits for other acceptors. The campaign also waits while two values of
    /// one ballot can both have been chosen.
    pub fn takeover(&self, electorate: &Electorate) -> Option<Takeover> {
        if self.complete().count() < electorate.quorums().phase1() {
            return None;
        }
        let (from, voted_to) = self.stretch();
        if !self.unsaid(electorate, from).is_empty() {
            return None;
        }
        let to = self.near(from, voted_to);
        let value = |slot| {
            let value = self.required(electorate, slot);
            value.map_or_else(Value::noop, Clone::clone)
        };
        let mut takeover = Takeover {
            from,
            values: from.to(to).map(value).collect(),
            far: self
                .votes
                .range(to..)
                .map(|(&slot, _)| (slot, value(slot)))
                .collect(),
        };
        self.end_at_change(electorate, &mut takeover);
        Some(takeover)
    }

    /// Slots reported by every acceptor, with no quorum to determine the value; `None` while a quorum still may.
    pub(super) fn beyond_repair(&self, electorate: &Electorate) -> Option<Vec<Slot>> {
        if self.complete().count() < electorate.members().len() {
            return None;
        }
        let (from, _) = self.stretch();
        let unsaid = self.unsaid(electorate, from);
        (!unsaid.is_empty()).then(|| unsaid.into_iter().collect())
    }

    fn complete(&self) -> impl Iterator<Item = (&AcceptorUuid, &Promise)> {
        self.promises.iter().filter(|(_, promise)| promise.complete)
    }

    /// The value demanded by the votes for a slot, if any.
    fn required(&self, electorate: &Electorate, slot: Slot) -> Option<&Value> {
        let votes = self.votes.get(&slot)?;
        votes.required(electorate, || self.reported(electorate, slot))
    }

    /// w, and one past the last slot to be taken over.
    fn stretch(&self) -> (Slot, Slot) {
        let marks = |mark: fn(&Promise) -> Slot| self.promises.values().map(mark).max().unwrap_or_default();
        let from = self
            .from
            .max(marks(|promise| promise.known_to))
            .max(marks(|promise| promise.trimmed_to));
        (from, from.max(marks(|promise| promise.voted_to)))
    }

    /// One past the last slot taken over at once: the slot of the last vote possible from a leader of this protocol.
    ///
    /// Such a vote is below the sum of the leader's watermark and [`SLOTS_AHEAD_MAX`]. Each slot below that watermark
    /// was chosen, so a quorum of promises holds a row for the slot. The watermark is therefore at or below the first
    /// slot without a row.
    fn near(&self, from: Slot, voted_to: Slot) -> Slot {
        let has_row = |slot: &Slot| {
            let mut promises = self.promises.values();
            self.votes.contains_key(slot) || promises.any(|promise| promise.unknown.contains(slot))
        };
        let first_gap = from.to(voted_to).find(|slot| !has_row(slot)).unwrap_or(voted_to);
        let limit = first_gap.plus(SLOTS_AHEAD_MAX);
        if voted_to <= limit {
            return voted_to;
        }
        let last = self.votes.range(..limit).next_back();
        last.map_or(from, |(slot, _)| slot.next()).max(first_gap)
    }

    /// The first slot with two values of one ballot whose reports do not show yet which value may be chosen, and the
    /// acceptors without a complete promise. `None` while other reports are missing as well.
    pub(super) fn contested(&self, electorate: &Electorate) -> Option<(Slot, Vec<AcceptorUuid>)> {
        let complete: BTreeSet<AcceptorUuid> = self.complete().map(|(&acceptor, _)| acceptor).collect();
        if complete.len() < electorate.quorums().phase1() {
            return None;
        }
        let (from, _) = self.stretch();
        let mut contested = self.votes.range(from..).filter(|(_, votes)| votes.is_contested());
        let (&slot, _) = contested.find(|&(&slot, _)| self.required(electorate, slot).is_none())?;
        let awaited = electorate
            .members()
            .iter()
            .filter(|member| !complete.contains(member));
        Some((slot, awaited.copied().collect()))
    }

    /// Slots from `from` on with an open value: no quorum has reported the slot, or two values of one ballot can both
    /// have been chosen. Slots without a damaged row are reported by all complete promises.
    fn unsaid(&self, electorate: &Electorate, from: Slot) -> BTreeSet<Slot> {
        let damaged = self
            .promises
            .values()
            .flat_map(|promise| promise.unknown.range(from..));
        let phase1 = electorate.quorums().phase1();
        let is_unsaid = |slot: &Slot| self.reported(electorate, *slot).count() < phase1;
        let contested = self.votes.range(from..).filter(|(_, votes)| votes.is_contested());
        let is_open = |slot: &Slot| self.required(electorate, *slot).is_none();
        let open = contested.map(|(&slot, _)| slot).filter(is_open);
        damaged.copied().filter(is_unsaid).chain(open).collect()
    }

    /// The acceptors with a complete report that says what the slot holds.
    fn reported(&self, electorate: &Electorate, slot: Slot) -> Tally {
        let mut reported = Tally::default();
        for (&acceptor, promise) in self.complete() {
            if !promise.unknown.contains(&slot) {
                reported.add(electorate, acceptor);
            }
        }
        reported
    }
}

#[cfg(test)]
mod tests;
