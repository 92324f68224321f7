//! Worker: the load itself. Runs in the network of the cluster, and checks the clients' answers.

use std::{
    collections::BTreeMap,
    env,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_client::{Client, LogRecord, Operation, Slot, Version};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    time::{sleep, timeout},
};

use paxos_testing::history::{
    Recorder,
    calls::Caller,
    positions,
    search::{self, Verdict},
};

/// Flag to run this program as the load; the patience for each call follows, in seconds.
pub(crate) const FLAG: &str = "--worker";
/// Ends the load.
pub(crate) const STOP: &str = "stop";

/// Number of clients that read and write three registers, each with a history of its calls.
const CALLERS: u64 = 4;
/// Number of tasks that append to the log, all through a single client.
const APPENDERS: u64 = 8;
/// Pause between two calls of a task, so that the cluster is busy and the machine is not.
const PAUSE: Duration = Duration::from_millis(20);
/// Number of reported errors: only the first errors are reported.
const ERRORS_MAX: usize = 5;
/// Time limit of the final checks.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls and gaps since the last look.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkTally {
    pub(crate) succeeded: u64,
    /// Calls that ended in an error, with a known or unknown outcome.
    pub(crate) failed: u64,
    /// The first errors.
    pub(crate) errors: Vec<String>,
    /// Longest time without a successful write or append, in milliseconds.
    pub(crate) write_gap_ms: u128,
    /// Longest time without a successful read, in milliseconds.
    pub(crate) read_gap_ms: u128,
    /// Longest duration of a finished call, in milliseconds.
    pub(crate) longest_call_ms: u128,
}

/// All checked work.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkSummary {
    pub(crate) appended: usize,
    /// Reads and writes of registers.
    pub(crate) calls: usize,
    /// Calls with an unknown outcome, among `calls`.
    pub(crate) unknown: usize,
}

impl WorkTally {
    pub(crate) fn add(&mut self, later: Self) {
        self.succeeded += later.succeeded;
        self.failed += later.failed;
        self.errors.extend(later.errors);
        self.errors.truncate(ERRORS_MAX);
        self.write_gap_ms = self.write_gap_ms.max(later.write_gap_ms);
        self.read_gap_ms = self.read_gap_ms.max(later.read_gap_ms);
        self.longest_call_ms = self.longest_call_ms.max(later.longest_call_ms);
    }

    /// The waiting times of clients, as text.
    pub(crate) fn gaps(&self) -> String {
        let Self {
            write_gap_ms,
            read_gap_ms,
            longest_call_ms,
            ..
        } = self;
        format!(
            "{write_gap_ms} ms without a write, {read_gap_ms} ms without a read, longest call {longest_call_ms} ms"
        )
    }
}

/// The patience, if the arguments ask for the load.
pub(crate) fn asked_for() -> Option<Duration> {
    let mut words = env::args().skip(1);
    (words.next()? == FLAG).then(|| Duration::from_secs(words.next().unwrap().parse().unwrap()))
}

/// Runs the load until the order to stop.
pub(crate) fn run(patience: Duration) -> ExitCode {
    // A panic in any task ends the whole program.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::exit(1);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(work(patience));
    ExitCode::SUCCESS
}

/// Time of the last success of a kind of call, and the longest time without a success since the last look.
#[derive(Clone, Copy)]
struct WriteGap {
    last: Instant,
    longest: Duration,
}

impl WriteGap {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn succeeded(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Includes the gap that is still open.
    fn take(&mut self) -> u128 {
        std::mem::take(&mut self.longest)
            .max(self.last.elapsed())
            .as_millis()
    }
}

/// The kind of a call.
#[derive(Clone, Copy)]
enum WorkKind {
    Read,
    Write,
}

struct WatchedKey {
    tally: WorkTally,
    writes: WriteGap,
    reads: WriteGap,
}

/// State shared by all tasks.
struct WorkerState {
    over: AtomicBool,
    watched: Mutex<WatchedKey>,
}

impl WorkerState {
    /// Makes a call, and counts the outcome.
    async fn made<T>(&self, kind: WorkKind, call: impl Future<Output = Result<T, String>>) -> Option<T> {
        let begun = Instant::now();
        let result = call.await;
        let mut watched = self.watched.lock().unwrap();
        let tally = &mut watched.tally;
        tally.longest_call_ms = tally.longest_call_ms.max(begun.elapsed().as_millis());
        match result {
            Ok(value) => {
                watched.tally.succeeded += 1;
                match kind {
                    WorkKind::Read => watched.reads.succeeded(),
                    WorkKind::Write => watched.writes.succeeded(),
                }
                Some(value)
            }
            Err(error) => {
                watched.tally.failed += 1;
                if watched.tally.errors.len() < ERRORS_MAX {
                    watched.tally.errors.push(error);
                }
                None
            }
        }
    }

    fn look(&self) -> WorkTally {
        let mut watched = self.watched.lock().unwrap();
        let mut tally = std::mem::take(&mut watched.tally);
        tally.write_gap_ms = watched.writes.take();
        tally.read_gap_ms = watched.reads.take();
        tally
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

fn client(timeout: Duration) -> Client {
    let acceptors = env::var("PAXOS_ACCEPTORS").unwrap();
    Client::connect(acceptors.split(','))
        .unwrap()
        .with_timeout(timeout)
}

async fn work(patience: Duration) {
    let shared = Arc::new(WorkerState {
        over: AtomicBool::new(false),
        watched: Mutex::new(WatchedKey {
            tally: WorkTally::default(),
            writes: WriteGap::new(),
            reads: WriteGap::new(),
        }),
    });
    let recorder = Recorder::default();
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let caller = Caller {
                client: client(patience),
                recorder: recorder.clone(),
                number,
            };
            tokio::spawn(call(caller, Arc::clone(&shared)))
        })
        .collect();
    let appending = client(patience);
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|number| tokio::spawn(append(appending.clone(), number, Arc::clone(&shared))))
        .collect();

    let mut orders = BufReader::new(stdin()).lines();
    loop {
        match orders.next_line().await.unwrap().as_deref() {
            Some(STOP) => break,
            Some(_) => print(&shared.look()),
            // The starting process is gone.
            None => return,
        }
    }
    shared.over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let mut acknowledged = BTreeMap::new();
    for appender in appenders {
        for (version, value) in appender.await.unwrap() {
            let twice = acknowledged.insert(version, value);
            assert_eq!(
                twice, None,
                "two records were answered with the version {version}"
            );
        }
    }

    is_in_the_log(&acknowledged).await;
    let history = recorder.history();
    if let Err(breach) = positions::check(&history) {
        panic!("{breach:?}");
    }
    let verdict = search::search(&history);
    assert!(matches!(verdict, Verdict::Linearizable { .. }), "{verdict:?}");
    print(&WorkSummary {
        appended: acknowledged.len(),
        calls: history.len(),
        unknown: history.iter().filter(|record| record.ended.is_none()).count(),
    });
}

fn print(news: &impl Serialize) {
    println!("{}", serde_json::to_string(news).unwrap());
}

async fn call(caller: Caller, shared: Arc<WorkerState>) {
    let mut step = 0;
    while shared.goes_on() {
        step += 1;
        let key = Caller::any_key();
        let seen = shared.made(WorkKind::Read, caller.read(key)).await.flatten();
        shared.made(WorkKind::Write, caller.write(key, step, seen)).await;
        sleep(PAUSE).await;
    }
}

/// Appends until the end of the load. Returns the acknowledged records.
async fn append(client: Client, number: u64, shared: Arc<WorkerState>) -> Vec<(Version, Vec<u8>)> {
    let mut acknowledged = Vec::new();
    let mut step = 0;
    while shared.goes_on() {
        step += 1;
        let value = format!("record {step} of {number}").into_bytes();
        let call = async {
            let appended = client.append(value.clone()).await;
            appended.map_err(|error| format!("append: {error}"))
        };
        if let Some(version) = shared.made(WorkKind::Write, call).await {
            acknowledged.push((version, value));
        }
        sleep(PAUSE).await;
    }
    acknowledged
}

/// Checks the acknowledged records against a learner's log.
async fn is_in_the_log(acknowledged: &BTreeMap<Version, Vec<u8>>) {
    let client = client(PATIENCE);
    let end = client.chosen_to().await.unwrap();
    let last = acknowledged.keys().next_back().expect("something was appended");
    assert!(last.slot < end, "a watermark is past what was acknowledged");
    let mut subscription = client.log(Slot::ZERO);
    let mut log = BTreeMap::new();
    let mut next = Slot::ZERO;
    while next < end {
        let news = timeout(PATIENCE, subscription.next()).await;
        let news = news.expect("the learner goes on").unwrap().unwrap();
        news.records
            .iter()
            .for_each(|record| log.extend(appended(record)));
        next = news.next;
    }
    for (version, value) in acknowledged {
        assert_eq!(log.get(version), Some(value), "acknowledged at {version}");
    }
}

/// The appended records of a slot, each with its version.
fn appended(record: &LogRecord) -> Vec<(Version, Vec<u8>)> {
    let appended = record.commands().filter_map(|command| {
        let Operation::Append(record) = command.operation else {
            return None;
        };
        Some((command.version, record.to_vec()))
    });
    appended.collect()
}
