//! Closed loops: each worker sends its next operation once the last has its answer.

use std::{
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    EndingSignal, OperationKind,
    cpu::{cpu_seconds, resident_kib},
    system::LoadedSystem,
};

/// Number of keys that reads use, each written before.
const READ_KEYS: u64 = 10_000;
/// Number of those keys that are written at a time.
const PRELOAD_IN_FLIGHT: u64 = 64;
/// Pause of a worker after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Load before the leader is killed, and the longest wait for a success afterwards.
const BEFORE_KILL: Duration = Duration::from_secs(3);
const AFTER_KILL_MAX: Duration = Duration::from_secs(20);

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// A measurement of rate and latencies.
#[derive(Debug)]
pub(crate) struct Measurement {
    pub(crate) operation: OperationKind,
    pub(crate) in_flight: usize,
    pub(crate) value_bytes: usize,
    /// `None`: a new key for each write.
    pub(crate) keys: Option<u64>,
    pub(crate) warm_up: Duration,
    pub(crate) seconds: Duration,
    pub(crate) operations_max: u64,
    pub(crate) processes: Vec<u32>,
}

/// A measurement of the time without a success after the end of the leader.
#[derive(Debug)]
pub(crate) struct Failover {
    pub(crate) in_flight: usize,
    pub(crate) value_bytes: usize,
    /// The signal to the leader.
    pub(crate) signal: EndingSignal,
    /// The process of each address.
    pub(crate) processes: Vec<u32>,
}

/// What all workers share.
#[derive(Debug)]
struct Shared {
    prefix: u64,
    value: Bytes,
    keys: Option<u64>,
    operation: OperationKind,
    phase: AtomicU8,
    next: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Shared {
    fn new(value_bytes: usize, keys: Option<u64>, operation: OperationKind) -> Arc<Self> {
        Arc::new(Self {
            // A prefix that no earlier run used.
            prefix: rand::random::<u32>().into(),
            value: vec![b'x'; value_bytes].into(),
            keys,
            operation,
            phase: AtomicU8::new(WARM_UP),
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
        })
    }

    /// 27 bytes: keys come in ascending order, unless the same keys are used again and again.
    fn key(&self, number: u64) -> Bytes {
        let number = match (self.operation, self.keys) {
            (OperationKind::Get, _) => number.wrapping_mul(0x9E37_79B9) % READ_KEYS,
            (OperationKind::Put, Some(keys)) => number.wrapping_mul(0x9E37_79B9) % keys,
            (OperationKind::Put, None) | (OperationKind::Look, _) => number,
        };
        format!("k{:013x}/{number:012x}", self.prefix).into()
    }

    /// Sends one operation.
    async fn operate(&self, system: &mut LoadedSystem) -> bool {
        let key = self.key(self.next.fetch_add(1, Relaxed));
        let result = match self.operation {
            OperationKind::Get => system.get(key).await,
            OperationKind::Put => system.put(key, self.value.clone()).await,
            OperationKind::Look => system.look(key, &self.value).await,
        };
        let Err(error) = result else { return true };
        self.errors.fetch_add(1, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
        system.rotate();
        false
    }

    /// Measures latencies in microseconds until the stop. Counts what begins and ends within the measured time.
    async fn work(&self, mut system: LoadedSystem) -> Histogram<u64> {
        let mut latencies = latencies();
        loop {
            let before = self.phase.load(Relaxed);
            if before == STOP {
                return latencies;
            }
            let begun = Instant::now();
            if !self.operate(&mut system).await {
                sleep(ERROR_PAUSE).await;
            } else if before == MEASURE && self.phase.load(Relaxed) == MEASURE {
                latencies.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
                self.done.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Measurement {
    pub(crate) async fn run(self, system: LoadedSystem) -> anyhow::Result<Value> {
        let shared = Shared::new(self.value_bytes, self.keys, self.operation);
        if self.operation == OperationKind::Get {
            preload(&shared, &system).await?;
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.in_flight {
            let (shared, system) = (Arc::clone(&shared), system.clone());
            workers.spawn(async move { shared.work(system).await });
        }
        sleep(self.warm_up).await;
        let before: Vec<_> = self
            .processes
            .iter()
            .map(|&process| cpu_seconds(process))
            .collect();
        let own = cpu_seconds(std::process::id());
        let begun = Instant::now();
        shared.phase.store(MEASURE, Relaxed);
        while begun.elapsed() < self.seconds && shared.done.load(Relaxed) < self.operations_max {
            sleep(Duration::from_millis(10)).await;
        }
        shared.phase.store(STOP, Relaxed);
        let (elapsed, done) = (begun.elapsed().as_secs_f64(), shared.done.load(Relaxed));
        let used = self.processes.iter().zip(&before);
        let processes: Vec<_> = used
            .map(|(&process, before)| {
                let micros = (cpu_seconds(process) - before) * 1e6;
                json!({
                    "process": process,
                    "cpu_us": round(micros / float(done.max(1))),
                    "resident_kib": resident_kib(process),
                })
            })
            .collect();
        let own = (cpu_seconds(std::process::id()) - own) * 1e6;
        let mut latencies = latencies();
        while let Some(worker) = workers.join_next().await {
            latencies.add(worker?)?;
        }
        let last_error = shared
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(json!({
            "in_flight": self.in_flight,
            "operations": done,
            "per_second": round(float(done) / elapsed),
            "p50_us": latencies.value_at_quantile(0.5),
            "p99_us": latencies.value_at_quantile(0.99),
            "errors": shared.errors.load(Relaxed),
            "last_error": last_error,
            "client_cpu_us": round(own / float(done.max(1))),
            "processes": processes,
        }))
    }
}

impl Failover {
    pub(crate) async fn run(self, mut system: LoadedSystem) -> anyhow::Result<Value> {
        let leader = system.leader().await?;
        let leader = leader.context("the client library hides the leader: use --system paxos or etcd")?;
        let process = self.processes.get(leader);
        let process = process.context("give the process of each address")?;
        let shared = Shared::new(self.value_bytes, None, OperationKind::Put);
        let mut workers = JoinSet::new();
        // The first success of an operation that began after the kill.
        let killed: Arc<Mutex<Option<Instant>>> = Arc::default();
        let found: Arc<Mutex<Option<Instant>>> = Arc::default();
        for _ in 0..self.in_flight {
            let (shared, mut system) = (Arc::clone(&shared), system.clone());
            let (killed, found) = (Arc::clone(&killed), Arc::clone(&found));
            workers.spawn(async move {
                loop {
                    let is_after = killed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                    if !shared.operate(&mut system).await {
                        sleep(ERROR_PAUSE).await;
                    } else if is_after {
                        found
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert_with(Instant::now);
                        return;
                    } else {
                        shared.done.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        sleep(BEFORE_KILL).await;
        ensure!(shared.done.load(Relaxed) > 0, "nothing succeeded before the kill");
        let signal = match self.signal {
            EndingSignal::Kill => "-KILL",
            EndingSignal::Term => "-TERM",
        };
        let kill = Command::new("kill")
            .args([signal, &process.to_string()])
            .status()?;
        ensure!(kill.success(), "cannot kill process {process}");
        let at = Instant::now();
        *killed.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        let waited = timeout(AFTER_KILL_MAX, workers.join_next()).await;
        waited.context("no success after the kill")?;
        let found = *found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.context("no worker went on")?;
        Ok(json!({
            "killed": process,
            "gap_ms": round((found - at).as_secs_f64() * 1e3),
        }))
    }
}

/// Writes the keys that reads use.
async fn preload(shared: &Arc<Shared>, system: &LoadedSystem) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for first in 0..PRELOAD_IN_FLIGHT {
        let (shared, mut system) = (Arc::clone(shared), system.clone());
        workers.spawn(async move {
            for number in (first..READ_KEYS).step_by(64) {
                let key = format!("k{:013x}/{number:012x}", shared.prefix);
                system.put(key.into(), shared.value.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("the bounds are constants that fit")
}

#[expect(clippy::cast_precision_loss, reason = "counts for people stay far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// One decimal is enough for people.
fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
