//! Unwritable or unread standard output and error: commands still take effect, roles still vote.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use crate::harness::{Cluster, PATIENCE, free_ports, paxos, run, stdout, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The target of a command's output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// A file that accepts everything.
    Away,
    /// A full disk.
    Full,
    /// A pipe without a reader.
    Closed,
}

impl Goes {
    fn open(self) -> Stdio {
        match self {
            Self::Away => Stdio::null(),
            Self::Full => File::options().write(true).open("/dev/full").unwrap().into(),
            Self::Closed => {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                writer.into()
            }
        }
    }
}

/// The exit code of `paxos` with these targets of standard output and standard error.
async fn code(args: &[&str], out: Goes, error: Goes) -> Option<i32> {
    let mut command = paxos(args);
    command.stdout(out.open()).stderr(error.open());
    let status = tokio::task::spawn_blocking(move || command.status().unwrap());
    let status = tokio::time::timeout(PATIENCE, status).await.unwrap().unwrap();
    assert_eq!(status.signal(), None, "{args:?} {out:?} {error:?}");
    status.code()
}

#[tokio::test]
async fn exit_codes_do_not_depend_on_standard_error() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    stdout(&run(&["put", "there", "x", "--acceptors", &urls]).await);
    stdout(&run(&["decide", "taken", "x", "--acceptors", &urls]).await);
    let listen = cluster.proposers[0].address.to_string();
    let listen = listen.strip_prefix("http://").unwrap();
    // Each command, its exit code, and whether the command prints on standard output.
    for (args, expected, prints) in [
        (&["put", "key", "x"][..], 0, true),
        (&["put", "there", "x", "--if-absent"], 1, false),
        (&["put", "there", "x", "--if-absent", "--output", "json"], 1, true),
        (&["get", "there"], 0, true),
        (&["get", "absent"], 1, false),
        (&["get", "--prefix", ""], 0, true),
        (&["delete", "key"], 0, true),
        (&["decide", "taken", "y"], 1, true),
        (&["propose", "x"], 0, true),
        (&["propose", ""], 2, false),
        (&["log"], 0, true),
        (&["log", "--from", "9999"], 1, false),
        (&["status"], 0, true),
        (
            &[
                "status",
                "--timeout",
                "100ms",
                "--acceptors",
                "http://127.0.0.1:1",
            ],
            69,
            true,
        ),
        (&["bench", "--duration", "50ms"], 0, true),
        (&["watch", "there", "--from", "9999.0"], 1, false),
        (
            &["elect", "job", "--ttl", "1h", "--", "sh", "-c", "exit 3"],
            3,
            false,
        ),
        (&["get"], 2, false),
        (&["--help"], 0, true),
        (&["serve", "acceptor", "--id", "a"], 2, false),
        (&["healthcheck", listen], 0, false),
        (&["healthcheck", "127.0.0.1:1"], 69, false),
    ] {
        let connects =
            !args.contains(&"--acceptors") && !matches!(args[0], "healthcheck" | "serve" | "--help");
        let flags = ["--acceptors", urls.as_str()];
        let mut line = args.to_vec();
        if connects {
            let place = line.iter().position(|word| *word == "--").unwrap_or(line.len());
            line.splice(place..place, flags);
        }
        for error in [Goes::Away, Goes::Full, Goes::Closed] {
            for out in [Goes::Away, Goes::Full, Goes::Closed] {
                let found = code(&line, out, error).await;
                let expected = match out {
                    Goes::Away => expected,
                    Goes::Full if prints => 74,
                    // An unread output does not hide an answer "no".
                    Goes::Full | Goes::Closed => expected,
                };
                assert_eq!(found, Some(expected), "{args:?} with {out:?}, {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn long_running_commands_end_the_same_for_any_standard_error() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    stdout(&run(&["propose", "x", "--acceptors", &urls]).await);
    stdout(&run(&["put", "there", "x", "--acceptors", &urls]).await);
    for args in [
        &["log", "--follow"][..],
        &["status", "--watch"],
        &["watch", "there", "--from", "0.0"],
        &["elect", "job", "--ttl", "1h"],
    ] {
        let line = [args, &["--acceptors", &urls]].concat();
        let mut ends = Vec::new();
        for error in [Goes::Away, Goes::Full, Goes::Closed] {
            ends.push(interrupted(&line, error).await);
        }
        let aborts = |end: &ExitStatus| end.signal() == Some(6) || end.code() == Some(134);
        assert!(!ends.iter().any(aborts), "{args:?}: {ends:?}");
        assert!(ends.iter().all(|end| *end == ends[0]), "{args:?}: {ends:?}");
    }
}

#[tokio::test]
async fn dev_cluster_works_and_stops_cleanly_on_broken_standard_error() {
    for error in [Goes::Full, Goes::Closed] {
        let directory = tempfile::tempdir().unwrap();
        // All three roles use ports above the base.
        let base = free_ports(210);
        let (port, data_dir) = (base.to_string(), directory.path().display().to_string());
        let args = ["dev", "--base-port", &port, "--data-dir", &data_dir];
        let mut command = paxos(&args);
        command.stdout(Stdio::null()).stderr(error.open());
        let mut dev = Ended(command.spawn().unwrap());
        let urls = format!("http://127.0.0.1:{}", base + 1);
        until("the cluster in one process orders a value", async || {
            assert_eq!(dev.0.try_wait().unwrap(), None, "{error:?}");
            let put = run(&["put", "key", "x", "--timeout", "2s", "--acceptors", &urls]).await;
            put.status.success().then_some(())
        })
        .await;
        signal(&dev.0, Signal::SIGINT);
        let status = until("it ends", async || dev.0.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0), "{error:?}");
    }
}

/// The end of a `paxos` that gets SIGINT after the first output.
async fn interrupted(args: &[&str], error: Goes) -> ExitStatus {
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = paxos(args);
    command.stdout(out.reopen().unwrap()).stderr(error.open());
    let mut child = Ended(command.spawn().unwrap());
    until("the command prints something", async || {
        let ended = child.0.try_wait().unwrap();
        assert_eq!(ended, None, "{args:?} {error:?} ended by itself");
        (out.as_file().metadata().unwrap().len() > 0).then_some(())
    })
    .await;
    signal(&child.0, Signal::SIGINT);
    until("the command ends", async || child.0.try_wait().unwrap()).await
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn acceptor_with_an_unread_log_votes_answers_probes_and_stops() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let data_dir = cluster.path("acceptor-3");
    cluster.acceptors[2].kill();
    let port = cluster.acceptors[2].address.to_string();
    let port = port.strip_prefix("http://").unwrap().to_owned();
    let metrics = format!("127.0.0.1:{}", free_ports(1));
    let mut acceptor = paxos(&[
        "serve",
        "acceptor",
        "--id",
        "acceptor-3",
        "--data-dir",
        &data_dir,
        "--listen",
        &port,
    ]);
    acceptor
        .env("PAXOS_METRICS_LISTEN", &metrics)
        .env("RUST_LOG", "trace");
    let mut acceptor = Ended(acceptor.stderr(Stdio::piped()).spawn().unwrap());
    // With another acceptor gone, every command needs this acceptor.
    cluster.acceptors[1].kill();
    let client = cluster.client();
    until("lines are dropped while values are ordered", async || {
        client.append_at_most_once(vec![b'x'; 10_000]).await.ok()?;
        let text = get(&metrics, "/metrics")?;
        let line = text
            .lines()
            .find(|line| line.starts_with("paxos_log_dropped_lines_total"))?;
        (!line.ends_with(" 0")).then_some(())
    })
    .await;
    client.append_at_most_once("and still it votes").await.unwrap();
    assert!(get(&metrics, "/livez").unwrap().contains("200 OK"));

    // Once the log is read again, the log says how much is missing.
    let mut lines = BufReader::new(acceptor.0.stderr.take().unwrap()).lines();
    let warned = tokio::task::spawn_blocking(move || {
        let warned = lines.any(|line| line.unwrap().contains("log lines were dropped"));
        (warned, lines)
    });
    let (warned, unread) = tokio::time::timeout(PATIENCE, warned).await.unwrap().unwrap();
    assert!(warned);
    // Once unread again, the process still ends on request.
    for _ in 0..200 {
        ordered(&client).await;
    }
    signal(&acceptor.0, Signal::SIGTERM);
    let status = until("it ends", async || acceptor.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    drop(unread);
}

#[tokio::test]
async fn proposer_and_learner_with_unread_logs_answer_probes_and_stop() {
    let cluster = Cluster::blank(3).await;
    let urls = cluster.urls();
    let start = |role: &str| {
        let (listen, metrics) = (free_ports(1), free_ports(1));
        let listen = format!("127.0.0.1:{listen}");
        let metrics = format!("127.0.0.1:{metrics}");
        let mut command = paxos(&["serve", role, "--acceptors", &urls, "--listen", &listen]);
        command
            .env("PAXOS_METRICS_LISTEN", &metrics)
            .env("RUST_LOG", "trace")
            .stderr(Stdio::piped());
        (Ended(command.spawn().unwrap()), metrics)
    };
    let mut roles = ["proposer", "learner"].map(start);
    let client = cluster.client();
    let works = async || {
        client.put("key", vec![b'x'; 1_000]).await.unwrap();
        let read = client.get("key");
        assert!(read.await.unwrap().is_some());
    };
    for (_, metrics) in &roles {
        until("lines are dropped while the roles work", async || {
            works().await;
            let text = get(metrics, "/metrics")?;
            let line = text
                .lines()
                .find(|line| line.starts_with("paxos_log_dropped_lines_total"))?;
            (!line.ends_with(" 0")).then_some(())
        })
        .await;
    }
    works().await;
    for (role, metrics) in &mut roles {
        assert!(get(metrics, "/livez").unwrap().contains("200 OK"));
        signal(&role.0, Signal::SIGTERM);
        let status = until("it ends", async || role.0.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn last_line_of_a_log_in_json_is_json() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let args = [
        "serve",
        "proposer",
        "--acceptors",
        "http://127.0.0.1:1",
        "--listen",
        &listen,
        "--log-format",
        "json",
    ];
    let output = run(&args).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["fields"]["exit_code"], 2, "{last}");
    assert!(
        last["fields"]["message"].as_str().unwrap().contains(&listen),
        "{last}"
    );
}

/// Orders a value, in spite of changes of leader: a log at the level `trace` slows the acceptor.
async fn ordered(client: &paxos_client::Client) {
    until("a value is ordered", async || {
        client.append_at_most_once("value").await.ok()
    })
    .await;
}

/// The answer of an HTTP server.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A child process, killed at the end of the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
