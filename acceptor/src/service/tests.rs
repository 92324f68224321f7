//! Leaders, candidates and standbys against the real service, over TCP, on a hanging or full disk.

use std::{future::Future, net::SocketAddr, time::Duration};

use paxos_common::{
    paxos::{message::UNANSWERED_MAX, slot::Slot},
    peer::{Address, connect_lazy},
};
use paxos_proto::v1::{accept_response::Answer, acceptor_client::AcceptorClient};
use paxos_test_values::ballot;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use super::*;
use crate::testing::Cluster;

mod attached;
mod bounds;
mod forged;
mod hanging;
mod trimmed;

/// Maximum wait for an answer; a later answer is missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two heartbeats: short, so that tests are fast.
const BEAT: Duration = Duration::from_millis(10);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes in time")
}

/// Polls `look` until a result.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

fn client(address: SocketAddr) -> AcceptorClient<Channel> {
    let address: Address = format!("http://{address}").parse().unwrap();
    AcceptorClient::new(connect_lazy(&address))
}

/// A served acceptor, and a leader that opened a stream and has the promise of the ballot with this round.
async fn led(round: u64) -> (Cluster, SocketAddr, TestLeader) {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let leader = TestLeader::open(&cluster, address, round, 20).await;
    cluster.promised(round).await;
    (cluster, address, leader)
}

/// As [`led`], with a commit that hangs: the leader's vote for slot 0 is on the disk and not answered.
async fn hanging(round: u64) -> (Cluster, SocketAddr, TestLeader) {
    let (cluster, address, leader) = led(round).await;
    cluster.gate.send_replace(false);
    leader.send(leader.value(1, 0, 100)).await;
    cluster.readable(0).await;
    (cluster, address, leader)
}

/// An `Accept` stream on a separate connection.
struct TestLeader {
    requests: mpsc::Sender<pb::AcceptRequest>,
    answers: Streaming<pb::AcceptResponse>,
    heartbeat: pb::AcceptRequest,
    alive_interval_ms: u32,
}

impl TestLeader {
    /// Opens a stream with a heartbeat, like leaders of this release. `alive_interval_ms`: 0 requests no *alive*.
    async fn open(cluster: &Cluster, address: SocketAddr, round: u64, alive_interval_ms: u32) -> Self {
        let heartbeat = heartbeat(cluster, round);
        let (requests, receiver) = mpsc::channel(1_024);
        let first = pb::AcceptRequest {
            alive_interval_ms,
            ..heartbeat.clone()
        };
        requests.send(first).await.unwrap();
        let mut client = client(address);
        let answers = within(client.accept(ReceiverStream::new(receiver))).await;
        Self {
            requests,
            answers: answers.unwrap().into_inner(),
            heartbeat,
            alive_interval_ms,
        }
    }

    async fn send(&self, request: pb::AcceptRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// A message with a single value.
    fn value(&self, sequence: u64, slot: u64, bytes: usize) -> pb::AcceptRequest {
        pb::AcceptRequest {
            sequence,
            proposals: vec![pb::Proposal {
                slot,
                value: vec![7; bytes].into(),
                traceparent: String::new(),
                // The bytes are no Value.
                found: true,
            }],
            ..self.heartbeat.clone()
        }
    }

    /// A numbered message without a value: a heartbeat of an older release.
    fn numbered(&self, sequence: u64) -> pb::AcceptRequest {
        pb::AcceptRequest {
            sequence,
            ..self.heartbeat.clone()
        }
    }

    /// Sends heartbeats until the task is aborted or the stream ends.
    fn beating(&self) -> JoinHandle<()> {
        let (requests, heartbeat) = (self.requests.clone(), self.heartbeat.clone());
        tokio::spawn(async move {
            while requests.send(heartbeat.clone()).await.is_ok() {
                sleep(BEAT).await;
            }
        })
    }

    /// The next *alive* with `holds`; any other answer is unexpected.
    async fn alive(&mut self, holds: impl Fn(&pb::Alive) -> bool) -> pb::Alive {
        assert!(self.alive_interval_ms > 0);
        within(async {
            loop {
                let response = self.answers.message().await.unwrap().unwrap();
                let Some(Answer::Alive(alive)) = response.answer else {
                    panic!("an answer that nothing asked for: {response:?}");
                };
                if holds(&alive) {
                    return alive;
                }
            }
        })
        .await
    }

    /// The next answer other than *alive*, with its sequence; or the end of the stream.
    async fn answer(&mut self) -> Result<(u64, Answer), Status> {
        within(async {
            loop {
                let response = self.answers.message().await?;
                let response = response.ok_or_else(|| Status::ok("the stream ended"))?;
                let answer = response.answer.unwrap();
                if !matches!(answer, Answer::Alive(_)) {
                    return Ok((response.sequence, answer));
                }
            }
        })
        .await
    }
}

fn heartbeat(cluster: &Cluster, round: u64) -> pb::AcceptRequest {
    pb::AcceptRequest {
        caller: Some(cluster.caller()),
        ballot: Some(ballot(round).into()),
        proposer_address: format!("http://p{round}:1"),
        ..Default::default()
    }
}

impl Cluster {
    fn heard_round(&self) -> u64 {
        self.shared.hearing.heard().ballot.round()
    }

    /// Returns once bytes of the heard proposer have arrived since then.
    async fn heard_since(&self, since: Duration) {
        let hearing = &self.shared.hearing;
        // `now` is read before the silence: the difference is never later than the arrival of the bytes.
        until(|| {
            hearing
                .now()
                .checked_sub(hearing.heard().silent)
                .filter(|heard_at| *heard_at >= since)
        })
        .await;
    }

    async fn promised(&self, round: u64) {
        until(|| (self.shared.published().leadership.promised.round() == round).then_some(())).await;
    }
}
