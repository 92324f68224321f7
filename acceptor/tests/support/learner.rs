//! A learner that attaches, as far as an acceptor sees the learner.

use std::time::Duration;

use paxos_common::{paxos::identity::ClusterId, wire::caller};
use paxos_proto::v1 as pb;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::process::ProcessClient;

/// Pause between two reports.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum wait for a question.
const ASKED_MAX: Duration = Duration::from_secs(240);

/// A stream of reports of a learner.
pub type Attached = Streaming<pb::AttachResponse>;

/// Attaches as a learner with these slots.
pub async fn attach(client: &mut ProcessClient, cluster: ClusterId, report: pb::AttachRequest) -> Attached {
    attach_and_move(client, cluster, report.clone(), report).await
}

/// Attaches as a learner that sends the first report once, and then the other report.
pub async fn attach_and_move(
    client: &mut ProcessClient,
    cluster: ClusterId,
    first: pb::AttachRequest,
    then: pb::AttachRequest,
) -> Attached {
    let sent = |report: pb::AttachRequest| pb::AttachRequest {
        caller: report.caller.or_else(|| Some(caller(Some(cluster)))),
        role: pb::Role::Learner.into(),
        address: format!("http://l:{}", report.peer),
        ..report
    };
    let reports = std::iter::once(sent(first)).chain(std::iter::repeat(sent(then)));
    let reports = tokio_stream::iter(reports).throttle(PAUSE);
    client.attach(reports).await.unwrap().into_inner()
}

pub fn applied(peer: u64, applied_to: u64, digests: Vec<pb::Digest>) -> pb::AttachRequest {
    let progress = pb::LearnerProgress {
        applied_to,
        digests,
        ..Default::default()
    };
    pb::AttachRequest {
        peer,
        progress: Some(pb::attach_request::Progress::Learner(progress)),
        ..Default::default()
    }
}

/// Waits until a snapshot is wanted of this learner; returns the slot.
pub async fn wanted(answers: &mut Attached) -> u64 {
    let asked = async {
        loop {
            if let Some(wanted) = answers.message().await.unwrap().unwrap().snapshot_wanted {
                return wanted.above;
            }
        }
    };
    timeout(ASKED_MAX, asked).await.expect("the acceptor asks")
}
