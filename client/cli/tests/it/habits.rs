//! Habits of people at a shell, in scripts and in containers: signals, closed pipes, terminals.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::harness::{Cluster, NO_CLUSTER, PATIENCE, integer, paxos, run, stderr, stdout, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

mod signals;

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// A command with output readable while the command runs. The command starts with default signal handling, even if the
/// parent of the tests ignores signals.
fn start(command: &Command) -> Child {
    let mut usual = Command::new("env");
    usual.arg("--default-signal").arg(command.get_program());
    usual.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => usual.env(name, value),
            None => usual.env_remove(name),
        };
    }
    usual
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn output(child: Child) -> Output {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap()
}

/// Waits until the process handles the signal, so the process listens to signals.
async fn handles(child: &Child, signal: Signal) {
    let status = format!("/proc/{}/status", child.id());
    until("the process listens to signals", async || {
        let text = fs::read_to_string(&status).ok()?;
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        (mask & (1 << (signal as u64 - 1)) != 0).then_some(())
    })
    .await;
}

/// Writes `text` to the standard input of `paxos`, and waits for the end.
async fn feed(args: &[&str], text: &str) -> Output {
    let mut child = start(&paxos(args));
    // A command that ends early closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    output(child).await
}

/// A full pipe: a write blocks until a process reads.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    /// The usual capacity of a pipe on Linux.
    const CAPACITY: usize = 64 << 10;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; CAPACITY]).unwrap();
    (reader, writer)
}

#[tokio::test]
async fn command_with_an_unread_output_ends_on_a_signal_and_keeps_its_election() {
    const TTL: Duration = Duration::from_millis(500);
    let cluster = Cluster::start_alone(3, 1, 1).await;
    let urls = cluster.urls();
    stdout(&run(&["put", "key", "value", "--acceptors", &urls]).await);
    for (args, code) in [
        (&["get", "key"][..], 143),
        (&["log"], 143),
        (&["status"], 143),
        (&["watch", "key", "--from", "0.0"], 0),
        (&["status", "--watch"], 0),
        (&["elect", "job", "--ttl", "500ms"], 0),
    ] {
        let (_unread, output) = full_pipe();
        let mut command = paxos(&[args, &["--acceptors", &urls]].concat());
        let mut child = command.stdout(output).spawn().unwrap();
        handles(&child, Signal::SIGTERM).await;
        if args[0] == "elect" {
            let client = cluster.client();
            let token = until("the candidate holds", async || client.get("job").await.unwrap()).await;
            tokio::time::sleep(4 * TTL).await;
            let renewed = client.get("job").await.unwrap().unwrap();
            assert!(renewed.version > token.version, "it renews");
        } else {
            // Time to reach the blocked write. Without this time the command ends in the same way.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        send(&child, Signal::SIGTERM);
        let status = until("the command ends", async || child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
    assert_eq!(cluster.client().get("job").await.unwrap(), None, "it resigned");
}

#[tokio::test]
async fn signal_that_the_parent_ignores_stays_ignored() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let watch = paxos(&["watch", "key", "--acceptors", &urls]);
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$0" "$@""#]);
    command.arg(watch.get_program()).args(watch.get_args());
    let mut child = start(&command);
    handles(&child, Signal::SIGTERM).await;
    send(&child, Signal::SIGHUP);
    let mut error = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    error.read_line(&mut line).unwrap();
    assert!(line.starts_with("watching from "), "{line:?}");
    // A put is seen after the hang-up.
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    stdout(&run(&["put", "key", "value", "--acceptors", &urls]).await);
    line.clear();
    printed.read_line(&mut line).unwrap();
    assert!(line.ends_with("key = value\n"), "{line:?}");
    send(&child, Signal::SIGTERM);
    assert_eq!(output(child).await.status.code(), Some(0));
}

#[tokio::test]
async fn get_prints_exactly_the_bytes_that_put_stored() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    for value in ["x", "x\n", "", "two\nlines"] {
        let put = feed(&["put", "key", "-", "--acceptors", &urls], value).await;
        stdout(&put);
        let get = ["get", "key", "--acceptors", &urls];
        assert_eq!(stdout(&run(&get).await), value);
        let with_newline = stdout(&run(&[&get[..], &["--newline"]].concat()).await);
        assert_eq!(with_newline, format!("{value}\n"));
    }
}

#[tokio::test]
async fn empty_decision_is_refused_unless_it_is_asked_for() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let decide = ["decide", "name", "-", "--acceptors", &urls];
    let refused = feed(&decide, "").await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("nothing was decided"), "{refused:?}");
    // Exactly the winner's bytes, as `get` prints them.
    assert_eq!(stdout(&feed(&decide, "ali\\ce\u{202e}").await), "ali\\ce\u{202e}");
    let decide = ["decide", "none", "", "--allow-empty", "--acceptors", &urls];
    assert_eq!(stdout(&run(&decide).await), "");
    let decide = ["decide", "other", "alice", "--newline", "--acceptors", &urls];
    assert_eq!(stdout(&run(&decide).await), "alice\n");
}

#[tokio::test]
async fn every_line_that_was_sent_has_an_outcome_and_a_bad_line_is_named() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let propose = ["propose", "--lines", "--acceptors", &urls];
    let ended = feed(&propose, "one\ntwo\n\nthree\n").await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(stderr(&ended).contains("line 3 is empty"), "{ended:?}");
    let log = async || stdout(&run(&["log", "--acceptors", &urls]).await).lines().count();
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), 2);
    assert_eq!(log().await, 2);

    let long = format!("{}\n{}\nlast\n", "x".repeat(1 << 20), "y".repeat((1 << 20) + 1));
    let ended = feed(&propose, &long).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(
        stderr(&ended).contains("line 2 is longer than 1048576 bytes"),
        "{ended:?}"
    );
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), 1);
    assert_eq!(log().await, 3);

    // The reader closes the pipe after the first outcome.
    let mut child = start(&paxos(&propose));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    printed.read_line(&mut String::new()).unwrap();
    drop(printed);
    let _ = input.write_all(b"second\nthird\n");
    drop(input);
    let ended = output(child).await;
    assert_eq!(ended.status.code(), Some(74), "{ended:?}");
    assert!(stderr(&ended).contains("the outcomes of line 2"), "{ended:?}");
}

#[tokio::test]
async fn log_waits_for_a_frozen_learner_for_its_whole_timeout() {
    // The kernel accepts connections. No process reads.
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", frozen.local_addr().unwrap());
    let connection = ["--acceptors", &url, "--learners", &url, "--timeout", "2s"];
    for local in [&[][..], &["--local"]] {
        let begun = std::time::Instant::now();
        let log = run(&[&["log"], local, &connection].concat()).await;
        let took = begun.elapsed();
        assert_eq!(log.status.code(), Some(69), "{log:?}");
        // The last pause between two attempts is left out.
        assert!(took > Duration::from_millis(1_500), "{took:?}");
    }
}

#[tokio::test]
async fn log_prints_every_acknowledged_line_without_a_leader() {
    const LINES: &str = "1\n2\n3\n4\n5\n";
    let mut cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    for line in LINES.lines() {
        let proposed = run(&["propose", line, "--acceptors", &urls]).await;
        assert_eq!(proposed.status.code(), Some(0), "{proposed:?}");
    }
    // The acceptors have not heard yet that the last line was chosen.
    cluster.proposers[0].kill();
    let lines = |log: &Output| {
        let values = String::from_utf8_lossy(&log.stdout).into_owned();
        let value = |line: &str| Some(format!("{}\n", line.split_once("  ")?.1));
        values.lines().filter_map(value).collect::<String>()
    };
    let log = run(&["log", "--acceptors", &urls]).await;
    assert_eq!(log.status.code(), Some(0), "{log:?}");
    assert_eq!(lines(&log), LINES);

    // The end of the log is unknown without a majority of the acceptors.
    for acceptor in &mut cluster.acceptors[1..] {
        acceptor.kill();
    }
    let log = run(&["log", "--timeout", "1s", "--acceptors", &urls]).await;
    assert_eq!(log.status.code(), Some(69), "{log:?}");
    assert!(
        stderr(&log).contains("--local prints the log of a learner"),
        "{log:?}"
    );
    let log = run(&["log", "--local", "--acceptors", &urls]).await;
    assert_eq!(log.status.code(), Some(0), "{log:?}");
    assert_eq!(lines(&log), LINES);
}

#[tokio::test]
async fn watch_begins_after_what_was_acknowledged_and_says_where() {
    let cluster = Cluster::start(3, 1, 2).await;
    let urls = cluster.urls();
    for round in 0..5 {
        let put = async |value: &str| stdout(&run(&["put", "key", value, "--acceptors", &urls]).await);
        put("old").await;
        let mut child = start(&paxos(&[
            "watch",
            "key",
            "--output",
            "json",
            "--acceptors",
            &urls,
        ]));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(integer(&first["watching"]["from"]["slot"]).is_some(), "{first}");
        put("new").await;
        let change: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(change["value"], "new", "round {round}: {change}");
        send(&child, Signal::SIGTERM);
        assert!(output(child).await.status.success());
    }
}

#[tokio::test]
async fn candidate_whose_command_is_no_program_never_stands() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no-program");
    fs::write(&file, "text").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    // No cluster is needed: the program is checked first.
    for (program, code) in [("/no/such", 127), ("no-such-program-anywhere", 127), (file, 126)] {
        let ended = run(&["elect", "job", "--acceptors", NO_CLUSTER, "--", program]).await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(stderr(&ended).contains(program), "{ended:?}");
    }
}

#[tokio::test]
async fn candidate_goes_on_waiting_for_a_cluster_that_does_not_answer() {
    let args = [
        "elect",
        "job",
        "--acceptors",
        NO_CLUSTER,
        "--timeout",
        "300ms",
        "--",
        "true",
    ];
    let mut child = start(&paxos(&args));
    let mut line = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("the candidate keeps waiting"), "{line}");
    send(&child, Signal::SIGTERM);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("the command was not run"), "{rest}");
    assert_eq!(output(child).await.status.code(), Some(143));
}

#[tokio::test]
async fn holder_whose_terminal_closes_resigns() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let elect = |command: &'static str| {
        let args = [
            "elect",
            "job",
            "--ttl",
            "1h",
            "--acceptors",
            &urls,
            "--",
            "sh",
            "-c",
            command,
        ];
        paxos(&args)
    };
    let mut holder = start(&elect("echo holds; sleep 1000"));
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "holds\n");
    send(&holder, Signal::SIGHUP);
    assert_eq!(output(holder).await.status.code(), Some(143));
    // The time to live is an hour: only a resignation lets another candidate hold.
    assert_eq!(output(start(&elect("exit 7"))).await.status.code(), Some(7));
}

/// A candidate with this command, at a separate terminal. Pipes are the input and output of the terminal.
fn elect_at_a_terminal(cluster: &Cluster, guarded: &str) -> Child {
    let elect = paxos(&["elect", "job", "--acceptors", &cluster.urls()]);
    let words: Vec<_> = std::iter::once(elect.get_program())
        .chain(elect.get_args())
        .collect();
    let line = words.join(std::ffi::OsStr::new(" ")).into_string().unwrap();
    let line = format!("{line} -- {guarded}");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    start(&command)
}

#[tokio::test]
async fn command_of_a_holder_reads_from_the_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        return;
    }
    let cluster = Cluster::start(3, 1, 1).await;
    let mut child = elect_at_a_terminal(&cluster, "sh -c 'echo ask; read answer; echo got $answer'");
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut until_line = |wanted: &str| {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            assert_ne!(printed.read_line(&mut line).unwrap(), 0, "no {wanted:?}");
        }
    };
    until_line("ask");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"blue\n").unwrap();
    until_line("got blue");
    drop(input);
    assert_eq!(output(child).await.status.code(), Some(0));
}

#[tokio::test]
async fn holder_reports_that_its_command_waits_for_the_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        return;
    }
    let cluster = Cluster::start(3, 1, 1).await;
    // Standard input is no terminal, so the command does not get the terminal.
    let mut child = elect_at_a_terminal(&cluster, "sh -c 'read answer < /dev/tty' < /dev/null");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let waits = |line: std::io::Result<String>| line.unwrap().contains("waits for the terminal");
    assert!(
        tokio::task::spawn_blocking(move || lines.any(waits))
            .await
            .unwrap()
    );
    send(&child, Signal::SIGTERM);
    output(child).await;
}
