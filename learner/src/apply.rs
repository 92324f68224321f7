//! Applies learned values in slot order: brings each batch to disk, and then tells how far the log goes.

use std::collections::VecDeque;

use bytes::Bytes;
use paxos_common::{
    exit::Failure,
    paxos::{slot::Slot, value::Value},
};
use paxos_proto::v1 as pb;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use crate::store::Store;

/// The digest is kept at every multiple of so many slots, so that learners can be compared where both have been.
/// Part of the stored format.
pub(crate) const MARK_SLOTS: u64 = 1_024;

/// How many marks stay in memory: what a report holds beside the latest digest.
pub(crate) const MARKS_KEPT: usize = 7;

/// One transaction takes the batches that wait until it has at least so many slots, …
const COMMIT_SLOTS: usize = 8_192;
/// … or so many bytes: beyond, a larger transaction is no cheaper for each slot.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// Learned slots on their way to disk, ascending and without gaps; never empty.
pub(crate) type Batch = Vec<(Slot, Value)>;

/// Rolling hash of a log: SHA-256 over the digest before, the slot as 8 big-endian bytes, and the stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogDigest([u8; 32]);

impl LogDigest {
    /// Reads [`Self::as_bytes`]; `None` unless there are 32 bytes.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn extended(self, slot: Slot, value: &Value) -> Self {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(slot.get().to_be_bytes())
            .chain_update(value.as_bytes());
        Self(hash.finalize().into())
    }
}

/// The digest of every slot below `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) to: Slot,
    pub(crate) digest: LogDigest,
}

impl From<Mark> for pb::Digest {
    fn from(mark: Mark) -> Self {
        Self {
            to: mark.to.get(),
            digest: Bytes::copy_from_slice(mark.digest.as_bytes()),
        }
    }
}

/// What a learner knows after the slots it has applied. The registers and sessions will live here too: they change
/// in [`State::apply`] and nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    latest: Mark,
    /// Digests at multiples of [`MARK_SLOTS`], the newest first.
    marks: VecDeque<Mark>,
}

impl State {
    /// The state as it was stored; `marks` the newest first.
    pub(crate) fn recovered(latest: Mark, marks: VecDeque<Mark>) -> Self {
        Self { latest, marks }
    }

    /// Every slot below it is applied.
    pub(crate) fn applied_to(&self) -> Slot {
        self.latest.to
    }

    /// The digest of everything applied.
    pub(crate) fn latest(&self) -> Mark {
        self.latest
    }

    /// The latest digest and those at the last marks, the newest first.
    pub(crate) fn digests(&self) -> Vec<pb::Digest> {
        let older = self.marks.iter().filter(|mark| mark.to < self.latest.to);
        std::iter::once(&self.latest)
            .chain(older)
            .map(|&mark| mark.into())
            .collect()
    }

    /// Applies the next slot. Returns the mark when one is reached.
    ///
    /// # Panics
    /// When `slot` is not the next: slots are applied in order, each once.
    pub(crate) fn apply(&mut self, slot: Slot, value: &Value) -> Option<Mark> {
        assert_eq!(slot, self.latest.to, "slots are applied in order, each once");
        self.latest = Mark {
            to: slot.next(),
            digest: self.latest.digest.extended(slot, value),
        };
        if !self.latest.to.get().is_multiple_of(MARK_SLOTS) {
            return None;
        }
        self.marks.push_front(self.latest);
        self.marks.truncate(MARKS_KEPT);
        Some(self.latest)
    }
}

/// Applies what comes in until the sender is gone, then closes the store.
///
/// `applied` changes after the commit: what readers are shown is in the file.
///
/// # Errors
/// The store failed; nothing is written after that.
///
/// # Cancel safety
/// Not safe: the store's commit is not.
pub(crate) async fn run(
    mut store: Store,
    mut state: State,
    mut learned: mpsc::Receiver<Batch>,
    applied: watch::Sender<State>,
) -> Result<(), Failure> {
    while let Some(mut batch) = learned.recv().await {
        let mut bytes = bytes_of(&batch);
        while batch.len() < COMMIT_SLOTS
            && bytes < COMMIT_BYTES
            && let Ok(more) = learned.try_recv()
        {
            bytes += bytes_of(&more);
            batch.extend(more);
        }
        let marks: Vec<_> = batch
            .iter()
            .filter_map(|(slot, value)| state.apply(*slot, value))
            .collect();
        store
            .commit(&batch, &state, &marks)
            .await
            .map_err(|error| Failure::storage(error).context("write learned slots"))?;
        applied.send_replace(state.clone());
    }
    store
        .close()
        .await
        .map_err(|error| Failure::storage(error).context("close the learned log"))
}

/// The size of a batch as it counts against bounds.
pub(crate) fn bytes_of(batch: &[(Slot, Value)]) -> usize {
    batch.iter().map(|(_, value)| value.as_bytes().len()).sum()
}

#[cfg(test)]
mod tests;
