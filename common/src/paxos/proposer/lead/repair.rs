//! Repair: bringing acceptors the chosen values that they missed, or lost to their disks, below what the leader holds.
//!
//! An acceptor's watermark passes a slot only over a row of the leader's own ballot, so those slots are accepted
//! again at it, even over an older row. The value comes from what the leader itself still holds; or from rows that were
//! read together with their sender's own watermark above them; or from a *scan*, a fresh `Prepare` of the leader's ballot
//! to all. In a scan any row that can be read and lies below its sender's known watermark holds the chosen value;
//! failing that, the highest-ballot row does, once a phase-1 quorum has said what it holds. Never a no-op: the slot *is*
//! chosen, so a quorum without any row is proof that data was lost, and the leader halts. The leader halts as well when
//! every acceptor of the cluster has reported and no quorum can say.
//!
//! Each acceptor has a repair of its own, one stretch after the other, bounded in slots and bytes. A stretch takes what
//! can be had: a slot that no report speaks for yet is asked for alone afterwards, and holds up no other. New slots never
//! wait for a repair.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Lead, Limits, Scan, index};
use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Prepare, PromisePage},
    proposer::beyond_repair,
    quorum::Electorate,
    slot::Slot,
    value::Value,
};

/// Most slots repaired in one stretch.
const STRETCH_SLOTS_MAX: u64 = 1_024;

/// Bytes of the values that one stretch gathers by a scan, unless a single value has more.
const STRETCH_BYTES_MAX: usize = 4 << 20;

/// How many checks a stretch may stand still before it is begun anew.
const IDLE_CHECKS_MAX: u32 = 3;

/// A stretch of slots on its way to one acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repair {
    /// Of the reign's questions: tells the answers to an earlier one apart.
    number: u64,
    from: Slot,
    /// Exclusive.
    to: Slot,
    stage: Stage,
    idle_checks: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Rows are being read from an acceptor whose watermark is above them.
    Fetching,
    /// All are being asked what they hold.
    Scanning(Reports),
    /// Proposed: the acceptor's watermark will pass the stretch.
    Sent,
}

/// What the acceptors have said of a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reports {
    by: BTreeMap<AcceptorUuid, Report>,
    /// Values that are chosen: of rows below their sender's known watermark.
    chosen: BTreeMap<Slot, Value>,
    /// The highest-ballot row of each other slot.
    best: BTreeMap<Slot, (Ballot, Value)>,
    bytes: usize,
    /// No more is waited for.
    overdue: bool,
}

/// What one acceptor has said, as far as its pages came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Report {
    /// Every slot of the stretch below it was reported.
    covered_to: Slot,
    /// Slots whose row could not be read: no word on them.
    unknown: BTreeSet<Slot>,
}

/// What the reports say of one slot.
enum Word {
    Chosen(Value),
    /// A phase-1 quorum holds nothing for it.
    Lost,
    /// Nothing yet.
    Open,
}

impl Reports {
    /// Takes one page. Pages after a lost one do not count; those of a stream that began anew do.
    fn page(&mut self, (from, to): (Slot, &mut Slot), acceptor: AcceptorUuid, page: PromisePage) {
        let report = self.by.entry(acceptor).or_insert_with(|| Report {
            covered_to: from,
            unknown: BTreeSet::new(),
        });
        if page.from > report.covered_to {
            return;
        }
        let covered_to = if page.last { Slot::MAX } else { page.next };
        report.covered_to = report.covered_to.max(covered_to);
        for row in page.rows {
            if row.slot < from || row.slot >= *to {
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

    /// Gives up the end of a stretch that is too large to hold.
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

    fn word(&self, phase1: usize, slot: Slot) -> Word {
        if let Some(value) = self.chosen.get(&slot) {
            return Word::Chosen(value.clone());
        }
        let speaks = |report: &&Report| slot < report.covered_to && !report.unknown.contains(&slot);
        if self.by.values().filter(speaks).count() < phase1 {
            return Word::Open;
        }
        let best = self.best.get(&slot);
        best.map_or(Word::Lost, |(_, value)| Word::Chosen(value.clone()))
    }

    /// Whether all of these have reported all of the stretch.
    fn are_whole<'a>(&self, mut of: impl Iterator<Item = &'a AcceptorUuid>, to: Slot) -> bool {
        of.all(|acceptor| {
            self.by
                .get(acceptor)
                .is_some_and(|report| report.covered_to >= to)
        })
    }
}

impl Lead {
    /// Begins to repair every acceptor that lags and is not being repaired, and goes on where an answer is overdue.
    pub(in crate::paxos::proposer) fn plan_repair(
        &mut self,
        electorate: &Electorate,
        open: &BTreeSet<AcceptorUuid>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        for &acceptor in open {
            let repair = self.repairs.get(&acceptor);
            let is_overdue =
                |repair: &Repair| matches!(&repair.stage, Stage::Scanning(reports) if reports.overdue);
            if repair.is_some_and(is_overdue) {
                self.go_on(electorate, open, acceptor, limits, effects);
            }
            if !self.repairs.contains_key(&acceptor)
                && let Some(follower) = self.followers.get(&acceptor)
                && let Some(from) = follower.chosen_to
                && !follower.no_space
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
        let Some(follower) = self.followers.get(&acceptor) else {
            return;
        };
        // A damaged row never comes of itself, nor does the rest of a stretch that was begun. Under load every other
        // watermark trails the leader's by what is under way, and moves of itself.
        let is_due = follower.known_to > from || follower.repair_to > from || follower.stuck;
        // What is still held is sent again as part of leading, if the acceptor did not vote for it.
        if from >= self.base {
            if is_due {
                self.repair_from_memory(acceptor, from, limits, effects);
            }
            return;
        }
        if self.base.since(from) <= STRETCH_SLOTS_MAX && !is_due {
            return;
        }
        let mut to = self.base.min(from.plus(STRETCH_SLOTS_MAX));
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.repair_to = to;
        }
        let Some(follower) = self.followers.get(&acceptor) else {
            return;
        };
        let sound = |&source: &AcceptorUuid| Some((self.followers.get(&source)?.chosen_to?, source));
        let knower = open.iter().filter_map(sound).max();
        // Of a source that is damaged itself only what comes before the damage can be had.
        let is_worth_it = |known: Slot| known > from && 2 * known.min(to).since(from) >= to.since(from);
        let number = self.asks + 1;
        self.asks = number;
        let stage = match knower {
            Some((known, source)) if !follower.fetch_failed && is_worth_it(known) => {
                to = to.min(known);
                effects.push(Effect::FetchChosen {
                    source,
                    number,
                    from,
                    to,
                });
                Stage::Fetching
            }
            Some(_) | None => {
                if follower.doubtful == Some(from) {
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
                Stage::Scanning(Reports::default())
            }
        };
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.fetch_failed = false;
        }
        let repair = Repair {
            number,
            from,
            to,
            stage,
            idle_checks: 0,
        };
        self.repairs.insert(acceptor, repair);
    }

    /// Sends again what an acceptor had accepted at this very ballot and does not vouch for any more: rows of it were
    /// damaged on its disk.
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
            stage: Stage::Sent,
            idle_checks: 0,
        };
        self.repairs.insert(acceptor, repair);
        self.send_repair(acceptor, values, limits, effects);
    }

    /// Takes rows that were read from slot `from` on, each with its sender's watermark above it.
    pub(in crate::paxos::proposer) fn fetched(
        &mut self,
        number: u64,
        from: Slot,
        values: Vec<(Slot, Value)>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let is_asked = |repair: &Repair| {
            repair.stage == Stage::Fetching && repair.number == number && repair.from == from
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
            // Its watermark on disk may lag what it told, or its row is damaged: all are asked instead.
            self.fetch_failed(acceptor);
        } else {
            self.send_repair(acceptor, values, limits, effects);
        }
    }

    fn fetch_failed(&mut self, acceptor: AcceptorUuid) {
        self.repairs.remove(&acceptor);
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.fetch_failed = true;
        }
    }

    /// Takes a page of a scan, unless it is of an earlier one.
    pub(in crate::paxos::proposer) fn scanned(
        &mut self,
        (electorate, open): (&Electorate, &BTreeSet<AcceptorUuid>),
        scan: Scan,
        from: AcceptorUuid,
        page: PromisePage,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        for (&acceptor, repair) in &mut self.repairs {
            if repair.number == scan.number
                && let Stage::Scanning(reports) = &mut repair.stage
            {
                reports.page((repair.from, &mut repair.to), from, page);
                repair.idle_checks = 0;
                self.go_on(electorate, open, acceptor, limits, effects);
                return;
            }
        }
    }

    /// Sends what a scan has brought: all of the stretch, or what there is once nothing more is waited for.
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
        let Stage::Scanning(reports) = &repair.stage else {
            return;
        };
        let is_over = reports.overdue || reports.are_whole(open.iter(), repair.to);
        let phase1 = electorate.quorums().phase1();
        let mut values = Vec::new();
        let mut unsaid = Vec::new();
        for slot in repair.from.to(repair.to) {
            match reports.word(phase1, slot) {
                Word::Chosen(value) => values.push((slot, value)),
                Word::Lost => {
                    effects.push(Effect::Halt(format!(
                        "slot {slot} was chosen, and a whole phase-1 quorum holds nothing for it: acceptors have lost data"
                    )));
                    return;
                }
                Word::Open if !is_over => return,
                Word::Open => unsaid.push(slot),
            }
        }
        if !unsaid.is_empty() && reports.are_whole(electorate.members().iter(), repair.to) {
            effects.push(Effect::Halt(beyond_repair(&unsaid, electorate)));
            return;
        }
        let overdue = reports.overdue;
        // Where not a page has come, nothing is in doubt.
        unsaid.retain(|_| !reports.by.is_empty());
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.doubtful = unsaid.first().copied();
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
        let doubtful = self
            .followers
            .get(&acceptor)
            .and_then(|follower| follower.doubtful);
        let Some(repair) = self.repairs.get_mut(&acceptor) else {
            return;
        };
        repair.stage = Stage::Sent;
        repair.idle_checks = 0;
        if let Some((last, _)) = values.last() {
            // No further than the watermark can come.
            repair.to = last.next().min(doubtful.unwrap_or(Slot::MAX).max(repair.from));
        }
        let mut message = Vec::new();
        let mut bytes = 0;
        for (slot, value) in values {
            bytes += value.as_bytes().len();
            if bytes > limits.message_bytes_max && !message.is_empty() {
                effects.push(self.accept(acceptor, std::mem::take(&mut message), false));
                bytes = value.as_bytes().len();
            }
            message.push((slot, value));
        }
        effects.push(self.accept(acceptor, message, false));
    }

    /// An acceptor's watermark moved: perhaps past what it was sent.
    pub(super) fn repair_heard(&mut self, acceptor: AcceptorUuid, chosen_to: Slot) {
        let is_done = |repair: &Repair| chosen_to >= repair.to && chosen_to > repair.from;
        if self.repairs.get(&acceptor).is_some_and(is_done) {
            self.repairs.remove(&acceptor);
        }
    }

    /// The connection to an acceptor broke: what was on its way there is begun anew.
    pub(super) fn repair_closed(&mut self, acceptor: AcceptorUuid) {
        self.repairs.remove(&acceptor);
    }

    /// Once every leader timeout: gives up stretches that stand still.
    pub(super) fn check_repair(&mut self) {
        let mut failed = Vec::new();
        self.repairs.retain(|&acceptor, repair| {
            repair.idle_checks += 1;
            if repair.idle_checks < IDLE_CHECKS_MAX {
                return true;
            }
            match &mut repair.stage {
                Stage::Fetching => {
                    failed.push(acceptor);
                    false
                }
                Stage::Scanning(reports) => {
                    reports.overdue = true;
                    true
                }
                Stage::Sent => false,
            }
        });
        for acceptor in failed {
            self.fetch_failed(acceptor);
        }
    }
}

#[cfg(test)]
mod tests;
