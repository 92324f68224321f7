//! A learner's progress: the watermark of applied slots, and the digests of log and state for comparing learners.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use paxos_common::{
    paxos::{machine::digest::StateDigest, slot::Slot, value::Value},
    snapshot::DIGEST_SLOTS,
};
use paxos_proto::v1 as pb;
use sha2::{Digest as _, Sha256};

/// Distance between the kept digests, in slots: learners can be compared at every multiple reached by both. Part of the
/// stored format.
pub(crate) const MARK_SLOTS: u64 = DIGEST_SLOTS[0];

/// Number of these marks in memory.
pub(crate) const MARKS_KEPT: usize = 7;

/// Distances between finer marks, in slots; only the last two marks of each distance stay in memory. Two learners less
/// than such a distance apart have a mark in common, also in a short log.
const FINE_MARK_SLOTS: [u64; 2] = [DIGEST_SLOTS[2], DIGEST_SLOTS[1]];

/// Maximum number of digests in a report: acceptors refuse a report with more.
const DIGESTS_MAX: usize = 8;

/// Rolling hash of a log: SHA-256 over the digest before, the slot as 8 big-endian bytes, and the stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogDigest([u8; 32]);

impl LogDigest {
    /// Reads [`Self::as_bytes`]; `None` unless there are 32 bytes.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The digest in the header of a snapshot.
    pub(crate) fn from_snapshot(bytes: [u8; 32]) -> Self {
        Self(bytes)
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

/// The digests after every slot below `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) to: Slot,
    /// Of the log.
    pub(crate) digest: LogDigest,
    /// Of the state machine; `None`: unknown, at some slots applied before the start.
    pub(crate) state: Option<StateDigest>,
}

impl Default for Mark {
    /// The beginning of the log, with the empty state.
    fn default() -> Self {
        Self {
            to: Slot::ZERO,
            digest: LogDigest::default(),
            state: Some(StateDigest::default()),
        }
    }
}

impl From<Mark> for pb::Digest {
    fn from(mark: Mark) -> Self {
        Self {
            to: mark.to.get(),
            digest: Bytes::copy_from_slice(mark.digest.as_bytes()),
            state: mark
                .state
                .map_or_else(Bytes::new, |state| Bytes::copy_from_slice(&state.to_bytes())),
        }
    }
}

/// The watermark of applied slots, and the digests of these slots and of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    latest: Mark,
    /// Digests at multiples of [`MARK_SLOTS`], the newest first.
    marks: VecDeque<Mark>,
    /// The last two digests at multiples of each of [`FINE_MARK_SLOTS`], the newest first.
    fine_marks: [[Mark; 2]; FINE_MARK_SLOTS.len()],
}

impl Progress {
    /// The progress as stored; `marks` the newest first. Finer marks are not stored: see [`Self::at_earlier_mark`].
    pub(crate) fn recovered(latest: Mark, marks: VecDeque<Mark>) -> Self {
        Self {
            latest,
            marks,
            fine_marks: Default::default(),
        }
    }

    /// The progress at the second newest stored mark from slot `log_from` on, or at the newest, or at the beginning of
    /// the log. Passing the slots from there on restores the finer marks. `None`: only slots below `log_from` lead to
    /// the latest digest.
    pub(crate) fn at_earlier_mark(&self, log_from: Slot) -> Option<Self> {
        let begin = Mark::default();
        let begin = (log_from == begin.to).then_some(begin);
        let kept = self.marks.iter().filter(|mark| mark.to >= log_from).copied();
        let latest = kept.chain(begin).take(2).last()?;
        let marks = self.marks.iter().filter(|mark| mark.to <= latest.to).copied();
        Some(Self {
            latest,
            marks: marks.collect(),
            fine_marks: Default::default(),
        })
    }

    /// Watermark: every slot below is applied.
    pub(crate) fn applied_to(&self) -> Slot {
        self.latest.to
    }

    /// The digests of all applied slots.
    pub(crate) fn latest(&self) -> Mark {
        self.latest
    }

    /// The latest digest and the digests at the last marks, the newest first, each slot once.
    pub(crate) fn digests(&self) -> Vec<pb::Digest> {
        let fine_marks = self
            .fine_marks
            .iter()
            .flatten()
            .filter(|mark| mark.to > Slot::ZERO);
        let older = self.marks.iter().chain(fine_marks);
        let older: BTreeMap<Slot, Mark> = older.map(|&mark| (mark.to, mark)).collect();
        let older = older.range(..self.latest.to).rev().map(|(_, &mark)| mark);
        std::iter::once(self.latest)
            .chain(older)
            .take(DIGESTS_MAX)
            .map(Into::into)
            .collect()
    }

    /// Adds the next applied slot, and the digest of the state after this slot, if known. Returns the reached mark, if
    /// any.
    ///
    /// # Panics
    /// When `slot` is not the next slot: slots are applied in order, each once.
    pub(crate) fn pass(&mut self, slot: Slot, value: &Value, state: Option<StateDigest>) -> Option<Mark> {
        assert_eq!(slot, self.latest.to, "slots are applied in order, each once");
        self.latest = Mark {
            to: slot.next(),
            digest: self.latest.digest.extended(slot, value),
            state,
        };
        let to = self.latest.to.get();
        for (marks, slots) in self.fine_marks.iter_mut().zip(FINE_MARK_SLOTS) {
            if to.is_multiple_of(slots) {
                *marks = [self.latest, marks[0]];
            }
        }
        if !to.is_multiple_of(MARK_SLOTS) {
            return None;
        }
        self.marks.push_front(self.latest);
        self.marks.truncate(MARKS_KEPT);
        Some(self.latest)
    }
}

#[cfg(test)]
mod tests;
