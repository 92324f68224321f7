//! Gives snapshots to acceptors that ask: one file, to one acceptor after another, so that at most one acceptor's disk is
//! busy with an upload of this learner.

mod wishes;

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use paxos_common::{
    paxos::{identity::AcceptorUuid, slot::Slot},
    peer::reason,
    snapshot::SnapshotSummary,
    trace::{self, Beginning, Parent, Span, SpanContext, Tracer, names},
    wire,
};
use paxos_proto::v1::{self as pb, keep_request::Content};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    acceptors::ListedAcceptor,
    cluster::Cluster,
    knowledge::{DurableWait, LearningEnded},
    snapshot_file::SnapshotFile,
    snapshots::{NoSnapshot, PART_BYTES, SnapshotOrders},
};
use wishes::{NextGift, WishList};

/// Longest wait until this learner has written the wanted slots.
const DURABLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Greatest age of a given file: an acceptor keeps the log above the snapshot, so an older file lets its log grow longer.
const FILE_AGE_MAX: Duration = Duration::from_secs(60);
/// Lowest rate of an upload in bytes a second, beside the patience: a slower acceptor must not keep others waiting.
const RATE_MIN: u64 = 256 * 1024;
/// Shortest time between two log lines about uploads that failed.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The wishes of the acceptors, reported by the streams to the acceptors.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    list: Mutex<WishList>,
    changes: watch::Sender<()>,
}

impl Wishes {
    fn asks(&self, acceptor: AcceptorUuid, above: Option<Slot>) {
        if self.lock().asks(acceptor, above) {
            self.changes.send_replace(());
        }
    }

    /// An attempt has ended.
    fn ended(&self, acceptor: AcceptorUuid, given: &Result<(), NotGiven>, now: Instant) {
        let mut list = self.lock();
        match given {
            Ok(()) => list.kept(acceptor, now),
            Err(NotGiven::Answered(status)) if status.code() == Code::ResourceExhausted => {
                list.refused(acceptor, now);
            }
            Err(NotGiven::NotWritten(_) | NotGiven::NotAsked) => list.refused(acceptor, now),
            Err(NotGiven::NotMade(_) | NotGiven::Read(_) | NotGiven::Answered(_) | NotGiven::Slow(_)) => {
                list.failed(acceptor, now);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, WishList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wish of an acceptor, withdrawn when the stream to the acceptor ends.
#[derive(Debug)]
pub(crate) struct WishUntilDrop {
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) acceptor: AcceptorUuid,
}

impl WishUntilDrop {
    /// The latest answer of the acceptor: the acceptor wants a snapshot that ends above the slot, or none.
    pub(crate) fn asks(&self, above: Option<Slot>) {
        self.wishes.asks(self.acceptor, above);
    }
}

impl Drop for WishUntilDrop {
    fn drop(&mut self) {
        self.wishes.asks(self.acceptor, None);
    }
}

/// Why an acceptor has not got a snapshot.
#[derive(Debug, thiserror::Error)]
enum NotGiven {
    /// The acceptor no longer asks, or is no member.
    #[error("the acceptor no longer asks")]
    NotAsked,
    #[error("this learner has not written slot {0} to its disk yet")]
    NotWritten(Slot),
    #[error(transparent)]
    NotMade(#[from] NoSnapshot),
    #[error("cannot read the snapshot file: {0}")]
    Read(#[from] io::Error),
    #[error("{}", reason(.0))]
    Answered(#[from] Status),
    #[error("the acceptor is too slow: {0}")]
    Slow(&'static str),
}

impl NotGiven {
    /// Whether a healthy cluster has such errors, for a moment.
    fn is_usual(&self) -> bool {
        match self {
            Self::NotAsked | Self::NotWritten(_) => true,
            Self::Answered(status) => status.code() == Code::ResourceExhausted,
            Self::NotMade(_) | Self::Read(_) | Self::Slow(_) => false,
        }
    }
}

/// The task that gives snapshots.
#[derive(Debug)]
pub(crate) struct Giver {
    /// The number of this learner.
    pub(crate) learner: u64,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) snapshots: SnapshotOrders,
    /// To wait for this learner's disk.
    pub(crate) durable: DurableWait,
    /// Longest time in which an acceptor takes no part, or does not answer after the last part.
    pub(crate) patience: Duration,
    pub(crate) tracer: Tracer,
}

impl Giver {
    /// Gives snapshots for as long as acceptors ask. Never returns.
    ///
    /// # Cancel safety
    /// Safe: an acceptor drops a snapshot that is cut off.
    pub(crate) async fn keep_giving(mut self) {
        let mut changes = self.wishes.changes.subscribe();
        let mut reported: Option<Instant> = None;
        loop {
            changes.mark_unchanged();
            let next = self.wishes.lock().next(Instant::now());
            let (acceptor, above) = match next {
                NextGift::Now(acceptor, above) => (acceptor, above),
                NextGift::At(at) => {
                    tokio::select! {
                        // `changed` only waits. No error: `self` has the sender.
                        _ = changes.changed() => {}
                        // A timer.
                        () = sleep_until(at.into()) => {}
                    }
                    continue;
                }
                NextGift::Nothing => {
                    // As above.
                    let _ = changes.changed().await;
                    continue;
                }
            };
            let given = self.give(acceptor, above).await;
            let now = Instant::now();
            self.wishes.ended(acceptor, &given, now);
            let Err(error) = given else { continue };
            let is_due = reported.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL);
            if is_due && !error.is_usual() {
                reported = Some(now);
                tracing::warn!(%acceptor, reason = %error, "an acceptor has not got the snapshot it asks for");
            } else {
                tracing::debug!(%acceptor, reason = %error, "an acceptor has not got the snapshot it asks for");
            }
        }
    }

    /// Makes a snapshot, or takes the last, and sends the file to the acceptor. Returns once the file is durable there.
    async fn give(&mut self, acceptor: AcceptorUuid, above: Slot) -> Result<(), NotGiven> {
        let present = self.cluster.present();
        let listed = Arc::clone(present.acceptor(acceptor).ok_or(NotGiven::NotAsked)?);
        let mut span = self
            .tracer
            .begin(Beginning::new("learner.snapshot", Parent::None));
        if let Some(span) = &mut span {
            listed.name_in(span);
        }
        let given = self.give_to(&listed, acceptor, above, span.as_mut()).await;
        if let Some(mut span) = span {
            if let Err(error) = &given {
                span.fail("snapshot", error.to_string());
            }
            span.end();
        }
        given
    }

    async fn give_to(
        &mut self,
        listed: &ListedAcceptor,
        acceptor: AcceptorUuid,
        above: Slot,
        mut span: Option<&mut Span>,
    ) -> Result<(), NotGiven> {
        let written = self.durable.until(above.next());
        match timeout(DURABLE_WAIT_MAX, written).await {
            Ok(Ok(())) => {}
            Ok(Err(LearningEnded)) => return Err(NoSnapshot::Stopping.into()),
            Err(_) => return Err(NotGiven::NotWritten(above)),
        }
        let snapshot = self.snapshots.common_snapshot(above.next(), FILE_AGE_MAX).await?;
        let (to, bytes) = (snapshot.summary.header.to, snapshot.summary.bytes);
        if let Some(span) = &mut span {
            span.count(names::SLOT, to.get());
            span.count(names::BYTES, bytes);
        }
        // The acceptor may have got another snapshot meanwhile.
        let wanted = self.wishes.lock().wanted_above(acceptor);
        if wanted.is_none_or(|above| above >= to) {
            return Err(NotGiven::NotAsked);
        }
        let begun = Instant::now();
        let deadline = self.patience * 2 + Duration::from_secs(bytes / RATE_MIN);
        let context = span.map(|span| span.context().clone());
        let begin = keep_begin(self.learner, &self.cluster, &snapshot.summary);
        let upload = upload(listed, begin, &snapshot, self.patience, context.as_ref());
        match timeout(deadline, upload).await {
            Ok(uploaded) => uploaded?,
            Err(_) => return Err(NotGiven::Slow("the whole upload")),
        }
        tracing::info!(
            address = %listed.address(), %to, bytes, took_ms = begun.elapsed().as_millis(),
            "gave a snapshot to an acceptor"
        );
        Ok(())
    }
}

/// Sends the file, on a connection of its own: votes, values and reads do not wait behind the parts.
async fn upload(
    acceptor: &ListedAcceptor,
    begin: pb::KeepBegin,
    snapshot: &SnapshotFile,
    patience: Duration,
    trace: Option<&SpanContext>,
) -> Result<(), NotGiven> {
    let (parts_in, parts) = mpsc::channel(1);
    let (mut client, _socket) = acceptor.dedicated_client().map_err(|_| NotGiven::NotAsked)?;
    let mut request = Request::new(ReceiverStream::new(parts));
    trace::inject(&mut request, trace);
    let mut call = pin!(client.keep(request));
    let mut sending = pin!(send(begin, snapshot, patience, parts_in));
    tokio::select! {
        // Both are polled to the end, or dropped together.
        answer = &mut call => return answer.map(drop).map_err(Into::into),
        sent = &mut sending => sent?,
    }
    let answer = timeout(patience, call).await;
    answer
        .map_err(|_| NotGiven::Slow("no answer after the last part"))?
        .map(drop)
        .map_err(Into::into)
}

fn keep_begin(learner: u64, cluster: &Cluster, summary: &SnapshotSummary) -> pb::KeepBegin {
    pb::KeepBegin {
        caller: Some(wire::caller(Some(cluster.id()))),
        id: Some(pb::SnapshotId {
            to: summary.header.to.get(),
            sha256: Bytes::copy_from_slice(&summary.sha256),
            bytes: summary.bytes,
        }),
        peer: learner,
        seed: false,
    }
}

/// Sends all parts of the file. The end of the channel is the end of the upload.
async fn send(
    begin: pb::KeepBegin,
    snapshot: &SnapshotFile,
    patience: Duration,
    parts: mpsc::Sender<pb::KeepRequest>,
) -> Result<(), NotGiven> {
    let summary = &snapshot.summary;
    let send = async |content| {
        let content = Some(content);
        let sent = timeout(patience, parts.send(pb::KeepRequest { content })).await;
        sent.map_err(|_| NotGiven::Slow("no part taken"))
    };
    let mut at = 0;
    let mut is_taken = send(Content::Begin(begin)).await?.is_ok();
    while is_taken && at < summary.bytes {
        let left = usize::try_from(summary.bytes - at).unwrap_or(usize::MAX);
        let data = snapshot.read_part(at, left.min(PART_BYTES)).await?;
        at += data.len() as u64;
        is_taken = send(Content::Data(data)).await?.is_ok();
    }
    // Without a receiver, the call has an answer already.
    Ok(())
}
