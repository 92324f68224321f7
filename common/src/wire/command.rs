//! Commands on the wire: their limits, and the single encoding for messages and storage.

use bytes::Bytes;
use paxos_proto::v1 as pb;
use prost::Message as _;

use crate::paxos::{
    command::{Command, Condition, Opener, Operation, SessionStamp},
    slot::OutOfRange,
    value::{EncodedCommand, Value},
};

/// Largest size of a key in bytes (inclusive): 4 KiB.
pub const KEY_BYTES_MAX: usize = 4 * 1024;

/// Largest size in bytes of the value of a `Put`, or of the record of an `Append` (inclusive): 1 MiB.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Limit (exclusive) of a command's sequence above its `acked_below`.
pub const SEQUENCES_MAX: u64 = 4_096;

/// A command that breaks a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// The command has no operation.
    #[error("the command holds no operation: give one of append, put, delete, open_session")]
    NoOperation,
    /// An `Append` with an empty record.
    #[error("an empty record cannot be appended: give 1 to {VALUE_BYTES_MAX} bytes")]
    EmptyRecord,
    /// An empty key.
    #[error("the key is empty: give 1 to {KEY_BYTES_MAX} bytes")]
    EmptyKey,
    /// An oversized key.
    #[error("the key has {0} bytes: at most {KEY_BYTES_MAX} are allowed")]
    LongKey(usize),
    /// An oversized prefix of keys.
    #[error("the prefix has {0} bytes: no key has more than {KEY_BYTES_MAX}")]
    LongPrefix(usize),
    /// An oversized value.
    #[error("the value has {0} bytes: at most {VALUE_BYTES_MAX} are allowed")]
    LongValue(usize),
    /// A condition message without a condition.
    #[error("the condition is empty: give absent = true or a version, or leave the condition out")]
    EmptyCondition,
    /// `absent = false`.
    #[error("absent = false is no condition: give absent = true or a version, or leave the condition out")]
    NotAbsent,
    /// A session stamp without its session.
    #[error("the session stamp names no session: give the version from the answer to OpenSession")]
    NoSession,
    /// See `SessionStamp.acked_below`.
    #[error("acked_below is {acked_below}, above the command's own sequence, {sequence}")]
    AckedAbove {
        /// The given number.
        acked_below: u64,
        /// The given number.
        sequence: u64,
    },
    /// See `SessionStamp.sequence`.
    #[error(
        "the sequence is {sequence} and acked_below is {acked_below}: the sequence must be below acked_below + \
         {SEQUENCES_MAX}"
    )]
    FarAhead {
        /// The given number.
        acked_below: u64,
        /// The given number.
        sequence: u64,
    },
    /// An `OpenSession` inside a session.
    #[error("open_session carries a session stamp: send open_session without a stamp")]
    StampedOpening,
    /// An opener of a wrong length.
    #[error("opener has {0} bytes: give {len} bytes drawn at random, or none", len = Opener::BYTES)]
    OpenerLength(usize),
    /// An oversized number: in a version, or a sequence.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

/// An `Append` of `record` without a session.
pub fn append(record: Bytes) -> pb::Command {
    let operation = pb::command::Operation::Append(pb::Append { record });
    pb::Command {
        session: None,
        operation: Some(operation),
    }
}

/// Checks a command against the limits, and encodes the command for storage.
///
/// # Errors
/// The command breaks a limit; the text names the limit.
pub fn encode(command: pb::Command) -> Result<EncodedCommand, InvalidCommand> {
    read(&command)?;
    let batch = pb::Value {
        commands: vec![command],
        configuration: None,
    };
    Ok(EncodedCommand::from_batch_of_one(batch.encode_to_vec().into()))
}

/// The `Command` that [`encode`] encoded, still encoded: without the head of the batch. Shares the bytes. `None` for
/// bytes that are not a batch of exactly one command.
pub fn stored_form(command: &EncodedCommand) -> Option<Bytes> {
    let mut batch = EncodedBatch::decode(command.as_bytes().clone()).ok()?;
    let is_all = batch.encoded_len() == command.as_bytes().len();
    batch
        .commands
        .pop()
        .filter(|_| is_all && batch.commands.is_empty())
}

/// A `paxos.v1.Value` with encoded commands.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedBatch {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    commands: Vec<Bytes>,
}

/// The commands of a stored value. Every other field is skipped as unknown, as in the releases before changes of members.
#[derive(Clone, PartialEq, prost::Message)]
struct Commands {
    #[prost(message, repeated, tag = "1")]
    commands: Vec<pb::Command>,
}

/// Reads the commands of a stored value: any number of commands, with any operations.
///
/// # Errors
/// The bytes are not a value.
pub fn decode_value(value: &Value) -> Result<Vec<pb::Command>, prost::DecodeError> {
    Ok(Commands::decode(value.as_bytes().clone())?.commands)
}

/// Reads a command.
///
/// # Errors
/// The command breaks a limit; the text names the limit.
pub fn read(command: &pb::Command) -> Result<Command, InvalidCommand> {
    use pb::command::Operation as Asked;
    let session = command.session.as_ref().map(read_stamp).transpose()?;
    let operation = match command.operation.as_ref().ok_or(InvalidCommand::NoOperation)? {
        Asked::Append(append) if append.record.is_empty() => return Err(InvalidCommand::EmptyRecord),
        Asked::Append(append) => {
            check_value(&append.record)?;
            Operation::Append
        }
        Asked::Put(put) => {
            check_key(&put.key)?;
            check_value(&put.value)?;
            Operation::Put {
                key: put.key.clone(),
                value: put.value.clone(),
                condition: read_condition(put.condition.as_ref())?,
            }
        }
        Asked::Delete(delete) => {
            check_key(&delete.key)?;
            Operation::Delete {
                key: delete.key.clone(),
                condition: read_condition(delete.condition.as_ref())?,
            }
        }
        Asked::OpenSession(_) if session.is_some() => return Err(InvalidCommand::StampedOpening),
        Asked::OpenSession(pb::OpenSession { opener }) => Operation::OpenSession {
            opener: read_opener(opener)?,
        },
    };
    Ok(Command { session, operation })
}

/// Reads the session stamp of a command.
///
/// # Errors
/// The stamp breaks a limit; the text names the limit.
pub fn read_stamp(stamp: &pb::SessionStamp) -> Result<SessionStamp, InvalidCommand> {
    let session = super::version(stamp.session.ok_or(InvalidCommand::NoSession)?)?;
    let sequence = super::number("sequence", stamp.sequence)?;
    let acked_below = stamp.acked_below;
    if acked_below > sequence {
        return Err(InvalidCommand::AckedAbove {
            acked_below,
            sequence,
        });
    }
    if sequence - acked_below >= SEQUENCES_MAX {
        return Err(InvalidCommand::FarAhead {
            acked_below,
            sequence,
        });
    }
    Ok(SessionStamp {
        session,
        sequence,
        acked_below,
        opener: read_opener(&stamp.opener)?,
    })
}

fn read_opener(opener: &[u8]) -> Result<Option<Opener>, InvalidCommand> {
    if opener.is_empty() {
        return Ok(None);
    }
    let bytes = opener
        .try_into()
        .map_err(|_| InvalidCommand::OpenerLength(opener.len()))?;
    Ok(Some(Opener::from_bytes(bytes)))
}

/// Removes the openers of sessions, so that the command can be shown to readers of the log.
pub fn hide_openers(command: &mut pb::Command) {
    if let Some(stamp) = &mut command.session {
        stamp.opener = Bytes::new();
    }
    if let Some(pb::command::Operation::OpenSession(opening)) = &mut command.operation {
        opening.opener = Bytes::new();
    }
}

/// Checks that a key has 1 byte to 4 KiB.
///
/// # Errors
/// The key is empty or oversized.
pub fn check_key(key: &[u8]) -> Result<(), InvalidCommand> {
    match key.len() {
        0 => Err(InvalidCommand::EmptyKey),
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(InvalidCommand::LongKey(len)),
    }
}

/// Checks that a prefix is no longer than the longest key. Unlike a key, a prefix may be empty.
///
/// # Errors
/// The prefix is oversized.
pub fn check_prefix(prefix: &[u8]) -> Result<(), InvalidCommand> {
    if prefix.len() <= KEY_BYTES_MAX {
        Ok(())
    } else {
        Err(InvalidCommand::LongPrefix(prefix.len()))
    }
}

fn check_value(value: &[u8]) -> Result<(), InvalidCommand> {
    if value.len() <= VALUE_BYTES_MAX {
        Ok(())
    } else {
        Err(InvalidCommand::LongValue(value.len()))
    }
}

fn read_condition(condition: Option<&pb::Condition>) -> Result<Condition, InvalidCommand> {
    use pb::condition::Condition as Asked;
    match condition.map(|condition| &condition.condition) {
        None => Ok(Condition::Always),
        Some(Some(Asked::Absent(true))) => Ok(Condition::Absent),
        Some(Some(Asked::Version(version))) => Ok(Condition::Version(super::version(*version)?)),
        Some(Some(Asked::Absent(false))) => Err(InvalidCommand::NotAbsent),
        Some(None) => Err(InvalidCommand::EmptyCondition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_one_concatenate_to_a_batch_of_many() {
        let commands: Vec<_> = ["a", "bb", "ccc"]
            .map(|text| append(Bytes::from_static(text.as_bytes())))
            .into();
        let encoded: Vec<_> = commands
            .iter()
            .cloned()
            .map(|command| encode(command).unwrap())
            .collect();
        let value = Value::batch(&encoded, Bytes::new());
        assert_eq!(decode_value(&value).unwrap(), commands);
        assert_eq!(
            value.as_bytes(),
            &pb::Value {
                commands: commands.clone(),
                configuration: None,
            }
            .encode_to_vec()
        );
        let only = stored_form(&encoded[1]).unwrap();
        assert_eq!(pb::Command::decode(only).unwrap(), commands[1]);
        let more = |bytes: &[u8]| {
            let bytes = [&encoded[1].as_bytes()[..], bytes].concat();
            stored_form(&EncodedCommand::from_batch_of_one(bytes.into()))
        };
        assert!(more(b"").is_some());
        // A second command, another field, and a part of a field.
        for bytes in [&encoded[0].as_bytes()[..], &[0x10, 7], &[0x0a]] {
            assert_eq!(more(bytes), None);
        }
        assert_eq!(
            stored_form(&EncodedCommand::from_batch_of_one(Bytes::new())),
            None
        );
    }

    #[test]
    fn a_noop_holds_no_command() {
        assert!(decode_value(&Value::noop()).unwrap().is_empty());
    }

    #[test]
    fn refuses_what_breaks_a_limit_and_names_it() {
        let long = |len| append(Bytes::from(vec![0; len]));
        assert!(encode(long(VALUE_BYTES_MAX)).is_ok());
        assert_eq!(
            encode(long(VALUE_BYTES_MAX + 1)),
            Err(InvalidCommand::LongValue(VALUE_BYTES_MAX + 1))
        );
        assert_eq!(encode(long(0)), Err(InvalidCommand::EmptyRecord));
        assert_eq!(encode(pb::Command::default()), Err(InvalidCommand::NoOperation));
        assert!(InvalidCommand::LongKey(5_000).to_string().contains("4096"));
    }

    #[test]
    fn refuses_versions_and_sequences_that_cannot_be() {
        let command = |version, sequence| pb::Command {
            session: Some(pb::SessionStamp {
                session: Some(pb::Version { slot: 1, offset: 0 }),
                sequence,
                acked_below: sequence,
                opener: Bytes::new(),
            }),
            operation: Some(pb::command::Operation::Delete(pb::Delete {
                key: Bytes::from_static(b"k"),
                condition: Some(pb::Condition {
                    condition: Some(pb::condition::Condition::Version(version)),
                }),
            })),
        };
        let last = pb::Version {
            slot: (1 << 63) - 1,
            offset: 65_535,
        };
        assert!(encode(command(last, (1 << 63) - 1)).is_ok());
        for (version, sequence, name) in [
            (
                pb::Version {
                    slot: 1 << 63,
                    ..last
                },
                1,
                "slot",
            ),
            (
                pb::Version {
                    offset: 65_536,
                    ..last
                },
                1,
                "offset",
            ),
            (last, 1 << 63, "sequence"),
        ] {
            let error = encode(command(version, sequence)).unwrap_err();
            assert!(matches!(error, InvalidCommand::OutOfRange(_)), "{error}");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn refuses_stamps_that_no_client_may_use() {
        let command = |sequence, acked_below, operation| pb::Command {
            session: Some(pb::SessionStamp {
                session: Some(pb::Version { slot: 1, offset: 0 }),
                sequence,
                acked_below,
                opener: Bytes::new(),
            }),
            operation: Some(operation),
        };
        let open = || pb::command::Operation::OpenSession(pb::OpenSession::default());
        let append = || append(Bytes::from_static(b"x")).operation.unwrap();
        assert!(encode(command(SEQUENCES_MAX + 6, 7, append())).is_ok());
        let (acked_below, sequence) = (7, SEQUENCES_MAX + 7);
        let far = InvalidCommand::FarAhead {
            acked_below,
            sequence,
        };
        assert_eq!(encode(command(sequence, acked_below, append())), Err(far));
        assert_eq!(encode(command(7, 7, open())), Err(InvalidCommand::StampedOpening));
    }

    #[test]
    fn an_opener_has_16_bytes_or_none_and_can_be_hidden() {
        let opening = |opener: &'static [u8]| pb::Command {
            session: None,
            operation: Some(pb::command::Operation::OpenSession(pb::OpenSession {
                opener: Bytes::from_static(opener),
            })),
        };
        let stamped = |opener: &'static [u8]| pb::Command {
            session: Some(pb::SessionStamp {
                session: Some(pb::Version::default()),
                sequence: 1,
                acked_below: 1,
                opener: Bytes::from_static(opener),
            }),
            ..append(Bytes::from_static(b"x"))
        };
        for command in [opening, stamped] {
            assert!(encode(command(b"")).is_ok());
            for wrong in [&b"fifteen letters"[..], b"seventeen letters"] {
                let error = encode(command(wrong)).unwrap_err();
                assert_eq!(error, InvalidCommand::OpenerLength(wrong.len()));
                assert!(error.to_string().starts_with("opener has"), "{error}");
            }
            let mut hidden = command(b"sixteen letters!");
            assert!(encode(hidden.clone()).is_ok());
            hide_openers(&mut hidden);
            assert_eq!(hidden, command(b""));
        }
        let command = read(&opening(b"sixteen letters!")).unwrap();
        assert!(!format!("{command:?}").contains("sixteen"), "{command:?}");
    }
}
