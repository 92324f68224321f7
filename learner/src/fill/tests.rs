//! Proposers that receive fill requests over real gRPC.

use std::time::Duration;

use futures::stream;
use paxos_common::{paxos::ballot::ProposerId, peer::Dialer};
use paxos_proto::v1::{
    self as pb,
    proposer_server::{Proposer, ProposerServer},
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use super::*;

/// Forwards received fill requests to the test.
struct FakeProposer(mpsc::Sender<u64>);

#[tonic::async_trait]
impl Proposer for FakeProposer {
    type ProposeStreamStream = stream::Empty<Result<pb::ProposeStreamResponse, Status>>;

    async fn fill(&self, request: Request<FillRequest>) -> Result<Response<pb::FillResponse>, Status> {
        self.0.send(request.into_inner().to).await.unwrap();
        Err(Status::unavailable("it does not lead after all"))
    }

    async fn propose(&self, _: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeResponse>, Status> {
        unreachable!("a learner proposes nothing")
    }

    async fn propose_stream(
        &self,
        _: Request<Streaming<pb::ProposeStreamRequest>>,
    ) -> Result<Response<Self::ProposeStreamStream>, Status> {
        unreachable!("a learner proposes nothing")
    }

    type ChangeMembersStream = stream::Empty<Result<pb::ChangeMembersResponse, Status>>;

    async fn change_members(
        &self,
        _: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<Self::ChangeMembersStream>, Status> {
        unreachable!("a learner changes no members")
    }

    async fn status(
        &self,
        _: Request<pb::ProposerStatusRequest>,
    ) -> Result<Response<pb::ProposerStatusResponse>, Status> {
        unreachable!("a learner asks no status")
    }
}

/// A proposer, and the received fill requests.
async fn proposer() -> (String, mpsc::Receiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (heard_in, heard) = mpsc::channel(16);
    let service = ProposerServer::new(FakeProposer(heard_in));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    (address, heard)
}

fn leads(address: &str, round: u64, resigned: bool) -> Leadership {
    Leadership {
        promised: Ballot::new(round, ProposerId::from_random(1)).unwrap(),
        address: address.into(),
        resigned,
    }
}

async fn hears(heard: &mut mpsc::Receiver<u64>) -> u64 {
    let hears = timeout(Duration::from_secs(30), heard.recv());
    hears.await.expect("it is asked").unwrap()
}

#[tokio::test]
async fn fill_goes_to_the_proposer_of_the_highest_ballot() {
    let (leadership, leadership_seen) = watch::channel(no_leader());
    let (fill, wanted) = watch::channel(None);
    let filler = Filler {
        wanted,
        leadership: leadership_seen,
        dialer: Dialer::default(),
    };
    tokio::spawn(filler.keep_filling());
    let want = |to| fill.send_modify(|wanted| *wanted = Some(Slot::new(to).unwrap()));
    let (one, mut heard_by_one) = proposer().await;
    let (two, mut heard_by_two) = proposer().await;
    want(1);
    // The filler looks, and finds no leader.
    tokio::task::yield_now().await;
    record_leadership(&leadership, leads(&one, 2, false));
    want(7);
    assert_eq!(hears(&mut heard_by_one).await, 7);
    // The same again: the slots had not been filled.
    want(7);
    assert_eq!(hears(&mut heard_by_one).await, 7);
    record_leadership(&leadership, leads(&two, 3, false));
    // A late report of an acceptor changes nothing.
    record_leadership(&leadership, leads(&one, 2, false));
    want(8);
    assert_eq!(hears(&mut heard_by_two).await, 8);
    record_leadership(&leadership, leads(&two, 3, true));
    record_leadership(&leadership, leads(&two, 3, false));
    assert!(leadership.borrow().resigned);
    want(9);
    record_leadership(&leadership, leads(&one, 4, false));
    want(10);
    let first = hears(&mut heard_by_one).await;
    // If the filler had not looked yet, the later request replaced the earlier request.
    assert!(first == 9 || first == 10, "{first}");
    assert!(heard_by_two.try_recv().is_err());
}
