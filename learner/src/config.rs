//! The learner's flags, and the resulting configuration.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Parser;
use paxos_common::{
    paxos::identity::ClusterId,
    peer::Address,
    service::{
        config::{AcceptorsArg, ClusterArg, ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs, version},
        security::{SecurityArgs, SecuritySettings},
    },
};

use crate::log_growth::LOG_BYTES_MIN;

/// Default port of a learner.
pub const PORT: u16 = 7201;

/// Default port of a learner's metrics and probes.
pub const METRICS_PORT: u16 = 8201;

/// How long a value feed may fail to deliver a value known to be chosen.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an acceptor may take no part of a given snapshot: longer than an acceptor writes and syncs a part, also on a
/// slow disk.
pub(crate) const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Learns what a cluster of acceptors has chosen, and serves readers
#[derive(Clone, Debug, Parser)]
#[command(name = "learner", version = version())]
pub struct Args {
    /// Listen address, and the URL for other processes
    #[command(flatten)]
    pub listen: ListenArgs<PORT>,

    /// The acceptors of the cluster
    #[command(flatten)]
    pub acceptors: AcceptorsArg,

    /// The cluster to work with
    #[command(flatten)]
    pub cluster: ClusterArg,

    /// Directory for the learned log; created when missing (default: a temporary one, removed at the end)
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

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

/// Settings of [`run`](crate::run).
#[derive(Clone, Debug)]
pub struct Config {
    /// URLs of the acceptors: hints, once the members have changed.
    pub acceptors: Vec<Address>,
    /// The cluster to work with alone; `None`: the cluster of the acceptors.
    pub cluster: Option<ClusterId>,
    /// URL for other processes; `None`: the bound address.
    pub advertise: Option<Address>,
    /// The data directory; `None`: a temporary directory, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Longest time without progress of the next slot although acceptors have voted. After this time, values are taken
    /// from another acceptor. Doubles while the change does not help.
    pub stall_timeout: Duration,
    /// Longest time in which an acceptor takes no part of a given snapshot, or does not answer after the last part.
    pub upload_timeout: Duration,
    /// Size of the log after the last snapshot in bytes that is never worth a new snapshot.
    pub log_bytes_min: u64,
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
            data_dir: args.data_dir,
            stall_timeout: STALL_TIMEOUT,
            upload_timeout: UPLOAD_TIMEOUT,
            log_bytes_min: LOG_BYTES_MIN,
            metrics: args.metrics.listen(),
            security: args.security.into(),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acceptors")?;
        for acceptor in &self.acceptors {
            write!(f, " {acceptor}")?;
        }
        if let Some(cluster) = self.cluster {
            write!(f, ", cluster {cluster} alone")?;
        }
        match &self.data_dir {
            Some(path) => write!(f, ", data directory {}", path.display())?,
            None => write!(f, ", temporary data directory")?,
        }
        write!(
            f,
            ", stall timeout {:?}, upload timeout {:?}",
            self.stall_timeout, self.upload_timeout
        )
    }
}
