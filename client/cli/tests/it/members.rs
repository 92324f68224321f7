//! Changes of members on real processes, under load: acceptors are replaced, added and removed, and wrong requests are
//! refused with what to do.

use std::{fs, process::Output, time::Duration};

use nix::sys::signal::Signal;
use paxos_proto::v1::form_request::Step;
use serde_json::Value;

use crate::{
    harness::{BackgroundLoad, Cluster, Process, free_ports, integer, run, stderr, stdout, until},
    linearizability::{self, RecordedClients},
};

mod faults;
mod lists;
mod views;

/// Upper bound of the time without a successful command during a change, on the slowest machines.
const GAP_MAX: Duration = Duration::from_secs(5);
/// The aim for the same time on an idle machine.
const GAP_AIM: Duration = Duration::from_millis(300);

/// The arguments of `paxos member`, with the addresses of all acceptors of the cluster.
fn arguments<'a>(action: &[&'a str], urls: &'a str) -> Vec<&'a str> {
    [&["member"], action, &["--acceptors", urls, "--timeout", "20s"]].concat()
}

/// Runs `paxos member`.
async fn member(cluster: &Cluster, action: &[&str]) -> Output {
    run(&arguments(action, &cluster.urls())).await
}

/// Runs `paxos member` with a change that must be made. Returns the output.
async fn changed(cluster: &Cluster, action: &[&str]) -> String {
    let output = stdout(&member(cluster, action).await);
    println!("{output}");
    output
}

/// Runs `paxos member` with a change that must be refused. Returns the reason.
async fn refused(cluster: &Cluster, action: &[&str]) -> String {
    let output = member(cluster, action).await;
    let reason = stderr(&output);
    println!("{reason}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    reason
}

/// `paxos member list`, as JSON.
async fn list(cluster: &Cluster) -> Value {
    let output = member(cluster, &["list", "--output", "json"]).await;
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Waits until `paxos member list` shows this era, and that every member votes.
async fn all_vote(cluster: &Cluster, era: u64, members: usize) -> Value {
    until(&format!("all {members} members of era {era} vote"), async || {
        let list = list(cluster).await;
        let rows = list["members"].as_array()?;
        let votes = rows.iter().filter(|row| row["state"] == "votes").count();
        (integer(&list["era"])? == era && (votes, rows.len()) == (members, members)).then_some(list)
    })
    .await
}

/// Makes changes while clients propose. Prints the longest time without a success, and checks the log of every learner.
async fn under_load(
    cluster: &mut Cluster,
    what: &str,
    change: impl AsyncFnOnce(&mut Cluster, &BackgroundLoad),
) {
    let load = BackgroundLoad::start(cluster, 2, usize::MAX, 4);
    load.goes_on(100).await;
    let before = load.take_gap();
    change(cluster, &load).await;
    load.goes_on(100).await;
    let gap = load.take_gap();
    eprintln!(
        "{what}: longest time without a success (aim: {GAP_AIM:?}), and before: {gap:.0?}, {before:.0?}"
    );
    assert!(gap < GAP_MAX, "{what}: {gap:?} without a success");
    let outcome = load.stop().await;
    assert!(outcome.acknowledged.len() > 100, "{what}");
    let end = cluster.client().chosen_to().await.unwrap().max(outcome.end());
    for learner in &cluster.learners {
        outcome.check(&cluster.log_of(learner, end).await);
    }
}

/// Stops an acceptor and empties its directory, then starts the acceptor again.
fn lose_disk(cluster: &mut Cluster, acceptor: usize) {
    let directory = cluster.path(&cluster.acceptors[acceptor].name);
    cluster.acceptors[acceptor].kill_if_it_runs();
    fs::remove_dir_all(directory).unwrap();
    cluster.acceptors[acceptor].start();
}

/// The changed cluster depends on its new members: it serves without another one.
async fn serves_without(cluster: &mut Cluster, acceptor: usize) {
    cluster.acceptors[acceptor].kill();
    cluster.client().put("without", "another member").await.unwrap();
    cluster.acceptors[acceptor].start();
}

#[tokio::test]
async fn lost_member_is_replaced_by_a_blank_acceptor_at_its_address() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    under_load(&mut cluster, "replaced in place", async |cluster, load| {
        lose_disk(cluster, 2);
        until("the lost disk is seen", async || {
            let list = list(cluster).await;
            let rows = list["members"].as_array()?;
            let lost = rows.iter().find(|row| row["state"] == "lost its disk")?;
            assert_eq!(lost["what_to_do"], "paxos member replace acceptor-3");
            Some(())
        })
        .await;
        load.goes_on(10).await;
        load.take_gap();
        let output = changed(cluster, &["replace", "acceptor-3"]).await;
        assert!(output.starts_with("replacing acceptor-3 ("), "{output}");
        assert!(
            output.contains("\ndone       era 1, 3 members, one may be lost; commands waited at most "),
            "{output}"
        );
        assert!(output.ends_with("PAXOS_ACCEPTORS may stay.\n"), "{output}");
    })
    .await;
    all_vote(&cluster, 1, 3).await;
    // The former acceptor at the address is no fault.
    for proposer in &cluster.proposers {
        let log = proposer.log();
        let is_alarm = |line: &&str| line.contains("ERROR") && line.contains("is looked for");
        assert_eq!(log.lines().find(is_alarm), None, "{}", proposer.name);
    }
    serves_without(&mut cluster, 0).await;
    let (status, code) = cluster.status().await;
    assert_eq!(code, Some(0), "{status}");
    // The log shows the change.
    let log = stdout(&run(&["log", "--acceptors", &cluster.urls()]).await);
    let shown = log.lines().find(|line| line.contains("  members of era 1: "));
    let shown = shown.unwrap();
    let third = format!("acceptor-3 at {}", cluster.acceptors[2].address);
    assert!(shown.contains(&third) && shown.contains(".-  "), "{shown}");
    // The member itself answers now.
    let reason = refused(&cluster, &["replace", "acceptor-3"]).await;
    assert!(
        reason.contains("itself answers there: nothing to replace"),
        "{reason}"
    );
}

#[tokio::test]
async fn removed_acceptor_comes_back_with_its_directory_and_does_no_harm() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    cluster.add_acceptor();
    let joiner = cluster.acceptors[3].address.to_string();
    // The replaced acceptor hears nothing of the change.
    cluster.acceptors[2].kill();
    under_load(&mut cluster, "replaced by another", async |cluster, _| {
        let digits = list(cluster).await["members"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["address"] == cluster.acceptors[2].address.as_str())
            .and_then(|row| Some(row["acceptor"].as_str()?[..6].to_owned()))
            .unwrap();
        let output = changed(cluster, &["replace", &digits, "--with", &joiner]).await;
        assert!(output.contains("may be switched off"), "{output}");
        assert!(output.contains("At leisure, set PAXOS_ACCEPTORS="), "{output}");
        cluster.acceptors[2].start();
        until("the removed acceptor is named", async || {
            let list = list(cluster).await;
            (list["outside"][0]["state"] == "no member").then_some(())
        })
        .await;
        let leader = cluster.leader().await;
        cluster.proposers[leader].kill();
        cluster.proposers[leader].start();
    })
    .await;
    all_vote(&cluster, 1, 3).await;
    let (status, code) = cluster.status().await;
    assert_eq!(code, Some(0), "{status}");
    let problem = status["findings"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("is no member in era 1"), "{problem}");
    // Its vote does not help: of the three members one is left.
    cluster.acceptors[0].signal(Signal::SIGSTOP);
    cluster.acceptors[1].signal(Signal::SIGSTOP);
    let client = cluster.client().with_timeout(Duration::from_secs(2));
    let alone = client.append_at_most_once("alone").await;
    assert!(alone.is_err(), "{alone:?}");
    cluster.acceptors[0].signal(Signal::SIGCONT);
    cluster.acceptors[1].signal(Signal::SIGCONT);
    cluster.client().put("again", "two of three").await.unwrap();
}

#[tokio::test]
async fn reads_stay_linearizable_while_three_members_become_five_and_three() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let clients = RecordedClients::start(&cluster, 4, Duration::from_secs(5));
    // The history covers these commands too; the log also holds the commands of the sessions.
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 4);
    {
        let (cluster, load) = (&mut cluster, &load);
        cluster.add_acceptor();
        cluster.add_acceptor();
        let [fourth, fifth] = [3, 4].map(|number: usize| cluster.acceptors[number].address.to_string());
        let output = changed(cluster, &["add", &fourth, &fifth]).await;
        assert!(output.contains("era 1, 5 members, 2 may be lost"), "{output}");
        all_vote(cluster, 1, 5).await;
        load.goes_on(50).await;
        eprintln!("three to five: {:.0?}", load.take_gap());
        // Two members of before, and one of the new.
        let output = changed(cluster, &["remove", "acceptor-1", "acceptor-4"]).await;
        assert!(output.contains("era 2, 3 members, one may be lost"), "{output}");
        all_vote(cluster, 2, 3).await;
        load.goes_on(50).await;
        eprintln!("five to three: {:.0?}", load.take_gap());
        for removed in [0, 3] {
            cluster.acceptors[removed].kill();
        }
        let learner = &mut cluster.learners[0];
        learner.kill();
        learner.start();
        load.goes_on(50).await;
    }
    load.stop().await;
    linearizability::check(&clients.history().await);
    serves_without(&mut cluster, 1).await;
}

#[tokio::test]
async fn wrong_changes_are_refused_with_what_to_do() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let nothing = refused(&cluster, &["quorums"]).await;
    assert!(nothing.contains("nothing would change"), "{nothing}");
    let unknown = refused(&cluster, &["remove", "acceptor-9"]).await;
    assert!(
        unknown.contains("no member is acceptor-9; the members are acceptor-1 ("),
        "{unknown}"
    );
    let itself = refused(&cluster, &["replace", "acceptor-3"]).await;
    assert!(
        itself.contains("itself answers there: nothing to replace"),
        "{itself}"
    );
    let unused = format!("http://127.0.0.1:{}", free_ports(1));
    let silent = refused(&cluster, &["add", &unused]).await;
    assert!(silent.contains("does not answer the leader"), "{silent}");
    let two = refused(&cluster, &["remove", "acceptor-3"]).await;
    assert!(
        two.contains("none may fail. First start") && two.contains("To do so nevertheless, give --force"),
        "{two}"
    );

    // An acceptor of another cluster.
    cluster.add_acceptor();
    let other = cluster.configuration(&[3]).await;
    cluster.form(3, Some(Step::Store(other.clone()))).await;
    cluster.form(3, Some(Step::Complete(other))).await;
    let stranger = cluster.acceptors[3].address.to_string();
    let foreign = refused(&cluster, &["replace", "acceptor-3", "--with", &stranger]).await;
    assert!(
        foreign.contains("belongs to another cluster: its directory is not empty"),
        "{foreign}"
    );
    lose_disk(&mut cluster, 3);

    // One member is away.
    cluster.acceptors[2].kill();
    until("the leader misses the acceptor", async || {
        let output = member(&cluster, &["remove", "acceptor-2", "--force"]).await;
        let reason = stderr(&output);
        let never =
            "of the 2 members after this change 2 are needed and 1 would answer: nothing could be ordered. Start or replace ";
        reason.contains(never).then_some(())
    })
    .await;
    let spare = refused(&cluster, &["add", &stranger]).await;
    assert!(
        spare.contains("after this change 3 of 4 members answer and 3 are needed: none may fail"),
        "{spare}"
    );
    let away = refused(&cluster, &["replace", cluster.acceptors[2].address.as_str()]).await;
    assert!(
        away.contains("an acceptor with an empty directory there"),
        "{away}"
    );
    assert_eq!(list(&cluster).await["era"], "0", "nothing has changed");
    cluster.client().put("still", "served").await.unwrap();
}

#[tokio::test]
async fn two_changes_at_once_are_made_one_after_the_other_or_refused() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    cluster.add_acceptor();
    cluster.add_acceptor();
    let [fourth, fifth] = [3, 4].map(|number: usize| cluster.acceptors[number].address.to_string());
    let urls = cluster.urls();
    let outputs = under_both(&urls, &["add", &fourth], &["add", &fifth]).await;
    let (made, not_made): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.status.success());
    assert_eq!((made.len(), not_made.len()), (1, 1), "{outputs:?}");
    let reason = stderr(not_made[0]);
    println!("{reason}");
    assert_eq!(not_made[0].status.code(), Some(1), "{reason}");
    assert!(
        reason.contains("another change is under way: add acceptor-")
            || reason.contains(
                "another change is under way: it began under an earlier leader, or at the same moment"
            )
            || reason.contains("the members have changed since you looked (era 1, not 0): look again"),
        "{reason}"
    );
    all_vote(&cluster, 1, 4).await;
    // The same change twice at once is made once.
    let added = list(&cluster).await["outside"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let outputs = under_both(&urls, &["add", &added], &["add", &added]).await;
    for output in &outputs {
        assert!(
            stdout(output).contains("done       era 2, 5 members"),
            "{output:?}"
        );
    }
    cluster.client().put("after", "both").await.unwrap();
}

/// Runs two changes at the same time.
async fn under_both(urls: &str, first: &[&str], second: &[&str]) -> [Output; 2] {
    let (first, second) = (arguments(first, urls), arguments(second, urls));
    let outputs = tokio::join!(run(&first), run(&second));
    outputs.into()
}

/// Waits until the process has ended the start, and is a member of the cluster that serves.
async fn finds_the_cluster(process: &Process) {
    let args = ["healthcheck", process.address.host_and_port()];
    until(&format!("{} finds the cluster", process.name), async || {
        run(&args).await.status.success().then_some(())
    })
    .await;
}
