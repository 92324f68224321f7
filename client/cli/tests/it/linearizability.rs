//! Linearizability: processes of a real cluster are killed and paused while clients read and write. Both checks judge
//! the history of the calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;

use paxos_testing::history::{
    Answer, Asked, Condition, Record, Recorder,
    calls::{Caller, held},
    positions,
    search::{self, Verdict},
};

use tokio::task::JoinSet;

use crate::harness::{Cluster, until};

/// Time limit of a client's call: shorter than a pause, so that some outcomes stay unknown.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// A history of fewer calls tests nothing.
const CALLS_MIN: usize = 200;

async fn work(caller: Caller, over: Arc<AtomicBool>) {
    let mut step = 0;
    while !over.load(Ordering::Relaxed) {
        step += 1;
        let key = Caller::any_key();
        // Failures are in the history.
        let seen = caller.read(key).await.unwrap_or_default();
        let _ = caller.write(key, step, seen).await;
        // The checker searches one history for each key: the pause keeps each history short enough.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One fault after another; every process is back before the next fault.
async fn trouble(cluster: &mut Cluster, round: usize) {
    let pause = Duration::from_millis(700);
    let leader = cluster.leader().await;
    match round % 5 {
        0 => {
            cluster.proposers[leader].kill();
            cluster.proposers[leader].start();
        }
        1 => {
            let acceptor = round % cluster.acceptors.len();
            cluster.acceptors[acceptor].kill();
            tokio::time::sleep(pause).await;
            cluster.acceptors[acceptor].start();
        }
        2 => {
            let learner = round % cluster.learners.len();
            cluster.learners[learner].kill();
            cluster.learners[learner].start();
        }
        3 => {
            cluster.proposers[leader].signal(Signal::SIGSTOP);
            tokio::time::sleep(pause).await;
            cluster.proposers[leader].signal(Signal::SIGCONT);
        }
        _ => {
            let learner = round % cluster.learners.len();
            cluster.learners[learner].signal(Signal::SIGSTOP);
            tokio::time::sleep(pause).await;
            cluster.learners[learner].signal(Signal::SIGCONT);
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Clients that read and write registers, and record the calls.
pub(crate) struct RecordedClients {
    recorder: Recorder,
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl RecordedClients {
    /// Each client reads from a different learner first, so that all learners are asked.
    pub(crate) fn start(cluster: &Cluster, count: usize, timeout: Duration) -> Self {
        let (recorder, over) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for number in 0..count {
            let mut learners: Vec<_> = cluster.learners.iter().collect();
            learners.rotate_left(number % cluster.learners.len());
            let caller = Caller {
                client: cluster.client_of(&learners).with_timeout(timeout),
                recorder: recorder.clone(),
                number: number as u64,
            };
            clients.spawn(work(caller, Arc::clone(&over)));
        }
        Self {
            recorder,
            over,
            clients,
        }
    }

    /// Ends the clients once there is something to check. Returns all calls.
    pub(crate) async fn history(self) -> Vec<Record> {
        // A busy machine makes fewer calls in the same time.
        until("there is something to check", async || {
            (self.recorder.calls() > CALLS_MIN).then_some(())
        })
        .await;
        self.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        self.recorder.history()
    }
}

async fn history_of(rounds: usize) -> Vec<Record> {
    let mut cluster = Cluster::start(3, 2, 3).await;
    let clients = RecordedClients::start(&cluster, 6, TIMEOUT);
    for round in 0..rounds {
        trouble(&mut cluster, round).await;
    }
    clients.history().await
}

pub(crate) fn check(history: &[Record]) {
    let unknown = history.iter().filter(|record| record.ended.is_none()).count();
    println!("{} calls, {unknown} of them with unknown outcomes", history.len());
    assert!(history.len() > CALLS_MIN, "it tests nothing otherwise");
    if let Err(breach) = positions::check(history) {
        panic!("{breach:?}");
    }
    let verdict = search::search(history);
    assert!(matches!(verdict, Verdict::Linearizable { .. }), "{verdict:?}");
}

#[tokio::test]
async fn history_is_linearizable_while_processes_are_killed_and_paused() {
    check(&history_of(5).await);
}

#[tokio::test]
#[ignore = "takes a minute: cargo long"]
async fn long_history_is_linearizable_while_processes_are_killed_and_paused() {
    check(&history_of(60).await);
}

/// A reader that repeats an earlier read, from before a write was acknowledged: both checks must object.
#[tokio::test]
async fn stale_read_is_caught() {
    let cluster = Cluster::start(3, 1, 2).await;
    let client = cluster.client();
    for stale in [false, true] {
        let recorder = Recorder::default();
        let mut kept = None;
        for value in ["old", "new"] {
            let asked = Asked::Put {
                value: value.to_owned(),
                condition: Condition::Always,
            };
            let call = recorder.begin(0, "a", asked);
            let version = client.put("a", value).await.unwrap();
            call.answered(Answer::Applied(version.into()));
            if kept.is_none() {
                kept = client.get("a").await.unwrap();
            }
        }
        let call = recorder.begin(1, "a", Asked::Read);
        let found = if stale {
            kept
        } else {
            client.get("a").await.unwrap()
        };
        let found = found.unwrap();
        call.answered(Answer::Read {
            applied_to: found.version.slot.get() + 1,
            found: Some(held(&found)),
        });
        let history = recorder.history();
        assert_eq!(positions::check(&history).is_err(), stale);
        let found_order = matches!(search::search(&history), Verdict::Linearizable { .. });
        assert_eq!(found_order, !stale);
    }
}
