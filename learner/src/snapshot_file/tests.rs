//! Writers beside each other: the work of a cancelled writer goes on, and changes nothing of the next writer.

use paxos_test_values::{acceptor, cluster_of_one, slot, snapshot_file};

use super::*;

fn content(to: u64) -> (SnapshotSummary, Vec<u8>) {
    snapshot_file(&cluster_of_one(acceptor(1)), slot(to), 10_000)
}

fn begin(directory: &Path) -> NewSnapshotFile {
    NewSnapshotFile::begin(directory, 0, 0).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn writer_that_was_cancelled_changes_nothing_of_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let ((first, first_bytes), (second, second_bytes)) = (content(9), content(10));
    let mut cancelled = begin(path);
    cancelled.write(&first_bytes[..5_000]).unwrap();
    let given_up = begin(path);
    let mut next = begin(path);
    next.write(&second_bytes[..5_000]).unwrap();
    drop(given_up);
    cancelled.write(&first_bytes[5_000..]).unwrap();
    let (cancelled, unrecorded) = cancelled.publish(first).unwrap();
    unrecorded.keep();
    next.write(&second_bytes[5_000..]).unwrap();
    let (next, unrecorded) = next.publish(second).unwrap();
    unrecorded.keep();
    assert!(fs::read(cancelled.path()).unwrap() == first_bytes);
    assert!(fs::read(next.path()).unwrap() == second_bytes);
    assert!(cancelled.is_in_place() && next.is_in_place());
    let mut expected = [&cancelled, &next].map(|file| RecordedSnapshot::of(&file.summary).name());
    expected.sort();
    assert_eq!(names(path), expected);
}

#[test]
fn whole_file_that_no_store_records_goes_unless_the_name_was_there_before() {
    let directory = tempfile::tempdir().unwrap();
    let (summary, bytes) = content(9);
    let publish = || {
        let mut file = begin(directory.path());
        file.write(&bytes).unwrap();
        file.publish(summary.clone()).unwrap()
    };
    let (file, unrecorded) = publish();
    drop((file, unrecorded));
    assert_eq!(names(directory.path()), [] as [String; 0]);
    publish().1.keep();
    // A store records the file by now.
    let (_, unrecorded) = publish();
    drop(unrecorded);
    assert_eq!(names(directory.path()), [RecordedSnapshot::of(&summary).name()]);
}

#[test]
fn failed_publication_of_a_file_leaves_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let (summary, bytes) = content(9);
    let mut file = begin(directory.path());
    file.write(&bytes).unwrap();
    let name = RecordedSnapshot::of(&summary).name();
    fs::create_dir(directory.path().join(&name)).unwrap();
    file.publish(summary).unwrap_err();
    assert_eq!(names(directory.path()), [name]);
}

#[test]
fn file_larger_than_the_free_space_is_not_begun() {
    let directory = tempfile::tempdir().unwrap();
    let begun = NewSnapshotFile::begin(directory.path(), u64::MAX / 2, 0);
    assert!(matches!(begun, Err(FileError::NoSpace(_))), "{begun:?}");
    assert_eq!(names(directory.path()), [] as [String; 0]);
}
