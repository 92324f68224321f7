//! Stored values: whether the bytes are commands for a state machine to apply, or a change of members.

use bytes::{Buf as _, Bytes};
use paxos_proto::v1 as pb;
use prost::Message as _;

use super::command::{InvalidCommand, decode_value, read};
use crate::paxos::{
    command::Command,
    era::Era,
    quorum::Configuration,
    value::{COMMANDS_MAX, Value},
};

/// The protobuf key of `Value.commands`: field 1, with a length. A batch is a sequence of this key, a length and a
/// command.
const COMMANDS_KEY: u8 = 0x0a;
/// The protobuf key of `Value.configuration`: field 2, with a length. No batch begins with this byte, so no batch is decoded
/// to look for a change.
const CHANGE_KEY: u8 = 0x12;

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
    /// A change of members: the configuration of the next era. For the state machine a no-op.
    Change(Configuration),
    /// Bytes that no release proposes: a no-op.
    Unreadable(Unreadable),
    /// Contents unknown to this release: in the command at this offset, or beside all commands. A later release may
    /// have written and may apply the contents, so this release must not skip the value.
    Newer(usize),
}

/// Takes a value from the wire or a disk, and recognizes a change of members. The bytes are kept as they are.
pub fn value(bytes: Bytes, traceparent: Bytes) -> Value {
    let change = read_change(&bytes);
    let value = Value::from_stored(bytes, traceparent);
    match change {
        Some(configuration) => value.with_change(configuration),
        None => value,
    }
}

/// Makes the value of a change to `configuration`, a configuration of a later era.
pub fn change(configuration: &Configuration) -> Value {
    let encoded = pb::Value {
        commands: Vec::new(),
        configuration: Some(configuration.into()),
    };
    let change = value(encoded.encode_to_vec().into(), Bytes::new());
    debug_assert_eq!(
        change.change().map(|change| &**change),
        Some(configuration),
        "a configuration of a later era survives its encoding"
    );
    change.made_here()
}

/// The configuration in the bytes of a change: alone in the value, of a later era than the first, and in the shortest
/// encoding. Other bytes in a field that begins in this way come from a later release, and are no change here.
fn read_change(value: &Bytes) -> Option<Configuration> {
    if value.first() != Some(&CHANGE_KEY) {
        return None;
    }
    let decoded = pb::Value::decode(value.clone()).ok()?;
    let is_canonical = decoded.commands.is_empty() && decoded.encode_to_vec() == value[..];
    let configuration = decoded.configuration.filter(|_| is_canonical)?;
    let configuration = Configuration::try_from(configuration).ok()?;
    (configuration.era() > Era::FIRST).then_some(configuration)
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
    match read_value(&value) {
        Contents::Newer(_) => true,
        Contents::Batch(..) | Contents::Change(_) | Contents::Unreadable(_) => false,
    }
}

/// Reads the contents of a chosen value. The same for all learners, because the result depends on the bytes alone.
pub fn read_value(value: &Value) -> Contents {
    if let Some(configuration) = read_change(value.as_bytes()) {
        return Contents::Change(configuration);
    }
    let proposed = match decode_value(value) {
        Ok(commands) => commands,
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
    use crate::{
        paxos::identity::AcceptorUuid,
        wire::command::{append, encode},
    };

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
            configuration: None,
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

    fn configuration() -> Configuration {
        let member = |uuid| {
            let address: std::sync::Arc<str> = format!("http://a{uuid}:1").into();
            (AcceptorUuid::from_u128(uuid), address.into())
        };
        let first = Configuration::of_members([1, 2, 3].map(member), 2, 2).unwrap();
        first.changed_to([3, 4, 5].map(member), 2, 2).unwrap()
    }

    #[test]
    fn change_is_read_from_its_bytes_alone_and_passed_on_unchanged() {
        let made = change(&configuration());
        assert_eq!(made.as_bytes()[0], CHANGE_KEY);
        let found = super::value(made.as_bytes().clone(), Bytes::new());
        assert_eq!((&found, found.change()), (&made, made.change()));
        assert_eq!((made.is_new(), found.is_new()), (true, false));
        // The contents do not depend on how the value was made.
        let bare = Value::from_stored(made.as_bytes().clone(), Bytes::new());
        for value in [&made, &found, &bare] {
            assert!(matches!(read_value(value), Contents::Change(read) if read == configuration()));
        }
        assert!(check_value(made.as_bytes()).is_err(), "no commands");
        assert!(!is_newer(made.as_bytes()));
    }

    #[test]
    fn what_begins_as_a_change_and_is_none_comes_from_a_later_release() {
        let made = change(&configuration()).as_bytes().clone();
        let beside = [&made[..], record("a").as_bytes()].concat();
        let field = [&made[..], &[0x7a, 0x00]].concat();
        let first = pb::Value {
            commands: Vec::new(),
            configuration: Some(pb::Configuration::from(
                &Configuration::new([(AcceptorUuid::from_u128(1), "".into())], 1, 1).unwrap(),
            )),
        };
        // An unknown field of the configuration.
        let mut longer = vec![CHANGE_KEY, made[1] & 0x7f | 0x80, made[2]];
        let length = made.len() - 3 + 2;
        let [low, high] = u16::try_from(length).unwrap().to_le_bytes();
        longer[1] = low & 0x7f | 0x80;
        longer[2] = high << 1 | low >> 7;
        longer.extend_from_slice(&made[3..]);
        longer.extend_from_slice(&[0x7a, 0x00]);
        for bytes in [beside, field, first.encode_to_vec(), longer, vec![CHANGE_KEY, 0]] {
            let value = super::value(bytes.clone().into(), Bytes::new());
            assert_eq!(value.change(), None, "{bytes:?}");
            assert!(matches!(read_value(&value), Contents::Newer(_)), "{bytes:?}");
            assert!(is_newer(&bytes.into()));
        }
        // Bytes that no release encodes: a no-op, as in the releases before changes.
        let cut = made.slice(..made.len() - 1);
        assert!(matches!(
            read_value(&super::value(cut, Bytes::new())),
            Contents::Unreadable(_)
        ));
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
