//! A learner that lies, in a cluster of real processes: about its state in the snapshots that acceptors ask for, and about
//! its log in its reports. The lies are refused, nothing is lost, and the messages say what to do.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

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

use super::{processes, sweep};
use crate::{
    harness::{Cluster, run, stdout, until},
    installs::{agree, have_trimmed, trimming, write_until},
};

/// The number of the liar: the lowest, so that acceptors ask the liar first.
const LIAR: u64 = 1;
/// Time between two reports of the liar.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// The smallest distance between the digests of every learner.
const FINEST: u64 = DIGEST_SLOTS[DIGEST_SLOTS.len() - 1];
const KEY: &str = "planted";
const TRUTH: &str = "the truth";

/// A learner attached to an acceptor; its stream of reports ends when this is dropped.
struct Liar {
    client: AcceptorClient<Channel>,
    caller: pb::Caller,
    /// The copied digests at multiples of the smallest distance, by slot.
    seen: Arc<Mutex<BTreeMap<u64, pb::Digest>>>,
    /// The acceptor asks for a snapshot above this slot.
    wanted: watch::Receiver<Option<u64>>,
    _leaves: oneshot::Sender<()>,
    _answers: AbortOnDropHandle<()>,
}

impl Liar {
    /// Attaches to an acceptor with these digests, or with copies of the digests of a right learner, and with more applied
    /// slots than any learner.
    async fn attach(cluster: &Cluster, acceptor: usize, digests: Option<Vec<pb::Digest>>) -> Self {
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
            ..Default::default()
        };
        let (leaves, left) = oneshot::channel::<()>();
        let seen = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (copied_from, copies) = (address.clone(), Arc::clone(&seen));
        let reports = stream::repeat(report).then(move |report| {
            let (digests, copied_from, copies) = (digests.clone(), copied_from.clone(), Arc::clone(&copies));
            async move {
                sleep(REPORT_INTERVAL).await;
                let digests = match digests {
                    Some(digests) => digests,
                    None => right_digests(&sweep::acceptor_status(&copied_from).await),
                };
                let marks = digests.iter().filter(|digest| digest.to.is_multiple_of(FINEST));
                let marks = marks.map(|digest| (digest.to, digest.clone()));
                copies.lock().unwrap().extend(marks);
                pb::AttachRequest {
                    progress: Some(Progress::Learner(pb::LearnerProgress {
                        applied_to: 1 << 40,
                        digests,
                        ..Default::default()
                    })),
                    ..report
                }
            }
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
            seen,
            wanted,
            _leaves: leaves,
            _answers: AbortOnDropHandle::new(answers),
        }
    }

    async fn attach_to_all(cluster: &Cluster, digests: Option<&[pb::Digest]>) -> Vec<Self> {
        let attach = |acceptor| Self::attach(cluster, acceptor, digests.map(<[_]>::to_vec));
        join_all((0..cluster.acceptors.len()).map(attach)).await
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

/// The digests in the report of a right learner.
fn right_digests(status: &pb::AcceptorStatusResponse) -> Vec<pb::Digest> {
    let reports = status.attached.iter().filter_map(|peer| peer.report.as_ref());
    let mut digests = reports.filter_map(|report| match &report.progress {
        Some(Progress::Learner(progress)) if report.peer != LIAR => Some(progress.digests.clone()),
        _ => None,
    });
    digests.next().unwrap_or_default()
}

/// The latest digest that a right learner has reported to the acceptor.
async fn reported(cluster: &Cluster, acceptor: usize) -> pb::Digest {
    until("a learner reports digests", async || {
        let status = sweep::acceptor_status(&cluster.acceptors[acceptor].address).await;
        let digests = right_digests(&status).into_iter();
        let known = digests.filter(|digest| digest.to > 0 && !digest.state.is_empty());
        known.max_by_key(|digest| digest.to)
    })
    .await
}

/// A digest above the acceptor's log that a right learner reported, and that no report has any more.
async fn passed(cluster: &Cluster, acceptor: usize, liar: &Liar) -> pb::Digest {
    until("the learners have moved on", async || {
        let status = sweep::acceptor_status(&cluster.acceptors[acceptor].address).await;
        let reports = status.attached.into_iter().filter_map(|peer| peer.report);
        let digests = reports.flat_map(|report| match report.progress {
            Some(Progress::Learner(progress)) => progress.digests,
            _ => Vec::new(),
        });
        let present: HashSet<_> = digests.map(|digest| digest.to).collect();
        let seen = liar.seen.lock().unwrap();
        let mut passed = seen.values().rev();
        passed
            .find(|digest| digest.to > status.trimmed_to && !present.contains(&digest.to))
            .cloned()
    })
    .await
}

/// Lies to an acceptor that asks, at a slot that no report has any more, and judges the refusal.
async fn lie(cluster: &Cluster, acceptor: usize, liar: &Liar) -> Forged {
    let mut wanted = liar.wanted.clone();
    let (forged, refused) = loop {
        let digest = passed(cluster, acceptor, liar).await;
        let forged = forge(&backup(cluster, &format!("backup-{acceptor}")).await, &digest);
        wanted.wait_for(Option::is_some).await.unwrap();
        let refused = liar.upload(&forged).await.unwrap_err();
        // The time for an answer was over, and the acceptor has asked the next learner.
        if !refused.message().contains("has not asked") && !refused.message().contains("is older than") {
            break (forged, refused);
        }
    };
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    for text in [
        "the snapshot of learner 1 (",
        "contradicts the digest of learner",
        "Empty the data directory of the wrong learner, of two learners both",
    ] {
        assert!(refused.message().contains(text), "{text}: {refused:?}");
    }
    assert!(
        !refused.message().contains("the digest of learner 1 ("),
        "{refused:?}"
    );
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

    // Wrong states beside the right digest of the log, and right digests in the reports.
    let liars = Liar::attach_to_all(&cluster, None).await;
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
            "BROKEN: acceptors found a wrong learner: ",
            "the snapshot of learner 1 (",
            "empty its data directory",
        ],
    )
    .await;
    // The acceptors ask the other learners, and trim, although the liar stays.
    client.put("beside the liar", TRUTH).await.unwrap();
    let above = voted_to(&cluster).await;
    write_until(&client, "all acceptors trim beside the liar", async || {
        have_trimmed(&cluster, 3, above).await
    })
    .await;
    drop(liars);

    // Wrong digests: nothing is trimmed until a person acts.
    let wrong = pb::Digest {
        state: vec![7; 16].into(),
        ..reported(&cluster, 0).await
    };
    let liars = Liar::attach_to_all(&cluster, Some(&[wrong])).await;
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
    }
    cluster.add_learner("learner-3".to_owned(), &[]);
    agree(&cluster).await;
    let fresh = cluster.client_of(&[&cluster.learners[2]]);
    for key in [KEY, "beside the liar", "while digests differ"] {
        let found = fresh.get(key).await.unwrap().expect("the register is kept");
        assert_eq!(found.value, TRUTH, "{key}");
    }
    // The refusals are still shown: a person may not have looked yet.
    status_says(&cluster, &["acceptors found a wrong learner"]).await;
    for process in processes(&cluster) {
        let log = process.log();
        let is_well = !log.contains("panic") && !log.contains("internal fault");
        assert!(is_well, "{}: {log}", process.name);
    }
}
