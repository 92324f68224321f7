//! Checks of a message before any further processing.

use paxos_common::{
    paxos::{ballot::Ballot, era::Era, identity::ClusterId, quorum::MEMBER_NAME_BYTES_MAX, slot::Slot},
    peer::{ADDRESS_BYTES_MAX, Address},
    snapshot::SNAPSHOT_BYTES_MAX,
    wire::{self, CHANGES_VERSION, Malformed, PROTOCOL_VERSION, TRIMS_VERSION, status},
};
use paxos_proto::v1 as pb;
use tonic::Status;

use crate::{
    snapshot::PART_BYTES_MAX,
    store::snapshots::{SHA256_BYTES, SnapshotId},
};

/// Longest trace context, in bytes.
const TRACEPARENT_BYTES_MAX: usize = 1024;
/// Longest version of a peer's software, in bytes.
const SOFTWARE_BYTES_MAX: usize = 64;
/// Longest reason for a refusal of this acceptor, in bytes: a sentence.
const REFUSED_BYTES_MAX: usize = 1_024;
/// Maximum number of digests in a report: the maximum sent by learners of this release.
const DIGESTS_MAX: usize = 8;

/// The cluster named by the caller, if this acceptor speaks the caller's version.
pub(super) fn check_version(caller: Option<&pb::Caller>) -> Result<Option<ClusterId>, Status> {
    let caller = caller.ok_or_else(|| status::invalid_argument("caller is missing"))?;
    match caller.protocol_version {
        0 => Err(status::invalid_argument("caller.protocol_version is missing")),
        1..=PROTOCOL_VERSION => wire::cluster_id(&caller.cluster_id).map_err(malformed),
        newer => Err(status::wrong_cluster(format!(
            "the caller speaks protocol version {newer}, but this acceptor speaks {PROTOCOL_VERSION}: update this \
             acceptor first"
        ))),
    }
}

/// Checks a caller with a protocol version below [`TRIMS_VERSION`] against the first slot of the log.
pub(super) fn check_older(trimmed_to: Slot) -> Result<(), Status> {
    if trimmed_to == Slot::ZERO {
        return Ok(());
    }
    Err(status::wrong_cluster(format!(
        "the log of this acceptor begins at slot {trimmed_to}, and the caller's release knows no such log: upgrade the \
         caller, a learner or proposer, to a release with protocol version {TRIMS_VERSION} or later"
    )))
}

/// Checks a caller's protocol version against the oldest served version: once the members have changed, older callers would
/// take the ballots of later eras, and the slots above a change, for something else.
pub(super) fn check_least(version: u32, least: u32) -> Result<(), Status> {
    if version >= least {
        return Ok(());
    }
    Err(status::wrong_cluster(format!(
        "the members of this cluster have changed, and the caller speaks protocol version {version}: upgrade the caller, a \
         learner or proposer, to a release with protocol version {least} or later"
    )))
}

pub(super) fn check_ballot(ballot: Ballot) -> Result<(), Status> {
    if ballot.round() == 0 {
        return Err(status::invalid_argument("ballot.round is 0: rounds start at 1"));
    }
    Ok(())
}

pub(super) fn check_traceparent(length: usize) -> Result<(), Status> {
    check_length("traceparent", length, TRACEPARENT_BYTES_MAX)
}

/// Checks an address. This acceptor stores the address and sends it to other processes. An empty address is allowed:
/// the sender cannot be reached.
pub(super) fn check_address(field: &str, address: &str) -> Result<(), Status> {
    check_length(field, address.len(), ADDRESS_BYTES_MAX)?;
    if address.is_empty() {
        return Ok(());
    }
    let parsed = address.parse::<Address>();
    parsed
        .map(drop)
        .map_err(|error| status::invalid_argument(format!("{field}: {error}")))
}

/// Checks the name of an acceptor in a configuration. The first era has no names: a release of an earlier protocol version
/// refuses a snapshot with a name.
pub(super) fn check_name(field: &str, name: &str, era: Era) -> Result<(), Status> {
    if era > Era::FIRST || name.is_empty() {
        return check_length(field, name.len(), MEMBER_NAME_BYTES_MAX);
    }
    let text =
        format!("{field} must be empty in the first era: names need protocol version {CHANGES_VERSION}");
    Err(status::invalid_argument(text))
}

fn check_length(field: &str, length: usize, max: usize) -> Result<(), Status> {
    if length > max {
        let text = format!("{field} has {length} bytes: at most {max} are allowed");
        return Err(status::invalid_argument(text));
    }
    Ok(())
}

/// Checks a report. The acceptor keeps the report in memory while the sender is attached, and an answer to `Status`
/// holds the reports of all senders.
pub(super) fn check_report(report: &pb::AttachRequest) -> Result<(), Status> {
    if !matches!(report.role(), pb::Role::Proposer | pb::Role::Learner) {
        return Err(status::invalid_argument("role must be proposer or learner"));
    }
    check_address("address", &report.address)?;
    check_length("software", report.software.len(), SOFTWARE_BYTES_MAX)?;
    check_length("refused", report.refused.len(), REFUSED_BYTES_MAX)?;
    if let Some(pb::attach_request::Progress::Learner(progress)) = &report.progress {
        let count = progress.digests.len();
        if count > DIGESTS_MAX {
            return Err(status::invalid_argument(format!(
                "learner.digests has {count} digests: at most {DIGESTS_MAX} are allowed"
            )));
        }
    }
    wire::check_report(report).map_err(malformed)
}

/// Reads the identity of a snapshot.
pub(super) fn read_id(id: Option<&pb::SnapshotId>) -> Result<SnapshotId, Status> {
    let id = id.ok_or_else(|| status::invalid_argument("id is missing"))?;
    let sha256: Result<[u8; SHA256_BYTES], _> = id.sha256[..].try_into();
    let sha256 = sha256.map_err(|_| {
        let len = id.sha256.len();
        status::invalid_argument(format!("id.sha256 has {len} bytes and must have {SHA256_BYTES}"))
    })?;
    let to = Slot::new(id.to).map_err(|error| malformed(error.into()))?;
    if to == Slot::ZERO {
        return Err(status::invalid_argument(
            "id.to is 0: a snapshot ends above slot 0",
        ));
    }
    let smallest = SHA256_BYTES as u64 + 1;
    if !(smallest..=SNAPSHOT_BYTES_MAX).contains(&id.bytes) {
        let bytes = id.bytes;
        return Err(status::invalid_argument(format!(
            "id.bytes is {bytes} and must be {smallest} to {SNAPSHOT_BYTES_MAX}"
        )));
    }
    let bytes = id.bytes;
    Ok(SnapshotId { to, sha256, bytes })
}

/// Checks the number of a process.
pub(super) fn check_peer(peer: u64) -> Result<(), Status> {
    if peer > i64::MAX as u64 {
        return Err(status::invalid_argument(format!(
            "begin.peer is {peer}: at most 2^63 - 1 is allowed"
        )));
    }
    Ok(())
}

/// The identity of a snapshot, as sent.
pub(super) fn snapshot_id(id: &SnapshotId) -> pb::SnapshotId {
    pb::SnapshotId {
        to: id.to.get(),
        sha256: id.sha256.to_vec().into(),
        bytes: id.bytes,
    }
}

/// Checks a part of an upload.
pub(super) fn check_data(data: &[u8]) -> Result<(), Status> {
    if data.is_empty() {
        return Err(status::invalid_argument("data is empty"));
    }
    check_length("data", data.len(), PART_BYTES_MAX)
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
pub(super) fn malformed(error: Malformed) -> Status {
    status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use paxos_common::peer::MESSAGE_BYTES_MAX;
    use prost::Message as _;
    use tonic::Code;

    use super::*;
    use crate::attach::ATTACHED_MAX;

    /// The largest accepted report.
    fn largest() -> pb::AttachRequest {
        let host = "h".repeat(ADDRESS_BYTES_MAX - "http://:65535".len());
        let digest = pb::Digest {
            to: i64::MAX as u64,
            digest: vec![7; 32].into(),
            state: vec![7; 16].into(),
        };
        let progress = pb::LearnerProgress {
            applied_to: i64::MAX as u64,
            refuses_reads: true,
            state_bytes: i64::MAX as u64,
            digests: vec![digest; DIGESTS_MAX],
            installing_to: i64::MAX as u64,
        };
        pb::AttachRequest {
            caller: Some(wire::caller(Some(ClusterId::from_bytes([1; 16])))),
            role: pb::Role::Learner.into(),
            peer: i64::MAX as u64,
            address: format!("http://{host}:65535"),
            software: "s".repeat(SOFTWARE_BYTES_MAX),
            progress: Some(pb::attach_request::Progress::Learner(progress)),
            report: i64::MAX as u64,
            leaving: true,
            refused: "r".repeat(REFUSED_BYTES_MAX),
            stopping: Some(true),
        }
    }

    #[test]
    fn reports_of_all_attached_peers_fill_less_than_half_a_message() {
        check_report(&largest()).unwrap();
        let peer = pb::AttachedPeer {
            report: Some(largest()),
            age_ms: u64::MAX,
        };
        let status = pb::AcceptorStatusResponse {
            attached: vec![peer; ATTACHED_MAX],
            ..Default::default()
        };
        assert!(
            status.encoded_len() < MESSAGE_BYTES_MAX / 2,
            "{}",
            status.encoded_len()
        );
    }

    #[test]
    fn older_callers_are_refused_once_the_members_were_to_change() {
        for version in [1, TRIMS_VERSION] {
            check_least(version, 1).unwrap();
            let refused = check_least(version, CHANGES_VERSION).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains("version 3 or later"), "{refused:?}");
        }
        check_least(CHANGES_VERSION, CHANGES_VERSION).unwrap();
    }

    #[test]
    fn field_beyond_its_bound_is_refused_by_name() {
        type Change = fn(&mut pb::AttachRequest);
        fn digests(report: &mut pb::AttachRequest) -> &mut Vec<pb::Digest> {
            match &mut report.progress {
                Some(pb::attach_request::Progress::Learner(progress)) => &mut progress.digests,
                _ => panic!("it is a learner's"),
            }
        }
        let changes: [(Change, &str); 9] = [
            (|report| report.address.insert(7, 'h'), "address has 257 bytes"),
            (|report| report.address = "\u{1b}[31m".into(), "address: "),
            (|report| report.software.push('s'), "software has 65 bytes"),
            (|report| report.role = 7, "role"),
            (|report| report.peer = 1 << 63, "peer is"),
            (
                |report| digests(report)[1].digest = vec![0; 31].into(),
                "digest has 31 bytes",
            ),
            (
                |report| digests(report)[7].digest = vec![0; 33].into(),
                "digest has 33 bytes",
            ),
            (
                |report| digests(report)[7].state = vec![0; 15].into(),
                "state has 15 bytes",
            ),
            (
                |report| {
                    let one = digests(report)[0].clone();
                    digests(report).push(one);
                },
                "learner.digests has 9",
            ),
        ];
        for (change, named) in changes {
            let mut report = largest();
            change(&mut report);
            let refused = check_report(&report).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().starts_with(named), "{named}: {refused:?}");
        }
    }
}
