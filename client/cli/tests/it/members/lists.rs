//! Lists of acceptors that are right in one address, or in none, after a change of members.

use super::*;

#[tokio::test]
async fn one_right_address_is_enough_and_a_list_without_any_is_named() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    for _ in 0..2 {
        cluster.add_acceptor();
    }
    let [fourth, fifth] = [3, 4].map(|number: usize| cluster.acceptors[number].address.to_string());
    changed(&cluster, &["add", &fourth, &fifth]).await;
    changed(&cluster, &["remove", "acceptor-1", "acceptor-2"]).await;
    let removed = format!(
        "{},{}",
        cluster.acceptors[0].address, cluster.acceptors[1].address
    );
    // One address of a member, and one of a removed acceptor.
    let mixed = format!("{},{fourth}", cluster.acceptors[0].address);
    cluster.acceptors[1].kill();
    cluster.add_proposer(&mixed, &[]);
    finds_the_cluster(cluster.proposers.last().unwrap()).await;
    let flags = ["--acceptors", mixed.as_str()];
    let learner = Process::role(
        cluster.dir.path(),
        "learner",
        "late".to_owned(),
        free_ports(1),
        &flags,
    );
    finds_the_cluster(&learner).await;
    let log = cluster.proposers.last().unwrap().log();
    assert!(log.contains("is not the list of the members"), "{log}");
    let put = run(&["put", "key", "mixed list", "--acceptors", &mixed]).await;
    assert!(put.status.success(), "{put:?}");
    let get = run(&["get", "key", "--acceptors", &mixed]).await;
    assert_eq!(stdout(&get).trim(), "mixed list");
    // All proposers die: the new ones find the members by the mixed list alone.
    for proposer in &mut cluster.proposers[..2] {
        proposer.kill();
    }
    let put = run(&[
        "put",
        "key",
        "new leader",
        "--acceptors",
        &mixed,
        "--timeout",
        "20s",
    ])
    .await;
    assert!(put.status.success(), "{put:?}");
    // Removed acceptors alone, one of them stopped. The other one names the members.
    let members = list(&cluster).await["members"].as_array().unwrap().clone();
    let members: Vec<_> = members
        .iter()
        .map(|row| row["address"].as_str().unwrap())
        .collect();
    let warns = |process: &Process, what: &str| {
        let log = process.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("is not the list of the members"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{what}: {log}");
        assert!(
            members.iter().all(|address| lines[0].contains(address)),
            "{what}: {log}"
        );
    };
    warns(
        cluster.proposers.last().unwrap(),
        "proposer with one right address",
    );
    warns(&learner, "learner with one right address");
    let put = run(&[
        "put",
        "key",
        "followed",
        "--acceptors",
        &removed,
        "--timeout",
        "20s",
    ])
    .await;
    assert!(put.status.success(), "{put:?}");
    let get = run(&["get", "key", "--acceptors", &removed]).await;
    assert_eq!(stdout(&get).trim(), "followed");
    cluster.add_proposer(&removed, &[]);
    let proposer = cluster.proposers.last().unwrap();
    finds_the_cluster(proposer).await;
    warns(proposer, "proposer without a right address");
    let flags = ["--acceptors", removed.as_str()];
    let learner = Process::role(
        cluster.dir.path(),
        "learner",
        "later".to_owned(),
        free_ports(1),
        &flags,
    );
    finds_the_cluster(&learner).await;
    warns(&learner, "learner without a right address");
    // The removed acceptor answers, and no member: the error comes long before the deadline.
    for member in 2..5 {
        cluster.acceptors[member].kill();
    }
    let only = cluster.acceptors[0].address.to_string();
    let begun = std::time::Instant::now();
    let put = run(&["put", "key", "lost", "--acceptors", &only, "--timeout", "60s"]).await;
    let said = stderr(&put);
    println!("{:?}: {said}", begun.elapsed());
    assert_eq!(put.status.code(), Some(69), "{put:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(
        said.contains("is a member any more: give the members of era 2, "),
        "{said}"
    );
    assert!(members.iter().all(|address| said.contains(address)), "{said}");
    // All stopped: no process can say which list would be right.
    cluster.acceptors[0].kill();
    let put = run(&["put", "key", "lost", "--acceptors", &removed, "--timeout", "2s"]).await;
    println!("{}", stderr(&put));
    assert_eq!(put.status.code(), Some(69), "{put:?}");
}
