//! Follows the changes of registers for a watcher: the log, reduced to the watched registers.

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::{
        machine::{Judgement, Outcome},
        slot::{Slot, Version},
    },
    service::server::Room,
};
use paxos_proto::v1::{self as pb, command::Operation};
use tokio::time::Instant;

use crate::{
    record::Record,
    store::LogReadError,
    subscribe::{PROGRESS_INTERVAL, RecordPage},
};

/// The registers of interest to a watcher.
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

/// A message to a watcher; without changes, a progress report only.
#[derive(Debug)]
pub(crate) struct ChangeBatch {
    pub(crate) changes: Vec<pb::Change>,
    /// Every change below this slot has been sent.
    pub(crate) next: Slot,
}

/// The changes at or after `from`, read from `pages` that begin with the slot of `from`. A progress report comes first,
/// so that the watcher knows where the watch begins. A page without a change gives back its room.
pub(crate) fn changes(
    pages: impl Stream<Item = Result<RecordPage, LogReadError>> + Send,
    target: Target,
    from: Version,
    room: Room,
) -> impl Stream<Item = Result<ChangeBatch, LogReadError>> + Send {
    async_stream::try_stream! {
        yield ChangeBatch { changes: Vec::new(), next: from.slot };
        let mut pages = std::pin::pin!(pages);
        let mut told_at = Instant::now();
        while let Some(page) = pages.next().await {
            let RecordPage { records, next } = page?;
            let found = records.iter().flat_map(|record| changes_of(record, &target));
            let changes: Vec<_> = found
                .filter(|(version, _)| *version >= from)
                .map(|(_, change)| change)
                .collect();
            // While a long log without relevant changes is read, the watcher gets few progress reports.
            if records.is_empty() || !changes.is_empty() || told_at.elapsed() >= PROGRESS_INTERVAL {
                told_at = Instant::now();
                yield ChangeBatch { changes, next };
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
