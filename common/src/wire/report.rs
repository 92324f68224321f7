//! Checks reports of proposers and learners to acceptors.

use paxos_proto::v1 as pb;

use super::{Malformed, number};
use crate::paxos::{ballot::Ballot, machine::digest::StateDigest};

/// Length in bytes of the digest of a log: SHA-256.
const DIGEST_BYTES: usize = 32;

/// Checks the numbers and digests of a report. The report is kept unchanged, and shown to every caller that asks for
/// the attached processes.
///
/// # Errors
/// The first number above 2⁶³ − 1, or the first digest with a length other than 32 bytes, for a log, or 16 bytes or none,
/// for a state.
pub fn check_report(report: &pb::AttachRequest) -> Result<(), Malformed> {
    number("peer", report.peer)?;
    number("report", report.report)?;
    match &report.progress {
        Some(pb::attach_request::Progress::Proposer(progress)) => {
            progress.ballot.map(Ballot::try_from).transpose()?;
            number("chosen_to", progress.chosen_to)?;
            number("queued", progress.queued)?;
        }
        Some(pb::attach_request::Progress::Learner(progress)) => {
            number("applied_to", progress.applied_to)?;
            number("state_bytes", progress.state_bytes)?;
            number("installing_to", progress.installing_to)?;
            for digest in &progress.digests {
                number("to", digest.to)?;
                let len = digest.digest.len();
                if len != DIGEST_BYTES {
                    return Err(Malformed::Length {
                        what: "digest",
                        len,
                        expected: DIGEST_BYTES,
                    });
                }
                let len = digest.state.len();
                if !digest.state.is_empty() && len != StateDigest::BYTES {
                    return Err(Malformed::Length {
                        what: "state",
                        len,
                        expected: StateDigest::BYTES,
                    });
                }
            }
        }
        None => {}
    }
    Ok(())
}
