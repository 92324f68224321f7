//! Clients that read and write registers of a running cluster, until the standard input ends. Then both checks judge the
//! history of the calls, and the program prints the verdict. For the drills of changes of members.
//!
//! `record_history FILE COUNT`: the file has the addresses of acceptors, separated by commas, and is read again before each
//! call. Exits 0 if the history is linearizable, 1 if not.
#![allow(clippy::print_stdout, reason = "what the drill reads")]

use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use paxos_client::{Client, ClientConfig};
use paxos_testing::history::{
    Record, Recorder,
    calls::Caller,
    positions,
    search::{self, Verdict},
};
use tokio::{io::AsyncReadExt as _, task::JoinSet, time::sleep};

/// Time limit of a call: shorter than many faults, so that some outcomes stay unknown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause of a client between two calls.
const PAUSE: Duration = Duration::from_millis(40);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, count) = match &arguments[..] {
        [file, count] if count.parse::<u64>().is_ok_and(|count| count > 0) => {
            (file, count.parse().unwrap_or(1))
        }
        _ => {
            println!("give a file with the addresses of acceptors, and a number of clients");
            return ExitCode::from(2);
        }
    };
    let (recorder, over) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn(work(file.clone(), number, recorder.clone(), Arc::clone(&over)));
    }
    // An error ends the input, too.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    judge(&recorder.history())
}

/// One client: reads and writes one key after another.
async fn work(file: String, number: u64, recorder: Recorder, over: Arc<AtomicBool>) {
    let mut known: Option<(String, Client)> = None;
    let mut step = 0;
    while !over.load(Ordering::Relaxed) {
        let list = fs::read_to_string(&file).unwrap_or_default();
        if known.as_ref().is_none_or(|(last, _)| *last != list) {
            known = client(&list).map(|client| (list, client)).or(known);
        }
        if let Some((_, client)) = &known {
            step += 1;
            let caller = Caller {
                client: client.clone(),
                recorder: recorder.clone(),
                number,
            };
            let key = Caller::any_key();
            // Failures are in the history.
            let seen = caller.read(key).await.unwrap_or_default();
            let _ = caller.write(key, step, seen).await;
        }
        sleep(PAUSE).await;
    }
}

/// A client of these acceptors; `None` for a list that cannot be read.
fn client(list: &str) -> Option<Client> {
    let mut config = ClientConfig::new(list.trim().split(',')).ok()?;
    config.timeout = TIMEOUT;
    Client::new(config).ok()
}

fn judge(history: &[Record]) -> ExitCode {
    let unknown = history.iter().filter(|record| record.ended.is_none()).count();
    println!("{} calls, {unknown} of them with unknown outcomes", history.len());
    let by_position = positions::check(history);
    match &by_position {
        Ok(summary) => println!("by position: linearizable, {summary:?}"),
        Err(breach) => println!("by position: {breach:?}"),
    }
    let by_search = search::search(history);
    println!("by search: {by_search:?}");
    match (by_position, by_search) {
        (Ok(_), Verdict::Linearizable { .. }) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
