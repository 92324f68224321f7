//! The state machine: registers and sessions, after the slots applied so far.
//!
//! Every learner applies the same commands in the same order and reaches the same state. The state depends on no other
//! input: no clock, no randomness, no order of a hash table.
//!
//! - A *register* holds a value, and the version of the command that wrote the value.
//! - A *condition* is judged here, when the command is applied. The result cannot be known earlier.
//! - *Sessions* make retries take effect once: see [`sessions`].
//! - The *state digest* compares whole states: see [`digest`].
//! - The *size* of a state is counted against a limit: see [`Machine::state_bytes`].
//! - A *kept state* stays readable while further slots are applied: see [`Machine::keep`].

pub mod digest;
mod kept;
mod registers;
mod retained;
pub mod sessions;
mod size;

use std::ops::Bound;

use bytes::Bytes;

use super::{
    command::{Command, Condition, Operation},
    slot::{Slot, Version},
};
use digest::StateDigest;
use registers::RegisterTable;
use sessions::{SessionDecision, SessionState, SessionTable};
use size::{outcome_bytes, register_bytes};

pub use kept::{KeptPage, ReleasedState};
pub use registers::KeyedRegister;

/// Content of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    /// The value, as put.
    pub value: Bytes,
    /// Version of the command that put the value.
    pub version: Version,
}

/// Effect of an executed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The requested effect.
    Applied,
    /// No effect: the condition did not hold.
    ConditionFailed {
        /// The write that the register held instead; `None` for an absent register.
        current: Option<Version>,
    },
}

/// Verdict on a command when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// The command was executed.
    Executed(Outcome),
    /// Skipped: the session had executed this sequence before.
    Duplicate {
        /// Version of the first execution.
        first: Version,
        /// Outcome of the first execution.
        outcome: Outcome,
    },
    /// Skipped: the session is unknown, or has expired.
    Expired,
    /// Skipped, without any effect on the session: the command does not state the session's opener.
    Foreign,
    /// Skipped: the client has read the outcome of this sequence, or gave the outcome up.
    Acknowledged,
}

/// State of all registers and sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    applied_to: Slot,
    registers: RegisterTable,
    /// Of the registers.
    digest: StateDigest,
    /// The size of the registers.
    bytes: u64,
    sessions: SessionTable,
}

impl Machine {
    /// The empty state after the slots below `applied_to`, to be filled by [`Self::restore_register`] and
    /// [`Self::restore_session`]: a stored state is read row by row.
    pub fn restored(applied_to: Slot) -> Self {
        Self {
            applied_to,
            ..Self::default()
        }
    }

    /// Adds a register of a stored state. Returns `false`, and changes nothing, if the key is present already.
    #[must_use]
    pub fn restore_register(&mut self, key: &[u8], value: &[u8], version: Version) -> bool {
        if self.registers.get(key).is_some() {
            return false;
        }
        let (_, register) = self.registers.put(key, value, version);
        self.count(&register);
        true
    }

    /// As [`Self::restore_register`], for a reader that has hashed every record of the stored state: the reader gives the
    /// digest at the end, by [`Self::restore_digest`]. A second hash of each register would be a large part of a start.
    #[must_use]
    pub fn restore_hashed_register(&mut self, register: KeyedRegister) -> bool {
        let bytes = register_bytes(register.key(), register.value());
        let is_new = self.registers.add(register);
        if is_new {
            self.bytes += bytes;
        }
        is_new
    }

    /// The digest of the whole restored state, with all sessions.
    pub fn restore_digest(&mut self, digest: StateDigest) {
        self.digest = digest.without(self.sessions.digest());
    }

    /// Adds a session of a stored state. Returns `false`, and changes nothing, if the session is present already, or if
    /// another session was last used by the same command: a command belongs to one session.
    #[must_use]
    pub fn restore_session(&mut self, name: Version, session: SessionState) -> bool {
        self.sessions.restore(name, session)
    }

    /// Every slot below is applied.
    pub fn applied_to(&self) -> Slot {
        self.applied_to
    }

    /// The digest of the state: of all registers, sessions and recorded outcomes.
    pub fn digest(&self) -> StateDigest {
        self.digest.with(self.sessions.digest())
    }

    /// The size of the state in bytes: of each register key, value and 256 bytes, and 128 bytes of each recorded outcome
    /// of a session.
    pub fn state_bytes(&self) -> u64 {
        self.bytes + outcome_bytes(self.sessions.recorded_count())
    }

    /// Content of `key`, if any.
    pub fn register(&self, key: &[u8]) -> Option<&KeyedRegister> {
        self.registers.get(key)
    }

    /// The registers with keys that start with `prefix` and come after `after`, ascending by key.
    pub fn registers<'m>(
        &'m self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = &'m KeyedRegister> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        self.registers
            .range_from(start)
            .take_while(move |register| register.key().starts_with(prefix))
    }

    /// Number of registers that hold a value.
    pub fn register_count(&self) -> usize {
        self.registers.count()
    }

    /// The sessions.
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// Applies the next slot. Returns the verdict on each command of the slot.
    ///
    /// # Panics
    /// When `slot` is not the next slot, or has more than 65,536 commands.
    pub fn apply(&mut self, slot: Slot, commands: &[Command]) -> Vec<Judgement> {
        assert_eq!(slot, self.applied_to, "slots are applied in order, each once");
        self.applied_to = slot.next();
        self.sessions.expire_idle(slot);
        let offsets = 0..=u16::MAX;
        assert!(
            commands.len() <= offsets.len(),
            "a slot holds at most 65,536 commands"
        );
        let numbered = offsets.zip(commands);
        numbered
            .map(|(offset, command)| self.judge(Version { slot, offset }, command))
            .collect()
    }

    fn judge(&mut self, version: Version, command: &Command) -> Judgement {
        let Some(stamp) = command.session else {
            return Judgement::Executed(self.execute(version, &command.operation));
        };
        match self.sessions.admit(version, stamp) {
            SessionDecision::New => {
                let outcome = self.execute(version, &command.operation);
                self.sessions.record(version, stamp, outcome);
                Judgement::Executed(outcome)
            }
            SessionDecision::Skipped(judgement) => judgement,
        }
    }

    fn execute(&mut self, version: Version, operation: &Operation) -> Outcome {
        match operation {
            Operation::Append => Outcome::Applied,
            Operation::OpenSession { opener } => {
                self.sessions.open(version, *opener);
                Outcome::Applied
            }
            Operation::Put {
                key,
                value,
                condition,
            } => self.change(key, *condition, Some((value, version))),
            Operation::Delete { key, condition } => self.change(key, *condition, None),
        }
    }

    /// Replaces the content of `key` if the condition holds.
    fn change(&mut self, key: &Bytes, condition: Condition, content: Option<(&Bytes, Version)>) -> Outcome {
        let current = || self.registers.get(key).map(KeyedRegister::version);
        let failed = match condition {
            // Without a search.
            Condition::Always => None,
            Condition::Absent => current().map(Some),
            Condition::Version(version) => Some(current()).filter(|current| *current != Some(version)),
        };
        if let Some(current) = failed {
            return Outcome::ConditionFailed { current };
        }
        let replaced = match content {
            Some((value, version)) => {
                let (replaced, register) = self.registers.put(key, value, version);
                self.count(&register);
                replaced
            }
            None => self.registers.remove(key),
        };
        if let Some(replaced) = replaced {
            self.digest.remove(&replaced.record());
            self.bytes -= register_bytes(replaced.key(), replaced.value());
        }
        Outcome::Applied
    }

    /// Adds a register of the table to digest and size.
    fn count(&mut self, register: &KeyedRegister) {
        self.digest.add(&register.record());
        self.bytes += register_bytes(register.key(), register.value());
    }
}

#[cfg(test)]
mod tests;
