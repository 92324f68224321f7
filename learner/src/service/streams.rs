//! The long streams of a learner on the wire: `Subscribe` and `Watch`.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    service::server::Room,
    wire::{
        self,
        status::{invalid_argument, trimmed},
    },
};
use paxos_proto::v1::{self as pb, watch_request};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{
    ServingState, ended, installs,
    reads::{read_key, read_prefix},
};
use crate::{
    changes::{ChangeBatch, Target},
    history::History,
    install::InstallProgress,
    record::Record,
    store::LogReadError,
    subscribe::RecordPage,
};

/// Answers; the stream ends with an error when the learner stops or installs a snapshot.
pub(super) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A subscriber's answers. The permit counts the subscriber; the pages were read with this room.
pub(super) fn subscription(
    pages: impl Stream<Item = Result<RecordPage, LogReadError>> + Send + 'static,
    opened: Arc<ServingState>,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<pb::SubscribeResponse> {
    let response = |page: RecordPage| pb::SubscribeResponse {
        records: page.records.iter().map(|record| log_record(record)).collect(),
        next: page.next.get(),
    };
    answers(pages, response, opened, permit, room)
}

/// A watcher's answers. The permit counts the watcher; the changes were read with this room.
pub(super) fn watch(
    pages: impl Stream<Item = Result<ChangeBatch, LogReadError>> + Send + 'static,
    opened: Arc<ServingState>,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<pb::WatchResponse> {
    let response = |page: ChangeBatch| pb::WatchResponse {
        changes: page.changes,
        applied_to: page.next.get(),
    };
    answers(pages, response, opened, permit, room)
}

fn answers<T, R>(
    read: impl Stream<Item = Result<T, LogReadError>> + Send + 'static,
    response: impl Fn(T) -> R + Send + 'static,
    opened: Arc<ServingState>,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<R>
where
    R: prost::Message + 'static,
{
    let (history, installing) = (opened.history.clone(), Arc::clone(&opened.installing));
    // Everything else of an outdated state is freed at once.
    drop(opened);
    let at_end = Arc::clone(&installing);
    let stop = futures::stream::once(async move { Err(ended(&at_end)) });
    let answers = read
        .map(move |read| {
            read.map(&response)
                .map_err(|error| read_failed(&error, &history, &installing))
        })
        .chain(stop)
        .inspect(move |answer| {
            let _ = &permit;
            if let Ok(answer) = answer {
                room.built(answer);
            }
        });
    Box::pin(answers)
}

fn log_record(record: &Record) -> pb::LogRecord {
    pb::LogRecord {
        slot: record.slot.get(),
        value: Some(pb::Value {
            commands: record.commands.clone(),
            configuration: record.value.change().map(|change| (&**change).into()),
        }),
        traceparent: wire::traceparent(&record.value),
    }
}

/// Checks the target of a watch.
pub(super) fn read_target(target: Option<watch_request::Target>) -> Result<Target, Status> {
    match target {
        None => Err(invalid_argument(
            "the watch names nothing: give a key or a prefix",
        )),
        Some(watch_request::Target::Key(key)) => read_key(key).map(Target::Key),
        Some(watch_request::Target::Prefix(prefix)) => read_prefix(prefix).map(Target::Prefix),
    }
}

/// OUT_OF_RANGE for slots that are not kept any more. Otherwise UNAVAILABLE, because another learner may be able to
/// answer. The log of a learner that installs a snapshot is closed.
pub(super) fn read_failed(error: &LogReadError, history: &History, installing: &InstallProgress) -> Status {
    if let Some(status) = installs(installing) {
        return status;
    }
    let advice = match error {
        LogReadError::Trimmed => return trimmed(history.kept()),
        LogReadError::Replaced => {
            return Status::unavailable(format!("{error}: retry, here or at another learner"));
        }
        LogReadError::Damaged { .. } => {
            "restart this learner: it then sets the file aside and learns everything again"
        }
        LogReadError::Sqlite { .. } => "ask another learner",
    };
    tracing::error!(%error, advice, "cannot read the log");
    Status::unavailable(format!("{error}; {advice}"))
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;
    use crate::store::testing::{configuration, next_configuration};

    #[test]
    fn record_of_a_change_has_the_members() {
        let next = next_configuration(&configuration());
        let record = Record {
            slot: slot(7),
            value: wire::stored::change(&next),
            commands: Vec::new(),
            judgements: Vec::new(),
        };
        let message = log_record(&record);
        assert_eq!(message.value.unwrap().configuration, Some((&next).into()));
    }
}
