//! Operators' views of the members on real processes: quorums.

use super::*;

#[tokio::test]
async fn quorums_that_need_every_member_to_lead_are_healthy_with_the_reason() {
    let cluster = Cluster::start(3, 2, 1).await;
    let made = changed(&cluster, &["quorums", "--phase1", "3", "--phase2", "1", "--force"]).await;
    assert!(made.contains("because the quorums were chosen so"), "{made}");
    let healthy = until("the changed cluster is healthy", async || {
        let status = stdout(&run(&["status", "--acceptors", &cluster.urls()]).await);
        status.contains("healthy: ").then_some(status)
    })
    .await;
    assert!(
        healthy.contains("none may be lost, because the quorums were chosen so: a new leader needs all 3 members"),
        "{healthy}"
    );
    let shown = stdout(&member(&cluster, &["list"]).await);
    println!("{shown}");
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
        rows.iter().find(|row| row["state"] == "answers elsewhere").cloned()
    })
    .await;
    println!("{row}");
    assert_eq!((&row["address"], &row["answers_at"]), (&before.into(), &moved.clone().into()));
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
    for (said, output) in [(stderr(&listed), &listed), (shown.clone(), &status), (stderr(&status), &status)] {
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("no acceptor answers"), "{said}");
        for address in &addresses {
            assert!(said.contains(&format!("{address}: ")), "{said}");
        }
        assert!(!said.contains("not formed"), "{said}");
    }
    assert!(stderr(&listed).contains("What to do: start the acceptors"), "{listed:?}");
    let put = run(&["put", "key", "value", "--acceptors", &urls, "--timeout", "1s"]).await;
    let said = stderr(&put);
    assert!(addresses.iter().all(|address| said.contains(address)), "{said}");
}
