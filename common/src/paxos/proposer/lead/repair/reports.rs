//! Reports of the acceptors on a stretch under repair: pages of a scan, and the conclusion for each slot.

use std::collections::{BTreeMap, BTreeSet};

use crate::paxos::{ballot::Ballot, identity::AcceptorUuid, message::PromisePage, slot::Slot, value::Value};

/// Bytes of values gathered by a scan for one stretch, unless a single value has more.
pub(super) const STRETCH_BYTES_MAX: usize = 4 << 20;

/// Reports of the acceptors on a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct StretchReports {
    pub(super) by: BTreeMap<AcceptorUuid, StretchReport>,
    /// Chosen values: from rows below the sender's known watermark.
    pub(super) chosen: BTreeMap<Slot, Value>,
    /// The highest-ballot row of each other slot.
    best: BTreeMap<Slot, (Ballot, Value)>,
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
    pub(super) fn page(&mut self, (from, to): (Slot, &mut Slot), acceptor: AcceptorUuid, page: PromisePage) {
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
                Some(_) if self.chosen.contains_key(&row.slot) => {}
                Some((_, value)) if row.slot < page.known_to => {
                    self.bytes += value.as_bytes().len();
                    if let Some((_, replaced)) = self.best.remove(&row.slot) {
                        self.bytes -= replaced.as_bytes().len();
                    }
                    self.chosen.insert(row.slot, value);
                }
                Some((ballot, value)) => {
                    let best = self.best.get(&row.slot);
                    if best.is_none_or(|(best, _)| *best < ballot) {
                        self.bytes += value.as_bytes().len();
                        if let Some((_, replaced)) = self.best.insert(row.slot, (ballot, value)) {
                            self.bytes -= replaced.as_bytes().len();
                        }
                    }
                }
            }
        }
        self.shorten(from, to);
    }

    /// Gives up the end of an oversized stretch.
    fn shorten(&mut self, from: Slot, to: &mut Slot) {
        while self.bytes > STRETCH_BYTES_MAX {
            let last = |slot: Option<&Slot>| slot.copied().unwrap_or(from);
            let highest = last(self.chosen.keys().next_back()).max(last(self.best.keys().next_back()));
            if highest == from {
                return;
            }
            let chosen = self.chosen.remove(&highest).into_iter();
            let best = self.best.remove(&highest).map(|(_, value)| value);
            for value in chosen.chain(best) {
                self.bytes -= value.as_bytes().len();
            }
            *to = highest;
        }
    }

    pub(super) fn conclusion(&self, phase1: usize, slot: Slot) -> SlotConclusion {
        if let Some(value) = self.chosen.get(&slot) {
            return SlotConclusion::Chosen(value.clone());
        }
        let speaks = |report: &&StretchReport| {
            report.trimmed_to <= slot && slot < report.covered_to && !report.unknown.contains(&slot)
        };
        if self.by.values().filter(speaks).count() < phase1 {
            return SlotConclusion::Open;
        }
        let best = self.best.get(&slot);
        best.map_or(SlotConclusion::Lost, |(_, value)| {
            SlotConclusion::Chosen(value.clone())
        })
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
