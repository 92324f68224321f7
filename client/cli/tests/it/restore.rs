//! Backups restored into new clusters of real processes, in spite of crashes, and everything that is refused.

mod again;
mod before_forming;
mod former_client;
mod seeding;
mod silent;

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use paxos_client::{Client, Condition, Consistency, PageRequest, Register, Slot, Version};
use paxos_proto::v1::Membership;
use rand::RngExt as _;
use serde_json::Value;
use tempfile::TempDir;

use seeding::seed_all;

use crate::harness::{Cluster, NO_CLUSTER, integer, paxos, run, stderr, stdout, until};

const UNAVAILABLE: i32 = 69;
const STORAGE: i32 = 74;
const REFUSED: i32 = 78;
/// Least slots between the end of a backup and the first new slot.
const JUMP: u64 = 1 << 36;

/// Backs up a cluster; returns the description.
async fn backup(cluster: &Cluster, file: &str) -> Value {
    let args = ["backup", file, "--acceptors", &cluster.urls(), "--output", "json"];
    serde_json::from_str(&stdout(&run(&args).await)).unwrap()
}

async fn restore(file: &str, urls: &str, flags: &[&str]) -> Output {
    let args = [&["restore", file, "--acceptors", urls, "--output", "json"], flags].concat();
    run(&args).await
}

/// Restores a backup; returns the first new slot.
async fn restored(file: &str, cluster: &Cluster, flags: &[&str]) -> u64 {
    let output = restore(file, &cluster.urls(), flags).await;
    let restored: Value = serde_json::from_str(&stdout(&output)).unwrap();
    integer(&restored["base"]).unwrap()
}

/// Expects this exit code, and returns standard error.
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    stderr(output)
}

async fn registers(client: &Client) -> Vec<Register> {
    let page = client.get_prefix("", PageRequest::default()).await.unwrap();
    assert_eq!(page.next_after, None, "one page has all registers");
    page.registers
}

/// Two backups of a cluster that has ended. A test has one cluster at a time: others wait for room.
struct Saved {
    directory: TempDir,
    file: String,
    /// The end of the backup.
    to: u64,
    registers: Vec<Register>,
    token: u64,
    /// A write after the backup.
    lost: Version,
    /// A later backup.
    second: String,
}

/// The fencing token of a short tenure.
async fn token(cluster: &Cluster) -> u64 {
    let urls = cluster.urls();
    let args = [
        "elect",
        "job",
        "--as",
        "me",
        "--acceptors",
        &urls,
        "--",
        "sh",
        "-c",
    ];
    let output = run(&[&args[..], &["echo $PAXOS_FENCING_TOKEN"]].concat()).await;
    stdout(&output).trim().parse().unwrap()
}

impl Saved {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (file, second) = (path("first.pxs"), path("second.pxs"));
        let mut cluster = Cluster::start(3, 1, 1).await;
        let client = cluster.client();
        for number in 0..30 {
            client
                .put(format!("key {number:02}"), vec![number; 5_000])
                .await
                .unwrap();
        }
        client.delete("key 07").await.unwrap();
        let token = token(&cluster).await;
        let saved = backup(&cluster, &file).await;
        let registers = registers(&client).await;
        let lost = client.put("key 00", "lost").await.unwrap();
        backup(&cluster, &second).await;
        cluster.learners[0].stop().await;
        let learner = cluster.path("learner-1");
        copy(Path::new(&learner), &directory.path().join("learner"));
        let to = integer(&saved["to"]).unwrap();
        assert!(lost.slot.get() >= to);
        Self {
            directory,
            file,
            to,
            registers,
            token,
            lost,
            second,
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

fn at(slot: u64, offset: u16) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset,
    }
}

/// Starts a proposer and a learner, and waits until the learner is ready.
async fn start(cluster: &mut Cluster, learner: &str) -> Client {
    cluster.add_proposer(&cluster.urls(), &[]);
    let data_dir = cluster.path(learner);
    cluster.add_learner(learner.to_owned(), &["--data-dir", &data_dir]);
    let address = cluster.learners.last().unwrap().address.clone();
    let listen = address.host_and_port();
    until("the learner is ready", async || {
        run(&["healthcheck", listen]).await.status.success().then_some(())
    })
    .await;
    cluster.client()
}

async fn membership(cluster: &Cluster, acceptor: usize) -> Membership {
    let status = until("the acceptor answers", async || {
        cluster.acceptor_status(acceptor).await
    });
    status.await.membership()
}

/// All acceptors are formed, and their logs begin at `base`.
async fn are_formed(cluster: &Cluster, base: u64) {
    for acceptor in 0..cluster.acceptors.len() {
        let status = cluster.acceptor_status(acceptor).await.unwrap();
        assert_eq!(status.membership(), Membership::Formed, "{status:?}");
        assert_eq!((status.trimmed_to, status.chosen_to >= base), (base, true));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn backup_is_restored_into_other_numbers_of_acceptors_and_versions_only_grow() {
    let saved = Saved::new().await;
    for acceptors in [3, 1, 5] {
        let mut cluster = Cluster::blank(acceptors).await;
        let base = restored(&saved.file, &cluster, &[]).await;
        assert_eq!(base, saved.to + JUMP);
        are_formed(&cluster, base).await;
        let client = start(&mut cluster, "new").await;
        assert_eq!(
            registers(&client).await,
            saved.registers,
            "keys, values and versions"
        );

        // An old version still holds as a condition. Every new version is above.
        let register = saved.registers.iter().find(|register| register.key == "key 03");
        let version = register.unwrap().version;
        let condition = Condition::Version(version);
        let written = client.put_if("key 03", "new", condition).await.unwrap();
        assert!(written.is_applied() && written.version().slot.get() >= base);
        let again = client.put_if("key 03", "again", condition).await.unwrap();
        assert!(!again.is_applied());
        assert!(token(&cluster).await > saved.token);

        // Reads at old versions: of the backup, and lost.
        let at_old = client.get_with("key 04", Consistency::AtLeast(version)).await;
        assert!(at_old.unwrap().is_some());
        for lost in [saved.lost, at(saved.to, 0), at(base - 1, 3)] {
            let version = lost.to_string();
            let urls = cluster.urls();
            let args = ["get", "key 00", "--at-least", &version, "--acceptors", &urls];
            let output = run(&args).await;
            let text = format!(
                "version {version} was lost: the restored backup ended at slot {}",
                saved.to
            );
            assert!(
                !output.status.success() && stderr(&output).contains(&text),
                "{output:?}"
            );
        }

        // A learner of the cluster before is refused.
        let data_dir = cluster.path("old");
        copy(Path::new(&saved.path("learner")), Path::new(&data_dir));
        cluster.add_learner("old".to_owned(), &["--data-dir", &data_dir]);
        let mut learner = cluster.learners.pop().unwrap();
        assert_eq!(learner.ended().await.code(), Some(REFUSED), "{}", learner.log());
    }
}

#[tokio::test]
async fn backup_of_a_restored_cluster_is_restored_again_with_growing_tokens() {
    let saved = Saved::new().await;
    let (mut tokens, mut bases) = (vec![saved.token], Vec::new());
    let mut file = saved.file.clone();
    for round in 1..=2 {
        let mut cluster = Cluster::blank(3).await;
        let base = restored(&file, &cluster, &[]).await;
        bases.push(base);
        let client = start(&mut cluster, "learner").await;
        client.put("round", round.to_string()).await.unwrap();
        tokens.push(token(&cluster).await);
        // Lost by the first restore, whatever was restored since.
        let (lost, urls) = (saved.lost.to_string(), cluster.urls());
        let args = ["get", "key 00", "--at-least", &lost, "--acceptors", &urls];
        let text = format!(
            "version {lost} was lost: the restored backup ended at slot {}",
            saved.to
        );
        let output = run(&args).await;
        assert!(
            !output.status.success() && stderr(&output).contains(&text),
            "{output:?}"
        );
        file = saved.path(&format!("round {round}"));
        let chained = backup(&cluster, &file).await;
        assert!(integer(&chained["to"]).unwrap() > base);
        let found = registers(&client).await;
        for register in &saved.registers {
            let is_kept = found.contains(register);
            assert!(is_kept || register.value.len() < 5_000, "{:?}", register.key);
        }
    }
    assert!(
        tokens.is_sorted_by(|earlier, later| earlier < later),
        "{tokens:?}"
    );
    assert!(bases[1] > bases[0] + JUMP, "{bases:?}");
}

#[tokio::test]
async fn named_version_raises_the_base_and_an_impossible_one_is_refused() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(1).await;
    let highest = format!("{}.0", i64::MAX);
    let output = restore(&saved.file, &cluster.urls(), &["--above", &highest]).await;
    let text = refused(&output, 2);
    assert!(text.contains("name a lower version"), "{text}");
    let output = restore(
        &saved.file,
        &cluster.urls(),
        &["--above", "9223372036854775808.0"],
    )
    .await;
    let text = refused(&output, 2);
    assert!(text.contains("SLOT is at most 9223372036854775807"), "{text}");
    let above = saved.to + 3 * JUMP;
    let base = restored(&saved.file, &cluster, &["--above", &format!("{above}.7")]).await;
    assert_eq!(base, above + 1 + JUMP);
    let client = start(&mut cluster, "learner").await;
    assert!(client.put("key 00", "new").await.unwrap().slot.get() >= base);
}

#[tokio::test]
async fn killed_restore_and_killed_acceptors_are_finished_by_the_same_command() {
    let saved = Saved::new().await;
    let base = saved.to + JUMP;
    for round in 0..12 {
        let mut cluster = Cluster::blank_and_calm(3).await;
        let urls = cluster.urls();
        let args = ["restore", &saved.file, "--acceptors", &urls, "--timeout", "30s"];
        let mut killed = paxos(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let wait = rand::rng().random_range(0..400);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        if round % 2 == 0 {
            killed.kill().unwrap();
        }
        let acceptor = rand::rng().random_range(0..3);
        cluster.acceptors[acceptor].kill();
        cluster.acceptors[acceptor].start();
        until("the first command ends", async || killed.try_wait().unwrap()).await;
        let again = restored(&saved.file, &cluster, &["--timeout", "30s"]).await;
        assert_eq!(again, base, "round {round}, after {wait} ms");
        are_formed(&cluster, base).await;
        if round < 2 {
            let client = start(&mut cluster, "learner").await;
            assert_eq!(registers(&client).await, saved.registers);
        }
        // Once more: nothing is left to do.
        assert_eq!(restored(&saved.file, &cluster, &[]).await, base);
    }
}

#[tokio::test]
async fn acceptor_that_is_not_blank_is_named_before_anything_is_written() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::start(1, 1, 1).await;
    cluster.add_acceptor();
    cluster.add_acceptor();
    let used = cluster.acceptors[0].address.to_string();
    let text = refused(&restore(&saved.file, &cluster.urls(), &[]).await, REFUSED);
    assert!(text.contains(&used) && text.contains("blank acceptors"), "{text}");
    let used = cluster.acceptors.remove(0);
    // An acceptor that does not answer.
    let urls = format!("{},{NO_CLUSTER}", cluster.urls());
    let text = refused(
        &restore(&saved.file, &urls, &["--timeout", "1s"]).await,
        UNAVAILABLE,
    );
    assert!(
        text.contains(NO_CLUSTER) && text.contains("repeat the same command"),
        "{text}"
    );
    // Damaged files, and files of another kind.
    let whole = fs::read(&saved.file).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let damaged = saved.path("damaged.pxs");
    for (bytes, code) in [
        (&whole[..whole.len() - 1], STORAGE),
        (&changed[..], STORAGE),
        (b"SQLite format 3", REFUSED),
        (b"PXS2", REFUSED),
    ] {
        fs::write(&damaged, bytes).unwrap();
        let text = refused(&restore(&damaged, &cluster.urls(), &[]).await, code);
        assert!(text.contains(&damaged), "{text}");
    }
    let missing = saved.path("missing.pxs");
    refused(&restore(&missing, &cluster.urls(), &[]).await, STORAGE);
    // Nothing was written.
    for acceptor in 0..2 {
        assert_eq!(membership(&cluster, acceptor).await, Membership::Blank);
    }
    assert_eq!(restored(&saved.file, &cluster, &[]).await, saved.to + JUMP);
    drop(used);
}

#[tokio::test]
async fn of_two_restores_of_different_files_at_once_one_is_finished() {
    let saved = Saved::new().await;
    for round in 0..6 {
        let cluster = Cluster::blank_and_calm(3).await;
        let urls = cluster.urls();
        let (one, two) = tokio::join!(
            restore(&saved.file, &urls, &[]),
            restore(&saved.second, &urls, &[])
        );
        let (won, lost): (Vec<_>, Vec<_>) =
            [one, two].into_iter().partition(|output| output.status.success());
        let ([won], [lost]) = (&won[..], &lost[..]) else {
            panic!("round {round}: one restore is finished, the other refused: {won:?} {lost:?}");
        };
        let text = refused(lost, REFUSED);
        let reasons = [
            "backup of another restore",
            "stored the list of cluster",
            "belongs to cluster",
        ];
        assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
        let won: Value = serde_json::from_str(&stdout(won)).unwrap();
        are_formed(&cluster, integer(&won["base"]).unwrap()).await;
        for acceptor in 0..3 {
            let status = cluster.acceptor_status(acceptor).await.unwrap();
            let cluster_id = status.stamp.unwrap().cluster_id;
            let hex: String = cluster_id.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(won["cluster_id"], hex);
        }
    }
}

#[tokio::test]
async fn proposer_beside_a_restore_is_refused_until_the_restore_is_finished() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(2).await;
    // All acceptors hold the backup, and the command has died.
    let configuration = seed_all(&cluster, &saved.file).await;
    let (status, code) = cluster.status().await;
    assert_eq!(code, Some(UNAVAILABLE));
    let finding = &status["findings"][0];
    assert!(
        finding["problem"].as_str().unwrap().contains("holds a backup"),
        "{finding}"
    );
    cluster.acceptors[0].kill();
    cluster.acceptors[0].start();
    cluster.add_proposer(&cluster.urls(), &[]);
    let mut proposer = cluster.proposers.pop().unwrap();
    assert_eq!(proposer.ended().await.code(), Some(REFUSED), "{}", proposer.log());
    let text = "is blank and holds a backup: finish \"paxos restore\", or empty its directory";
    assert!(proposer.log().contains(text), "{}", proposer.log());
    for acceptor in 0..2 {
        assert_eq!(membership(&cluster, acceptor).await, Membership::Seeded);
    }
    let other = restore(&saved.second, &cluster.urls(), &[]).await;
    let text = refused(&other, REFUSED);
    assert!(text.contains("the backup of another restore"), "{text}");

    // The same command finishes, and the next proposer leads.
    let base = restored(&saved.file, &cluster, &[]).await;
    are_formed(&cluster, base).await;
    let client = start(&mut cluster, "learner").await;
    assert!(client.put("new", "").await.unwrap().slot.get() >= base);
    let formed = cluster.acceptor_status(0).await.unwrap().configuration.unwrap();
    assert_eq!(
        formed, configuration,
        "the seeds of the test are the seeds of the command"
    );
}

#[tokio::test]
async fn acceptor_with_a_damaged_backup_does_not_start() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(1).await;
    seed_all(&cluster, &saved.file).await;
    cluster.acceptors[0].kill();
    let directory = cluster.path("acceptor-1");
    before_forming::damage_seed(&directory);
    cluster.acceptors[0].start();
    assert_eq!(cluster.acceptors[0].ended().await.code(), Some(STORAGE));
    let log = cluster.acceptors[0].log();
    assert!(
        log.contains("is missing or damaged. While no acceptor of this restore is formed")
            && log.contains("paxos restore"),
        "{log}"
    );
    fs::remove_dir_all(&directory).unwrap();
    cluster.acceptors[0].start();
    assert_eq!(restored(&saved.file, &cluster, &[]).await, saved.to + JUMP);
}
