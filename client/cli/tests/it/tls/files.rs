//! The files of a process: which are refused at the start, and what happens to bad files while the process runs.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use paxos_client::TlsFiles;

use super::refused_start;
use crate::harness::{Process, free_ports, run_with, tls, until};

fn acceptor_flags(data: &str) -> Vec<&str> {
    vec![
        "serve",
        "acceptor",
        "--id",
        "a1",
        "--data-dir",
        data,
        "--listen",
        "127.0.0.1:0",
    ]
}

/// What an acceptor with these files says before it exits 2; `fault` is what is wrong with the files.
async fn refused(data: &Path, files: &TlsFiles, fault: &str) -> String {
    let data = data.display().to_string();
    refused_start(&acceptor_flags(&data), &tls::variables(files), fault).await
}

#[tokio::test]
async fn unusable_files_end_the_start_and_are_named() {
    let dir = tempfile::TempDir::new().unwrap();
    let (path, data) = (|name: &str| dir.path().join(name), dir.path().join("data"));
    let ca = tls::TestCa::new("ca");
    let role = "acceptor.paxos.internal";
    let names = [role];
    let issue = |name: &str, wanted: &tls::Wanted<'_>| ca.issue(wanted, &ca.pem, &path(name));
    let good = issue("good", &tls::Wanted::of(&[role]));
    let other = issue("other", &tls::Wanted::of(&[role]));
    let expired = tls::Wanted {
        valid: (-600, -300),
        ..tls::Wanted::of(&names)
    };
    let later = tls::Wanted {
        valid: (300, 600),
        ..tls::Wanted::of(&names)
    };
    let with = |change: fn(&mut TlsFiles, &TlsFiles)| {
        let mut files = good.clone();
        change(&mut files, &other);
        files
    };
    fs::write(path("empty"), "").unwrap();
    fs::set_permissions(path("empty"), fs::Permissions::from_mode(0o600)).unwrap();
    let no_key = TlsFiles {
        key: path("empty"),
        ..good.clone()
    };
    for (files, expected) in [
        (
            with(|files, _| files.cert = "/no/such/file".into()),
            "cannot read /no/such/file",
        ),
        (
            with(|files, _| files.key = "/no/such/file".into()),
            "cannot read /no/such/file",
        ),
        (
            with(|files, other| files.key.clone_from(&other.key)),
            "are not a pair",
        ),
        (no_key, "no usable private key"),
        (
            with(|files, _| files.ca.clone_from(&files.key)),
            "no usable certificate",
        ),
        (issue("expired", &expired), "expired/cert.pem expired at 20"),
        (issue("later", &later), "later/cert.pem is valid from 20"),
        (
            issue(
                "learner",
                &tls::Wanted::of(&["learner.paxos.internal", "host.example"]),
            ),
            "does not have the DNS name acceptor.paxos.internal; its DNS names: learner.paxos.internal, host.example",
        ),
        (
            issue("wildcard", &tls::Wanted::of(&["*.paxos.internal"])),
            "does not have the DNS name acceptor.paxos.internal",
        ),
        (issue("nameless", &tls::Wanted::of(&[])), "its DNS names: none"),
    ] {
        let said = refused(&data, &files, expected).await;
        assert!(said.contains(expected), "{said}");
    }
    let empty = TlsFiles {
        cert: path("empty"),
        ..good.clone()
    };
    let said = refused(&data, &empty, "no certificate").await;
    assert!(said.contains("empty has no usable certificate"), "{said}");
    for mode in [0o604, 0o602, 0o601] {
        fs::set_permissions(&good.key, fs::Permissions::from_mode(mode)).unwrap();
        let said = refused(&data, &good, &format!("the key has the mode {mode:o}")).await;
        assert!(
            said.contains("good/key.pem is accessible by other users"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn key_that_a_group_may_read_is_taken() {
    let dir = tempfile::TempDir::new().unwrap();
    let ca = tls::TestCa::new("ca");
    let files = ca.issue(
        &tls::Wanted::of(&["acceptor.paxos.internal"]),
        &ca.pem,
        &dir.path().join("acceptor"),
    );
    // As a Kubernetes volume with an fsGroup.
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    let acceptor = start(dir.path(), &files);
    until("the acceptor runs", async || {
        acceptor.log().contains("acceptor recovered").then_some(())
    })
    .await;
}

fn start(dir: &Path, files: &TlsFiles) -> Process {
    let data = dir.join("data").display().to_string();
    let flags = ["--id", "a1", "--data-dir", &data];
    let (name, port) = ("acceptor-1".to_owned(), free_ports(1));
    Process::role_with(dir, "acceptor", name, port, &flags, tls::variables(files))
}

#[tokio::test]
async fn bad_files_while_running_leave_the_old_pair_in_use_with_one_warning_each() {
    let dir = tempfile::TempDir::new().unwrap();
    let ca = tls::TestCa::new("ca");
    let issue = |name: &str, role: &str| ca.issue(&tls::Wanted::of(&[role]), &ca.pem, &dir.path().join(name));
    let files = issue("acceptor", "acceptor.paxos.internal");
    let client = issue("client", "client.paxos.internal");
    let acceptor = start(dir.path(), &files);
    let address = acceptor.address.host_and_port().to_owned();
    let environment = tls::variables(&client);
    let answers = async || {
        let asked = ["healthcheck", &address, "--live"];
        run_with(&asked, &environment).await.status.success()
    };
    until("the acceptor answers", async || answers().await.then_some(())).await;
    let log = acceptor.log();
    let start = log
        .lines()
        .find(|line| line.contains("connections use TLS"))
        .unwrap();
    assert!(
        start.contains("acceptor/cert.pem is valid from 20") && start.contains(" to 20"),
        "{start}"
    );
    let (cert, key) = (fs::read(&files.cert).unwrap(), fs::read(&files.key).unwrap());
    let warnings = || {
        acceptor
            .log()
            .matches("new certificate files are not usable")
            .count()
    };
    let mut expected = 0;
    // Half written; empty; the key of another certificate; missing.
    for broken in ["half", "empty", "swapped", "missing"] {
        match broken {
            "empty" => fs::write(&files.cert, "").unwrap(),
            "half" => fs::write(&files.cert, &cert[..cert.len() / 2]).unwrap(),
            "swapped" => {
                fs::write(&files.cert, &cert).unwrap();
                fs::write(&files.key, fs::read(&client.key).unwrap()).unwrap();
            }
            _ => fs::remove_file(&files.key).unwrap(),
        }
        expected += 1;
        until(&format!("{broken}: a warning"), async || {
            (warnings() >= expected).then_some(())
        })
        .await;
        assert!(answers().await, "{broken}");
    }
    // Longer than the interval of the comparisons.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(warnings(), expected, "{}", acceptor.log());
    assert!(answers().await);
    fs::write(&files.key, &key).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let new = issue("acceptor", "acceptor.paxos.internal");
    assert_eq!(new, files);
    let taken = until("new files are taken", async || {
        let log = acceptor.log();
        let taken = log
            .lines()
            .find(|line| line.contains("took new certificate files"));
        taken.map(str::to_owned)
    })
    .await;
    assert!(
        taken.contains("acceptor/cert.pem") && taken.contains("valid_until"),
        "{taken}"
    );
    assert!(answers().await);
}
