//! Flags that several binaries share, as clap fragments to flatten. Each flag has an environment variable.

use std::{collections::HashSet, net::SocketAddr, str::FromStr, time::Duration};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use crate::{
    paxos::{identity::ClusterId, quorum::ACCEPTORS_MAX},
    peer::{Address, lacks_brackets},
    service::failure::Failure,
};

/// The version of this software, for `--version` and status reports.
pub const fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Listening address and public address of a role. `PORT` is the role's usual port.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs<const PORT: u16> {
    /// Address and port to listen on; port 0 takes any free port
    #[arg(long, env = "PAXOS_LISTEN", value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)), value_parser = parse_listen)]
    pub listen: SocketAddr,

    /// URL at which others reach this process (default: http://, or https:// with TLS, and the listening address, or this
    /// machine's name when listening on every interface)
    #[arg(long, env = "PAXOS_ADVERTISE", value_name = "URL")]
    pub advertise: Option<Address>,
}

/// The public URL: the given URL, or the URL of the bound address.
///
/// # Errors
/// The role listens on every interface, no URL was given, and this machine's name is unknown or odd.
pub(super) fn advertised(
    advertise: Option<&Address>,
    local: SocketAddr,
    scheme: &str,
) -> Result<Address, Failure> {
    if let Some(address) = advertise {
        return Ok(address.clone());
    }
    let url = if local.ip().is_unspecified() {
        // In a container this name is the container's id; other containers of the same network resolve this id.
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{scheme}://{}:{}", name.trim(), local.port())
    } else {
        format!("{scheme}://{local}")
    };
    url.parse().map_err(|error| {
        Failure::usage(format!(
            "cannot derive an address for other processes ({error}): give --advertise URL"
        ))
    })
}

/// The address of a role's metrics and probes. `PORT` is the role's usual port for metrics.
#[derive(Args, Clone, Copy, Debug)]
pub struct MetricsArgs<const PORT: u16> {
    /// Address and port of /metrics, /livez and /readyz over HTTP; port 0 takes any free port, `off` serves none
    /// (default: on 127.0.0.1 port 8001 for an acceptor, 8101 for a proposer, 8201 for a learner; none, with a warning,
    /// when that port is in use)
    #[arg(long = "metrics-listen", env = "PAXOS_METRICS_LISTEN", value_name = "ADDRESS")]
    metrics_listen: Option<MetricsListen>,
}

impl<const PORT: u16> MetricsArgs<PORT> {
    /// The given address, or the usual port.
    pub fn listen(&self) -> MetricsListen {
        let usual = SocketAddr::from(([127, 0, 0, 1], PORT));
        self.metrics_listen.unwrap_or(MetricsListen::Usual(usual))
    }
}

/// The address of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// No metrics.
    Off,
    /// The usual address, or no metrics while this address is in use: no user chose the address.
    Usual(SocketAddr),
    /// The address that a user chose.
    At(SocketAddr),
}

impl FromStr for MetricsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if lacks_brackets(text) {
            return Err(BRACKETS.to_owned());
        }
        let address = text.parse().map(Self::At);
        address.map_err(|_| "give an address and port, as in 127.0.0.1:8001, or off".to_owned())
    }
}

const BRACKETS: &str = "an IPv6 address needs brackets, as in [::1]:7001";

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if lacks_brackets(text) {
        return Err(BRACKETS.to_owned());
    }
    let address = text.parse();
    address.map_err(|_| "give an IP address and port, as in 127.0.0.1:7001 or [::1]:7001".to_owned())
}

/// The acceptors of the cluster: the only required setting of a proposer or learner.
#[derive(Args, Clone, Debug)]
pub struct AcceptorsArg {
    /// URLs of the acceptors, separated by commas; the same for every proposer and learner
    ///
    /// A new cluster has exactly these members. After a change of members, any list works with an acceptor that answers.
    #[arg(long, env = "PAXOS_ACCEPTORS", value_name = "URL,URL,URL")]
    pub acceptors: AcceptorList,
}

/// `--cluster`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ClusterArg {
    /// The cluster to work with: its id, as `paxos status` shows it. Without it, any cluster, or a new one
    ///
    /// Acceptors of other clusters are ignored, and blank acceptors stay blank. Give the id once the cluster is formed: without
    /// an id, a proposer forms a new cluster if all its acceptors are blank.
    #[arg(long, env = "PAXOS_CLUSTER", value_name = "ID")]
    pub cluster: Option<ClusterId>,
}

/// One to [`ACCEPTORS_MAX`] different addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptorList(Vec<Address>);

impl AcceptorList {
    /// The addresses, in the order given.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }
}

impl FromStr for AcceptorList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut seen = HashSet::new();
        let mut addresses = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let address: Address = part.parse().map_err(|error| format!("{error}"))?;
            if !seen.insert(address.clone()) {
                return Err(format!("{address} is listed twice; list each acceptor once"));
            }
            addresses.push(address);
        }
        match addresses.len() {
            0 => Err("no address; give for example http://127.0.0.1:7001".to_owned()),
            1..=ACCEPTORS_MAX => Ok(Self(addresses)),
            count => Err(format!(
                "{count} acceptors; at most {ACCEPTORS_MAX} are allowed, 3, 5 or 7 are usual"
            )),
        }
    }
}

/// Settings of the process itself.
#[derive(Args, Clone, Copy, Debug)]
pub struct RuntimeArgs {
    /// Threads that run this process's tasks; 1 is fastest on small machines
    #[arg(long, env = "PAXOS_WORKER_THREADS", value_name = "N", default_value = "1", value_parser = parse_threads)]
    pub worker_threads: usize,

    /// Format of the log on standard error; RUST_LOG sets the level, info by default
    #[arg(long, env = "PAXOS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Format of the log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: one line per event.
    Text,
    /// For machines: one JSON object per line.
    Json,
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        Ok(_) | Err(_) => Err("give a number from 1 to 1024".to_owned()),
    }
}

/// Longest duration that a flag takes. Longer durations have no use, and clocks can add this duration.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Reads a duration with its unit, as in `200ms`, `5s`, `1m 30s`; for clap's `value_parser`.
///
/// # Errors
/// No number, no unit, zero, or more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".to_owned()),
        Ok(duration) if duration > DURATION_MAX => Err("must be at most 365days".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; give a number and a unit, as in 200ms or 5s")),
    }
}

/// Reads a number of bytes with its unit, as in `512MiB`, `2GB`; for clap's `value_parser`.
///
/// # Errors
/// No number, no unit of bytes, zero, or more than 2^63 - 1 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXAMPLE: &str = "give a number and a unit, as in 512MiB or 2GiB";
    if text.trim_end().ends_with(|last: char| last.is_ascii_digit()) {
        return Err(format!("no unit; {EXAMPLE}"));
    }
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("must be more than zero".to_owned()),
        Ok(ByteSize(bytes)) if bytes > i64::MAX as u64 => Err("must be below 8EiB".to_owned()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(error) => Err(format!("{error}; {EXAMPLE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        listen: ListenArgs<7101>,
        #[command(flatten)]
        acceptors: AcceptorsArg,
        #[command(flatten)]
        metrics: MetricsArgs<8101>,
        #[command(flatten)]
        runtime: RuntimeArgs,
    }

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("test").chain(args.iter().copied()))
    }

    #[test]
    fn defaults_are_the_role_port_on_loopback_and_one_thread() {
        let cli = parse(&["--acceptors", "http://a:1,http://b:2"]).unwrap();
        assert_eq!(cli.listen.listen, "127.0.0.1:7101".parse().unwrap());
        assert_eq!(cli.acceptors.acceptors.addresses().len(), 2);
        assert_eq!(
            (cli.runtime.worker_threads, cli.runtime.log_format),
            (1, LogFormat::Text)
        );
    }

    #[test]
    fn metrics_are_served_at_the_usual_port_by_default() {
        let listen = |args: &[&str]| {
            let args: Vec<_> = ["--acceptors", "http://a:1"]
                .iter()
                .chain(args)
                .copied()
                .collect();
            parse(&args).map(|cli| cli.metrics)
        };
        let usual = MetricsListen::Usual("127.0.0.1:8101".parse().unwrap());
        assert_eq!(listen(&[]).unwrap().listen(), usual);
        let given = listen(&["--metrics-listen", "0.0.0.0:9"]).unwrap();
        assert_eq!(given.listen(), MetricsListen::At("0.0.0.0:9".parse().unwrap()));
        assert_eq!(
            listen(&["--metrics-listen", "off"]).unwrap().listen(),
            MetricsListen::Off
        );
        let error = listen(&["--metrics-listen", "8101"]).unwrap_err().to_string();
        assert!(error.contains("as in 127.0.0.1:8001, or off"), "{error}");
    }

    #[test]
    fn listening_address_without_port_or_brackets_is_refused_with_an_example() {
        for (flag, address, expected) in [
            ("--listen", "::1:7001", "needs brackets, as in [::1]:7001"),
            ("--listen", "localhost", "as in 127.0.0.1:7001 or [::1]:7001"),
            ("--metrics-listen", "::1:8001", "needs brackets, as in [::1]:7001"),
        ] {
            let parsed = parse(&["--acceptors", "http://a:1", flag, address]);
            let error = parsed.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let cli = parse(&["--acceptors", "http://a:1", "--listen", "[::1]:7001"]).unwrap();
        assert_eq!(cli.listen.listen, "[::1]:7001".parse().unwrap());
    }

    #[test]
    fn advertises_the_bound_address_by_default() {
        let bound = "127.0.0.1:4711".parse().unwrap();
        let address = |args: &[&str]| {
            let args: Vec<_> = ["--acceptors", "http://a:1"]
                .iter()
                .chain(args)
                .copied()
                .collect();
            let cli = parse(&args).unwrap();
            advertised(cli.listen.advertise.as_ref(), bound, "http").unwrap()
        };
        assert_eq!(address(&[]).as_str(), "http://127.0.0.1:4711");
        assert_eq!(
            address(&["--advertise", "http://host:9"]).as_str(),
            "http://host:9"
        );
    }

    #[test]
    fn acceptor_lists_with_faults_are_refused_and_say_what_would_be_right() {
        let many = (0..32)
            .map(|port| format!("http://a:{}", 7000 + port))
            .collect::<Vec<_>>()
            .join(",");
        for (text, expected) in [
            ("", "give for example"),
            ("http://a:1,http://b:2,http://a:1", "listed twice"),
            ("127.0.0.1:7001", "http://HOST:PORT"),
            (many.as_str(), "at most 31"),
        ] {
            let error = text.parse::<AcceptorList>().unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn size_needs_a_number_and_a_unit() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("2 GB"), Ok(2_000_000_000));
        for (text, says) in [
            ("512", "no unit"),
            ("", "512MiB"),
            ("MiB", "512MiB"),
            ("-1MiB", "512MiB"),
            ("1 parsec", "512MiB"),
            ("0B", "more than zero"),
            ("8EiB", "below 8EiB"),
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_are_never_zero() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert!(parse_duration("200").is_err());
        assert!(parse_duration("0s").is_err());
        assert!(parse_duration("365days").is_ok() && parse_duration("366days").is_err());
        assert!(parse_duration("18446744073709551615s").is_err());
    }
}
