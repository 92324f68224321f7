//! An installed snapshot is the whole content of the file, at any moment of a crash.

use paxos_common::{
    paxos::{
        command::Opener,
        identity::AcceptorUuid,
        machine::{Outcome, Register, sessions::Recorded},
        quorum::Configuration,
        slot::Slot,
    },
    snapshot::encoder::SnapshotEncoder,
    wire::snapshot::SnapshotHeader,
};

use super::*;
use crate::{
    disk::DiskSpace,
    store::{OpenedStore, Store, Transaction},
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

fn summary(to: u64, parts: &[SnapshotPart]) -> SnapshotSummary {
    let mut encoder = SnapshotEncoder::new(SnapshotHeader {
        cluster: cluster(),
        to: Slot::new(to).unwrap(),
        log_digest: log_digest(to),
        configuration: configuration(),
    });
    for part in parts {
        match part {
            SnapshotPart::Header(_) => {}
            SnapshotPart::Register(key, register) => encoder.register(key, register).unwrap(),
            SnapshotPart::Session(name, session) => encoder.session(*name, session).unwrap(),
        }
    }
    encoder.finish().unwrap().1
}

fn data_dir(path: &Path) -> Arc<DataDir> {
    Arc::new(DataDir::open(path).unwrap())
}

async fn open(directory: &Arc<DataDir>) -> OpenedStore {
    let opened = Store::open(Arc::clone(directory), cluster(), &DiskSpace::default()).await;
    opened.unwrap()
}

async fn import(directory: &Arc<DataDir>, to: u64, fill: u8) {
    let parts = parts(fill);
    let summary = summary(to, &parts);
    let mut import = StoreImport::begin(Arc::clone(directory), cluster(), summary.bytes)
        .await
        .unwrap();
    for part in parts {
        import.add(part).await.unwrap();
    }
    import.finish(&summary).await.unwrap();
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
            changes: opened.machine.take_changes(),
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
    assert_eq!(latest.state, Some(summary(to, &expected).footer.digest));
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

/// Names of files of an installation.
fn leftovers(directory: &DataDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_left = |name: &String| name.starts_with(NEW) || name.starts_with(INSTALLED);
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
    for part in parts(1) {
        import.add(part).await.unwrap();
    }
    // As after SIGKILL: the files stay.
    drop(import);
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
    let whole = fs::read(whole.path().join("learner.db")).unwrap();

    // The moments of a crash: after the publication, and after each removal.
    for removed in 0..=2 {
        let directory = tempfile::tempdir().unwrap();
        let data = data_dir(directory.path());
        fs::write(data.file(INSTALLED), &whole).unwrap();
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
    assert!(matches!(begun, Err(ImportError::NoSpace { .. })), "{begun:?}");
    assert_eq!(leftovers(&data), [] as [String; 0]);
}
