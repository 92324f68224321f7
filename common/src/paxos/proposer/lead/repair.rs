//! Repair: bringing an acceptor that lags the chosen values that it missed, below what its leader still holds.
//!
//! An acceptor's watermark passes a slot only over a row of the leader's own ballot, so those slots are accepted
//! again at it, even over an older row. So are rows that the acceptor lost to its disk. The value comes from what
//! the leader itself still holds; or from a row that was read together with its sender's own watermark above it;
//! failing both, it is the highest-ballot row in complete pages of a fresh `Prepare` of the
//! leader's ballot from a phase-1 quorum. Never a no-op: the slot *is* chosen, so a quorum without any row is proof
//! that data was lost, and the leader halts.
//!
//! One acceptor and one bounded stretch of slots at a time, in the background: new slots never wait for it.

use std::collections::BTreeSet;

use super::{Effect, Lead, Limits, Scan, index};
use crate::paxos::{
    identity::AcceptorUuid, message::PromisePage, proposer::Campaign, quorum::Quorums, slot::Slot,
    value::Value,
};

/// Most slots repaired in one stretch.
const STRETCH_SLOTS_MAX: u64 = 1_024;

/// How many checks a stretch may stand still before it is begun anew.
const IDLE_CHECKS_MAX: u32 = 3;

/// A stretch of slots on its way to one acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repair {
    acceptor: AcceptorUuid,
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
    /// A phase-1 quorum is being asked what it holds.
    Scanning(Scan, Campaign),
    /// Proposed: the acceptor's watermark will pass the stretch.
    Sent,
}

impl Lead {
    /// Begins to repair the acceptor that lags the most, if one does and nothing is under way.
    pub(in crate::paxos::proposer) fn plan_repair(
        &mut self,
        open: &BTreeSet<AcceptorUuid>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        if self.repair.is_some() {
            return;
        }
        let known = |acceptor: &AcceptorUuid| Some((self.followers.get(acceptor)?.chosen_to?, *acceptor));
        let has_space = |acceptor: &&AcceptorUuid| {
            self.followers
                .get(acceptor)
                .is_some_and(|follower| !follower.no_space)
        };
        let Some((from, acceptor)) = open.iter().filter(has_space).filter_map(known).min() else {
            return;
        };
        // What is still held is sent again as part of leading, if the acceptor did not vote for it.
        if from >= self.base {
            self.repair_from_memory(acceptor, from, limits, effects);
            return;
        }
        // Under load every watermark trails the leader's by what is under way, and comes of itself.
        let trails = self.base.since(from) <= STRETCH_SLOTS_MAX && !self.is_stuck(acceptor);
        if trails {
            return;
        }
        let to = self.base.min(from.plus(STRETCH_SLOTS_MAX));
        let knower = open
            .iter()
            .filter_map(known)
            .max()
            .filter(|&(chosen_to, _)| chosen_to > from);
        let stage = match knower {
            Some((_, source)) if !self.fetch_failed => {
                effects.push(Effect::FetchChosen { source, from, to });
                Stage::Fetching
            }
            Some(_) | None => {
                self.scans += 1;
                let scan = Scan {
                    number: self.scans,
                    to,
                };
                let promises = Campaign::new(self.ballot, from);
                for &asked in open {
                    effects.push(Effect::Prepare(
                        asked,
                        promises.prepare(&self.address),
                        Some(scan),
                    ));
                }
                Stage::Scanning(scan, promises)
            }
        };
        self.fetch_failed = false;
        self.repair = Some(Repair {
            acceptor,
            from,
            to,
            stage,
            idle_checks: 0,
        });
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
        if !self.is_stuck(acceptor) || from >= self.chosen_to || self.outstanding(acceptor) > 0 {
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
        self.repair = Some(Repair {
            acceptor,
            from,
            to,
            stage: Stage::Fetching,
            idle_checks: 0,
        });
        self.send_repair(values, limits, effects);
    }

    fn is_stuck(&self, acceptor: AcceptorUuid) -> bool {
        self.followers
            .get(&acceptor)
            .is_some_and(|follower| follower.stuck)
    }

    /// Takes rows that were read from slot `from` on, each with its sender's watermark above it.
    pub(in crate::paxos::proposer) fn fetched(
        &mut self,
        from: Slot,
        values: Vec<(Slot, Value)>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let Some(repair) = &self.repair else { return };
        if repair.stage != Stage::Fetching || repair.from != from {
            return;
        }
        let stretch = repair.from.to(repair.to);
        let contiguous = values
            .into_iter()
            .zip(stretch)
            .take_while(|((slot, _), next)| slot == next);
        let values: Vec<_> = contiguous.map(|(value, _)| value).collect();
        if values.is_empty() {
            // Its watermark on disk may lag what it told: ask a quorum instead.
            self.fetch_failed = true;
            self.repair = None;
        } else {
            self.send_repair(values, limits, effects);
        }
    }

    /// Takes a page of a scan, unless it is of an earlier one.
    pub(in crate::paxos::proposer) fn scanned(
        &mut self,
        quorums: Quorums,
        scan: Scan,
        acceptor: AcceptorUuid,
        page: PromisePage,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Repair {
            from,
            to,
            stage: Stage::Scanning(current, promises),
            ..
        }) = &mut self.repair
        else {
            return;
        };
        if scan != *current {
            return;
        }
        promises.page(acceptor, page);
        let Some(rows) = promises.rows(quorums, *from, *to) else {
            return;
        };
        let from = *from;
        let mut values = Vec::with_capacity(rows.len());
        for (slot, row) in from.to(*to).zip(rows) {
            let Some(value) = row else {
                effects.push(Effect::Halt(format!(
                    "slot {slot} was chosen, and a whole phase-1 quorum holds nothing for it: acceptors have lost data"
                )));
                return;
            };
            values.push((slot, value));
        }
        self.send_repair(values, limits, effects);
    }

    fn send_repair(&mut self, values: Vec<(Slot, Value)>, limits: &Limits, effects: &mut Vec<Effect>) {
        let Some(repair) = &mut self.repair else { return };
        repair.stage = Stage::Sent;
        repair.idle_checks = 0;
        if let Some((last, _)) = values.last() {
            repair.to = last.next();
        }
        let acceptor = repair.acceptor;
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
        if let Some(repair) = &self.repair
            && repair.acceptor == acceptor
            && chosen_to >= repair.to
        {
            self.repair = None;
        }
    }

    /// The way to an acceptor broke: what was on its way there is begun anew.
    pub(super) fn repair_closed(&mut self, acceptor: AcceptorUuid) {
        if self
            .repair
            .as_ref()
            .is_some_and(|repair| repair.acceptor == acceptor)
        {
            self.repair = None;
        }
    }

    /// Once every leader timeout: gives up a stretch that stands still.
    pub(super) fn check_repair(&mut self) {
        if let Some(repair) = &mut self.repair {
            repair.idle_checks += 1;
            if repair.idle_checks >= IDLE_CHECKS_MAX {
                self.fetch_failed = repair.stage == Stage::Fetching;
                self.repair = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
