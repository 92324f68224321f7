//! Reads a snapshot: bytes of the file in, parts of the state out.

use bytes::{Buf as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::{
    ContentRules, HASH_BYTES, MAGIC, RECORD_BYTES_MAX, SNAPSHOT_BYTES_MAX, SnapshotError, SnapshotSummary,
};
use crate::{
    paxos::{
        identity::ClusterId,
        machine::{Register, digest::DigestRecord, sessions::SessionState},
        slot::Version,
    },
    wire::snapshot::{
        SNAPSHOT_FORMAT, SnapshotFooter, SnapshotHeader, SnapshotRecord, UnreadableRecord, decode,
    },
};

/// Largest length of the varint before a record, in bytes.
const LENGTH_BYTES_MAX: usize = 3;

/// A part of the state, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The header, first.
    Header(SnapshotHeader),
    /// The content of a key.
    Register(Bytes, Register),
    /// A session by name, with the recorded outcomes.
    Session(Version, SessionState),
}

/// Decodes a snapshot strictly: a file with any flaw ends in an error.
#[derive(Debug)]
pub struct SnapshotDecoder {
    expected: Option<ClusterId>,
    input: SnapshotInput,
    stage: SnapshotStage,
}

/// The next thing in the file.
#[derive(Debug)]
enum SnapshotStage {
    Magic,
    Header,
    /// Records of the state, or the footer.
    State(Box<OpenSnapshot>),
    /// The SHA-256.
    Hash(Box<SnapshotHeader>, SnapshotFooter),
    /// Nothing.
    End(Box<SnapshotSummary>),
}

impl SnapshotDecoder {
    /// Begins to read a file. A snapshot of a cluster other than `expected`, if given, is refused.
    pub fn new(expected: Option<ClusterId>) -> Self {
        Self {
            expected,
            input: SnapshotInput::default(),
            stage: SnapshotStage::Magic,
        }
    }

    /// Adds the next bytes of the file. To bound the memory, take all parts before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.buffer.extend_from_slice(bytes);
    }

    /// The next part of the state; `None` until more bytes are added, and after the last part.
    ///
    /// # Errors
    /// The file is no snapshot for this reader. The decoder is of no further use.
    pub fn next_part(&mut self) -> Result<Option<SnapshotPart>, SnapshotError> {
        loop {
            match &mut self.stage {
                SnapshotStage::Magic => {
                    let Some(magic) = self.input.take(MAGIC.len())? else {
                        return Ok(None);
                    };
                    check_magic(&magic)?;
                    self.stage = SnapshotStage::Header;
                }
                SnapshotStage::Header => {
                    let Some((record, _)) = self.input.record()? else {
                        return Ok(None);
                    };
                    let SnapshotRecord::Header(header) = record else {
                        return Err(self.input.problem("is no header"));
                    };
                    check_cluster(&header, self.expected)?;
                    self.stage = SnapshotStage::State(Box::new(OpenSnapshot {
                        rules: ContentRules::new(header.to),
                        header: header.clone(),
                        session: None,
                    }));
                    return Ok(Some(SnapshotPart::Header(header)));
                }
                SnapshotStage::State(open) => {
                    let Some((record, encoded)) = self.input.record()? else {
                        return Ok(None);
                    };
                    if let SnapshotRecord::Footer(footer) = record {
                        open.rules.compare(&footer)?;
                        let last = open.session.take();
                        self.stage = SnapshotStage::Hash(Box::new(open.header.clone()), footer);
                        if let Some((name, session)) = last {
                            return Ok(Some(SnapshotPart::Session(name, session)));
                        }
                        continue;
                    }
                    let added = open.add(record, &encoded);
                    let added = added.map_err(|problem| self.input.problem(problem))?;
                    if added.is_some() {
                        return Ok(added);
                    }
                }
                SnapshotStage::Hash(header, footer) => {
                    let found: [u8; HASH_BYTES] = self.input.hash.clone().finalize().into();
                    let Some(stated) = self.input.take(HASH_BYTES)? else {
                        return Ok(None);
                    };
                    if stated[..] != found {
                        return Err(SnapshotError::Hash);
                    }
                    self.stage = SnapshotStage::End(Box::new(SnapshotSummary {
                        header: SnapshotHeader::clone(header),
                        footer: *footer,
                        bytes: self.input.bytes,
                        sha256: found,
                    }));
                }
                SnapshotStage::End(_) if self.input.buffer.is_empty() => return Ok(None),
                SnapshotStage::End(summary) => return Err(SnapshotError::Trailing { end: summary.bytes }),
            }
        }
    }

    /// Whether the file is whole. To be called at the end of the file, after [`Self::next_part`] has returned `None`.
    ///
    /// # Errors
    /// The file ends early.
    pub fn finish(self) -> Result<SnapshotSummary, SnapshotError> {
        match self.stage {
            SnapshotStage::End(summary) => Ok(*summary),
            SnapshotStage::Magic
            | SnapshotStage::Header
            | SnapshotStage::State(_)
            | SnapshotStage::Hash(..) => {
                let bytes = self.input.bytes + self.input.buffer.len() as u64;
                Err(SnapshotError::Truncated { bytes })
            }
        }
    }
}

/// A snapshot with a header, and without a footer.
#[derive(Debug)]
struct OpenSnapshot {
    header: SnapshotHeader,
    rules: ContentRules,
    /// The latest session: waits for further outcomes.
    session: Option<(Version, SessionState)>,
}

impl OpenSnapshot {
    /// Adds the next record of the state with its encoding, which is canonical: see [`decode`]. Returns the part that the
    /// record completes, or the broken rule.
    fn add(&mut self, record: SnapshotRecord, encoded: &[u8]) -> Result<Option<SnapshotPart>, &'static str> {
        match record {
            SnapshotRecord::Register(key, register) => {
                let content = DigestRecord::Register {
                    key: &key,
                    value: &register.value,
                    version: register.version,
                };
                self.rules.admit(&content, encoded)?;
                Ok(Some(SnapshotPart::Register(key, register)))
            }
            SnapshotRecord::Session(name, session) => {
                // The outcomes follow, each in a record of its own.
                self.rules.admit(&session.record(name), encoded)?;
                let before = self.session.replace((name, session));
                Ok(before.map(|(name, session)| SnapshotPart::Session(name, session)))
            }
            SnapshotRecord::Outcome(name, sequence, recorded) => {
                self.rules.admit(&recorded.record(name, sequence), encoded)?;
                if let Some((_, session)) = &mut self.session {
                    session.recorded.insert(sequence, recorded);
                }
                Ok(None)
            }
            SnapshotRecord::Header(_) => Err("is a second header"),
            SnapshotRecord::Footer(_) => Err("is a footer before the end"),
        }
    }
}

/// The bytes of the file.
#[derive(Debug, Default)]
struct SnapshotInput {
    /// Received, and not taken yet.
    buffer: BytesMut,
    /// Of the taken bytes.
    hash: Sha256,
    /// Number of taken bytes.
    bytes: u64,
    /// Number of taken records.
    records: u64,
}

impl SnapshotInput {
    /// Takes this number of bytes, as soon as the buffer has this number.
    fn take(&mut self, len: usize) -> Result<Option<BytesMut>, SnapshotError> {
        if self.buffer.len() < len {
            return Ok(None);
        }
        let taken = self.buffer.split_to(len);
        self.hash.update(&taken);
        self.bytes += len as u64;
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        Ok(Some(taken))
    }

    /// Takes the next record with its bytes, as soon as the buffer has the whole record.
    fn record(&mut self) -> Result<Option<(SnapshotRecord, BytesMut)>, SnapshotError> {
        let length = record_length(&self.buffer);
        let length = length.map_err(|problem| SnapshotError::Record {
            number: self.records + 1,
            problem: problem.to_owned(),
        })?;
        let Some((prefix, len)) = length else {
            return Ok(None);
        };
        let Some(mut record) = self.take(prefix + len)? else {
            return Ok(None);
        };
        self.records += 1;
        record.advance(prefix);
        match decode(&record) {
            Ok(content) => Ok(Some((content, record))),
            Err(UnreadableRecord::Newer(found)) => Err(newer(found)),
            Err(error) => Err(self.problem(&format!("is unreadable ({error})"))),
        }
    }

    /// An error about the latest record.
    fn problem(&self, problem: &str) -> SnapshotError {
        SnapshotError::Record {
            number: self.records,
            problem: problem.to_owned(),
        }
    }
}

/// Length of the varint at the beginning of `bytes`, and the length of the record behind it; `None` until there are more
/// bytes.
fn record_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let mut len = 0;
    for (index, byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 != 0 {
            continue;
        }
        if *byte == 0 {
            return Err("is empty, or has a length in more bytes than needed");
        }
        if len > RECORD_BYTES_MAX {
            return Err("is larger than allowed");
        }
        return Ok(Some((index + 1, len)));
    }
    if bytes.len() >= LENGTH_BYTES_MAX {
        return Err("is larger than allowed");
    }
    Ok(None)
}

fn check_magic(magic: &[u8]) -> Result<(), SnapshotError> {
    if magic == MAGIC {
        return Ok(());
    }
    match magic {
        [b'P', b'X', b'S', format @ b'2'..=b'9'] => Err(newer((format - b'0').into())),
        _ => Err(SnapshotError::Foreign),
    }
}

fn check_cluster(header: &SnapshotHeader, expected: Option<ClusterId>) -> Result<(), SnapshotError> {
    match expected.filter(|expected| header.cluster != *expected) {
        Some(expected) => Err(SnapshotError::OtherCluster {
            found: header.cluster,
            expected,
        }),
        None => Ok(()),
    }
}

fn newer(found: u32) -> SnapshotError {
    SnapshotError::Newer {
        found,
        supported: SNAPSHOT_FORMAT,
    }
}
