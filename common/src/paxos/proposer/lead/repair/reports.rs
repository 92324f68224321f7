//! Reports of the acceptors on a stretch under repair: pages of a scan, and the conclusion for each slot.

use std::collections::{BTreeMap, BTreeSet};

use crate::paxos::{
    identity::AcceptorUuid,
    message::PromisePage,
    proposer::slot_votes::SlotVotes,
    quorum::{Electorate, Tally},
    slot::Slot,
    value::Value,
};

/// Bytes of values gathered by a scan for one stretch, unless a single value has more.
pub(super) const STRETCH_BYTES_MAX: usize = 4 << 20;

/// Reports of the acceptors on a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct StretchReports {
    pub(super) by: BTreeMap<AcceptorUuid, StretchReport>,
    /// The rows of each slot. A row below the sender's known watermark holds the chosen value.
    pub(super) votes: BTreeMap<Slot, SlotVotes>,
    pub(super) bytes: usize,
    /// No further report is awaited.
    pub(super) overdue: bool,
}

/// Report of a single acceptor, as far as pages arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StretchReport {
    /// Every slot of the stretch below was reported.
    covered_to: Slot,
    /// Slots below are trimmed: no report on these slots.
    trimmed_to: Slot,
    /// Slots with an unreadable row: no report on the slot.
    unknown: BTreeSet<Slot>,
}

/// Conclusion from the reports on a slot.
pub(super) enum SlotConclusion {
    Chosen(Value),
    /// A phase-1 quorum holds no row for the slot.
    Lost,
    /// No conclusion yet.
    Open,
}

impl StretchReports {
    /// Takes a page. Pages after a lost page do not count; pages of a restarted stream do.
    pub(super) fn page(
        &mut self,
        electorate: &Electorate,
        (from, to): (Slot, &mut Slot),
        acceptor: AcceptorUuid,
        page: PromisePage,
    ) {
        let report = self.by.entry(acceptor).or_insert_with(|| StretchReport {
            covered_to: from,
            trimmed_to: Slot::ZERO,
            unknown: BTreeSet::new(),
        });
        if page.from > report.covered_to {
            return;
        }
        let covered_to = if page.last { Slot::MAX } else { page.next };
        report.covered_to = report.covered_to.max(covered_to);
        report.trimmed_to = report.trimmed_to.max(page.trimmed_to);
        for row in page.rows {
            if row.slot < from.max(page.trimmed_to) || row.slot >= *to {
                continue;
            }
            match row.accepted {
                None => {
                    report.unknown.insert(row.slot);
                }
                Some(accepted) => {
                    let is_known = row.slot < page.known_to;
                    let votes = self.votes.entry(row.slot).or_default();
                    self.bytes += votes.take(electorate, acceptor, accepted, is_known);
                }
            }
        }
        self.shorten(from, to);
    }

    /// Gives up the end of an oversized stretch.
    fn shorten(&mut self, from: Slot, to: &mut Slot) {
        while self.bytes > STRETCH_BYTES_MAX {
            let Some(last) = self.votes.last_entry().filter(|last| *last.key() > from) else {
                return;
            };
            *to = *last.key();
            self.bytes -= last.remove().bytes();
        }
    }

    pub(super) fn conclusion(&self, electorate: &Electorate, slot: Slot) -> SlotConclusion {
        let votes = self.votes.get(&slot);
        if let Some(value) = votes.and_then(SlotVotes::known) {
            return SlotConclusion::Chosen(value.clone());
        }
        let reported = self.reported(electorate, slot);
        if reported.count() < electorate.quorums().phase1() {
            return SlotConclusion::Open;
        }
        let Some(votes) = votes else {
            return SlotConclusion::Lost;
        };
        let required = votes.required(electorate, || reported);
        required.map_or(SlotConclusion::Open, |value| {
            SlotConclusion::Chosen(value.clone())
        })
    }

    /// The acceptors that have reported what the slot holds.
    fn reported(&self, electorate: &Electorate, slot: Slot) -> Tally {
        let mut reported = Tally::default();
        for (&acceptor, report) in &self.by {
            if report.trimmed_to <= slot && slot < report.covered_to && !report.unknown.contains(&slot) {
                reported.add(electorate, acceptor);
            }
        }
        reported
    }

    /// Whether a reporting acceptor has trimmed the slot: a snapshot covers the slot.
    pub(super) fn is_trimmed(&self, slot: Slot) -> bool {
        self.by.values().any(|report| slot < report.trimmed_to)
    }

    /// The acceptors that have reported the whole stretch.
    pub(super) fn whole(&self, to: Slot) -> BTreeSet<AcceptorUuid> {
        let whole = self.by.iter().filter(|(_, report)| report.covered_to >= to);
        whole.map(|(&acceptor, _)| acceptor).collect()
    }

    /// Whether every acceptor of `of` has reported the whole stretch.
    pub(super) fn are_whole<'a>(&self, mut of: impl Iterator<Item = &'a AcceptorUuid>, to: Slot) -> bool {
        of.all(|acceptor| {
            self.by
                .get(acceptor)
                .is_some_and(|report| report.covered_to >= to)
        })
    }
}
