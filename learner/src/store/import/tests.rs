//! An installed snapshot is the whole content of the file, at any moment of a crash.

use std::{fs, path::Path};

use paxos_common::{
    paxos::{
        command::Opener,
        identity::AcceptorUuid,
        machine::{
            Outcome, Register,
            sessions::{Recorded, SessionState},
        },
        quorum::Configuration,
        slot::{Slot, Version},
    },
    snapshot::{decoder::SnapshotPart, encoder::SnapshotEncoder},
    wire::snapshot::SnapshotHeader,
};
use rustix::fs::statvfs;

use super::*;
use crate::store::{
    OpenedStore, Transaction,
    place::{INSTALLED, NEW},
    testing,
};

mod power;

fn configuration() -> Configuration {
    let members = [(AcceptorUuid::from_u128(1), "http://a:1".into())];
    Configuration::new(members, 1, 1).unwrap()
}

fn cluster() -> ClusterId {
    configuration().cluster_id()
}

fn at(slot: u64) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset: 3,
    }
}

/// A state of registers with `fill` in the values, and a session, in the order of a snapshot.
fn parts(fill: u8) -> Vec<SnapshotPart> {
    let register = |number: u64| {
        let value = vec![fill; 2_000].into();
        let version = at(number);
        SnapshotPart::Register(format!("key {number:04}").into(), Register { value, version })
    };
    let recorded = Recorded {
        version: at(9),
        outcome: Outcome::ConditionFailed { current: Some(at(8)) },
    };
    let session = SessionState {
        opener: Some(Opener::from_bytes([fill; 16])),
        last_used: at(9),
        acked_below: 2,
        recorded: [(5, recorded)].into(),
    };
    (0..1_500)
        .map(register)
        .chain([SnapshotPart::Session(at(7), session)])
        .collect()
}

/// The digest of the log below `to`.
fn log_digest(to: u64) -> [u8; 32] {
    [to.to_le_bytes()[0]; 32]
}

/// The file of a snapshot.
fn file(to: u64, parts: &[SnapshotPart]) -> (Bytes, SnapshotSummary) {
    file_in(to, parts, &configuration())
}

/// The file of a snapshot that was made with this configuration.
fn file_in(to: u64, parts: &[SnapshotPart], configuration: &Configuration) -> (Bytes, SnapshotSummary) {
    let mut encoder = SnapshotEncoder::new(SnapshotHeader {
        cluster: cluster(),
        to: Slot::new(to).unwrap(),
        log_digest: log_digest(to),
        configuration: configuration.clone(),
    });
    for part in parts {
        match part {
            SnapshotPart::Header(_) => {}
            SnapshotPart::Register(key, register) => encoder.register(key, register).unwrap(),
            SnapshotPart::Session(name, session) => encoder.session(*name, session).unwrap(),
        }
    }
    let first = encoder.take();
    let (last, summary) = encoder.finish().unwrap();
    ([first, last].concat().into(), summary)
}

fn data_dir(path: &Path) -> Arc<DataDir> {
    testing::lock(path)
}

async fn open(directory: &Arc<DataDir>) -> OpenedStore {
    testing::open_in(Arc::clone(directory), cluster()).await.unwrap()
}

async fn import(directory: &Arc<DataDir>, to: u64, fill: u8) {
    import_parts(directory, to, &parts(fill)).await;
}

async fn import_parts(directory: &Arc<DataDir>, to: u64, parts: &[SnapshotPart]) {
    let (content, summary) = file(to, parts);
    let mut import = StoreImport::begin(Arc::clone(directory), cluster(), summary.bytes)
        .await
        .unwrap();
    for part in content.chunks(100_000) {
        import.add(content.slice_ref(part)).await.unwrap();
    }
    import.finish(&summary, &Arc::new(configuration())).await.unwrap();
}

/// Writes `slots` empty slots.
async fn write(opened: &mut OpenedStore, slots: u64) {
    let from = opened.progress.applied_to();
    for slot in from.to(from.plus(slots)) {
        let value = paxos_common::paxos::value::Value::from_stored(Bytes::new(), Bytes::new());
        opened.machine.apply(slot, &[]);
        let mark = opened.progress.pass(slot, &value, Some(opened.machine.digest()));
        let transaction = Transaction {
            records: vec![Arc::new(crate::record::Record {
                slot,
                value,
                commands: Vec::new(),
                judgements: Vec::new(),
            })],
            marks: mark.into_iter().collect(),
            progress: opened.progress.clone(),
            configuration: Arc::new(configuration()),
        };
        opened.store.write(&transaction).await.unwrap();
    }
}

/// Checks that the file has the state of [`import`], and the log from there on.
async fn holds(directory: &Arc<DataDir>, to: u64, fill: u8) {
    let mut opened = open(directory).await;
    let (to_slot, expected) = (Slot::new(to).unwrap(), parts(fill));
    let latest = opened.progress.latest();
    assert_eq!((latest.to, opened.log.from()), (to_slot, to_slot));
    assert_eq!(latest.digest.as_bytes(), &log_digest(to));
    assert_eq!(latest.state, Some(file(to, &expected).1.footer.digest));
    for part in &expected {
        match part {
            SnapshotPart::Header(_) => {}
            SnapshotPart::Register(key, register) => {
                let held = opened.machine.register(key).unwrap();
                assert_eq!(held.shared(), (key.clone(), register.clone()));
            }
            SnapshotPart::Session(name, session) => {
                assert_eq!(opened.machine.sessions().get(*name), Some(session));
            }
        }
    }
    assert_eq!(opened.machine.register_count(), 1_500);
    // The log goes on from there, also after a restart.
    write(&mut opened, 3).await;
    opened.close().await;
    let opened = open(directory).await;
    assert_eq!(opened.progress.applied_to(), to_slot.plus(3));
    assert_eq!(opened.log.page(to_slot, to_slot.plus(3)).await.unwrap().len(), 3);
    opened.close().await;
    assert_eq!(leftovers(directory), [] as [String; 0]);
}

/// The files of an installed snapshot, before the new file takes the place of the old file.
struct NewFiles {
    store: Vec<u8>,
    snapshot: (String, Vec<u8>),
}

impl NewFiles {
    /// The files of a learner that has installed a snapshot.
    fn read(directory: &Path) -> Self {
        let entries = fs::read_dir(directory).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let snapshot = names.find(|name| name.ends_with(".pxs")).unwrap();
        let read = |name: &str| fs::read(directory.join(name)).unwrap();
        Self {
            store: read("learner.db"),
            snapshot: (snapshot.clone(), read(&snapshot)),
        }
    }

    fn write_to(&self, directory: &Path) {
        fs::write(directory.join(INSTALLED), &self.store).unwrap();
        fs::write(directory.join(&self.snapshot.0), &self.snapshot.1).unwrap();
    }
}

/// Names of files of an installation.
fn leftovers(directory: &DataDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_left = |name: &String| {
        [NEW, INSTALLED, "making"]
            .iter()
            .any(|begin| name.starts_with(begin))
    };
    names.filter(is_left).collect()
}

#[tokio::test]
async fn installed_state_is_the_snapshot_with_the_openers_of_sessions() {
    // With and without a kept mark of the end.
    for to in [1_500, 2_048] {
        let directory = tempfile::tempdir().unwrap();
        let data = data_dir(directory.path());
        import(&data, to, 1).await;
        holds(&data, to, 1).await;
    }
}

#[tokio::test]
async fn new_file_begins_with_the_later_configuration() {
    let first = configuration();
    let second = testing::next_configuration(&first);
    let cases = [(&first, &second), (&second, &first), (&second, &second)];
    for (in_snapshot, present) in cases {
        let directory = tempfile::tempdir().unwrap();
        let data = data_dir(directory.path());
        let (content, summary) = file_in(1_600, &parts(1), in_snapshot);
        let begun = StoreImport::begin(Arc::clone(&data), cluster(), summary.bytes).await;
        let mut import = begun.unwrap();
        import.add(content).await.unwrap();
        import.finish(&summary, &Arc::new(present.clone())).await.unwrap();
        let opened = open(&data).await;
        assert_eq!(opened.configuration.as_deref(), Some(&second));
        opened.close().await;
    }
}

#[tokio::test]
async fn snapshot_takes_the_place_of_an_older_state_and_of_an_older_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    let mut opened = open(&data).await;
    write(&mut opened, 40).await;
    opened.close().await;
    import(&data, 1_600, 1).await;
    import(&data, 1_700, 2).await;
    holds(&data, 1_700, 2).await;
}

#[tokio::test]
async fn cut_off_installation_leaves_the_old_state() {
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    let mut opened = open(&data).await;
    write(&mut opened, 40).await;
    opened.close().await;
    let mut import = StoreImport::begin(Arc::clone(&data), cluster(), 100)
        .await
        .unwrap();
    import.add(file(1_600, &parts(1)).0).await.unwrap();
    // As after SIGKILL: the files stay.
    std::mem::forget(import);
    assert!(!leftovers(&data).is_empty());
    let opened = open(&data).await;
    assert_eq!(opened.progress.applied_to(), Slot::new(40).unwrap());
    opened.close().await;
    assert_eq!(leftovers(&data), [] as [String; 0]);
    let import = StoreImport::begin(Arc::clone(&data), cluster(), 100)
        .await
        .unwrap();
    import.discard().await;
    assert_eq!(leftovers(&data), [] as [String; 0]);
}

/// The snapshot files of a learner.
fn snapshots(directory: &DataDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pxs")).collect()
}

#[tokio::test]
async fn failed_installation_leaves_no_snapshot_that_no_store_records() {
    // Before the new file has the place of the old file, and afterwards.
    for (in_the_way, is_installed) in [(NEW, false), ("learner.db-journal", true)] {
        let directory = tempfile::tempdir().unwrap();
        let data = data_dir(directory.path());
        fs::create_dir(data.file(in_the_way)).unwrap();
        let (content, summary) = file(1_600, &parts(1));
        let begun = StoreImport::begin(Arc::clone(&data), cluster(), summary.bytes);
        let mut import = begun.await.unwrap();
        import.add(content).await.unwrap();
        import
            .finish(&summary, &Arc::new(configuration()))
            .await
            .unwrap_err();
        assert_eq!(data.file(INSTALLED).exists(), is_installed);
        let left = usize::from(is_installed);
        assert_eq!(snapshots(&data).len(), left, "{:?}", snapshots(&data));
        fs::remove_dir(data.file(in_the_way)).unwrap();
        if is_installed {
            holds(&data, 1_600, 1).await;
        }
    }
}

#[tokio::test]
async fn failed_repetition_of_an_installation_leaves_the_snapshot_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    import(&data, 1_600, 1).await;
    let recorded = snapshots(&data);
    fs::create_dir(data.file(NEW)).unwrap();
    let (content, summary) = file(1_600, &parts(1));
    let begun = StoreImport::begin(Arc::clone(&data), cluster(), summary.bytes);
    let mut import = begun.await.unwrap();
    import.add(content).await.unwrap();
    import
        .finish(&summary, &Arc::new(configuration()))
        .await
        .unwrap_err();
    assert_eq!(snapshots(&data), recorded);
    fs::remove_dir(data.file(NEW)).unwrap();
    holds(&data, 1_600, 1).await;
}

#[tokio::test]
async fn write_ahead_log_of_the_old_file_never_reaches_the_new_file() {
    // The old file as after SIGKILL: its last commits are in the write-ahead log.
    let killed = tempfile::tempdir().unwrap();
    let data = data_dir(killed.path());
    let mut opened = open(&data).await;
    write(&mut opened, 40).await;
    let names = ["learner.db", "learner.db-wal"];
    let old = names.map(|name| fs::read(killed.path().join(name)).unwrap());
    assert!(old[1].len() > 10_000, "{}", old[1].len());
    // A whole file on its way.
    let whole = tempfile::tempdir().unwrap();
    import(&data_dir(whole.path()), 1_600, 1).await;
    let whole = NewFiles::read(whole.path());

    // The moments of a crash: after the publication, and after each removal.
    for removed in 0..=2 {
        let directory = tempfile::tempdir().unwrap();
        let data = data_dir(directory.path());
        whole.write_to(directory.path());
        fs::write(data.file("DAMAGED"), "").unwrap();
        if removed < 2 {
            fs::write(data.file(names[0]), &old[0]).unwrap();
        }
        if removed < 1 {
            fs::write(data.file(names[1]), &old[1]).unwrap();
        }
        holds(&data, 1_600, 1).await;
        assert!(!data.file("DAMAGED").exists() && !data.file("learner.db.damaged").exists());
    }

    // An installation over such a file.
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    for (name, content) in names.iter().zip(&old) {
        fs::write(data.file(name), content).unwrap();
    }
    import(&data, 1_600, 1).await;
    holds(&data, 1_600, 1).await;
}

#[tokio::test]
async fn snapshot_larger_than_the_free_space_is_refused_before_the_first_byte() {
    let directory = tempfile::tempdir().unwrap();
    let data = data_dir(directory.path());
    let found = statvfs(directory.path()).unwrap();
    let free = found.f_bavail * found.f_frsize;
    let begun = StoreImport::begin(Arc::clone(&data), cluster(), free).await;
    assert!(matches!(begun, Err(PlaceError::NoSpace { .. })), "{begun:?}");
    assert_eq!(leftovers(&data), [] as [String; 0]);
}
