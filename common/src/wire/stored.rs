//! Stored values: whether the bytes are commands for a state machine to apply.

use bytes::{Buf as _, Bytes};
use paxos_proto::v1 as pb;
use prost::Message as _;

use super::command::{InvalidCommand, decode_value, read};
use crate::paxos::{
    command::Command,
    value::{COMMANDS_MAX, Value},
};

/// The protobuf key of `Value.commands`: field 1, with a length. A batch is a sequence of this key, a length and a
/// command.
const COMMANDS_KEY: u8 = 0x0a;

/// A value that is not a batch of commands of this contract. Learners apply such a value as a no-op.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The bytes are not a message `Value`.
    #[error("the bytes are no Value: {0}")]
    NotAValue(#[from] prost::DecodeError),
    /// Bytes that belong to no command.
    #[error("the bytes are no Value: no command begins at byte {0}")]
    NoCommandAt(usize),
    /// An oversized batch.
    #[error("the value holds more than {COMMANDS_MAX} commands")]
    TooMany,
    /// A command that breaks a limit.
    #[error("command {offset} of the value is invalid: {source}")]
    Command {
        /// Position in the batch, from 0.
        offset: usize,
        /// The broken limit.
        source: InvalidCommand,
    },
}

/// The contents of a chosen value, for the state machine.
#[derive(Debug)]
pub enum Contents {
    /// Commands in the proposed form and in the applied form.
    Batch(Vec<pb::Command>, Vec<Command>),
    /// Bytes that no release proposes: a no-op.
    Unreadable(Unreadable),
    /// Contents unknown to this release: in the command at this offset, or beside all commands. A later release may
    /// have written and may apply the contents, so this release must not skip the value.
    Newer(usize),
}

/// Checks that a learner can apply the value, without a copy or an allocation. Stricter than [`read_value`]: only
/// commands are allowed.
///
/// # Errors
/// Names the command and the limit.
pub fn check_value(value: &Bytes) -> Result<(), Unreadable> {
    walk(value, |offset, raw| {
        let command = pb::Command::decode(raw)?;
        read(&command)
            .map(drop)
            .map_err(|source| Unreadable::Command { offset, source })
    })
}

/// Whether a later release may apply more of the value than this release can: see [`Contents::Newer`]. Once chosen, such
/// a value ends every learner of this release.
pub fn is_newer(value: &Bytes) -> bool {
    let value = Value::from_stored(value.clone(), Bytes::new());
    matches!(read_value(&value), Contents::Newer(_))
}

/// Reads the contents of a chosen value. The same for all learners, because the result depends on the bytes alone.
pub fn read_value(value: &Value) -> Contents {
    let proposed = match decode_value(value) {
        Ok(decoded) => decoded.commands,
        Err(error) => return Contents::Unreadable(error.into()),
    };
    if proposed.len() > COMMANDS_MAX {
        return Contents::Unreadable(Unreadable::TooMany);
    }
    if walk(value.as_bytes(), |_, _| Ok(())).is_err() {
        // The value decodes, so bytes outside all commands are a field unknown to this release.
        return Contents::Newer(proposed.len());
    }
    let mut commands = Vec::with_capacity(proposed.len());
    for (offset, command) in proposed.iter().enumerate() {
        match read(command) {
            Ok(command) => commands.push(command),
            Err(_) if has_unknown_field(value, offset, command) => return Contents::Newer(offset),
            Err(source) => return Contents::Unreadable(Unreadable::Command { offset, source }),
        }
    }
    Contents::Batch(proposed, commands)
}

/// Whether the command at this offset has more bytes than the known fields of this release.
fn has_unknown_field(value: &Value, wanted: usize, command: &pb::Command) -> bool {
    let mut is_longer = false;
    // After a failed walk, either the walk has passed the command, or the value comes from no later release.
    _ = walk(value.as_bytes(), |offset, raw| {
        is_longer |= offset == wanted && raw.len() > command.encoded_len();
        Ok(())
    });
    is_longer
}

/// Calls `take` with the offset and the bytes of each command.
fn walk(
    value: &Bytes,
    mut take: impl FnMut(usize, Bytes) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let mut rest = value.clone();
    let mut offset = 0;
    while rest.has_remaining() {
        let at = value.len() - rest.len();
        if offset == COMMANDS_MAX {
            return Err(Unreadable::TooMany);
        }
        if rest.get_u8() != COMMANDS_KEY {
            return Err(Unreadable::NoCommandAt(at));
        }
        let length = prost::decode_length_delimiter(&mut rest)?;
        if length > rest.len() {
            return Err(Unreadable::NoCommandAt(at));
        }
        take(offset, rest.split_to(length))?;
        offset += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::command::{append, encode};

    fn value(bytes: &'static [u8]) -> Value {
        Value::from_stored(Bytes::from_static(bytes), Bytes::new())
    }

    fn record(text: &'static str) -> crate::paxos::value::EncodedCommand {
        encode(append(Bytes::from_static(text.as_bytes()))).unwrap()
    }

    #[test]
    fn batches_of_proposers_pass_and_are_read() {
        for value in [
            Value::noop(),
            Value::batch(&[record("a")], Bytes::new()),
            Value::batch(&[record("a"), record("b")], Bytes::new()),
        ] {
            check_value(value.as_bytes()).unwrap();
            assert!(matches!(read_value(&value), Contents::Batch(..)));
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_and_read_as_a_noop_by_every_learner() {
        let long_key = pb::Delete {
            key: vec![b'k'; 5_000].into(),
            condition: None,
        };
        let command = pb::Command {
            session: None,
            operation: Some(pb::command::Operation::Delete(long_key)),
        };
        let long_key = pb::Value {
            commands: vec![command],
        };
        let empty: Vec<u8> = [0x0a, 0x00].repeat(COMMANDS_MAX + 1);
        for bytes in [
            Bytes::from_static(&[0x0a, 0x00]),
            Bytes::from_static(b"no batch of commands"),
            Bytes::from_static(&[0x0a, 0x7f, 0x00]),
            Bytes::from_static(&[0x0a]),
            Bytes::from_static(&[0xff; 20]),
            long_key.encode_to_vec().into(),
            empty.into(),
        ] {
            let value = Value::from_stored(bytes.clone(), Bytes::new());
            assert!(check_value(&bytes).is_err(), "{bytes:?}");
            assert!(!is_newer(&bytes), "{bytes:?}");
            assert!(matches!(read_value(&value), Contents::Unreadable(_)), "{bytes:?}");
        }
        let mut crowded = Vec::new();
        for _ in 0..=COMMANDS_MAX {
            crowded.extend_from_slice(record("a").as_bytes());
        }
        let crowded = Bytes::from(crowded);
        assert!(matches!(check_value(&crowded), Err(Unreadable::TooMany)));
        let crowded = read_value(&Value::from_stored(crowded, Bytes::new()));
        assert!(matches!(crowded, Contents::Unreadable(Unreadable::TooMany)));
    }

    #[test]
    fn operation_of_a_later_release_is_not_taken_for_a_noop() {
        // Field 15 is unknown to this release.
        let later = value(&[0x0a, 0x02, 0x7a, 0x00]);
        assert!(check_value(later.as_bytes()).is_err());
        assert!(is_newer(later.as_bytes()));
        assert!(matches!(read_value(&later), Contents::Newer(0)));
        // A put of key "k" with a condition that has field 15.
        let condition = value(&[0x0a, 0x09, 0x1a, 0x07, 0x0a, 0x01, b'k', 0x1a, 0x02, 0x7a, 0x00]);
        assert!(check_value(condition.as_bytes()).is_err());
        assert!(
            matches!(read_value(&condition), Contents::Newer(0)),
            "{:?}",
            read_value(&condition)
        );
        // Field 15 of the value itself, beside a command.
        let beside = Bytes::from([&record("a").as_bytes()[..], &[0x7a, 0x00]].concat());
        assert!(check_value(&beside).is_err());
        let beside = read_value(&Value::from_stored(beside, Bytes::new()));
        assert!(matches!(beside, Contents::Newer(1)), "{beside:?}");
    }
}
