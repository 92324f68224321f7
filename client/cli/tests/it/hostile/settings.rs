//! Senseless settings for each role.

use crate::harness::paxos;

#[tokio::test]
async fn invalid_settings_end_every_role_with_2_and_advice() {
    let dir = tempfile::TempDir::new().unwrap();
    let data_dir = dir.path().display().to_string();
    let acceptor = ["serve", "acceptor", "--id", "a1", "--data-dir", &data_dir];
    let proposer = ["serve", "proposer", "--acceptors", "http://127.0.0.1:1"];
    let learner = ["serve", "learner", "--acceptors", "http://127.0.0.1:1"];
    let every = [&acceptor[..], &proposer, &learner];
    for (roles, name, value, texts) in [
        (
            &every[..],
            "PAXOS_LISTEN",
            "foo",
            &["--listen <ADDRESS>", "an IP address and port"][..],
        ),
        (&every, "PAXOS_LISTEN", "127.0.0.1:99999", &["--listen <ADDRESS>"]),
        (
            &every,
            "PAXOS_ADVERTISE",
            "somewhere",
            &["--advertise <URL>", "http://HOST:PORT"],
        ),
        (
            &every,
            "PAXOS_WORKER_THREADS",
            "-1",
            &["--worker-threads <N>", "1 to 1024"],
        ),
        (
            &every,
            "PAXOS_WORKER_THREADS",
            "18446744073709551616",
            &["1 to 1024"],
        ),
        (
            &every,
            "PAXOS_LOG_FORMAT",
            "xml",
            &["--log-format <FORMAT>", "text, json"],
        ),
        (
            &every[1..2],
            "PAXOS_LEADER_TIMEOUT",
            "abc",
            &["--leader-timeout <DURATION>", "200ms or 5s"],
        ),
        (&every[1..2], "PAXOS_LEADER_TIMEOUT", "200", &["200ms or 5s"]),
        (&every[1..2], "PAXOS_LEADER_TIMEOUT", "1ms", &["at least 20ms"]),
        (
            &every[1..2],
            "PAXOS_LEADER_TIMEOUT",
            "99999999999999999999s",
            &["--leader-timeout <DURATION>"],
        ),
        (&every[1..2], "PAXOS_LEADER_TIMEOUT", "1h", &["at most 60s"]),
    ] {
        for args in roles {
            let mut command = paxos(args);
            command.env(name, value);
            says(command, &format!("{args:?} with {name}={value}"), texts).await;
        }
    }
    for (args, name, value, texts) in [
        (
            &["serve", "proposer"][..],
            "PAXOS_ACCEPTORS",
            "",
            &["--acceptors"][..],
        ),
        (
            &["serve", "learner"],
            "PAXOS_ACCEPTORS",
            "http://a:1,ftp://b:2",
            &["ftp://b:2", "http://HOST:PORT"],
        ),
        (
            &["serve", "acceptor", "--data-dir", &data_dir],
            "PAXOS_ID",
            "",
            &["--id"],
        ),
        (
            &["serve", "acceptor", "--id", "a1"],
            "PAXOS_DATA_DIR",
            "",
            &["--data-dir"],
        ),
        (
            &["status"],
            "PAXOS_ACCEPTORS",
            "nonsense",
            &["nonsense", "http://HOST:PORT"],
        ),
        (
            &["propose", "x"],
            "PAXOS_TIMEOUT",
            "18446744073709551615s",
            &["--timeout", "365days"],
        ),
        (&["status"], "PAXOS_OUTPUT", "xml", &["--output", "json"]),
    ] {
        let mut command = paxos(args);
        command.env(name, value);
        says(command, &format!("{args:?} with {name}={value:?}"), texts).await;
    }
    for args in every {
        let command = paxos(&[args, &["--leader-timeuot", "1s"]].concat());
        says(
            command,
            &format!("{args:?} and a flag that is none"),
            &["--leader-timeuot"],
        )
        .await;
    }
}

/// Runs the command, and expects exit code 2 and these texts.
async fn says(mut command: std::process::Command, what: &str, texts: &[&str]) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {error}");
    for text in texts {
        assert!(error.contains(text), "{what}: {error:?} does not say {text:?}");
    }
}
