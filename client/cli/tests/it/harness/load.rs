//! Load: concurrent proposals of several clients, each value once, and the outcomes.

use std::{
    collections::{BTreeMap, HashSet},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_client::{Client, LogRecord, Operation, ProposeError, Slot, Version};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{Cluster, PATIENCE, integer, until};

/// Proposals by clients, each with several proposals in flight.
pub(crate) struct BackgroundLoad {
    shared: Arc<LoadState>,
    workers: Vec<tokio::task::JoinHandle<LoadOutcome>>,
}

struct LoadState {
    /// Number of proposals with an outcome.
    done: AtomicUsize,
    stopped: AtomicBool,
    gap: Mutex<AnswerGap>,
}

/// The longest time without a successful proposal.
struct AnswerGap {
    last: Instant,
    longest: Duration,
}

/// The outcomes of a load.
#[derive(Default)]
pub(crate) struct LoadOutcome {
    pub(crate) acknowledged: BTreeMap<Version, Vec<u8>>,
    /// Values that may be in the log.
    pub(crate) unknown: HashSet<Vec<u8>>,
    /// Values that must not be in the log.
    pub(crate) not_proposed: HashSet<Vec<u8>>,
}

impl BackgroundLoad {
    /// Starts this number of clients. Each client makes `each` proposals, with `in_flight` proposals at a time.
    pub(crate) fn start(cluster: &Cluster, clients: usize, each: usize, in_flight: usize) -> Self {
        Self::named(cluster, "value", clients, each, in_flight)
    }

    /// As [`start`](Self::start), with values that begin with `name`: for a second load at the same time.
    pub(crate) fn named(
        cluster: &Cluster,
        name: &'static str,
        clients: usize,
        each: usize,
        in_flight: usize,
    ) -> Self {
        let clients = (0..clients).map(|_| cluster.client()).collect();
        Self::of(clients, name, each, in_flight)
    }

    /// As [`named`](Self::named), with these clients.
    pub(crate) fn of(clients: Vec<Client>, name: &'static str, each: usize, in_flight: usize) -> Self {
        Self::of_bytes(clients, name, each, in_flight, 0)
    }

    /// As [`of`](Self::of), with values of at least this number of bytes.
    pub(crate) fn of_bytes(
        clients: Vec<Client>,
        name: &'static str,
        each: usize,
        in_flight: usize,
        bytes: usize,
    ) -> Self {
        let shared = Arc::new(LoadState::new());
        let mut workers = Vec::new();
        for (client_number, client) in clients.into_iter().enumerate() {
            let next = Arc::new(AtomicUsize::new(0));
            for _ in 0..in_flight {
                let (client, shared, next) = (client.clone(), shared.clone(), next.clone());
                workers.push(tokio::spawn(async move {
                    let mut outcome = LoadOutcome::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= each || shared.stopped.load(Ordering::Relaxed) {
                            return outcome;
                        }
                        let value = format!("{name} {number} of client {client_number}");
                        let value = format!("{value:.<bytes$}").into_bytes();
                        let result = client.append_at_most_once(value.clone()).await;
                        if result.is_ok() {
                            shared.succeeded();
                        }
                        outcome.add(result, value);
                        shared.done.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        Self { shared, workers }
    }

    /// Starts this number of client processes. Each process makes `each` proposals, with `in_flight` proposals at a
    /// time.
    pub(crate) fn of_processes(cluster: &Cluster, clients: usize, each: usize, in_flight: usize) -> Self {
        let shared = Arc::new(LoadState::new());
        let workers = (0..clients).map(|client_number| {
            let in_flight = in_flight.to_string();
            let timeout = format!("{}s", PATIENCE.as_secs());
            let urls = cluster.urls();
            let args = ["propose", "--lines", "--output", "json", "--acceptors", &urls];
            let mut command =
                super::paxos(&[&args[..], &["--timeout", &timeout, "--in-flight", &in_flight]].concat());
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut child = tokio::process::Command::from(command)
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let values: Vec<_> = (0..each)
                .map(|number| format!("value {number} of client process {client_number}\n"))
                .collect();
            let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let lines = values.concat();
            tokio::spawn(async move { input.write_all(lines.as_bytes()).await.unwrap() });
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut outcome = LoadOutcome::default();
                let mut printed = BufReader::new(output).lines();
                for value in values {
                    let line = printed.next_line().await.unwrap().expect("a line for each value");
                    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                    outcome.add_printed(&line, value.trim_end().into());
                    shared.done.fetch_add(1, Ordering::Relaxed);
                }
                child.wait().await.unwrap();
                outcome
            })
        });
        let workers = workers.collect();
        Self { shared, workers }
    }

    /// Number of proposals with an outcome.
    pub(crate) fn done(&self) -> usize {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits until this number of proposals have an outcome, of any kind.
    pub(crate) async fn reached(&self, count: usize) {
        until("the load goes on", async || (self.done() >= count).then_some(())).await;
    }

    /// Waits until this number of further proposals have an outcome.
    pub(crate) async fn goes_on(&self, count: usize) {
        self.reached(self.done() + count).await;
    }

    /// The longest time without a success since the last call of this function.
    pub(crate) fn take_gap(&self) -> Duration {
        std::mem::take(&mut self.shared.gap.lock().unwrap().longest)
    }

    /// Waits for all outcomes.
    pub(crate) async fn finish(self) -> LoadOutcome {
        let mut sum = LoadOutcome::default();
        for worker in self.workers {
            sum.merge(worker.await.unwrap());
        }
        sum
    }

    /// Stops proposing, and waits for the outcomes of the proposals in flight.
    pub(crate) async fn stop(self) -> LoadOutcome {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.finish().await
    }
}

impl LoadState {
    fn new() -> Self {
        let gap = AnswerGap {
            last: Instant::now(),
            longest: Duration::ZERO,
        };
        Self {
            done: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            gap: Mutex::new(gap),
        }
    }

    fn succeeded(&self) {
        let mut gap = self.gap.lock().unwrap();
        let now = Instant::now();
        gap.longest = gap.longest.max(now - gap.last);
        gap.last = now;
    }
}

impl LoadOutcome {
    pub(crate) fn merge(&mut self, other: Self) {
        for (version, value) in other.acknowledged {
            let twice = self.acknowledged.insert(version, value);
            assert_eq!(twice, None, "two values were answered with the version {version}");
        }
        self.unknown.extend(other.unknown);
        self.not_proposed.extend(other.not_proposed);
    }

    fn add(&mut self, result: Result<Version, ProposeError>, value: Vec<u8>) {
        match result {
            Ok(version) => _ = self.acknowledged.insert(version, value),
            Err(ProposeError::OutcomeUnknown(_)) => _ = self.unknown.insert(value),
            Err(ProposeError::NotProposed(_)) => _ = self.not_proposed.insert(value),
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds an outcome from the output of `paxos propose --output json`.
    fn add_printed(&mut self, line: &serde_json::Value, value: Vec<u8>) {
        let (slot, offset) = (&line["version"]["slot"], &line["version"]["offset"]);
        match (integer(slot), offset.as_u64(), line["error"]["reason"].as_str()) {
            (Some(slot), Some(offset), None) => {
                let (slot, offset) = (Slot::new(slot).unwrap(), offset.try_into().unwrap());
                self.acknowledged.insert(Version { slot, offset }, value);
            }
            (None, None, Some("OUTCOME_UNKNOWN")) => _ = self.unknown.insert(value),
            (None, None, Some("NOT_PROPOSED")) => _ = self.not_proposed.insert(value),
            _ => panic!("{line}"),
        }
    }

    /// One past the last acknowledged slot.
    pub(crate) fn end(&self) -> Slot {
        self.acknowledged
            .keys()
            .next_back()
            .map_or(Slot::ZERO, |version| version.slot.next())
    }

    /// Checks a log against the answers to the clients.
    pub(crate) fn check(&self, log: &BTreeMap<Version, Vec<u8>>) {
        for (version, value) in &self.acknowledged {
            assert_eq!(log.get(version), Some(value), "acknowledged at {version}");
        }
        let mut seen = HashSet::new();
        for (version, value) in log {
            assert!(
                seen.insert(value),
                "{} is in the log twice, again at {version}",
                String::from_utf8_lossy(value)
            );
            let known = self.acknowledged.get(version) == Some(value) || self.unknown.contains(value);
            assert!(
                known,
                "no writer proposed the value at {version}: {}",
                String::from_utf8_lossy(value)
            );
        }
    }
}

/// The appended records of a slot, each with its version.
pub(crate) fn commands_of(record: &LogRecord) -> Vec<(Version, Vec<u8>)> {
    let appended = record.commands().map(|command| {
        let Operation::Append(record) = &command.operation else {
            panic!("{command:?} was not proposed")
        };
        (command.version, record.to_vec())
    });
    appended.collect()
}
