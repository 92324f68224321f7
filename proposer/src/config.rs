//! The proposer's flags, and the resulting configuration.

use std::time::Duration;

use clap::Parser;
use paxos_common::{
    paxos::identity::ClusterId,
    peer::Address,
    service::{
        config::{
            AcceptorsArg, ClusterArg, ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs, parse_bytes,
            parse_duration, version,
        },
        security::{SecurityArgs, SecuritySettings},
    },
};

/// Default port of a proposer.
pub const PORT: u16 = 7101;

/// Default port of a proposer's metrics and probes.
pub const METRICS_PORT: u16 = 8101;

/// Takes commands and has them ordered. Keeps nothing on disk: start as many as you like.
#[derive(Clone, Debug, Parser)]
#[command(name = "proposer", version = version())]
pub struct Args {
    /// The acceptors of the cluster
    #[command(flatten)]
    pub acceptors: AcceptorsArg,

    /// The cluster to work with
    #[command(flatten)]
    pub cluster: ClusterArg,

    /// Listen address, and the URL for other processes
    #[command(flatten)]
    pub listen: ListenArgs<PORT>,

    /// Silence of the leader before another proposer campaigns, with a unit; 20ms to 60s, the same for all proposers
    ///
    /// Must be longer than pauses of machines and delays of packets. Slow disks do not count: commands wait, and the
    /// leader stays.
    #[arg(long, env = "PAXOS_LEADER_TIMEOUT", value_name = "DURATION", default_value = "200ms",
          value_parser = parse_leader_timeout)]
    pub leader_timeout: Duration,

    /// Size of registers and recorded outcomes from which a put is refused, with a unit: learners hold all in memory
    ///
    /// Counted for each register: key, value and 256 bytes; for each recorded outcome of a session: 128 bytes. Deletes,
    /// appends, and puts of at most 4 KiB on the condition of a version go on. So do elections: a new record of an
    /// election of at most 4 KiB passes up to a sixteenth above the limit.
    #[arg(long, env = "PAXOS_STATE_BYTES_MAX", value_name = "BYTES", default_value = "512MiB",
          value_parser = parse_bytes)]
    pub state_bytes_max: u64,

    /// Address of metrics and probes
    #[command(flatten)]
    pub metrics: MetricsArgs<METRICS_PORT>,

    /// How the process runs
    #[command(flatten)]
    pub runtime: RuntimeArgs,

    /// How connections are secured
    #[command(flatten)]
    pub security: SecurityArgs,
}

fn parse_leader_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout < Duration::from_millis(20) => Err("must be at least 20ms".to_owned()),
        timeout if timeout > Duration::from_secs(60) => Err("must be at most 60s".to_owned()),
        timeout => Ok(timeout),
    }
}

/// Settings of [`run`](crate::run).
#[derive(Clone, Debug)]
pub struct Config {
    /// URLs of acceptors: hints once the cluster is formed.
    pub acceptors: Vec<Address>,
    /// The cluster to work with; `None`: any cluster, or a new one.
    pub cluster: Option<ClusterId>,
    /// URL for other processes; `None`: the bound address.
    pub advertise: Option<Address>,
    /// Silence of the leader before another proposer campaigns.
    pub leader_timeout: Duration,
    /// Size of registers and recorded outcomes in bytes from which a put is refused.
    pub state_bytes_max: u64,
    /// Address of metrics and probes.
    pub metrics: MetricsListen,
    /// How connections are secured.
    pub security: SecuritySettings,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            acceptors: args.acceptors.acceptors.addresses().to_vec(),
            cluster: args.cluster.cluster,
            advertise: args.listen.advertise,
            leader_timeout: args.leader_timeout,
            state_bytes_max: args.state_bytes_max,
            metrics: args.metrics.listen(),
            security: args.security.into(),
        }
    }
}
