//! What a proposer is told at its start.

use std::time::Duration;

use clap::Parser;
use paxos_common::{
    config::{AcceptorsArg, ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs, parse_duration, version},
    peer::Address,
};

/// Takes commands and has them ordered. Keeps nothing on disk: start as many as you like.
#[derive(Clone, Debug, Parser)]
#[command(name = "proposer", version = version())]
pub struct Args {
    #[command(flatten)]
    acceptors: AcceptorsArg,

    /// Where to listen, and how others find it.
    #[command(flatten)]
    pub listen: ListenArgs<7101>,

    /// How long a leader may be silent before another proposer campaigns, with its unit; 20ms to 60s, and the same for all
    /// proposers
    ///
    /// Must be longer than machines stand still and packets are late. Slow disks do not count: commands wait for them, and
    /// the leader stays.
    #[arg(long, env = "PAXOS_LEADER_TIMEOUT", value_name = "DURATION", default_value = "200ms",
          value_parser = parse_leader_timeout)]
    leader_timeout: Duration,

    /// Where its metrics and probes are.
    #[command(flatten)]
    pub metrics: MetricsArgs<8101>,

    /// How the process runs.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

fn parse_leader_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout < Duration::from_millis(20) => Err("must be at least 20ms".to_owned()),
        timeout if timeout > Duration::from_secs(60) => Err("must be at most 60s".to_owned()),
        timeout => Ok(timeout),
    }
}

/// What [`run`](crate::run) needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the acceptors are.
    pub acceptors: Vec<Address>,
    /// How others find this process.
    pub listen: ListenArgs<7101>,
    /// How long a leader may be silent.
    pub leader_timeout: Duration,
    /// Where its metrics and probes are served.
    pub metrics: MetricsListen,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            acceptors: args.acceptors.acceptors.addresses().to_vec(),
            listen: args.listen,
            leader_timeout: args.leader_timeout,
            metrics: args.metrics.listen(),
        }
    }
}
