//! The real worker and service on a disk that shows each commit to readers before the commit call returns.

use std::{pin::pin, task::Poll};

use futures::{FutureExt as _, Stream, StreamExt as _, poll};
use paxos_common::{
    paxos::{
        detector::RequestKind,
        message::{AcceptAnswer, Prepare},
    },
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_server::Acceptor as _};
use paxos_test_values::ballot;
use tokio::sync::oneshot;
use tonic::{Request, Status};

use super::*;
use crate::{
    hearing::OfCall,
    request::QueuedRequest,
    testing::{Cluster, settle},
};

impl Cluster {
    async fn observe(&self, kind: pb::ObserveKind) -> impl Stream<Item = Result<pb::ObserveFrame, Status>> {
        let request = pb::ObserveRequest {
            caller: Some(self.caller()),
            kind: kind.into(),
            from: 0,
        };
        let frames = self.service.observe(Request::new(request)).await.unwrap();
        frames.into_inner()
    }
}

#[tokio::test]
async fn nothing_that_the_disk_shows_leaves_before_the_tail_covers_it() {
    let cluster = Cluster::start().await;
    cluster.gate.send_replace(false);
    let mut vote = cluster.accept(0);
    cluster.readable(0).await;

    let mut votes = pin!(cluster.observe(pb::ObserveKind::Votes).await);
    let mut values = pin!(cluster.observe(pb::ObserveKind::Values).await);
    settle().await;
    assert!(matches!(poll!(votes.next()), Poll::Pending));
    assert!(matches!(poll!(values.next()), Poll::Pending));
    settle().await;
    assert!(matches!(poll!(votes.next()), Poll::Pending));
    assert!(matches!(poll!(values.next()), Poll::Pending));
    assert_eq!(cluster.voted_to().await, 0);
    assert!(vote.try_recv().is_err());
    let status = cluster
        .service
        .status(Request::new(pb::AcceptorStatusRequest {}))
        .await;
    assert_eq!(status.unwrap().into_inner().promises, []);

    cluster.gate.send_replace(true);
    let frame = votes.next().await.unwrap().unwrap();
    assert_eq!(cluster.voted_to().await, 1);
    assert_eq!((frame.votes[0].from, frame.votes[0].to), (0, 1));
    let frame = values.next().await.unwrap().unwrap();
    assert_eq!(frame.rows.len(), 1);
    let answer = vote.recv().await.unwrap().reply.answer;
    assert!(matches!(answer, AcceptAnswer::Accepted { .. }));
}

#[tokio::test]
async fn page_of_a_promise_waits_for_a_commit_that_follows_the_promise() {
    let cluster = Cluster::start().await;
    let (answer, promised) = oneshot::channel();
    let prepare = Prepare {
        ballot: ballot(1),
        from: Slot::ZERO,
        address: "http://p:1".into(),
    };
    let request = wire::prepare_request(&prepare, cluster.configuration.cluster_id());
    let claim = (prepare.ballot, &prepare.address, RequestKind::Prepare);
    let claimed = OfCall::new(cluster.shared.hearing.queued(claim, false, false));
    let command = QueuedRequest::Prepare {
        prepare,
        claimed,
        answer,
        trace: None,
    };
    cluster.queue.push(command).unwrap();
    promised.await.unwrap().unwrap();

    // The same promise again changes nothing on the disk; the page is read while a vote is readable there.
    let pages = cluster.service.prepare(Request::new(request)).await.unwrap();
    cluster.gate.send_replace(false);
    let _vote = cluster.accept(0);
    cluster.readable(0).await;
    let mut pages = pages.into_inner();
    settle().await;
    assert!(pages.next().now_or_never().is_none());
    cluster.gate.send_replace(true);
    let page = pages.next().await.unwrap().unwrap();
    let Some(pb::promise_page::Answer::Promise(page)) = page.answer else {
        panic!("no promise: {page:?}");
    };
    assert_eq!(page.voted_to, 1);
    assert_eq!(cluster.voted_to().await, 1);
}
