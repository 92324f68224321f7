//! A command is ordered at most once, nothing is ordered that nobody asked for, and “not proposed” means that.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    slot::{Slot, Version},
    value::Value,
};

use super::commands;

/// Where commands went. Simulated clients retry only what was certainly not proposed.
#[derive(Default)]
pub(crate) struct Commands {
    asked: BTreeSet<u64>,
    proposed: BTreeSet<u64>,
    ordered: BTreeMap<u64, Version>,
}

impl Commands {
    /// A client makes a command up.
    pub(crate) fn asked(&mut self, command: u64) {
        self.asked.insert(command);
    }

    /// A leader proposes it.
    pub(crate) fn proposed(&mut self, value: &Value) {
        self.proposed.extend(commands(value));
    }

    /// A slot is chosen, at one ballot or another.
    pub(crate) fn ordered(&mut self, slot: Slot, value: &Value) {
        for (command, offset) in commands(value).zip(0..) {
            assert!(
                self.asked.contains(&command),
                "nobody asked for command {command}"
            );
            let version = Version { slot, offset };
            let first = *self.ordered.entry(command).or_insert(version);
            assert_eq!(first, version, "command {command} is ordered twice");
        }
    }

    /// A client hears that its command was certainly not proposed.
    pub(crate) fn not_proposed(&self, command: u64) {
        assert!(
            !self.proposed.contains(&command),
            "command {command} was proposed, and its client was told that it was not"
        );
    }

    /// Where a command was chosen.
    pub(crate) fn version(&self, command: u64) -> Option<Version> {
        self.ordered.get(&command).copied()
    }
}
