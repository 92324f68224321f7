//! Values: the content of a slot, as the stored bytes.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::quorum::{Configuration, Electorate};

/// Limit of commands in a value (inclusive): an offset has 16 bits.
pub const COMMANDS_MAX: usize = 1 << 16;

/// A client's command, encoded as a batch of this command alone.
///
/// The stored form of a batch is a protobuf message with a single repeated field. Such encodings concatenate: a batch
/// of many commands is the batches of each command, end to end. So a command is encoded once, on arrival, and the cores
/// never look inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedCommand(Bytes);

impl EncodedCommand {
    /// Takes the encoding of a batch of exactly one command.
    pub fn from_batch_of_one(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// The encoding of a batch of this command alone.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Content of a slot: a batch of commands, a no-op, which is an empty batch, or a *change* of members: the configuration of
/// the next era.
///
/// Two values are equal when their bytes are equal. The trace context travels with a value and is not part of the
/// value. The configuration of a change is read from the bytes, so it is no further part either.
#[derive(Clone, Debug, Default)]
pub struct Value {
    bytes: Bytes,
    traceparent: Bytes,
    /// The configuration in the bytes of a change.
    change: Option<Arc<Configuration>>,
    /// Made here of checked commands. Not part of the value either.
    is_new: bool,
}

impl Value {
    /// Fills a slot without effect.
    pub fn noop() -> Self {
        Self {
            is_new: true,
            ..Self::default()
        }
    }

    /// Puts commands into one value, in order.
    pub fn batch<'a>(commands: impl IntoIterator<Item = &'a EncodedCommand>, traceparent: Bytes) -> Self {
        let mut commands = commands.into_iter().peekable();
        let Some(first) = commands.next() else {
            return Self::noop();
        };
        if commands.peek().is_none() {
            return Self {
                bytes: first.0.clone(),
                traceparent,
                change: None,
                is_new: true,
            };
        }
        let mut bytes = BytesMut::from(&first.0[..]);
        for command in commands {
            bytes.extend_from_slice(&command.0);
        }
        Self {
            bytes: bytes.freeze(),
            traceparent,
            change: None,
            is_new: true,
        }
    }

    /// Takes a batch from the wire or a disk. Services read values by
    /// [`wire::stored::value`](crate::wire::stored::value), which also recognizes changes.
    pub fn from_stored(bytes: Bytes, traceparent: Bytes) -> Self {
        Self {
            bytes,
            traceparent,
            change: None,
            is_new: false,
        }
    }

    /// The same value as a change: its bytes hold this configuration. Only the wire format can say so.
    #[must_use]
    pub fn with_change(self, configuration: Configuration) -> Self {
        Self {
            change: Some(Arc::new(configuration)),
            ..self
        }
    }

    /// The same value, made here, and not found on the wire or on a disk.
    #[must_use]
    pub fn made_here(self) -> Self {
        Self { is_new: true, ..self }
    }

    /// The change of members that ends the era of `present`, if this value is one: the configuration of the next era of the
    /// same cluster. Every other configuration in a value is an ordinary value. Proposers and learners decide by this rule
    /// alone, because all must stop at the same slot.
    pub fn ends(&self, present: &Electorate) -> Option<&Arc<Configuration>> {
        let is_next = |change: &&Arc<Configuration>| {
            change.era() == present.era().next() && change.cluster_id() == present.cluster()
        };
        self.change.as_ref().filter(is_next)
    }

    /// The configuration in this value, if this value is a change of members.
    pub fn change(&self) -> Option<&Arc<Configuration>> {
        self.change.as_ref()
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the value was made here, and not found on the wire or on a disk. A found value may
    /// be chosen already, and must be proposed again whatever its bytes are.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// W3C trace context of the batch; empty when unsampled.
    pub fn traceparent(&self) -> &Bytes {
        &self.traceparent
    }

    /// Whether the value holds no command.
    pub fn is_noop(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Short stand-in for the bytes: the XXH3 hash of 64 bits.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(xxh3_64(&self.bytes))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// Hash of a value's bytes, also on the wire: separates two values for one slot and ballot. Such values exist only
/// after a breach of the protocol. The hash protects from accidents, not from an attacker who looks for a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The highest possible hash.
    pub const MAX: Self = Self(u64::MAX);

    /// Takes the hash from the wire.
    pub fn from_wire(hash: u64) -> Self {
        Self(hash)
    }

    /// The hash for the wire.
    pub fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_when_their_bytes_are_whatever_the_traceparent() {
        let bytes = Bytes::from_static(b"x");
        let sampled = Value::from_stored(bytes.clone(), Bytes::from_static(b"00-1-1-01"));
        assert_eq!(sampled, Value::from_stored(bytes, Bytes::new()));
        assert_ne!(sampled, Value::noop());
    }

    #[test]
    fn batch_is_its_commands_end_to_end() {
        let command =
            |text: &'static str| EncodedCommand::from_batch_of_one(Bytes::from_static(text.as_bytes()));
        let value = Value::batch(&[command("ab"), command("c")], Bytes::new());
        assert_eq!(value.as_bytes(), "abc");
        assert!(Value::batch(&[], Bytes::new()).is_noop());
    }
}
