//! Views of the members and of missing acceptors on real processes: quorums, moved acceptors, silence.

use super::*;

#[tokio::test]
async fn quorums_that_need_every_member_to_lead_are_named_with_the_reason() {
    let cluster = Cluster::start(3, 2, 1).await;
    let made = changed(
        &cluster,
        &["quorums", "--phase1", "3", "--phase2", "1", "--force"],
    )
    .await;
    assert!(made.contains("because the quorums were chosen so"), "{made}");
    let shown = stdout(&member(&cluster, &["list"]).await);
    println!("{shown}");
    let (status, code) = cluster.status().await;
    let findings = status["findings"].to_string();
    assert!(
        !findings.contains("no quorum") && !findings.contains("too few"),
        "{code:?}: {findings}"
    );
    assert!(
        shown.contains("quorums: 3 of 3 to elect a leader (phase 1), 1 of 3 to choose a value (phase 2)"),
        "{shown}"
    );
}

#[tokio::test]
async fn moved_acceptor_is_named_with_its_address_and_the_command_that_repairs_the_list() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let before = cluster.acceptors[2].address.to_string();
    cluster.acceptors[2].kill();
    let data_dir = cluster.path("acceptor-3");
    let flags = ["--id", "acceptor-3", "--data-dir", &data_dir];
    let name = "acceptor-3".to_owned();
    cluster.acceptors[2] = Process::role(cluster.dir.path(), "acceptor", name, free_ports(1), &flags);
    let moved = cluster.acceptors[2].address.to_string();
    let row = until("the acceptor answers elsewhere", async || {
        let list = list(&cluster).await;
        let rows = list["members"].as_array()?;
        rows.iter()
            .find(|row| row["state"] == "answers elsewhere")
            .cloned()
    })
    .await;
    println!("{row}");
    assert_eq!(
        (&row["address"], &row["answers_at"]),
        (&before.into(), &moved.clone().into())
    );
    let command = format!("paxos member replace acceptor-3 --with {moved}");
    assert!(row["what_to_do"].as_str().unwrap().contains(&command), "{row}");
    changed(&cluster, &["replace", "acceptor-3", "--with", &moved]).await;
    all_vote(&cluster, 1, 3).await;
}

#[tokio::test]
async fn silence_of_every_acceptor_is_named_with_each_cause_and_no_cluster_is_called_unformed() {
    let addresses = [free_ports(1), free_ports(1)].map(|port| format!("http://127.0.0.1:{port}"));
    let urls = addresses.join(",");
    let listed = run(&["member", "list", "--acceptors", &urls, "--timeout", "2s"]).await;
    let status = run(&["status", "--acceptors", &urls, "--timeout", "2s"]).await;
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    println!("{}{shown}{}", stderr(&listed), stderr(&status));
    for (said, output) in [
        (stderr(&listed), &listed),
        (shown.clone(), &status),
        (stderr(&status), &status),
    ] {
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("no acceptor answers"), "{said}");
        for address in &addresses {
            assert!(said.contains(&format!("{address}: ")), "{said}");
        }
        assert!(!said.contains("not formed"), "{said}");
    }
    assert!(
        stderr(&listed).contains("What to do: start the acceptors"),
        "{listed:?}"
    );
    let put = run(&["put", "key", "value", "--acceptors", &urls, "--timeout", "1s"]).await;
    let said = stderr(&put);
    assert!(addresses.iter().all(|address| said.contains(address)), "{said}");
}

#[tokio::test]
async fn process_whose_addresses_lead_nowhere_warns_once_with_each_cause() {
    let dir = tempfile::TempDir::new().unwrap();
    let addresses = [free_ports(1), free_ports(1)].map(|port| format!("http://127.0.0.1:{port}"));
    let urls = addresses.join(",");
    for role in ["proposer", "learner"] {
        let flags = ["--acceptors", urls.as_str()];
        let begun = std::time::Instant::now();
        let process = Process::role(dir.path(), role, role.to_owned(), free_ports(1), &flags);
        let warnings = |log: &str| -> Vec<String> {
            let lines = log
                .lines()
                .filter(|line| line.contains("no cluster is found at the given addresses"));
            lines.map(str::to_owned).collect()
        };
        let found = until("the process warns", async || {
            let found = warnings(&process.log());
            (!found.is_empty()).then_some(found)
        })
        .await;
        println!("{:?}: {}", begun.elapsed(), found[0]);
        assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
        assert!(found[0].contains("WARN"), "{}", found[0]);
        assert!(
            addresses.iter().all(|address| found[0].contains(address)),
            "{}",
            found[0]
        );
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(warnings(&process.log()).len(), 1, "at most once a minute");
    }
}
