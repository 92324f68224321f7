//! The flags for the connection to a cluster, and the client made from these flags.

use std::{str::FromStr, time::Duration};

use clap::{Args, builder::ArgPredicate};
use paxos_client::{Address, Client, ClientConfig, ProposeError, SubscribeError};
use paxos_common::{
    peer::Dialer,
    service::{
        config::{AcceptorList, parse_duration},
        failure::Failure,
        security::{TlsArgs, check_schemes},
    },
    tls::{OwnRole, Tls},
};

/// Addresses of the acceptors of `paxos dev`, and of the usual set-ups on one machine.
const DEFAULT_ACCEPTORS: &str = "http://127.0.0.1:7001,http://127.0.0.1:7002,http://127.0.0.1:7003";
/// The same with TLS, for `paxos dev --tls`.
const DEFAULT_ACCEPTORS_TLS: &str = "https://127.0.0.1:7001,https://127.0.0.1:7002,https://127.0.0.1:7003";

/// The cluster to connect to, and how long to try.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// URLs of the acceptors, separated by commas; https:// with TLS
    #[arg(long, env = "PAXOS_ACCEPTORS", value_name = "URLS", default_value = DEFAULT_ACCEPTORS,
          default_value_if("tls_cert", ArgPredicate::IsPresent, DEFAULT_ACCEPTORS_TLS))]
    acceptors: AcceptorList,

    /// URLs of proposers to use [default: the proposers that the acceptors name]
    #[arg(long, env = "PAXOS_PROPOSERS", value_name = "URLS")]
    proposers: Option<AddressList>,

    /// URLs of learners to use [default: the learners that the acceptors name]
    #[arg(long, env = "PAXOS_LEARNERS", value_name = "URLS")]
    learners: Option<AddressList>,

    /// How long to wait for an answer of the cluster, with unit: 500ms, 10s, 1m
    ///
    /// Within this time, failed attempts are repeated. Then the command exits 69. Commands that run until stopped exit 69
    /// after a silence of this length; elect keeps waiting. After the first message, watch and log --follow wait for 1.8s
    /// at least: a learner without news sends a message every 0.9s.
    #[arg(long, env = "PAXOS_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,

    /// The TLS identity
    #[command(flatten)]
    tls: TlsArgs,
}

impl ConnectionArgs {
    /// A client for the cluster. Connects on first use.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let list = |addresses: &Option<AddressList>| addresses.clone().unwrap_or_default().0;
        let mut config = ClientConfig::new(self.acceptors.addresses()).map_err(Failure::usage)?;
        config.proposers = list(&self.proposers);
        config.learners = list(&self.learners);
        config.timeout = self.timeout;
        config.tls = self.tls.clone().settings().map_err(Failure::usage)?;
        Client::new(config).map_err(Failure::usage)
    }
}

/// Opens connections with this TLS identity, or in plaintext, to these addresses: for a command that ends soon.
pub(crate) fn dialer(tls: &TlsArgs, addresses: &[Address]) -> Result<Dialer, Failure> {
    dialer_of(identity(tls)?, addresses)
}

/// The same for a command that can last: renewed files are taken while the command runs.
///
/// # Panics
/// Outside a Tokio runtime.
pub(crate) fn lasting_dialer(tls: &TlsArgs, addresses: &[Address]) -> Result<Dialer, Failure> {
    let tls = identity(tls)?;
    if let Some(tls) = &tls {
        tls.keep_reloaded();
    }
    dialer_of(tls, addresses)
}

fn identity(tls: &TlsArgs) -> Result<Option<Tls>, Failure> {
    let settings = tls.clone().settings().map_err(Failure::usage)?;
    let tls = settings.map(|settings| Tls::load(settings, OwnRole::Any));
    tls.transpose().map_err(Failure::usage)
}

fn dialer_of(tls: Option<Tls>, addresses: &[Address]) -> Result<Dialer, Failure> {
    let dialer = Dialer::new(tls);
    check_schemes(&dialer, addresses)?;
    Ok(dialer)
}

/// A list of addresses, possibly empty.
#[derive(Clone, Debug, Default)]
struct AddressList(Vec<Address>);

impl FromStr for AddressList {
    type Err = <Address as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Adds advice to the error of a command that was not ordered.
pub(crate) fn propose_failure(error: ProposeError) -> Failure {
    match error {
        ProposeError::Invalid(text) => Failure::usage(text),
        ProposeError::Refused(_) => Failure::unavailable(error),
        ProposeError::NotProposed(_) => Failure::unavailable(anyhow::anyhow!(
            "{error}; a retry is safe; `paxos status` shows what is wrong"
        )),
        ProposeError::OutcomeUnknown(_) => Failure::unavailable(anyhow::anyhow!(
            "{error}; look for the command with `paxos log` before trying again"
        )),
        _ => Failure::unavailable(error),
    }
}

/// Adds advice to the error of an unreadable log.
pub(crate) fn subscribe_failure(error: SubscribeError) -> Failure {
    match error {
        SubscribeError::OutOfRange(cause) => no(format!("the log has no such slot: {cause}")),
        SubscribeError::Trimmed { cause, .. } => no(cause.to_string()),
        SubscribeError::Invalid(text) => Failure::usage(text),
        SubscribeError::Unavailable(_) => {
            Failure::unavailable(anyhow::anyhow!("{error}; `paxos status` shows what is wrong"))
        }
        SubscribeError::Refused(_) | _ => Failure::unavailable(error),
    }
}

/// The answer is no: exit code 1.
pub(crate) fn no(text: String) -> Failure {
    Failure::new(paxos_common::service::failure::Exit::No, anyhow::anyhow!(text))
}

#[cfg(test)]
mod tests {
    use paxos_client::DEV_ACCEPTORS;

    use super::*;

    #[test]
    fn default_cluster_is_the_cluster_of_dev() {
        assert_eq!(DEFAULT_ACCEPTORS, DEV_ACCEPTORS.join(","));
        assert_eq!(
            DEFAULT_ACCEPTORS_TLS,
            DEFAULT_ACCEPTORS.replace("http://", "https://")
        );
    }
}
