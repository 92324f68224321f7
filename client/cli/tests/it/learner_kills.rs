//! SIGKILL of learners at random moments under load, while snapshots take the place of earlier snapshots: every restart has
//! the state of the other learners.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use paxos_client::Client;
use tokio::time::sleep;

use crate::{
    harness::{Cluster, Process},
    installs::{agree, trimming},
};

/// Number of kills.
const KILLS: usize = 40;
/// Number of tasks that write registers of 10 KB.
const WRITERS: u32 = 4;
/// Pause between two backups of a learner.
const BACKUP_PAUSE: Duration = Duration::from_millis(300);
/// Longest run of a learner from its start to its kill, and longest time until the next start.
const RUN_MAX: u64 = 1_500;
const PAUSE_MAX: u64 = 300;

/// Random numbers of a printed seed.
struct RandomPauses(u64);

impl RandomPauses {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish();
        println!("seed {seed}");
        Self(seed)
    }

    /// Waits less than `millis` milliseconds.
    async fn pause(&mut self, millis: u64) {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        sleep(Duration::from_millis(mixed % millis)).await;
    }
}

/// Writes registers until stopped. A command may fail while its learner is killed.
async fn write(client: Client, writer: u32, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("key {}", (writer + round * WRITERS) % 40);
        let value = format!("{round} {}", "v".repeat(10_000));
        if client.put(key, value).await.is_ok() {
            written.fetch_add(1, Ordering::Relaxed);
        }
        round += 1;
    }
}

/// Has a learner make snapshots until stopped. A backup fails while the learner is killed.
async fn back_up(client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut backup) = client.backup().await {
            while let Ok(Some(_)) = backup.next().await {}
        }
        sleep(BACKUP_PAUSE).await;
    }
}

/// The snapshot files of a learner.
fn snapshots(cluster: &Cluster, name: &str) -> Vec<String> {
    let entries = fs::read_dir(cluster.path(name)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pxs")).collect()
}

fn check_log(learner: &Process) -> usize {
    let log = learner.log();
    for wrong in ["set aside", "damaged", "panicked"] {
        assert!(!log.contains(wrong), "{wrong}: {log}");
    }
    log.matches("loaded the state").count()
}

#[tokio::test]
async fn killed_learners_come_back_to_the_state_of_the_others() {
    let mut cluster = Cluster::start_with(3, 1, 3, trimming()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(write(cluster.client(), writer, stop, written))
        })
        .collect();
    // Acceptors ask rarely, and not all learners.
    let backups = cluster.learners[1..].iter().map(|learner| {
        let client = cluster.client_of(&[learner]).with_timeout(Duration::from_secs(1));
        tokio::spawn(back_up(client, Arc::clone(&stop)))
    });
    let backups: Vec<_> = backups.collect();
    let mut random = RandomPauses::new();
    for kill in 0..KILLS {
        random.pause(RUN_MAX).await;
        // One learner is never killed: writes go on, and its state is right.
        let killed = 1 + kill % 2;
        cluster.learners[killed].kill();
        assert!(snapshots(&cluster, &format!("learner-{}", killed + 1)).len() <= 3);
        random.pause(PAUSE_MAX).await;
        cluster.learners[killed].start();
    }
    stop.store(true, Ordering::Relaxed);
    for task in writers.into_iter().chain(backups) {
        task.await.unwrap();
    }
    cluster.client().put("key 0", "after").await.unwrap();
    agree(&cluster).await;
    let loads: usize = cluster.learners[1..].iter().map(check_log).sum();
    let written = written.load(Ordering::Relaxed);
    println!("{KILLS} kills, {loads} starts from a snapshot, {written} writes");
    assert!(loads > KILLS / 4, "{loads}");
    for learner in 1..=3 {
        assert!(snapshots(&cluster, &format!("learner-{learner}")).len() <= 2);
    }
}
