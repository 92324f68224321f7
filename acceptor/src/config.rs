//! The acceptor's flags, and the resulting configuration.

use std::path::PathBuf;

use clap::Parser;
use paxos_common::{
    peer::Address,
    service::config::{ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs, version},
};

/// Default port of an acceptor.
pub const PORT: u16 = 7001;

/// Default port of an acceptor's metrics and probes.
pub const METRICS_PORT: u16 = 8001;

/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Votes in a paxos cluster, and stores the votes on disk.
#[derive(Clone, Debug, Parser)]
#[command(name = "acceptor", version = version())]
pub struct Args {
    /// Name of this acceptor for operators; a data directory keeps the name of its first use
    #[arg(long, env = "PAXOS_ID", value_name = "NAME", value_parser = parse_id)]
    pub id: String,

    /// Directory for the acceptor's file; created if missing, and never shared with another acceptor
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Listen address, and the URL for other processes
    #[command(flatten)]
    pub listen: ListenArgs<PORT>,

    /// Address of metrics and probes
    #[command(flatten)]
    pub metrics: MetricsArgs<METRICS_PORT>,

    /// How the process runs
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Settings of [`run`](crate::run).
#[derive(Clone, Debug)]
pub struct Config {
    /// Name for operators.
    pub id: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// URL for other processes; `None`: the bound address.
    pub advertise: Option<Address>,
    /// Address of metrics and probes.
    pub metrics: MetricsListen,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            id: args.id,
            data_dir: args.data_dir,
            advertise: args.listen.advertise,
            metrics: args.metrics.listen(),
        }
    }
}

fn parse_id(text: &str) -> Result<String, String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if text.is_empty() || text.len() > ID_BYTES_MAX || !text.chars().all(plain) {
        return Err(format!(
            "give 1 to {ID_BYTES_MAX} letters, digits, '-', '_' or '.', as in a1"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_directory_have_no_defaults() {
        assert!(Args::try_parse_from(["acceptor", "--id", "a1"]).is_err());
        assert!(Args::try_parse_from(["acceptor", "--data-dir", "d"]).is_err());
        let args = Args::try_parse_from(["acceptor", "--id", "a1", "--data-dir", "d"]).unwrap();
        assert_eq!(args.listen.listen.to_string(), "127.0.0.1:7001");
    }

    #[test]
    fn odd_ids_are_refused() {
        for id in ["", "a b", "ä", &"a".repeat(65)] {
            assert!(parse_id(id).is_err(), "{id:?}");
        }
    }
}
