//! Repair: sends chosen values again to acceptors that missed the values, or lost the values on disk.
//!
//! An acceptor's watermark passes a slot only over a row of the leader's own ballot. So the missing slots are accepted
//! again at this ballot, even over an older row. The value of a slot has three possible sources:
//!
//! - the slots still held by the leader itself;
//! - rows read together with the sender's own watermark above the rows, from a sender that has not trimmed the rows;
//! - a *scan*: a fresh `Prepare` of the leader's ballot to all acceptors.
//!
//! In a scan, every readable row below the sender's known watermark holds the chosen value. Failing that, the
//! highest-ballot row holds the chosen value, once a phase-1 quorum has reported the content of the slot. An acceptor
//! that has trimmed the slot reports nothing about its content. Repair never proposes a no-op: the slot *is* chosen, so a
//! quorum without any row proves a loss of data, and the leader halts. The leader also halts when every acceptor of the
//! cluster has reported, no acceptor has trimmed the slot, and no quorum can determine the value.
//!
//! A slot trimmed on one acceptor may have no source left on the others. Then the leader skips the acceptor that lacks
//! the slot: only a snapshot brings this acceptor further.
//!
//! Each acceptor has a separate repair: stretch after stretch, bounded in slots and bytes. A stretch takes every slot
//! with an available value. A slot without a conclusive report is scanned alone afterwards, and holds up no other slot.
//! New slots never wait for a repair.

use std::collections::BTreeSet;

use super::{Effect, Lead, Limits, Scan, index};
use crate::paxos::{
    identity::AcceptorUuid,
    message::{Prepare, PromisePage, UNANSWERED_MAX},
    proposer::halt::beyond_repair,
    quorum::Electorate,
    slot::Slot,
    value::Value,
};

mod reports;
use super::view::Hopeless;
use reports::{SlotConclusion, StretchReports};

/// Most slots repaired in one stretch.
const STRETCH_SLOTS_MAX: u64 = 1_024;

/// Number of checks without progress before a stretch is begun again.
const IDLE_CHECKS_MAX: u32 = 3;

/// A stretch of slots on the way to one acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repair {
    /// Number of the question within the reign: distinguishes answers to an earlier question.
    number: u64,
    from: Slot,
    /// Exclusive.
    to: Slot,
    stage: RepairStage,
    /// Bytes of the values sent so far.
    pub(super) bytes: u64,
    idle_checks: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RepairStage {
    /// Rows are being read from an acceptor with a watermark above the rows.
    Fetching,
    /// All acceptors are being asked for their rows.
    Scanning(StretchReports),
    /// Proposed; the last message has this number. The acceptor's watermark will pass the stretch.
    Sent(u64),
}

impl Lead {
    /// Begins a repair of every lagging acceptor not yet under repair. Continues repairs with an overdue answer.
    ///
    /// Values go to `reachable` acceptors, members first; calls go to `open` acceptors, which are members alone. So a joiner
    /// that hangs delays no repair.
    pub(in crate::paxos::proposer) fn plan_repair(
        &mut self,
        (electorate, open): (&Electorate, &BTreeSet<AcceptorUuid>),
        reachable: &BTreeSet<AcceptorUuid>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let members = reachable
            .iter()
            .filter(|acceptor| electorate.includes(**acceptor));
        let others = reachable
            .iter()
            .filter(|acceptor| !electorate.includes(**acceptor));
        for &acceptor in members.chain(others) {
            let repair = self.repairs.get(&acceptor);
            let is_overdue =
                |repair: &Repair| matches!(&repair.stage, RepairStage::Scanning(reports) if reports.overdue);
            if repair.is_some_and(is_overdue) {
                self.go_on(electorate, open, acceptor, limits, effects);
            }
            if !self.repairs.contains_key(&acceptor)
                && let Some(view) = self.views.get(&acceptor)
                && let Some(from) = view.chosen_to.map(|own| own.max(view.trimmed_to))
                && !view.no_space
                && !view.refusals.must_wait()
                && !view.repair_refusals.must_wait()
            {
                self.begin_repair(open, acceptor, from, limits, effects);
            }
        }
    }

    fn begin_repair(
        &mut self,
        open: &BTreeSet<AcceptorUuid>,
        acceptor: AcceptorUuid,
        from: Slot,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let Some(view) = self.views.get(&acceptor) else {
            return;
        };
        // A damaged row never recovers without repair, nor does the rest of a begun stretch. Under load every other
        // watermark trails the leader's by the messages under way, and advances without repair.
        let is_due = view.known_to > from || view.repair_to > from || view.stuck;
        // Slots still held are sent again as part of leading, unless already voted for by the acceptor.
        if from >= self.base {
            if is_due {
                self.repair_from_memory(acceptor, from, limits, effects);
            }
            return;
        }
        if self.base.since(from) <= STRETCH_SLOTS_MAX && !is_due {
            return;
        }
        let is_known = |hopeless: &Hopeless| hopeless.slot == from && open.is_subset(&hopeless.asked);
        if view.hopeless.as_ref().is_some_and(is_known) {
            return;
        }
        let mut to = self.base.min(from.plus(STRETCH_SLOTS_MAX));
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.repair_to = to;
        }
        let Some(view) = self.views.get(&acceptor) else {
            return;
        };
        let sound = |&source: &AcceptorUuid| {
            let view = self.views.get(&source)?;
            let has_rows = view.trimmed_hint.max(view.trimmed_to) <= from;
            Some((view.chosen_to.filter(|_| has_rows)?, source))
        };
        let knower = open.iter().filter_map(sound).max();
        // A damaged source can supply only the slots before the damage.
        let is_worth_it = |known: Slot| known > from && 2 * known.min(to).since(from) >= to.since(from);
        let number = self.asks + 1;
        self.asks = number;
        let stage = match knower {
            Some((known, source)) if !view.fetch_failed && is_worth_it(known) => {
                to = to.min(known);
                effects.push(Effect::FetchChosen {
                    source,
                    number,
                    from,
                    to,
                });
                RepairStage::Fetching
            }
            Some(_) | None => {
                if view.doubtful == Some(from) {
                    to = from.next();
                }
                let prepare = Prepare {
                    ballot: self.ballot,
                    from,
                    address: std::sync::Arc::clone(&self.address),
                };
                for &asked in open {
                    effects.push(Effect::Prepare(asked, prepare.clone(), Some(Scan { number, to })));
                }
                RepairStage::Scanning(StretchReports::default())
            }
        };
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.fetch_failed = false;
        }
        let repair = Repair {
            number,
            from,
            to,
            stage,
            bytes: 0,
            idle_checks: 0,
        };
        self.repairs.insert(acceptor, repair);
    }

    /// Sends again slots that the acceptor accepted at this very ballot and no longer vouches for: rows were damaged on
    /// the acceptor's disk.
    fn repair_from_memory(
        &mut self,
        acceptor: AcceptorUuid,
        from: Slot,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        if from >= self.chosen_to || self.outstanding(acceptor) > 0 {
            return;
        }
        let to = self.chosen_to.min(from.plus(STRETCH_SLOTS_MAX));
        let mut bytes = 0;
        let mut values = Vec::new();
        for slot in from.to(to) {
            let value = &self.slots[index(self.base, slot)].value;
            bytes += value.as_bytes().len();
            if bytes > limits.message_bytes_max && !values.is_empty() {
                break;
            }
            values.push((slot, value.clone()));
        }
        let repair = Repair {
            number: 0,
            from,
            to,
            stage: RepairStage::Sent(0),
            bytes: 0,
            idle_checks: 0,
        };
        self.repairs.insert(acceptor, repair);
        self.send_repair(acceptor, values, limits, effects);
    }

    /// Takes rows read from slot `from` on, each with the sender's watermark above the row.
    pub(in crate::paxos::proposer) fn fetched(
        &mut self,
        number: u64,
        from: Slot,
        values: Vec<(Slot, Value)>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let is_asked = |repair: &Repair| {
            repair.stage == RepairStage::Fetching && repair.number == number && repair.from == from
        };
        let asked = self.repairs.iter().find(|(_, repair)| is_asked(repair));
        let Some((&acceptor, repair)) = asked else { return };
        let stretch = repair.from.to(repair.to);
        let contiguous = values
            .into_iter()
            .zip(stretch)
            .take_while(|((slot, _), next)| slot == next);
        let values: Vec<_> = contiguous.map(|(value, _)| value).collect();
        if values.is_empty() {
            // The source's watermark on disk may lag the reported watermark, or a row is damaged: all acceptors are
            // asked.
            self.fetch_failed(acceptor);
        } else {
            self.send_repair(acceptor, values, limits, effects);
        }
    }

    /// Whether a repair still waits for the pages of this scan. A scan without a page for [`IDLE_CHECKS_MAX`] checks is
    /// over, and the repair goes on with another number.
    pub(in crate::paxos::proposer) fn awaits_scan(&self, number: u64) -> bool {
        let is_scanning = |repair: &Repair| matches!(repair.stage, RepairStage::Scanning(_));
        let mut repairs = self.repairs.values();
        repairs.any(|repair| repair.number == number && is_scanning(repair))
    }

    fn fetch_failed(&mut self, acceptor: AcceptorUuid) {
        self.repairs.remove(&acceptor);
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.fetch_failed = true;
        }
    }

    /// Takes a page of a scan; ignores pages of earlier scans.
    pub(in crate::paxos::proposer) fn scanned(
        &mut self,
        (electorate, open): (&Electorate, &BTreeSet<AcceptorUuid>),
        scan: Scan,
        from: AcceptorUuid,
        page: PromisePage,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        self.heard_trimmed(from, page.trimmed_to);
        for (&acceptor, repair) in &mut self.repairs {
            if repair.number == scan.number
                && let RepairStage::Scanning(reports) = &mut repair.stage
            {
                reports.page(electorate, (repair.from, &mut repair.to), from, page);
                repair.idle_checks = 0;
                self.go_on(electorate, open, acceptor, limits, effects);
                return;
            }
        }
    }

    /// Sends the values found by a scan: the whole stretch, or every found value once no further report is awaited.
    fn go_on(
        &mut self,
        electorate: &Electorate,
        open: &BTreeSet<AcceptorUuid>,
        acceptor: AcceptorUuid,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let Some(repair) = self.repairs.get(&acceptor) else {
            return;
        };
        let RepairStage::Scanning(reports) = &repair.stage else {
            return;
        };
        let is_over = reports.overdue || reports.are_whole(open.iter(), repair.to);
        let mut values = Vec::new();
        let mut unsaid = Vec::new();
        for slot in repair.from.to(repair.to) {
            match reports.conclusion(electorate, slot) {
                SlotConclusion::Chosen(value) => values.push((slot, value)),
                SlotConclusion::Lost => {
                    effects.push(Effect::Halt(format!(
                        "slot {slot} was chosen, but a whole phase-1 quorum holds nothing for this slot: acceptors \
                         have lost data"
                    )));
                    return;
                }
                SlotConclusion::Open if !is_over => return,
                SlotConclusion::Open => unsaid.push(slot),
            }
        }
        if unsaid.first() == Some(&repair.from) && reports.is_trimmed(repair.from) {
            let hopeless = Hopeless {
                slot: repair.from,
                asked: reports.whole(repair.to),
            };
            self.repairs.remove(&acceptor);
            if let Some(view) = self.views.get_mut(&acceptor) {
                view.hopeless = Some(hopeless);
            }
            return;
        }
        let lost: Vec<Slot> = unsaid
            .iter()
            .copied()
            .filter(|&slot| !reports.is_trimmed(slot))
            .collect();
        if !lost.is_empty() && reports.are_whole(electorate.members().iter(), repair.to) {
            effects.push(Effect::Halt(beyond_repair(&lost, electorate)));
            return;
        }
        let overdue = reports.overdue;
        // Without a single page, no slot is in doubt.
        unsaid.retain(|_| !reports.by.is_empty());
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.doubtful = unsaid.first().copied();
        }
        if !values.is_empty() {
            self.send_repair(acceptor, values, limits, effects);
        } else if overdue {
            self.repairs.remove(&acceptor);
        }
    }

    fn send_repair(
        &mut self,
        acceptor: AcceptorUuid,
        values: Vec<(Slot, Value)>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let view = self.views.get(&acceptor);
        let doubtful = view.and_then(|view| view.doubtful);
        let is_refusing = view.is_some_and(|view| view.repair_refusals.is_refusing());
        let mut messages: Vec<Vec<(Slot, Value)>> = Vec::new();
        let mut bytes = 0;
        for (slot, value) in values {
            bytes += value.as_bytes().len();
            match messages.last_mut() {
                Some(message) if bytes <= limits.message_bytes_max => message.push((slot, value)),
                Some(_) | None => {
                    bytes = value.as_bytes().len();
                    messages.push(vec![(slot, value)]);
                }
            }
        }
        if is_refusing {
            messages.truncate(1);
            messages.iter_mut().for_each(|message| message.truncate(1));
        }
        // The rest of the stretch is begun later. Room for a resignation stays.
        let room = (UNANSWERED_MAX - 1).saturating_sub(self.outstanding(acceptor));
        messages.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let Some(&(last, _)) = messages.last().and_then(|message| message.last()) else {
            self.repairs.remove(&acceptor);
            return;
        };
        let values = messages.iter().flatten();
        let sent_bytes: u64 = values.map(|(_, value)| value.as_bytes().len() as u64).sum();
        for message in messages {
            effects.push(self.accept(acceptor, message, false));
            if let Some(view) = self.views.get_mut(&acceptor) {
                view.repairing.insert(view.sent);
            }
        }
        let sent = self.views.get(&acceptor).map_or(0, |view| view.sent);
        if let Some(repair) = self.repairs.get_mut(&acceptor) {
            repair.stage = RepairStage::Sent(sent);
            repair.bytes += sent_bytes;
            repair.idle_checks = 0;
            // The stretch ends no further than the watermark can advance.
            repair.to = last.next().min(doubtful.unwrap_or(Slot::MAX).max(repair.from));
        }
    }

    /// An acceptor's watermark moved, perhaps past the sent slots.
    pub(super) fn repair_heard(&mut self, acceptor: AcceptorUuid, chosen_to: Slot) {
        let is_done = |repair: &Repair| chosen_to >= repair.to && chosen_to > repair.from;
        if self.repairs.get(&acceptor).is_some_and(is_done) {
            self.repairs.remove(&acceptor);
        }
    }

    /// The connection to an acceptor broke: the slots on the way are begun again.
    pub(super) fn repair_closed(&mut self, acceptor: AcceptorUuid) {
        self.repairs.remove(&acceptor);
    }

    /// Once every leader timeout: gives up stretches without progress.
    pub(super) fn check_repair(&mut self) {
        let mut failed = Vec::new();
        self.repairs.retain(|&acceptor, repair| {
            repair.idle_checks += 1;
            if repair.idle_checks < IDLE_CHECKS_MAX {
                return true;
            }
            match &mut repair.stage {
                RepairStage::Fetching => {
                    failed.push(acceptor);
                    false
                }
                RepairStage::Scanning(reports) => {
                    reports.overdue = true;
                    true
                }
                // Unanswered messages are not sent again.
                RepairStage::Sent(last) => {
                    let view = self.views.get(&acceptor);
                    view.is_some_and(|view| view.unanswered.range(..=*last).next().is_some())
                }
            }
        });
        for acceptor in failed {
            self.fetch_failed(acceptor);
        }
    }
}

#[cfg(test)]
mod tests;
