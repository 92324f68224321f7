//! Signals that end commands: every command listens at once, and ends at once.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use super::*;

/// Longest time from a signal to the end of a command, also on a busy machine. Containers get SIGKILL after 10 s.
const SOON: Duration = Duration::from_secs(2);

/// Sends the signal once the command listens, and returns the output.
async fn end(mut child: Child, signal: Signal) -> Output {
    // The end of the input would end a command that reads its input.
    let _input = child.stdin.take();
    handles(&child, signal).await;
    send(&child, signal);
    let sent = Instant::now();
    let ended = output(child).await;
    assert!(sent.elapsed() < SOON, "{:?}: {ended:?}", sent.elapsed());
    ended
}

#[tokio::test]
async fn signals_end_commands_that_run_until_stopped_with_0() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for args in [
            &["watch", "key"][..],
            &["log", "--follow"],
            &["status", "--watch"],
            &["bench", "--duration", "1h"],
            &["elect", "job"],
        ] {
            let child = start(&paxos(&[args, &["--acceptors", &urls]].concat()));
            if args[0] == "bench" {
                handles(&child, signal).await;
                // Before the measurement there is no result. Only the measurement itself takes many slots.
                let chosen_to = async || cluster.client().chosen_to().await.unwrap();
                let measures = chosen_to().await.plus(20);
                until("it measures", async || {
                    (chosen_to().await > measures).then_some(())
                })
                .await;
            }
            let ended = end(child, signal).await;
            assert_eq!(ended.status.code(), Some(0), "{args:?} {signal:?}: {ended:?}");
            if args[0] == "bench" {
                assert!(
                    String::from_utf8_lossy(&ended.stdout).contains("proposals"),
                    "{ended:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn signals_end_waiting_commands_with_128_plus_the_number() {
    // The kernel accepts connections. No process reads.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hung.local_addr().unwrap().to_string();
    let urls = format!("http://{address}");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for args in [
            &["put", "key", "value"][..],
            &["delete", "key"],
            &["decide", "name", "value"],
            &["propose", "value"],
            &["propose", "--lines"],
            &["get", "key"],
            &["get", "--prefix", ""],
            &["log"],
            &["status"],
            &["bench"],
        ] {
            let connection = ["--acceptors", &urls, "--timeout", "1h"];
            let child = start(&paxos(&[args, &connection].concat()));
            let ended = end(child, signal).await;
            let code = 128 + signal as i32;
            assert_eq!(ended.status.code(), Some(code), "{args:?} {signal:?}: {ended:?}");
            if matches!(args[0], "put" | "delete" | "decide") {
                assert!(stderr(&ended).contains("may still take effect"), "{ended:?}");
            }
        }
        for (args, code) in [
            (
                &["healthcheck", "--timeout", "1h", &address][..],
                128 + signal as i32,
            ),
            (&["elect", "job", "--acceptors", &urls], 0),
        ] {
            let ended = end(start(&paxos(args)), signal).await;
            assert_eq!(ended.status.code(), Some(code), "{args:?} {signal:?}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn command_of_a_holder_that_was_stopped_hears_sigterm() {
    let cluster = Cluster::start(3, 1, 1).await;
    let mut child = start(&paxos(&[
        "elect",
        "job",
        "--grace",
        "1h",
        "--acceptors",
        &cluster.urls(),
        "--",
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo stops; kill -STOP $$; sleep 1000",
    ]));
    let mut line = String::new();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    printed.read_line(&mut line).unwrap();
    assert_eq!(line, "stops\n");
    let holder = child.id();
    until("the command is stopped", async || stopped_child_of(holder)).await;
    let ended = end(child, Signal::SIGTERM).await;
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
}

/// A stopped child of the process.
fn stopped_child_of(parent: u32) -> Option<()> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let mut children = children.split_whitespace();
    children.find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        status.contains("State:\tT").then_some(())
    })
}
