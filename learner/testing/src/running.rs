//! A running learner, connected to acceptors of a test.

use paxos_common::{
    paxos::identity::ClusterId,
    peer::Address,
    service::{failure::Failure, shutdown::Shutdown},
};
use paxos_learner::{Config, run};
use paxos_proto::v1::{self as pb, learner_client::LearnerClient};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use crate::{FakeAcceptor, read, within_deadline};

/// A running learner.
#[derive(Debug)]
pub struct TestLearner {
    /// A client of the learner.
    pub client: LearnerClient<Channel>,
    /// The connection of the client.
    pub channel: Channel,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), Failure>>,
}

impl TestLearner {
    /// Starts a learner with its log in `data_dir`, or in a temporary directory.
    pub async fn start(acceptors: &[FakeAcceptor], data_dir: Option<&std::path::Path>) -> Self {
        Self::start_in(None, acceptors, data_dir).await
    }

    /// The same for a learner that works with this cluster alone.
    pub async fn start_in(
        cluster: Option<ClusterId>,
        acceptors: &[FakeAcceptor],
        data_dir: Option<&std::path::Path>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let config = Config {
            acceptors: acceptors
                .iter()
                .map(|acceptor| acceptor.address.clone())
                .collect(),
            cluster,
            advertise: None,
            data_dir: data_dir.map(Into::into),
            // Short, so that a stalled feed is switched soon.
            stall_timeout: std::time::Duration::from_millis(100),
            upload_timeout: std::time::Duration::from_secs(3),
            // Small, so that a learner makes snapshots of its own.
            log_bytes_min: 64 * 1024,
            metrics: paxos_common::service::config::MetricsListen::Off,
            security: paxos_common::service::security::SecuritySettings::default(),
        };
        let shutdown = Shutdown::new(&CancellationToken::new());
        let running = tokio::spawn(run(config, listener, shutdown.clone()));
        let channel = paxos_common::peer::Dialer::default().to_learner(&address);
        Self {
            client: LearnerClient::new(channel.clone()),
            channel,
            shutdown,
            running,
        }
    }

    /// Subscribes once the learner serves its log.
    pub async fn subscribe(&mut self, from: u64) -> Streaming<pb::SubscribeResponse> {
        within_deadline(async {
            loop {
                match self.client.subscribe(pb::SubscribeRequest { from }).await {
                    Ok(answers) => return answers.into_inner(),
                    Err(status) if status.code() == tonic::Code::Unavailable => {
                        tokio::task::yield_now().await;
                    }
                    Err(status) => panic!("{status}"),
                }
            }
        })
        .await
    }

    /// The texts of the `count` slots from `from` on, from a single subscription.
    pub async fn read(&mut self, from: u64, count: usize) -> Vec<String> {
        let mut stream = self.subscribe(from).await;
        read(&mut stream, from, count).await
    }

    /// The learner's own status.
    pub async fn status(&mut self) -> pb::LearnerStatusResponse {
        self.client
            .status(pb::LearnerStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until the learned log begins at `slot`.
    pub async fn keeps_from(&mut self, slot: u64) {
        within_deadline(async {
            while self.status().await.log_from != slot {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Stops the learner and returns the result of its run.
    pub async fn stop(self) -> Result<(), Failure> {
        self.shutdown.begin();
        within_deadline(self.running).await.unwrap()
    }

    /// Waits until the learner ends on its own.
    pub async fn ended(self) -> Result<(), Failure> {
        within_deadline(self.running).await.unwrap()
    }
}
