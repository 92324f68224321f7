//! Histories: what clients asked of registers, from when to when, and what they were told.
//!
//! Two checks say whether a history is linearizable, and share nothing but these types: [`positions`] believes the
//! versions that clients were told and asks whether they make sense; [`search`] looks at values alone and searches for
//! any order that explains them.

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

/// Where a command stands in the log.
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

/// What a register holds: a value that no other command writes, and who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    pub value: String,
    pub version: Position,
}

/// What must hold of a register for a command to take effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Condition {
    Always,
    Absent,
    /// The version is what the command named; the value is what its client was told to stand there.
    Holds(Held),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Asked {
    Read,
    Put { value: String, condition: Condition },
    Delete { condition: Condition },
}

impl Asked {
    /// The condition of a command; a read has none.
    pub fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Read => None,
            Self::Put { condition, .. } | Self::Delete { condition } => Some(condition),
        }
    }
}

/// What a command found that did not take effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Found {
    Nothing,
    Held(Held),
    /// It was written by this version, and what it held is not kept.
    Gone(Position),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Told {
    /// The state after every slot below `applied_to`.
    Read { found: Option<Held>, applied_to: u64 },
    /// It took effect, at this position.
    Applied(Position),
    /// It was looked at here, and its condition did not hold.
    Failed { at: Position, found: Found },
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub client: u64,
    pub key: String,
    pub asked: Asked,
    /// Just before the call, in nanoseconds on a clock that all processes of this machine share.
    pub begun: u64,
    /// Just after it, and what it told. None: the outcome is unknown; a command may take effect at any later time, or
    /// never.
    pub ended: Option<(u64, Told)>,
}

impl Record {
    /// What the client was told; none when it never was.
    pub fn told(&self) -> Option<&Told> {
        self.ended.as_ref().map(|(_, told)| told)
    }

    /// When the call was over: never, for what is unknown.
    pub fn over(&self) -> u64 {
        self.ended.as_ref().map_or(u64::MAX, |(over, _)| *over)
    }

    /// Whether it began only after another was over, so that all the world could have known of that.
    pub fn follows(&self, other: &Self) -> bool {
        other.over() < self.begun
    }
}

/// Collects what many tasks do. Clones write to the same history.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Record>>>);

/// A call under way. Dropped, it counts as one whose outcome is unknown.
#[derive(Debug)]
#[must_use = "dropped at once, the call is told as unknown"]
pub struct Call {
    recorder: Recorder,
    record: Option<Record>,
}

impl Recorder {
    /// To be called before anything is sent. A client has one call at a time.
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

    /// What is over by now, known or unknown, in the order in which it was over.
    pub fn history(&self) -> Vec<Record> {
        self.0.lock().unwrap().clone()
    }

    /// How many calls are over.
    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Call {
    /// The call is over, and this is what came of it.
    pub fn told(mut self, told: Told) {
        if let Some(record) = &mut self.record {
            record.ended = Some((now(), told));
        }
    }

    /// The call certainly had no effect, and told nothing: as if it had not been made.
    pub fn without_effect(mut self) {
        self.record = None;
    }

    /// Nobody can tell what came of it.
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

/// Nanoseconds on the clock that stands still for nobody, and is the same for all processes.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

/// One record a line, as processes pass histories on.
pub fn to_lines(history: &[Record]) -> String {
    let lines = history
        .iter()
        .map(|record| serde_json::to_string(record).unwrap());
    lines.map(|line| line + "\n").collect()
}

/// Reads what [`to_lines`] wrote; the lines of several processes may follow one another.
pub fn from_lines(lines: &str) -> Vec<Record> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
