//! `paxos healthcheck`: asks one role whether it is ready, as container engines do.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use paxos_common::{
    config::parse_duration,
    exit::Failure,
    peer::{Address, MESSAGE_BYTES_MAX, connect_lazy},
};
use paxos_proto::v1::{
    AcceptorStatusRequest, LearnerStatusRequest, ProposerStatusRequest, acceptor_client::AcceptorClient,
    learner_client::LearnerClient, proposer_client::ProposerClient,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{connection::no, output::printable};

/// The service of an acceptor that serves while the acceptor can vote. The service without a name serves from the start: a
/// cluster is formed by asking blank acceptors.
const ACCEPTOR: &str = "paxos.v1.Acceptor";

/// Ask a role on this machine whether it is ready, over grpc.health.v1
///
/// An acceptor is ready when it can vote: it is a member of a formed cluster, has space, and its disk finishes commits. A
/// proposer is ready when it reaches a quorum of acceptors and knows who leads, a learner when it has caught up. /readyz says
/// the same. Prints nothing but what is wrong. Exits 0 when the role is ready, 1 when it answers and is not, 69 when no
/// process answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the role listens, as its own --listen says; 0.0.0.0 is asked through loopback
    #[arg(
        env = "PAXOS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7001"
    )]
    address: SocketAddr,

    /// Ask whether the process answers, ready or not: for probes that restart what does not answer
    #[arg(long)]
    live: bool,

    /// How long to wait for its answer, with its unit
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let address: Address = format!("http://{}", reachable(args.address))
        .parse()
        .map_err(Failure::usage)?;
    let deadline = Instant::now() + args.timeout;
    let unavailable = |error: anyhow::Error| Failure::unavailable(error.context(address.clone()));
    let channel = connect_lazy(&address);
    let serving = timeout_at(deadline, is_serving(channel.clone(), args.live))
        .await
        .with_context(|| format!("no answer within {:?}", args.timeout))
        .map_err(unavailable)?
        .map_err(|status| unavailable(anyhow::Error::new(status)))?;
    if serving {
        return Ok(());
    }
    let reason = match timeout_at(deadline, reason(channel)).await {
        Ok(Some(reason)) => format!(": {}", printable(&reason)),
        Ok(None) | Err(_) => String::new(),
    };
    Err(no(format!("{address} answers and is not ready{reason}")))
}

/// Whether the role is ready; with `live`, whether its process answers.
async fn is_serving(channel: Channel, live: bool) -> Result<bool, Status> {
    let mut client = HealthClient::new(channel);
    let mut check = async |service: &str| {
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    };
    if live {
        return check("").await.map(|_| true);
    }
    match check(ACCEPTOR).await {
        // No acceptor listens here: a proposer or learner says by the service without a name whether it is ready.
        Err(status) if status.code() == Code::NotFound => check("").await,
        answer => answer,
    }
}

/// Why the role is not ready, in its own words; none when it does not say so.
async fn reason(channel: Channel) -> Option<String> {
    let mut acceptor = AcceptorClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut proposer = ProposerClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut learner = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    // A role does not know the services of the others.
    let reason = if let Ok(answer) = acceptor.status(AcceptorStatusRequest {}).await {
        answer.into_inner().not_ready
    } else if let Ok(answer) = proposer.status(ProposerStatusRequest {}).await {
        answer.into_inner().not_ready
    } else {
        learner
            .status(LearnerStatusRequest {})
            .await
            .ok()?
            .into_inner()
            .not_ready
    };
    Some(reason).filter(|reason| !reason.is_empty())
}

/// Where a process that listens here can be called on its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_that_listens_on_every_interface_is_asked_through_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:7101", "127.0.0.1:7101"),
            ("[::]:7201", "[::1]:7201"),
            ("192.0.2.7:7001", "192.0.2.7:7001"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
