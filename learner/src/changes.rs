//! Follows the changes of registers for one watcher: the log, without what does not concern it.

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::{
        machine::{Judgement, Outcome},
        slot::{Slot, Version},
    },
    server::Room,
};
use paxos_proto::v1::{self as pb, command::Operation};
use tokio::time::Instant;

use crate::{
    history::Record,
    store::ReadError,
    subscribe::{PROGRESS_INTERVAL, Page},
};

/// Which registers somebody is interested in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Key(bytes::Bytes),
    Prefix(bytes::Bytes),
}

impl Target {
    fn includes(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(wanted) => wanted == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// What a watcher is told at a time; no changes: progress only.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) changes: Vec<pb::Change>,
    /// Every change below this slot has been told.
    pub(crate) next: Slot,
}

/// The changes at or after `from`, of `pages` that begin with its slot; first a progress report, so that the watcher knows
/// where the watch begins. A page without a change gives back the room that it was read with.
pub(crate) fn changes(
    pages: impl Stream<Item = Result<Page, ReadError>> + Send,
    target: Target,
    from: Version,
    room: Room,
) -> impl Stream<Item = Result<Told, ReadError>> + Send {
    async_stream::try_stream! {
        yield Told { changes: Vec::new(), next: from.slot };
        let mut pages = std::pin::pin!(pages);
        let mut told_at = Instant::now();
        while let Some(page) = pages.next().await {
            let Page { records, next } = page?;
            let found = records.iter().flat_map(|record| changes_of(record, &target));
            let changes: Vec<_> = found
                .filter(|(version, _)| *version >= from)
                .map(|(_, change)| change)
                .collect();
            // On the way through a long log that does not concern it, a watcher hears little.
            if records.is_empty() || !changes.is_empty() || told_at.elapsed() >= PROGRESS_INTERVAL {
                told_at = Instant::now();
                yield Told { changes, next };
            } else {
                room.give_back();
            }
        }
    }
}

fn changes_of<'a>(record: &'a Record, target: &'a Target) -> impl Iterator<Item = (Version, pb::Change)> {
    record.commands().filter_map(|(version, command, judgement)| {
        if judgement != Judgement::Executed(Outcome::Applied) {
            return None;
        }
        let (key, change) = match command.operation.as_ref()? {
            Operation::Append(_) | Operation::OpenSession(_) => return None,
            Operation::Put(put) => (&put.key, pb::change::Change::Value(put.value.clone())),
            Operation::Delete(delete) => (&delete.key, pb::change::Change::Deleted(pb::Deleted {})),
        };
        target.includes(key).then(|| {
            let change = pb::Change {
                key: key.clone(),
                version: Some(version.into()),
                change: Some(change),
            };
            (version, change)
        })
    })
}

#[cfg(test)]
mod tests;
