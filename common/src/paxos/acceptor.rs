//! The acceptor: promises and votes. The acceptor answers after the change is durable.
//!
//! The core decides in *groups*. A [`Group`] stands for one SQL commit. First, requests are decided into the group in
//! sequence: each request sees the changes of the requests before it. Then the store makes the group durable. Then
//! [`Acceptor::committed`] updates the memory. Only then may the answers leave, unchanged. If the commit fails, no
//! answer leaves, memory stays as before, and the process ends.
//!
//! Sources: *Paxos Made Simple* §2.2 (P1a, P2a) and §2.5; *Flexible Paxos* §3.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ballot::Ballot,
    identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber, Stamp},
    message::{
        Accept, AcceptAnswer, Leadership, Prepare, PrepareAnswer, Refused, Rejection, SLOTS_AHEAD_MAX,
    },
    quorum::Configuration,
    slot::{Slot, SlotRange},
    value::{Fingerprint, Value},
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

mod contradictions;
mod membership;
mod trims;

pub use contradictions::Violation;
pub use membership::{FormRefusal, Membership};
pub use trims::TrimRefusal;

/// What memory keeps of a row: enough to judge the next message about the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldRow {
    /// Accepted at this ballot, with a value of this fingerprint.
    Accepted(Ballot, Fingerprint),
    /// The row exists but fails its checksum.
    Unknown,
}

/// State returned by a store at start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The acceptor's uuid.
    pub uuid: AcceptorUuid,
    /// Counter of the last commit on disk.
    pub commit_counter: CommitCounter,
    /// The stored progress in forming.
    pub membership: Membership,
    /// The highest promise.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub leader_address: Arc<str>,
    /// The stored watermark. Memory may have been ahead of this watermark.
    pub known_to: Slot,
    /// Slots below are trimmed: no row is held there.
    pub trimmed_to: Slot,
    /// One past the highest row; at least `trimmed_to`.
    pub voted_to: Slot,
    /// The rows at or above `known_to`.
    pub rows: BTreeMap<Slot, HeldRow>,
}

/// The acceptor's state machine. Memory of the durable state, never ahead of the disk except for `known_to`: a true
/// claim about durable rows, which may be stored late.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    uuid: AcceptorUuid,
    run: RunNumber,
    commit_counter: CommitCounter,
    membership: Membership,
    promised: Ballot,
    leader_address: Arc<str>,
    /// Not durable: a resigned proposer is also silent.
    resigned: bool,
    known_to: Slot,
    /// Never above `known_to` and `voted_to`.
    trimmed_to: Slot,
    voted_to: Slot,
    /// The watermark claimed by the last Accept with a claim and a ballot that is no less than the promise; at least
    /// `known_to`. Not durable: leaders repeat the claim. No bound separates a forged claim from the claim of a leader far ahead, so a claim lasts only until
    /// the next claim.
    claimed_to: Slot,
    /// Rows at or above `known_to`: at most [`SLOTS_AHEAD_MAX`] beyond a leader's watermark.
    rows: BTreeMap<Slot, HeldRow>,
    /// Rows below `known_to` found to be damaged. Not durable: damage is found again.
    damaged: Damaged,
    /// The remembered runs of other acceptors.
    witnesses: Witnesses,
    /// The part of `witnesses` that is not on disk yet: stored with the next commit.
    not_durable: Witnesses,
}

/// Damaged rows below a watermark, until they are accepted again.
///
/// Any value accepted there is the chosen value, at whatever ballot. The watermark passed the slot by a leader's claim.
/// The slot was chosen at or below the ballot of this claim, and the acceptor had promised this ballot. So every ballot
/// that the acceptor can accept since then proposes the same value.
type Damaged = BTreeSet<Slot>;

/// Limit of remembered damaged rows. Beyond this limit only the lowest slots are kept: they are repaired first, and the
/// rest is found again.
const DAMAGED_MAX: usize = 65_536;

/// Everything that one commit makes durable, and the state of memory after the commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    membership: Option<Membership>,
    promised: Ballot,
    leader_address: Arc<str>,
    resigned: bool,
    known_to: Slot,
    trimmed_to: Slot,
    voted_to: Slot,
    claimed_to: Slot,
    rows: BTreeMap<Slot, (Ballot, Value)>,
    /// Remembered runs of other acceptors, as far as not on disk yet.
    witnesses: Witnesses,
    /// Whether something in the group must be on disk before an answer may leave.
    durable: bool,
}

/// Data for a store to write, in one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The counter of this very commit.
    pub commit_counter: CommitCounter,
    /// Set when the membership changed.
    pub membership: Option<&'a Membership>,
    /// The promise after the commit.
    pub promised: Ballot,
    /// Set when the promise changed.
    pub promise_is_new: bool,
    /// Where the proposer of `promised` is reached.
    pub leader_address: &'a Arc<str>,
    /// The watermark after the commit.
    pub known_to: Slot,
    /// The first readable slot after the commit. If the commit raises this mark, the same commit makes the snapshot up
    /// to the mark the *bottom*, and no row below the mark is shown again.
    pub trimmed_to: Slot,
    /// Rows to insert or replace, at or above `trimmed_to`.
    pub rows: &'a BTreeMap<Slot, (Ballot, Value)>,
    /// Counters of other acceptors to raise to these values. Of each acceptor the store keeps the
    /// [`WITNESSED_RUNS_MAX`] runs with the highest counters.
    pub witnesses: &'a Witnesses,
}

impl Acceptor {
    /// Starts a new run from the state of a store. The run number must be durable before the first answer.
    pub fn recover(recovered: Recovered, run: RunNumber) -> Self {
        let Recovered {
            uuid,
            commit_counter,
            membership,
            promised,
            leader_address,
            known_to,
            trimmed_to,
            voted_to,
            rows,
        } = recovered;
        Self {
            uuid,
            run,
            commit_counter,
            membership,
            promised,
            leader_address,
            resigned: false,
            known_to,
            trimmed_to,
            voted_to,
            claimed_to: known_to,
            rows,
            damaged: Damaged::new(),
            witnesses: Witnesses::default(),
            not_durable: Witnesses::default(),
        }
    }

    /// Opens a group on the present durable state.
    pub fn group(&self) -> Group {
        Group {
            membership: None,
            promised: self.promised,
            leader_address: Arc::clone(&self.leader_address),
            resigned: self.resigned,
            known_to: self.known_to,
            trimmed_to: self.trimmed_to,
            voted_to: self.voted_to,
            claimed_to: self.claimed_to,
            rows: BTreeMap::new(),
            witnesses: self.not_durable.clone(),
            durable: false,
        }
    }

    /// Marks rows as damaged: rows on this acceptor's disk that cannot be read as written. Such a row is no vote any
    /// more, and the sound watermark stops before the row, until the slot is accepted again. Returns the number of rows
    /// not known to be damaged before.
    ///
    /// Call between groups, with the results of reads made between groups.
    pub fn found_damaged(&mut self, slots: impl IntoIterator<Item = Slot>) -> usize {
        let mut found = 0;
        for slot in slots {
            let is_news = if slot >= self.known_to {
                self.rows.insert(slot, HeldRow::Unknown) != Some(HeldRow::Unknown)
            } else if slot >= self.trimmed_to {
                self.damaged.insert(slot)
            } else {
                false
            };
            found += usize::from(is_news);
        }
        while self.damaged.len() > DAMAGED_MAX {
            self.damaged.pop_last();
        }
        found
    }

    /// Whether a slot's row is known to be damaged.
    pub fn is_damaged(&self, slot: Slot) -> bool {
        self.damaged.contains(&slot) || self.rows.get(&slot) == Some(&HeldRow::Unknown)
    }

    /// Number of rows below the watermark that were found damaged and are not sound again.
    pub fn damaged_rows(&self) -> usize {
        self.damaged.len()
    }

    /// Phase 1: promises a ballot unless a higher ballot is promised. An equal ballot is promised again, because its
    /// only owner may have lost the answer.
    pub fn prepare(&self, group: &mut Group, prepare: &Prepare) -> PrepareAnswer {
        match group.check_ballot(prepare.ballot) {
            Err(Turned::Away(rejection)) => return PrepareAnswer::Rejected(rejection),
            Err(Turned::Back(refusal)) => return PrepareAnswer::Refused(refusal),
            Ok(()) => {}
        }
        // A Prepare at the promised ballot is a leader's question, and may arrive after the leader's resignation.
        group.resigned &= prepare.ballot == group.promised;
        group.promise(prepare.ballot, &prepare.address);
        PrepareAnswer::Promised
    }

    /// The slots of `accept` below the rows in memory. [`Self::accept`] needs the stored rows of these slots.
    pub fn slots_to_read(&self, accept: &Accept) -> impl Iterator<Item = Slot> {
        accept
            .proposals
            .iter()
            .map(|&(slot, _)| slot)
            .filter(|&slot| slot >= self.trimmed_to && slot < self.known_to)
    }

    /// Phase 2: votes for every proposal of the message, or for none.
    ///
    /// `below` holds the store's rows for [`Self::slots_to_read`]; a slot without a row is left out.
    ///
    /// # Errors
    /// When the message proves a breach of the protocol: `group` is unchanged.
    pub fn accept(
        &self,
        group: &mut Group,
        accept: &Accept,
        below: &BTreeMap<Slot, HeldRow>,
    ) -> Result<AcceptAnswer, Violation> {
        match group.check_ballot(accept.ballot) {
            Err(Turned::Away(rejection)) => return Ok(AcceptAnswer::Rejected(rejection)),
            Err(Turned::Back(refusal)) => return Ok(AcceptAnswer::Refused(refusal)),
            Ok(()) => {}
        }
        let limit = accept.chosen_to.plus(SLOTS_AHEAD_MAX);
        for &(slot, _) in &accept.proposals {
            if slot >= limit {
                let reason = format!(
                    "slot {slot} is not below {limit}, the message's chosen_to plus {SLOTS_AHEAD_MAX}"
                );
                return Ok(AcceptAnswer::Refused(Refused {
                    reason,
                    promised: group.promised,
                }));
            }
            // The mark of the group: an earlier request of the group may have trimmed.
            if slot < group.trimmed_to {
                return Ok(AcceptAnswer::Trimmed {
                    trimmed_to: group.trimmed_to,
                });
            }
        }
        for (slot, value) in &accept.proposals {
            self.check_value(group, accept.ballot, *slot, value, below)?;
        }

        group.promise(accept.ballot, &accept.address);
        group.resigned = accept.resign;
        for (slot, value) in &accept.proposals {
            let held = self.held(group, *slot, below);
            let lost = self.damaged.contains(slot) && !group.rows.contains_key(slot);
            if lost || held != Some(HeldRow::Accepted(accept.ballot, value.fingerprint())) {
                group.rows.insert(*slot, (accept.ballot, value.clone()));
                group.voted_to = group.voted_to.max(slot.next());
                group.durable = true;
            }
        }
        self.advance_known_to(group, accept.ballot, accept.chosen_to);
        group.claim(accept.chosen_to);
        Ok(AcceptAnswer::Accepted {
            slots: SlotRange::collect(accept.proposals.iter().map(|&(slot, _)| slot)),
            voted_to: group.voted_to,
            chosen_to: self.sound_to(group),
            known_to: group.known_to,
        })
    }

    /// Restores the stored runs of other acceptors.
    #[must_use]
    pub fn remembering(mut self, witnesses: Witnesses) -> Self {
        self.witnesses = witnesses;
        self.witnesses.bound(WITNESSED_RUNS_MAX);
        self
    }

    /// Remembers the runs of acceptors reported by a leader: stored with the next commit, without a separate commit.
    /// Acceptors outside the cluster are ignored. Of each member, the [`WITNESSED_RUNS_MAX`] runs with the highest
    /// counters are remembered.
    pub fn witness(
        &self,
        group: &mut Group,
        heard: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) {
        let is_member = |acceptor: &AcceptorUuid| {
            let configuration = self.membership.configuration();
            configuration.is_some_and(|configuration| configuration.members().contains_key(acceptor))
        };
        for (acceptor, run, counter) in heard {
            let is_other = acceptor != self.uuid && is_member(&acceptor);
            if is_other
                && self
                    .witnesses
                    .would_keep(acceptor, run, counter, WITNESSED_RUNS_MAX)
            {
                group.witnesses.hear(acceptor, run, counter);
            }
        }
        group.witnesses.bound(WITNESSED_RUNS_MAX);
    }

    /// The remembered runs of other acceptors.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// The data that the store must write for `group`; `None` when nothing in the group needs to be durable. A new
    /// watermark alone needs no write: the next commit stores the watermark.
    pub fn write<'a>(&self, group: &'a Group) -> Option<Write<'a>> {
        group.durable.then(|| Write {
            commit_counter: self.commit_counter.next(),
            membership: group.membership.as_ref(),
            promised: group.promised,
            promise_is_new: group.promised != self.promised,
            leader_address: &group.leader_address,
            known_to: group.known_to,
            trimmed_to: group.trimmed_to,
            rows: &group.rows,
            witnesses: &group.witnesses,
        })
    }

    /// Takes `group` into memory. Call only after the data from [`Self::write`] is durable.
    pub fn committed(&mut self, group: Group) {
        assert!(group.promised >= self.promised, "a promise never decreases");
        assert!(group.trimmed_to >= self.trimmed_to, "a trim is never undone");
        self.witnesses.merge(group.witnesses.iter());
        self.witnesses.bound(WITNESSED_RUNS_MAX);
        if group.durable {
            self.commit_counter = self.commit_counter.next();
            self.not_durable = Witnesses::default();
        } else {
            self.not_durable = group.witnesses;
        }
        if let Some(membership) = group.membership {
            self.membership = membership;
        }
        self.promised = group.promised;
        self.leader_address = group.leader_address;
        self.resigned = group.resigned;
        self.known_to = group.known_to;
        self.voted_to = group.voted_to;
        self.claimed_to = group.claimed_to;
        if group.trimmed_to > self.trimmed_to {
            self.trimmed_to = group.trimmed_to;
            self.damaged = self.damaged.split_off(&group.trimmed_to);
        }
        for (slot, (ballot, value)) in group.rows {
            self.damaged.remove(&slot);
            self.rows
                .insert(slot, HeldRow::Accepted(ballot, value.fingerprint()));
        }
        // Rows below the watermark are judged from the disk, if a message concerns them at all.
        while let Some(lowest) = self.rows.first_entry() {
            if *lowest.key() >= self.known_to {
                break;
            }
            lowest.remove();
        }
    }

    /// Stamp of an answer: this acceptor, the present run and the last commit.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            cluster: self.membership.configuration().map(Configuration::cluster_id),
            acceptor: self.uuid,
            run: self.run,
            commit_counter: self.commit_counter,
        }
    }

    /// The cluster that this acceptor votes in; `None` until the acceptor is formed.
    pub fn formed_cluster(&self) -> Option<ClusterId> {
        match &self.membership {
            Membership::Formed(configuration) => Some(configuration.cluster_id()),
            Membership::Blank | Membership::Forming(_) => None,
        }
    }

    /// The progress in forming.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The leader, as far as this acceptor knows.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            promised: self.promised,
            address: Arc::clone(&self.leader_address),
            resigned: self.resigned,
        }
    }

    /// The highest promise.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The sound watermark: every slot below is chosen, and this acceptor's rows below hold the chosen values.
    /// Decreases when a row is found damaged.
    pub fn chosen_to(&self) -> Slot {
        let first = self.damaged.first().copied().unwrap_or(Slot::MAX);
        first.min(self.known_to)
    }

    /// The known watermark: every slot below is chosen, whatever the state of this acceptor's rows. An intact row below
    /// the watermark holds the chosen value. Falls back to the stored watermark when the process restarts.
    pub fn known_to(&self) -> Slot {
        self.known_to
    }

    /// One past the highest slot accepted, at any ballot; at least `trimmed_to`.
    pub fn voted_to(&self) -> Slot {
        self.voted_to
    }

    /// The sound watermark after `group` is taken into memory.
    fn sound_to(&self, group: &Group) -> Slot {
        let mut damaged = self.damaged.range(group.trimmed_to..).copied();
        let first = damaged.find(|slot| !group.rows.contains_key(slot));
        first.unwrap_or(Slot::MAX).min(group.known_to)
    }

    /// Known state of a slot's row: from the group, from memory, or from the rows read for this request.
    fn held(&self, group: &Group, slot: Slot, below: &BTreeMap<Slot, HeldRow>) -> Option<HeldRow> {
        let staged = group
            .rows
            .get(&slot)
            .map(|(ballot, value)| HeldRow::Accepted(*ballot, value.fingerprint()));
        staged
            .or_else(|| self.rows.get(&slot).copied())
            .or_else(|| below.get(&slot).copied())
    }

    /// Advances the watermark over contiguous rows of the claimant's own ballot. A row of an older ballot below a
    /// leader's watermark proves nothing: the value may differ from the chosen value.
    fn advance_known_to(&self, group: &mut Group, ballot: Ballot, claimed: Slot) {
        while group.known_to < claimed {
            let row = match group.rows.get(&group.known_to) {
                Some(&(ballot, _)) => Some(ballot),
                None => match self.rows.get(&group.known_to) {
                    Some(&HeldRow::Accepted(ballot, _)) => Some(ballot),
                    Some(HeldRow::Unknown) | None => None,
                },
            };
            if row != Some(ballot) {
                break;
            }
            group.known_to = group.known_to.next();
        }
    }
}

/// Reason for not granting a ballot.
enum Turned {
    /// A higher ballot is promised.
    Away(Rejection),
    /// The ballot is out of bounds.
    Back(Refused),
}

impl Group {
    /// Whether any change of the group must be durable before the answers leave. A rejection based on a promise of the
    /// same group waits too, because all answers of a group leave together.
    pub fn is_durable_change(&self) -> bool {
        self.durable
    }

    /// The promise after the group.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The rows to write.
    pub fn rows(&self) -> &BTreeMap<Slot, (Ballot, Value)> {
        &self.rows
    }

    /// News about the runs of other acceptors.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    fn check_ballot(&self, asked: Ballot) -> Result<(), Turned> {
        if asked < self.promised {
            return Err(Turned::Away(Rejection {
                promised: self.promised,
                leader_address: Arc::clone(&self.leader_address),
            }));
        }
        if !self.promised.admits_jump_to(asked) {
            let reason = format!(
                "round {} is more than 2^32 above the promised ballot {}: raise the round in smaller steps",
                asked.round(),
                self.promised
            );
            return Err(Turned::Back(Refused {
                reason,
                promised: self.promised,
            }));
        }
        Ok(())
    }

    /// Takes the watermark of an admitted ballot. A candidate claims nothing.
    fn claim(&mut self, chosen_to: Slot) {
        let claimed = Some(chosen_to).filter(|&claimed| claimed > Slot::ZERO);
        self.claimed_to = claimed.unwrap_or(self.claimed_to).max(self.known_to);
    }

    fn promise(&mut self, ballot: Ballot, address: &Arc<str>) {
        if ballot > self.promised {
            self.promised = ballot;
            self.leader_address = Arc::clone(address);
            self.durable = true;
        }
    }
}

#[cfg(test)]
mod tests;
