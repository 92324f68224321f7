//! A snapshot that contradicts the digest of a learner.

use std::fmt;

use paxos_common::paxos::slot::Slot;

use super::{NamedLearner, ReportedDigest};

/// Shown bytes of a digest, as in `paxos status`.
const DIGEST_BYTES_SHOWN: usize = 6;

/// A snapshot, and a different digest that a learner reported at the end of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) giver: NamedLearner,
    /// The digests of the snapshot.
    pub(crate) given: ReportedDigest,
    pub(crate) reporter: NamedLearner,
}

impl Contradiction {
    /// The slot, and the learners that differ.
    pub(crate) fn difference(&self) -> (Slot, Vec<NamedLearner>) {
        (self.given.to, vec![self.giver.clone(), self.reporter.clone()])
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            giver,
            given,
            reporter,
        } = self;
        write!(
            formatter,
            "the snapshot of {} contradicts the digest of {} below slot {}: the snapshot has log {} and state {}",
            shown(giver),
            shown(reporter),
            given.to,
            digits(&given.log),
            digits(&given.state)
        )
    }
}

fn shown(NamedLearner { peer, address }: &NamedLearner) -> String {
    match (peer, address.as_str()) {
        (0, _) => "an unknown learner".to_owned(),
        (peer, "") => format!("learner {peer} (no address)"),
        (peer, address) => format!("learner {peer} ({address})"),
    }
}

/// The first digits of a digest.
fn digits(digest: &[u8]) -> String {
    let bytes = digest.iter().take(DIGEST_BYTES_SHOWN);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
