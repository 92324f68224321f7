//! A cluster of real processes: each `paxos serve ROLE` with a separate port and directory, killed and restarted at
//! will.

mod load;
mod proxy;
pub(crate) mod tls;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use paxos_client::{Address, Client, ClientConfig, Slot, Version};
use paxos_proto::v1::{AcceptorStatusResponse, attach_request::Progress};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use load::{BackgroundLoad, LoadOutcome, commands_of};
pub(crate) use proxy::{Cut, Proxy};
pub(crate) use tls::channel;

/// Time limit for any condition, longer than every legitimate wait on a busy machine: a condition still false by then
/// is a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Range of ports, below the kernel's ports for outgoing connections: a process that restarts on its port must not find
/// the port in use.
const PORTS: (u16, u16) = (10_000, 30_000);

/// Number of clusters that run at the same time. Most tests wait for timeouts and disks for most of their time, and two
/// cores have room for three such tests. A starved cluster would prove nothing.
const CLUSTERS_MAX: u32 = 3;
static ROOM: Semaphore = Semaphore::const_new(CLUSTERS_MAX as usize);

/// An address without a listening process.
pub(crate) const NO_CLUSTER: &str = "http://127.0.0.1:1";

/// Waits until `look` returns a value. Panics with the awaited condition after [`PATIENCE`].
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: did not happen within {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The first of `count` consecutive ports without a listener.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    if NEXT.load(Ordering::Relaxed) == 0 {
        NEXT.store(rand::random_range(PORTS.0..PORTS.1), Ordering::Relaxed);
    }
    loop {
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        if first > PORTS.1 {
            NEXT.store(PORTS.0, Ordering::Relaxed);
        } else if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// Environment variables of a cluster's processes.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// `paxos` with these arguments and without our environment.
pub(crate) fn paxos(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paxos"));
    let is_ours = |name: &str| name.starts_with("PAXOS_") || name.starts_with("OTEL_");
    for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    // The usual ports are few, and many processes run here.
    command.env("PAXOS_METRICS_LISTEN", "off");
    command.envs(tls::of_commands());
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `paxos` to its end, without blocking the test's runtime.
pub(crate) async fn run(args: &[&str]) -> Output {
    run_with(args, &Environment::new()).await
}

/// As [`run`], in this environment. Dropping the call ends the process: a test that waited too long fails, and does not
/// wait on.
pub(crate) async fn run_with(args: &[&str], environment: &Environment) -> Output {
    let mut command = tokio::process::Command::from(paxos(args));
    command.envs(environment.iter().cloned()).kill_on_drop(true);
    command.output().await.unwrap()
}

/// Standard output of a successful command, as text.
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The standard error of a command.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An integer of 64 bits in JSON: a string.
pub(crate) fn integer(json: &Value) -> Option<u64> {
    json.as_str()?.parse().ok()
}

/// A process of ours that can be killed and restarted with the same identity.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) address: Address,
    args: Vec<String>,
    environment: Environment,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A role that listens on `port` and logs to a file in `dir`.
    pub(crate) fn role(dir: &Path, role: &str, name: String, port: u16, flags: &[&str]) -> Self {
        let environment = tls::of_role(&tls::of_tests(Environment::new()), role);
        Self::role_with(dir, role, name, port, flags, environment)
    }

    /// As [`role`](Self::role), in this environment.
    pub(crate) fn role_with(
        dir: &Path,
        role: &str,
        name: String,
        port: u16,
        flags: &[&str],
        environment: Environment,
    ) -> Self {
        let listen = format!("127.0.0.1:{port}");
        tls::check_secure(&environment);
        let address = format!("{}://{listen}", tls::scheme(&environment))
            .parse()
            .unwrap();
        let args = ["serve", role, "--listen", &listen]
            .iter()
            .chain(flags)
            .map(ToString::to_string)
            .collect();
        let mut process = Self {
            log: dir.join(format!("{name}.log")),
            name,
            address,
            args,
            environment,
            child: None,
        };
        process.start();
        process
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let mut command = paxos(&args);
        command.envs(self.environment.iter().cloned());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// The process id, for the kernel's information on the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.unwrap().parse().unwrap()
    }

    /// Sends SIGKILL, and returns once the process is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.take().expect("it runs").wait().unwrap();
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let child = self.child.as_mut().expect("it runs");
        let status = until(&format!("{name} ends"), async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    /// The exit status of a process that ended by itself; `None` while the process runs, and for a process that was not
    /// started.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Sends SIGKILL if the process still runs.
    pub(crate) fn kill_if_it_runs(&mut self) {
        if self.try_ended().is_none() && self.child.is_some() {
            self.kill();
        }
    }

    /// Sends SIGTERM. Returns the exit status.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the log of {} ends so ---\n{}\n", self.name, tail.join("\n"));
        }
    }
}

/// Processes of all three roles.
pub(crate) struct Cluster {
    pub(crate) acceptors: Vec<Process>,
    pub(crate) proposers: Vec<Process>,
    pub(crate) learners: Vec<Process>,
    pub(crate) dir: TempDir,
    /// Environment of the processes added from now on.
    pub(crate) environment: Environment,
    _room: SemaphorePermit<'static>,
}

/// Waits for room for a cluster.
pub(crate) async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.expect("never closed")
}

/// Waits until no other cluster runs.
async fn whole_room() -> SemaphorePermit<'static> {
    ROOM.acquire_many(CLUSTERS_MAX).await.expect("never closed")
}

impl Cluster {
    /// Starts these numbers of processes. Waits until a proposer leads and every learner has caught up.
    pub(crate) async fn start(acceptors: u16, proposers: u16, learners: u16) -> Self {
        Self::start_with(acceptors, proposers, learners, Environment::new()).await
    }

    /// As [`start`](Self::start), in this environment.
    pub(crate) async fn start_with(
        acceptors: u16,
        proposers: u16,
        learners: u16,
        environment: Environment,
    ) -> Self {
        let mut cluster = Self::blank_in(TempDir::new().unwrap(), acceptors, environment, room().await);
        cluster.add_roles(proposers, learners).await;
        cluster
    }

    /// As [`start`](Self::start), while no other cluster runs. For tests that judge times, processor time or changes of
    /// the leader: other clusters would disturb the measurement.
    pub(crate) async fn start_alone(acceptors: u16, proposers: u16, learners: u16) -> Self {
        let room = whole_room().await;
        let mut cluster = Self::blank_in(TempDir::new().unwrap(), acceptors, Environment::new(), room);
        cluster.add_roles(proposers, learners).await;
        cluster
    }

    /// Adds these numbers of processes. Waits until a proposer leads and every learner has caught up.
    async fn add_roles(&mut self, proposers: u16, learners: u16) {
        for _ in 0..proposers {
            self.add_proposer(&self.urls(), &[]);
        }
        for number in 1..=learners {
            let name = format!("learner-{number}");
            let data_dir = self.path(&name);
            self.add_learner(name, &["--data-dir", &data_dir]);
        }
        self.leader().await;
        for learner in &self.learners {
            let healthcheck = ["healthcheck", learner.address.host_and_port()];
            let environment = tls::of_role(&self.environment, "client");
            until("a learner is ready", async || {
                run_with(&healthcheck, &environment)
                    .await
                    .status
                    .success()
                    .then_some(())
            })
            .await;
        }
    }

    /// Acceptors that have not formed a cluster.
    pub(crate) async fn blank(acceptors: u16) -> Self {
        Self::blank_in(
            TempDir::new().unwrap(),
            acceptors,
            Environment::new(),
            room().await,
        )
    }

    /// As [`blank`](Self::blank), on a disk that never stalls: in memory, if the machine offers such a directory. For
    /// tests of leadership: an acceptor with a disk stalled for a second looks cut off to every other process, and
    /// disks of busy machines do stall.
    pub(crate) async fn blank_and_calm(acceptors: u16) -> Self {
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self::blank_in(dir.unwrap(), acceptors, Environment::new(), room().await)
    }

    fn blank_in(
        dir: TempDir,
        acceptors: u16,
        environment: Environment,
        room: SemaphorePermit<'static>,
    ) -> Self {
        let mut cluster = Self {
            acceptors: Vec::new(),
            proposers: Vec::new(),
            learners: Vec::new(),
            environment: tls::of_tests(environment),
            dir,
            _room: room,
        };
        for _ in 0..acceptors {
            cluster.add_acceptor();
        }
        cluster
    }

    pub(crate) fn add_acceptor(&mut self) {
        let name = format!("acceptor-{}", self.acceptors.len() + 1);
        let data_dir = self.path(&name);
        let flags = ["--id", &name, "--data-dir", &data_dir];
        self.acceptors.push(self.role("acceptor", name.clone(), &flags));
    }

    /// A proposer with these addresses of acceptors.
    pub(crate) fn add_proposer(&mut self, urls: &str, flags: &[&str]) {
        let name = format!("proposer-{}", self.proposers.len() + 1);
        let flags: Vec<_> = ["--acceptors", urls].iter().chain(flags).copied().collect();
        self.proposers.push(self.role("proposer", name, &flags));
    }

    pub(crate) fn add_learner(&mut self, name: String, flags: &[&str]) {
        let urls = self.urls();
        let flags: Vec<_> = ["--acceptors", &urls].iter().chain(flags).copied().collect();
        self.learners.push(self.role("learner", name, &flags));
    }

    pub(crate) fn role(&self, role: &str, name: String, flags: &[&str]) -> Process {
        let environment = tls::of_role(&self.environment, role);
        Process::role_with(self.dir.path(), role, name, free_ports(1), flags, environment)
    }

    /// The data directory of the process of this name, or any other path in the cluster's directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The acceptors' addresses, in the form of `--acceptors`.
    pub(crate) fn urls(&self) -> String {
        self.acceptors
            .iter()
            .map(|acceptor| acceptor.address.to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// A client that finds the cluster through the acceptors.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&[])
    }

    /// A client that reads only from these learners.
    pub(crate) fn client_of(&self, learners: &[&Process]) -> Client {
        let mut config = ClientConfig::new(self.acceptors.iter().map(|acceptor| &acceptor.address)).unwrap();
        config.learners = learners.iter().map(|learner| learner.address.clone()).collect();
        config.timeout = PATIENCE;
        config.tls = tls::client_identity(&self.environment);
        Client::new(config).unwrap()
    }

    /// One acceptor's status; `None` without an answer.
    pub(crate) async fn acceptor_status(&self, acceptor: usize) -> Option<AcceptorStatusResponse> {
        let mut config = ClientConfig::new([&self.acceptors[acceptor].address]).unwrap();
        config.timeout = Duration::from_secs(5);
        config.tls = tls::client_identity(&self.environment);
        let status = Client::new(config).unwrap().cluster_report().await;
        status.answers().next().cloned()
    }

    /// `paxos status` as JSON, and its exit code.
    pub(crate) async fn status(&self) -> (Value, Option<i32>) {
        let environment = tls::of_role(&self.environment, "client");
        let command = ["status", "--output", "json", "--acceptors", &self.urls()];
        let output = run_with(&command, &environment).await;
        let status = serde_json::from_slice(&output.stdout).unwrap();
        (status, output.status.code())
    }

    /// Index of the leading proposer. Waits for a leader.
    pub(crate) async fn leader(&self) -> usize {
        let client = self.client();
        until("a proposer leads", async || {
            let status = client.with_timeout(Duration::from_secs(1)).cluster_report().await;
            let leading = status
                .answers()
                .flat_map(|answer| &answer.attached)
                .filter_map(|peer| match &peer.report.as_ref()?.progress {
                    Some(Progress::Proposer(progress)) if progress.leading => Some((
                        progress.ballot.map(|ballot| (ballot.round, ballot.proposer)),
                        peer,
                    )),
                    Some(Progress::Proposer(_) | Progress::Learner(_)) | None => None,
                })
                .max_by_key(|(ballot, _)| *ballot)?;
            let address = &leading.1.report.as_ref()?.address;
            self.proposers
                .iter()
                .position(|proposer| proposer.address.as_str() == address)
        })
        .await
    }

    /// All commands in a learner's log up to `end`. Waits until the learner reaches `end`.
    pub(crate) async fn log_of(&self, learner: &Process, end: Slot) -> BTreeMap<Version, Vec<u8>> {
        let mut log = self.client_of(&[learner]).log(Slot::ZERO);
        let mut commands = BTreeMap::new();
        let mut next = Slot::ZERO;
        while next < end {
            let news = tokio::time::timeout(PATIENCE, log.next())
                .await
                .expect("the learner goes on")
                .unwrap()
                .unwrap();
            for record in &news.records {
                commands.extend(commands_of(record));
            }
            next = news.next;
        }
        commands
    }

    /// Waits until `paxos status` has no finding, and the digests of all learners are equal, at or past `end`.
    pub(crate) async fn digests_are_equal(&self, end: Slot) -> Value {
        until("digests are equal at the end of the log", async || {
            let (status, code) = self.status().await;
            for differing in ["differ", "states differ"] {
                assert_ne!(status["digests"]["verdict"], differing, "{status}");
            }
            let equal =
                status["digests"]["verdict"] == "equal" && integer(&status["digests"]["to"])? >= end.get();
            (equal && code == Some(0)).then_some(status)
        })
        .await
    }
}
