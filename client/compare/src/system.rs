//! The systems under load, behind one interface: puts and linearizable reads of single keys.

use std::{str::FromStr, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use paxos_client::Client;
use paxos_proto::v1::{
    Command, Local, ProposeRequest, ProposerStatusRequest, Put, ReadRequest, command::Operation,
    learner_client::LearnerClient, proposer_client::ProposerClient, read_request,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::EtcdClient;

/// Longest time of a connection attempt.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What is under load, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemKind {
    Etcd,
    /// The proposer's and the learner's unary calls.
    Paxos,
    /// The client library's stream to the leader.
    PaxosStream,
    /// The client library's `put`, with session and outcome.
    PaxosSession,
}

impl FromStr for SystemKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "etcd" => Self::Etcd,
            "paxos" => Self::Paxos,
            "paxos-stream" => Self::PaxosStream,
            "paxos-session" => Self::PaxosSession,
            _ => bail!("there is no system {text}: give etcd, paxos, paxos-stream or paxos-session"),
        })
    }
}

/// Connections to a system. Clones share the connections.
#[derive(Clone)]
pub(crate) struct LoadedSystem {
    connections: Connections,
    /// Number of the used member or proposer.
    at: usize,
    operation_max: Duration,
}

#[derive(Clone)]
enum Connections {
    Etcd(Vec<EtcdClient>),
    Unary {
        proposers: Vec<ProposerClient<Channel>>,
        learners: Vec<LearnerClient<Channel>>,
    },
    Stream(Client),
    Session(Client),
}

impl LoadedSystem {
    /// Connects to the addresses: the members of etcd, the acceptors for the client library, or the proposers for single
    /// calls, with the learners in `learners`. The leader is used first.
    pub(crate) async fn connect(
        kind: SystemKind,
        addresses: &[String],
        learners: &[String],
        operation_max: Duration,
    ) -> anyhow::Result<Self> {
        let connections = match kind {
            SystemKind::Etcd => {
                let channels = channels(addresses).await?;
                Connections::Etcd(channels.into_iter().map(EtcdClient::new).collect())
            }
            SystemKind::Paxos => Connections::Unary {
                proposers: channels(addresses)
                    .await?
                    .into_iter()
                    .map(ProposerClient::new)
                    .collect(),
                learners: channels(learners)
                    .await?
                    .into_iter()
                    .map(LearnerClient::new)
                    .collect(),
            },
            SystemKind::PaxosStream => {
                Connections::Stream(Client::connect(addresses)?.with_timeout(operation_max))
            }
            SystemKind::PaxosSession => {
                Connections::Session(Client::connect(addresses)?.with_timeout(operation_max))
            }
        };
        let mut system = Self {
            connections,
            at: 0,
            operation_max,
        };
        system.at = system.leader().await?.unwrap_or(0);
        Ok(system)
    }

    /// Number of the address of the leader; `None` if the client library finds the leader itself.
    pub(crate) async fn leader(&mut self) -> anyhow::Result<Option<usize>> {
        let missing = || anyhow!("no given address is the leader's");
        match &mut self.connections {
            Connections::Etcd(members) => {
                for (number, member) in members.iter_mut().enumerate() {
                    if member.status().await?.1 {
                        return Ok(Some(number));
                    }
                }
                Err(missing())
            }
            Connections::Unary { proposers, .. } => {
                for (number, proposer) in proposers.iter_mut().enumerate() {
                    let status = proposer.status(ProposerStatusRequest {}).await?.into_inner();
                    if !status.address.is_empty() && status.address == status.leader_address {
                        return Ok(Some(number));
                    }
                }
                Err(missing())
            }
            Connections::Stream(_) | Connections::Session(_) => Ok(None),
        }
    }

    /// One durable write.
    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        match &mut self.connections {
            Connections::Etcd(members) => {
                let member = self.at % members.len();
                timeout(self.operation_max, members[member].put(key, value)).await?
            }
            Connections::Unary { proposers, .. } => {
                let request = ProposeRequest {
                    command: Some(put(key, value)),
                    forwarded: false,
                };
                let proposer = self.at % proposers.len();
                timeout(self.operation_max, proposers[proposer].propose(request)).await??;
                Ok(())
            }
            Connections::Stream(client) => {
                client.propose(put(key, value)).await?;
                Ok(())
            }
            Connections::Session(client) => {
                client.put(key, value).await?;
                Ok(())
            }
        }
    }

    /// One linearizable read of a key that holds a value.
    pub(crate) async fn get(&mut self, key: Bytes) -> anyhow::Result<()> {
        let is_found = match &mut self.connections {
            Connections::Etcd(members) => {
                let member = self.at % members.len();
                timeout(self.operation_max, members[member].get(key)).await??
            }
            Connections::Unary { learners, .. } => {
                ensure!(!learners.is_empty(), "reads need the address of a learner");
                let learner = self.at % learners.len();
                let request = ReadRequest {
                    target: Some(read_request::Target::Key(key)),
                    ..ReadRequest::default()
                };
                let answer = timeout(self.operation_max, learners[learner].read(request)).await??;
                !answer.get_ref().registers.is_empty()
            }
            Connections::Stream(client) | Connections::Session(client) => client.get(key).await?.is_some(),
        };
        ensure!(is_found, "a written key holds no value");
        Ok(())
    }

    /// One unary call that a learner answers at once from its memory, with a request as large as that of a put.
    pub(crate) async fn look(&mut self, key: Bytes, value: &Bytes) -> anyhow::Result<()> {
        let Connections::Unary { learners, .. } = &mut self.connections else {
            bail!("looks need --system paxos");
        };
        ensure!(!learners.is_empty(), "looks need the address of a learner");
        let learner = self.at % learners.len();
        let request = ReadRequest {
            target: Some(read_request::Target::Key([key, value.clone()].concat().into())),
            consistency: Some(read_request::Consistency::Local(Local {})),
            ..ReadRequest::default()
        };
        timeout(self.operation_max, learners[learner].read(request)).await??;
        Ok(())
    }

    /// Uses the next address after an error.
    pub(crate) fn rotate(&mut self) {
        self.at += 1;
    }
}

fn put(key: Bytes, value: Bytes) -> Command {
    Command {
        session: None,
        operation: Some(Operation::Put(Put {
            key,
            value,
            condition: None,
        })),
    }
}

async fn channels(addresses: &[String]) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for address in addresses {
        let endpoint = Endpoint::new(address.clone())?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_MAX);
        let connected = endpoint.connect().await;
        channels.push(connected.with_context(|| format!("connect to {address}"))?);
    }
    Ok(channels)
}
