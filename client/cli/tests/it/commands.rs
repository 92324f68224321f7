//! The binary as users and scripts see it: `dev`, documented errors and exit codes, clean stops.

mod bench;
mod json;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Output, Stdio},
};

use crate::harness::{Cluster, PATIENCE, free_ports, integer, paxos, run, stdout, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The documented exit codes.
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 69;
const STORAGE: i32 = 74;
const REFUSED: i32 = 78;

/// Runs `paxos` and expects this exit code, and these texts on standard error.
async fn fails(args: &[&str], code: i32, texts: &[&str]) {
    let output = run(args).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(
        output.stdout.is_empty() || args.contains(&"status"),
        "{args:?} printed something: {output:?}"
    );
    for text in texts {
        assert!(error.contains(text), "{args:?}: {error:?} does not say {text:?}");
    }
}

/// A `paxos dev`, killed at the end of the test.
struct Dev {
    child: Child,
    urls: String,
    data_dir: PathBuf,
}

impl Dev {
    /// Starts `paxos dev` on free ports, and reads the output until the cluster is ready.
    async fn start(flags: &[&str]) -> Self {
        // Roles listen from base + 1, + 101 and + 201 on.
        let base = free_ports(210).to_string();
        let mut command = paxos(&[&["dev", "--base-port", &base], flags].concat());
        // Variables of roles: empty is unset.
        for variable in ["PAXOS_WORKER_THREADS", "PAXOS_LEADER_TIMEOUT", "PAXOS_LOG_FORMAT"] {
            command.env(variable, "");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let read = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            while let Some(Ok(line)) = lines.next() {
                let ready = line.starts_with("Ready");
                read.push(line);
                if ready {
                    break;
                }
            }
            read
        });
        let printed = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("it is ready in time")
            .unwrap();
        let after = |name: &str| {
            let line = printed.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name:?} in {printed:?}"))
                .trim()
                .to_owned()
        };
        let urls = after("acceptors")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(",");
        let data_dir = PathBuf::from(after("data").trim_end_matches(" (removed on stop)"));
        Self {
            child,
            urls,
            data_dir,
        }
    }

    async fn run(&self, args: &[&str]) -> Output {
        let args: Vec<_> = args.iter().chain(&["--acceptors", &self.urls]).copied().collect();
        run(&args).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn dev_runs_a_whole_cluster_that_the_other_commands_find() {
    let mut dev = Dev::start(&[]).await;
    let version = stdout(&dev.run(&["propose", "hello"]).await);
    assert_eq!(version, "0.0\n");
    let json: Value =
        serde_json::from_slice(&dev.run(&["propose", "--output", "json", "wörld"]).await.stdout).unwrap();
    let (slot, offset) = (
        integer(&json["version"]["slot"]).unwrap(),
        json["version"]["offset"].as_u64().unwrap(),
    );

    let log = stdout(&dev.run(&["log"]).await);
    assert_eq!(log, format!("0.0  hello\n{slot}.{offset}  wörld\n"));
    let log = stdout(
        &dev.run(&["log", "--from", &slot.to_string(), "--output", "json"])
            .await,
    );
    let record: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(record["slot"], slot.to_string());
    assert_eq!(record["value"]["commands"][0]["append"]["record"], "wörld");

    // Learners report a moment after applying.
    let status = until("digests are equal", async || {
        let text = stdout(&dev.run(&["status"]).await);
        text.contains("are equal below slot").then_some(text)
    })
    .await;
    assert_eq!(status.matches("proposer  http://").count(), 2, "{status}");
    assert_eq!(status.matches("learner   http://").count(), 2, "{status}");
    assert_eq!(status.matches("formed").count(), 3, "{status}");
    assert!(
        status.contains(" leader http://") && status.contains("healthy: a leader, 3 of 3 acceptors"),
        "{status}"
    );

    let follower = paxos(&["log", "--follow", "--acceptors", &dev.urls])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut follower = Reaped(follower);
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    stdout(&dev.run(&["propose", "followed"]).await);
    let last = tokio::task::spawn_blocking(move || lines.nth(2).unwrap().unwrap());
    let last = tokio::time::timeout(PATIENCE, last)
        .await
        .expect("the log is followed")
        .unwrap();
    assert!(last.ends_with("  followed"), "{last}");
    interrupt(&follower.0, Signal::SIGINT);
    assert!(ended(&mut follower.0).await.success());

    // The ports are taken now.
    let base = dev.urls.rsplit(':').next().unwrap().parse::<u16>().unwrap() - 3;
    fails(
        &["dev", "--base-port", &base.to_string()],
        USAGE,
        &["is taken", "--base-port"],
    )
    .await;

    assert!(dev.data_dir.is_dir());
    interrupt(&dev.child, Signal::SIGTERM);
    assert!(ended(&mut dev.child).await.success());
    assert!(!dev.data_dir.exists(), "its temporary data is still there");
}

#[tokio::test]
async fn dev_keeps_its_data_in_a_directory_that_is_given() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().display().to_string();
    let flags = [
        "--data-dir",
        &path,
        "--proposer-count",
        "1",
        "--learner-count",
        "1",
    ];
    let mut dev = Dev::start(&flags).await;
    stdout(&dev.run(&["propose", "kept"]).await);
    interrupt(&dev.child, Signal::SIGTERM);
    assert!(ended(&mut dev.child).await.success());
    drop(dev);

    let dev = Dev::start(&flags).await;
    stdout(&dev.run(&["propose", "new"]).await);
    let log = stdout(&dev.run(&["log"]).await);
    let values: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, value)| value)
        .collect();
    assert_eq!(values, ["kept", "new"]);
}

#[tokio::test]
async fn each_line_of_standard_input_becomes_a_value_and_gets_a_line() {
    let dev = Dev::start(&[]).await;
    let closed = "http://127.0.0.1:1".to_owned();
    let piped = |urls: &str, args: &[&str], lines: Vec<u8>| {
        let mut command = paxos(&[&["propose", "--lines", "--acceptors", urls], args].concat());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // After an error the command stops reading.
            let _ = child.stdin.take().unwrap().write_all(&lines);
            child.wait_with_output().unwrap()
        })
    };
    let ordered = piped(&dev.urls, &["--in-flight", "1"], b"a\nb b\nc".to_vec())
        .await
        .unwrap();
    assert_eq!(stdout(&ordered), "0.0\n1.0\n2.0\n");
    let json = piped(&dev.urls, &["--output", "json"], b"d\n".to_vec())
        .await
        .unwrap();
    assert_eq!(stdout(&json), "{\"version\":{\"offset\":0,\"slot\":\"3\"}}\n");
    assert_eq!(
        stdout(&dev.run(&["log"]).await),
        "0.0  a\n1.0  b b\n2.0  c\n3.0  d\n"
    );

    let empty = piped(&dev.urls, &["--in-flight", "1"], b"e\n\nf\n".to_vec())
        .await
        .unwrap();
    assert_eq!(
        (empty.status.code(), &empty.stdout[..]),
        (Some(USAGE), &b"4.0\n"[..])
    );
    assert!(
        String::from_utf8_lossy(&empty.stderr).contains("line 2 is empty"),
        "{empty:?}"
    );
    let long = piped(&dev.urls, &[], vec![b'x'; 1_048_577]).await.unwrap();
    assert_eq!(long.status.code(), Some(USAGE));
    assert!(
        String::from_utf8_lossy(&long.stderr).contains("1048576"),
        "{long:?}"
    );
    let failed = piped(&closed, &["--timeout", "300ms"], b"g\nh\n".to_vec())
        .await
        .unwrap();
    assert_eq!(failed.status.code(), Some(69));
    let printed = String::from_utf8_lossy(&failed.stdout);
    assert_eq!(printed.matches("nothing was proposed: ").count(), 2, "{failed:?}");
}

#[tokio::test]
async fn propose_reads_the_value_from_standard_input() {
    let dev = Dev::start(&[]).await;
    let piped = |value: &'static [u8]| {
        let mut command = paxos(&["propose", "-", "--acceptors", &dev.urls]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(value).unwrap();
            child.wait_with_output().unwrap()
        })
    };
    assert_eq!(stdout(&piped(b"\xff\x00 binary").await.unwrap()), "0.0\n");
    assert_eq!(stdout(&dev.run(&["log"]).await), "0.0  base64:/wAgYmluYXJ5\n");
    let empty = piped(b"").await.unwrap();
    assert_eq!(empty.status.code(), Some(USAGE));
    assert!(
        String::from_utf8_lossy(&empty.stderr).contains("1048576"),
        "{empty:?}"
    );
    let beyond = dev.run(&["log", "--from", "99"]).await;
    assert_eq!(beyond.status.code(), Some(1), "{beyond:?}");
    let nothing = dev.run(&["log", "--from", "1"]).await;
    assert_eq!(stdout(&nothing), "");
}

#[tokio::test]
async fn usage_errors_exit_2_and_say_what_would_be_right() {
    fails(&["nonsense"], USAGE, &["unrecognized subcommand"]).await;
    fails(&["propose"], USAGE, &["<VALUE>"]).await;
    fails(
        &["propose", ""],
        USAGE,
        &["an empty record cannot be appended", "1 to 1048576 bytes"],
    )
    .await;
    fails(
        &["propose", "x", "--acceptors", "127.0.0.1:7001"],
        USAGE,
        &["http://HOST:PORT"],
    )
    .await;
    fails(&["propose", "x", "--timeout", "5"], USAGE, &["200ms or 5s"]).await;
    fails(&["log", "--from", "-1"], USAGE, &["unexpected argument '-1'"]).await;
    fails(&["log", "--from", "first"], USAGE, &["a number from 0 on"]).await;
    fails(&["bench", "--value-bytes", "0"], USAGE, &["1..=1048576"]).await;
    fails(&["bench", "--reads", "101"], USAGE, &["0..=100"]).await;
    fails(&["dev", "--acceptor-count", "0"], USAGE, &["1..=31"]).await;
    fails(&["serve", "acceptor", "--id", "a1"], USAGE, &["--data-dir"]).await;
    fails(&["serve", "proposer"], USAGE, &["--acceptors"]).await;
    fails(
        &["serve", "learner", "--acceptors", "http://a:1,http://a:1"],
        USAGE,
        &["listed twice"],
    )
    .await;
}

#[tokio::test]
async fn commands_without_a_cluster_exit_69_and_say_what_to_do() {
    let closed = format!("http://127.0.0.1:{}", free_ports(1));
    let flags = ["--acceptors", &closed, "--timeout", "300ms"];
    let with = |command: &[&'static str]| -> Vec<String> {
        command.iter().copied().chain(flags).map(str::to_owned).collect()
    };
    for (command, texts) in [
        (
            &["propose", "x"][..],
            &["nothing was proposed", "no acceptor answers", "paxos status"][..],
        ),
        (&["log"], &["cannot learn the end of the log", "paxos status"]),
        (&["log", "--follow"], &["no learner answers", "paxos status"]),
        (&["bench"], &["nothing was proposed"]),
        (&["bench", "--reads", "100"], &["nothing was proposed"]),
        (&["status"], &["no acceptor answers"]),
    ] {
        let args = with(command);
        fails(
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            UNAVAILABLE,
            texts,
        )
        .await;
    }
    let status = run(&["status", "--acceptors", &closed]).await;
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(
        text.contains("no answer") && text.contains("what to do: start the acceptors"),
        "{text}"
    );
}

#[tokio::test]
async fn missing_quorum_is_reported_by_status_and_propose() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    stdout(&run(&["propose", "x", "--acceptors", &urls]).await);
    cluster.acceptors[0].kill();
    cluster.acceptors[1].kill();
    fails(
        &["status", "--acceptors", &urls],
        UNAVAILABLE,
        &["no quorum: 1 of 3", "2 are needed"],
    )
    .await;
    // Either the leader has sent the command, or the leader knows that nothing was sent. Both outcomes are correct, and
    // the error reports the outcome.
    let output = run(&["propose", "y", "--acceptors", &urls, "--timeout", "1s"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{error}");
    assert!(
        error.contains("outcome unknown") || error.contains("nothing was proposed"),
        "{error}"
    );
}

#[tokio::test]
async fn directories_that_cannot_be_used_end_an_acceptor_with_74_or_78() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("data").display().to_string();
    let acceptor = [
        "serve",
        "acceptor",
        "--listen",
        "127.0.0.1:0",
        "--id",
        "a1",
        "--data-dir",
    ];
    fails(&[&acceptor[..], &[&below]].concat(), STORAGE, &["error:", &below]).await;

    let cluster = Cluster::start(1, 1, 1).await;
    for (role, own) in [("acceptor", "acceptor-1"), ("learner", "learner-1")] {
        let data_dir = cluster.dir.path().join(own).display().to_string();
        let urls = cluster.urls();
        let mut args = vec!["serve", role, "--listen", "127.0.0.1:0", "--data-dir", &data_dir];
        args.extend(if role == "acceptor" {
            ["--id", own]
        } else {
            ["--acceptors", &urls]
        });
        fails(&args, REFUSED, &["error:", &data_dir]).await;
    }
}

#[tokio::test]
async fn address_in_use_ends_every_role_with_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let dir = tempfile::TempDir::new().unwrap();
    let data_dir = dir.path().display().to_string();
    for role in [
        &["acceptor", "--id", "a1", "--data-dir", &data_dir][..],
        &["proposer", "--acceptors", "http://127.0.0.1:1"],
        &["learner", "--acceptors", "http://127.0.0.1:1"],
    ] {
        let args = [&["serve"], role, &["--listen", &listen]].concat();
        fails(&args, USAGE, &[&listen]).await;
    }
}

#[tokio::test]
async fn every_role_stops_cleanly_when_asked_to() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let urls = cluster.urls();
    stdout(&run(&["propose", "x", "--acceptors", &urls]).await);
    let Cluster {
        acceptors,
        proposers,
        learners,
        ..
    } = &mut cluster;
    for process in proposers.iter_mut().chain(learners).chain(acceptors) {
        let status = process.stop().await;
        assert!(status.success(), "{} ended with {status}", process.name);
    }
}

fn interrupt(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

async fn ended(child: &mut Child) -> std::process::ExitStatus {
    until("the process ends", async || child.try_wait().unwrap()).await
}

/// A child process, killed at the end of the test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
