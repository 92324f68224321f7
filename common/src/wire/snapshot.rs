//! Records of the snapshot file on the wire and on disks: see `snapshot.proto`.

use bytes::Bytes;
use paxos_proto::v1 as pb;
use prost::Message as _;

use super::{Malformed, required};
use crate::paxos::{
    command::Opener,
    identity::ClusterId,
    machine::{
        Outcome, Register,
        digest::StateDigest,
        sessions::{Recorded, SessionState},
    },
    quorum::Configuration,
    slot::{Slot, Version},
};

/// The format of the snapshot files of this release.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// Length in bytes of the digest of a log: SHA-256.
pub const LOG_DIGEST_BYTES: usize = 32;

/// The beginning of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The snapshot is the result of every slot below.
    pub to: Slot,
    /// The digest of the log below `to`.
    pub log_digest: [u8; LOG_DIGEST_BYTES],
    /// The acceptors at the time of the snapshot.
    pub configuration: Configuration,
}

/// The end of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFooter {
    /// Number of registers.
    pub registers: u64,
    /// Number of sessions.
    pub sessions: u64,
    /// Number of recorded outcomes.
    pub outcomes: u64,
    /// The digest of the state.
    pub digest: StateDigest,
}

/// A record of the snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRecord {
    /// The first record.
    Header(SnapshotHeader),
    /// The content of a key.
    Register(Bytes, Register),
    /// A session by name, without recorded outcomes.
    Session(Version, SessionState),
    /// A recorded outcome, by session and sequence.
    Outcome(Version, u64, Recorded),
    /// The last record.
    Footer(SnapshotFooter),
}

/// A record that this release cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableRecord {
    /// The record has a newer format.
    #[error("format {0}")]
    Newer(u32),
    /// The bytes are no record.
    #[error("{0}")]
    Undecodable(#[from] prost::DecodeError),
    /// A field breaks a rule.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The record has no content known to this release.
    #[error("no known content")]
    Empty,
    /// The bytes are not the shortest encoding, or have unknown fields.
    #[error("not the shortest encoding, or unknown fields")]
    NotCanonical,
}

/// The encoding of a header.
pub fn encode_header(header: &SnapshotHeader) -> Vec<u8> {
    encode(pb::snapshot_record::Record::Header(pb::SnapshotHeader {
        format: SNAPSHOT_FORMAT,
        cluster_id: Bytes::copy_from_slice(header.cluster.as_bytes()),
        to: header.to.get(),
        log_digest: Bytes::copy_from_slice(&header.log_digest),
        configuration: Some((&header.configuration).into()),
    }))
}

/// The encoding of a footer.
pub fn encode_footer(footer: &SnapshotFooter) -> Vec<u8> {
    encode(pb::snapshot_record::Record::Footer(pb::SnapshotFooter {
        registers: footer.registers,
        sessions: footer.sessions,
        outcomes: footer.outcomes,
        state_digest: Bytes::copy_from_slice(&footer.digest.to_bytes()),
    }))
}

fn encode(record: pb::snapshot_record::Record) -> Vec<u8> {
    pb::SnapshotRecord { record: Some(record) }.encode_to_vec()
}

/// Reads a record.
///
/// # Errors
/// See [`UnreadableRecord`].
pub fn decode(bytes: &[u8]) -> Result<SnapshotRecord, UnreadableRecord> {
    let message = pb::SnapshotRecord::decode(bytes)?;
    if let Some(pb::snapshot_record::Record::Header(header)) = &message.record
        && header.format > SNAPSHOT_FORMAT
    {
        return Err(UnreadableRecord::Newer(header.format));
    }
    // Another release may know more fields, and a repaired or invented file may encode the same state differently.
    if message.encode_to_vec() != bytes {
        return Err(UnreadableRecord::NotCanonical);
    }
    match message.record.ok_or(UnreadableRecord::Empty)? {
        pb::snapshot_record::Record::Header(header) => Ok(SnapshotRecord::Header(header.try_into()?)),
        pb::snapshot_record::Record::Register(pb::Register { key, value, version }) => {
            let version = required(version, "version")?.try_into()?;
            // Key and value are copies, and no slices that keep the whole record: the record is decoded from borrowed bytes.
            Ok(SnapshotRecord::Register(key, Register { value, version }))
        }
        pb::snapshot_record::Record::Session(stored) => {
            let name = required(stored.name, "name")?.try_into()?;
            Ok(SnapshotRecord::Session(name, session(&stored)?))
        }
        pb::snapshot_record::Record::Outcome(stored) => {
            let session = required(stored.session, "session")?.try_into()?;
            let recorded = Recorded {
                version: required(stored.version, "version")?.try_into()?,
                outcome: outcome(required(stored.outcome, "outcome")?)?,
            };
            Ok(SnapshotRecord::Outcome(session, stored.sequence, recorded))
        }
        pb::snapshot_record::Record::Footer(footer) => Ok(SnapshotRecord::Footer(footer.try_into()?)),
    }
}

impl TryFrom<pb::SnapshotHeader> for SnapshotHeader {
    type Error = Malformed;

    fn try_from(header: pb::SnapshotHeader) -> Result<Self, Malformed> {
        if header.format == 0 {
            return Err(Malformed::Missing("format"));
        }
        Ok(Self {
            cluster: required(super::cluster_id(&header.cluster_id)?, "cluster_id")?,
            to: Slot::new(header.to)?,
            log_digest: fixed("log_digest", &header.log_digest)?,
            configuration: required(header.configuration, "configuration")?.try_into()?,
        })
    }
}

impl TryFrom<pb::SnapshotFooter> for SnapshotFooter {
    type Error = Malformed;

    fn try_from(footer: pb::SnapshotFooter) -> Result<Self, Malformed> {
        let digest: [u8; StateDigest::BYTES] = fixed("state_digest", &footer.state_digest)?;
        Ok(Self {
            registers: footer.registers,
            sessions: footer.sessions,
            outcomes: footer.outcomes,
            digest: StateDigest::from_bytes(digest),
        })
    }
}

fn session(stored: &pb::SnapshotSession) -> Result<SessionState, Malformed> {
    let opener = match &stored.opener[..] {
        [] => None,
        bytes => Some(Opener::from_bytes(fixed("opener", bytes)?)),
    };
    Ok(SessionState {
        opener,
        last_used: required(stored.last_used, "last_used")?.try_into()?,
        acked_below: stored.acked_below,
        recorded: Default::default(),
    })
}

fn outcome(effect: pb::SnapshotEffect) -> Result<Outcome, Malformed> {
    match (effect.condition_failed, effect.current) {
        (false, None) => Ok(Outcome::Applied),
        (false, Some(_)) => Err(Malformed::Missing("condition_failed")),
        (true, current) => Ok(Outcome::ConditionFailed {
            current: current.map(Version::try_from).transpose()?,
        }),
    }
}

fn fixed<const LEN: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; LEN], Malformed> {
    bytes.try_into().map_err(|_| Malformed::Length {
        what,
        len: bytes.len(),
        expected: LEN,
    })
}
