//! Linearizable reads never go back, even while an acceptor's disk shows a commit that the acceptor has not released.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::harness::{Cluster, Cut, PATIENCE, Process, Proxy, free_ports, until};
use paxos_client::{Client, Version};
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{LearnerStatusRequest, learner_client::LearnerClient};

/// Source of the library that holds the syncs of a database file.
const HOLD_SYNC: &str = include_str!("preload/hold_sync.c");
/// Bytes of a value: a few values fill the write-ahead log up to the next checkpoint.
const VALUE_BYTES: usize = 256 * 1024;
/// Duration of the reads while the disk hangs. Without the rule, the new learner answers within a second.
const HELD: Duration = Duration::from_secs(5);
/// Time limit of a read at a learner while the disk hangs.
const READ: Duration = Duration::from_millis(500);

/// Compiles the library; `None` without a C compiler.
fn compiled(directory: &Path) -> Option<PathBuf> {
    let (source, library) = (directory.join("hold_sync.c"), directory.join("hold_sync.so"));
    fs::write(&source, HOLD_SYNC).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]);
    command.args([&library, &source]).arg("-ldl");
    match command.output() {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("{output:?}"),
        Err(error) => {
            eprintln!("skipped: there is no C compiler here: {error}");
            None
        }
    }
}

/// Three acceptors. The first has a disk that the test can hold. The test can cut the proposer from the third acceptor,
/// the old learner from the second, and the new learner from the third.
struct HeldCluster {
    cluster: Cluster,
    hold: PathBuf,
    to_third: Proxy,
    old_to_second: Proxy,
    new_to_third: Proxy,
}

impl HeldCluster {
    async fn start() -> Option<Self> {
        let mut cluster = Cluster::blank(0).await;
        let library = compiled(cluster.dir.path())?;
        let hold = cluster.dir.path().join("hold");
        cluster.environment = vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("HOLD_WHILE", hold.display().to_string()),
        ];
        cluster.add_acceptor();
        cluster.environment.clear();
        cluster.add_acceptor();
        cluster.add_acceptor();
        let address = |acceptor: usize| &cluster.acceptors[acceptor].address;
        let to_third = Proxy::before(address(2));
        let (old_to_second, new_to_third) = (Proxy::before(address(1)), Proxy::before(address(2)));
        let urls = format!("{},{},{}", address(0), address(1), to_third.address);
        cluster.add_proposer(&urls, &[]);
        let mut held = Self {
            cluster,
            hold,
            to_third,
            old_to_second,
            new_to_third,
        };
        let address = |acceptor: usize| &held.cluster.acceptors[acceptor].address;
        let urls = format!("{},{},{}", address(0), held.old_to_second.address, address(2));
        held.add_learner("learner-old", &urls);
        held.cluster.leader().await;
        Some(held)
    }

    fn add_learner(&mut self, name: &str, urls: &str) {
        let data_dir = self.cluster.path(name);
        let flags = ["--acceptors", urls, "--data-dir", &data_dir];
        let dir = self.cluster.dir.path();
        let learner = Process::role(dir, "learner", name.to_owned(), free_ports(1), &flags);
        self.cluster.learners.push(learner);
    }

    /// The file that exists once a sync is held.
    fn held(&self) -> PathBuf {
        self.hold.with_extension("held")
    }

    /// One past the highest slot with a released vote of an acceptor.
    async fn voted_to(&self, acceptor: usize) -> u64 {
        let what = "the acceptor reports its votes";
        let status = until(what, async || self.cluster.acceptor_status(acceptor).await).await;
        status.voted_to
    }
}

/// Writes the register repeatedly until the disk is held. Returns the number of writes.
async fn write_until_held(client: Client, held: PathBuf) -> usize {
    let mut written = 0;
    while !held.exists() {
        let value = vec![b'x'; VALUE_BYTES];
        client.put("key", value).await.unwrap();
        written += 1;
    }
    written
}

/// The version in a learner's answer; `None` if the learner does not answer in time.
async fn read(client: &Client, timeout: Duration) -> Option<Version> {
    let found = client.with_timeout(timeout).get("key").await;
    found.ok().map(|register| register.unwrap().version)
}

#[tokio::test]
async fn reads_at_two_learners_never_go_back_while_a_checkpoint_hangs() {
    let Some(mut held) = HeldCluster::start().await else {
        return;
    };
    let client = held.cluster.client();
    client.put("key", "first").await.unwrap();
    let old = held.cluster.client_of(&[&held.cluster.learners[0]]);
    until("the learner answers", async || read(&old, PATIENCE).await).await;

    // From here on the first two acceptors decide alone, until the checkpoint of the first hangs.
    held.to_third.set(Cut::Both);
    fs::write(&held.hold, "").unwrap();
    let writing = tokio::spawn(write_until_held(client, held.held()));
    until("the checkpoint hangs", async || {
        held.held().exists().then_some(())
    })
    .await;
    // The second acceptor has the vote that the first has on disk but has not released.
    until("the first acceptor is behind", async || {
        (held.voted_to(1).await > held.voted_to(0).await).then_some(())
    })
    .await;
    // The old learner asks the first and the third acceptor for tails, the new learner the first and the second. The
    // new learner needs all three for a moment, because each acceptor reports on the others.
    held.old_to_second.set(Cut::Both);
    let address = |acceptor: usize| &held.cluster.acceptors[acceptor].address;
    let urls = format!("{},{},{}", address(0), address(1), held.new_to_third.address);
    held.add_learner("learner-new", &urls);
    let channel = connect_lazy(&held.cluster.learners[1].address);
    until("the new learner learns", async || {
        let mut client = LearnerClient::new(channel.clone());
        let status = client.status(LearnerStatusRequest {}).await.ok()?;
        (status.into_inner().applied_to > 0).then_some(())
    })
    .await;
    held.new_to_third.set(Cut::Both);
    let new = held.cluster.client_of(&[&held.cluster.learners[1]]);

    let begun = Instant::now();
    let mut seen: Vec<(&str, Version)> = Vec::new();
    while begun.elapsed() < HELD {
        for (name, client) in [("new", &new), ("old", &old)] {
            seen.extend(read(client, READ).await.map(|version| (name, version)));
        }
    }
    assert!(
        held.held().exists() && !writing.is_finished(),
        "the disk hung meanwhile"
    );
    never_back(&seen);
    assert!(
        seen.iter().any(|(name, _)| *name == "old"),
        "the old learner answered"
    );

    // Nothing hangs any more: both learners answer, with everything shown before.
    fs::remove_file(&held.hold).unwrap();
    for proxy in [&held.to_third, &held.old_to_second, &held.new_to_third] {
        proxy.set(Cut::Whole);
    }
    assert!(writing.await.unwrap() > 0);
    for (name, client) in [("new", &new), ("old", &old)] {
        let version = until("both learners answer", async || read(client, PATIENCE).await).await;
        seen.push((name, version));
    }
    never_back(&seen);
    assert!(
        seen[0].1 < seen[seen.len() - 1].1,
        "the disk held a write back: {seen:?}"
    );
}

/// Requires that each read saw everything that the previous read saw.
fn never_back(seen: &[(&str, Version)]) {
    for (before, after) in seen.iter().zip(&seen[1..]) {
        assert!(before.1 <= after.1, "reads went back: {before:?}, then {after:?}");
    }
}
