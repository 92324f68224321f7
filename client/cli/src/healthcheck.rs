//! `paxos healthcheck`: asks one role whether it is ready, as container engines do.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use paxos_common::{
    config::parse_duration,
    exit::Failure,
    peer::{Address, connect_lazy},
};
use tokio::time::timeout;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::connection::no;

/// Ask a role on this machine whether it is ready, over grpc.health.v1
///
/// An acceptor is ready when it can vote, a proposer when it knows the cluster, a learner when it has caught up. Prints
/// nothing but what is wrong. Exits 0 when it is ready, 1 when it answers and is not, 69 when nobody answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the role listens, as its own --listen says; 0.0.0.0 is asked through loopback
    #[arg(
        env = "PAXOS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7001"
    )]
    address: SocketAddr,

    /// How long to wait for its answer, with its unit
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let address: Address = format!("http://{}", reachable(args.address))
        .parse()
        .map_err(Failure::usage)?;
    let unavailable = |error: anyhow::Error| Failure::unavailable(error.context(address.clone()));
    let mut client = HealthClient::new(connect_lazy(&address));
    // No name: the process as a whole.
    let answer = timeout(args.timeout, client.check(HealthCheckRequest::default()))
        .await
        .with_context(|| format!("no answer within {:?}", args.timeout))
        .map_err(unavailable)?
        .map_err(|status| unavailable(anyhow::Error::new(status)))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Err(no(format!("{address} answers and is not ready")))
        }
    }
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
