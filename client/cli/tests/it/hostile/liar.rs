//! A learner that lies, in a cluster of real processes: about its state in the snapshots that acceptors ask for, and about
//! its log in its reports. The lies are refused, nothing is lost, and the messages say what to do.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use paxos_common::{
    paxos::slot::Slot,
    peer::connect_lazy,
    snapshot::{
        DIGEST_SLOTS,
        decoder::{SnapshotDecoder, SnapshotPart},
        encoder::SnapshotEncoder,
    },
    wire::PROTOCOL_VERSION,
};
use paxos_proto::v1::{
    self as pb, acceptor_client::AcceptorClient, attach_request::Progress, keep_request::Content,
};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, transport::Channel};

use super::{is_well, sweep};
use crate::{
    harness::{Cluster, run, stdout, until},
    installs::{agree, have_trimmed, trimming, write_until},
};

/// The number of the liar: the lowest, so that acceptors ask the liar first.
const LIAR: u64 = 1;
/// Time between two reports of the liar.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
const KEY: &str = "planted";
const TRUTH: &str = "the truth";

/// A learner attached to an acceptor; its stream of reports ends when this is dropped.
struct Liar {
    client: AcceptorClient<Channel>,
    caller: pb::Caller,
    /// The acceptor asks for a snapshot above this slot.
    wanted: watch::Receiver<Option<u64>>,
    _leaves: oneshot::Sender<()>,
    _answers: AbortOnDropHandle<()>,
}

impl Liar {
    /// Attaches to an acceptor with these digests, and with more applied slots than any learner.
    async fn attach(cluster: &Cluster, acceptor: usize, digests: &[pb::Digest]) -> Self {
        let address = &cluster.acceptors[acceptor].address;
        let status = sweep::acceptor_status(address).await;
        let caller = pb::Caller {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: status.stamp.unwrap().cluster_id,
        };
        let report = pb::AttachRequest {
            caller: Some(caller.clone()),
            role: pb::Role::Learner.into(),
            peer: LIAR,
            software: "a liar".to_owned(),
            progress: Some(Progress::Learner(pb::LearnerProgress {
                applied_to: 1 << 40,
                digests: digests.to_vec(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let (leaves, left) = oneshot::channel::<()>();
        let reports = stream::repeat(report).then(async |report| {
            sleep(REPORT_INTERVAL).await;
            report
        });
        let mut client = AcceptorClient::new(connect_lazy(address));
        let answers = client.attach(Box::pin(reports.take_until(left))).await;
        let mut answers = answers.unwrap().into_inner();
        let (wants, wanted) = watch::channel(None);
        let answers = tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                wants.send_replace(answer.snapshot_wanted.map(|wanted| wanted.above));
            }
        });
        Self {
            client,
            caller,
            wanted,
            _leaves: leaves,
            _answers: AbortOnDropHandle::new(answers),
        }
    }

    async fn attach_to_all(cluster: &Cluster, digests: &[pb::Digest]) -> Vec<Self> {
        let acceptors = 0..cluster.acceptors.len();
        join_all(acceptors.map(|acceptor| Self::attach(cluster, acceptor, digests))).await
    }

    /// Uploads a file, once the leader has reported the slots of the snapshot as chosen.
    async fn upload(&self, Forged { to, file }: &Forged) -> Result<(), Status> {
        let begin = pb::KeepBegin {
            caller: Some(self.caller.clone()),
            id: Some(pb::SnapshotId {
                to: *to,
                sha256: sha256(file),
                bytes: file.len() as u64,
            }),
            peer: LIAR,
            seed: false,
        };
        let data = file.chunks(64 * 1024).map(Bytes::copy_from_slice);
        let contents = [Content::Begin(begin)].into_iter().chain(data.map(Content::Data));
        let part = |content| pb::KeepRequest {
            content: Some(content),
        };
        let parts: Vec<_> = contents.map(part).collect();
        until("the acceptor judges the snapshot", async || {
            let kept = self.client.clone().keep(stream::iter(parts.clone())).await;
            match kept {
                Err(status) if status.code() == Code::ResourceExhausted => None,
                kept => Some(kept.map(drop)),
            }
        })
        .await
    }
}

/// A snapshot file of a wrong state.
struct Forged {
    to: u64,
    file: Bytes,
}

fn sha256(file: &Bytes) -> Bytes {
    file.slice(file.len() - 32..)
}

/// A snapshot to the slot of these digests, with the right digest of the log. The state is wrong: another value of [`KEY`],
/// and registers are missing that were written again later.
fn forge(file: &[u8], digest: &pb::Digest) -> Forged {
    let to = Slot::new(digest.to).unwrap();
    let mut decoder = SnapshotDecoder::new(None);
    decoder.push(file);
    let mut forged = None;
    while let Some(part) = decoder.next_part().unwrap() {
        match (part, &mut forged) {
            (SnapshotPart::Header(mut header), forged) => {
                assert!(header.to >= to, "the backup covers the digest");
                header.to = to;
                header.log_digest = digest.digest.as_ref().try_into().unwrap();
                *forged = Some(SnapshotEncoder::new(header));
            }
            (SnapshotPart::Register(key, mut register), Some(encoder)) => {
                if key == KEY {
                    register.value = "a lie".into();
                }
                if register.version.slot < to {
                    encoder.register(&key, &register).unwrap();
                }
            }
            (SnapshotPart::Session(name, session), Some(encoder)) => {
                if session.last_used.slot < to {
                    encoder.session(name, &session).unwrap();
                }
            }
            (_, None) => panic!("a snapshot begins with the header"),
        }
    }
    let mut encoder = forged.unwrap();
    let first = encoder.take();
    let (last, _) = encoder.finish().unwrap();
    Forged {
        to: digest.to,
        file: [first, last].concat().into(),
    }
}

async fn backup(cluster: &Cluster, name: &str) -> Vec<u8> {
    let path = cluster.path(name);
    let saved = run(&["backup", &path, "--acceptors", &cluster.urls()]).await;
    stdout(&saved);
    std::fs::read(&path).unwrap()
}

/// The digests of a right learner at the end of a snapshot that an acceptor would take: the latest reported to the acceptor.
async fn reported(cluster: &Cluster, acceptor: usize) -> pb::Digest {
    until("a learner reports digests", async || {
        let status = sweep::acceptor_status(&cluster.acceptors[acceptor].address).await;
        let reports = status.attached.into_iter().filter_map(|peer| peer.report);
        let right = reports.filter(|report| report.peer != LIAR);
        let digests = right.flat_map(|report| match report.progress {
            Some(Progress::Learner(progress)) => progress.digests,
            _ => Vec::new(),
        });
        let is_common = |to: u64| DIGEST_SLOTS.iter().any(|&slots| to.is_multiple_of(slots));
        let useful = digests.filter(|digest| digest.to > status.trimmed_to && is_common(digest.to));
        useful
            .filter(|digest| !digest.state.is_empty())
            .max_by_key(|digest| digest.to)
    })
    .await
}

/// Lies to an acceptor that asks, and judges the refusal.
async fn lie(cluster: &Cluster, acceptor: usize, liar: &Liar) -> Forged {
    let mut wanted = liar.wanted.clone();
    wanted.wait_for(Option::is_some).await.unwrap();
    let digest = reported(cluster, acceptor).await;
    let forged = forge(&backup(cluster, &format!("backup-{acceptor}")).await, &digest);
    let refused = liar.upload(&forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    for text in [
        "the snapshot of learner 1 (",
        "contradicts the digest of learner",
        "Empty the data directory of the wrong learner, of two learners both",
    ] {
        assert!(refused.message().contains(text), "{text}: {refused:?}");
    }
    let log = cluster.acceptors[acceptor].log();
    assert!(log.contains("The snapshot is dropped"), "{log}");
    forged
}

/// `paxos status` exits with 1, and has all these texts.
async fn status_says(cluster: &Cluster, texts: &[&str]) {
    until(&format!("the status says {texts:?}"), async || {
        let status = run(&["status", "--acceptors", &cluster.urls()]).await;
        let text = String::from_utf8(status.stdout).unwrap();
        let is_said = texts.iter().all(|part| text.contains(part));
        (is_said && status.status.code() == Some(1)).then_some(())
    })
    .await;
}

/// The highest slot that any acceptor has voted for.
async fn voted_to(cluster: &Cluster) -> u64 {
    let statuses = cluster
        .acceptors
        .iter()
        .map(|acceptor| async move { sweep::acceptor_status(&acceptor.address).await.voted_to });
    join_all(statuses).await.into_iter().max().unwrap()
}

#[tokio::test]
async fn learner_that_lies_is_refused_and_nothing_is_lost() {
    let mut cluster = Cluster::start_with(3, 2, 2, trimming()).await;
    let client = cluster.client();
    client.put(KEY, TRUTH).await.unwrap();

    // Wrong states beside the right digest of the log.
    let liars = Liar::attach_to_all(&cluster, &[]).await;
    let has_lied = Cell::new(false);
    let lies = async {
        let lies = liars.iter().enumerate();
        let forged = join_all(lies.map(|(acceptor, liar)| lie(&cluster, acceptor, liar))).await;
        has_lied.set(true);
        forged
    };
    let writes = write_until(&client, "every acceptor refuses a lie", async || has_lied.get());
    let (forged, ()) = tokio::join!(lies, writes);
    status_says(
        &cluster,
        &[
            "BROKEN: acceptors refused a snapshot: the snapshot of learner 1",
            "empty its data directory",
        ],
    )
    .await;
    // The acceptors ask the other learners, and trim, although the liar stays.
    client.put("beside the liar", TRUTH).await.unwrap();
    write_until(&client, "all acceptors trim beside the liar", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    drop(liars);

    // Wrong digests: nothing is trimmed until a person acts.
    let digest = reported(&cluster, 0).await;
    let wrong = pb::Digest {
        state: vec![7; 16].into(),
        ..digest
    };
    let liars = Liar::attach_to_all(&cluster, &[wrong]).await;
    status_says(
        &cluster,
        &[
            "BROKEN: the STATES of learners DIFFER",
            "of two learners both",
            "waits for a person: the digests of two learners differ",
            "Empty the data directory of the wrong learner",
        ],
    )
    .await;
    client.put("while digests differ", TRUTH).await.unwrap();
    let above = voted_to(&cluster).await;
    drop(liars);
    write_until(&client, "all acceptors trim after the liar", async || {
        have_trimmed(&cluster, 3, above).await
    })
    .await;

    for acceptor in &cluster.acceptors {
        let status = sweep::acceptor_status(&acceptor.address).await;
        let is_forged =
            |kept: &pb::SnapshotId| forged.iter().any(|forged| sha256(&forged.file) == kept.sha256);
        assert!(!status.snapshots.iter().any(is_forged), "{}", acceptor.name);
        assert_eq!(status.contradictions, [] as [&str; 0], "{}", acceptor.name);
    }
    cluster.add_learner("learner-3".to_owned(), &[]);
    agree(&cluster).await;
    let fresh = cluster.client_of(&[&cluster.learners[2]]);
    for key in [KEY, "beside the liar", "while digests differ"] {
        let found = fresh.get(key).await.unwrap().expect("the register is kept");
        assert_eq!(found.value, TRUTH, "{key}");
    }
    is_well(&cluster).await;
}
