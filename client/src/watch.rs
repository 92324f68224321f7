//! Watching registers: their changes in order, without loss or repeats, from any learner.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use paxos_proto::v1::{
    self, WatchRequest, WatchResponse, change, learner_client::LearnerClient, watch_request,
};
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    Slot, Version,
    address::Directory,
    error::{Cause, SubscribeError},
    follow::{self, FollowedContent},
    limits,
    updates::Updates,
};

/// The registers to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The register with this key.
    Key(Bytes),
    /// All registers whose key starts with this prefix; empty: all registers.
    Prefix(Bytes),
}

/// A change of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key of the register.
    pub key: Bytes,
    /// The version of the changing command.
    pub version: Version,
    /// The new value; `None`: the register was deleted.
    pub value: Option<Bytes>,
}

/// Some changes of the watched registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangePage {
    /// In the order of versions, following the last reported change. Empty: a sign of life.
    pub changes: Vec<Change>,
    /// Every change before this version has been reported: a later watch from here continues without loss or repeats.
    pub next: Version,
}

/// Watches the registers of `target` from version `from` on.
pub(crate) fn follow(
    directory: Arc<Directory>,
    target: Target,
    from: Option<Version>,
    timeout: Duration,
) -> Updates<ChangePage, SubscribeError> {
    let checked = match &target {
        Target::Key(key) => limits::check_key(key),
        Target::Prefix(prefix) => limits::check_prefix(prefix),
    };
    if let Err(limits::LimitExceeded(text)) = checked {
        return Updates::new(stream::iter([Err(SubscribeError::Invalid(text))]));
    }
    follow::follow(directory, RegisterFeed { target, next: from }, timeout)
}

struct RegisterFeed {
    target: Target,
    /// Everything before this version has been reported; `None`: nothing so far, and the learner chooses the beginning.
    next: Option<Version>,
}

impl FollowedContent for RegisterFeed {
    type Response = WatchResponse;
    type Page = ChangePage;

    async fn open(
        &self,
        mut client: LearnerClient<Channel>,
    ) -> Result<Response<Streaming<WatchResponse>>, Status> {
        let target = match self.target.clone() {
            Target::Key(key) => watch_request::Target::Key(key),
            Target::Prefix(prefix) => watch_request::Target::Prefix(prefix),
        };
        let request = WatchRequest {
            target: Some(target),
            from: self.next.map(v1::Version::from),
        };
        client.watch(request).await
    }

    fn take(&mut self, response: WatchResponse) -> Result<ChangePage, Cause> {
        let (changes, next) = continue_from(self.next, response)?;
        self.next = Some(next);
        Ok(ChangePage { changes, next })
    }
}

/// Takes from a response the changes from `next` on: drops already reported changes, refuses a wrong order.
fn continue_from(next: Option<Version>, response: WatchResponse) -> Result<(Vec<Change>, Version), Cause> {
    let malformed = || Cause::unavailable("the learner sent an invalid change");
    let mut changes = Vec::with_capacity(response.changes.len());
    let mut last: Option<Version> = None;
    for change in response.changes {
        let version = change.version.ok_or_else(malformed)?;
        let version = Version::try_from(version).map_err(|_| malformed())?;
        if last.is_some_and(|last| version <= last) {
            return Err(Cause::unavailable(format!(
                "the learner sent a change of version {version} out of order"
            )));
        }
        last = Some(version);
        let value = match change.change.ok_or_else(malformed)? {
            change::Change::Value(value) => Some(value),
            change::Change::Deleted(v1::Deleted {}) => None,
        };
        if next.is_none_or(|next| version >= next) {
            changes.push(Change {
                key: change.key,
                version,
                value,
            });
        }
    }
    let applied_to = Version {
        slot: Slot::new(response.applied_to).map_err(|_| malformed())?,
        offset: 0,
    };
    // A lagging learner reports less than was reported before. A learner that sends a slot in parts reports changes
    // above its `applied_to`.
    let reported = last.map(after).max(next);
    Ok((changes, reported.map_or(applied_to, |to| to.max(applied_to))))
}

/// The following version, if the batch were that long.
fn after(version: Version) -> Version {
    match version.offset.checked_add(1) {
        Some(offset) => Version { offset, ..version },
        None => Version {
            slot: version.slot.next(),
            offset: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(slot: u64, offset: u16) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset,
        }
    }

    fn response(versions: &[Version], applied_to: u64) -> WatchResponse {
        let change = |version: &Version| v1::Change {
            key: "key".into(),
            version: Some((*version).into()),
            change: Some(change::Change::Value("value".into())),
        };
        WatchResponse {
            changes: versions.iter().map(change).collect(),
            applied_to,
        }
    }

    fn reported(next: Option<Version>, response: WatchResponse) -> (Vec<Version>, Version) {
        let (changes, next) = continue_from(next, response).unwrap();
        (changes.iter().map(|change| change.version).collect(), next)
    }

    #[test]
    fn drops_what_was_reported_before() {
        let seen = response(&[version(3, 0), version(3, 7), version(5, 0)], 9);
        assert_eq!(
            reported(Some(version(3, 1)), seen),
            (vec![version(3, 7), version(5, 0)], version(9, 0))
        );
    }

    #[test]
    fn goes_on_in_the_middle_of_a_slot_that_came_in_parts() {
        let part = response(&[version(3, 0), version(3, 4)], 3);
        assert_eq!(reported(None, part).1, version(3, 5));
        let last_of_slot = response(&[version(3, u16::MAX)], 3);
        assert_eq!(reported(None, last_of_slot).1, version(4, 0));
    }

    #[test]
    fn learner_that_lags_takes_nothing_back() {
        assert_eq!(
            reported(Some(version(8, 2)), response(&[version(4, 0)], 5)),
            (vec![], version(8, 2))
        );
    }

    #[test]
    fn learner_that_sends_changes_out_of_order_is_not_believed() {
        for versions in [[version(4, 0), version(3, 0)], [version(4, 1), version(4, 1)]] {
            assert!(continue_from(None, response(&versions, 9)).is_err());
        }
    }
}
