//! Uploads of snapshots: admits a snapshot, receives its parts, and lets the worker record the whole file.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::{
        acceptor::{Seed, SeedUse},
        identity::ClusterId,
        slot::Slot,
    },
    service::server::Rights,
    tls::RoleName,
    trace::{Beginning, Parent, SpanContext, names},
    wire::{self, status},
};
use paxos_proto::v1::{self as pb, keep_request::Content};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::Status;

use super::{
    Inner,
    check::{check_data, check_peer, read_id},
    compare::digest_of,
    rate::{BYTES_PER_SECOND_MIN, MinimumRate, TooSlow},
    seed::read_seed,
};
use crate::{
    snapshot::{IncomingSnapshot, UploadError},
    snapshot_change::{SnapshotChange, SnapshotUnchanged},
    store::{
        Reader, left_by_uploads,
        snapshots::{KeptSnapshots, SnapshotId},
    },
    trim_policy::SnapshotWish,
    trim_task::ask,
};

/// Maximum time between two parts of an upload. A slow sender sends smaller parts.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Receives one snapshot; returns once the file is durable and recorded.
pub(super) async fn keep<R: Reader>(
    inner: Arc<Inner<R>>,
    trace: Option<SpanContext>,
    rights: Rights,
    mut parts: impl Stream<Item = Result<pb::KeepRequest, Status>> + Send + Unpin + 'static,
) -> Result<pb::KeepResponse, Status> {
    let mut rate = MinimumRate::default();
    let Some(Content::Begin(begin)) = next_part(&mut parts, &mut rate).await? else {
        return Err(status::invalid_argument("an upload starts with `begin`"));
    };
    let arriving = if begin.seed {
        rights.check(&[RoleName::Operator], "a seed of Acceptor/Keep")?;
        let id = read_id(begin.id.as_ref())?;
        let seed = read_seed(begin.caller.as_ref(), id)?;
        if inner.admit_seed(seed)? == SeedUse::Nothing {
            return Ok(inner.keep_response());
        }
        ArrivingId {
            id,
            cluster: seed.cluster,
            giver: 0,
            seed: Some(seed),
        }
    } else {
        inner.check_caller(begin.caller.as_ref())?;
        ArrivingId {
            id: read_id(begin.id.as_ref())?,
            cluster: inner.shared.formed().ok_or_else(status::stopping)?,
            giver: begin.peer,
            seed: None,
        }
    };
    check_peer(begin.peer)?;
    let place = inner.snapshots.files.place();
    let place = place.ok_or_else(|| status::overloaded("the place for an arriving snapshot"))?;
    if arriving.seed.is_none() {
        inner.admit(arriving.id, begin.peer)?;
    }
    // In a task of its own: a whole file is recorded and a failed file is removed, however the call ends.
    let task = upload(
        Arc::clone(&inner),
        trace,
        arriving,
        place,
        ArrivingParts { parts, rate },
    );
    let ended = inner.shutdown.spawn(task).await;
    ended.unwrap_or_else(|_| Err(status::stopping()))
}

/// The snapshot that arrives.
#[derive(Clone, Copy)]
struct ArrivingId {
    id: SnapshotId,
    cluster: ClusterId,
    /// Number of the learner that gives the snapshot, as chosen by the sender; 0: unknown.
    giver: u64,
    /// Set for the seed of a cluster to be formed.
    seed: Option<Seed>,
}

/// The parts of an upload after the first, and the limit of the time.
struct ArrivingParts<S> {
    parts: S,
    rate: MinimumRate,
}

async fn upload<R: Reader>(
    inner: Arc<Inner<R>>,
    trace: Option<SpanContext>,
    arriving: ArrivingId,
    place: OwnedSemaphorePermit,
    parts: ArrivingParts<impl Stream<Item = Result<pb::KeepRequest, Status>> + Send + Unpin>,
) -> Result<pb::KeepResponse, Status> {
    let id = arriving.id;
    let parent = trace.as_ref().map_or(Parent::None, Parent::Span);
    let mut span = inner.tracer.begin(Beginning::new("acceptor.keep", parent));
    if let Some(span) = &mut span {
        span.count(names::SLOT, id.to.get());
        span.count(names::BYTES, id.bytes);
    }
    let result = inner.take(arriving, place, parts).await;
    if let Some(mut span) = span {
        if let Err(error) = &result {
            span.answered(error.code(), error.message());
        }
        span.end();
    }
    match &result {
        Ok(_) => tracing::info!(to = id.to.get(), bytes = id.bytes, "keeps a snapshot"),
        Err(error) => {
            inner.snapshots.arrived();
            tracing::info!(
                to = id.to.get(),
                reason = error.message(),
                "an upload of a snapshot failed"
            );
        }
    }
    result
}

/// The content of the next part; none at the end of the stream.
async fn next_part(
    parts: &mut (impl Stream<Item = Result<pb::KeepRequest, Status>> + Unpin),
    rate: &mut MinimumRate,
) -> Result<Option<Content>, Status> {
    let part = rate.wait(parts.next(), SILENCE_MAX).await;
    let part = part.map_err(|slow| {
        Status::deadline_exceeded(match slow {
            TooSlow::Silent => {
                let seconds = SILENCE_MAX.as_secs();
                format!("no part of the snapshot arrived for {seconds} s: send the snapshot again")
            }
            TooSlow::Slow => format!(
                "the snapshot arrived at less than {BYTES_PER_SECOND_MIN} bytes a second: send the snapshot again, and faster"
            ),
        })
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
    /// Receives the file, and lets the worker record the file. A failed file is removed.
    async fn take(
        &self,
        arriving: ArrivingId,
        place: OwnedSemaphorePermit,
        mut parts: ArrivingParts<impl Stream<Item = Result<pb::KeepRequest, Status>> + Send + Unpin>,
    ) -> Result<pb::KeepResponse, Status> {
        let files = Arc::clone(&self.snapshots.files);
        let ids = (arriving.cluster, arriving.id);
        let begun = IncomingSnapshot::begin(files, ids, place, self.left_free()).await;
        let mut incoming = begun.map_err(|error| upload_failed(&error))?;
        // Safe to cancel: the file of a cancelled upload is removed.
        let receiving = self.receive(&mut incoming, &mut parts);
        let received = self.shutdown.token().run_until_cancelled(receiving).await;
        match received.unwrap_or_else(|| Err(status::stopping())) {
            Ok(()) => self.record(arriving, incoming).await,
            Err(error) => {
                incoming.abandon().await;
                Err(error)
            }
        }
    }

    /// Writes all parts up to the end of the stream.
    async fn receive(
        &self,
        incoming: &mut IncomingSnapshot,
        ArrivingParts { parts, rate }: &mut ArrivingParts<
            impl Stream<Item = Result<pb::KeepRequest, Status>> + Unpin,
        >,
    ) -> Result<(), Status> {
        loop {
            match next_part(parts, rate).await? {
                Some(Content::Data(data)) => {
                    check_data(&data)?;
                    rate.moved(data.len());
                    let written = incoming.write(&data, self.left_free()).await;
                    written.map_err(|error| upload_failed(&error))?;
                }
                Some(Content::Begin(_)) => return Err(status::invalid_argument("`begin` comes once, first")),
                None => return Ok(()),
            }
        }
    }

    /// Bytes of free space that an upload leaves on the disk.
    fn left_free(&self) -> u64 {
        left_by_uploads(!self.shared.published().no_space)
    }

    /// Refuses a snapshot that this acceptor did not ask the sender for, unless the snapshot lifts an acceptor that is behind
    /// or outside; an older snapshot; and a snapshot above the cap of trims. A `peer` of 0 is not known.
    ///
    /// This protects against faults, and not against an attacker: any caller can send the number of the asked learner.
    fn admit(&self, id: SnapshotId, peer: u64) -> Result<(), Status> {
        let published = self.shared.published();
        let decision = self.snapshots.decision();
        let damaged = self.snapshots.files.damaged();
        let KeptSnapshots { bottom, waiting } = published.snapshots;
        let waiting = waiting.filter(|_| !decision.ignores_waiting);
        let sound = bottom.iter().chain(&waiting);
        let sound = sound.filter(|kept| !damaged.contains(&kept.id));
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
        let is_asked = |wish: SnapshotWish| to > wish.above && (peer == 0 || peer == wish.peer);
        // The leader that adds an acceptor sends at once, before the next look of the policy.
        let lifts = decision.lift_above.is_some_and(|above| to > above)
            || (published.is_outside() && to > published.chosen_to);
        if decision.wish.is_some_and(is_asked) || lifts {
            return Ok(());
        }
        Err(status::not_wanted(format!(
            "this acceptor has not asked for a snapshot to slot {to}"
        )))
    }

    /// Ends the file and lets the worker record the file.
    async fn record(
        &self,
        ArrivingId { id, giver, seed, .. }: ArrivingId,
        incoming: IncomingSnapshot,
    ) -> Result<pb::KeepResponse, Status> {
        // Before the place is free: the question is answered, however the upload ends.
        self.snapshots.arrived();
        let recorded = self.shared.published().snapshots;
        let arrived = incoming.finish(&recorded).await;
        let arrived = arrived.map_err(|error| upload_failed(&error))?;
        let given = digest_of(&arrived.summary);
        let compared = match seed {
            None => self.compare(giver, &given),
            Some(seed) => self.check_seed_file(seed, &arrived.summary),
        };
        if let Err(refused) = compared {
            arrived.refused(&recorded).await;
            return Err(refused);
        }
        let (answer, kept) = oneshot::channel();
        let request = match seed {
            None => SnapshotChange::Keep { id, answer },
            Some(seed) => SnapshotChange::Seed { id, seed, answer },
        };
        match ask(&self.shared, request, kept).await {
            Some(Ok(unused)) => {
                if let Some(unused) = unused {
                    let recorded = self.shared.published().snapshots;
                    self.snapshots.files.remove(unused, &recorded).await;
                }
                if seed.is_none() {
                    self.snapshots.contradictions().keeps(id, giver, given);
                }
                arrived.kept();
                self.instruments.kept_snapshot();
                Ok(self.keep_response())
            }
            Some(Err(refused)) => {
                arrived.refused(&self.shared.published().snapshots).await;
                Err(match refused {
                    SnapshotUnchanged::NoSpace => status::overloaded("the acceptor's disk"),
                    SnapshotUnchanged::Refused(_)
                    | SnapshotUnchanged::NotWaiting(_)
                    | SnapshotUnchanged::BelowCap(_)
                    | SnapshotUnchanged::Seed(_) => status::not_wanted(refused.to_string()),
                })
            }
            // The record may be on disk or not: the next start removes a file without a record.
            None => Err(status::stopping()),
        }
    }

    fn keep_response(&self) -> pb::KeepResponse {
        let stamp = Some(wire::stamp(&self.shared.published().stamp, Vec::new()));
        pb::KeepResponse { stamp }
    }
}

fn upload_failed(error: &UploadError) -> Status {
    match error {
        UploadError::NoSpace { .. } => status::exhausted(&error.to_string()),
        UploadError::Content(content) if content.is_misplaced() => status::wrong_cluster(error.to_string()),
        UploadError::Cut { .. }
        | UploadError::TooLong { .. }
        | UploadError::Hash
        | UploadError::Content(_)
        | UploadError::End { .. }
        | UploadError::Configuration { .. } => status::invalid_argument(error.to_string()),
        UploadError::Io(source) => {
            tracing::warn!(error = %source, "cannot write the file of a snapshot");
            Status::internal(format!("{error}: {source}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, stream};
    use paxos_common::paxos::{era::Era, slot::Slot};
    use paxos_test_values::{acceptor, ballot, snapshot_file};

    use super::*;
    use crate::{
        request::{FormStep, QueuedRequest},
        testing::{Cluster, settle},
        trim_policy::TrimDecision,
        trim_task::Snapshots,
    };

    fn asks(snapshots: &Snapshots, peer: u64) {
        snapshots.show(TrimDecision {
            wish: Some(SnapshotWish {
                peer,
                above: Slot::ZERO,
            }),
            ..TrimDecision::default()
        });
    }

    /// A cluster with the slots below 20 chosen, and the begin of an upload to slot 10.
    async fn begun() -> (Cluster, pb::KeepRequest, Vec<u8>) {
        let cluster = Cluster::start().await;
        for (slots, chosen_to) in [(0..20, 0), (20..21, 20)] {
            cluster.accept_all(slots, chosen_to).recv().await.unwrap();
        }
        let (summary, content) = snapshot_file(&cluster.configuration, Slot::new(10).unwrap(), 4000);
        let id = pb::SnapshotId {
            to: 10,
            sha256: summary.sha256.to_vec().into(),
            bytes: summary.bytes,
        };
        let begin = pb::KeepRequest {
            content: Some(Content::Begin(pb::KeepBegin {
                caller: Some(cluster.caller()),
                id: Some(id),
                peer: 3,
                seed: false,
            })),
        };
        (cluster, begin, content)
    }

    #[tokio::test]
    async fn acceptor_outside_admits_a_snapshot_of_any_caller_up_to_the_claim_of_its_leader() {
        let cluster = Cluster::start().await;
        let admitted = |to| {
            let id = SnapshotId {
                to: Slot::new(to).unwrap(),
                sha256: [7; 32],
                bytes: 9,
            };
            let admitted = cluster.service.inner.admit(id, 3);
            admitted.map_err(|refused| refused.message().to_owned())
        };
        let claim = async |era| {
            let leader = ballot(1).in_era(era);
            cluster.accept_at(leader, 40..41, 40).recv().await.unwrap();
        };
        claim(Era::FIRST).await;
        let refused = admitted(30).unwrap_err();
        assert!(refused.contains("has not asked"), "a member: {refused}");
        let other = (acceptor(9), Arc::<str>::from("http://b:1").into());
        let second = cluster.configuration.changed_to([other], 1, 1).unwrap();
        let (answer, installed) = oneshot::channel();
        let step = FormStep::Install(second.clone());
        let install = QueuedRequest::Form { step, answer };
        cluster.queue.push(install).unwrap();
        installed.await.unwrap().unwrap().unwrap();
        claim(second.era()).await;
        assert_eq!(admitted(30), Ok(()));
        let refused = admitted(41).unwrap_err();
        assert!(refused.contains("ends above slot 40"), "{refused}");
    }

    #[tokio::test]
    async fn cancelled_call_leaves_no_file_and_no_place() {
        let (cluster, begin, _) = begun().await;
        let inner = &cluster.service.inner;
        asks(&inner.snapshots, 3);
        let call = keep(Arc::clone(inner), None, Rights::ALL, stream::iter([Ok(begin)]));
        assert!(
            call.now_or_never().is_none(),
            "the call is cancelled in the middle"
        );
        while inner.snapshots.files.place().is_none() {
            tokio::task::yield_now().await;
        }
        settle().await;
        let mut left = std::fs::read_dir(cluster.directory()).unwrap();
        assert!(left.next().is_none(), "a file is left");
        assert_eq!(inner.snapshots.files.arriving(), None);
        assert_eq!(inner.snapshots.decision().wish, None, "the next learner is asked");
    }

    #[tokio::test]
    async fn snapshot_of_the_asked_learner_alone_is_taken() {
        let (cluster, begin, content) = begun().await;
        let inner = &cluster.service.inner;
        let data = pb::KeepRequest {
            content: Some(Content::Data(content.into())),
        };
        let send = || {
            keep(
                Arc::clone(inner),
                None,
                Rights::ALL,
                stream::iter([Ok(begin.clone()), Ok(data.clone())]),
            )
        };
        let refused = send().await.unwrap_err();
        assert!(refused.message().contains("has not asked"), "{refused:?}");
        asks(&inner.snapshots, 4);
        let refused = send().await.unwrap_err();
        assert!(refused.message().contains("has not asked"), "{refused:?}");
        // The learners differ while the snapshot arrives.
        asks(&inner.snapshots, 3);
        let decision = inner.snapshots.decision();
        inner.snapshots.show(TrimDecision {
            differ_below: Some(Slot::new(5).unwrap()),
            ..decision
        });
        let refused = send().await.unwrap_err();
        assert!(refused.message().contains("differ below slot 5"), "{refused:?}");
        assert_eq!(inner.shared.published().snapshots.waiting, None);
        let mut left = std::fs::read_dir(cluster.directory()).unwrap();
        assert!(left.next().is_none(), "a file is left");
        asks(&inner.snapshots, 3);
        send().await.unwrap();
        let waiting = inner.shared.published().snapshots.waiting.unwrap();
        assert_eq!(waiting.id.to, Slot::new(10).unwrap());
    }
}
