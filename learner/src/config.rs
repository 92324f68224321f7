//! Flags of the learner, and the resulting configuration.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Parser;
use paxos_common::{
    peer::Address,
    service::config::{AcceptorsArg, ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs},
};

/// The default port of a learner.
pub const PORT: u16 = 7201;

/// How long a value feed may fail to deliver a value known to be chosen.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Learns what a cluster of acceptors has chosen, and serves readers
#[derive(Clone, Debug, Parser)]
#[command(name = "learner", version)]
pub struct Args {
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs<PORT>,

    /// The acceptors to learn from.
    #[command(flatten)]
    pub acceptors: AcceptorsArg,

    /// Directory for the learned log; created when missing (default: a temporary one, removed at the end)
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where metrics and probes are served.
    #[command(flatten)]
    pub metrics: MetricsArgs<8201>,

    /// How the process runs.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Configuration of a learner.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of all acceptors: 1 to 31, each different.
    pub acceptors: Vec<Address>,
    /// Address under which clients reach this learner; `None`: the listening address.
    pub advertise: Option<Address>,
    /// Directory of the learned log; `None`: a temporary directory, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Longest time without progress of the next slot although acceptors have voted. After this time, values are taken
    /// from another acceptor. Doubles while the change does not help.
    pub stall_timeout: Duration,
    /// Where metrics and probes are served.
    pub metrics: MetricsListen,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            acceptors: args.acceptors.acceptors.addresses().to_vec(),
            advertise: args.listen.advertise,
            data_dir: args.data_dir,
            stall_timeout: STALL_TIMEOUT,
            metrics: args.metrics.listen(),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "acceptors")?;
        for acceptor in &self.acceptors {
            write!(f, " {acceptor}")?;
        }
        match &self.data_dir {
            Some(path) => write!(f, ", data directory {}", path.display())?,
            None => write!(f, ", temporary data directory")?,
        }
        write!(f, ", stall timeout {:?}", self.stall_timeout)
    }
}
