//! Live: a real cluster whose processes are killed and paused while clients read and write, held against both checks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use paxos_client::{Client, Condition as Asks, Consistency, Current, Register, Written};
use rand::RngExt as _;

use super::{
    harness::{Cluster, PATIENCE},
    history::{
        Asked, Condition, Found, Held, Record, Recorder, Told, positions,
        search::{self, Verdict},
    },
};

const KEYS: [&str; 3] = ["a", "b", "c"];
/// How long a client waits: shorter than a pause, so that some outcomes stay unknown.
const TIMEOUT: Duration = Duration::from_millis(1_500);

fn held(register: &Register) -> Held {
    Held {
        value: String::from_utf8(register.value.to_vec()).unwrap(),
        version: register.version.into(),
    }
}

async fn read(client: &Client, recorder: &Recorder, number: u64, key: &str) -> Option<Register> {
    let call = recorder.begin(number, key, Asked::Read);
    match client
        .get_prefix(
            key.to_owned(),
            Default::default(),
            Consistency::Linearizable,
            TIMEOUT,
        )
        .await
    {
        Ok(page) => {
            let found = page.registers.into_iter().find(|register| register.key == key);
            call.told(Told::Read {
                found: found.as_ref().map(held),
                applied_to: page.applied_to.get(),
            });
            found
        }
        Err(_) => {
            call.without_effect();
            None
        }
    }
}

async fn write(
    client: &Client,
    recorder: &Recorder,
    number: u64,
    key: &str,
    step: u64,
    seen: Option<Register>,
) {
    let (recorded, condition) = match rand::random_range(0..3) {
        0 => (Condition::Always, Asks::Always),
        1 => (Condition::Absent, Asks::Absent),
        _ => match &seen {
            Some(register) => (Condition::Holds(held(register)), Asks::Version(register.version)),
            None => (Condition::Absent, Asks::Absent),
        },
    };
    let value = format!("{number}.{step}");
    let deletes = rand::random_bool(0.25);
    let asked = if deletes {
        Asked::Delete { condition: recorded }
    } else {
        Asked::Put {
            value: value.clone(),
            condition: recorded,
        }
    };
    let call = recorder.begin(number, key, asked);
    let written = if deletes {
        client.delete(key.to_owned(), condition, TIMEOUT).await
    } else {
        client.put(key.to_owned(), value, condition, TIMEOUT).await
    };
    match written {
        Ok(Written::Applied { version }) => call.told(Told::Applied(version.into())),
        Ok(Written::ConditionFailed { version, current }) => call.told(Told::Failed {
            at: version.into(),
            found: match current {
                Current::Absent => Found::Nothing,
                Current::Register(register) => Found::Held(held(&register)),
                Current::ValueGone(version) => Found::Gone(version.into()),
            },
        }),
        Err(error) if error.had_no_effect() => call.without_effect(),
        Err(_) => call.unknown(),
    }
}

async fn work(client: Client, recorder: Recorder, number: u64, over: Arc<AtomicBool>) {
    let mut step = 0;
    while !over.load(Ordering::Relaxed) {
        step += 1;
        let key = KEYS[rand::rng().random_range(0..KEYS.len())];
        let seen = read(&client, &recorder, number, key).await;
        write(&client, &recorder, number, key, step, seen).await;
        // One history is looked through for each key: short enough to look through.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One fault after another; every process is back before the next.
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

async fn history_of(rounds: usize) -> Vec<Record> {
    let mut cluster = Cluster::start(3, 2, 3).await;
    let recorder = Recorder::default();
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..6)
        .map(|number| {
            // Each reads from one learner first, so that all of them are asked.
            let learners: Vec<_> = (0..3)
                .map(|more| &cluster.learners[(usize::try_from(number).unwrap() + more) % 3])
                .collect();
            let client = cluster.client_of(&learners);
            tokio::spawn(work(client, recorder.clone(), number, Arc::clone(&over)))
        })
        .collect();
    for round in 0..rounds {
        trouble(&mut cluster, round).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    recorder.history()
}

fn check(history: &[Record]) {
    let unknown = history.iter().filter(|record| record.ended.is_none()).count();
    println!("{} calls, {unknown} of them with unknown outcomes", history.len());
    assert!(history.len() > 200, "it tests nothing otherwise");
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

/// A reader that answers from what it read before a write was acknowledged: both checks must object.
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
            match client.put("a", value, Asks::Always, PATIENCE).await.unwrap() {
                Written::Applied { version } => call.told(Told::Applied(version.into())),
                Written::ConditionFailed { .. } => panic!("it had no condition"),
            }
            if kept.is_none() {
                kept = client
                    .get("a", Consistency::Linearizable, PATIENCE)
                    .await
                    .unwrap();
            }
        }
        let call = recorder.begin(1, "a", Asked::Read);
        let found = if stale {
            kept
        } else {
            client
                .get("a", Consistency::Linearizable, PATIENCE)
                .await
                .unwrap()
        };
        let found = found.unwrap();
        call.told(Told::Read {
            applied_to: found.version.slot.get() + 1,
            found: Some(held(&found)),
        });
        let history = recorder.history();
        assert_eq!(positions::check(&history).is_err(), stale);
        let found_order = matches!(search::search(&history), Verdict::Linearizable { .. });
        assert_eq!(found_order, !stale);
    }
}
