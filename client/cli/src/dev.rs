//! `paxos dev`: a whole cluster in this process, with a thread and a runtime for each role, real sockets, real SQLite.

use std::{
    ffi::OsString,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, value_parser};
use futures::future::join_all;
use paxos_client::{Client, ClientConfig, TlsFiles, TlsSettings};
use paxos_common::{
    service::{
        command_line,
        config::LogFormat,
        failure::{Exit, Failure},
        process,
        security::SecuritySettings,
        shutdown::Shutdown,
        telemetry,
        temporary::TemporaryDir,
    },
    tls::{Domain, RoleName},
};
use tokio::{sync::mpsc, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    cert::{self, MoreNames},
    output::write,
    verdict::judge,
};

/// The beginning of the names of temporary directories.
const TEMPORARY_PREFIX: &str = "paxos-dev-";
/// Offset of each role's first port from the base port.
const ACCEPTOR_PORTS: u16 = 1;
const PROPOSER_PORTS: u16 = 101;
const LEARNER_PORTS: u16 = 201;
/// Default base port, matching the default addresses of the other commands.
const BASE_PORT: u16 = 7000;
/// Offset of a role's metrics port from the role's port.
const METRICS_PORTS: u16 = 1_000;
/// Interval of the readiness checks, and the time limit of each check.
const READY_CHECK: Duration = Duration::from_millis(50);
const READY_PATIENCE: Duration = Duration::from_secs(1);
/// A cluster not ready after this time has a fault: the first finding is printed.
const READY_SOON: Duration = Duration::from_secs(10);

/// Run a whole cluster in this process, for a first try
///
/// Acceptors listen on ports 7001…, proposers on 7101…, learners on 7201…, on this machine only. Ctrl-C stops the
/// cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the data; created when missing [default: a temporary one, removed on stop]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Number of acceptors
    #[arg(long, value_name = "N", default_value = "3", value_parser = value_parser!(u16).range(1..=31))]
    acceptor_count: u16,

    /// Number of proposers
    #[arg(long, value_name = "N", default_value = "2", value_parser = value_parser!(u16).range(1..=31))]
    proposer_count: u16,

    /// Number of learners
    #[arg(long, value_name = "N", default_value = "2", value_parser = value_parser!(u16).range(1..=31))]
    learner_count: u16,

    /// Base port; acceptors, proposers and learners listen from PORT + 1, + 101 and + 201 on
    #[arg(long, value_name = "PORT", default_value_t = BASE_PORT, value_parser = value_parser!(u16).range(1024..=65_000))]
    base_port: u16,

    /// Serve metrics and probes of each role over HTTP, on the role's port + 1000: 8001…, 8101…, 8201…
    #[arg(long)]
    metrics: bool,

    /// Secure all connections with mutual TLS: makes certificates in the data directory, and prints how clients use them
    #[arg(long)]
    tls: bool,
}

pub(crate) fn run(args: Args) -> ExitCode {
    telemetry::init_quiet(LogFormat::Text);
    process::exit_on_panic();
    process::finish(process::block_on(1, cluster(args)))
}

async fn cluster(args: Args) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals().map_err(Failure::internal)?;
    tokio::spawn(telemetry::report_drops());
    // Removed on drop, after the roles have stopped.
    let (temporary, data_dir) = match &args.data_dir {
        Some(dir) => (None, dir.clone()),
        None => {
            let dir = TemporaryDir::new(&std::env::temp_dir(), TEMPORARY_PREFIX).map_err(Failure::storage)?;
            let path = dir.path().to_owned();
            (Some(dir), path)
        }
    };
    let identities = args.tls.then(|| Identities::make(&data_dir)).transpose()?;
    let acceptors = bind_all("acceptor", args.base_port + ACCEPTOR_PORTS, args.acceptor_count)?;
    let proposers = bind_all("proposer", args.base_port + PROPOSER_PORTS, args.proposer_count)?;
    let learners = bind_all("learner", args.base_port + LEARNER_PORTS, args.learner_count)?;
    let scheme = if args.tls { "https" } else { "http" };
    let urls = addresses(&acceptors, scheme).join(",");
    let roles = [&acceptors[..], &proposers, &learners];
    tokio::select! {
        printed = print_addresses(&args, temporary.is_some(), &data_dir, (roles, scheme)) => printed?,
        // Cancel safe: only waits.
        () = shutdown.begun() => return Ok(()),
    }

    let count = acceptors.len() + proposers.len() + learners.len();
    let (results, ended) = mpsc::channel(count);
    let mut roles = Roles {
        running: 0,
        results,
        ended,
        stops: Default::default(),
    };
    for bound in acceptors {
        let data_dir = data_dir.join(&bound.name);
        let flags = bound.flags(
            scheme,
            [
                ("--id", bound.name.clone().into()),
                ("--data-dir", data_dir.into()),
                ("--metrics-listen", bound.metrics(args.metrics)?),
            ],
        );
        let mut config: paxos_acceptor::Config = parse::<paxos_acceptor::Args>(&flags)?.into();
        config.security = security(identities.as_ref(), RoleName::Acceptor);
        roles.start(ACCEPTORS, bound, |listener, shutdown| {
            paxos_acceptor::run(config, listener, shutdown)
        })?;
    }
    for bound in proposers {
        let flags = bound.flags(
            scheme,
            [
                ("--acceptors", urls.clone().into()),
                ("--metrics-listen", bound.metrics(args.metrics)?),
            ],
        );
        let mut config: paxos_proposer::Config = parse::<paxos_proposer::Args>(&flags)?.into();
        config.security = security(identities.as_ref(), RoleName::Proposer);
        roles.start(PROPOSERS, bound, |listener, shutdown| {
            paxos_proposer::run(config, listener, shutdown)
        })?;
    }
    for bound in learners {
        let data_dir = data_dir.join(&bound.name);
        let flags = bound.flags(
            scheme,
            [
                ("--acceptors", urls.clone().into()),
                ("--data-dir", data_dir.into()),
                ("--metrics-listen", bound.metrics(args.metrics)?),
            ],
        );
        let mut config: paxos_learner::Config = parse::<paxos_learner::Args>(&flags)?.into();
        config.security = security(identities.as_ref(), RoleName::Learner);
        roles.start(LEARNERS, bound, |listener, shutdown| {
            paxos_learner::run(config, listener, shutdown)
        })?;
    }
    let result = tokio::select! {
        // Cancel safe: only waits.
        () = shutdown.begun() => Ok(()),
        // Cancel safe: a result is either received or still in the channel.
        result = roles.next_end() => result,
        // Cancel safe: only asks and prints. Ends early only if printing fails.
        Err(failure) = announce(&urls, args.base_port != BASE_PORT, identities.as_ref()) => Err(failure),
    };
    let stopped = roles.stop().await;
    drop(temporary);
    result.and(stopped)
}

/// A bound port for a role.
struct Bound {
    name: String,
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Address of the role's metrics.
    fn metrics(&self, wanted: bool) -> Result<OsString, Failure> {
        if !wanted {
            return Ok("off".into());
        }
        let port = self.address.port().checked_add(METRICS_PORTS);
        let port =
            port.ok_or_else(|| Failure::usage("--metrics needs a lower --base-port: at most 64000"))?;
        Ok(SocketAddr::new(self.address.ip(), port).to_string().into())
    }

    /// The command line for the role's own binary. States the addresses, so that environment variables cannot change
    /// the addresses.
    fn flags<const N: usize>(&self, scheme: &str, flags: [(&str, OsString); N]) -> Vec<OsString> {
        let always = [
            ("--listen", self.address.to_string().into()),
            ("--advertise", self.url(scheme).into()),
        ];
        let pairs = always
            .into_iter()
            .chain(flags)
            .flat_map(|(flag, value)| [flag.into(), value]);
        std::iter::once(OsString::from(&self.name)).chain(pairs).collect()
    }
}

fn addresses(bound: &[Bound], scheme: &str) -> Vec<String> {
    bound.iter().map(|bound| bound.url(scheme)).collect()
}

/// The certificates of `paxos dev --tls`.
struct Identities(PathBuf);

impl Identities {
    /// Makes the certificates below the data directory, or renews them.
    fn make(data_dir: &Path) -> Result<Self, Failure> {
        // Shown to people, who are in other directories.
        let dir = std::path::absolute(data_dir)
            .map_err(Failure::storage)?
            .join("tls");
        cert::make(
            &dir,
            &Domain::default(),
            cert::DAYS_DEFAULT,
            &MoreNames::default(),
        )?;
        Ok(Self(dir))
    }

    fn of(&self, role: RoleName) -> TlsSettings {
        let dir = self.0.join(role.as_str());
        TlsSettings {
            files: TlsFiles {
                cert: dir.join("cert.pem"),
                key: dir.join("key.pem"),
                ca: dir.join("ca.pem"),
            },
            domain: Domain::default(),
        }
    }
}

/// The security of a role: no environment variable changes it.
fn security(identities: Option<&Identities>, role: RoleName) -> SecuritySettings {
    SecuritySettings {
        tls: identities.map(|identities| identities.of(role)),
        ..SecuritySettings::default()
    }
}

fn parse<T: Parser>(flags: &[OsString]) -> Result<T, Failure> {
    command_line::parse_role(flags).map_err(Failure::usage)
}

fn bind_all(role: &str, first_port: u16, count: u16) -> Result<Vec<Bound>, Failure> {
    (0..count)
        .map(|index| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, first_port + index));
            let name = format!("{role}-{}", index + 1);
            let listener = TcpListener::bind(address).map_err(|error| {
                if error.kind() == ErrorKind::AddrInUse {
                    return Failure::usage(format!(
                        "port {} for {name} is taken: stop the process on this port (another `paxos dev`?), or choose \
                         other ports with --base-port",
                        address.port()
                    ));
                }
                Failure::usage(format!("cannot listen on {address} for {name}: {error}"))
            })?;
            listener.set_nonblocking(true).map_err(Failure::internal)?;
            Ok(Bound { name, listener, address })
        })
        .collect()
}

/// Index into [`Roles::stops`] for each kind of role.
const PROPOSERS: usize = 0;
const LEARNERS: usize = 1;
const ACCEPTORS: usize = 2;

/// The threads of the roles.
struct Roles {
    running: usize,
    results: mpsc::Sender<(usize, Result<(), Failure>)>,
    ended: mpsc::Receiver<(usize, Result<(), Failure>)>,
    /// In stopping order: a leader still needs acceptors, to finish the commands in flight and to resign.
    stops: [DevShutdown; 3],
}

#[derive(Default)]
struct DevShutdown {
    token: CancellationToken,
    /// One of each started role.
    shutdowns: Vec<Shutdown>,
    running: usize,
}

impl Roles {
    fn start<F, R>(&mut self, kind: usize, bound: Bound, run: F) -> Result<(), Failure>
    where
        F: FnOnce(tokio::net::TcpListener, Shutdown) -> R + Send + 'static,
        R: Future<Output = Result<(), Failure>>,
    {
        let Bound { name, listener, .. } = bound;
        let shutdown = Shutdown::new(&self.stops[kind].token);
        self.stops[kind].shutdowns.push(shutdown.clone());
        let results = self.results.clone();
        let role = name.clone();
        let thread = thread::Builder::new().name(name);
        let body = move || {
            let result = process::block_on(1, async {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::internal)?;
                run(listener, shutdown).await
            });
            // The channel has room for one result of each thread. Without a receiver the process is ending anyway.
            let _ = results.try_send((kind, result.map_err(|failure| failure.context(role))));
        };
        // Not joined: sending the result is the last act of the thread.
        thread.spawn(body).map_err(Failure::internal)?;
        self.stops[kind].running += 1;
        self.running += 1;
        Ok(())
    }

    /// Waits for the next role to end.
    async fn next_end(&mut self) -> Result<(), Failure> {
        let Some((kind, result)) = self.ended.recv().await else {
            return Err(Failure::internal(anyhow::anyhow!("the roles' results are lost")));
        };
        self.stops[kind].running -= 1;
        self.running -= 1;
        result
    }

    /// Stops all roles, kind by kind. Returns the first failure. The next kind begins to stop when the work of the kind
    /// before has ended: the last telemetry of all roles is sent at the same time.
    async fn stop(&mut self) -> Result<(), Failure> {
        let mut first = Ok(());
        for kind in [PROPOSERS, LEARNERS, ACCEPTORS] {
            self.stops[kind].token.cancel();
            let shutdowns = std::mem::take(&mut self.stops[kind].shutdowns);
            let mut drained = pin!(join_all(shutdowns.iter().map(Shutdown::drained)));
            while self.stops[kind].running > 0 {
                tokio::select! {
                    // Cancel safe: only waits.
                    _ = &mut drained => break,
                    // Cancel safe: a result is either received or still in the channel.
                    ended = self.next_end() => first = first.and(ended),
                }
            }
        }
        while self.running > 0 {
            first = first.and(self.next_end().await);
        }
        first
    }
}

async fn print_addresses(
    args: &Args,
    temporary: bool,
    data_dir: &Path,
    (roles, scheme): ([&[Bound]; 3], &str),
) -> Result<(), Failure> {
    let fate = if temporary { " (removed on stop)" } else { "" };
    let [acceptors, proposers, learners] = roles.map(|bound| addresses(bound, scheme).join("  "));
    write(&format!(
        "acceptors  {acceptors}\nproposers  {proposers}\nlearners   {learners}\ndata       {}{fate}\n\nStarting {} \
         roles in this process; Ctrl-C stops them.\n",
        data_dir.display(),
        args.acceptor_count + args.proposer_count + args.learner_count,
    ))
    .await
}

/// Waits until the cluster works, then prints commands to try. Prints the first finding when the wait is long.
async fn announce(urls: &str, elsewhere: bool, identities: Option<&Identities>) -> Result<(), Failure> {
    let mut config = ClientConfig::new(urls.split(',')).map_err(Failure::internal)?;
    config.tls = identities.map(|identities| identities.of(RoleName::Client));
    let client = Client::new(config).map_err(Failure::internal)?;
    let client = client.with_timeout(READY_PATIENCE);
    let begun = Instant::now();
    let mut ticks = interval(READY_CHECK);
    let mut warned = false;
    loop {
        ticks.tick().await;
        let verdict = judge(&client.cluster_report().await);
        if verdict.exit() == Exit::Clean {
            break;
        }
        if begun.elapsed() > READY_SOON && !warned {
            warned = true;
            if let Some(finding) = verdict.findings.first() {
                write(&format!(
                    "Still not ready: {}\n    what to do: {}\n",
                    finding.problem, finding.advice
                ))
                .await?;
            }
        }
    }
    let flags = if elsewhere {
        format!(" --acceptors {urls}")
    } else {
        String::new()
    };
    let exports = identities.map_or_else(String::new, |identities| {
        let TlsFiles { cert, key, ca } = identities.of(RoleName::Client).files;
        let (cert, key, ca) = (cert.display(), key.display(), ca.display());
        format!("    export PAXOS_TLS_CERT={cert} PAXOS_TLS_KEY={key} PAXOS_TLS_CA={ca}\n")
    });
    write(&format!(
        "Ready after {:.1} s. In another terminal, try:\n\n{exports}    paxos decide leader alice{flags}\n    paxos put colour \
         blue{flags}\n    paxos get colour{flags}\n    paxos propose hello{flags}\n    paxos log --follow{flags}\n    \
         paxos status{flags}\n    paxos bench{flags}\n\n",
        begun.elapsed().as_secs_f64()
    ))
    .await?;
    std::future::pending().await
}
