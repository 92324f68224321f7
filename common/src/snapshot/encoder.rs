//! Writes a snapshot: records in, bytes of the file out.

use prost::encoding::encode_varint;
use sha2::{Digest as _, Sha256};

use super::{ContentRules, MAGIC, SNAPSHOT_BYTES_MAX, SnapshotError, SnapshotSummary};
use crate::{
    paxos::{
        machine::{Register, digest::DigestRecord, sessions::SessionState},
        slot::Version,
    },
    wire::snapshot::{SnapshotHeader, encode_footer, encode_header},
};

/// Encodes the records of a snapshot, given in the order of the file.
#[derive(Debug)]
pub struct SnapshotEncoder {
    header: SnapshotHeader,
    rules: ContentRules,
    hash: Sha256,
    /// Encoded, and not taken yet.
    out: Vec<u8>,
    /// Number of taken bytes.
    taken: u64,
    /// Number of records.
    records: u64,
}

impl SnapshotEncoder {
    /// Begins a file.
    pub fn new(header: SnapshotHeader) -> Self {
        let mut encoder = Self {
            rules: ContentRules::new(header.to),
            hash: Sha256::new(),
            out: Vec::new(),
            taken: 0,
            records: 0,
            header,
        };
        encoder.out.extend_from_slice(MAGIC);
        encoder.push(&encode_header(&encoder.header));
        encoder
    }

    /// Adds the next register, by key.
    ///
    /// # Errors
    /// The register breaks a rule of the format, or the file becomes too large.
    pub fn register(&mut self, key: &[u8], register: &Register) -> Result<(), SnapshotError> {
        self.register_parts(key, &register.value, register.version)
    }

    /// As [`Self::register`], from the parts of a register.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_parts(
        &mut self,
        key: &[u8],
        value: &[u8],
        version: Version,
    ) -> Result<(), SnapshotError> {
        self.add(&DigestRecord::Register { key, value, version })
    }

    /// Adds the next session, by name, with its recorded outcomes. Sessions follow all registers.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn session(&mut self, name: Version, session: &SessionState) -> Result<(), SnapshotError> {
        session.records(name).try_for_each(|record| self.add(&record))
    }

    /// Number of encoded bytes that are not taken yet.
    pub fn waiting_bytes(&self) -> usize {
        self.out.len()
    }

    /// Takes the encoded bytes: the next part of the file.
    pub fn take(&mut self) -> Vec<u8> {
        self.hash.update(&self.out);
        self.taken += self.out.len() as u64;
        std::mem::take(&mut self.out)
    }

    /// Ends the file. Returns the last part.
    ///
    /// # Errors
    /// The file is too large.
    pub fn finish(mut self) -> Result<(Vec<u8>, SnapshotSummary), SnapshotError> {
        let footer = self.rules.counted;
        self.push(&encode_footer(&footer));
        let mut last = self.take();
        let sha256: [u8; 32] = self.hash.clone().finalize().into();
        last.extend_from_slice(&sha256);
        let bytes = self.taken + sha256.len() as u64;
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        let summary = SnapshotSummary {
            header: self.header,
            footer,
            bytes,
            sha256,
        };
        Ok((last, summary))
    }

    fn add(&mut self, record: &DigestRecord<'_>) -> Result<(), SnapshotError> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let admitted = self.rules.admit(record, &bytes);
        admitted.map_err(|problem| SnapshotError::Record {
            number: self.records + 1,
            problem: problem.to_owned(),
        })?;
        self.push(&bytes);
        if self.taken + self.out.len() as u64 > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        Ok(())
    }

    fn push(&mut self, record: &[u8]) {
        encode_varint(record.len() as u64, &mut self.out);
        self.out.extend_from_slice(record);
        self.records += 1;
    }
}
