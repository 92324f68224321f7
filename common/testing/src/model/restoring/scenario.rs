//! What a check of restoring begins with, and its limits.

use paxos_common::paxos::{origin::Origin, slot::Slot};

use crate::{bug::Bug, model::sights::Sight};

/// The origin of a cluster restored from a backup, by number.
pub(super) fn origin(backup: u8) -> Origin {
    let ended_at = Slot::new(9).expect("a small slot");
    Origin::after([backup; 32], ended_at, None).expect("there is room")
}

#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) acceptors: usize,
    /// The backup of each restore, by number from 1. Two restores of one backup are one command, repeated.
    pub(crate) restores: &'static [u8],
    pub(crate) proposers: usize,
    /// Limit of processes that die.
    pub(crate) deaths: u8,
    /// Limit of disks that go back to the blank state.
    pub(crate) returns: u8,
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// A restore into two acceptors beside a proposer. One of the two may die.
    pub(crate) fn small(name: &'static str) -> Self {
        Self {
            name,
            acceptors: 2,
            restores: &[1],
            proposers: 1,
            deaths: 1,
            returns: 0,
            expected: &[],
            bug: None,
        }
    }

    /// Whether nothing but the restores can stop a restore.
    pub(crate) fn is_undisturbed(&self) -> bool {
        (self.deaths, self.returns, self.proposers) == (0, 0, 0)
    }
}
