//! A start from the snapshot file and the log after it: the same state, or a clear end.

use std::fs;

use paxos_common::{service::failure::Exit, snapshot::HASH_BYTES};
use sha2::{Digest as _, Sha256};

use super::*;

/// A stopped learner with a snapshot to slot 2 and three slots after it. Returns the path of the snapshot file.
async fn stopped(directory: &Path) -> PathBuf {
    let mut writer = TestWriter::open(directory).await;
    writer.write(varied()).await;
    let recorded = writer.snapshot().await;
    assert_eq!(recorded.to, slot_at(2));
    writer.write_numbered(3).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    directory.join(recorded.name())
}

/// Names of the snapshot files, in use and set aside.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.ends_with(".pxs") || name.starts_with("snapshot."))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn restart_has_the_state_after_the_snapshot_and_the_log() {
    for (before, after) in [(0, 0), (0, 5), (5, 0), (3_000, 10), (1_500, 3_000)] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = TestWriter::open(directory.path()).await;
        writer.write(varied()).await;
        writer.write_numbered(before).await;
        let recorded = writer.snapshot().await;
        writer.write_numbered(after).await;
        writer.store.close().await.unwrap();
        let found = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(found.machine, writer.knowledge.machine(Machine::clone));
        assert_eq!(found.progress.latest(), writer.progress.latest());
        let digests = |progress: &Progress| -> Vec<_> {
            let digests = progress.digests().into_iter();
            digests.map(|digest| (digest.to, digest.digest)).collect()
        };
        assert_eq!(digests(&found.progress), digests(&writer.progress));
        let snapshot = found.snapshot.as_ref().unwrap();
        assert_eq!(RecordedSnapshot::of(&snapshot.summary), recorded);
        assert_eq!(found.log_bytes > 0, after > 0);
        assert_eq!(files(directory.path()), [recorded.name()]);
    }
}

#[tokio::test]
async fn later_snapshot_takes_the_place_of_the_earlier() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = stopped(directory.path()).await;
    let mut writer = TestWriter::open(directory.path()).await;
    let later = writer.snapshot().await;
    writer.write_numbered(1).await;
    // As after a kill before the removal: both files are there, and one that was never recorded.
    fs::copy(&earlier, directory.path().join("state-9-00000000.pxs")).unwrap();
    fs::write(directory.path().join("making-3.pxs"), "cut off").unwrap();
    writer.store.close().await.unwrap();
    let found = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(found.machine, writer.knowledge.machine(Machine::clone));
    assert_eq!(files(directory.path()), [later.name()]);
}

#[tokio::test]
async fn damaged_snapshot_file_is_set_aside_and_everything_is_learned_again() {
    let sound = tempfile::tempdir().unwrap();
    let path = stopped(sound.path()).await;
    let (name, content) = (path.file_name().unwrap(), fs::read(&path).unwrap());
    let mut damages: Vec<(String, Option<Vec<u8>>)> = vec![("missing".to_owned(), None)];
    for at in (0..content.len()).step_by(7) {
        let mut bytes = content.clone();
        bytes[at] ^= 1;
        damages.push((format!("byte {at}"), Some(bytes)));
    }
    for len in [0, 3, content.len() / 2, content.len() - 33, content.len() - 1] {
        damages.push((format!("cut off at {len}"), Some(content[..len].to_vec())));
    }
    damages.push(("longer".to_owned(), Some([&content[..], b"x"].concat())));
    for (what, bytes) in damages {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(
            sound.path().join(LEARNER_FILE),
            directory.path().join(LEARNER_FILE),
        )
        .unwrap();
        if let Some(bytes) = &bytes {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let found = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(found.progress, Progress::default(), "{what}");
        assert_eq!(found.machine, Machine::default(), "{what}");
        assert!(found.snapshot.is_none(), "{what}");
        assert_eq!(found.log.from(), Slot::ZERO, "{what}");
        assert!(directory.path().join("learner.db.damaged").exists(), "{what}");
        match bytes {
            None => assert_eq!(files(directory.path()), [] as [String; 0], "{what}"),
            Some(bytes) => {
                let aside = fs::read(directory.path().join("snapshot.damaged")).unwrap();
                assert_eq!(aside, bytes, "{what}");
                assert_eq!(files(directory.path()), ["snapshot.damaged"], "{what}");
            }
        }
        found.close().await;
    }
}

#[tokio::test]
async fn sound_snapshot_of_another_state_is_never_the_state() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = stopped(directory.path()).await;
    // As long as the recorded file: the same slots, with another opener.
    let mut writer = TestWriter::open(other.path()).await;
    writer
        .write(varied_of(Some(Opener::from_bytes([8; Opener::BYTES]))))
        .await;
    let recorded = writer.snapshot().await;
    fs::copy(other.path().join(recorded.name()), &path).unwrap();
    let found = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(found.machine, Machine::default());
}

/// The file as a newer release would have written it.
fn of_a_newer_release(content: &[u8]) -> Vec<u8> {
    let (_, rest) = content.split_at(4);
    let (rest, _) = rest.split_at(rest.len() - HASH_BYTES);
    let mut bytes = [b"PXS2", rest].concat();
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

#[tokio::test]
async fn snapshot_file_of_a_newer_release_is_refused_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let content = fs::read(stopped(directory.path()).await).unwrap();
    let bytes = of_a_newer_release(&content);
    let mut writer = TestWriter::open(directory.path()).await;
    let recorded = RecordedSnapshot {
        to: slot_at(2),
        sha256: bytes.last_chunk().copied().unwrap(),
        bytes: bytes.len() as u64,
    };
    let path = directory.path().join(recorded.name());
    fs::write(&path, &bytes).unwrap();
    writer.store.record_snapshot(recorded).await.unwrap();
    writer.log.close().await;
    writer.store.close().await.unwrap();
    let failure = Failure::from(open(directory.path(), CLUSTER).await.err().unwrap());
    assert!(failure.to_string().contains("newer release"), "{failure}");
    assert_eq!(failure.code, Exit::Refused);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(directory.path().join(LEARNER_FILE).exists());
}

#[tokio::test]
async fn flipped_bit_is_damage_and_not_a_newer_release() {
    let directory = tempfile::tempdir().unwrap();
    let path = stopped(directory.path()).await;
    let content = fs::read(&path).unwrap();
    let recorded = RecordedSnapshot {
        to: slot_at(2),
        sha256: content.last_chunk().copied().unwrap(),
        bytes: content.len() as u64,
    };
    assert_eq!(directory.path().join(recorded.name()), path);
    let work = Arc::default();
    load::load(directory.path(), CLUSTER, recorded, &work)
        .await
        .unwrap();
    for bit in 0..800 {
        let mut bytes = content.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let loaded = load::load(directory.path(), CLUSTER, recorded, &work).await;
        let error = loaded.err().unwrap();
        assert!(
            matches!(error, StoreError::DamagedSnapshot { .. }),
            "bit {bit}: {error}"
        );
    }
}

#[tokio::test]
async fn commits_after_a_record_that_failed_do_not_wait_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3).await;
    let view = writer.knowledge.keep(writer.progress.latest());
    let file = write_file(view, CLUSTER, directory.path()).await;
    let recorded = RecordedSnapshot::of(&file.summary);
    let path = directory.path().join(LEARNER_FILE);
    let mut other = sqlite::open_writer(&path, CHECKPOINT_PAGES).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let failed = writer.store.record_snapshot(recorded).await;
    assert!(matches!(failed, Err(StoreWriteError::Locked)), "{failed:?}");
    assert_eq!(synchronous(&mut writer.store.connection).await, 1);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    writer.store.record_snapshot(recorded).await.unwrap();
    assert_eq!(synchronous(&mut writer.store.connection).await, 1);
}

async fn synchronous(connection: &mut SqliteConnection) -> i64 {
    let level = sqlx::query_scalar("PRAGMA synchronous");
    level.fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn damaged_record_or_log_after_the_snapshot_has_the_file_set_aside() {
    for sql in [
        "UPDATE learned SET value = x'00' WHERE slot = 1",
        "UPDATE learned SET judgements = x'00' WHERE slot = 1",
        "DELETE FROM learned WHERE slot = 0",
        "UPDATE state SET state_digest = x'00000000000000000000000000000000'",
        "UPDATE state SET log_from = 1",
        "UPDATE state SET snapshot_to = 1",
        "UPDATE state SET snapshot_bytes = 1",
        "UPDATE digest SET digest = zeroblob(32)",
        "UPDATE digest SET state = zeroblob(16)",
        "UPDATE digest SET applied_to = 1023",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = TestWriter::open(directory.path()).await;
        writer.write(varied()).await;
        writer.write_numbered(1_100).await;
        writer.log.close().await;
        writer.store.close().await.unwrap();
        damage(directory.path(), sql).await;
        let opened = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(opened.progress, Progress::default(), "{sql}");
        assert_eq!(opened.machine.register_count(), 0, "{sql}");
        assert!(directory.path().join("learner.db.damaged").exists(), "{sql}");
    }
}

#[tokio::test]
async fn only_the_recorded_file_stays_for_an_installation() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write(varied()).await;
    let recorded = writer.snapshot().await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    for name in ["making-7.pxs", "state-51200-0ab100ff.pxs"] {
        fs::write(
            directory.path().join(name),
            "of a running learner that was cut off",
        )
        .unwrap();
    }
    let locked = testing::lock(directory.path());
    Store::remove_unrecorded(&locked, CLUSTER).await;
    assert_eq!(files(directory.path()), [recorded.name()]);
    drop(locked);
    assert!(open(directory.path(), CLUSTER).await.unwrap().snapshot.is_some());
}
