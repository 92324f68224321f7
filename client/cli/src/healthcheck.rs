//! `paxos healthcheck`: asks a single role whether it is ready, as container engines do.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use paxos_common::{
    peer::{Address, MESSAGE_BYTES_MAX, reason as reason_of},
    service::{config::parse_duration, failure::Failure, security::TlsArgs, server::may_call},
    tls::{RoleName, RoleSet},
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

use crate::{
    connection::{dialer, no},
    output::printable,
};

/// The health service of each role: serves while the role is ready. The service without a name serves at a blank acceptor,
/// too, because a cluster forms by questions to blank acceptors.
const SERVICES: [(RoleName, &str); 3] = [
    (RoleName::Acceptor, "paxos.v1.Acceptor"),
    (RoleName::Proposer, "paxos.v1.Proposer"),
    (RoleName::Learner, "paxos.v1.Learner"),
];

/// Ask a role on this machine for its readiness, over grpc.health.v1
///
/// Readiness by role: an acceptor can vote (member of a formed cluster, free space, a disk that finishes commits); a
/// proposer reaches a quorum of acceptors and knows the leader; a learner has caught up. /readyz gives the same answer.
///
/// Prints only problems. Exits 0 when the role is ready, 1 when the role answers but is not ready, 69 without an
/// answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Listening address of the role, as in the role's --listen; 0.0.0.0 is asked through loopback
    #[arg(
        env = "PAXOS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7001"
    )]
    address: SocketAddr,

    /// Ask only whether the process answers, ready or not: for probes that restart hung processes
    #[arg(long)]
    live: bool,

    /// How long to wait for an answer, with unit
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,

    /// The TLS identity: with the flags of the role, the role asks itself
    #[command(flatten)]
    tls: TlsArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let dialer = dialer(&args.tls, &[])?;
    let scheme = if dialer.uses_tls() { "https" } else { "http" };
    let address: Address = format!("{scheme}://{}", reachable(args.address))
        .parse()
        .map_err(Failure::usage)?;
    let deadline = Instant::now() + args.timeout;
    let unavailable = |error: anyhow::Error| Failure::unavailable(error.context(address.clone()));
    let channel = dialer.connect_lazy(&address, None);
    let found = timeout_at(deadline, ask(channel.clone(), args.live))
        .await
        .with_context(|| format!("no answer within {:?}", args.timeout))
        .map_err(unavailable)?
        .map_err(|status| unavailable(anyhow::anyhow!(reason_of(&status))))?;
    let role = match found {
        ProbedHealth::Ready => return Ok(()),
        ProbedHealth::NotReady(role) => role,
    };
    let reason = match timeout_at(deadline, reason(channel, role, dialer.own_roles())).await {
        Ok(Some(reason)) => format!(": {}", printable(&reason)),
        Ok(None) | Err(_) => String::new(),
    };
    Err(no(format!("{address} answers, but is not ready{reason}")))
}

/// A process that answers.
enum ProbedHealth {
    /// The role is ready.
    Ready,
    /// The role that is not ready; `None`: no role of a cluster.
    NotReady(Option<RoleName>),
}

/// Asks which role listens, and whether the role is ready; with `live`, only whether the process answers.
async fn ask(channel: Channel, live: bool) -> Result<ProbedHealth, Status> {
    let mut client = HealthClient::new(channel);
    let mut check = async |service: &str| {
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    };
    if live {
        return check("").await.map(|_| ProbedHealth::Ready);
    }
    for (role, service) in SERVICES {
        match check(service).await {
            Ok(true) => return Ok(ProbedHealth::Ready),
            Ok(false) => return Ok(ProbedHealth::NotReady(Some(role))),
            // Another role listens here.
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    let is_ready = check("").await?;
    Ok(if is_ready {
        ProbedHealth::Ready
    } else {
        ProbedHealth::NotReady(None)
    })
}

/// Why the role is not ready, in the role's own words; `None` without such a reason. `own`: what the certificate of this command
/// proves. A certificate without the right to ask gets a hint, and makes no call: the role would refuse the call and log it.
async fn reason(channel: Channel, role: Option<RoleName>, own: Option<RoleSet>) -> Option<String> {
    let may_ask = |method| own.is_none_or(|own| own.intersects(may_call(method)));
    let reason = match role? {
        RoleName::Acceptor if !may_ask("/paxos.v1.Acceptor/Status") => {
            "/readyz says why, and so does `paxos status` with the certificate of a client".to_owned()
        }
        RoleName::Acceptor => {
            let mut acceptor = AcceptorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let answer = acceptor.status(AcceptorStatusRequest {}).await;
            answer.ok()?.into_inner().not_ready
        }
        RoleName::Proposer => {
            let mut proposer = ProposerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let answer = proposer.status(ProposerStatusRequest {}).await;
            answer.ok()?.into_inner().not_ready
        }
        RoleName::Learner => {
            let mut learner = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let answer = learner.status(LearnerStatusRequest {}).await;
            answer.ok()?.into_inner().not_ready
        }
        RoleName::Client | RoleName::Operator => return None,
    };
    Some(reason).filter(|reason| !reason.is_empty())
}

/// Address for a call from the same machine to a process with this listen address.
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
