//! Files of snapshots: whole or refused, checked, and removed without a record.

use paxos_common::paxos::slot::Slot;

use super::{incoming::ArrivedFile, *};
use crate::store::snapshots::KeptSnapshot;

/// A file of this length in bytes, with its identity.
fn file(to: u64, bytes: usize) -> (SnapshotId, Vec<u8>) {
    let mut content: Vec<u8> = (0..bytes - SHA256_BYTES)
        .map(|at| u8::try_from((at as u64 * 31 + to) % 251).unwrap())
        .collect();
    let sha256: [u8; SHA256_BYTES] = Sha256::digest(&content).into();
    content.extend(sha256);
    let id = SnapshotId {
        to: Slot::new(to).unwrap(),
        sha256,
        bytes: bytes as u64,
    };
    (id, content)
}

fn recorded(ids: &[SnapshotId]) -> KeptSnapshots {
    let mut kept = ids.iter().map(|&id| KeptSnapshot { id, log_bytes: 0 });
    KeptSnapshots {
        bottom: kept.next(),
        waiting: kept.next(),
    }
}

fn open(directory: &tempfile::TempDir, ids: &[SnapshotId]) -> Arc<SnapshotFiles> {
    Arc::new(SnapshotFiles::open(directory.path(), &recorded(ids)))
}

/// The names of all files of a directory.
fn names(directory: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn begin(files: &Arc<SnapshotFiles>, id: SnapshotId) -> Result<IncomingSnapshot, UploadError> {
    let place = files.place().expect("no other snapshot arrives");
    IncomingSnapshot::begin(Arc::clone(files), id, place).await
}

async fn sent(
    files: &Arc<SnapshotFiles>,
    id: SnapshotId,
    content: &[u8],
) -> Result<ArrivedFile, UploadError> {
    let mut incoming = begin(files, id).await?;
    for part in content.chunks(PART_BYTES_MAX) {
        if let Err(error) = incoming.write(part).await {
            incoming.abandon().await;
            return Err(error);
        }
    }
    incoming.finish().await
}

#[tokio::test]
async fn whole_file_is_sound_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    for bytes in [33, 1000, PART_BYTES_MAX, PART_BYTES_MAX + 31, 5 * 1024 * 1024] {
        let (id, content) = file(bytes as u64, bytes);
        let arrived = sent(&files, id, &content).await.unwrap();
        assert!(files.place().is_none(), "the place is taken until the record");
        drop(arrived);
        assert_eq!(std::fs::read(files.path(id)).unwrap(), content);
        assert!(files.check(id, || true).await.unwrap());
        assert_eq!((files.damaged(), files.arriving()), (vec![], None));
        files.remove(id).await;
    }
    assert_eq!(names(&directory), [] as [&str; 0]);
}

#[tokio::test]
async fn file_that_is_cut_too_long_or_wrong_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (id, content) = file(7, 300_000);
    let cut = sent(&files, id, &content[..content.len() - 1]).await.unwrap_err();
    assert!(
        matches!(
            cut,
            UploadError::Cut {
                received: 299_999,
                bytes: 300_000
            }
        ),
        "{cut}"
    );
    let long = [&content[..], b"x"].concat();
    assert!(matches!(
        sent(&files, id, &long).await,
        Err(UploadError::TooLong { .. })
    ));
    // A wrong byte in the content, and in the hash at the end; another name for the same bytes.
    for at in [0, 299_967, 299_968, 299_999] {
        let mut wrong = content.clone();
        wrong[at] ^= 1;
        assert!(
            matches!(sent(&files, id, &wrong).await, Err(UploadError::Hash)),
            "byte {at}"
        );
    }
    let mut other = id;
    other.sha256[5] ^= 1;
    assert!(matches!(
        sent(&files, other, &content).await,
        Err(UploadError::Hash)
    ));
    assert_eq!(names(&directory), [] as [&str; 0]);
    assert_eq!(files.arriving(), None);
    assert!(files.place().is_some());
}

#[tokio::test]
async fn file_without_space_on_the_disk_is_refused_before_the_first_byte() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (mut id, _) = file(7, 300);
    id.bytes = u64::MAX >> 1;
    assert!(matches!(
        begin(&files, id).await,
        Err(UploadError::NoSpace { .. })
    ));
    assert_eq!(names(&directory), [] as [&str; 0]);
    assert!(files.place().is_some());
}

#[tokio::test]
async fn one_snapshot_arrives_at_a_time_and_its_progress_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (id, content) = file(7, 1000);
    let mut incoming = begin(&files, id).await.unwrap();
    assert!(files.place().is_none());
    incoming.write(&content[..400]).await.unwrap();
    assert_eq!(files.arriving(), Some((id, 400)));
    incoming.abandon().await;
    assert_eq!((files.arriving(), names(&directory).len()), (None, 0));
    assert!(files.place().is_some());
}

#[tokio::test]
async fn start_removes_files_without_a_record_and_no_other_file() {
    let directory = tempfile::tempdir().unwrap();
    let (bottom, content) = file(7, 400);
    let (unused, _) = file(5, 400);
    for (name, bytes) in [
        (bottom.file_name(), &content[..]),
        (unused.file_name(), &b"x"[..]),
        (INCOMING.to_owned(), &b"x"[..]),
        ("snapshot-1.txt".to_owned(), &b"x"[..]),
        ("acceptor.db".to_owned(), &b"x"[..]),
    ] {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    let files = open(&directory, &[bottom]);
    assert_eq!(
        names(&directory),
        ["acceptor.db", "snapshot-1.txt", &bottom.file_name()]
    );
    assert!(files.damaged().is_empty());
    assert!(files.check(bottom, || true).await.unwrap());
}

#[tokio::test]
async fn missing_and_wrong_files_are_damaged_until_a_sound_file_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let (bottom, content) = file(7, 4000);
    let (waiting, _) = file(9, 4000);
    let files = open(&directory, &[bottom, waiting]);
    assert_eq!(files.damaged_of(&recorded(&[bottom, waiting])), [bottom, waiting]);
    drop(sent(&files, bottom, &content).await.unwrap());
    assert_eq!(files.damaged_of(&recorded(&[bottom, waiting])), [waiting]);
    assert!(files.read(bottom).await.unwrap().is_some());
    // Each kind of damage to a file of the right name.
    for damage in [
        |bytes: &mut Vec<u8>| bytes[100] ^= 4,
        |bytes: &mut Vec<u8>| bytes[3999] ^= 4,
        |bytes: &mut Vec<u8>| bytes.truncate(3999),
        |bytes: &mut Vec<u8>| bytes.push(0),
    ] {
        let mut damaged = content.clone();
        damage(&mut damaged);
        std::fs::write(files.path(bottom), &damaged).unwrap();
        assert!(!files.check(bottom, || true).await.unwrap());
        assert!(files.damaged().contains(&bottom));
        assert!(
            files.read(bottom).await.unwrap().is_none(),
            "no caller gets a damaged file"
        );
        std::fs::write(files.path(bottom), &content).unwrap();
        assert!(files.check(bottom, || true).await.unwrap());
        assert!(!files.damaged().contains(&bottom));
    }
    // A file removed after a trim is no damage.
    files.remove(bottom).await;
    assert!(!files.check(bottom, || false).await.unwrap());
    assert!(!files.damaged().contains(&bottom));
}

#[tokio::test]
async fn open_file_is_read_to_its_end_after_a_removal() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (id, content) = file(7, 9000);
    drop(sent(&files, id, &content).await.unwrap());
    let mut open = files.read(id).await.unwrap().unwrap();
    files.remove(id).await;
    let mut read = Vec::new();
    open.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, content);
    assert_eq!(files.read(id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn pace_is_32_mebibytes_a_second_without_bursts() {
    let begun = Instant::now();
    let mut pace = Pace::new();
    for _ in 0..128 {
        pace.wait(PART_BYTES_MAX).await;
    }
    let took = begun.elapsed();
    assert!((0.99..1.2).contains(&took.as_secs_f64()), "{took:?}");
    tokio::time::sleep(Duration::from_secs(9)).await;
    let begun = Instant::now();
    for _ in 0..128 {
        pace.wait(PART_BYTES_MAX).await;
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(990),
        "a pause is no credit"
    );
}
