//! Files of snapshots: whole or refused, checked, and removed without a record.

use paxos_common::{
    paxos::quorum::Configuration,
    snapshot::{SnapshotError, SnapshotSummary, encoder::SnapshotEncoder},
    wire::snapshot::SnapshotHeader,
};
use paxos_test_values::{acceptor, cluster_of_one, slot, snapshot_file};

use super::{incoming::ArrivedFile, *};
use crate::store::snapshots::KeptSnapshot;

/// Free space left by uploads.
const LEFT_FREE: u64 = 1024 * 1024;

fn configuration() -> Configuration {
    cluster_of_one(acceptor(1))
}

/// A file of at least this length in bytes, with its identity.
fn file(to: u64, bytes: usize) -> (SnapshotId, Vec<u8>) {
    let (summary, content) = snapshot_file(&configuration(), slot(to), bytes);
    let id = SnapshotId {
        to: summary.header.to,
        sha256: summary.sha256,
        bytes: summary.bytes,
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
    let cluster = configuration().cluster_id();
    IncomingSnapshot::begin(Arc::clone(files), (cluster, id), place, LEFT_FREE).await
}

async fn sent(
    files: &Arc<SnapshotFiles>,
    id: SnapshotId,
    content: &[u8],
) -> Result<ArrivedFile, UploadError> {
    let mut incoming = begin(files, id).await?;
    for part in content.chunks(PART_BYTES_MAX) {
        if let Err(error) = incoming.write(part, LEFT_FREE).await {
            incoming.abandon().await;
            return Err(error);
        }
    }
    incoming.finish(&KeptSnapshots::default()).await
}

#[tokio::test]
async fn whole_file_is_sound_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    for bytes in [1, 1000, PART_BYTES_MAX, PART_BYTES_MAX + 31, 5 * 1024 * 1024] {
        let (id, content) = file(bytes as u64, bytes);
        let arrived = sent(&files, id, &content).await.unwrap();
        assert!(files.place().is_none(), "the place is taken until the record");
        drop(arrived);
        assert_eq!(std::fs::read(files.path(id)).unwrap(), content);
        assert!(files.check(id, || true).await.unwrap());
        assert_eq!((files.damaged(), files.arriving()), (vec![], None));
        files.remove(id, &KeptSnapshots::default()).await;
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
        matches!(cut, UploadError::Cut { received, bytes } if received == id.bytes - 1 && bytes == id.bytes),
        "{cut}"
    );
    let long = [&content[..], b"x"].concat();
    assert!(matches!(
        sent(&files, id, &long).await,
        Err(UploadError::TooLong { .. })
    ));
    // A wrong byte in the magic, the header, a register, the footer and the hash at the end.
    let len = content.len();
    for at in [0, 20, 1000, len / 2, len - 33, len - 32, len - 1] {
        let mut wrong = content.clone();
        wrong[at] ^= 1;
        let refused = sent(&files, id, &wrong).await;
        assert!(
            matches!(refused, Err(UploadError::Content(_))),
            "byte {at}: {refused:?}"
        );
    }
    // Another name for the same bytes.
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
async fn check_of_a_damaged_file_does_not_condemn_the_file_that_arrives_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (id, content) = file(7, 8 * PART_BYTES_MAX);
    let mut damaged = content.clone();
    damaged[content.len() - 100] ^= 1;
    std::fs::write(directory.path().join(id.file_name()), damaged).unwrap();
    let files = open(&directory, &[id]);
    let mut check = std::pin::pin!(files.check(id, || true));
    let is_open = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let target = |entry: io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
        open.filter_map(target).any(|target| target == files.path(id))
    };
    // The pace makes the check last for a while.
    while !is_open() {
        let ended = tokio::time::timeout(Duration::from_millis(1), &mut check).await;
        assert!(
            ended.is_err(),
            "the check has ended before the file was seen open"
        );
    }
    std::fs::rename(
        {
            let whole = directory.path().join("whole");
            std::fs::write(&whole, &content).unwrap();
            whole
        },
        files.path(id),
    )
    .unwrap();
    files.arrived.fetch_add(1, Ordering::Release);
    files.found(id, true);
    assert!(check.await.unwrap());
    assert_eq!(files.damaged(), []);
}

#[tokio::test]
async fn result_of_a_check_counts_only_for_a_file_that_nothing_has_replaced_or_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (id, content) = file(7, 4000);
    let files = open(&directory, &[]);
    // The damaged file has been read. Before the result is recorded, a sound file arrives.
    let begun = files.arrived.load(Ordering::Acquire);
    drop(sent(&files, id, &content).await.unwrap());
    assert_eq!(files.checked(id, Ok(false), begun, || true).unwrap(), None);
    assert_eq!(files.damaged(), []);
    let begun = files.arrived.load(Ordering::Acquire);
    assert_eq!(files.checked(id, Ok(true), begun, || true).unwrap(), Some(true));
    // A file leaves the list after its record is gone. So no removal may come between the look at the records and the
    // change of the list.
    let is_recorded = || {
        assert!(files.damaged.try_lock().is_err(), "the list may change meanwhile");
        false
    };
    assert_eq!(
        files.checked(id, Ok(false), begun, is_recorded).unwrap(),
        Some(false)
    );
    assert!(!files.missing(id, is_recorded));
    assert_eq!(files.damaged(), []);
    assert!(files.missing(id, || true));
    assert_eq!(files.damaged(), [id]);
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
    incoming.write(&content[..400], LEFT_FREE).await.unwrap();
    assert_eq!(files.arriving(), Some((id, 400)));
    incoming.abandon().await;
    assert_eq!((files.arriving(), names(&directory).len()), (None, 0));
    assert!(files.place().is_some());
}

#[tokio::test]
async fn upload_counts_as_failed_unless_recorded_before_the_next_look_sees_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (id, content) = file(7, 1000);
    sent(&files, id, &content).await.unwrap().kept();
    assert_eq!(files.failures(), 0);
    let refused = sent(&files, id, &content).await.unwrap();
    refused.refused(&KeptSnapshots::default()).await;
    assert_eq!(files.failures(), 1);
    sent(&files, id, &content[..9]).await.unwrap_err();
    assert_eq!(files.failures(), 2);
    let cluster = configuration().cluster_id();
    let place = files.place().unwrap();
    let begun = IncomingSnapshot::begin(Arc::clone(&files), (cluster, id), place, u64::MAX).await;
    begun.unwrap_err();
    assert_eq!(files.failures(), 3);
    let incoming = begin(&files, id).await.unwrap();
    let arriving = files.lock_arriving();
    let dropped = std::thread::spawn(move || drop(incoming));
    let begun = Instant::now();
    while files.failures() == 3 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the end shows first");
        std::thread::yield_now();
    }
    drop(arriving);
    dropped.join().unwrap();
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
        ("snapshot-monday-0ab100ff.pxs".to_owned(), &b"x"[..]),
        ("snapshot-7-0ab100ff.pxs.old".to_owned(), &b"x"[..]),
        ("acceptor.db".to_owned(), &b"x"[..]),
    ] {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    let files = open(&directory, &[bottom]);
    assert_eq!(
        names(&directory),
        [
            "acceptor.db",
            "snapshot-1.txt",
            "snapshot-7-0ab100ff.pxs.old",
            &bottom.file_name(),
            "snapshot-monday-0ab100ff.pxs",
        ]
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
        |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 4,
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1),
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
    files.remove(bottom, &KeptSnapshots::default()).await;
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
    files.remove(id, &KeptSnapshots::default()).await;
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

#[tokio::test]
async fn refused_file_stays_if_a_record_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (waiting, content) = file(9, 4000);
    let names_it = recorded(&[file(7, 100).0, waiting]);
    let files = open(&directory, &[waiting]);
    assert_eq!(files.damaged(), [waiting], "the file is missing");
    let arrived = sent(&files, waiting, &content).await.unwrap();
    arrived.refused(&names_it).await;
    assert!(files.check(waiting, || true).await.unwrap());
    let arrived = sent(&files, waiting, &content).await.unwrap();
    arrived.refused(&recorded(&[file(7, 100).0])).await;
    assert_eq!(names(&directory), [] as [&str; 0]);
}

#[tokio::test]
async fn file_that_cannot_get_its_name_permanently_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let (id, content) = file(9, 4000);
    // A directory has the name.
    std::fs::create_dir(files.path(id)).unwrap();
    let refused = sent(&files, id, &content).await;
    assert!(matches!(refused, Err(UploadError::Io(_))), "{refused:?}");
    assert_eq!(names(&directory), [id.file_name()]);
    std::fs::remove_dir(files.path(id)).unwrap();
    // The sync of the data directory fails.
    let mut incoming = begin(&files, id).await.unwrap();
    incoming.directory = "/dev/null".into();
    incoming.write(&content[..], LEFT_FREE).await.unwrap();
    let refused = incoming.finish(&KeptSnapshots::default()).await;
    assert!(matches!(refused, Err(UploadError::Io(_))), "{refused:?}");
    assert_eq!(names(&directory), [] as [&str; 0]);
    assert!(files.place().is_some() && files.arriving().is_none());
}

#[tokio::test]
async fn foreign_snapshot_is_refused_at_its_header() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(&directory, &[]);
    let to = slot(9);
    let other = cluster_of_one(acceptor(2));
    let identity = |summary: &SnapshotSummary| SnapshotId {
        to,
        sha256: summary.sha256,
        bytes: summary.bytes,
    };
    let (summary, content) = snapshot_file(&other, to, 4000);
    let refused = sent(&files, identity(&summary), &content[..2000])
        .await
        .unwrap_err();
    assert!(
        matches!(refused, UploadError::Content(SnapshotError::OtherCluster { .. })),
        "{refused}"
    );
    let (summary, content) = snapshot_file(&configuration(), to.next(), 4000);
    let refused = sent(&files, identity(&summary), &content[..2000])
        .await
        .unwrap_err();
    assert!(matches!(refused, UploadError::End { .. }), "{refused}");
    let header = SnapshotHeader {
        configuration: other,
        ..summary.header
    };
    let mut encoder = SnapshotEncoder::new(SnapshotHeader { to, ..header });
    let begin = encoder.take();
    let refused = sent(&files, file(9, 4000).0, &begin).await.unwrap_err();
    assert!(matches!(refused, UploadError::Configuration { .. }), "{refused}");
    // The addresses of the acceptors are hints.
    let moved = Configuration::new([(acceptor(1), "http://b:2".into())], 1, 1).unwrap();
    let (summary, content) = snapshot_file(&moved, to, 4000);
    sent(&files, identity(&summary), &content).await.unwrap();
}

#[tokio::test]
async fn file_that_cannot_be_read_again_and_again_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (bottom, content) = file(7, 4000);
    let path = directory.path().join(bottom.file_name());
    std::fs::write(&path, &content).unwrap();
    let files = open(&directory, &[bottom]);
    let set_unreadable = |is_unreadable: bool| {
        if is_unreadable {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::remove_dir(&path).unwrap();
            std::fs::write(&path, &content).unwrap();
        }
    };
    for _ in 0..2 {
        set_unreadable(true);
        for _ in 1..UNREAD_MAX {
            files.check(bottom, || true).await.unwrap_err();
            assert_eq!(files.damaged(), []);
        }
        // A single sound check begins the count again.
        set_unreadable(false);
        assert!(files.check(bottom, || true).await.unwrap());
    }
    set_unreadable(true);
    for _ in 1..UNREAD_MAX {
        files.check(bottom, || true).await.unwrap_err();
    }
    assert!(!files.check(bottom, || true).await.unwrap());
    assert_eq!(files.damaged(), [bottom]);
    set_unreadable(false);
    assert!(files.check(bottom, || true).await.unwrap());
    assert_eq!(files.damaged(), []);
    // The process lacks open files: no fault of the file.
    let lacks = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
    assert!((0..9).all(|_| !files.is_damage(bottom, &lacks)));
}

#[tokio::test]
async fn file_that_cannot_be_removed_does_not_keep_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = |to| directory.path().join(file(to, 1).0.file_name());
    for to in 1..5 {
        std::fs::create_dir(path(to)).unwrap();
        std::fs::write(path(10 + to), "x").unwrap();
    }
    open(&directory, &[]);
    assert_eq!(names(&directory).len(), 4, "{:?}", names(&directory));
    assert!((1..5).all(|to| path(to).is_dir()));
}
