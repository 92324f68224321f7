//! A leader of the tests.

use std::time::Duration;

use paxos_common::{
    paxos::{identity::ClusterId, value::Value},
    wire::accept_request,
};
use paxos_proto::v1::{self as pb, accept_response::Answer};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{accept, process::ProcessClient};

/// Pause between two heartbeats.
const BEAT: Duration = Duration::from_millis(100);

/// A leader that waits for the answer to each message.
pub struct TestLeader {
    cluster: ClusterId,
    requests: mpsc::Sender<pb::AcceptRequest>,
    answers: Streaming<pb::AcceptResponse>,
}

impl TestLeader {
    pub async fn open(mut client: ProcessClient, cluster: ClusterId) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let answers = client.accept(ReceiverStream::new(receiver)).await.unwrap();
        Self {
            cluster,
            requests,
            answers: answers.into_inner(),
        }
    }

    /// The answer to a message; none when the stream broke instead.
    pub async fn propose(
        &mut self,
        round: u64,
        chosen_to: u64,
        proposals: impl IntoIterator<Item = (u64, Value)>,
    ) -> Option<pb::Accepted> {
        let message = accept_request(&accept(round, chosen_to, proposals), self.cluster);
        self.requests.send(message).await.ok()?;
        match self.answers.message().await.ok()??.answer {
            Some(Answer::Accepted(accepted)) => Some(accepted),
            other => panic!("{other:?}"),
        }
    }

    /// Sends questions with the watermark `chosen_to` at round 1, until the acceptor or the test ends.
    pub fn beat(mut self, chosen_to: u64) -> JoinHandle<()> {
        tokio::spawn(async move {
            while self.propose(1, chosen_to, []).await.is_some() {
                sleep(BEAT).await;
            }
        })
    }
}
