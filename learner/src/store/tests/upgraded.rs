//! Files of schema version 4, as an earlier release wrote them, and power cuts at every step of their upgrade.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use paxos_test_values::power_cuts::cuts_of_test;

use super::*;
use crate::{
    start_work::{StartStep, StartWork},
    store::{
        place::{INSTALLED, NEW},
        testing::{configuration, lock},
        upgrade::Upgrade,
    },
};

/// Written by the last release with schema version 4: every kind of judgement in two slots, 40 puts, 1,000 empty slots, and two
/// puts. The log begins at slot 10.
const FILE_4: &[u8] = include_bytes!("../../../tests/schema-4/learner.db");
/// The end of the state in the file, and the digest of the state, as the earlier release reported it.
const TO: u64 = 1_044;
const STATE: &str = "4d06031340dbfcd2ec289cc54fc0e707";
/// The digests of the log at the end, and at the kept mark, as the earlier release reported them.
const LOG: [u8; 8] = [0x35, 0xa4, 0xb8, 0xb2, 0xa0, 0xfb, 0x41, 0x91];
const LOG_1024: [u8; 8] = [0xec, 0xe1, 0xde, 0x34, 0xd9, 0x93, 0x7c, 0xc2];
/// The directory of the process that upgrades.
const DIRECTORY: &str = "PAXOS_TEST_UPGRADE_IN";

fn with_file_4() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(LEARNER_FILE), FILE_4).unwrap();
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("learner.db-")).collect();
    names.sort();
    names
}

/// Checks that the learner has everything of the file.
pub(super) async fn holds_all(opened: &OpenedStore, what: &str) {
    let latest = opened.progress.latest();
    assert_eq!(latest.to, slot_at(TO), "{what}");
    assert_eq!(latest.state.unwrap().to_string(), STATE, "{what}");
    assert_eq!(opened.machine.digest().to_string(), STATE, "{what}");
    let digests = opened.progress.digests();
    let found: Vec<_> = digests
        .iter()
        .map(|digest| (digest.to, &digest.digest[..8]))
        .collect();
    assert_eq!(found, [(TO, &LOG[..]), (1_024, &LOG_1024[..])], "{what}");
    assert_eq!(opened.machine.register_count(), 42, "{what}");
    assert_eq!(
        opened.machine.register(b"key 21").unwrap().version().slot,
        slot_at(1_043)
    );
    let session = opened.machine.sessions().get(Version {
        slot: Slot::ZERO,
        offset: 0,
    });
    assert_eq!(session.unwrap().opener, OPENER, "{what}");
    assert_eq!(opened.log.from(), slot_at(10), "{what}");
    let below = opened.log.page(slot_at(9), slot_at(TO)).await;
    assert!(matches!(below, Err(LogReadError::Trimmed)), "{what}");
    let (mut next, mut commands) = (slot_at(10), 0);
    while next < slot_at(TO) {
        let page = opened.log.page(next, slot_at(TO)).await.unwrap();
        commands += page.iter().map(|record| record.judgements.len()).sum::<usize>();
        next = next.plus(page.len() as u64);
    }
    assert_eq!(commands, 34, "{what}");
}

#[tokio::test]
async fn upgraded_learner_has_everything_and_goes_on() {
    let directory = with_file_4();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    holds_all(&opened, "upgraded").await;
    let snapshot = RecordedSnapshot::of(&opened.snapshot.as_ref().unwrap().summary);
    assert_eq!(snapshot.to, slot_at(TO));
    let expected = ["LOCK".to_owned(), LEARNER_FILE.to_owned(), snapshot.name()];
    assert_eq!(names(directory.path()), expected);
    opened.close().await;
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(5).await;
    writer.store.close().await.unwrap();
    let found = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(found.machine, writer.knowledge.machine(Machine::clone));
    assert_eq!(found.progress.latest(), writer.progress.latest());
    // The tables of the state are gone, with their space.
    let mut connection = sqlite::open_writer(&directory.path().join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(tables, ["digest", "learned", "state"]);
    let free: i64 = sqlx::query_scalar("PRAGMA freelist_count")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(free, 0);
}

#[tokio::test]
async fn damaged_table_of_an_earlier_release_has_the_file_set_aside() {
    for sql in [
        "UPDATE register SET value = x'00' WHERE key = x'6e6577'",
        "UPDATE register SET key = x'6e6578' WHERE key = x'6e6577'",
        "UPDATE session SET content = x'00'",
        "UPDATE session SET command = 7",
        "DELETE FROM register WHERE key = x'6e6577'",
        "DELETE FROM session",
        "UPDATE state SET state_digest = x'00000000000000000000000000000000'",
        "UPDATE state SET log_from = 1",
    ] {
        let directory = with_file_4();
        damage(directory.path(), sql).await;
        let opened = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(opened.progress, Progress::default(), "{sql}");
        assert_eq!(opened.machine, Machine::default(), "{sql}");
        let expected = ["LOCK", LEARNER_FILE, "learner.db.damaged"];
        assert_eq!(names(directory.path()), expected, "{sql}");
    }
}

#[tokio::test]
async fn damaged_page_of_an_earlier_release_has_the_file_set_aside() {
    for table in ["learned", "digest", "register"] {
        let directory = with_file_4();
        let path = directory.path().join(LEARNER_FILE);
        let mut connection = sqlite::open_writer(&path, CHECKPOINT_PAGES).await.unwrap();
        let root: i64 = sqlx::query_scalar("SELECT rootpage FROM sqlite_schema WHERE name = ?")
            .bind(table)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let mut bytes = FILE_4.to_vec();
        let begin = |page: i64| (usize::try_from(page).unwrap() - 1) * 4_096;
        let root = begin(root);
        // An inner page names its last leaf.
        let leaf = match bytes[root] {
            5 => begin(u32::from_be_bytes(bytes[root + 8..root + 12].try_into().unwrap()).into()),
            _ => root,
        };
        bytes[leaf..leaf + 4_096].fill(0xff);
        fs::write(&path, &bytes).unwrap();
        let opened = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(opened.progress, Progress::default(), "{table}");
        let expected = ["LOCK", LEARNER_FILE, "learner.db.damaged"];
        assert_eq!(names(directory.path()), expected, "{table}");
    }
}

/// Upgrades a directory once.
async fn upgrade(directory: &Path, work: &StartWork) -> Result<(), StoreError> {
    let upgrade = Upgrade {
        directory: &lock(directory),
        cluster: CLUSTER,
        configuration: &Arc::new(configuration()),
        work,
    };
    upgrade.run().await
}

fn snapshots(directory: &Path) -> Vec<String> {
    let mut names = names(directory);
    names.retain(|name| name.ends_with(".pxs"));
    names
}

#[tokio::test]
async fn leftovers_of_an_earlier_attempt_go_before_the_look_at_the_space() {
    let directory = with_file_4();
    let path = directory.path();
    for name in [
        "snapshot-1-00000001.pxs",
        "state-2-00000002.pxs",
        "making-4.pxs",
        "making.pxs",
    ] {
        fs::write(path.join(name), vec![0; 1_000_000]).unwrap();
    }
    fs::write(path.join("backup.pxs"), "of an operator").unwrap();
    // A file with holes, of more bytes than any disk has.
    let pages = 1_u32 << 30;
    let file = File::options().write(true).open(path.join(LEARNER_FILE)).unwrap();
    file.set_len(u64::from(pages) * 4_096).unwrap();
    file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
    let work = StartWork::default();
    let error = upgrade(path, &work).await.unwrap_err();
    assert!(error.is_no_space(&path.join(LEARNER_FILE)), "{error}");
    assert!(
        matches!(work.look(), Some(StartStep::NeedsSpace { .. })),
        "{work:?}"
    );
    assert_eq!(snapshots(path), ["backup.pxs"]);
}

#[tokio::test]
async fn failed_upgrade_leaves_no_snapshot_that_no_store_records() {
    for (in_the_way, is_installed) in [(NEW, false), ("DAMAGED", true)] {
        let directory = with_file_4();
        let path = directory.path();
        // In the way of the new file, and in the way after the removal of the old file.
        fs::create_dir(path.join(in_the_way)).unwrap();
        let work = StartWork::default();
        upgrade(path, &work).await.unwrap_err();
        assert_eq!(path.join(INSTALLED).exists(), is_installed);
        assert_eq!(snapshots(path).len(), usize::from(is_installed));
        fs::remove_dir(path.join(in_the_way)).unwrap();
        // The next attempt goes on.
        upgrade(path, &work).await.unwrap();
        let opened = open(path, CLUSTER).await.unwrap();
        holds_all(&opened, in_the_way).await;
    }
}

#[tokio::test]
async fn file_of_another_cluster_is_not_upgraded() {
    let directory = with_file_4();
    let other = open(directory.path(), ClusterId::from_bytes([9; 16])).await;
    assert!(matches!(other, Err(StoreError::OtherCluster { .. })));
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    holds_all(&opened, "the right cluster").await;
}

/// The process with the power cuts.
#[tokio::test]
#[ignore = "the test of power cuts runs this test as a process"]
async fn upgrade_of_another_process() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        open(Path::new(&path), CLUSTER).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn upgrade_is_repeated_after_a_power_cut_at_any_moment() {
    let directory = with_file_4();
    let process = "store::tests::upgraded::upgrade_of_another_process";
    let Some((cuts, _)) = cuts_of_test(process, DIRECTORY, directory.path()) else {
        return;
    };
    assert!(cuts.len() > 20, "{}", cuts.len());
    println!("{} power cuts", cuts.len());
    let mut upgraded = 0;
    for cut in cuts {
        let directory = tempfile::tempdir().unwrap();
        cut.write_to(directory.path());
        let is_on_its_way = names(directory.path()).iter().any(|name| name == INSTALLED);
        upgraded += usize::from(is_on_its_way);
        let opened = open(directory.path(), CLUSTER).await.unwrap();
        holds_all(&opened, &cut.what).await;
        opened.close().await;
        let left = names(directory.path());
        assert_eq!(left.len(), 3, "{}: {left:?}", cut.what);
        assert!(
            !left.iter().any(|name| name.starts_with(NEW)),
            "{}: {left:?}",
            cut.what
        );
    }
    assert!(upgraded > 0);
}
