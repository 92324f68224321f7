//! Snapshot files: the whole state in one file, written and read piece by piece.
//!
//! `proto/paxos/v1/snapshot.proto` describes the format. The [encoder](encoder::SnapshotEncoder) and the
//! [decoder](decoder::SnapshotDecoder) do no I/O and hold at most a record, or a session with its outcomes, beside the
//! bytes in hand. So a file of any size travels over a network or to a disk in bounded memory.
//!
//! Both check the same rules of the content, and the decoder trusts no byte: a file is whole only if
//! [`SnapshotDecoder::finish`](decoder::SnapshotDecoder::finish) says so. Parts read before this must not be served.

pub mod decoder;
pub mod encoder;
pub mod name;
pub mod seed;

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    paxos::{
        identity::ClusterId,
        machine::{
            digest::DigestRecord,
            sessions::{RECORDED_MAX, SESSIONS_MAX},
        },
        slot::{Slot, Version},
    },
    wire::{
        command::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
        snapshot::{SnapshotFooter, SnapshotHeader},
    },
};

/// The first bytes of a file. The last byte changes with a format that readers of this format cannot even begin to read.
const MAGIC: &[u8; 4] = b"PXS1";

/// Length of the SHA-256 at the end of a file, in bytes.
pub const HASH_BYTES: usize = 32;

/// Largest size of a record in bytes (inclusive): the largest key and value, and room for the rest. The header has room
/// for the largest configuration, too.
pub const RECORD_BYTES_MAX: usize = VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX;

/// Largest size of a file in bytes (inclusive): 4 GiB.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Distances in slots, the largest first: every learner reports the digests at the last multiples of each distance. A
/// snapshot for an acceptor ends at such a multiple if one comes soon: there, the acceptor can compare the snapshot with the
/// reports of other learners.
pub const DIGEST_SLOTS: [u64; 3] = [1_024, 256, 32];

/// A file that is no whole snapshot, or a content that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another kind of file.
    #[error("no backup and no snapshot: such a file begins with the bytes PXS1. Give another file")]
    Foreign,
    /// The format is newer than this release.
    #[error(
        "a newer release wrote this file (format {found}; this release reads {supported}): use that release"
    )]
    Newer {
        /// The format of the file.
        found: u32,
        /// The newest format that this release reads.
        supported: u32,
    },
    /// The snapshot of another cluster.
    #[error("a file of cluster {found}, and this is cluster {expected}: give a file of this cluster")]
    OtherCluster {
        /// The cluster in the file.
        found: ClusterId,
        /// The expected cluster.
        expected: ClusterId,
    },
    /// The file has no end.
    #[error("the file is cut off after {bytes} bytes: copy the file again, or use another file")]
    Truncated {
        /// Number of bytes in the file.
        bytes: u64,
    },
    /// The file goes on after its end.
    #[error("bytes follow the end of the content at {end} bytes: copy the file again, or use another file")]
    Trailing {
        /// Length of the snapshot.
        end: u64,
    },
    /// The SHA-256 does not match.
    #[error(
        "the bytes of the file do not match the SHA-256 at the end: copy the file again, or use another file"
    )]
    Hash,
    /// A record breaks a rule of the format.
    #[error("record {number} of the file {problem}: copy the file again, or use another file")]
    Record {
        /// Number of the record, from 1: the header.
        number: u64,
        /// The broken rule.
        problem: String,
    },
    /// The footer states another content.
    #[error("the file holds {found} {what}, and states {stated}: copy the file again, or use another file")]
    Content {
        /// The compared number.
        what: &'static str,
        /// According to the records.
        found: String,
        /// According to the footer.
        stated: String,
    },
    /// The file is larger than allowed.
    #[error("the file has more than {SNAPSHOT_BYTES_MAX} bytes, the limit: delete registers, then try again")]
    TooLarge,
}

impl SnapshotError {
    /// Whether the file may be sound and only does not belong here: of a newer release, or of another cluster.
    pub fn is_misplaced(&self) -> bool {
        match self {
            Self::Newer { .. } | Self::OtherCluster { .. } => true,
            Self::Foreign
            | Self::Truncated { .. }
            | Self::Trailing { .. }
            | Self::Hash
            | Self::Record { .. }
            | Self::Content { .. }
            | Self::TooLarge => false,
        }
    }
}

/// A whole snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// The header.
    pub header: SnapshotHeader,
    /// The footer.
    pub footer: SnapshotFooter,
    /// Length of the file.
    pub bytes: u64,
    /// The last 32 bytes of the file: names the file.
    pub sha256: [u8; HASH_BYTES],
}

/// The rules of the content, for the encoder and the decoder: order, limits, counts, digest.
#[derive(Debug)]
struct ContentRules {
    to: Slot,
    last_key: Option<Bytes>,
    /// The latest session.
    session: Option<LastSession>,
    /// No two sessions were last used by the same command.
    last_uses: BTreeSet<Version>,
    counted: SnapshotFooter,
}

#[derive(Clone, Copy, Debug)]
struct LastSession {
    name: Version,
    /// The next outcome has at least this sequence; `None`: no further outcome is possible.
    next_sequence: Option<u64>,
}

impl ContentRules {
    fn new(to: Slot) -> Self {
        Self {
            to,
            last_key: None,
            session: None,
            last_uses: BTreeSet::new(),
            counted: SnapshotFooter::default(),
        }
    }

    /// Admits the next record with its encoding, or returns the broken rule.
    fn admit(&mut self, record: &DigestRecord<'_>, encoded: &[u8]) -> Result<(), &'static str> {
        match *record {
            DigestRecord::Register { key, value, version } => {
                if self.session.is_some() {
                    return Err("is a register after a session");
                }
                if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
                    return Err("is a register with a key or a value beyond the limits");
                }
                if self.last_key.as_ref().is_some_and(|last| &last[..] >= key) {
                    return Err("is a register out of order");
                }
                self.check(version)?;
                self.last_key = Some(Bytes::copy_from_slice(key));
                self.counted.registers += 1;
            }
            DigestRecord::Session {
                name,
                last_used,
                acked_below,
                ..
            } => {
                if self.session.is_some_and(|last| last.name >= name) {
                    return Err("is a session out of order");
                }
                if last_used < name {
                    return Err("is a session used before the session was opened");
                }
                self.check(last_used)?;
                if !self.last_uses.insert(last_used) {
                    return Err("is a session last used by the command of another session");
                }
                if self.counted.sessions >= SESSIONS_MAX as u64 {
                    return Err("is one session too many");
                }
                self.session = Some(LastSession {
                    name,
                    next_sequence: Some(acked_below),
                });
                self.counted.sessions += 1;
            }
            DigestRecord::Outcome {
                session: name,
                sequence,
                version,
                ..
            } => {
                let Some(session) = self.session.as_mut().filter(|last| last.name == name) else {
                    return Err("is an outcome that does not follow its session");
                };
                if session.next_sequence.is_none_or(|next| sequence < next) {
                    return Err("is an outcome out of order");
                }
                session.next_sequence = sequence.checked_add(1);
                self.check(version)?;
                if self.counted.outcomes >= RECORDED_MAX as u64 {
                    return Err("is one outcome too many");
                }
                self.counted.outcomes += 1;
            }
        }
        self.counted.digest.add_encoded(encoded);
        Ok(())
    }

    fn check(&self, version: Version) -> Result<(), &'static str> {
        if version.slot < self.to {
            Ok(())
        } else {
            Err("has a version at or above the end, `to`")
        }
    }

    /// Compares the admitted records with the footer.
    fn compare(&self, stated: &SnapshotFooter) -> Result<(), SnapshotError> {
        let counts = [
            ("registers", self.counted.registers, stated.registers),
            ("sessions", self.counted.sessions, stated.sessions),
            ("outcomes", self.counted.outcomes, stated.outcomes),
        ];
        let differs =
            |what, found: String, stated: String| Err(SnapshotError::Content { what, found, stated });
        for (what, found, stated) in counts {
            if found != stated {
                return differs(what, found.to_string(), stated.to_string());
            }
        }
        if self.counted.digest != stated.digest {
            let (found, stated) = (self.counted.digest.to_string(), stated.digest.to_string());
            return differs("as the digest of the state", found, stated);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
