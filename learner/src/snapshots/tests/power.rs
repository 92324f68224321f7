//! Power cuts at every sync, rename and removal while a snapshot takes the place of an earlier one: the next start has a whole
//! state, never older than the last durable record.

use paxos_test_values::power_cuts::cuts_of_test;

use super::*;

/// The directory of the process with the power cuts.
const DIRECTORY: &str = "PAXOS_TEST_SNAPSHOT_IN";
/// The ends of the first snapshot, of the second, and of the log.
const FIRST: u64 = 40;
const SECOND: u64 = 80;
const END: u64 = 100;

/// The digests of the state at the end of each transaction.
async fn first(directory: PathBuf) -> BTreeMap<Slot, StateDigest> {
    let (mut disk, mut maker) = Disk::open(directory, None).await;
    disk.write(FIRST, 10).await;
    maker.make(None).await.unwrap();
    let digests = disk.digests.clone();
    disk.close().await;
    digests
}

async fn second(directory: PathBuf) -> BTreeMap<Slot, StateDigest> {
    let (mut disk, mut maker) = Disk::open(directory, None).await;
    disk.write(SECOND - FIRST, 10).await;
    maker.make(None).await.unwrap();
    disk.write(END - SECOND, 10).await;
    let digests = disk.digests.clone();
    disk.close().await;
    digests
}

/// The process with the power cuts.
#[tokio::test]
#[ignore = "the test of power cuts runs this test as a process"]
async fn snapshot_of_another_process() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        second(path.into()).await;
    }
}

#[tokio::test]
async fn power_cut_at_any_moment_of_a_snapshot_leaves_a_whole_state() {
    let directory = tempfile::tempdir().unwrap();
    first(directory.path().to_owned()).await;
    let process = "snapshots::tests::power::snapshot_of_another_process";
    let Some((cuts, moments)) = cuts_of_test(process, DIRECTORY, directory.path()) else {
        return;
    };
    // The same commands without power cuts.
    let same = tempfile::tempdir().unwrap();
    let mut digests = first(same.path().to_owned()).await;
    digests.extend(second(same.path().to_owned()).await);
    let ends = [FIRST, SECOND, END].map(slot);
    let mut found = BTreeMap::new();
    for cut in &cuts {
        let directory = tempfile::tempdir().unwrap();
        cut.write_to(directory.path());
        let opened = open(directory.path(), cluster()).await.unwrap();
        let to = opened.progress.applied_to();
        assert!(ends.contains(&to), "{}: a state to slot {to}", cut.what);
        assert_eq!(opened.machine.digest(), digests[&to], "{}", cut.what);
        // The record of the second snapshot was durable before the process went on.
        assert!(
            cut.moment < moments || to >= slot(SECOND),
            "{}: an ended snapshot is lost",
            cut.what
        );
        *found.entry(to.get()).or_insert(0) += 1;
        opened.close().await;
        let entries = fs::read_dir(directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.filter(|name| !name.starts_with("learner.db-")).collect();
        assert_eq!(names.len(), 3, "{}: {names:?}", cut.what);
    }
    println!("{} power cuts: {found:?}", cuts.len());
    assert!(cuts.len() > 10 && found.len() > 1, "{found:?}");
}
