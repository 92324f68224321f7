//! Topology: the services of docker-compose.yml as a separate project, removed at the end of the test.
#![allow(clippy::print_stderr, reason = "what a person who runs it reads")]

use std::{
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::engine::{Engine, docker, text};

/// Time limit for any condition, longer than every legitimate wait on a busy machine: a condition still false by then
/// is a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between looks at a condition: every look starts a process or two.
const LOOK: Duration = Duration::from_millis(300);
/// Starts services in the background.
const UP: [&str; 3] = ["up", "-d", "--no-build"];
/// COMPOSE_FILE with three acceptors, with five acceptors, and both with TLS.
const FILES: [[&str; 2]; 2] = [
    ["docker-compose.yml", "docker-compose.yml:docker-compose.five.yml"],
    [
        "docker-compose.yml:docker-compose.tls.yml",
        "docker-compose.yml:docker-compose.five.yml:docker-compose.tls.yml:docker-compose.five.tls.yml",
    ],
];
/// Makes the certificates. Without a health check.
const CERTIFICATES: &str = "certificates";
/// The services with images of this project.
const ROLES: [&str; 5] = ["acceptor-1", "acceptor-2", "acceptor-3", "proposer", "learner"];
/// The acceptors' addresses for clients in the network.
const ACCEPTORS: &str = "http://acceptor-1:7001,http://acceptor-2:7001,http://acceptor-3:7001";

/// Waits until `look` returns a value. Panics with the awaited condition after [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: did not happen within {} s",
            PATIENCE.as_secs()
        );
        sleep(LOOK);
    }
}

/// A project of Compose.
pub(crate) struct Topology {
    engine: Engine,
    project: String,
    is_secure: bool,
    /// Whether the files for five acceptors are added.
    has_five: bool,
    /// Number of acceptors that are expected to be members.
    members: u16,
    /// A loopback address of this machine without other published ports.
    host: String,
}

impl Topology {
    /// Starts everything in the file except Jaeger, and waits until every container is healthy.
    pub(crate) fn up(engine: Engine) -> Self {
        Self::up_in(engine, &[&ROLES])
    }

    /// As [`up`](Self::up), group by group in this order; no service waits for another service.
    pub(crate) fn up_in(engine: Engine, order: &[&[&str]]) -> Self {
        Self::up_with(engine, order, false)
    }

    /// As [`up`](Self::up), with TLS. Commands on this machine have no certificates: use [`client`](Self::client).
    pub(crate) fn up_secure(engine: Engine) -> Self {
        Self::up_with(engine, &[&[&[CERTIFICATES], &ROLES[..]].concat()], true)
    }

    fn up_with(engine: Engine, order: &[&[&str]], is_secure: bool) -> Self {
        let begun = Instant::now();
        let number: u32 = rand::random();
        let topology = Self {
            engine,
            project: format!("paxos-test-{number:08x}"),
            is_secure,
            has_five: false,
            members: 3,
            host: format!("127.77.{}.{}", number % 250 + 1, number / 250 % 250 + 1),
        };
        for services in order {
            let flags = if order.len() > 1 {
                ["--no-deps"].as_slice()
            } else {
                &[]
            };
            text(&topology.compose(&[&UP, flags, services].concat()));
        }
        topology.is_healthy();
        println!("healthy after {:.1?}", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE, "not healthy within a minute");
        topology
    }

    /// Runs `up` again, with these flags.
    pub(crate) fn compose_up(&self, flags: &[&str]) {
        text(&self.compose(&[&UP, flags, &ROLES].concat()));
    }

    /// Gives all containers of a service the settings of the present files.
    pub(crate) fn recreate(&self, service: &str) {
        text(&self.compose(&[&UP[..], &["--no-deps", service]].concat()));
    }

    /// Changes the numbers of proposers and learners, and waits until all containers are healthy.
    pub(crate) fn scale(&self, proposers: usize, learners: usize) {
        self.scale_beside(proposers, learners, None);
    }

    /// As [`scale`](Self::scale), beside a container that cannot become healthy: its name contains `sick`.
    pub(crate) fn scale_beside(&self, proposers: usize, learners: usize, sick: Option<&str>) {
        let (proposers, learners) = (format!("proposer={proposers}"), format!("learner={learners}"));
        self.compose_up(&["--scale", &proposers, "--scale", &learners]);
        self.is_healthy_beside(sick);
    }

    /// Runs Compose on this project.
    pub(crate) fn compose(&self, words: &[&str]) -> Output {
        let variables = [
            ("COMPOSE_PROJECT_NAME", self.project.as_str()),
            ("PAXOS_IMAGE", self.engine.image()),
            ("BIND", &self.host),
            ("OTLP_ENDPOINT", ""),
            (
                "COMPOSE_FILE",
                FILES[usize::from(self.is_secure)][usize::from(self.has_five)],
            ),
        ];
        self.engine.compose(&variables, words)
    }

    /// Adds the files for five acceptors, and starts the two new acceptors alone.
    pub(crate) fn start_two_more(&mut self) {
        self.has_five = true;
        text(&self.compose(&[&UP[..], &["acceptor-4", "acceptor-5"]].concat()));
    }

    /// Makes `paxos status` ask this number of acceptors.
    pub(crate) fn expect_members(&mut self, members: u16) {
        self.members = members;
    }

    /// Runs `paxos` in the container of the first acceptor.
    pub(crate) fn in_acceptor(&self, words: &[&str]) -> Output {
        self.compose(&[&["exec", "-T", "acceptor-1", "paxos"], words].concat())
    }

    /// Runs `paxos` in a separate container, as users do.
    pub(crate) fn client(&self, words: &[&str]) -> Output {
        self.compose(&[&["run", "--rm", "-T", "paxos"], words].concat())
    }

    /// Runs the `paxos` of this machine, through the published ports.
    pub(crate) fn on_host(&self, words: &[&str]) -> Output {
        let acceptors = (7001..=7000 + self.members).map(|port| format!("http://{}:{port}", self.host));
        let acceptors = acceptors.collect::<Vec<_>>().join(",");
        Command::new(env!("CARGO_BIN_EXE_paxos"))
            .args(words)
            .args(["--acceptors", &acceptors])
            .output()
            .unwrap()
    }

    /// The addresses, on this machine, of a port of all containers of a service, in the form of `--proposers` and
    /// `--learners`.
    pub(crate) fn published(&self, service: &str, port: &str) -> String {
        let found = self.containers(service).into_iter().map(|container| {
            let address = text(&docker(&["port", &container, port]));
            format!("http://{}", address.lines().next().unwrap())
        });
        found.collect::<Vec<_>>().join(",")
    }

    /// `paxos status` as JSON, run on this machine or with TLS in a container, and its exit code.
    pub(crate) fn status(&self) -> (Value, Option<i32>) {
        let words = ["status", "--output", "json"];
        let output = if self.is_secure {
            self.client(&words)
        } else {
            self.on_host(&words)
        };
        let status = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (status, output.status.code())
    }

    /// Addresses of the attached processes of a role, as listed by `paxos status`.
    pub(crate) fn attached(&self, role: &str) -> Vec<String> {
        let (status, _) = self.status();
        let attached = status["attached"].as_array().unwrap().iter();
        attached
            .filter(|peer| peer["report"].get(role).is_some())
            .map(|peer| peer["report"]["address"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until `paxos status` has no finding, except disks that a busy machine makes slow.
    pub(crate) fn finds_nothing_wrong(&self) {
        let mut seen = Value::Null;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let (status, code) = self.status();
            let findings = status["findings"].as_array().unwrap();
            let is_slow = |finding: &Value| {
                let problem = finding["problem"].as_str().unwrap_or_default();
                problem.contains("has a slow disk")
            };
            if code == Some(0) && findings.iter().all(is_slow) {
                return;
            }
            seen = status["findings"].clone();
            sleep(LOOK);
        }
        panic!("something is wrong still: {seen}");
    }

    /// Waits until values can be ordered and every expected member votes.
    pub(crate) fn every_member_votes(&self) {
        until("every member votes", || {
            let (status, code) = self.status();
            let acceptors = status["acceptors"].as_array().unwrap().iter();
            let votes = acceptors.filter(|acceptor| acceptor["votes"] == true).count();
            (code == Some(0) && votes == usize::from(self.members)).then_some(())
        });
    }

    /// The container of the leading proposer. Waits for a leader.
    pub(crate) fn leader(&self) -> String {
        let running = self.containers("proposer");
        until("a proposer leads", || {
            let (status, code) = self.status();
            let address = status["leader_address"].as_str()?;
            let leader = running
                .iter()
                .find(|container| address.contains(container.as_str()))?;
            (code == Some(0)).then(|| leader.clone())
        })
    }

    /// Waits until a proposer other than `old` leads.
    pub(crate) fn leader_other_than(&self, old: &str) -> String {
        until("another proposer leads", || {
            Some(self.leader()).filter(|leader| leader != old)
        })
    }

    /// Ids of the running containers of a service; each id is the container's name in the network.
    pub(crate) fn containers(&self, service: &str) -> Vec<String> {
        let service = format!("label=com.docker.compose.service={service}");
        let listed = docker(&["ps", "--quiet", "--filter", &self.label(), "--filter", &service]);
        text(&listed).lines().map(str::to_owned).collect()
    }

    /// The only container of a service.
    pub(crate) fn container(&self, service: &str) -> String {
        self.containers(service)
            .pop()
            .unwrap_or_else(|| panic!("no {service} is running"))
    }

    /// Ids of all running containers.
    pub(crate) fn all(&self) -> Vec<String> {
        ROLES
            .iter()
            .flat_map(|service| self.containers(service))
            .collect()
    }

    /// Waits until all containers are healthy.
    pub(crate) fn is_healthy(&self) {
        self.is_healthy_beside(None);
    }

    fn is_healthy_beside(&self, sick: Option<&str>) {
        until("every container is healthy", || {
            let format = "{{.Names}} {{.Status}}";
            let listed = text(&docker(&[
                "ps",
                "--all",
                "--filter",
                &self.label(),
                "--format",
                format,
            ]));
            let listed: Vec<_> = listed
                .lines()
                .filter(|line| !line.contains(CERTIFICATES))
                .collect();
            let mut healthy = listed.iter().map(|line| {
                let is_sick = sick.is_some_and(|sick| line.contains(sick));
                line.ends_with(if is_sick { "(unhealthy)" } else { "(healthy)" })
            });
            (listed.len() >= ROLES.len() && healthy.all(|healthy| healthy)).then_some(())
        });
    }

    /// The network of the project.
    pub(crate) fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    /// The acceptors' addresses for clients in the network.
    pub(crate) fn acceptors(&self) -> &'static str {
        ACCEPTORS
    }

    pub(crate) fn image(&self) -> &'static str {
        self.engine.image()
    }

    /// A name with this project's prefix.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Marks the containers of this project, without containers of single commands.
    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.project)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (status, _) = self.status();
            eprintln!("--- status ---\n{status:#}");
            let logs = self.compose(&["logs", "--no-color", "--tail", "40"]);
            eprintln!("--- logs end so ---\n{}", String::from_utf8_lossy(&logs.stdout));
        }
        for container in self.all() {
            // A paused container cannot be stopped.
            docker(&["unpause", &container]);
        }
        self.compose(&["down", "--volumes", "--timeout", "1"]);
    }
}
