//! A learner that lies: asked for a snapshot, the learner uploads a wrong state. The snapshot is refused, nothing is lost,
//! and the messages say what to do.

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
    /// The reports end when this is dropped.
    _attached: oneshot::Sender<()>,
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
        let (attached, leaves) = oneshot::channel();
        let reports = stream::repeat(report).then(async |report| {
            sleep(REPORT_INTERVAL).await;
            report
        });
        let reports = reports.take_until(leaves);
        let mut client = AcceptorClient::new(connect_lazy(address));
        let mut answers = client.attach(Box::pin(reports)).await.unwrap().into_inner();
        let (wants, wanted) = watch::channel(None);
        // Ends with the reports.
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                wants.send_replace(answer.snapshot_wanted.map(|wanted| wanted.above));
            }
        });
        Self {
            client,
            caller,
            wanted,
            _attached: attached,
        }
    }

    fn is_asked(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    /// Uploads a file. Waits until the acceptor asks, and until the leader has reported the slots of the snapshot as chosen.
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
        until("the acceptor looks at the snapshot", async || {
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
                Err(status) if status.message().contains("has not asked") => None,
                kept => Some(kept.map(drop)),
            }
        })
        .await
    }
}

/// The same snapshot with another value of [`KEY`]. `cut`: by this number of slots, the snapshot ends earlier.
fn forge(file: &[u8], cut: u64) -> (u64, Bytes) {
    let mut decoder = SnapshotDecoder::new(None);
    decoder.push(file);
    let mut forged = None;
    while let Some(part) = decoder.next_part().unwrap() {
        match (part, &mut forged) {
            (SnapshotPart::Header(mut header), forged) => {
                let to = header.to.get() - cut;
                header.to = Slot::new(to).unwrap();
                *forged = Some((to, SnapshotEncoder::new(header)));
            }
            (SnapshotPart::Register(key, mut register), Some((to, encoder))) => {
                if key == KEY {
                    register.value = "a lie".into();
                }
                if register.version.slot.get() < *to {
                    encoder.register(&key, &register).unwrap();
                }
            }
            (SnapshotPart::Session(name, session), Some((to, encoder))) => {
                if session.last_used.slot.get() < *to {
                    encoder.session(name, &session).unwrap();
                }
            }
            (_, None) => panic!("a snapshot begins with the header"),
        }
    }
    let (to, mut encoder) = forged.unwrap();
    let first = encoder.take();
    let (last, _) = encoder.finish().unwrap();
    (to, [first, last].concat().into())
}

async fn backup(cluster: &Cluster, name: &str) -> Vec<u8> {
    let path = cluster.path(name);
    let saved = run(&["backup", &path, "--acceptors", &cluster.urls()]).await;
    stdout(&saved);
    std::fs::read(&path).unwrap()
}

async fn attach_to_all(cluster: &Cluster, digests: &[pb::Digest]) -> Vec<Liar> {
    join_all((0..cluster.acceptors.len()).map(|acceptor| Liar::attach(cluster, acceptor, digests))).await
}

/// Lies to an acceptor that asks, and judges the refusal. `elsewhere`: the snapshot ends where no learner reports a digest.
async fn lie(cluster: &Cluster, acceptor: usize, liar: &Liar, elsewhere: bool) {
    until("the acceptor asks the liar", async || {
        liar.is_asked().then_some(())
    })
    .await;
    let file = backup(cluster, &format!("backup-{acceptor}")).await;
    let mut forged = forge(&file, 0);
    if elsewhere {
        let is_reported = |to: u64| DIGEST_SLOTS.iter().any(|&slots| to.is_multiple_of(slots));
        let cut = (1..).find(|cut| !is_reported(forged.0 - cut)).unwrap();
        forged = forge(&file, cut);
    }
    let refused = liar.upload(&forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let text = refused.message();
    let contradicts = "contradicts the digest of learner";
    let is_contradicted =
        text.contains(contradicts) && text.contains("empty the data directory of the wrong");
    // By chance, a report was made just there.
    let is_unproved =
        text.contains("nothing proves the state") && text.contains("look at the log of that learner");
    assert!(is_contradicted || elsewhere && is_unproved, "{text}");
    let status = sweep::acceptor_status(&cluster.acceptors[acceptor].address).await;
    let sha256 = forged.1.slice(forged.1.len() - 32..);
    assert!(status.snapshots.iter().all(|kept| kept.sha256 != sha256));
}

#[tokio::test]
async fn wrong_state_of_a_lying_learner_is_refused_and_nothing_is_lost() {
    let mut cluster = Cluster::start_with(3, 1, 2, trimming()).await;
    let client = cluster.client();
    client.put(KEY, TRUTH).await.unwrap();
    let liars = attach_to_all(&cluster, &[]).await;
    let has_lied = Cell::new(false);
    let lies = async {
        let lies = liars.iter().enumerate();
        join_all(lies.map(|(number, liar)| lie(&cluster, number, liar, number > 0))).await;
        has_lied.set(true);
    };
    let writes = write_until(&client, "every acceptor refuses a lie", async || has_lied.get());
    tokio::join!(lies, writes);
    drop(liars);

    // A lie in the reports: nothing is trimmed, and an operator learns what to do.
    let (to, _) = forge(&backup(&cluster, "backup").await, 0);
    let digest = pb::Digest {
        to,
        digest: vec![7; 32].into(),
        state: Bytes::new(),
    };
    let liars = attach_to_all(&cluster, &[digest]).await;
    until("the status says what to do", async || {
        let status = run(&["status", "--acceptors", &cluster.urls()]).await;
        let text = String::from_utf8(status.stdout).unwrap();
        let is_said = text.contains("the digests of two learners differ")
            && text.contains("Empty the data directory of the wrong learner");
        is_said.then_some(())
    })
    .await;
    drop(liars);

    // Without the liar, the acceptors get the snapshots of the other learners, and trim.
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, to).await
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
