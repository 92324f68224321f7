//! The acceptor's flags, and the resulting configuration.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use paxos_common::{
    peer::Address,
    service::{
        config::{ListenArgs, MetricsArgs, MetricsListen, RuntimeArgs, parse_bytes, parse_duration, version},
        security::{SecurityArgs, SecuritySettings},
    },
};

use crate::trim_policy::RetainBytes;

/// Smallest part of the log to keep, in bytes: below, the acceptor would do little more than keep snapshots.
const RETAIN_BYTES_MIN: u64 = 1024 * 1024;

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

    /// Bytes of the log that this acceptor keeps at least, as in 1MiB or 2GiB, or "all". Each time the log has grown by this
    /// size, the acceptor takes a snapshot from a learner, and deletes the log below the snapshot before
    #[arg(long, env = "PAXOS_RETAIN_BYTES", value_name = "SIZE", default_value = "256MiB",
          value_parser = parse_retain_bytes)]
    pub retain_bytes: RetainBytes,

    /// Longest restart of a learner, as in 30s or 5m. For this time after its own start, and after a learner has left, the
    /// acceptor keeps the log for that learner, until the log has grown by --retain-bytes once more
    #[arg(long, env = "PAXOS_RESTART_MAX", value_name = "TIME", default_value = "1m", value_parser = parse_restart_max)]
    pub restart_max: Duration,

    /// Listen address, and the URL for other processes
    #[command(flatten)]
    pub listen: ListenArgs<PORT>,

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
    /// Name for operators.
    pub id: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The part of the log to keep at least.
    pub retain_bytes: RetainBytes,
    /// Longest restart of a learner, 1 s to 1 h.
    pub restart_max: Duration,
    /// URL for other processes; `None`: the bound address.
    pub advertise: Option<Address>,
    /// Address of metrics and probes.
    pub metrics: MetricsListen,
    /// How connections are secured.
    pub security: SecuritySettings,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            id: args.id,
            data_dir: args.data_dir,
            retain_bytes: args.retain_bytes,
            restart_max: args.restart_max,
            advertise: args.listen.advertise,
            metrics: args.metrics.listen(),
            security: args.security.into(),
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

fn parse_retain_bytes(text: &str) -> Result<RetainBytes, String> {
    if text == "all" {
        return Ok(RetainBytes::All);
    }
    match parse_bytes(text) {
        Ok(bytes) if bytes >= RETAIN_BYTES_MIN => Ok(RetainBytes::AtLeast(bytes)),
        Ok(_) => Err("must be at least 1MiB, or \"all\"".to_owned()),
        Err(error) => Err(format!("{error}, or \"all\"")),
    }
}

fn parse_restart_max(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        time if time > Duration::from_hours(1) => Err("must be at most 1h".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retained_part_of_the_log_has_a_unit_and_a_lower_limit() {
        let mib = |number: u64| Ok(RetainBytes::AtLeast(number << 20));
        assert_eq!(parse_retain_bytes("all"), Ok(RetainBytes::All));
        assert_eq!(parse_retain_bytes("1MiB"), mib(1));
        assert_eq!(parse_retain_bytes("1024KiB"), mib(1));
        assert_eq!(parse_retain_bytes("2 GiB"), mib(2048));
        assert_eq!(parse_retain_bytes("1.5GiB"), mib(1536));
        assert_eq!(parse_retain_bytes("256MB"), Ok(RetainBytes::AtLeast(256_000_000)));
        for wrong in [
            "",
            "0",
            "1",
            "MiB",
            "1023KiB",
            "256",
            "-1MiB",
            "17000000TiB",
            "ALL",
            "off",
            "é",
        ] {
            let error = parse_retain_bytes(wrong).unwrap_err();
            assert!(error.contains("or \"all\""), "{wrong:?}: {error}");
        }
        let args = Args::try_parse_from(["acceptor", "--id", "a1", "--data-dir", "d"]).unwrap();
        assert_eq!(Ok(args.retain_bytes), mib(256));
    }

    #[test]
    fn longest_restart_is_between_a_second_and_an_hour() {
        let of = |text| {
            let args = ["acceptor", "--id", "a1", "--data-dir", "d", "--restart-max", text];
            Args::try_parse_from(args).map(|args| args.restart_max)
        };
        assert_eq!(of("1s").unwrap(), Duration::from_secs(1));
        assert_eq!(of("1h").unwrap(), Duration::from_hours(1));
        for (wrong, right) in [
            ("999ms", "at least 1s"),
            ("3601s", "at most 1h"),
            ("60", "a unit"),
            ("", "a unit"),
        ] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.contains(right), "{wrong:?}: {error}");
        }
        let args = Args::try_parse_from(["acceptor", "--id", "a1", "--data-dir", "d"]).unwrap();
        assert_eq!(args.restart_max, Duration::from_mins(1));
    }

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
