//! A command is ordered at most once, only requested commands are ordered, and “not proposed” means not proposed.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    slot::{Slot, Version},
    value::Value,
};

use super::commands;

/// The fate of each command. Simulated clients retry only commands certainly not proposed.
#[derive(Default)]
pub(crate) struct Commands {
    asked: BTreeSet<u64>,
    proposed: BTreeSet<u64>,
    ordered: BTreeMap<u64, Version>,
}

impl Commands {
    /// A client creates a command.
    pub(crate) fn asked(&mut self, command: u64) {
        self.asked.insert(command);
    }

    /// A leader proposes the commands of a value.
    pub(crate) fn proposed(&mut self, value: &Value) {
        self.proposed.extend(commands(value));
    }

    /// A slot is chosen, at any ballot.
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

    /// A client's command is answered as certainly not proposed.
    pub(crate) fn not_proposed(&self, command: u64) {
        assert!(
            !self.proposed.contains(&command),
            "command {command} was proposed, and the answer to the client denied it"
        );
    }

    /// The position of a chosen command.
    pub(crate) fn version(&self, command: u64) -> Option<Version> {
        self.ordered.get(&command).copied()
    }
}
