//! What a message must keep to before it goes any further.

use paxos_common::{
    paxos::{ballot::Ballot, identity::ClusterId},
    status,
    wire::{self, Malformed, PROTOCOL_VERSION},
};
use paxos_proto::v1 as pb;
use tonic::Status;

/// Longest address or trace context, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The cluster that the caller names, if we speak its version.
pub(super) fn check_version(caller: Option<&pb::Caller>) -> Result<Option<ClusterId>, Status> {
    let caller = caller.ok_or_else(|| status::invalid_argument("caller is missing"))?;
    match caller.protocol_version {
        0 => Err(status::invalid_argument("caller.protocol_version is missing")),
        1..=PROTOCOL_VERSION => wire::cluster_id(&caller.cluster_id).map_err(malformed),
        newer => Err(status::wrong_cluster(format!(
            "the caller speaks protocol version {newer}, and this acceptor speaks {PROTOCOL_VERSION}: update it first"
        ))),
    }
}

pub(super) fn check_ballot(ballot: Ballot) -> Result<(), Status> {
    if ballot.round() == 0 {
        return Err(status::invalid_argument("ballot.round is 0: rounds start at 1"));
    }
    Ok(())
}

pub(super) fn check_text(field: &str, length: usize) -> Result<(), Status> {
    if length > TEXT_BYTES_MAX {
        let text = format!("{field} has {length} bytes, and {TEXT_BYTES_MAX} are allowed");
        return Err(status::invalid_argument(text));
    }
    Ok(())
}

/// A report is kept in memory as long as its sender is attached, so it must be small.
pub(super) fn check_report(report: &pb::AttachRequest) -> Result<(), Status> {
    const DIGESTS_MAX: usize = 8;
    if !matches!(report.role(), pb::Role::Proposer | pb::Role::Learner) {
        return Err(status::invalid_argument("role must be proposer or learner"));
    }
    check_text("address", report.address.len())?;
    check_text("software", report.software.len())?;
    wire::check_report(report).map_err(malformed)?;
    if let Some(pb::attach_request::Progress::Learner(progress)) = &report.progress {
        if progress.digests.len() > DIGESTS_MAX {
            return Err(status::invalid_argument(format!(
                "at most {DIGESTS_MAX} digests are allowed"
            )));
        }
        for digest in &progress.digests {
            check_text("digest", digest.digest.len())?;
        }
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
pub(super) fn malformed(error: Malformed) -> Status {
    status::invalid_argument(error.to_string())
}
