//! The learned log after `log_from` rose: rows below are trimmed, never damaged.

use super::*;

/// Copies the files of a running learner: the content after a crash at this moment.
fn crashed(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if !name.to_str().unwrap().ends_with("-shm") {
            std::fs::copy(&path, copy.path().join(name)).unwrap();
        }
    }
    copy
}

async fn count(path: &Path, sql: &'static str) -> i64 {
    let mut connection = sqlite::open_writer(&path.join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

fn is_trimmed<T>(page: &Result<T, LogReadError>) -> bool {
    matches!(page, Err(LogReadError::Trimmed))
}

async fn sweep_all(store: &mut Store) -> usize {
    let mut rows = 0;
    loop {
        let swept = store.sweep().await.unwrap();
        rows += swept.rows;
        if !swept.more {
            return rows;
        }
    }
}

#[tokio::test]
async fn page_below_the_log_is_trimmed_and_the_first_slot_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3_000).await;
    writer.snapshot().await;
    let to = writer.progress.applied_to();
    assert!(writer.store.keep_from(slot_at(2_000)).await.unwrap());
    assert_eq!(writer.log.from(), slot_at(2_000));
    // Before the sweep, in the middle of the sweep, and after the sweep.
    for (rows, more) in [(1_024, true), (976, false), (0, false)] {
        for below in [0, 1_000, 1_024, 1_999] {
            let page = writer.log.page(slot_at(below), to).await;
            assert!(is_trimmed(&page), "{below}: {page:?}");
        }
        let page = writer.log.page(slot_at(2_000), to).await.unwrap();
        assert_eq!((page[0].slot, page.len()), (slot_at(2_000), 1_000));
        assert_eq!(writer.store.sweep().await.unwrap(), SweptRows { rows, more });
    }
    assert!(!aside::is_marked(writer.store.path()));
}

#[tokio::test]
async fn log_from_is_on_disk_before_the_first_row_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3_000).await;
    writer.snapshot().await;
    writer.store.keep_from(slot_at(2_500)).await.unwrap();
    writer.store.sweep().await.unwrap();
    let copy = crashed(directory.path());
    let mut found = TestWriter::open(copy.path()).await;
    assert_eq!(found.progress.latest(), writer.progress.latest());
    assert_eq!(found.log.from(), slot_at(2_500));
    assert!(is_trimmed(&found.log.page(Slot::ZERO, slot_at(3_000)).await));
    assert!(is_trimmed(&found.log.page(slot_at(2_000), slot_at(3_000)).await));
    let page = found.log.page(slot_at(2_500), slot_at(3_000)).await.unwrap();
    assert_eq!(page.len(), 500);
    // The next run deletes the rest.
    assert_eq!(sweep_all(&mut found.store).await, 2_500 - 1_024);
    found.write_numbered(3).await;
    assert_eq!(count(copy.path(), "SELECT min(slot) FROM learned").await, 2_500);
    assert_eq!(count(copy.path(), "SELECT max(slot) FROM learned").await, 3_002);
}

#[tokio::test]
async fn log_begins_at_most_at_its_end_and_never_lower_than_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(10).await;
    assert!(writer.store.keep_from(slot_at(4)).await.unwrap());
    assert!(!writer.store.keep_from(slot_at(3)).await.unwrap());
    assert_eq!(writer.log.from(), slot_at(4));
    assert!(writer.store.keep_from(slot_at(99)).await.unwrap());
    assert!(!writer.store.keep_from(slot_at(99)).await.unwrap());
    assert_eq!(writer.log.from(), slot_at(10));
    assert_eq!(writer.log.page(slot_at(10), slot_at(10)).await.unwrap().len(), 0);
    writer.write_numbered(1).await;
    let page = writer.log.page(slot_at(10), slot_at(11)).await.unwrap();
    assert_eq!(page.len(), 1);
}

#[tokio::test]
async fn digests_are_restored_from_the_kept_slots() {
    for (from, marks) in [
        (0, 9),
        (7_168, 3),
        (8_192, 2),
        (9_000, 1),
        (9_900, 0),
        (10_000, 0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = TestWriter::open(directory.path()).await;
        writer.write_numbered(10_000).await;
        writer.snapshot().await;
        writer.store.keep_from(slot_at(from)).await.unwrap();
        assert_eq!(sweep_all(&mut writer.store).await as u64, from);
        let written = writer.progress.clone();
        writer.apply((10_000..10_300).map(|slot| value(&format!("value {slot}"))));
        writer.store.close().await.unwrap();
        let kept = "SELECT count(*) FROM digest";
        assert_eq!(count(directory.path(), kept).await, marks, "{from}");

        let mut reopened = TestWriter::open(directory.path()).await;
        assert_eq!(reopened.progress.latest(), written.latest());
        let known = written.digests();
        let restored = reopened.progress.digests();
        assert!(
            restored.iter().all(|digest| {
                let same = known.iter().find(|same| same.to == digest.to).unwrap();
                same.digest == digest.digest
            }),
            "{from}: {restored:?} {known:?}"
        );
        let has_fine_marks = restored.iter().any(|digest| digest.to == 9_984);
        assert_eq!(has_fine_marks, marks > 0, "{from}: {restored:?}");
        reopened.write_numbered(300).await;
        assert_eq!(reopened.progress.latest(), writer.progress.latest());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_read_beside_a_sweep_are_whole_or_trimmed() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(20_000).await;
    writer.snapshot().await;
    let (log, to) = (writer.log.clone(), writer.progress.applied_to());
    let reading = tokio::spawn(async move {
        let (mut whole, mut trimmed) = (0, 0);
        // A reader close behind the beginning of the log.
        while log.from() < slot_at(19_000) {
            let from = log.from();
            // The last page is kept until the end.
            for next in [from, from.next(), from.plus(100), slot_at(19_000)] {
                match log.page(next, to).await {
                    Ok(page) => whole += page.len(),
                    Err(LogReadError::Trimmed) => trimmed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        (whole, trimmed)
    });
    for from in (0..=19_000).step_by(250) {
        writer.store.keep_from(slot_at(from)).await.unwrap();
        sweep_all(&mut writer.store).await;
    }
    let (whole, trimmed) = reading.await.unwrap();
    assert!(whole > 0, "{whole} {trimmed}");
    assert!(!aside::is_marked(writer.store.path()));
}

#[tokio::test]
async fn rows_after_the_snapshot_stay_although_readers_do_not_get_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3_000).await;
    assert!(writer.store.keep_from(slot_at(2_500)).await.unwrap());
    assert_eq!(sweep_all(&mut writer.store).await, 0, "no snapshot yet");
    writer.snapshot().await;
    writer.write_numbered(3_000).await;
    assert!(writer.store.keep_from(slot_at(5_000)).await.unwrap());
    assert_eq!(sweep_all(&mut writer.store).await, 3_000);
    assert!(is_trimmed(&writer.log.page(slot_at(4_999), slot_at(6_000)).await));
    let copy = crashed(directory.path());
    let mut found = TestWriter::open(copy.path()).await;
    assert_eq!(found.progress.latest(), writer.progress.latest());
    assert_eq!(found.log.from(), slot_at(5_000));
    found.snapshot().await;
    assert_eq!(sweep_all(&mut found.store).await, 2_000);
}
