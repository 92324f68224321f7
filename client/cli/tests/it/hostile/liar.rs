//! A learner that lies: asked for a snapshot, the learner uploads a wrong state. The snapshot is refused, nothing is lost,
//! and the messages say what to do.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use paxos_common::{
    peer::connect_lazy,
    snapshot::{
        decoder::{SnapshotDecoder, SnapshotPart},
        encoder::SnapshotEncoder,
    },
    wire::PROTOCOL_VERSION,
};
use paxos_proto::v1::{
    self as pb, acceptor_client::AcceptorClient, attach_request::Progress, keep_request::Content,
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tonic::{Code, Status, transport::Channel};

use super::{is_well, sweep};
use crate::{
    harness::{Cluster, run, stdout, until},
    installs::{agree, have_trimmed, trimming, write_until},
};

/// The number of the liar: the lowest, so that acceptors ask the liar first.
const LIAR: u64 = 1;
/// Time between two reports of the liar.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
const KEY: &str = "planted";
const TRUTH: &str = "the truth";

/// A stream of reports to an acceptor; ends when dropped.
struct Liar {
    client: AcceptorClient<Channel>,
    caller: pb::Caller,
    /// The acceptor asks for a snapshot above this slot.
    wanted: watch::Receiver<Option<u64>>,
    answers: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.answers.abort();
    }
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
        let reports = stream::repeat(report).then(async |report| {
            sleep(REPORT_INTERVAL).await;
            report
        });
        let mut client = AcceptorClient::new(connect_lazy(address));
        let mut answers = client.attach(Box::pin(reports)).await.unwrap().into_inner();
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
            answers,
        }
    }

    fn is_asked(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    /// Uploads a file. Waits until the leader has reported the slots of the snapshot as chosen.
    async fn upload(&self, (to, file): &(u64, Bytes)) -> Result<(), Status> {
        let begin = pb::KeepBegin {
            caller: Some(self.caller.clone()),
            id: Some(pb::SnapshotId {
                to: *to,
                sha256: file.slice(file.len() - 32..),
                bytes: file.len() as u64,
            }),
            peer: LIAR,
            seed: false,
        };
        until("the slots of the snapshot are known to be chosen", async || {
            let part = |content| pb::KeepRequest {
                content: Some(content),
            };
            let parts = file
                .chunks(64 * 1024)
                .map(Bytes::copy_from_slice)
                .map(Content::Data);
            let parts: Vec<_> = [Content::Begin(begin.clone())].into_iter().chain(parts).collect();
            let kept = self
                .client
                .clone()
                .keep(stream::iter(parts.into_iter().map(part)))
                .await;
            match kept {
                Err(status) if status.code() == Code::ResourceExhausted => None,
                kept => Some(kept.map(drop)),
            }
        })
        .await
    }
}

/// The same snapshot with another value of [`KEY`], and its end.
fn forge(file: &[u8]) -> (u64, Bytes) {
    let mut decoder = SnapshotDecoder::new(None);
    decoder.push(file);
    let mut forged = None;
    while let Some(part) = decoder.next_part().unwrap() {
        match (part, &mut forged) {
            (SnapshotPart::Header(header), forged) => {
                *forged = Some((header.to.get(), SnapshotEncoder::new(header)));
            }
            (SnapshotPart::Register(key, mut register), Some((_, encoder))) => {
                if key == KEY {
                    register.value = "a lie".into();
                }
                encoder.register(&key, &register).unwrap();
            }
            (SnapshotPart::Session(name, session), Some((_, encoder))) => {
                encoder.session(name, &session).unwrap();
            }
            (_, None) => panic!("a snapshot begins with the header"),
        }
    }
    let (to, mut encoder) = forged.unwrap();
    let first = encoder.take();
    let (last, _) = encoder.finish().unwrap();
    (to, [first, last].concat().into())
}

async fn attach_to_all(cluster: &Cluster, digests: &[pb::Digest]) -> Vec<Liar> {
    join_all((0..cluster.acceptors.len()).map(|acceptor| Liar::attach(cluster, acceptor, digests))).await
}

/// What the next trim of each acceptor waits for.
async fn waits(cluster: &Cluster) -> Vec<String> {
    let mut waits = Vec::new();
    for acceptor in &cluster.acceptors {
        waits.push(sweep::acceptor_status(&acceptor.address).await.waits_for);
    }
    waits
}

#[tokio::test]
async fn wrong_state_of_a_lying_learner_is_refused_and_nothing_is_lost() {
    let mut cluster = Cluster::start_with(3, 1, 2, trimming()).await;
    let client = cluster.client();
    client.put(KEY, TRUTH).await.unwrap();
    let liars = attach_to_all(&cluster, &[]).await;
    write_until(&client, "every acceptor asks the liar", async || {
        liars.iter().all(Liar::is_asked)
    })
    .await;
    let path = cluster.path("backup");
    let saved = run(&["backup", &path, "--acceptors", &cluster.urls()]).await;
    stdout(&saved);
    let forged = forge(&std::fs::read(&path).unwrap());
    for liar in &liars {
        let refused = liar.upload(&forged).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        for text in [
            "contradicts the digest of learner",
            "empty the data directory of the wrong learner",
        ] {
            assert!(refused.message().contains(text), "{refused:?}");
        }
    }
    for acceptor in &cluster.acceptors {
        let status = sweep::acceptor_status(&acceptor.address).await;
        let sha256 = forged.1.slice(forged.1.len() - 32..);
        assert!(status.snapshots.iter().all(|kept| kept.sha256 != sha256));
    }
    drop(liars);

    // The same lie in the reports: nothing is trimmed, and an operator learns what to do.
    let digest = pb::Digest {
        to: forged.0,
        digest: vec![7; 32].into(),
        state: Bytes::new(),
    };
    let liars = attach_to_all(&cluster, &[digest]).await;
    until("the difference is found", async || {
        let waits = waits(&cluster).await;
        let is_found = |waits: &String| {
            waits.contains("the digests of two learners differ")
                && waits.contains("Empty the data directory of the wrong learner")
        };
        waits.iter().all(is_found).then_some(())
    })
    .await;
    drop(liars);

    // Without the liar, the acceptors get the snapshots of the other learners, and trim.
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    cluster.add_learner("learner-3".to_owned(), &[]);
    agree(&cluster).await;
    for learner in &cluster.learners {
        let found = cluster.client_of(&[learner]).get(KEY).await.unwrap();
        assert_eq!(found.unwrap().value, TRUTH, "{}", learner.name);
    }
    is_well(&cluster).await;
}
