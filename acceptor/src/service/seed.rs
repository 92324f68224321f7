//! Checks of an arriving seed: a restored backup for a blank acceptor.

use paxos_common::{
    paxos::acceptor::{Seed, SeedUse},
    snapshot::SnapshotSummary,
    wire::status,
};
use paxos_proto::v1 as pb;
use tonic::Status;

use super::{Inner, check::check_version};
use crate::store::{Reader, snapshots::SnapshotId};

/// The seed named by the begin of an upload.
pub(super) fn read_seed(caller: Option<&pb::Caller>, id: SnapshotId) -> Result<Seed, Status> {
    let cluster = check_version(caller)?;
    let cluster = cluster.ok_or_else(|| status::invalid_argument("caller.cluster_id is missing"))?;
    Ok(Seed { cluster, base: id.to })
}

impl<R: Reader> Inner<R> {
    /// Refuses a seed before its bytes arrive. The worker decides again when the bytes are there.
    pub(super) fn admit_seed(&self, seed: Seed) -> Result<SeedUse, Status> {
        let membership = self.shared.published().membership;
        let taken = membership.take_seed(seed);
        taken.map_err(|refusal| status::not_wanted(refusal.to_string()))
    }

    /// Checks the content of a verified snapshot file as a seed for this acceptor.
    pub(super) fn check_seed_file(&self, seed: Seed, summary: &SnapshotSummary) -> Result<(), Status> {
        let (configuration, footer) = (&summary.header.configuration, &summary.footer);
        if Seed::of(configuration) != Some(seed) {
            return Err(status::invalid_argument(format!(
                "the configuration in a seed must have an origin whose base is the end of the seed, slot {}",
                seed.base
            )));
        }
        let acceptor = self.shared.published().stamp.acceptor;
        if !configuration.members().contains_key(&acceptor) {
            return Err(status::invalid_argument(format!(
                "the configuration in the seed does not list this acceptor, {acceptor}"
            )));
        }
        if footer.sessions > 0 || footer.outcomes > 0 {
            return Err(status::invalid_argument(
                "a seed has no sessions and no outcomes: clients of the cluster before open new sessions",
            ));
        }
        Ok(())
    }
}
