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
    let cluster = Cluster::start_alone(3, 1, 1).await;
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

#[tokio::test]
async fn candidate_leaves_at_once_while_no_proposer_can_be_reached() {
    let cluster = Cluster::start(3, 1, 1).await;
    // The kernel accepts connections. No process reads.
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proposers = format!("http://{}", hung.local_addr().unwrap());
    let urls = cluster.urls();
    let args = [
        "elect",
        "job",
        "--timeout",
        "1h",
        "--acceptors",
        &urls,
        "--proposers",
        &proposers,
    ];
    for (command, code) in [(&[][..], 0), (&["--", "touch", "ran"], 143)] {
        let mut child = start(&paxos(&[&args, command].concat()));
        // The connection shows that the candidate's write has begun.
        let connected = tokio::time::timeout(PATIENCE, hung.accept()).await;
        let _connected = connected.unwrap().unwrap();
        let _input = child.stdin.take();
        let ended = end(child, Signal::SIGTERM).await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(stderr(&ended).contains("nothing was proposed"), "{ended:?}");
    }
}

#[tokio::test]
async fn holder_ends_at_once_while_all_proposers_are_frozen() {
    let cluster = Cluster::start(3, 2, 1).await;
    let urls = cluster.urls();
    for (name, command, code) in [
        ("job", &[][..], 69),
        ("other", &["--", "sh", "-c", "echo runs; exec sleep 1000"], 143),
    ] {
        let args = ["elect", name, "--ttl", "1h", "--acceptors", &urls];
        let mut child = start(&paxos(&[&args, command].concat()));
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !(line.contains("(ours)") || line.contains("runs")) {
            line.clear();
            assert_ne!(printed.read_line(&mut line).unwrap(), 0);
        }
        for proposer in &cluster.proposers {
            proposer.signal(Signal::SIGSTOP);
        }
        let ended = end(child, Signal::SIGTERM).await;
        for proposer in &cluster.proposers {
            proposer.signal(Signal::SIGCONT);
        }
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(
            stderr(&ended).contains("the resignation is not confirmed")
                && stderr(&ended).contains("after the time to live, 3600s"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn holder_with_a_stopped_command_resigns_when_the_terminal_is_lost() {
    if Command::new("script").arg("--version").output().is_err() {
        return;
    }
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    // The shell is the first process of the session.
    let line = format!(
        "echo shell $$; {} elect job --ttl 1h --acceptors {urls} -- sh -c 'echo command $$; kill -STOP $$'; true",
        env!("CARGO_BIN_EXE_paxos")
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--command", &line, "/dev/null"]);
    let mut child = start(&command);
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut number = |name: &str| {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(printed.read_line(&mut line).unwrap(), 0, "no {name}");
            if let Some(number) = line.trim().strip_prefix(name) {
                return number.trim().parse::<i32>().unwrap();
            }
        }
    };
    let (shell, stopped) = (number("shell"), number("command"));
    let status = |process: i32| fs::read_to_string(format!("/proc/{process}/status"));
    until("the command is stopped", async || {
        status(stopped).unwrap().contains("State:\tT").then_some(())
    })
    .await;
    kill(Pid::from_raw(shell), Signal::SIGKILL).unwrap();
    until("the command ends", async || {
        status(stopped).is_err().then_some(())
    })
    .await;
    // The time to live is an hour: only a resignation lets another candidate hold.
    let next = ["elect", "job", "--ttl", "1h", "--acceptors", &urls, "--", "true"];
    let ended = output(start(&paxos(&next))).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    // The terminal may have ended already.
    let _ = child.kill();
    child.wait().unwrap();
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
