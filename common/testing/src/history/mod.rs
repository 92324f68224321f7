//! Histories: requests of clients to registers, with begin, end and answer.
//!
//! Two checks decide whether a history is linearizable. The checks share nothing but the types of this module.
//! [`positions`] trusts the versions in the answers, and checks whether these versions make sense. [`search`] looks at
//! values alone, and searches for any order that explains the answers.

pub mod calls;
#[cfg(test)]
mod drawn;
#[cfg(test)]
mod planted;
pub mod positions;
pub mod search;

use std::sync::{Arc, Mutex};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The position of a command in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub slot: u64,
    pub offset: u16,
}

impl From<paxos_client::Version> for Position {
    fn from(version: paxos_client::Version) -> Self {
        Self {
            slot: version.slot.get(),
            offset: version.offset,
        }
    }
}

/// Content of a register: a value that no other command writes, and the version of the writing command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    pub value: String,
    pub version: Position,
}

/// Condition on a register for a command to take effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Condition {
    Always,
    Absent,
    /// The version is the version named by the command. The value is the value reported to the client for this version.
    Holds(Held),
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Asked {
    Read,
    Put { value: String, condition: Condition },
    Delete { condition: Condition },
}

impl Asked {
    /// The condition of a command; `None` for a read.
    pub fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Read => None,
            Self::Put { condition, .. } | Self::Delete { condition } => Some(condition),
        }
    }
}

/// The register as found by a command without effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Found {
    Nothing,
    Held(Held),
    /// The register was written by this version, and the value is not kept.
    Gone(Position),
}

/// An answer to a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// The state after every slot below `applied_to`.
    Read { found: Option<Held>, applied_to: u64 },
    /// The command took effect at this position.
    Applied(Position),
    /// The command was evaluated at this position, and the condition did not hold.
    Failed { at: Position, found: Found },
}

/// A single call of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub client: u64,
    pub key: String,
    pub asked: Asked,
    /// Time just before the call, in nanoseconds, on a clock shared by all processes of this machine.
    pub begun: u64,
    /// Time just after the call, and the answer. `None`: the outcome is unknown, and a command may take effect at any
    /// later time, or never.
    pub ended: Option<(u64, Answer)>,
}

impl Record {
    /// The answer to the client; `None` without an answer.
    pub fn answer(&self) -> Option<&Answer> {
        self.ended.as_ref().map(|(_, answer)| answer)
    }

    /// The end of the call: never, for a call with unknown outcome.
    pub fn over(&self) -> u64 {
        self.ended.as_ref().map_or(u64::MAX, |(over, _)| *over)
    }

    /// Whether this call began only after `other` was over, so that any client could have known of `other`.
    pub fn follows(&self, other: &Self) -> bool {
        other.over() < self.begun
    }
}

/// Collects the calls of many tasks. Clones write to the same history.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Record>>>);

/// A call under way. A dropped call counts as a call with unknown outcome.
#[derive(Debug)]
#[must_use = "dropped at once, the outcome of the call stays unknown"]
pub struct Call {
    recorder: Recorder,
    record: Option<Record>,
}

impl Recorder {
    /// Begins a call. Must run before anything is sent. A client has one call at a time.
    pub fn begin(&self, client: u64, key: &str, asked: Asked) -> Call {
        let record = Record {
            client,
            key: key.to_owned(),
            asked,
            begun: now(),
            ended: None,
        };
        Call {
            recorder: self.clone(),
            record: Some(record),
        }
    }

    /// All calls over by now, with known or unknown outcome, in the order of their ends.
    pub fn history(&self) -> Vec<Record> {
        self.0.lock().unwrap().clone()
    }

    /// Number of calls over by now.
    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Call {
    /// Ends the call with an answer.
    pub fn answered(mut self, answer: Answer) {
        if let Some(record) = &mut self.record {
            record.ended = Some((now(), answer));
        }
    }

    /// Removes the call: the call certainly had no effect and no answer, as if never made.
    pub fn without_effect(mut self) {
        self.record = None;
    }

    /// Ends the call with an unknown outcome.
    pub fn unknown(self) {
        drop(self);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.recorder.0.lock().unwrap().push(record);
        }
    }
}

/// Nanoseconds on the monotonic clock, the same clock for all processes.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

/// One record per line: the format for passing histories between processes.
pub fn to_lines(history: &[Record]) -> String {
    let lines = history
        .iter()
        .map(|record| serde_json::to_string(record).unwrap());
    lines.map(|line| line + "\n").collect()
}

/// Reads the output of [`to_lines`]. The lines of several processes may follow each other.
pub fn from_lines(lines: &str) -> Vec<Record> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
