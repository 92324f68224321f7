//! A campaign: collects a phase-1 quorum of promises, and determines the values to propose first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Accept, Prepare, PromisePage, SLOTS_AHEAD_MAX},
    quorum::{Electorate, Quorums},
    slot::Slot,
    value::Value,
};

/// Promises collected so far at one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Campaign {
    ballot: Ballot,
    from: Slot,
    promises: BTreeMap<AcceptorUuid, Promise>,
    /// The highest-ballot row of each slot, over all promises received.
    best: BTreeMap<Slot, (Ballot, Value)>,
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
            best: BTreeMap::new(),
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

    /// Takes a page. Pages after a lost page do not count; pages of a restarted stream do.
    pub(super) fn page(&mut self, acceptor: AcceptorUuid, page: PromisePage) {
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
        while let Some(first) = self.best.first_entry()
            && *first.key() < self.chosen_to
        {
            first.remove();
        }
        for row in page.rows.into_iter().filter(|row| row.slot >= self.chosen_to) {
            match row.accepted {
                None => {
                    promise.unknown.insert(row.slot);
                }
                Some((ballot, value)) => {
                    if self.best.get(&row.slot).is_none_or(|(best, _)| *best < ballot) {
                        self.best.insert(row.slot, (ballot, value));
                    }
                }
            }
        }
    }

    /// The starting position, once a phase-1 quorum has reported everything.
    ///
    /// An acceptor that reports a slot as *unknown* has reported nothing about the slot, and does not count there. If
    /// less than a quorum remains, the campaign waits for other acceptors.
    pub fn takeover(&self, quorums: Quorums) -> Option<Takeover> {
        if self.complete().count() < quorums.phase1() {
            return None;
        }
        let (from, voted_to) = self.stretch();
        if !self.unsaid(quorums, from).is_empty() {
            return None;
        }
        let to = self.near(from, voted_to);
        let value = |slot| {
            self.best
                .get(&slot)
                .map_or_else(Value::noop, |(_, value)| value.clone())
        };
        Some(Takeover {
            from,
            values: from.to(to).map(value).collect(),
            far: self
                .best
                .range(to..)
                .map(|(&slot, (_, value))| (slot, value.clone()))
                .collect(),
        })
    }

    /// Slots reported by every acceptor, with no quorum to determine the value; `None` while a quorum still may.
    pub(super) fn beyond_repair(&self, electorate: &Electorate) -> Option<Vec<Slot>> {
        if self.complete().count() < electorate.members().len() {
            return None;
        }
        let (from, _) = self.stretch();
        let unsaid = self.unsaid(electorate.quorums(), from);
        (!unsaid.is_empty()).then(|| unsaid.into_iter().collect())
    }

    fn complete(&self) -> impl Iterator<Item = &Promise> {
        self.promises.values().filter(|promise| promise.complete)
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
            self.best.contains_key(slot) || promises.any(|promise| promise.unknown.contains(slot))
        };
        let first_gap = from.to(voted_to).find(|slot| !has_row(slot)).unwrap_or(voted_to);
        let limit = first_gap.plus(SLOTS_AHEAD_MAX);
        if voted_to <= limit {
            return voted_to;
        }
        let last = self.best.range(..limit).next_back();
        last.map_or(from, |(slot, _)| slot.next()).max(first_gap)
    }

    /// Slots from `from` on without a quorum to determine the value. Slots without a damaged row are reported by all
    /// promises.
    fn unsaid(&self, quorums: Quorums, from: Slot) -> BTreeSet<Slot> {
        let damaged = self
            .promises
            .values()
            .flat_map(|promise| promise.unknown.range(from..));
        damaged
            .copied()
            .filter(|&slot| !self.is_said(quorums, slot))
            .collect()
    }

    fn is_said(&self, quorums: Quorums, slot: Slot) -> bool {
        let said = self.complete().filter(|promise| !promise.unknown.contains(&slot));
        said.count() >= quorums.phase1()
    }
}

#[cfg(test)]
mod tests;
