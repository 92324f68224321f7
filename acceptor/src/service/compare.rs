//! Compares an arrived snapshot with the digests of learners. A contradicted snapshot is refused.

use paxos_common::{snapshot::SnapshotSummary, wire::status};
use tonic::Status;

use super::Inner;
use crate::{contradictions::ADVICE, store::Reader, trim_policy::ReportedDigest};

/// The digests of a snapshot, at its end.
pub(super) fn digest_of(summary: &SnapshotSummary) -> ReportedDigest {
    ReportedDigest {
        to: summary.header.to,
        log: summary.header.log_digest.to_vec().into(),
        state: summary.footer.digest.to_bytes().to_vec().into(),
    }
}

impl<R: Reader> Inner<R> {
    /// Refuses a snapshot that contradicts a digest of a learner at the same slot, and every snapshot while digests of
    /// learners differ.
    pub(super) fn compare(&self, giver: u64, given: &ReportedDigest) -> Result<(), Status> {
        // First: a contradiction that is found while digests differ is shown too.
        let contradiction = self
            .snapshots
            .contradictions()
            .compare(&self.roster, giver, given);
        if let Some(contradiction) = contradiction {
            return Err(status::not_wanted(format!(
                "{contradiction}. The snapshot is dropped. {ADVICE}"
            )));
        }
        match self.snapshots.decision().differ_below {
            Some(to) => Err(status::not_wanted(format!(
                "digests of two learners differ below slot {to}, or the learners do not agree again yet: this acceptor \
                 records no snapshot, because the snapshot might come from the wrong learner. {ADVICE}"
            ))),
            None => Ok(()),
        }
    }
}
