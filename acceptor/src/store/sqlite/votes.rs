//! The rows of the votes: a row that differs from the written row is unknown.

use bytes::Bytes;
use paxos_common::{
    paxos::{acceptor::HeldRow, ballot::Ballot, era::Era, message::Row as Voted, slot::Slot, value::Value},
    sqlite::checksum,
    wire::stored,
};
use sqlx::sqlite::SqliteRow;

use super::{
    super::StoreError,
    columns::{Binding, bind_ballot, bytes, column, read_ballot, read_slot},
    identity::Identity,
};

/// Columns of a vote, in the order of [`Identity::read_vote`] and [`Identity::bind_vote`].
pub(super) const VOTE: &str =
    "vote.slot, vote.era, vote.round, vote.proposer, vote.value, vote.traceparent, vote.checksum";

impl Identity {
    /// Binds the columns of a vote.
    ///
    /// # Errors
    /// As [`Self::cluster`].
    pub(super) fn bind_vote<'q>(
        &self,
        query: Binding<'q>,
        slot: Slot,
        ballot: Ballot,
        value: &Value,
    ) -> Result<Binding<'q>, StoreError> {
        let sum = self.vote_checksum(slot, ballot, value.as_bytes())?;
        let traceparent = String::from_utf8_lossy(value.traceparent()).into_owned();
        Ok(bind_ballot(query.bind(slot.get().cast_signed()), ballot)
            .bind(value.as_bytes().to_vec())
            .bind(traceparent)
            .bind(sum))
    }

    fn vote_checksum(&self, slot: Slot, ballot: Ballot, value: &[u8]) -> Result<i64, StoreError> {
        let (uuid, era) = (self.uuid.to_bytes(), ballot.era().get().to_le_bytes());
        let [slot, round, proposer] =
            [slot.get(), ballot.round(), ballot.proposer().get()].map(u64::to_le_bytes);
        let mut parts: Vec<&[u8]> = vec![self.cluster()?.as_bytes(), &uuid, &slot, &round, &proposer, value];
        // Left out in the first era: so the rows of earlier releases verify.
        if ballot.era() > Era::FIRST {
            parts.push(&era);
        }
        Ok(checksum(&parts))
    }

    /// Reads the columns [`VOTE`] from column `at` on. None for a NULL or invalid slot: such a row is missing. A row
    /// that differs from the written row is unknown.
    pub(super) fn read_vote(&self, row: &SqliteRow, at: usize) -> Result<Option<Voted>, StoreError> {
        let Some(slot) = read_slot(row, at) else {
            return Ok(None);
        };
        let accepted = match (read_ballot(row, at + 1), bytes(row, at + 4)) {
            (Some(ballot), Some(value)) => {
                let intact = column::<i64>(row, at + 6) == Some(self.vote_checksum(slot, ballot, &value)?);
                let traceparent = bytes(row, at + 5).unwrap_or_default();
                intact.then(|| (ballot, stored::value(value.into(), sound_trace(traceparent))))
            }
            _ => None,
        };
        Ok(Some(Voted { slot, accepted }))
    }
}

/// No checksum covers a trace context: an invalid trace context is dropped, and the rest of the row is sound.
fn sound_trace(traceparent: Vec<u8>) -> Bytes {
    /// Length of a W3C trace context, in bytes.
    const TRACEPARENT_BYTES: usize = 55;
    let is_one = traceparent.len() == TRACEPARENT_BYTES
        && traceparent
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    if is_one { traceparent.into() } else { Bytes::new() }
}

/// What memory keeps of a vote.
pub(super) fn into_held(voted: Voted) -> (Slot, HeldRow) {
    let held = voted.accepted.map_or(HeldRow::Unknown, |(ballot, value)| {
        HeldRow::Accepted(ballot, value.fingerprint())
    });
    (voted.slot, held)
}
