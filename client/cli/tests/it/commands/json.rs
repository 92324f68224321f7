//! The output of every command with `--output json`: no reader changes an integer.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Dev, ended, interrupt};
use crate::harness::{Cluster, PATIENCE, paxos, run, stdout};

/// Names of fields with integers of 32 bits: numbers in JSON. All other integers are strings.
const NARROW: [&str; 15] = [
    "accepted",
    "alive_interval_ms",
    "in_flight",
    "leader_timeout_ms",
    "limit",
    "may_be_lost",
    "of",
    "offset",
    "phase1",
    "phase2",
    "pid",
    "protocol_version",
    "reads_percent",
    "timeout_ms",
    "value_bytes",
];

/// Panics at an integer that a reader of doubles may change.
fn assert_exact(field: &str, json: &Value) {
    match json {
        Value::Number(number) => assert!(
            number.is_f64() || NARROW.contains(&field),
            "{field} is the number {number}"
        ),
        Value::Array(items) => items.iter().for_each(|item| assert_exact(field, item)),
        Value::Object(fields) => fields.iter().for_each(|(name, json)| assert_exact(name, json)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn every_command_prints_wide_integers_as_strings_in_json() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().display().to_string();
    let mut dev = Dev::start(&["--data-dir", &path]).await;
    let backup = format!("backup {path}/saved");
    let lines = [
        "decide name winner",
        "decide name loser",
        "put key value",
        "put key other --if-absent",
        "put key other --if-version 0.0",
        "get key",
        "get --prefix k",
        "delete key --if-version 0.0",
        "delete key",
        "propose value",
        "log",
        "watch key --from 0.0",
        "elect job",
        "status",
        "bench --duration 100ms --in-flight 2 --reads 50",
        &backup,
        "member list",
        "member quorums --phase1 3 --phase2 1 --force",
        // With the change.
        "log",
    ];
    let mut shown = BTreeSet::new();
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        let mut command = paxos(&[&words[..], &["--output", "json", "--acceptors", &dev.urls]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        // Commands that run until a signal are read for a few lines.
        let endless = ["watch", "elect"].contains(&words[0]);
        let read = tokio::task::spawn_blocking(move || {
            let lines = output.lines().take(if endless { 2 } else { usize::MAX });
            lines.map(Result::unwrap).collect::<Vec<_>>()
        });
        let read = tokio::time::timeout(PATIENCE, read).await.expect(line).unwrap();
        assert!(!read.is_empty(), "{line} prints nothing");
        for json in read {
            assert_exact(line, &serde_json::from_str(&json).expect(&json));
        }
        if endless {
            interrupt(&child, Signal::SIGTERM);
        }
        ended(&mut child).await;
        shown.insert(words[0].to_owned());
    }

    interrupt(&dev.child, Signal::SIGTERM);
    assert!(ended(&mut dev.child).await.success());
    let witnesses = ["repair", "witnesses", "--output", "json", "--data-dir"];
    let acceptor = dir.path().join("acceptor-1").display().to_string();
    let witnesses = stdout(&run(&[&witnesses[..], &[&acceptor]].concat()).await);
    assert!(!witnesses.is_empty());
    for json in witnesses.lines() {
        assert_exact("repair", &serde_json::from_str(json).expect(json));
    }
    shown.insert("repair".to_owned());

    let cluster = Cluster::blank(1).await;
    let saved = format!("{path}/saved");
    let restore = [
        "restore",
        &saved,
        "--output",
        "json",
        "--acceptors",
        &cluster.urls(),
    ];
    let restored = stdout(&run(&restore).await);
    assert_exact("restore", &serde_json::from_str(&restored).expect(&restored));
    shown.insert("restore".to_owned());

    // No command is left out.
    let help = stdout(&run(&["help"]).await);
    let commands = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1);
    for line in commands.take_while(|line| !line.is_empty()) {
        // Descriptions continue in lines with more indentation.
        let Some(name) = line[2..].split(' ').next().filter(|name| !name.is_empty()) else {
            continue;
        };
        let has_json = name != "help" && stdout(&run(&[name, "--help"]).await).contains("--output ");
        assert!(
            !has_json || shown.contains(name),
            "{name} --output json was not looked at"
        );
    }
}
