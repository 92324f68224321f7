//! Phase 1: Prepare, and the pages of a promise.

use bytes::Bytes;
use paxos_proto::v1 as pb;

use super::{Malformed, ballot, caller, known_to, stored, traceparent};
use crate::paxos::{
    identity::ClusterId,
    message::{Prepare, PromisePage, Row},
    slot::Slot,
};

/// A candidate's message, for the wire.
pub fn prepare_request(prepare: &Prepare, cluster: ClusterId) -> pb::PrepareRequest {
    pb::PrepareRequest {
        caller: Some(caller(Some(cluster))),
        ballot: Some(prepare.ballot.into()),
        from: prepare.from.get(),
        proposer_address: prepare.address.to_string(),
    }
}

impl TryFrom<pb::PrepareRequest> for Prepare {
    type Error = Malformed;

    fn try_from(request: pb::PrepareRequest) -> Result<Self, Malformed> {
        Ok(Self {
            ballot: ballot(request.ballot)?,
            from: Slot::new(request.from)?,
            address: request.proposer_address.into(),
        })
    }
}

impl From<Row> for pb::Row {
    fn from(row: Row) -> Self {
        let slot = row.slot.get();
        match row.accepted {
            Some((ballot, value)) => Self {
                slot,
                ballot: Some(ballot.into()),
                traceparent: traceparent(&value),
                value: value.as_bytes().clone(),
                unknown: false,
            },
            None => Self {
                slot,
                unknown: true,
                ..Self::default()
            },
        }
    }
}

impl TryFrom<pb::Row> for Row {
    type Error = Malformed;

    fn try_from(row: pb::Row) -> Result<Self, Malformed> {
        let slot = Slot::new(row.slot)?;
        if row.unknown {
            return Ok(Self { slot, accepted: None });
        }
        let value = stored::value(row.value, Bytes::from(row.traceparent));
        Ok(Self {
            slot,
            accepted: Some((ballot(row.ballot)?, value)),
        })
    }
}

/// Reads many rows.
///
/// # Errors
/// The first malformed row.
pub fn rows(rows: Vec<pb::Row>) -> Result<Vec<Row>, Malformed> {
    rows.into_iter().map(Row::try_from).collect()
}

impl From<PromisePage> for pb::Promise {
    fn from(page: PromisePage) -> Self {
        Self {
            chosen_to: page.chosen_to.get(),
            known_chosen_to: page.known_to.get(),
            trimmed_to: page.trimmed_to.get(),
            voted_to: page.voted_to.get(),
            rows: page.rows.into_iter().map(pb::Row::from).collect(),
            from: page.from.get(),
            next: page.next.get(),
            last: page.last,
        }
    }
}

impl TryFrom<pb::Promise> for PromisePage {
    type Error = Malformed;

    fn try_from(page: pb::Promise) -> Result<Self, Malformed> {
        Ok(Self {
            from: Slot::new(page.from)?,
            next: Slot::new(page.next)?,
            last: page.last,
            chosen_to: Slot::new(page.chosen_to)?,
            known_to: known_to(page.known_chosen_to, page.chosen_to)?,
            trimmed_to: Slot::new(page.trimmed_to)?,
            voted_to: Slot::new(page.voted_to)?,
            rows: rows(page.rows)?,
        })
    }
}
