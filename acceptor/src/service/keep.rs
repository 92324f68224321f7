//! Uploads of snapshots: admits a snapshot, receives its parts, and lets the writer record the whole file.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::slot::Slot,
    trace::{Beginning, Parent, SpanContext, names},
    wire::{self, status},
};
use paxos_proto::v1::{self as pb, keep_request::Content};
use tokio::{sync::oneshot, time::timeout};
use tonic::Status;

use super::{
    Inner,
    check::{check_data, read_id},
};
use crate::{
    retain::{NotRetained, RetainRequest},
    retention::RetainBytes,
    snapshot::{IncomingSnapshot, UploadError},
    store::{Reader, snapshots::SnapshotId},
    trimmer::ask,
};

/// Maximum time between two parts of an upload. A slow sender sends smaller parts.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Receives one snapshot; returns once the file is durable and recorded.
pub(super) async fn keep<R: Reader>(
    inner: Arc<Inner<R>>,
    trace: Option<SpanContext>,
    mut parts: impl Stream<Item = Result<pb::KeepRequest, Status>> + Send + Unpin + 'static,
) -> Result<pb::KeepResponse, Status> {
    let Some(Content::Begin(begin)) = next_part(&mut parts).await? else {
        return Err(status::invalid_argument("an upload starts with `begin`"));
    };
    inner.check_caller(begin.caller.as_ref())?;
    let id = read_id(begin.id.as_ref())?;
    if inner.snapshots.retain == RetainBytes::Off {
        return Err(Status::unimplemented(
            "acceptors of this release take no snapshots: they keep the whole log",
        ));
    }
    let place = inner.snapshots.files.place();
    let place = place.ok_or_else(|| status::overloaded("the place for an arriving snapshot"))?;
    inner.admit(id)?;
    let files = Arc::clone(&inner.snapshots.files);
    let incoming = IncomingSnapshot::begin(files, id, place)
        .await
        .map_err(|error| upload_failed(&error))?;
    // In a task of its own: a whole file is recorded and a failed file is removed, however the call ends.
    let task = upload(Arc::clone(&inner), trace, id, incoming, parts);
    let ended = inner.shutdown.spawn(task).await;
    ended.unwrap_or_else(|_| Err(status::stopping()))
}

async fn upload<R: Reader>(
    inner: Arc<Inner<R>>,
    trace: Option<SpanContext>,
    id: SnapshotId,
    mut incoming: IncomingSnapshot,
    mut parts: impl Stream<Item = Result<pb::KeepRequest, Status>> + Send + Unpin,
) -> Result<pb::KeepResponse, Status> {
    let parent = trace.as_ref().map_or(Parent::None, Parent::Span);
    let mut span = inner.tracer.begin(Beginning::new("acceptor.keep", parent));
    if let Some(span) = &mut span {
        span.count(names::SLOT, id.to.get());
        span.count(names::BYTES, id.bytes);
    }
    // Safe to cancel: the file of a cancelled upload is removed.
    let receiving = receive(&mut incoming, &mut parts);
    let received = inner.shutdown.token().run_until_cancelled(receiving).await;
    let result = match received {
        Some(Ok(())) => inner.record(id, incoming).await,
        Some(Err(error)) => {
            incoming.abandon().await;
            Err(error)
        }
        None => {
            incoming.abandon().await;
            Err(status::stopping())
        }
    };
    if let Some(mut span) = span {
        if let Err(error) = &result {
            span.answered(error.code(), error.message());
        }
        span.end();
    }
    match &result {
        Ok(_) => tracing::info!(to = id.to.get(), bytes = id.bytes, "keeps a snapshot"),
        Err(error) => tracing::info!(
            to = id.to.get(),
            reason = error.message(),
            "an upload of a snapshot failed"
        ),
    }
    result
}

/// Writes all parts up to the end of the stream.
async fn receive(
    incoming: &mut IncomingSnapshot,
    parts: &mut (impl Stream<Item = Result<pb::KeepRequest, Status>> + Unpin),
) -> Result<(), Status> {
    loop {
        match next_part(parts).await? {
            Some(Content::Data(data)) => {
                check_data(&data)?;
                incoming
                    .write(&data)
                    .await
                    .map_err(|error| upload_failed(&error))?;
            }
            Some(Content::Begin(_)) => return Err(status::invalid_argument("`begin` comes once, first")),
            None => return Ok(()),
        }
    }
}

/// The content of the next part; none at the end of the stream.
async fn next_part(
    parts: &mut (impl Stream<Item = Result<pb::KeepRequest, Status>> + Unpin),
) -> Result<Option<Content>, Status> {
    let part = timeout(SILENCE_MAX, parts.next()).await;
    let part = part.map_err(|_| {
        let seconds = SILENCE_MAX.as_secs();
        Status::deadline_exceeded(format!(
            "no part of the snapshot arrived for {seconds} s: send it again"
        ))
    })?;
    let Some(part) = part.transpose()? else {
        return Ok(None);
    };
    let content = part
        .content
        .ok_or_else(|| status::invalid_argument("content is missing"))?;
    Ok(Some(content))
}

impl<R: Reader> Inner<R> {
    /// Refuses a snapshot that this acceptor did not ask for, unless the snapshot lifts the acceptor; an older snapshot;
    /// and a snapshot above the cap of trims.
    fn admit(&self, id: SnapshotId) -> Result<(), Status> {
        let published = self.shared.published();
        let damaged = self.snapshots.files.damaged();
        let sound = published
            .snapshots
            .iter()
            .filter(|kept| !damaged.contains(&kept.id));
        let kept_to: Slot = sound.map(|kept| kept.id.to).fold(published.trimmed_to, Slot::max);
        let (to, cap) = (id.to, published.trim_cap);
        if to <= kept_to {
            return Err(status::not_wanted(format!(
                "a snapshot to slot {to} is older than the kept snapshot to slot {kept_to}"
            )));
        }
        if to > cap {
            return Err(status::exhausted(&format!(
                "a snapshot to slot {to} ends above slot {cap}: leaders have reported only the slots below as chosen. \
                 Retry later"
            )));
        }
        let wish = self.snapshots.decision().wish;
        if wish.is_some_and(|wish| to > wish.above) || to > published.chosen_to {
            return Ok(());
        }
        Err(status::not_wanted(format!(
            "this acceptor has not asked for a snapshot to slot {to}"
        )))
    }

    /// Ends the file and lets the writer record the file.
    async fn record(&self, id: SnapshotId, incoming: IncomingSnapshot) -> Result<pb::KeepResponse, Status> {
        let arrived = incoming.finish().await.map_err(|error| upload_failed(&error))?;
        let (answer, kept) = oneshot::channel();
        match ask(&self.shared, RetainRequest::Keep { id, answer }, kept).await {
            Some(Ok(unused)) => {
                if let Some(unused) = unused {
                    self.snapshots.files.remove(unused).await;
                }
                self.snapshots.arrived();
                self.instruments.kept_snapshot();
                let stamp = Some(wire::stamp(&self.shared.published().stamp, Vec::new()));
                Ok(pb::KeepResponse { stamp })
            }
            Some(Err(refused)) => {
                arrived.refused().await;
                Err(match refused {
                    NotRetained::NoSpace => status::overloaded("the acceptor's disk"),
                    NotRetained::Refused(_) | NotRetained::NotWaiting(_) => {
                        status::not_wanted(refused.to_string())
                    }
                })
            }
            // The record may be on disk or not: the next start removes a file without a record.
            None => Err(status::stopping()),
        }
    }
}

fn upload_failed(error: &UploadError) -> Status {
    match error {
        UploadError::NoSpace { .. } => status::exhausted(&error.to_string()),
        UploadError::Cut { .. } | UploadError::TooLong { .. } | UploadError::Hash => {
            status::invalid_argument(error.to_string())
        }
        UploadError::Io(source) => {
            tracing::warn!(error = %source, "cannot write the file of a snapshot");
            Status::internal(format!("{error}: {source}"))
        }
    }
}
