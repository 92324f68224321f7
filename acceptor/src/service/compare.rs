//! Compares an arrived snapshot with the digests of learners. A contradicted snapshot is refused.

use paxos_common::{snapshot::SnapshotSummary, wire::status};
use tonic::Status;

use super::Inner;
use crate::{
    contest::{ADVICE, GivenSnapshot},
    store::{Reader, snapshots::SnapshotId},
    trim_policy::ReportedDigest,
};

impl<R: Reader> Inner<R> {
    /// Refuses a snapshot that contradicts a digest of a learner at the same slot, and every snapshot while digests of
    /// learners differ. Any other snapshot is compared again while it waits.
    pub(super) fn compare(
        &self,
        id: SnapshotId,
        summary: &SnapshotSummary,
        giver: u64,
    ) -> Result<(), Status> {
        if let Some(to) = self.snapshots.decision().differ_below {
            return Err(status::not_wanted(format!(
                "digests of two learners differ below slot {to}, or the learners do not agree again yet: this acceptor \
                 records no snapshot, because the snapshot might come from the wrong learner. {ADVICE}"
            )));
        }
        let digest = ReportedDigest {
            to: summary.header.to,
            log: summary.header.log_digest.to_vec().into(),
            state: summary.footer.digest.to_bytes().to_vec().into(),
        };
        let given = GivenSnapshot { giver, digest };
        if let Some(contradiction) = self.snapshots.compare(&given, &self.roster) {
            return Err(status::not_wanted(format!("{contradiction}. {ADVICE}")));
        }
        self.snapshots.contests().keeps(id, given);
        Ok(())
    }

    /// Refuses every snapshot of a contested learner, before any byte of the file.
    pub(super) fn refuse_contested(&self, giver: u64) -> Result<(), Status> {
        match self.snapshots.contests().of(giver) {
            Some(earlier) => Err(status::not_wanted(format!(
                "an earlier snapshot was refused: {earlier}. {ADVICE}"
            ))),
            None => Ok(()),
        }
    }
}
