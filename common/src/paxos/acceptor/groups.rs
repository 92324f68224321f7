//! Groups: requests decided together, made durable by one commit, and then taken into memory.

use std::{collections::BTreeMap, sync::Arc};

use super::{Acceptor, Group, HeldRow, Membership};
use crate::paxos::{
    ballot::Ballot,
    identity::CommitCounter,
    slot::Slot,
    value::Value,
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

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
    /// The oldest protocol version whose callers are served after the commit.
    pub least_version: u32,
}

impl Acceptor {
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
            least_version: self.least_version,
            rows: BTreeMap::new(),
            witnesses: self.unwritten_witnesses.clone(),
            needs_commit: false,
        }
    }

    /// The data that the store must write for `group`; `None` when nothing in the group needs to be durable. A new
    /// watermark alone needs no write: the next commit stores the watermark.
    pub fn write<'a>(&self, group: &'a Group) -> Option<Write<'a>> {
        group.needs_commit.then(|| Write {
            commit_counter: self.commit_counter.next(),
            membership: group.membership.as_ref(),
            promised: group.promised,
            promise_is_new: group.promised != self.promised,
            leader_address: &group.leader_address,
            known_to: group.known_to,
            trimmed_to: group.trimmed_to,
            rows: &group.rows,
            witnesses: &group.witnesses,
            least_version: group.least_version,
        })
    }

    /// Takes `group` into memory. Call only after the data from [`Self::write`] is durable.
    pub fn committed(&mut self, group: Group) {
        assert!(group.promised >= self.promised, "a promise never decreases");
        assert!(group.trimmed_to >= self.trimmed_to, "a trim is never undone");
        if let Some(Membership::Formed(configuration)) = &group.membership {
            assert_eq!(
                group.promised.era(),
                configuration.era(),
                "a promise is of the acceptor's own era"
            );
        }
        self.witnesses.merge(group.witnesses.iter());
        self.witnesses.bound(WITNESSED_RUNS_MAX);
        if group.needs_commit {
            self.commit_counter = self.commit_counter.next();
            self.unwritten_witnesses = Witnesses::default();
        } else {
            self.unwritten_witnesses = group.witnesses;
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
        self.least_version = group.least_version;
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
}

impl Group {
    /// Whether any change of the group must be durable before the answers leave. A rejection based on a promise of the
    /// same group waits too, because all answers of a group leave together.
    pub fn needs_commit(&self) -> bool {
        self.needs_commit
    }

    /// The promise after the group.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The membership after the group, if the group changes the membership.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// The rows to write.
    pub fn rows(&self) -> &BTreeMap<Slot, (Ballot, Value)> {
        &self.rows
    }

    /// News about the runs of other acceptors.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }
}
