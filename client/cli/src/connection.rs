//! The flags that say which cluster to talk to, and the client made of them.

use std::{str::FromStr, time::Duration};

use clap::Args;
use paxos_client::{Address, Client, ClientConfig, ProposeError, SubscribeError};
use paxos_common::{
    config::{AcceptorList, parse_duration},
    exit::Failure,
};

/// Where `paxos dev` and the usual set-ups on one machine listen.
const DEFAULT_ACCEPTORS: &str = "http://127.0.0.1:7001,http://127.0.0.1:7002,http://127.0.0.1:7003";

/// Which cluster to talk to, and how long to try.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// URLs of the acceptors, separated by commas
    #[arg(long, env = "PAXOS_ACCEPTORS", value_name = "URLS", default_value = DEFAULT_ACCEPTORS)]
    acceptors: AcceptorList,

    /// URLs of proposers to use [default: those that the acceptors name]
    #[arg(long, env = "PAXOS_PROPOSERS", value_name = "URLS")]
    proposers: Option<Addresses>,

    /// URLs of learners to use [default: those that the acceptors name]
    #[arg(long, env = "PAXOS_LEARNERS", value_name = "URLS")]
    learners: Option<Addresses>,

    /// How long to try, with its unit
    #[arg(long, env = "PAXOS_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

impl ConnectionArgs {
    /// A client for that cluster. Connects when first used.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let list = |addresses: &Option<Addresses>| addresses.clone().unwrap_or_default().0;
        let mut config = ClientConfig::new(self.acceptors.addresses()).map_err(Failure::usage)?;
        config.proposers = list(&self.proposers);
        config.learners = list(&self.learners);
        config.timeout = self.timeout;
        Client::new(config).map_err(Failure::usage)
    }
}

/// Any number of addresses, also none.
#[derive(Clone, Debug, Default)]
struct Addresses(Vec<Address>);

impl FromStr for Addresses {
    type Err = <Address as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Says what to do about a command that was not ordered.
pub(crate) fn propose_failure(error: ProposeError) -> Failure {
    match error {
        ProposeError::Invalid(text) => Failure::usage(text),
        ProposeError::Refused(_) => Failure::unavailable(error),
        ProposeError::NotProposed(_) => Failure::unavailable(anyhow::anyhow!(
            "{error}; it is safe to try again; `paxos status` shows what is wrong"
        )),
        ProposeError::OutcomeUnknown(_) => Failure::unavailable(anyhow::anyhow!(
            "{error}; look for it with `paxos log` before trying again"
        )),
        _ => Failure::unavailable(error),
    }
}

/// Says what to do about a log that cannot be read.
pub(crate) fn subscribe_failure(error: SubscribeError) -> Failure {
    match error {
        SubscribeError::OutOfRange(cause) => no(format!("the log has no such slot: {cause}")),
        SubscribeError::Invalid(text) => Failure::usage(text),
        SubscribeError::Unavailable(_) => {
            Failure::unavailable(anyhow::anyhow!("{error}; `paxos status` shows what is wrong"))
        }
        _ => Failure::unavailable(error),
    }
}

/// The answer is no: exit 1.
pub(crate) fn no(text: String) -> Failure {
    Failure::new(paxos_common::exit::Exit::No, anyhow::anyhow!(text))
}
