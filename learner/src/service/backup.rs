//! Answers `Backup`: a snapshot file as a stream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use paxos_common::{service::server::Room, snapshot::SnapshotSummary, wire::status::stopping};
use paxos_proto::v1 as pb;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{ServingState, streams::ResponseStream};
use crate::{
    knowledge::LearningEnded,
    snapshot_file::SnapshotFile,
    snapshots::{NoSnapshot, PART_BYTES},
    subscribe::PROGRESS_INTERVAL,
};

/// Longest wait for the snapshot of a backup.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(180);
/// Maximum wait of a backup for a quorum of acceptors, and for this learner's own disk.
const UP_TO_DATE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest time in which the caller may take nothing: a stalled caller must not keep others from their backups.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Lowest rate of a backup in bytes a second, beside two stalls: a caller that takes little at a time must not keep others
/// from their backups either.
const RATE_MIN: u64 = 256 * 1024;

/// The right to the only backup at a time, until the caller stalls or is too slow.
#[derive(Debug)]
struct BackupTurn(Mutex<TurnState>);

#[derive(Debug)]
struct TurnState {
    permit: Result<OwnedSemaphorePermit, LostTurn>,
    /// The task that makes the snapshot: ended with the right.
    making: Option<AbortHandle>,
    /// The snapshot, once made: held no longer than the right.
    file: Option<Arc<SnapshotFile>>,
    moved_at: Instant,
    /// The end of the right, once the size of the file is known.
    ends_at: Option<Instant>,
}

/// Why the caller has lost the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LostTurn {
    Stalled,
    Slow,
}

impl From<LostTurn> for Status {
    fn from(lost: LostTurn) -> Self {
        Self::deadline_exceeded(match lost {
            LostTurn::Stalled => {
                format!("the caller of this backup took nothing for {STALL_MAX:?}: begin again")
            }
            LostTurn::Slow => format!(
                "the caller of this backup took less than {} KiB a second: begin again, with a faster connection",
                RATE_MIN / 1024
            ),
        })
    }
}

impl BackupTurn {
    fn begin(permit: OwnedSemaphorePermit) -> Arc<Self> {
        let turn = Arc::new(Self(Mutex::new(TurnState {
            permit: Ok(permit),
            making: None,
            file: None,
            moved_at: Instant::now(),
            ends_at: None,
        })));
        tokio::spawn(watch(Arc::downgrade(&turn)));
        turn
    }

    /// Lets a task make the snapshot. The task does not wait for the caller: a caller that takes nothing must keep neither the
    /// made file nor whatever the snapshot is made of. The task ends with the returned handle.
    fn make(
        self: &Arc<Self>,
        making: impl Future<Output = Result<Arc<SnapshotFile>, Status>> + Send + 'static,
    ) -> AbortOnDropHandle<Result<SnapshotSummary, Status>> {
        let turn = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let snapshot = making.await?;
            let turn = turn.upgrade().ok_or_else(stopping)?;
            turn.hold(snapshot)
        });
        self.lock().making = Some(task.abort_handle());
        AbortOnDropHandle::new(task)
    }

    /// The caller takes the next message.
    fn moves(&self) -> Result<(), Status> {
        self.state().map(drop)
    }

    /// Holds the snapshot for as long as the right.
    fn hold(&self, snapshot: Arc<SnapshotFile>) -> Result<SnapshotSummary, Status> {
        let summary = snapshot.summary.clone();
        let mut state = self.lock();
        if let Err(lost) = &state.permit {
            return Err((*lost).into());
        }
        state.ends_at = Some(ends_at(Instant::now(), summary.bytes));
        state.file = Some(snapshot);
        Ok(summary)
    }

    /// Reads a part of the held file. The caller takes the next message. No handle of the file is left on return: the
    /// caller may stall afterwards.
    async fn read(&self, at: u64, len: usize) -> Result<Bytes, Status> {
        let file = self.state()?.file.clone();
        let file = file.ok_or_else(|| not_read(&"the file is closed"))?;
        let part = file.read_part(at, len).await;
        part.map_err(|error| not_read(&error))
    }

    /// The state of a turn that the caller still has. The caller takes the next message.
    fn state(&self) -> Result<MutexGuard<'_, TurnState>, Status> {
        let mut state = self.lock();
        if let Err(lost) = &state.permit {
            return Err((*lost).into());
        }
        state.moved_at = Instant::now();
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the right of a stalled or slow caller. Returns the time of the next look; `None` after the end.
    fn look(&self) -> Option<Instant> {
        let mut state = self.lock();
        let (next, lost) = end_of_turn(state.moved_at, state.ends_at);
        if next > Instant::now() {
            return Some(next);
        }
        if let Some(making) = state.making.take() {
            making.abort();
        }
        state.file = None;
        state.permit = Err(lost);
        None
    }
}

/// The end of the right to send a file of this size.
fn ends_at(begun: Instant, bytes: u64) -> Instant {
    begun + STALL_MAX * 2 + Duration::from_secs(bytes / RATE_MIN)
}

/// When the right ends unless the caller moves, and why.
fn end_of_turn(moved_at: Instant, ends_at: Option<Instant>) -> (Instant, LostTurn) {
    let stalls_at = moved_at + STALL_MAX;
    match ends_at {
        Some(ends_at) if ends_at < stalls_at => (ends_at, LostTurn::Slow),
        Some(_) | None => (stalls_at, LostTurn::Stalled),
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
        let making = timeout(SNAPSHOT_WAIT_MAX, self.snapshots.snapshot(to, Duration::MAX)).await;
        Ok(making.map_err(|_| late("could not make the backup"))??)
    }
}

/// A backup's answers. `opened` is the state of a learner that answers reads.
pub(super) fn stream(
    opened: Arc<ServingState>,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<pb::BackupResponse> {
    answers(async move { opened.make_snapshot().await }, permit, room)
}

fn answers(
    making: impl Future<Output = Result<Arc<SnapshotFile>, Status>> + Send + 'static,
    permit: OwnedSemaphorePermit,
    room: Room,
) -> ResponseStream<pb::BackupResponse> {
    let turn = BackupTurn::begin(permit);
    let mut making = turn.make(making);
    Box::pin(async_stream::try_stream! {
        let summary = loop {
            let made = tokio::select! {
                // Cancel safe: polled again.
                made = &mut making => Some(made),
                // A timer.
                () = sleep(PROGRESS_INTERVAL) => None,
            };
            turn.moves()?;
            if let Some(made) = made {
                break made.map_err(|_| stopping())??;
            }
            yield pb::BackupResponse::default();
        };
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
            let left = usize::try_from(summary.bytes - at).unwrap_or(usize::MAX);
            let data = turn.read(at, left.min(PART_BYTES)).await?;
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
    tracing::warn!(%error, "cannot read the file of a backup");
    Status::unavailable(format!(
        "cannot read the file of the backup: {error}; retry, here or at another learner"
    ))
}

impl From<NoSnapshot> for Status {
    fn from(reason: NoSnapshot) -> Self {
        Self::unavailable(format!("{reason}: retry, here or at another learner"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        sync::Weak,
    };

    use futures::StreamExt as _;
    use paxos_test_values::{acceptor, cluster_of_one, slot, snapshot_file};
    use tokio::sync::Semaphore;

    use super::*;

    /// Answers of a backup of some parts, with its file, and the places for backups.
    fn begun() -> (
        Weak<SnapshotFile>,
        Vec<u8>,
        Arc<Semaphore>,
        ResponseStream<pb::BackupResponse>,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let places = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&places).try_acquire_owned().unwrap();
        let (summary, content) = snapshot_file(&cluster_of_one(acceptor(1)), slot(9), 4 * PART_BYTES);
        let path = directory.path().join("file");
        fs::write(&path, &content).unwrap();
        // Read without the name.
        let opened = File::open(&path).unwrap();
        let file = Arc::new(SnapshotFile::found(path, opened, summary));
        let held = Arc::downgrade(&file);
        let making = async move {
            // The caller waits for some messages without content.
            sleep(PROGRESS_INTERVAL * 5 / 2).await;
            Ok(file)
        };
        let answers = answers(making, permit, Room::default());
        (held, content, places, answers)
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_caller_keeps_neither_the_turn_nor_the_file() {
        // Before the first message, while the file is made, after its name, and after two parts.
        for taken in [0, 2, 3, 5] {
            let (file, _, places, mut answers) = begun();
            for _ in 0..taken {
                answers.next().await.unwrap().unwrap();
            }
            assert_eq!(places.available_permits(), 0);
            sleep(STALL_MAX - Duration::from_secs(1)).await;
            assert!(
                file.strong_count() == 1 && places.available_permits() == 0,
                "{taken}"
            );
            sleep(Duration::from_secs(2)).await;
            assert_eq!(places.available_permits(), 1, "{taken}");
            assert_eq!(file.strong_count(), 0, "the file is kept after {taken} messages");
            let mut ended = answers.collect::<Vec<_>>().await;
            let status = ended.pop().unwrap().unwrap_err();
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{taken}: {status}");
            assert!(status.message().ends_with("begin again"), "{taken}: {status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_takes_parts_with_pauses_gets_the_whole_file() {
        let (file, expected, places, mut answers) = begun();
        let mut found = Vec::new();
        while let Some(part) = answers.next().await {
            found.extend_from_slice(&part.unwrap().data);
            sleep(Duration::from_secs(9)).await;
        }
        assert!(found == expected, "{} of {} bytes", found.len(), expected.len());
        drop(answers);
        assert_eq!(places.available_permits(), 1);
        assert_eq!(file.strong_count(), 0);
    }

    #[test]
    fn caller_that_takes_little_at_a_time_keeps_the_turn_for_a_bounded_time() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        // While the file is made, only a stall ends the turn.
        assert_eq!(end_of_turn(after(7), None), (after(37), LostTurn::Stalled));
        // 1 GiB.
        let ends_at = ends_at(begun, 1 << 30);
        assert_eq!(ends_at, after(60 + 4_096));
        let mut now = begun;
        let mut taken = 0;
        let (end, lost) = loop {
            let (end, lost) = end_of_turn(now, Some(ends_at));
            // Almost a stall before each part.
            now += Duration::from_secs(29);
            if now >= end {
                break (end, lost);
            }
            taken += 1;
        };
        assert_eq!((end, lost), (ends_at, LostTurn::Slow));
        assert!(taken < 150, "{taken}");
        // A caller at twice the lowest rate is done in time.
        assert!(after((1 << 30) / (2 * RATE_MIN)) < ends_at);
        let status = Status::from(lost);
        assert!(
            status.message().contains("256 KiB a second: begin again"),
            "{status}"
        );
    }
}
