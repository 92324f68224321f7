//! A cluster of real processes with damaged, full or failing disks.

mod learners;

mod strace;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{BackgroundLoad, Cluster, Process, free_ports, run, until};
use nix::sys::statvfs::statvfs;
use paxos_client::{Slot, Version};
use paxos_common::{
    peer::connect_lazy,
    wire::{caller, read_stamp},
};
use paxos_proto::v1::AcceptorStatusResponse;
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use strace::Strace;

const MIB: u64 = 1024 * 1024;

impl Cluster {
    fn acceptor_dir(&self, acceptor: usize) -> PathBuf {
        self.path(&self.acceptors[acceptor].name).into()
    }

    /// Waits until an acceptor's status fulfils this condition.
    async fn acceptor_says(
        &self,
        acceptor: usize,
        what: &str,
        is_so: impl Fn(&AcceptorStatusResponse) -> bool,
    ) -> AcceptorStatusResponse {
        until(what, async || {
            self.acceptor_status(acceptor)
                .await
                .filter(|status| is_so(status))
        })
        .await
    }

    /// Waits until `paxos healthcheck` of an acceptor exits with 1 and this reason.
    async fn is_not_ready(&self, acceptor: usize, reason: &str) {
        let listen = self.acceptors[acceptor].address.as_str().replace("http://", "");
        until(reason, async || {
            let output = run(&["healthcheck", &listen]).await;
            let is_named = String::from_utf8_lossy(&output.stderr).contains(reason);
            (output.status.code() == Some(1) && is_named).then_some(())
        })
        .await;
    }

    /// Waits until an acceptor vouches for every slot below `end`.
    async fn vouches(&self, acceptor: usize, end: Slot) {
        let what = format!("acceptor {acceptor} holds everything below {end}");
        self.acceptor_says(acceptor, &what, |status| status.chosen_to >= end.get())
            .await;
    }

    /// An acceptor's value of one slot, if the acceptor vouches for the slot.
    async fn observed(&self, acceptor: usize, slot: Slot) -> Option<Vec<u8>> {
        let mut client = AcceptorClient::new(connect_lazy(&self.acceptors[acceptor].address));
        let status = self.acceptor_status(acceptor).await?;
        let request = pb::ObserveRequest {
            caller: Some(caller(read_stamp(status.stamp.as_ref()).unwrap().cluster)),
            kind: pb::ObserveKind::Values.into(),
            from: slot.get(),
        };
        let mut frames = client.observe(request).await.ok()?.into_inner();
        let frame = frames.message().await.ok()??;
        let row = frame.rows.into_iter().find(|row| row.slot == slot.get())?;
        (!row.unknown && slot.get() < frame.chosen_to).then(|| row.value.to_vec())
    }
}

/// Positions of these bytes in a file.
fn positions(file: &Path, part: &[u8]) -> Vec<usize> {
    let bytes = fs::read(file).unwrap();
    let windows = bytes.windows(part.len()).enumerate();
    windows
        .filter(|(_, window)| *window == part)
        .map(|(at, _)| at)
        .collect()
}

/// Flips a bit at every position of these bytes in a file.
fn damage(file: &Path, part: &[u8]) {
    let found = positions(file, part);
    assert!(
        !found.is_empty(),
        "{} is in the file",
        String::from_utf8_lossy(part)
    );
    let mut bytes = fs::read(file).unwrap();
    for at in found {
        bytes[at] ^= 0x10;
    }
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn flipped_bit_in_a_row_is_found_never_served_and_repaired() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let mut outcome = BackgroundLoad::start(&cluster, 4, 1_000, 1).finish().await;
    // Beyond the first page of the acceptor's rows.
    let beyond = Version {
        slot: Slot::new(1_100).unwrap(),
        offset: 0,
    };
    let (&Version { slot: bad, .. }, value) =
        outcome.acknowledged.range(beyond..).next().expect("many slots");
    let value = value.clone();
    for acceptor in 0..3 {
        cluster.vouches(acceptor, outcome.end()).await;
    }
    // The watermark reaches the disks with the next commit.
    outcome.merge(BackgroundLoad::named(&cluster, "after", 1, 10, 1).finish().await);
    for acceptor in &mut cluster.acceptors {
        assert!(acceptor.stop().await.success());
    }
    let file = cluster.acceptor_dir(0).join("acceptor.db");
    damage(&file, &value);

    // Without other acceptors, no process can repair the row: the acceptor shows only slots before the damage. A
    // learner that starts now waits for another acceptor, because another acceptor must vouch for this acceptor.
    cluster.acceptors[0].start();
    let found = |status: &AcceptorStatusResponse| status.damaged_rows == 1 && status.chosen_to == bad.get();
    cluster.acceptor_says(0, "the damage is found", found).await;
    cluster.add_learner("learner-new".to_owned(), &[]);
    assert_eq!(cluster.observed(0, bad).await, None);

    for acceptor in &mut cluster.acceptors[1..] {
        acceptor.start();
    }
    cluster.vouches(0, outcome.end()).await;
    let repaired = cluster.observed(0, bad).await.expect("it is served again");
    assert!(repaired.windows(value.len()).any(|window| window == value));
    let log = cluster.acceptors[0].log();
    assert_eq!(log.matches("rows on disk are damaged").count(), 1, "{log}");
    assert!(
        log.contains("all damaged rows below the watermark are repaired"),
        "{log}"
    );

    outcome.merge(BackgroundLoad::named(&cluster, "later", 1, 100, 8).finish().await);
    for learner in &cluster.learners {
        outcome.check(&cluster.log_of(learner, outcome.end()).await);
    }
    cluster.digests_are_equal(outcome.end()).await;
    assert!(cluster.acceptors[0].stop().await.success());
    assert!(!positions(&file, &value).is_empty(), "the repair is on the disk");
}

/// A separate file system for a directory, small enough to fill.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    const BYTES: u64 = 128 * MIB;

    /// Mounts the file system at a new directory; `None` where mounting is not permitted.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let size = format!("size={}", Self::BYTES);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "paxos-test"]).arg(&path);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { path }),
            failed => {
                eprintln!("skipped: a small file system cannot be mounted here: {failed:?}");
                None
            }
        }
    }

    fn free(&self) -> u64 {
        let found = statvfs(&self.path).unwrap();
        found.blocks_available() * found.fragment_size()
    }

    /// Writes a file that leaves this much of the present free space. Space freed meanwhile, as by the spare file,
    /// stays free.
    fn fill(&self, name: &str, leave: u64) {
        let mut ballast = File::create(self.path.join(name)).unwrap();
        let zeros = io::repeat(0).take(self.free() - leave);
        // The last piece may not fit completely.
        let _ = io::copy(&mut { zeros }, &mut ballast);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path.join(name)).unwrap();
    }

    fn spare_bytes(&self) -> Option<u64> {
        Some(fs::metadata(self.path.join("SPARE")).ok()?.len())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

impl Cluster {
    /// Moves an acceptor to a small disk; `None` where mounting is not permitted.
    async fn move_to_small_disk(&mut self, acceptor: usize) -> Option<SmallDisk> {
        assert!(self.acceptors[acceptor].stop().await.success());
        let path = self.acceptor_dir(acceptor);
        let old = path.with_extension("old");
        fs::rename(&path, &old).unwrap();
        let disk = SmallDisk::mount(path)?;
        for file in ["acceptor.db", "COMMITS"] {
            fs::copy(old.join(file), disk.path.join(file)).unwrap();
        }
        self.acceptors[acceptor].start();
        Some(disk)
    }
}

fn no_space(status: &AcceptorStatusResponse) -> bool {
    status.no_space
}

fn has_space(status: &AcceptorStatusResponse) -> bool {
    !status.no_space
}

#[tokio::test]
async fn acceptor_with_a_full_disk_stands_aside_and_comes_back_by_itself() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let Some(disk) = cluster.move_to_small_disk(0).await else {
        return;
    };
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 8);
    load.goes_on(200).await;
    cluster
        .acceptor_says(0, "it is counted", |status| status.voted_to > 10)
        .await;

    disk.fill("ballast", 20 * MIB);
    let full = cluster
        .acceptor_says(0, "it says that there is no space", no_space)
        .await;
    load.goes_on(500).await;
    cluster
        .is_not_ready(0, "too little space is left on the disk")
        .await;
    let later = cluster.acceptor_status(0).await.unwrap();
    assert_eq!(later.voted_to, full.voted_to, "it accepts nothing");
    assert_eq!(disk.spare_bytes(), Some(16 * MIB), "there is no need yet");

    // Another file takes the rest, and then the acceptor must start on a full disk.
    disk.fill("more ballast", 0);
    until("the spare file is given up", async || {
        disk.spare_bytes().is_none().then_some(())
    })
    .await;
    load.goes_on(200).await;
    cluster.acceptors[0].kill();
    cluster.acceptors[0].start();
    cluster
        .acceptor_says(0, "it still says that there is no space", no_space)
        .await;
    let started = cluster.acceptors[0].id();
    load.goes_on(200).await;

    disk.remove("ballast");
    disk.remove("more ballast");
    cluster.acceptor_says(0, "it sees the space", has_space).await;
    assert_eq!(disk.spare_bytes(), Some(16 * MIB));
    load.goes_on(200).await;
    let mut outcome = load.stop().await;
    cluster.vouches(0, outcome.end()).await;
    assert_eq!(cluster.acceptors[0].id(), started);
    let log = cluster.acceptors[0].log();
    assert_eq!(
        log.matches("too little space on the disk").count(),
        2,
        "once for each start: {log}"
    );
    assert_eq!(log.matches("the disk has space again").count(), 1, "{log}");

    // The acceptor replaces another acceptor in the quorum.
    assert!(cluster.acceptors[1].stop().await.success());
    let without = BackgroundLoad::named(&cluster, "without the other", 1, 100, 8)
        .finish()
        .await;
    assert!(!without.acknowledged.is_empty());
    outcome.merge(without);
    outcome.check(&cluster.log_of(&cluster.learners[0], outcome.end()).await);
}

#[tokio::test]
async fn leader_whose_quorum_is_full_stays_and_goes_on_when_there_is_space() {
    let mut cluster = Cluster::start_alone(3, 2, 1).await;
    let mut disks = Vec::new();
    for acceptor in [0, 1] {
        let Some(disk) = cluster.move_to_small_disk(acceptor).await else {
            return;
        };
        disks.push(disk);
    }
    let mut outcome = BackgroundLoad::named(&cluster, "before", 1, 100, 8)
        .finish()
        .await;
    for (acceptor, disk) in disks.iter().enumerate() {
        disk.fill("ballast", 20 * MIB);
        cluster
            .acceptor_says(acceptor, "it says that there is no space", no_space)
            .await;
    }
    let promised =
        |status: &AcceptorStatusResponse| status.leadership.clone().unwrap().promised.unwrap().round;
    let before = promised(&cluster.acceptor_status(2).await.unwrap());
    // Another leader would face the same disks. The loop lasts at least two leader timeouts, and every refusal is
    // clear.
    for value in ["in flight", "refused"] {
        let patience = std::time::Duration::from_secs(1);
        assert!(
            cluster
                .client()
                .with_timeout(patience)
                .append_at_most_once(value)
                .await
                .is_err()
        );
    }
    let after = promised(&cluster.acceptor_status(2).await.unwrap());
    assert_eq!(before, after, "no campaign");

    let load = BackgroundLoad::named(&cluster, "after", 1, 100, 8);
    for disk in &disks {
        disk.remove("ballast");
    }
    outcome.merge(load.finish().await);
    assert!(outcome.acknowledged.len() > 100);
    let end = outcome.end();
    let log = cluster.log_of(&cluster.learners[0], end).await;
    for (version, value) in &outcome.acknowledged {
        assert_eq!(log.get(version), Some(value));
    }
    for acceptor in 0..3 {
        cluster.vouches(acceptor, end).await;
    }
}

#[tokio::test]
async fn acknowledged_values_survive_a_failed_sync_of_an_acceptor() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    // While the third acceptor is away, every acknowledgement needs the first.
    assert!(cluster.acceptors[2].stop().await.success());
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 16);
    load.goes_on(500).await;
    let Some(strace) = Strace::fail_sync(cluster.acceptors[0].id(), 20) else {
        load.stop().await;
        return;
    };
    assert_eq!(cluster.acceptors[0].ended().await.code(), Some(74));
    drop(strace);
    let log = cluster.acceptors[0].log();
    // The commit counter has separate syncs.
    assert!(
        log.contains("commit votes") || log.contains("sync the commit counter"),
        "{log}"
    );
    cluster.acceptors[0].start();
    load.goes_on(500).await;
    let outcome = load.stop().await;

    // Every acknowledged command must come from the first acceptor: the third was away.
    assert!(cluster.acceptors[1].stop().await.success());
    cluster.acceptors[2].start();
    cluster.add_learner("learner-new".to_owned(), &[]);
    for learner in &cluster.learners {
        outcome.check(&cluster.log_of(learner, outcome.end()).await);
    }
    cluster.vouches(2, outcome.end()).await;
}

#[tokio::test]
async fn acceptor_whose_disk_hangs_is_named_beside_a_dead_one_and_is_not_ready() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let Some(strace) = Strace::hang_syncs(cluster.acceptors[0].id()) else {
        return;
    };
    let load = BackgroundLoad::start(&cluster, 1, usize::MAX, 1);
    load.goes_on(20).await;
    cluster.is_not_ready(0, "the disk").await;
    let problems = async |cluster: &Cluster| {
        let (status, code) = cluster.status().await;
        let findings = status["findings"].as_array().unwrap().iter();
        let problems: Vec<_> = findings.map(|finding| finding["problem"].to_string()).collect();
        (problems.join("\n"), code)
    };
    let (found, code) = problems(&cluster).await;
    assert_eq!(code, Some(0), "{found}");
    assert!(found.contains("acceptor acceptor-1 (http"), "{found}");
    assert!(
        found.contains("has kept a request waiting for its disk"),
        "{found}"
    );
    assert!(found.contains("2 of 3 acceptors can vote"), "{found}");
    cluster.acceptors[1].kill();
    let (found, code) = problems(&cluster).await;
    assert_eq!(code, Some(69), "{found}");
    assert!(
        found.contains("has kept a request waiting for its disk"),
        "{found}"
    );
    assert!(found.contains(&format!(
        "acceptor {} does not answer",
        cluster.acceptors[1].address
    )));
    cluster.acceptors[1].start();
    drop(strace);
    load.goes_on(20).await;
    load.stop().await;
}

#[tokio::test]
async fn file_of_a_newer_release_is_refused_with_78() {
    /// Position of SQLite's `user_version` in the file, big-endian.
    const USER_VERSION: std::ops::Range<usize> = 60..64;
    let dir = tempfile::TempDir::new().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let flags = ["--id", "a1", "--data-dir", &data_dir];
    let mut acceptor = Process::role(dir.path(), "acceptor", "a1".to_owned(), free_ports(1), &flags);
    until("it has made its file", async || {
        acceptor.log().contains("acceptor recovered").then_some(())
    })
    .await;
    assert!(acceptor.stop().await.success());
    let file = Path::new(&data_dir).join("acceptor.db");
    let mut bytes = fs::read(&file).unwrap();
    let version = u32::from_be_bytes(bytes[USER_VERSION].try_into().unwrap());
    bytes[USER_VERSION].copy_from_slice(&(version + 1).to_be_bytes());
    fs::write(&file, &bytes).unwrap();

    acceptor.start();
    assert_eq!(acceptor.ended().await.code(), Some(78));
    let log = acceptor.log();
    let reason = format!(
        "written by a newer release (schema version {}; this release reads {version})",
        version + 1
    );
    assert!(log.contains(&reason), "{log}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "it is left as it was");
}
