//! The state digest: compares whole states, whatever the order of their records.
//!
//! A state is a set of *records*: each register, each session, and each recorded outcome of a session. The digest is the
//! sum modulo 2¹²⁸ of the XXH3-128 of all records. So a change of a record costs two hashes, and the state machine keeps
//! the digest up to date with every command. The digest detects faults and damage, not malice.
//!
//! A record is hashed in the encoding of `SnapshotRecord` in `snapshot.proto`: fields in ascending order, no field with
//! a default value, and shortest integers. The encoding is part of the stored format.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use super::Outcome;
use crate::paxos::{command::Opener, slot::Version};

/// Keys of fields: the number of the field, and the kind of the content.
const fn varint_field(number: u8) -> u8 {
    number << 3
}

const fn bytes_field(number: u8) -> u8 {
    number << 3 | 2
}

/// Sum of the hashes of a state's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateDigest(u128);

impl StateDigest {
    /// Length of a digest in bytes.
    pub const BYTES: usize = 16;

    /// The bytes of the wire and the disk, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }

    /// Takes [`Self::to_bytes`].
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Reads [`Self::to_bytes`]; `None` unless there are 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_bytes(bytes.try_into().ok()?))
    }

    /// Adds a record of the state.
    pub fn add(&mut self, record: &DigestRecord<'_>) {
        self.0 = self.0.wrapping_add(record.hash());
    }

    /// Removes a record of the state.
    pub fn remove(&mut self, record: &DigestRecord<'_>) {
        self.0 = self.0.wrapping_sub(record.hash());
    }

    /// Adds a record of the state, given in its encoding.
    pub fn add_encoded(&mut self, record: &[u8]) {
        self.0 = self.0.wrapping_add(xxh3_128(record));
    }

    /// The digest of the other records of a state.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self(self.0.wrapping_sub(part.0))
    }

    /// The digest of the records of both parts of a state.
    #[must_use]
    pub fn with(self, part: Self) -> Self {
        Self(self.0.wrapping_add(part.0))
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A part of the state that is stored and hashed alone.
#[derive(Clone, Copy, Debug)]
pub enum DigestRecord<'a> {
    /// The content of a key.
    Register {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Version of the command that put the value.
        version: Version,
    },
    /// A session, without the recorded outcomes.
    Session {
        /// The name.
        name: Version,
        /// The latest command of the session, or its opening.
        last_used: Version,
        /// The highest `acked_below` so far.
        acked_below: u64,
        /// Who may use the session.
        opener: Option<Opener>,
    },
    /// A recorded outcome.
    Outcome {
        /// The name of the session.
        session: Version,
        /// The sequence of the command.
        sequence: u64,
        /// The version of the command.
        version: Version,
        /// The outcome of the command.
        outcome: Outcome,
    },
}

impl DigestRecord<'_> {
    /// Appends the encoding of this record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Register { key, value, version } => {
                let len = bytes_len(key) + bytes_len(value) + version_len(version);
                out.reserve(1 + varint_len(len as u64) + len);
                out.push(bytes_field(2));
                encode_varint(out, len as u64);
                encode_bytes(out, 1, key);
                encode_bytes(out, 2, value);
                encode_version(out, 3, version);
            }
            Self::Session {
                name,
                last_used,
                acked_below,
                opener,
            } => encode_short(out, 3, |out| {
                encode_version(out, 1, name);
                encode_version(out, 2, last_used);
                encode_number(out, 3, acked_below);
                if let Some(opener) = opener {
                    encode_bytes(out, 4, opener.as_bytes());
                }
            }),
            Self::Outcome {
                session,
                sequence,
                version,
                outcome,
            } => encode_short(out, 4, |out| {
                encode_version(out, 1, session);
                encode_number(out, 2, sequence);
                encode_version(out, 3, version);
                encode_short(out, 4, |out| match outcome {
                    Outcome::Applied => {}
                    Outcome::ConditionFailed { current } => {
                        encode_number(out, 1, 1);
                        if let Some(current) = current {
                            encode_version(out, 2, current);
                        }
                    }
                });
            }),
        }
    }

    fn hash(&self) -> u128 {
        let mut bytes = Vec::with_capacity(SHORT_BYTES_MAX);
        self.encode(&mut bytes);
        xxh3_128(&bytes)
    }
}

/// Room for every record except a register, in bytes.
const SHORT_BYTES_MAX: usize = 2 + 0x7f;

/// A message of at most 127 bytes.
fn encode_short(out: &mut Vec<u8>, field: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(bytes_field(field));
    let at = out.len();
    out.push(0);
    content(out);
    let len = out.len() - at - 1;
    assert!(len < 0x80, "only messages of a few numbers are encoded here");
    out[at] = u8::try_from(len).expect("checked above");
}

fn encode_version(out: &mut Vec<u8>, field: u8, version: Version) {
    encode_short(out, field, |out| {
        encode_number(out, 1, version.slot.get());
        encode_number(out, 2, version.offset.into());
    });
}

/// Length of [`encode_version`].
fn version_len(version: Version) -> usize {
    2 + number_len(version.slot.get()) + number_len(version.offset.into())
}

fn encode_number(out: &mut Vec<u8>, field: u8, number: u64) {
    if number > 0 {
        out.push(varint_field(field));
        encode_varint(out, number);
    }
}

/// Length of [`encode_number`].
fn number_len(number: u64) -> usize {
    if number > 0 { 1 + varint_len(number) } else { 0 }
}

fn encode_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(bytes_field(field));
        encode_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Length of [`encode_bytes`].
fn bytes_len(bytes: &[u8]) -> usize {
    match bytes.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    }
}

fn encode_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn varint_len(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}
