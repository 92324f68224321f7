//! Records of the log: the content of a slot, as commands.

use std::fmt;

use bytes::Bytes;
use paxos_proto::v1::{self, command::Operation as Asked};

use crate::{Slot, Version, registers::Condition};

/// The content of a slot.
#[derive(Clone, PartialEq)]
pub struct LogRecord {
    slot: Slot,
    message: v1::LogRecord,
}

impl LogRecord {
    pub(crate) fn new(slot: Slot, message: v1::LogRecord) -> Self {
        Self { slot, message }
    }

    /// Position in the log.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The commands of the slot, in order. None: a no-op, left by a change of the leader.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        let commands = self.message.value.iter().flat_map(|value| &value.commands);
        (0..=u16::MAX).zip(commands).map(|(offset, command)| {
            let version = Version {
                slot: self.slot,
                offset,
            };
            Command::from_wire(version, command)
        })
    }

    /// The record as on the wire. For the command `paxos log`.
    #[doc(hidden)]
    pub fn into_message(self) -> v1::LogRecord {
        self.message
    }
}

impl fmt::Debug for LogRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands: Vec<_> = self.commands().collect();
        formatter
            .debug_struct("LogRecord")
            .field("slot", &self.slot)
            .field("commands", &commands)
            .finish()
    }
}

/// A command in the log.
///
/// The log shows commands as ordered. [`Client::outcome`](crate::Client::outcome) says what a command did: a condition
/// may have been false, and a retry takes effect once, with the first command of the same [`CommandId`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Position in the log.
    pub version: Version,
    /// The same for all attempts of a command; `None` outside of a session, where nothing is repeated.
    pub id: Option<CommandId>,
    /// The operation.
    pub operation: Operation,
}

/// The identity of a command in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The session: the version of the command that opened the session.
    pub session: Version,
    /// Number of the command in the session, from 1.
    pub sequence: u64,
}

/// The operation of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Appends this record to the log.
    Append(Bytes),
    /// Writes a register, if the condition is true.
    Put {
        /// The key of the register.
        key: Bytes,
        /// The value to write.
        value: Bytes,
        /// The condition.
        condition: Condition,
    },
    /// Removes a register, if the condition is true.
    Delete {
        /// The key of the register.
        key: Bytes,
        /// The condition.
        condition: Condition,
    },
    /// Opens a session.
    OpenSession,
    /// An operation of a later release.
    Unknown,
}

impl Command {
    fn from_wire(version: Version, command: &v1::Command) -> Self {
        let id = command.session.as_ref().and_then(|stamp| {
            Some(CommandId {
                session: Version::try_from(stamp.session?).ok()?,
                sequence: stamp.sequence,
            })
        });
        let operation = command.operation.as_ref().and_then(Operation::from_wire);
        Self {
            version,
            id,
            operation: operation.unwrap_or(Operation::Unknown),
        }
    }
}

impl Operation {
    fn from_wire(operation: &Asked) -> Option<Self> {
        Some(match operation {
            Asked::Append(append) => Self::Append(append.record.clone()),
            Asked::Put(put) => Self::Put {
                key: put.key.clone(),
                value: put.value.clone(),
                condition: Condition::from_wire(put.condition)?,
            },
            Asked::Delete(delete) => Self::Delete {
                key: delete.key.clone(),
                condition: Condition::from_wire(delete.condition)?,
            },
            Asked::OpenSession(_) => Self::OpenSession,
        })
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;

    #[test]
    fn commands_have_their_version_their_session_and_their_operation() {
        let command = |session, operation| v1::Command { session, operation };
        let stamp = v1::SessionStamp {
            session: Some(v1::Version { slot: 4, offset: 1 }),
            sequence: 9,
            ..v1::SessionStamp::default()
        };
        let put = Asked::Put(v1::Put {
            key: "key".into(),
            value: "value".into(),
            condition: Condition::Absent.to_wire(),
        });
        let append = Asked::Append(v1::Append {
            record: "hello".into(),
        });
        let message = v1::LogRecord {
            slot: 17,
            value: Some(v1::Value {
                commands: vec![
                    command(None, Some(append)),
                    command(Some(stamp), Some(put)),
                    command(None, None),
                ],
                configuration: None,
            }),
            traceparent: String::new(),
        };
        let version = |slot_number, offset| Version {
            slot: slot(slot_number),
            offset,
        };
        let commands: Vec<_> = LogRecord::new(slot(17), message).commands().collect();
        let expected = [
            Command {
                version: version(17, 0),
                id: None,
                operation: Operation::Append("hello".into()),
            },
            Command {
                version: version(17, 1),
                id: Some(CommandId {
                    session: version(4, 1),
                    sequence: 9,
                }),
                operation: Operation::Put {
                    key: "key".into(),
                    value: "value".into(),
                    condition: Condition::Absent,
                },
            },
            Command {
                version: version(17, 2),
                id: None,
                operation: Operation::Unknown,
            },
        ];
        assert_eq!(commands, expected);
    }
}
