//! Answers `Backup`: a snapshot file as a stream.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use paxos_common::service::server::Room;
use paxos_proto::v1 as pb;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Status;

use super::{ServingState, streams::ResponseStream};
use crate::{
    knowledge::LearningEnded,
    snapshots::{NoSnapshot, PART_BYTES, SnapshotFile, read_part},
    subscribe::PROGRESS_INTERVAL,
};

/// Longest wait for the snapshot of a backup.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(180);
/// Maximum wait of a backup for a quorum of acceptors, and for this learner's own disk.
const UP_TO_DATE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest time in which the caller may take nothing: a stalled caller must not keep others from their backups.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The right to the only backup at a time, until the caller stalls.
#[derive(Debug)]
struct BackupTurn(Mutex<TurnState>);

#[derive(Debug)]
struct TurnState {
    /// `None` after a stall.
    permit: Option<OwnedSemaphorePermit>,
    /// The snapshot, once made: held no longer than the right.
    file: Option<(Arc<SnapshotFile>, Arc<File>)>,
    moved_at: Instant,
}

impl BackupTurn {
    fn begin(permit: OwnedSemaphorePermit) -> Arc<Self> {
        let turn = Arc::new(Self(Mutex::new(TurnState {
            permit: Some(permit),
            file: None,
            moved_at: Instant::now(),
        })));
        tokio::spawn(watch(Arc::downgrade(&turn)));
        turn
    }

    /// The caller takes the next message.
    fn moves(&self) -> Result<(), Status> {
        self.state().map(drop)
    }

    /// Holds the snapshot for as long as the right.
    fn hold(&self, snapshot: Arc<SnapshotFile>, file: Arc<File>) -> Result<(), Status> {
        self.state()?.file = Some((snapshot, file));
        Ok(())
    }

    /// The held file. The caller takes the next message.
    fn file(&self) -> Result<Option<Arc<File>>, Status> {
        let state = self.state()?;
        Ok(state.file.as_ref().map(|(_, file)| Arc::clone(file)))
    }

    fn state(&self) -> Result<MutexGuard<'_, TurnState>, Status> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.permit.is_none() {
            return Err(Status::deadline_exceeded(format!(
                "the caller of this backup took nothing for {STALL_MAX:?}: begin again"
            )));
        }
        state.moved_at = Instant::now();
        Ok(state)
    }

    /// Ends the right of a stalled caller. Returns the time of the next look; `None` after the end.
    fn look(&self) -> Option<Instant> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = state.moved_at + STALL_MAX;
        if ends > Instant::now() {
            return Some(ends);
        }
        // The file first: the next caller's file may have the same name.
        state.file = None;
        state.permit = None;
        None
    }
}

/// Looks for a stall until the stream is gone. A stream without a reader is not polled, and so cannot look itself.
async fn watch(turn: Weak<BackupTurn>) {
    while let Some(next) = turn.upgrade().and_then(|turn| turn.look()) {
        sleep_until(next).await;
    }
}

impl ServingState {
    /// A snapshot with the effect of every command acknowledged before the call.
    async fn make_snapshot(&self) -> Result<Arc<SnapshotFile>, Status> {
        let late = |what: &str| {
            Status::unavailable(format!(
                "this learner {what} in time: retry, here or at another learner"
            ))
        };
        let reading = timeout(UP_TO_DATE_WAIT_MAX, self.pass_barrier(None)).await;
        reading.map_err(|_| late("could not hear a quorum of acceptors"))??;
        let to = self.applied_to();
        let mut durable = self.knowledge.durable();
        let writing = timeout(UP_TO_DATE_WAIT_MAX, durable.until(to)).await;
        let written = writing.map_err(|_| late("could not write the log to its disk"))?;
        written.map_err(|LearningEnded| self.ended())?;
        let making = timeout(SNAPSHOT_WAIT_MAX, self.snapshots.snapshot(to)).await;
        Ok(making.map_err(|_| late("could not make a snapshot"))??)
    }
}

/// A backup's answers. `opened` is the state of a learner that answers reads.
pub(super) fn stream(
    opened: Arc<ServingState>,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<pb::BackupResponse> {
    let turn = BackupTurn::begin(permit);
    Box::pin(async_stream::try_stream! {
        // The state is dropped once the snapshot is made: a caller that takes nothing must not keep the state.
        let mut making = Box::pin(async move { opened.make_snapshot().await });
        let snapshot = loop {
            let made = tokio::select! {
                // Cancel safe: polled again.
                made = &mut making => Some(made),
                // A timer.
                () = sleep(PROGRESS_INTERVAL) => None,
            };
            turn.moves()?;
            if let Some(made) = made {
                break made?;
            }
            yield pb::BackupResponse::default();
        };
        let summary = snapshot.summary.clone();
        let opening = Arc::clone(&snapshot);
        let file = spawn_blocking(move || opening.open()).await;
        let file = Arc::new(file.map_err(|_| not_read(&"no thread"))?.map_err(|error| not_read(&error))?);
        turn.hold(snapshot, file)?;
        yield pb::BackupResponse {
            id: Some(pb::SnapshotId {
                to: summary.header.to.get(),
                sha256: Bytes::copy_from_slice(&summary.sha256),
                bytes: summary.bytes,
            }),
            data: Bytes::new(),
        };
        let mut at = 0;
        let mut is_held = false;
        while at < summary.bytes {
            // As for pages: see `Room`.
            if !room.take_now(PART_BYTES) {
                if std::mem::take(&mut is_held) {
                    yield pb::BackupResponse::default();
                }
                room.take(PART_BYTES).await;
            }
            let file = turn.file()?.ok_or_else(|| not_read(&"the file is closed"))?;
            let left = usize::try_from(summary.bytes - at).unwrap_or(usize::MAX);
            let data = read_part(file, at, left.min(PART_BYTES)).await.map_err(|error| not_read(&error))?;
            at += data.len() as u64;
            let part = pb::BackupResponse { id: None, data };
            room.built(&part);
            is_held = true;
            yield part;
        }
    })
}

/// UNAVAILABLE, because another learner may be able to answer.
fn not_read(error: &dyn std::fmt::Display) -> Status {
    tracing::warn!(%error, "cannot read a snapshot file");
    Status::unavailable(format!(
        "cannot read the snapshot file: {error}; retry, here or at another learner"
    ))
}

impl From<NoSnapshot> for Status {
    fn from(reason: NoSnapshot) -> Self {
        Self::unavailable(format!("{reason}: retry, here or at another learner"))
    }
}
