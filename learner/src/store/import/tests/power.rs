//! Power cuts at every sync, rename and removal of an installation: the next start has the old state or the new state, whole,
//! and an installation that was lost is begun again.

use paxos_test_values::power_cuts::{PowerCut, cuts_of_test};

use super::*;

/// The directory of the process that installs.
const DIRECTORY: &str = "PAXOS_TEST_INSTALL_INTO";
/// The end of the old state, and of the snapshot.
const OLD_TO: u64 = 40;
const NEW_TO: u64 = 1_600;
const REGISTERS: usize = 20;

/// A state of few registers, so that a test can have many states.
fn small() -> Vec<SnapshotPart> {
    let parts = parts(1);
    let (first, session) = (parts[..REGISTERS].iter(), parts.last());
    first.chain(session).cloned().collect()
}

/// The process with the power cuts.
#[tokio::test]
#[ignore = "the tests of power cuts run this test as a process"]
async fn installation_of_another_process() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        install(&data_dir(Path::new(&path))).await;
    }
}

async fn install(data: &Arc<DataDir>) {
    import_parts(data, NEW_TO, &small()).await;
}

/// Runs an installation over the files of `prepare` as a process; returns the directories after all power cuts, and the stop
/// from which on the installation has ended.
fn cuts(prepare: impl Fn(&Path)) -> Option<(Vec<PowerCut>, usize)> {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let process = "store::import::tests::power::installation_of_another_process";
    let (cuts, moments) = cuts_of_test(process, DIRECTORY, directory.path())?;
    assert!(moments > 8, "{moments} stops");
    Some((cuts, moments))
}

/// The end of the state that the next start finds, whole.
async fn found(directory: &Arc<DataDir>) -> u64 {
    let opened = open(directory).await;
    let (to, latest) = (opened.progress.applied_to(), opened.progress.latest());
    if to.get() == NEW_TO {
        let expected = file(NEW_TO, &small()).1.footer.digest;
        assert_eq!(
            (latest.state, opened.machine.digest()),
            (Some(expected), expected)
        );
        assert_eq!(opened.machine.register_count(), REGISTERS);
    } else {
        assert_eq!(opened.machine.register_count(), 0);
    }
    opened.close().await;
    to.get()
}

/// Judges every power cut over the files of `prepare`.
async fn judge(prepare: impl Fn(&Path)) {
    let Some((cuts, ended)) = cuts(prepare) else {
        return;
    };
    let (mut old, mut new) = (0, 0);
    for cut in &cuts {
        let directory = tempfile::tempdir().unwrap();
        cut.write_to(directory.path());
        let data = data_dir(directory.path());
        let to = found(&data).await;
        assert!(!data.file("learner.db.damaged").exists(), "{}: damage", cut.what);
        match to {
            OLD_TO => {
                old += 1;
                assert!(cut.moment < ended, "{}: an ended installation is lost", cut.what);
                install(&data).await;
                assert_eq!(found(&data).await, NEW_TO, "{}: begun again", cut.what);
            }
            NEW_TO => new += 1,
            other => panic!("{}: a state to slot {other}", cut.what),
        }
        assert_eq!(leftovers(&data), [] as [String; 0], "{}", cut.what);
    }
    println!(
        "{} power cuts: {old} leave the old state, {new} the new",
        cuts.len()
    );
    assert!(old > 5 && new > 0, "{old} {new}");
}

/// The files of a learner with an old state: stopped, or killed with its last commits in the write-ahead log.
async fn old_files(is_killed: bool) -> Vec<(String, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    let mut opened = open(&data).await;
    write(&mut opened, OLD_TO).await;
    let read = |name: &str| {
        let content = fs::read(directory.path().join(name)).ok()?;
        Some((name.to_owned(), content))
    };
    let names = ["learner.db", "learner.db-wal"];
    if is_killed {
        let files: Vec<_> = names.iter().filter_map(|name| read(name)).collect();
        assert!(files[1].1.len() > 10_000);
        return files;
    }
    opened.close().await;
    names.iter().filter_map(|name| read(name)).collect()
}

#[tokio::test]
async fn power_cut_at_any_moment_of_an_installation_leaves_the_old_or_the_new_state() {
    for is_killed in [false, true] {
        let files = old_files(is_killed).await;
        judge(|directory| {
            for (name, content) in &files {
                fs::write(directory.join(name), content).unwrap();
            }
        })
        .await;
    }
}

#[tokio::test]
async fn power_cut_while_an_installation_goes_on_after_a_power_cut_leaves_the_new_state() {
    // A whole file on its way, and the old file with a write-ahead log.
    let whole = tempfile::tempdir().unwrap();
    install(&data_dir(whole.path())).await;
    let whole = NewFiles::read(whole.path());
    let old = old_files(true).await;
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in &old {
        fs::write(directory.path().join(name), content).unwrap();
    }
    whole.write_to(directory.path());
    let process = "store::import::tests::power::start_of_another_process";
    let Some((cuts, _)) = cuts_of_test(process, DIRECTORY, directory.path()) else {
        return;
    };
    assert!(cuts.len() > 5, "{}", cuts.len());
    for cut in cuts {
        let directory = tempfile::tempdir().unwrap();
        cut.write_to(directory.path());
        assert_eq!(found(&data_dir(directory.path())).await, NEW_TO, "{}", cut.what);
    }
}

/// The process of the test above.
#[tokio::test]
#[ignore = "the tests of power cuts run this test as a process"]
async fn start_of_another_process() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        open(&data_dir(Path::new(&path))).await.close().await;
    }
}
