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

    /// The commands of the slot, in order. None: a [change of members](Self::member_change), or a no-op, left by a change of
    /// the leader.
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

    /// The change of members in the slot. Such a slot holds no commands.
    pub fn member_change(&self) -> Option<ChangeOfMembers> {
        let value = self.message.value.as_ref()?;
        value.configuration.as_ref().map(ChangeOfMembers::from_wire)
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
            .field("member_change", &self.member_change())
            .finish()
    }
}

/// A change of members in the log: the acceptors that vote from the next slot on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeOfMembers {
    /// The number of the change in its cluster, from 1.
    pub era: u64,
    /// The acceptors, in the order of their ids.
    pub members: Vec<ChangedMember>,
    /// Promises that a leader needs.
    pub phase1: u32,
    /// Votes that choose a value.
    pub phase2: u32,
}

/// An acceptor in a [`ChangeOfMembers`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedMember {
    /// The id, drawn by the acceptor at its first start: 16 bytes.
    pub acceptor: Bytes,
    /// The address, as the processes of the cluster call the acceptor.
    pub address: String,
    /// The operator's name for the acceptor; empty when unknown.
    pub name: String,
}

impl ChangeOfMembers {
    fn from_wire(configuration: &v1::Configuration) -> Self {
        let members = configuration.members.iter().map(|member| ChangedMember {
            acceptor: member.acceptor.clone(),
            address: member.address.clone(),
            name: member.name.clone(),
        });
        Self {
            era: configuration.era,
            members: members.collect(),
            phase1: configuration.phase1,
            phase2: configuration.phase2,
        }
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

    #[test]
    fn change_of_members_is_a_record_without_commands() {
        let member = v1::Member {
            acceptor: vec![7; 16].into(),
            address: "http://a:1".to_owned(),
            name: "acceptor-1".to_owned(),
        };
        let configuration = v1::Configuration {
            members: vec![member],
            phase1: 1,
            phase2: 1,
            era: 5,
            ..v1::Configuration::default()
        };
        let message = v1::LogRecord {
            slot: 17,
            value: Some(v1::Value {
                commands: Vec::new(),
                configuration: Some(configuration),
            }),
            traceparent: String::new(),
        };
        let record = LogRecord::new(slot(17), message);
        let expected = ChangeOfMembers {
            era: 5,
            members: vec![ChangedMember {
                acceptor: vec![7; 16].into(),
                address: "http://a:1".to_owned(),
                name: "acceptor-1".to_owned(),
            }],
            phase1: 1,
            phase2: 1,
        };
        assert_eq!(record.member_change(), Some(expected));
        assert_eq!(record.commands().count(), 0);
        let noop = LogRecord::new(slot(18), v1::LogRecord::default());
        assert_eq!(noop.member_change(), None);
    }
}
